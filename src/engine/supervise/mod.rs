//! Keeps an engine process alive: starts it, sends it work, watches it, and when it dies or hangs starts another one and
//! sends that what was not finished, in the same order. Handles see nothing of it but that things take longer.

mod child;
mod keeper;
mod supervisor;
mod watchdog;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use keeper::Keeper;
use supervisor::Supervisor;

use super::Engine;
use super::busy::Busy;
use crate::config::Config;
use crate::model::config::ModelConfig;

/// Why there is no engine process.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it needs of the system is not there.
    #[error("cannot prepare the engine process: {0}")]
    System(#[from] std::io::Error),
    /// The process could not load the model, or ended.
    #[error("the engine did not start: {reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
    /// The server is being stopped.
    #[error("the server is being stopped")]
    Stopping,
}

impl Engine {
    /// Starts an engine process and waits until it has loaded the configured model, whose weights have this SHA-256.
    /// `limit`: requests let in at once, computing or waiting. The process ends when `keeper` is told to stop, and when the
    /// last handle is gone.
    ///
    /// # Errors
    /// The process cannot be started, or cannot load the model. Later deaths are healed, not reported.
    pub fn supervise(
        config: &Config,
        shape: &ModelConfig,
        weights_sha256: &str,
        limit: usize,
        keeper: &Keeper,
    ) -> Result<Engine, StartError> {
        let (work, inbox) = mpsc::unbounded_channel();
        let (first, started) = oneshot::channel();
        let busy = Arc::new(Busy::default());
        let texts = Arc::default();
        let supervisor =
            Supervisor::new(config, shape, weights_sha256, inbox, Arc::clone(&busy), Arc::clone(&texts))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        keeper.keep(|stop| {
            let run = move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = supervisor.run(first) => {}
                        _ = stop => {}
                    }
                });
                // A chunk that is still being laid out is of no use to anybody.
                runtime.shutdown_background();
            };
            std::thread::Builder::new().name("supervisor".into()).spawn(run)
        })?;
        let state = started.blocking_recv().map_err(|_| StartError::Stopping)?;
        let state = state.map_err(|reason| StartError::Engine { reason })?;
        let layers = shape.num_layers as u32;
        Ok(Engine::of(work, state, busy, texts, limit, layers))
    }
}
