//! The decoder: weights and the branching forward.

pub mod config;
