//! Requests that are one plan: read, checked and lowered.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::Value;

use super::facts::Facts;
use super::layout::{AlignLayout, Common, Lowered, PatchLayout, RunLayout, TraceLayout};
use super::{align, patch, run, tautology, trace};
use crate::spec::align::AlignSpec;
use crate::spec::experiment::Experiment;
use crate::spec::patch::PatchSpec;
use crate::spec::problem::{Problems, code};
use crate::spec::run::RunSpec;
use crate::spec::trace::TraceSpec;

/// A request that is one plan.
pub trait Request: Serialize + Sized {
    /// What the numbers of the plan mean.
    type Layout: Layout<Request = Self>;

    /// Reads a body. `None` where too little of it could be read to look further.
    fn read(body: &Value, out: &mut Problems) -> Option<Self>;

    /// Runs, targets, metrics, readouts.
    fn experiment(&self) -> &Experiment;

    /// Its plan, or nothing where something is wrong with it.
    fn lower(self, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<Self::Layout>>;
}

/// What the numbers of a request's plan mean.
pub trait Layout {
    /// Of which request.
    type Request: Request;

    /// The request.
    fn request(&self) -> &Self::Request;

    /// What it has in common with others.
    fn common(&self) -> &Common;

    /// The same, to be changed.
    fn common_mut(&mut self) -> &mut Common;
}

/// Says how a request is read and lowered.
macro_rules! request {
    ($spec:ty, $layout:ty, $lower:path, $($common:ident).+) => {
        impl Request for $spec {
            type Layout = $layout;

            fn read(body: &Value, out: &mut Problems) -> Option<Self> {
                <$spec>::read(body, out)
            }

            fn experiment(&self) -> &Experiment {
                &self.experiment
            }

            fn lower(self, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<$layout>> {
                $lower(self, facts, out)
            }
        }

        impl Layout for $layout {
            type Request = $spec;

            fn request(&self) -> &$spec {
                &self.spec
            }

            fn common(&self) -> &Common {
                &self.$($common).+
            }

            fn common_mut(&mut self) -> &mut Common {
                &mut self.$($common).+
            }
        }
    };
}

request!(RunSpec, RunLayout, run::lower, common);
request!(PatchSpec, PatchLayout, patch::lower, common);
request!(TraceSpec, TraceLayout, trace::lower, case.common);
request!(AlignSpec, AlignLayout, align::lower, common);

/// A body to a plan, or everything that is wrong with it, with pointers where the caller wrote the field.
pub fn lower<R: Request>(body: &Value, facts: &dyn Facts) -> Result<Lowered<R::Layout>, Problems> {
    let (mut read, mut found) = (Problems::default(), Problems::default());
    let spec = R::read(body, &mut read);
    let origins = spec.as_ref().map(|spec| spec.experiment().origins.clone()).unwrap_or_default();
    let lowered = spec.and_then(|spec| spec.lower(facts, &mut found));
    let mut absent = HashSet::new();
    for problem in &mut found.0 {
        let restored = origins.restore(&problem.pointer);
        // A field of the short form that is missing: had it been there and unreadable, nothing would have been lowered.
        if problem.code == code::MISSING && restored != problem.pointer {
            absent.insert(restored.clone());
        }
        problem.pointer = restored;
    }
    // One field can be wrong for several runs: once is enough.
    let mut seen = HashSet::new();
    found.0.retain(|problem| seen.insert((problem.pointer.clone(), problem.code)));
    if !read.is_empty() {
        // What couldn't be read has its default here. Only what is said of fields that are there, and doesn't
        // depend on names or edits that may have been lost, is true of the request itself.
        let there = |p: &str| body.pointer(p).is_some() || absent.contains(p);
        let lost = [code::UNKNOWN_NAME, tautology::TAUTOLOGY];
        found.0.retain(|p| !lost.contains(&p.code) && there(&p.pointer));
        read.0.extend(found.0);
        read.0.truncate(Problems::MOST);
        return Err(read);
    }
    let mut lowered = found.or(lowered)?;
    let strict = lowered.layout.request().experiment().strict;
    let common = lowered.layout.common_mut();
    common.lints = std::mem::take(&mut common.lints).restored(&origins);
    if strict {
        let refused = common.lints.refused();
        if !refused.is_empty() {
            return Err(refused);
        }
    }
    Ok(lowered)
}
