//! The branching forward against an independent reference, against full recompute, and against itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "a test fails loudly; clippy sees only #[test] functions as tests, and equal bits are the point"
)]

mod candle_llama;
mod facts;
mod faulty;
mod fuzz;
mod goldens;
mod identity;
mod inside;
mod merged;
mod nonfinite;
mod parts;
mod random;
mod ranks;
mod rope;
mod sequences;
mod severed;
mod shards;
mod site_cases;
mod site_goldens;
mod site_lowering;
mod steps;
#[path = "../shared/site_requests.rs"]
mod site_requests;
mod tiny;
#[path = "../shared/tiny_tensors.rs"]
mod tiny_tensors;
#[path = "../shared/uniform.rs"]
mod uniform;
