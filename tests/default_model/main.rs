//! The default model through the JSON interface against PyTorch: needs it in the cache, or reachable (93 MB, once).
//!
//! The goldens are made by `tests/python/make_golden.py` from the same GGUF, with transformers in f32.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    clippy::print_stdout,
    reason = "a test fails loudly; clippy sees only #[test] functions as tests"
)]

mod cases;
mod chat;
mod corruptions;
mod examples;
mod identity;
mod inside;
mod patches;
mod runs;
mod seed;
#[path = "../shared/site_requests.rs"]
mod site_requests;
mod sites;
mod support;
mod texts;
mod traces;
#[path = "../shared/uniform.rs"]
mod uniform;
