//! mediant: causal mediation analysis of Llama-family models over HTTP.
//!
//! Data flows one way; each arrow makes a new type and forgets the one before:
//! ```text
//! request -> spec -> tokens -> plan -> forward batches -> engine -> effects -> response
//! ```

pub mod spec;
pub mod tokens;
pub mod plan;
pub mod load;
pub mod model;
pub mod engine;
pub mod effect;
pub mod result;
pub mod config;
pub mod http;
