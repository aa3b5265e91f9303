//! Request bodies to plans: reads, checks everything, and only then builds.
//!
//! ```text
//! body -spec::read-> spec -prompts-> tokens -select, measure-> indices -run, patch, trace-> Lowered { plan, layout }
//! ```

mod align;
mod arms;
mod basis;
mod case;
pub mod case_table;
pub mod classes;
mod control;
mod corrupt;
mod corrupted;
pub mod diff;
mod sampling;
pub mod facts;
mod stored_source;
mod grid;
mod readout;
mod intervention;
mod knockout;
pub mod layout;
pub mod lint;
pub mod measure;
pub mod noise;
mod derive;
mod patch;
mod place;
mod position_map;
mod source_pass;
mod prepare;
pub mod prompts;
pub mod request;
mod run;
mod select;
mod sigma;
mod size;
mod source;
mod start;
pub mod sweep;
mod replace_tokens;
mod template;
mod token_run;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trace;
pub mod tautology;
mod upload;

use serde_json::Value;

use self::facts::Facts;
use self::layout::{Lowered, TraceLayout};
pub use self::request::lower;
pub use self::select::window;
use self::sweep::Sweep;
pub use self::upload::{check_mean, upload};
use crate::spec::cases::CasesSpec;
use crate::spec::problem::Problems;
use crate::spec::trace::TraceSpec;

/// What a body of `POST /v1/trace` is.
#[derive(Debug)]
pub enum Traced {
    /// The trace of one prompt.
    One(Box<Lowered<TraceLayout>>),
    /// Those of many (`cases`): a sweep, and the form in which it was written.
    Many(Box<CasesSpec>, Box<Sweep>),
}

/// `POST /v1/trace`, whichever of its forms a body has.
pub fn traced(body: &Value, facts: &dyn Facts) -> Result<Traced, Problems> {
    if CasesSpec::is_form_of(body) {
        let (spec, sweep) = sweep::traces(body, facts)?;
        return Ok(Traced::Many(Box::new(spec), Box::new(sweep)));
    }
    Ok(Traced::One(Box::new(lower::<TraceSpec>(body, facts)?)))
}
