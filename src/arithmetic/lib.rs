//! The inner loops of the CPU's kernels: products, attention, norms, scans of logits; f32 arithmetic on slices, vectorised at run
//! time for the machine at hand.
//!
//! Every reduction runs in an order fixed by the operation alone, so the bits of a row depend neither on the other
//! rows, nor on the number of threads, nor on the vector width of the machine.
//!
//! A crate of its own, because these loops are compiled without `debug_assert!` and overflow checks, which make them sixty times
//! slower, while everything else keeps both. So nothing here is generic over a caller's closure: a closure would bring its
//! crate's checks into the loop.

// Arithmetic that is not inlined into a `vectorized` body is not compiled for the machine (see `lanes`).
#![allow(clippy::inline_always, reason = "run-time dispatch to an instruction set works by inlining")]

pub mod attention;
pub mod distribution;
pub mod dtype;
mod gemm;
mod lanes;
mod matrix;
pub mod rows;

pub use attention::Heads;
pub use dtype::Dtype;
pub use gemm::{PackedWeight, gated, linear};
pub use matrix::{Matrix, Table};
