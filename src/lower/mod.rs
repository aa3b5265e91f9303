//! Request bodies to plans: reads, checks everything, and only then builds.
//!
//! ```text
//! body -spec::read-> spec -prompts-> tokens -select, measure-> indices -run, patch, trace-> Lowered { plan, layout }
//! ```

mod align;
mod arms;
mod asked_cells;
mod basis;
mod case;
pub mod case_table;
pub mod classes;
mod control;
mod conversation;
mod corrupt;
mod corrupted;
pub mod cure;
mod derive;
pub mod diff;
pub mod facts;
pub mod generate;
mod grid;
mod intervention;
mod knockout;
pub mod layout;
pub mod lint;
pub mod measure;
pub mod noise;
mod patch;
mod place;
mod position_map;
mod prepare;
pub mod program;
pub mod prompts;
mod readout;
mod replace_tokens;
pub mod request;
mod run;
mod sampling;
mod select;
mod sigma;
mod size;
mod source;
mod source_pass;
mod start;
pub mod step_reads;
mod stored_source;
pub mod surprisal;
pub mod sweep;
pub mod tautology;
mod template;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod token_run;
mod trace;
mod upload;

pub use self::request::lower;
pub use self::select::window;
pub use self::trace::{Traced, traced};
pub use self::upload::{check_mean, upload};
