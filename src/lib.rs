//! mediant: causal mediation analysis of Llama-family models and GPT-2 over HTTP.
//!
//! Data flows one way; each arrow makes a new type and forgets the one before:
//! ```text
//! request -> spec -> tokens -> lower -> plan -> forward batches -> engine -> effects -> response
//! ```

// vocabulary
pub mod spec;
// whose what is kept is
pub mod owner;
// what can be noticed of files
pub mod disk;
// words to numbers
pub mod tokens;
// values kept between requests
pub mod activations;
// experiment to plan to forward batches
pub mod lower;
pub mod plan;
// batches to numbers
pub mod engine;
pub mod model;
pub mod kernels;
pub mod comm;
pub mod load;
// steps to texts
pub mod generate;
// numbers to findings
pub mod effect;
pub mod result;
// findings to pictures and files
pub mod draw;
pub mod export;
// what outlives the process
pub mod store;
// who may ask for what
pub mod keys;
pub mod usage;
// the whole flow, and what is around it
pub mod capacity;
pub mod service;
pub mod jobs;
pub mod remote;
pub mod config;
pub mod http;
pub mod telemetry;
pub mod app;
