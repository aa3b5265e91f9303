//! What the server is doing: all of it for who runs it, and for everybody else what is theirs.

use std::fmt::Write as _;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::query;
use super::state::Access;
use super::{AppState, Caller, Problem};
use crate::engine::{Lane, Queue};
use crate::jobs::Jobs;
use crate::keys::Scope;
use crate::owner::{Owner, Weight};
use crate::service::Service;
use crate::spec::problem::{Problems, code};
use crate::store::job::State as JobState;

/// Owners in the list, at most.
const MOST_OWNERS: usize = 1000;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(status))
}

/// What the server is doing.
#[derive(Debug, Serialize, ToSchema)]
struct ServerStatus {
    /// As `/readyz` says it: `ready`, `loading`, `engine-restarting`, `engine-unhealthy`, `store-failed`, `draining`, `failed`.
    #[schema(example = "ready")]
    status: &'static str,
    /// Why it is not ready, in words.
    reason: Option<String>,
    /// What is yours.
    yours: Yours,
    /// Everything, for the scope `admin`, and where no key is needed; null for everybody else.
    operations: Option<Operations>,
}

/// What an owner has on its way.
#[derive(Debug, Serialize, ToSchema)]
struct Yours {
    /// Whose it is.
    #[schema(example = "alice")]
    owner: String,
    /// Requests that are computed now or wait for the engine.
    requests: u64,
    /// Row-layers that are left of them.
    row_layers: u64,
    /// Parts of jobs, the same.
    job_parts: u64,
    /// When the first of the requests will be answered; null if there is none.
    queue: Option<Queue>,
    /// Share of the engine beside others who wait, too.
    weight: f64,
}

/// What who runs the server wants to know.
#[derive(Debug, Serialize, ToSchema)]
struct Operations {
    /// What computes; null until the model is loaded.
    engine: Option<EngineStatus>,
    /// What is computed or waits, by lane; empty until the model is loaded.
    lanes: Vec<LaneStatus>,
    /// Owners with something on its way, or computed today: who used most first, at most 1000.
    owners: Vec<OwnerStatus>,
    /// Jobs by state.
    jobs: Vec<JobCount>,
    /// Where blocks of `remote=True` run.
    sandbox: SandboxStatus,
    /// Answers found again; null until the model is loaded.
    cache: Option<CacheStatus>,
    /// Where jobs and keys are.
    store: StoreStatus,
    /// Memory of requests outside of the engine.
    memory: MemoryStatus,
}

/// What computes.
#[derive(Debug, Serialize, ToSchema)]
struct EngineStatus {
    /// Where.
    #[schema(example = "2 x NVIDIA H200")]
    device: String,
    /// Which process it is since the server started, from 1.
    generation: u64,
    /// Processes started after the first.
    restarts: u64,
    /// How often a known answer had other bits than before: more than 0 means that memory or a device is broken.
    known_answer_changes: u64,
    /// `by_construction`, `measured` or `violated`: whether a row's bits depend on its batch.
    batch_invariance: &'static str,
    /// Batches computed.
    batches: u64,
    /// Rows times layers computed.
    row_layers: u64,
    /// Seconds that it computed.
    busy_s: f64,
    /// How fast it is.
    calibration: Calibration,
}

/// How fast an engine is.
#[derive(Debug, Serialize, ToSchema)]
struct Calibration {
    /// Row-layers a second, as measured at start.
    row_layers_per_s: f64,
    /// The same, as it was of late while it computed; null: too little was computed to tell.
    lately_row_layers_per_s: Option<f64>,
    /// The second divided by the first. Short batches do not fill a device, so less than 1 is usual.
    rate_fraction: Option<f64>,
    /// Seconds that a batch is cut to beside others.
    quantum_s: f64,
    /// Most rows of a batch.
    rows: usize,
}

