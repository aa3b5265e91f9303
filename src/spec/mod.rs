//! The vocabulary: what an experiment *is*. Pure data, read from JSON with every problem collected.
//!
//! Each request type has a `read(&Value, &mut Problems) -> Option<Self>`. A spec may come out of a body that has
//! problems, so that later stages can find more of them; it is only acted on if there are none.

pub use mediant_arithmetic::dtype;

/// The kinds of experiments: what routes, jobs, dry runs, keys, hints and the command line know of them. A row: the kind, its name (of its
/// endpoint, on the wire and in the database), its body, what bodies are read as, and whether it is answered at `once` or computed in
/// `units`, each of which counts when it is done. `$then` gets the rows behind `$with`.
macro_rules! kinds {
    ([$($then:tt)+] [$($with:tt)*]) => {
        $($then)+! {
            [$($with)*]
            /// `POST /v1/run`
            Run run run::RunBody => run::RunSpec, once;
            /// `POST /v1/patch`
            Patch patch patch::PatchBody => patch::PatchSpec, once;
            /// `POST /v1/trace`
            Trace trace trace::TraceBody => kind::Traces, once;
            /// `POST /v1/lens`
            Lens lens lens::LensBody => lens::LensBody, once;
            /// `POST /v1/surprisal`
            Surprisal surprisal surprisal::SurprisalBody => surprisal::SurprisalSpec, once;
            /// `POST /v1/sweep`
            Sweep sweep sweep::SweepBody => sweep::SweepSpec, units;
            /// `POST /v1/generate`
            Generate generate generate::GenerateBody => kind::Texts, units;
        }
    };
}
pub(crate) use kinds;

pub mod activation;
pub mod align;
pub mod canonical;
pub mod case;
pub mod cases;
pub mod chat;
pub mod coef;
pub mod corruption;
mod declare;
pub mod dataset;
pub mod derive;
pub mod device;
pub mod endpoint;
pub mod expected;
pub mod experiment;
pub mod generate;
pub mod hints;
pub mod intervention;
pub mod kind;
pub mod lens;
pub mod metric;
pub mod named;
pub mod op;
pub mod openai;
pub mod patch;
pub mod problem;
pub mod prompt;
pub mod read;
pub mod readout;
pub mod run;
pub mod select;
pub mod site;
pub mod statistics;
pub mod surprisal;
pub mod sweep;
pub mod tokenize;
pub mod trace;
pub mod words;

pub use declare::Declared;
pub(crate) use declare::choices;

use endpoint::Endpoint;
use hints::{Body, Places};

/// The fields of every endpoint's body, by its declaration.
fn places() -> Vec<(Endpoint, Places)> {
    fn of<B: Body>() -> (Endpoint, Places) {
        (B::AT, B::places())
    }
    let mut all = kind::places();
    all.extend([
        of::<align::AlignBody>(),
        of::<tokenize::TokenizeBody>(),
        of::<activation::UploadSpec>(),
        of::<sweep::CaseForm>(),
    ]);
    all
}
