//! Requests that are one plan: read, checked and lowered.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::Value;

use super::facts::Facts;
use super::layout::{Common, Lowered};
use super::tautology;
use crate::spec::experiment::{Experiment, Form, Origins};
use crate::spec::problem::{Problems, code};

/// A request that is one plan.
pub trait Request: Serialize + Sized + 'static {
    /// What the numbers of the plan mean.
    type Layout: Layout<Request = Self>;

    /// Runs, targets, metrics, readouts.
    fn experiment(&self) -> &Experiment;

    /// Its plan, or nothing where something is wrong with it.
    fn lower(self, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<Self::Layout>>;
}

/// What the numbers of a request's plan mean.
pub trait Layout: Send + Sync + 'static {
    /// Of which request.
    type Request: Request;

    /// The request.
    fn request(&self) -> &Self::Request;

    /// What it has in common with others.
    fn common(&self) -> &Common;

    /// The same, to be changed.
    fn common_mut(&mut self) -> &mut Common;
}

/// A request, its own wire form by name, and its layout: `$lower` makes the one of the other, and `$common` is where the layout has
/// what all have.
macro_rules! request {
    ($name:literal, $spec:ty, $layout:ty, $lower:path, $($common:ident).+) => {
        impl $crate::spec::experiment::Form for $spec {
            type Request = $spec;
            const NAME: &'static str = $name;

            fn read(body: &serde_json::Value, out: &mut Problems) -> Option<Self> {
                <$spec>::read(body, out)
            }
        }

        impl $crate::lower::request::Request for $spec {
            type Layout = $layout;

            fn experiment(&self) -> &$crate::spec::experiment::Experiment {
                &self.experiment
            }

            fn lower(self, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<$layout>> {
                $lower(self, facts, out)
            }
        }

        impl $crate::lower::request::Layout for $layout {
            type Request = $spec;

            fn request(&self) -> &$spec {
                &self.spec
            }

            fn common(&self) -> &$crate::lower::layout::Common {
                &self.$($common).+
            }

            fn common_mut(&mut self) -> &mut $crate::lower::layout::Common {
                &mut self.$($common).+
            }
        }
    };
}
pub(super) use request;

/// A body to a plan, or everything that is wrong with it, with pointers where the caller wrote the field.
pub fn lower<F: Form<Request: Request>>(
    body: &Value,
    facts: &dyn Facts,
) -> Result<Lowered<<F::Request as Request>::Layout>, Problems> {
    let restore = |origins: &Origins, pointer: &str| origins.restore(pointer);
    let read = |body: &Value, out: &mut Problems| {
        let spec = F::read(body, out)?;
        Some((spec.experiment().origins.clone(), spec))
    };
    let (mut lowered, origins) = checked(body, read, restore, |spec, out| spec.lower(facts, out))?;
    let strict = lowered.layout.request().experiment().strict;
    let common = lowered.layout.common_mut();
    common.lints = std::mem::take(&mut common.lints).restored(&origins).cured(body);
    if strict {
        let refused = common.lints.refused();
        if !refused.is_empty() {
            return Err(refused);
        }
    }
    Ok(lowered)
}

/// Reads and lowers a body, or says everything that is wrong with it. `read` also gives what `restore` needs to find where the caller
/// wrote what is at a pointer.
pub(super) fn checked<S, O: Default, L>(
    body: &Value,
    read: impl FnOnce(&Value, &mut Problems) -> Option<(O, S)>,
    restore: impl Fn(&O, &str) -> String,
    lower: impl FnOnce(S, &mut Problems) -> Option<L>,
) -> Result<(L, O), Problems> {
    let (mut of_reading, mut found) = (Problems::default(), Problems::default());
    let (origins, spec) = read(body, &mut of_reading).unzip();
    let origins = origins.unwrap_or_default();
    let lowered = spec.and_then(|spec| lower(spec, &mut found));
    let read = &mut of_reading;
    let mut absent = HashSet::new();
    for problem in &mut found.0 {
        let restored = restore(&origins, &problem.pointer);
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
        return Err(of_reading);
    }
    Ok((found.or(lowered)?, origins))
}
