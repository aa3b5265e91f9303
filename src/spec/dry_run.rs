//! Dry runs: `POST /v1/plan`.

use serde_json::Value;
use utoipa::ToSchema;

use super::declare::declare;
use super::patch::PatchBody;
use super::problem::{Problems, code};
use super::run::RunBody;
use super::sweep::SweepBody;
use super::trace::TraceBody;

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
    /// As in `POST /v1/sweep`.
    pub sweep: Option<SweepBody>,
}
}

/// Which request is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planned {
    /// `{"run": {…}}`
    Run,
    /// `{"patch": {…}}`
    Patch,
    /// `{"trace": {…}}`
    Trace,
    /// `{"sweep": {…}}`
    Sweep,
}

impl Planned {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.prefix().trim_start_matches('/')
    }

    /// Pointer to the request inside the body.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Run => "/run",
            Self::Patch => "/patch",
            Self::Trace => "/trace",
            Self::Sweep => "/sweep",
        }
    }
}

/// Splits `{"trace": body}` into the kind of request and its body.
pub fn split(mut body: Value) -> Result<(Planned, Value), Problems> {
    const FIX: &str = "write {\"run\": {…}}, {\"patch\": {…}}, {\"trace\": {…}} or {\"sweep\": {…}}";
    let mut problems = Problems::default();
    let Some(map) = body.as_object_mut() else {
        problems.push("", code::WRONG_TYPE, "the body is no object", FIX);
        return Err(problems);
    };
    let mut found = None;
    for (name, inner) in map {
        let kind = match name.as_str() {
            "run" => Planned::Run,
            "patch" => Planned::Patch,
            "trace" => Planned::Trace,
            "sweep" => Planned::Sweep,
            _ => {
                let at = format!("/{}", super::read::escape(name));
                problems.push(at, code::UNKNOWN_FIELD, format!("no request is called {name:?}"), FIX);
                continue;
            }
        };
        if found.replace((kind, inner.take())).is_some() {
            problems.push(
                kind.prefix(),
                code::CONFLICT,
                "more than one request",
                "send one request at a time",
            );
        }
    }
    if found.is_none() && problems.is_empty() {
        problems.push("", code::MISSING, "no request to plan", FIX);
    }
    problems.or(found)
}
