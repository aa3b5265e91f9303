//! Opening models from outside: the default model against transformers, folders, and a hub over HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "a test fails loudly; clippy sees only #[test] functions as tests, and equal bits are the point"
)]

mod default_model;
mod folder;
mod gpt2;
mod hostile;
mod hub;
mod made;
mod parts;
#[path = "../shared/tiny_tensors.rs"]
mod tiny_tensors;
mod tokenizers;
#[path = "../shared/uniform.rs"]
mod uniform;
