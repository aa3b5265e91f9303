//! Scores to metrics, effects and remarks. Pure functions in f64; every number is finite or `None`, and [`nulls`] says why.

pub mod arm;
pub mod average;
pub mod bootstrap;
pub mod cells;
pub mod attribution;
pub mod derived;
pub mod flips;
pub mod lints;
pub mod measure;
pub mod nulls;
pub mod stats;
pub mod student;
pub mod sweep;
pub mod sweep_lints;
pub mod top;
#[cfg(test)]
mod tests;

/// Differences of baselines below this count as none: nothing is divided by them.
pub const MIN_TOTAL_EFFECT: f64 = 1e-6;
