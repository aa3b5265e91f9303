//! The vocabulary: what an experiment *is*. Pure data, read from JSON with every problem collected.
//!
//! Each request type has a `read(&Value, &mut Problems) -> Option<Self>`. A spec may come out of a body that has
//! problems, so that later stages can find more of them; it is only acted on if there are none.

pub use mediant_arithmetic::dtype;

pub mod activation;
pub mod align;
pub mod canonical;
pub mod case;
pub mod cases;
pub mod chat;
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
pub mod sweep;
pub mod tokenize;
pub mod trace;
pub mod words;

pub use declare::Declared;
pub(crate) use declare::choices;

use endpoint::Endpoint;
use hints::Places;
use readout::Read;

/// The fields of an endpoint's body, by its declaration.
fn places(endpoint: Endpoint) -> Places {
    match endpoint {
        Endpoint::Run => hints::of::<run::RunBody>(""),
        Endpoint::Lens => hints::of::<lens::LensBody>(""),
        Endpoint::Patch => hints::of::<patch::PatchBody>("").only("/read", Read::OF_PATCHED),
        Endpoint::Trace => hints::of::<trace::TraceBody>("").only("/read", Read::OF_PATCHED),
        Endpoint::Generate => hints::of::<generate::GenerateBody>(""),
        // Arms are lists of interventions, and `read` is what it is for patches: the contract does not say more.
        Endpoint::Sweep => hints::of::<sweep::SweepBody>("")
            .and(hints::of::<intervention::Intervention>("/arms/NAME/0"))
            .and(hints::of::<Read>("/read"))
            .only("/read", Read::OF_PATCHED),
        Endpoint::Align => hints::of::<align::AlignBody>("").only("/read", Read::OF_PATCHED),
        Endpoint::Tokenize => hints::of::<tokenize::TokenizeBody>(""),
        Endpoint::Activations => hints::of::<activation::UploadSpec>(""),
        Endpoint::Datasets => hints::of::<sweep::CaseForm>("/0"),
        Endpoint::Other => Places::default(),
    }
}
