//! Requests through the whole of this stage: examples, bad inputs, lowered plans.

#![allow(
    clippy::float_cmp,
    clippy::format_collect,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::semicolon_if_nothing_returned,
    clippy::too_many_lines
)]

mod align;
mod arms;
mod bad_inputs;
mod cases;
mod columns;
mod context;
mod controls;
mod corruption;
mod derived;
mod derived_runs;
mod examples;
mod stored_source;
mod keys;
mod knockout;
mod lints;
mod lowering;
mod noise;
mod positions;
mod program;
mod respond;
mod sequences;
mod sources;

use serde_json::Value;

use super::layout::{Lowered, PatchLayout, TraceLayout};
use super::testing::Fake;
use crate::lower;
use crate::plan::{Op, Plan, RunId, Source};
use crate::spec::problem::Problems;

/// Problems of a body sent to one of the endpoints, as `pointer code`.
fn problems(endpoint: &str, body: &Value, facts: &Fake) -> Vec<String> {
    let found: Result<(), Problems> = match endpoint {
        "run" => lower::lower::<crate::spec::run::RunSpec>(body, facts).map(|_| ()),
        "patch" => lower::lower::<crate::spec::patch::PatchSpec>(body, facts).map(|_| ()),
        "trace" => lower::lower::<crate::spec::trace::TraceSpec>(body, facts).map(|_| ()),
        "align" => lower::lower::<crate::spec::align::AlignSpec>(body, facts).map(|_| ()),
        _ => crate::result::common::tokenize(body, facts).map(|_| ()),
    };
    found.err().unwrap_or_default().0.into_iter().map(|p| format!("{} {}", p.pointer, p.code)).collect()
}

fn trace(body: &Value) -> Lowered<TraceLayout> {
    lower::lower::<crate::spec::trace::TraceSpec>(body, &Fake::default()).unwrap_or_else(|p| panic!("{p:#?}"))
}

fn patch(body: &Value) -> Lowered<PatchLayout> {
    patch_with(body, &Fake::default())
}

fn patch_with(body: &Value, facts: &Fake) -> Lowered<PatchLayout> {
    lower::lower::<crate::spec::patch::PatchSpec>(body, facts).unwrap_or_else(|p| panic!("{p:#?}"))
}

/// An edit as `site@layer[positions] = op`.
fn show(plan: &Plan, run: RunId) -> Vec<String> {
    let op = |op: &Op| match op {
        Op::Replace(Source::Run { run, positions }) => format!("run {} {positions:?}", run.0),
        Op::Replace(Source::Constant(rows)) => format!("constants {}", rows.len()),
        Op::Add { source: Source::Constant(rows), coef, .. } => {
            format!("+ {coef} * constants {}", rows.len())
        }
        Op::Add { source: Source::Run { run, positions }, coef, .. } => {
            format!("+ {coef} * run {} {positions:?}", run.0)
        }
        Op::Scale(factor) => format!("* {factor}"),
        Op::Replace(Source::Captured(parts)) | Op::Add { source: Source::Captured(parts), .. } => {
            format!("captured {parts:?}")
        }
        Op::Project { basis, .. } => format!("project {}", basis.len()),
        Op::Along { direction, change } => format!("along {}: {change:?}", direction.len()),
        Op::Zero => "zero".to_owned(),
        Op::Cut => "cut".to_owned(),
    };
    let edits = plan.run(run).edits.iter();
    edits.map(|e| format!("{}@{}{:?} = {}", e.at.site, e.at.layer, e.positions, op(&e.op))).collect()
}
