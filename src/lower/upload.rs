//! Uploaded activations to what is stored, every shape checked.

use std::collections::HashSet;

use super::facts::Facts;
use super::select;
use crate::activations::{Draft, HeadLayout, Mean, Origin};
use crate::spec::activation::{Prompts, UploadSpec};
use crate::spec::dtype::Dtype;
use crate::spec::problem::{Problems, code};
use crate::spec::read::did_you_mean;
use crate::spec::site::Site;

/// What is wrong with a mean that is to be computed, as far as its prompts are not needed to know it.
pub fn check_mean(spec: &UploadSpec, facts: &dyn Facts) -> Result<(), Problems> {
    let mut out = Problems::default();
    if let Some(detail) = unusable(spec.site) {
        out.push(
            "/site",
            code::NOT_SUPPORTED,
            detail,
            "average a site that can be written, as resid_post or z",
        );
    }
    let most = facts.limits().cases;
    for prompts in spec.mean_of.iter().flat_map(|mean| [Some(&mean.dataset), mean.minus.as_ref()]).flatten() {
        let n = prompts.list.len() as u64;
        if n > most {
            let detail = format!("{n} prompts, the most is {most}");
            out.push(&prompts.at, code::LIMIT, detail, "average fewer prompts at once");
        }
    }
    out.or(Some(()))
}

/// `POST /v1/activations`: checks an upload against the model served.
pub fn upload(spec: UploadSpec, facts: &dyn Facts) -> Result<Draft, Problems> {
    let mut out = Problems::default();
    if let Some(model) = spec.model.as_deref().filter(|model| !facts.answers_to(model)) {
        let detail = format!("{model:?} is not served here{}", did_you_mean(model, &[facts.model()]));
        out.push("/model", code::UNKNOWN_MODEL, detail, format!("write {:?}", facts.model()));
    }
    let shape = match spec.values.shape[..] {
        [width] => [1, 1, width],
        [layers, width] => [layers, 1, width],
        [layers, positions, width] => [layers, positions, width],
        _ => unreachable!("BUG: an upload has one to three axes"),
    };
    let wanted = facts.config().site_width(spec.site, 0);
    select::site(spec.site, facts.config(), "/site", &mut out);
    if let Some(detail) = unusable(spec.site) {
        let fix =
            "store values of a site that can be written and is as wide for every prompt, as resid_post or z";
        out.push("/site", code::NOT_SUPPORTED, detail, fix);
    } else if shape[2] != wanted {
        let detail = format!("{} numbers per position, site {} has {wanted}", shape[2], spec.site);
        out.push("/values", code::LENGTH_MISMATCH, detail, format!("give {wanted} numbers per position"));
    }
    let bytes = spec.values.data.len() as u64 * 4;
    let limits = facts.limits();
    if bytes > limits.activation_bytes {
        let detail = format!("{bytes} bytes as f32, the limit is {}", limits.activation_bytes);
        out.push("/values", code::LIMIT, detail, "store fewer layers or positions at once");
    }
    check_numbers(&spec, &mut out);
    let layers = layers(&spec, shape[0], facts, &mut out);
    check_positions(&spec, shape[1], &mut out);
    if let Some(ttl_s) = spec.ttl_s.filter(|ttl_s| *ttl_s > limits.activation_ttl_s) {
        let detail = format!("{ttl_s} s, the most is {}", limits.activation_ttl_s);
        out.push("/ttl_s", code::LIMIT, detail, "ask for less");
    }
    if let Some(name) = spec.name.as_deref().filter(|name| name.len() > 128) {
        let detail = format!("a name of {} bytes", name.len());
        out.push("/name", code::OUT_OF_RANGE, detail, "use names of 1 to 128 bytes");
    }
    let layout = facts.config().site_heads(spec.site);
    out.or(layers.ok().map(|layers| Draft {
        name: spec.name,
        model: facts.model().to_owned(),
        model_sha: facts.model_sha().to_owned(),
        site: spec.site,
        layers,
        positions: spec.positions,
        tokens: None,
        prompt_tokens: None,
        heads: layout.map(|count| HeadLayout { count, width: wanted / count }),
        shape,
        dtype: spec.dtype,
        ttl_s: spec.ttl_s,
        origin: spec.mean_of.map_or(Origin::Uploaded, |mean| {
            let count = |prompts: &Prompts| prompts.list.len() as u32;
            Origin::Mean(Mean { prompts: count(&mean.dataset), minus: mean.minus.as_ref().map(count) })
        }),
        values: spec.values.data,
    }))
}

/// Why nothing of a site can be stored for later, if so.
fn unusable(site: Site) -> Option<String> {
    if site.is_over_keys() {
        return Some(format!("{site} has a number for each token of one prompt: no other has the same keys"));
    }
    (!site.is_editable()).then(|| format!("{site} can be read, not written"))
}

/// Numbers must be finite, also in the format in which they are stored.
fn check_numbers(spec: &UploadSpec, out: &mut Problems) {
    if let Some(i) = spec.values.data.iter().position(|x| !x.is_finite()) {
        let detail = format!("{} at index {i}, counted in row-major order", spec.values.data[i]);
        out.push("/values", code::OUT_OF_RANGE, detail, "send finite numbers");
    } else if spec.dtype == Dtype::F16 {
        let over = spec.values.data.iter().filter(|x| half::f16::from_f32(**x).is_infinite()).count();
        if over > 0 {
            let detail = format!("{over} numbers are beyond f16, which ends at 65504");
            out.push("/dtype", code::OUT_OF_RANGE, detail, "store them as bf16 or f32");
        }
    }
}

/// Layers of the first axis, if they are named. `Err`: a problem was found.
fn layers(
    spec: &UploadSpec,
    n: usize,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Result<Option<Vec<u32>>, ()> {
    if !spec.site.has_layer() && (spec.layers.is_some() || n > 1) {
        let detail = format!("`{}` stands outside of the layers and has none", spec.site);
        let at = if spec.layers.is_some() { "/layers" } else { "/values" };
        out.push(at, code::CONFLICT, detail, "leave out `layers` and give the values of one layer");
        return Err(());
    }
    let Some(layers) = &spec.layers else {
        if n > 1 {
            let detail = format!("values of {n} layers, without their numbers");
            out.push("/layers", code::MISSING, detail, "name the layer of each");
            return Err(());
        }
        return Ok(None);
    };
    let layers = select::layers(layers, facts.config().num_layers as u32, "/layers", out).ok_or(())?;
    if layers.len() != n {
        let detail = format!("{} layers are named, the values are of {n}", layers.len());
        out.push("/layers", code::LENGTH_MISMATCH, detail, "name as many layers as there are values for");
        return Err(());
    }
    Ok(Some(layers))
}

fn check_positions(spec: &UploadSpec, n: usize, out: &mut Problems) {
    let Some(positions) = &spec.positions else { return };
    if positions.len() != n {
        let detail = format!("{} positions are named, the values are of {n}", positions.len());
        out.push("/positions", code::LENGTH_MISMATCH, detail, "name as many as there are values for");
        return;
    }
    let mut seen = HashSet::new();
    if let Some((i, twice)) = positions.iter().enumerate().find(|(_, position)| !seen.insert(**position)) {
        let detail = format!("position {twice} twice");
        out.push(format!("/positions/{i}"), code::DUPLICATE, detail, "list each position once");
    }
}
