//! The vocabulary: what an experiment *is*. Pure data, read from JSON with every problem collected.
//!
//! Each request type has a `read(&Value, &mut Problems) -> Option<Self>`. A spec may come out of a body that has
//! problems, so that later stages can find more of them; it is only acted on if there are none.

pub use mediant_arithmetic::dtype;

pub mod activation;
pub mod align;
pub mod body;
pub mod canonical;
pub mod cases;
pub mod corruption;
pub mod dataset;
pub mod derive;
pub mod dry_run;
pub mod device;
pub mod expected;
pub mod experiment;
pub mod hints;
pub mod intervention;
pub mod metric;
pub mod named;
pub mod op;
pub mod patch;
pub mod problem;
pub mod prompt;
pub mod read;
pub mod readout;
pub mod run;
pub mod select;
pub mod site;
pub mod sweep;
pub mod tokenize;
pub mod trace;
