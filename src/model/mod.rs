//! The decoder: its family, its shape, its weights, which part of them a rank holds, and the branching forward.

pub mod architecture;
pub mod config;
pub mod decoder;
pub mod draw;
mod elsewhere;
mod joint;
pub mod output;
pub mod rope;
pub mod shard;
pub mod store;
mod turns;
pub mod weights;