/// A lane of the engine.
#[derive(Debug, Serialize, ToSchema)]
struct LaneStatus {
    /// `interactive` (clients wait), `steps` (texts that are being written) or `sweeps` (parts of jobs).
    lane: &'static str,
    /// Requests, texts, or parts of jobs.
    requests: u64,
    /// Row-layers that are left; null of texts, whose end nobody knows.
    row_layers: Option<u64>,
    /// Positions whose keys are kept, of texts.
    key_slots: Option<usize>,
    /// How many of these are free.
    key_slots_free: Option<usize>,
}

/// An owner's part.
#[derive(Debug, Serialize, ToSchema)]
struct OwnerStatus {
    /// Who.
    owner: String,
    /// Requests that are computed now or wait.
    requests: u64,
    /// Parts of jobs, the same.
    job_parts: u64,
    /// Row-layers that are left of both.
    row_layers_left: u64,
    /// Row-layers computed today, UTC; 0 where no key is needed: then nobody is counted.
    row_layers_today: u64,
    /// Which part of all that was computed today that is; null if nothing was.
    share_today: Option<f64>,
    /// The owner's own weight; keys may have others.
    weight: f64,
}

/// Jobs in a state.
#[derive(Debug, Serialize, ToSchema)]
struct JobCount {
    /// The state.
    state: &'static str,
    /// How many.
    jobs: u64,
}

/// Where clients' code runs.
#[derive(Debug, Serialize, ToSchema)]
struct SandboxStatus {
    /// Why no block is run, if so.
    unavailable: Option<String>,
    /// What this machine's kernel lacks of what the sandbox uses; the rest of it holds.
    lacks: Vec<String>,
    /// Jobs that run.
    running: usize,
    /// Jobs that wait for their turn.
    waiting: usize,
}

/// Answers found again.
#[derive(Debug, Serialize, ToSchema)]
struct CacheStatus {
    /// Plans that had been computed.
    kept: u64,
    /// Plans that were being computed.
    joined: u64,
    /// Plans found that were computed again.
    verified: u64,
    /// Of these, those with other bits.
    differ: u64,
    /// Bytes kept now.
    bytes: u64,
    /// The most (`cache.bytes`).
    most_bytes: u64,
}

/// Where jobs and keys are.
#[derive(Debug, Serialize, ToSchema)]
struct StoreStatus {
    /// `sqlite` or `postgresql`; null before it is open.
    database: Option<&'static str>,
    /// What is wrong with it, or with the folder of activations.
    trouble: Option<String>,
    /// Bytes of stored activations.
    activation_bytes: u64,
}

/// Memory of requests.
#[derive(Debug, Serialize, ToSchema)]
struct MemoryStatus {
    /// Bytes that are held.
    bytes: u64,
    /// The most (`limits.memory_bytes`).
    most_bytes: u64,
}

/// Status
///
/// What the server is doing: for the scope `admin` (and where no key is needed) the engine and its speed, lanes, owners, jobs, the
/// sandbox, the cache, the store; for all others their own place. nnsight's own status is at `/status`.
#[utoipa::path(get, path = "/v1/status", tag = "operations",
    params(("format" = Option<String>, Query, description = "json, or text for people; else by Accept, json unless it prefers text/plain")),
    responses((status = 200, description = "What it is doing", content((ServerStatus = "application/json"), (String = "text/plain"))), Problem))]
async fn status(State(state): State<AppState>, caller: Caller, parts: Parts) -> Result<Response, Problem> {
    let text = wants_text(&parts)?;
    let status = of(&state, &caller).await;
    let headers = [(header::CACHE_CONTROL, "no-store")];
    if !text {
        return Ok((headers, Json(status)).into_response());
    }
    let mut lines = String::new();
    tree(&mut lines, &serde_json::to_value(&status).unwrap_or_default(), 0);
    Ok((headers, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], lines).into_response())
}

