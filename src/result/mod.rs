//! Responses: what a plan's numbers say, in the caller's words.

pub mod common;
pub mod patch;
pub mod run;
pub mod trace;
