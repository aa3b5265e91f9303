//! Black-box tests of the server, in one binary: each module has one subject.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "a test fails loudly, and compares bits where bits are promised; clippy sees only #[test] functions as tests"
)]

mod bad_input;
mod bad_rows;
mod connections;
mod demo;
mod examples;
mod experiments;
mod formats;
mod loading;
mod models;
mod openapi;
mod process;
mod schema;
mod support;
