//! Uploads of activations: as JSON, and as a safetensors file with the rest in the query.

use std::collections::BTreeMap;

use mediant::http::binary;
use mediant::lower;
use mediant::spec::Declared;
use mediant::spec::activation::UploadSpec;
use mediant::spec::problem::Problems;

use crate::choose;
use crate::json::{told, value};
use crate::served::facts;

/// A query as the server lets it in: known names, each once.
fn query(text: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(text);
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    let known = |name: &str| {
        name == "tensor" || UploadSpec::FIELDS.contains(&name) && !["values", "mean_of"].contains(&name)
    };
    pairs.filter(|(name, _)| known(name)).map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
}

pub(crate) fn run(data: &[u8]) {
    let (form, body) = choose(data);
    let spec = if form % 2 == 0 {
        let Some(value) = value(body) else { return };
        let mut problems = Problems::default();
        let spec = UploadSpec::read(&value, &mut problems);
        problems.or(spec)
    } else {
        let end = body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len());
        let file = body.get(end + 1..).unwrap_or_default();
        match binary(&query(&body[..end]), file) {
            Ok(spec) => Ok(spec),
            Err(problem) => {
                assert!(!problem.errors.is_empty(), "{problem:?}");
                return;
            }
        }
    };
    let facts = facts();
    // Of a mean the numbers are computed first.
    let stored = spec.and_then(|spec| match spec.mean_of {
        Some(_) => lower::check_mean(&spec, &facts),
        None => lower::upload(spec, &facts).map(|draft| {
            assert_eq!(draft.values.len(), draft.shape.iter().product::<usize>());
            assert!(draft.values.iter().all(|number| number.is_finite()));
        }),
    });
    if let Err(problems) = stored {
        told(problems);
    }
}
