//! The vocabulary: what an experiment *is*. Pure data.

pub mod problem;
pub mod site;
