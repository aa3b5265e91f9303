//! Black-box tests of the server, in one binary: each module has one subject.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails loudly; clippy sees only #[test] functions as tests"
)]

mod connections;
mod demo;
mod loading;
mod openapi;
mod process;
mod support;
