//! The decoder: its shape, its weights, and the branching forward.

pub mod config;
pub mod decoder;
pub mod weights;