fn wants_text(parts: &Parts) -> Result<bool, Problem> {
    let query = query(parts, &["format"])?;
    match query.get("format").map(String::as_str) {
        Some("text") => Ok(true),
        Some("json") => Ok(false),
        Some(other) => {
            let mut out = Problems::default();
            out.push(
                "?format",
                code::UNKNOWN_VALUE,
                format!("`{other}` is not served here"),
                "write json or text",
            );
            Err(out.into())
        }
        None => {
            let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
            // Whoever names it first wants it: browsers and clients of JSON do not name it at all.
            Ok(accept.is_some_and(|accept| accept.trim_start().starts_with("text/plain")))
        }
    }
}

async fn of(state: &AppState, caller: &Caller) -> ServerStatus {
    let report = state.readiness().report(&state.access);
    let waiting = state.service.get().map(|service| service.engine.waiting()).unwrap_or_default();
    let own = |lane| waiting.iter().find(|one| one.owner == caller.owner && one.lane == lane);
    let own_requests = own(Lane::Interactive);
    let first = state.service.get().and_then(|service| service.engine.first_of(&caller.owner));
    let yours = Yours {
        owner: caller.owner.to_string(),
        requests: own_requests.map_or(0, |one| one.requests),
        row_layers: own_requests.map_or(0, |one| one.row_layers),
        job_parts: own(Lane::Sweep).map_or(0, |one| one.requests),
        queue: first,
        weight: caller.account().weight.number(),
    };
    let sees_all = caller.key.as_ref().is_none_or(|key| key.scopes.has(Scope::Admin));
    ServerStatus {
        status: report.status,
        reason: report.reason,
        yours,
        operations: if sees_all { Some(operations(state).await) } else { None },
    }
}

