//! The cases of a sweep, as problems and remarks name them, in each of its wire forms.

use std::borrow::Cow;

use serde_json::Value;

use crate::lower::arms::as_restored;
use crate::lower::gather::Roster;
use crate::spec::read::escape;
use crate::spec::sweep::{Form, SweepSpec};

/// The cases of a sweep and the body that they were read from.
#[derive(Debug)]
pub struct OfSweep<'s> {
    /// The request.
    pub spec: &'s SweepSpec,
    /// As it was written.
    pub body: &'s Value,
}

/// Pointers into a case on its own, and the field of the short form that they come from.
const SHORT: [(&str, &str); 7] = [
    ("/runs/clean/spans/subject", "/subject"),
    ("/runs/clean", ""),
    ("/runs/corrupted", "/corrupted"),
    ("/runs", ""),
    ("/targets/target", "/target"),
    ("/targets/foil", "/foil"),
    ("/corrupt/positions", "/subject"),
];

impl Roster for OfSweep<'_> {
    fn len(&self) -> usize {
        self.spec.cases.len()
    }

    fn id(&self, case: usize) -> &str {
        &self.spec.cases[case].id
    }

    fn place(&self, case: usize) -> String {
        self.spec.places[case].clone()
    }

    /// The first that the body has: the field of the short form, the same field of the case, the same field of the request.
    fn pointer(&self, case: usize, pointer: &str) -> String {
        let place = &self.spec.places[case];
        let written = match self.spec.form {
            Form::Sweep => Cow::Borrowed(pointer),
            Form::Trace => Cow::Owned(of_trace(pointer)),
        };
        let pointer = written.as_ref();
        // Positions of the request itself stand where they are; only those left out are the subject's.
        let given = || self.body.pointer("/corrupt/positions").is_some_and(|positions| !positions.is_null());
        let own = pointer.starts_with("/corrupt/positions") && given();
        let of_common = |name: &String| {
            let rest = pointer.strip_prefix(&format!("/runs/{}", escape(name)));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if place.is_empty() || own || self.spec.common.iter().any(of_common) {
            return pointer.to_owned();
        }
        let short = SHORT.iter().find_map(|(long, short)| {
            let rest = pointer.strip_prefix(long).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
            Some((format!("{place}{short}{rest}"), format!("{place}{short}")))
        });
        // A target given as one value has no index to point at.
        let shorts = short.clone().into_iter().flat_map(|(whole, field)| [whole, field]);
        let mut candidates = shorts.chain([format!("{place}{pointer}"), pointer.to_owned()]);
        let there = candidates.find(|at| at != place && self.body.pointer(at).is_some());
        there.or(short.map(|(whole, _)| whole)).unwrap_or_else(|| pointer.to_owned())
    }
}

/// A pointer into a sweep as a trace with `cases` would write it.
fn of_trace(pointer: &str) -> String {
    let mut parts = pointer.splitn(4, '/').skip(1);
    match (parts.next(), parts.next()) {
        (Some("read"), Some("at")) => "/runs/clean/prompt".to_owned(),
        // Readouts are not asked for: their number is that of the cells.
        (Some("read"), _) => "/arms".to_owned(),
        _ => as_restored(pointer, |_| false),
    }
}
