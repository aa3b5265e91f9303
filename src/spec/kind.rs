//! The kinds of requests that can be jobs: one table, and `POST /v1/plan`, whose body names one of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::declare::declare;
use super::generate::GenerateBody;
use super::lens::LensBody;
use super::patch::PatchBody;
use super::problem::{Problems, code};
use super::run::RunBody;
use super::sweep::SweepBody;
use super::trace::TraceBody;

/// What kind of request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobKind)]
pub enum Kind {
    /// `POST /v1/sweep`
    Sweep,
    /// `POST /v1/run`
    Run,
    /// `POST /v1/patch`
    Patch,
    /// `POST /v1/trace`
    Trace,
    /// `POST /v1/lens`
    Lens,
    /// `POST /v1/generate`
    Generate,
}

declare! {
/// Body of `POST /v1/plan`: one request under the name of its endpoint.
#[derive(ToSchema)]
#[schema(examples(json!({"trace": {"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris"}})))]
pub struct PlanBody {
    /// As in `POST /v1/run`.
    pub run: Option<RunBody>,
    /// As in `POST /v1/patch`.
    pub patch: Option<PatchBody>,
    /// As in `POST /v1/trace`.
    pub trace: Option<TraceBody>,
    /// As in `POST /v1/lens`.
    pub lens: Option<LensBody>,
    /// As in `POST /v1/sweep`.
    pub sweep: Option<SweepBody>,
    /// As in `POST /v1/generate`.
    pub generate: Option<GenerateBody>,
}
}

/// Bodies of `POST /v1/trace`: one prompt, or `cases`.
#[derive(Debug, Clone, Copy)]
pub struct Traces;

/// Bodies of `POST /v1/generate` that are computed in units: of many prompts, or of one that takes long.
#[derive(Debug, Clone, Copy)]
pub struct Texts;

/// The code of a kind: `$Experiment` stands for what its bodies are read as. What is computed in units is not answered at once.
macro_rules! of_kind {
    ($kind:expr, $Experiment:ident => $code:expr) => {
        match $kind {
            $crate::spec::kind::Kind::Sweep => {
                type $Experiment = $crate::spec::sweep::SweepSpec;
                $code
            }
            $crate::spec::kind::Kind::Generate => {
                type $Experiment = $crate::spec::kind::Texts;
                $code
            }
            other => $crate::spec::kind::of_kind!(other, $Experiment => $code, in_units => {
                unreachable!("BUG: these are named above")
            }),
        }
    };
    ($kind:expr, $Experiment:ident => $code:expr, in_units => $in_units:expr) => {
        match $kind {
            $crate::spec::kind::Kind::Sweep | $crate::spec::kind::Kind::Generate => $in_units,
            $crate::spec::kind::Kind::Run => {
                type $Experiment = $crate::spec::run::RunSpec;
                $code
            }
            $crate::spec::kind::Kind::Patch => {
                type $Experiment = $crate::spec::patch::PatchSpec;
                $code
            }
            $crate::spec::kind::Kind::Trace => {
                type $Experiment = $crate::spec::kind::Traces;
                $code
            }
            $crate::spec::kind::Kind::Lens => {
                type $Experiment = $crate::spec::lens::LensBody;
                $code
            }
        }
    };
}
pub(crate) use of_kind;

impl Kind {
    /// Every kind with its name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("sweep", Self::Sweep),
        ("run", Self::Run),
        ("patch", Self::Patch),
        ("trace", Self::Trace),
        ("lens", Self::Lens),
        ("generate", Self::Generate),
    ];

    /// Its name: in paths, on the wire and in the database.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// The kind of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Whether it is computed in units, each of which counts when it is done: what there is of it is a result.
    pub const fn is_in_units(self) -> bool {
        matches!(self, Self::Sweep | Self::Generate)
    }
}

/// Splits `{"trace": body}` into what is planned and its body.
pub fn split(mut body: Value) -> Result<(Kind, Value), Problems> {
    const FIX: &str = "write {\"run\": {…}}, {\"patch\": {…}}, {\"trace\": {…}}, {\"lens\": {…}}, {\"sweep\": {…}} or {\"generate\": {…}}";
    let mut problems = Problems::default();
    let Some(map) = body.as_object_mut() else {
        problems.push("", code::WRONG_TYPE, "the body is no object", FIX);
        return Err(problems);
    };
    let mut found = None;
    for (name, inner) in map {
        let at = format!("/{}", super::read::escape(name));
        let Some(kind) = Kind::named(name) else {
            problems.push(at, code::UNKNOWN_FIELD, format!("no request is called {name:?}"), FIX);
            continue;
        };
        if found.replace((kind, inner.take())).is_some() {
            problems.push(at, code::CONFLICT, "more than one request", "send one request at a time");
        }
    }
    if found.is_none() && problems.is_empty() {
        problems.push("", code::MISSING, "no request to plan", FIX);
    }
    problems.or(found)
}