async fn operations(state: &AppState) -> Operations {
    let service = state.service.get();
    // A database that is away must not hide the rest.
    let jobs = match state.jobs.get() {
        Some(jobs) => jobs.store.counts().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let (running, waiting) = state.remote.jobs();
    let (free, total) = (state.capacity.free(), state.capacity.total());
    let trouble = state.jobs.get().and_then(Jobs::unhealthy);
    Operations {
        engine: service.map(|service| engine(service, state.config.engine.quantum_s)),
        lanes: service.map(lanes).unwrap_or_default(),
        owners: service.map(|service| owners(service, &state.access)).unwrap_or_default(),
        jobs: jobs
            .into_iter()
            .map(|(state, jobs): (JobState, u64)| JobCount { state: state.name(), jobs })
            .collect(),
        sandbox: SandboxStatus {
            unavailable: state.remote.unavailable(),
            lacks: state.remote.lacks(),
            running,
            waiting,
        },
        cache: service.map(|service| {
            let counts = service.found.counts();
            CacheStatus {
                kept: counts.kept,
                joined: counts.joined,
                verified: counts.verified,
                differ: counts.differ,
                bytes: counts.bytes,
                most_bytes: state.config.cache.bytes,
            }
        }),
        store: StoreStatus {
            database: state.jobs.get().map(|jobs| jobs.store.kind()),
            trouble: trouble.or_else(|| service.and_then(Service::unhealthy_store)),
            activation_bytes: service.map_or(0, |service| service.served.activations.used_bytes()),
        },
        memory: MemoryStatus { bytes: total - free, most_bytes: total },
    }
}

fn engine(service: &Service, quantum_s: f64) -> EngineStatus {
    let (engine, ready) = (&service.engine, service.engine.ready());
    let activity = engine.activity();
    let calibrated = ready.budget.row_layers_per_second();
    EngineStatus {
        device: ready.device(),
        generation: activity.restarts + 1,
        restarts: activity.restarts,
        known_answer_changes: engine.known_answer_changes(),
        batch_invariance: ready.numerics.batch_invariance.name(),
        batches: activity.batches,
        row_layers: activity.row_layers,
        busy_s: activity.busy.as_secs_f64(),
        calibration: Calibration {
            row_layers_per_s: calibrated,
            lately_row_layers_per_s: engine.rate(),
            rate_fraction: engine.rate().map(|rate| rate / calibrated),
            quantum_s,
            rows: ready.budget.rows,
        },
    }
}

fn lanes(service: &Service) -> Vec<LaneStatus> {
    let (engine, waiting) = (&service.engine, service.engine.waiting());
    let of = |lane, name| {
        let (mut requests, mut row_layers) = (0, 0);
        for one in waiting.iter().filter(|one| one.lane == lane) {
            requests += one.requests;
            row_layers += one.row_layers;
        }
        LaneStatus {
            lane: name,
            requests,
            row_layers: Some(row_layers),
            key_slots: None,
            key_slots_free: None,
        }
    };
    let steps = LaneStatus {
        lane: "steps",
        requests: engine.texts() as u64,
        row_layers: None,
        key_slots: Some(engine.slots().total()),
        key_slots_free: Some(engine.slots().free()),
    };
    vec![of(Lane::Interactive, "interactive"), steps, of(Lane::Sweep, "sweeps")]
}

fn owners(service: &Service, access: &Access) -> Vec<OwnerStatus> {
    let (waiting, today) = (service.engine.waiting(), service.ledger.owners_today());
    let all: u64 = today.iter().map(|(_, used)| used.row_layers).sum();
    let mut names: Vec<Owner> = today.iter().map(|(owner, _)| owner.clone()).collect();
    let new = waiting.iter().map(|one| one.owner.clone()).filter(|owner| !names.contains(owner));
    let mut new: Vec<Owner> = new.collect();
    new.dedup();
    names.extend(new);
    names.truncate(MOST_OWNERS);
    let weight = |owner: &Owner| match access {
        Access::Keys(keys) => keys.owner_terms(owner).weight.unwrap_or_default(),
        Access::Anyone => Weight::default(),
    };
    let of = |owner: &Owner| {
        let used = today.iter().find(|(of, _)| of == owner).map_or(0, |(_, used)| used.row_layers);
        let own = |lane| waiting.iter().find(|one| one.owner == *owner && one.lane == lane);
        let requests = |lane| own(lane).map_or(0, |one| one.requests);
        OwnerStatus {
            owner: owner.to_string(),
            requests: requests(Lane::Interactive),
            job_parts: requests(Lane::Sweep),
            row_layers_left: waiting.iter().filter(|one| one.owner == *owner).map(|one| one.row_layers).sum(),
            row_layers_today: used,
            share_today: (all > 0).then(|| used as f64 / all as f64),
            weight: weight(owner).number(),
        }
    };
    names.iter().map(of).collect()
}

/// A tree for people: a name and its value a line, what is inside of something indented.
fn tree(out: &mut String, value: &Value, depth: usize) {
    let Value::Object(fields) = value else { return };
    // A string can always be written to.
    let line = |out: &mut String, depth: usize, text: &str| {
        let _ = writeln!(out, "{:1$}{text}", "", 2 * depth);
    };
    let mut inside = Vec::new();
    for (name, value) in fields {
        let name = name.replace('_', " ");
        match value {
            Value::Object(_) => inside.push((name, value)),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                line(out, depth, &name);
                for item in items {
                    line(out, depth + 1, &inline(item));
                }
            }
            _ => line(out, depth, &format!("{name}: {}", inline(value))),
        }
    }
    for (name, value) in inside {
        line(out, depth, &name);
        tree(out, value, depth + 1);
    }
}

/// In one line.
fn inline(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(inline).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let said = fields.iter().filter(|(_, value)| !value.is_null());
            said.map(|(name, value)| format!("{} {}", name.replace('_', " "), inline(value)))
                .collect::<Vec<_>>()
                .join(", ")
        }
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_is_lines_for_people() {
        let of = json!({"status": "ready", "reason": null, "operations": {"busy_s": 1.5, "lacks": [],
            "lanes": [{"lane": "steps", "requests": 2, "row_layers": null}, {"lane": "sweeps", "requests": 0}]}});
        let mut text = String::new();
        tree(&mut text, &of, 0);
        for line in [
            "status: ready\n",
            "reason: -\n",
            "  busy s: 1.5\n",
            "  lacks: -\n",
            "    lane steps, requests 2\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }
}
