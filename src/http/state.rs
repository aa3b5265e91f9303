//! What every handler can reach.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::config::Config;

/// Shared by all handlers; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Whether requests for work can be served.
    pub readiness: watch::Receiver<Readiness>,
}

/// Whether the server can do work. It listens in all of these states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The model is being fetched or loaded.
    Loading,
    /// Work is served.
    Ready,
    /// Shutting down: what is in flight finishes, new work is refused.
    Draining,
    /// The model cannot be served, and why.
    Failed(String),
}

/// Answer of `/readyz`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReadinessReport {
    /// `ready`, `loading`, `draining` or `failed`.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// Why not, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Readiness {
    /// The state in words.
    pub fn report(&self) -> ReadinessReport {
        let (status, reason) = match self {
            Self::Ready => ("ready", None),
            Self::Loading => ("loading", Some("the model is loading".to_owned())),
            Self::Draining => ("draining", Some("the server is shutting down".to_owned())),
            Self::Failed(reason) => ("failed", Some(reason.clone())),
        };
        ReadinessReport { status, reason }
    }
}
