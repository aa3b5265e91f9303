//! Black-box tests of the server, in one binary: each module has one subject.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    clippy::format_push_string,
    clippy::many_single_char_names,
    clippy::redundant_clone,
    clippy::semicolon_if_nothing_returned,
    reason = "a test fails loudly, compares bits where bits are promised, and need not save a clone; clippy sees only #[test] functions as tests"
)]

mod activations;
mod align;
mod asked_cells;
mod bad_input;
mod bad_rows;
mod cases;
mod chunks;
mod client;
mod connections;
mod corruption;
mod demo;
mod examples;
mod experiments;
mod formats;
mod found;
mod gpt2;
mod guarded;
mod guides;
mod lists;
mod loading;
mod metrics;
mod models;
mod nonfinite;
mod openai;
mod openapi;
mod page;
mod process;
mod readable;
mod schema;
mod hub;
mod jobs;
mod keys;
mod streams;
mod support;
mod sweeps;
mod terms;
mod texts;
mod tls;
