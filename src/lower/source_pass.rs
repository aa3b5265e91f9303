//! The plan that is computed first, where values come from another layer, another site or several runs: it captures
//! them, and the main plan reads them as constants ([`crate::plan::Plan::fill`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::plan::{Address, Capture, Plan, RunId};

/// Captures of prompts, each taken once.
#[derive(Debug, Default)]
pub(in crate::lower) struct Prelude {
    plan: Plan,
    roots: BTreeMap<usize, RunId>,
    captures: BTreeMap<(usize, Address), usize>,
}

impl Prelude {
    /// Index of the capture of all positions of a prompt at an address; `run` is its index in the request.
    pub(super) fn capture(&mut self, run: usize, ids: &Arc<[u32]>, at: Address) -> usize {
        let Self { plan, roots, captures } = self;
        *captures.entry((run, at)).or_insert_with(|| {
            let root = *roots.entry(run).or_insert_with(|| plan.root(Arc::clone(ids)));
            plan.captures.push(Capture { run: root, at, positions: (0..ids.len() as u32).collect() });
            plan.captures.len() - 1
        })
    }

    /// The plan, if anything is captured.
    pub(super) fn into_plan(self) -> Option<Plan> {
        (!self.plan.captures.is_empty()).then_some(self.plan)
    }
}
