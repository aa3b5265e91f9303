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
mod bad_inputs;
mod cases;
mod corruption;
mod derived;
mod examples;
mod given;
mod lints;
mod lowering;
mod noise;
mod positions;
mod respond;
mod sequences;

use serde_json::Value;

use super::layout::{Lowered, TraceLayout};
use super::testing::Fake;
use crate::lower;
use crate::spec::problem::Problems;

/// Problems of a body sent to one of the endpoints, as `pointer code`.
fn problems(endpoint: &str, body: &Value, facts: &Fake) -> Vec<String> {
    let found: Result<(), Problems> = match endpoint {
        "run" => lower::run(body, facts).map(|_| ()),
        "patch" => lower::patch(body, facts).map(|_| ()),
        "trace" => lower::trace(body, facts).map(|_| ()),
        "align" => lower::align(body, facts).map(|_| ()),
        _ => crate::result::common::tokenize(body, facts).map(|_| ()),
    };
    found.err().unwrap_or_default().0.into_iter().map(|p| format!("{} {}", p.pointer, p.code)).collect()
}

fn trace(body: &Value) -> Lowered<TraceLayout> {
    lower::trace(body, &Fake::default()).unwrap_or_else(|p| panic!("{p:#?}"))
}
