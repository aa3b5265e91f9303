//! What every handler can reach.

use std::sync::{Arc, OnceLock};

use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::kept::Results;
use super::problem::{Kind, Problem};
use super::stream::Streams;
use crate::capacity::Capacity;
use crate::config::Config;
use crate::engine::Health;
use crate::jobs::Jobs;
use crate::keys::Keys;
use crate::remote::Remote;
use crate::service::Service;
use crate::telemetry::metrics::Metrics;

/// Shared by all handlers; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Whether requests for work can be served.
    pub readiness: watch::Receiver<Readiness>,
    /// The model, once it is loaded.
    pub service: Arc<OnceLock<Service>>,
    /// The job queue, once its store is open.
    pub jobs: Arc<OnceLock<Jobs>>,
    /// Memory and threads for requests.
    pub capacity: Capacity,
    /// Who may ask.
    pub access: Access,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What clients of nnsight are served by.
    pub remote: Remote,
    /// Answers that are kept.
    pub results: Results,
    /// Event streams that may be taken up again.
    pub streams: Streams,
}

/// What is to be done where keys are needed and there is none.
pub(super) const FIRST_KEY: &str = "the server has no key yet: `mediant key create --owner NAME --scopes admin,run,sweep,upload,remote` makes \
                                    the first (with SQLite, while the server is stopped)";

/// Who may ask.
#[derive(Debug, Clone)]
pub enum Access {
    /// Whoever reaches the server, all as one owner.
    Anyone,
    /// Whoever has a key.
    Keys(Keys),
}

impl Access {
    /// In a word, for `/readyz`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Anyone => "off",
            Self::Keys(keys) if keys.is_empty() => "none",
            Self::Keys(_) => "on",
        }
    }
}

impl AppState {
    /// The model; a problem while it is loading.
    pub fn service(&self) -> Result<&Service, Problem> {
        self.service
            .get()
            .ok_or_else(|| Problem::new(Kind::Unavailable, "the model is loading").retry_after(5))
    }

    /// The job queue; a problem before its store is open.
    pub fn jobs(&self) -> Result<&Jobs, Problem> {
        self.jobs
            .get()
            .ok_or_else(|| Problem::new(Kind::Unavailable, "the job store is not open").retry_after(5))
    }

    /// Puts the loaded model in place.
    pub fn install(&self, service: Service) -> anyhow::Result<()> {
        self.service.set(service).map_err(|_| anyhow::anyhow!("a model is loaded already"))
    }

    /// Whether work can be served right now, which is also for the engine to say.
    pub fn readiness(&self) -> Readiness {
        let readiness = self.readiness.borrow().clone();
        let Some(service) = self.service.get().filter(|_| readiness == Readiness::Ready) else {
            return readiness;
        };
        match service.engine.health() {
            Health::Ready => {
                let jobs = self.jobs.get().and_then(Jobs::unhealthy);
                jobs.or_else(|| service.unhealthy_store()).map_or(Readiness::Ready, Readiness::StoreFailed)
            }
            Health::Away { reason } => Readiness::Restarting(reason),
            Health::Unhealthy { reason } => Readiness::Unhealthy(reason),
            Health::Stopped => Readiness::Failed("the engine has stopped; restart the server".to_owned()),
        }
    }
}

/// Whether the server can do work. It listens in all of these states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The model is being fetched or loaded.
    Loading,
    /// Work is served.
    Ready,
    /// The engine died, for this reason, and is being started again. Work waits for it.
    Restarting(String),
    /// The engine dies again and again, for this reason. It is tried again after a while.
    Unhealthy(String),
    /// Jobs or activations cannot be stored, for this reason. All else is served.
    StoreFailed(String),
    /// Shutting down: what is in flight finishes, new work is refused.
    Draining,
    /// The model cannot be served, and why.
    Failed(String),
}

/// Answer of `/readyz`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReadinessReport {
    /// `ready`, `loading`, `engine-restarting`, `engine-unhealthy`, `store-failed`, `draining` or `failed`.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// Why not, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether requests need a key: `on`, `off`, or `none` if they do and there is none yet.
    #[schema(example = "on")]
    pub keys: &'static str,
    /// How to make the first key, where there is none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_key: Option<&'static str>,
}

impl Readiness {
    /// Every `status` of a [`ReadinessReport`].
    pub const STATUSES: [&str; 7] =
        ["ready", "loading", "draining", "engine-restarting", "engine-unhealthy", "store-failed", "failed"];

    /// The state in words.
    pub fn report(&self, access: &Access) -> ReadinessReport {
        let (status, reason) = match self {
            Self::Ready => ("ready", None),
            Self::Loading => ("loading", Some("the model is loading".to_owned())),
            Self::Draining => ("draining", Some("the server is shutting down".to_owned())),
            Self::Restarting(reason) => {
                ("engine-restarting", Some(format!("the engine is being restarted: {reason}")))
            }
            Self::Unhealthy(reason) => {
                ("engine-unhealthy", Some(format!("the engine dies again and again: {reason}")))
            }
            Self::StoreFailed(reason) => ("store-failed", Some(reason.clone())),
            Self::Failed(reason) => ("failed", Some(reason.clone())),
        };
        let keys = access.name();
        ReadinessReport { status, reason, keys, first_key: (keys == "none").then_some(FIRST_KEY) }
    }
}
