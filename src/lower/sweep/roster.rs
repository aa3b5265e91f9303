//! The cases of a sweep, as problems and remarks name them.

use serde_json::Value;

use crate::lower::gather::Roster;
use crate::spec::sweep::SweepSpec;

/// The cases of a sweep and the body that they were read from.
#[derive(Debug)]
pub struct OfSweep<'s> {
    pub(super) spec: &'s SweepSpec,
    pub(super) body: &'s Value,
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
        if place.is_empty() {
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
