//! Stage 3: forward batches to numbers. One thread owns the model; everybody else holds an [`Engine`] and sends it work.
//!
//! The engine knows nothing of requests: it gets [`ForwardBatch`]es and gives back scores in readout order. Requests
//! take turns chunk by chunk, and a request whose client is gone simply sends no further chunk.

mod assemble;
pub mod group;
mod rank;
pub mod ranks;
pub mod row_budget;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use crate::model::decoder::BatchOutput;
use crate::plan::Plan;
use crate::plan::batch::ForwardBatch;
use crate::plan::cost::Cost;
use crate::plan::output::PlanOutput;
use crate::plan::pack::{Chunk, Mode, PackError, Packing};
use crate::plan::sequences::{Expansion, Fold};
use assemble::{Assembly, ChunkKey};
pub use rank::{Model, ModelError};
use row_budget::RowBudget;

/// A handle on the thread that computes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    work: std::sync::mpsc::Sender<Work>,
    admission: Arc<Semaphore>,
    limit: usize,
    alive: Arc<AtomicBool>,
    layers: u32,
    budget: RowBudget,
}

/// A batch on its way to the engine's thread.
struct Work {
    batch: Arc<ForwardBatch>,
    queued: Instant,
    reply: oneshot::Sender<Result<Done, EngineError>>,
}

/// A batch that was computed.
struct Done {
    output: BatchOutput,
    waited: Duration,
    took: Duration,
}

/// Why a plan was not computed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// As many requests are being computed and waiting as are let in.
    #[error("{limit} requests are being computed or waiting already")]
    Overloaded {
        /// Requests let in at once.
        limit: usize,
    },
    /// The plan does not fit the row budget.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A batch of this plan made the engine panic; its log says where.
    #[error("the engine failed on this request")]
    Panicked,
    /// The model could not compute a batch of this plan.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine's thread ended.
    #[error("the engine has stopped")]
    Stopped,
}

impl Engine {
    /// Starts the thread that owns the model. `limit`: requests let in at once, computing or waiting.
    pub fn start(
        model: impl Model + 'static,
        layers: u32,
        budget: RowBudget,
        limit: usize,
    ) -> std::io::Result<Engine> {
        let (work, inbox) = std::sync::mpsc::channel();
        let alive = Arc::new(AtomicBool::new(true));
        rank::spawn(model, inbox, Arc::clone(&alive))?;
        Ok(Engine { work, admission: Arc::new(Semaphore::new(limit)), limit, alive, layers, budget })
    }

    /// How many rows a batch may hold, and what they cost.
    pub fn budget(&self) -> &RowBudget {
        &self.budget
    }

    /// Works out how a plan is computed and what it costs. Takes time in proportion to the plan; call it off the async
    /// workers.
    pub fn prepare(&self, plan: &Plan, mode: Mode) -> Result<Prepared, PackError> {
        let (plan, fold) = Expansion::new(plan).parts();
        let budget = self.budget.with_scores(if plan.holds_scores() { plan.keys() } else { 0 });
        let packing = Packing::new(&plan, self.layers, budget.rows, mode)?;
        let cost = budget.cost(packing.size());
        Ok(Prepared {
            packing: Arc::new(packing),
            fold: Arc::new(fold),
            cost,
            readouts: plan.readouts.len(),
            captures: plan.captures.len(),
            runs: plan.runs.len(),
        })
    }

    /// Computes a plan, chunk by chunk. Dropping the future stops after the chunk in hand.
    pub async fn execute(&self, prepared: Prepared) -> Result<PlanOutput, EngineError> {
        let overloaded = |_| EngineError::Overloaded { limit: self.limit };
        let _permit = self.admission.try_acquire().map_err(overloaded)?;
        self.run(prepared).await
    }

    /// Computes a further plan of a request that was let in: waits where [`Engine::execute`] would refuse, so that what has
    /// been computed isn't lost.
    pub async fn execute_next(&self, prepared: Prepared) -> Result<PlanOutput, EngineError> {
        let _permit = self.admission.acquire().await.map_err(|_| EngineError::Stopped)?;
        self.run(prepared).await
    }

    async fn run(&self, prepared: Prepared) -> Result<PlanOutput, EngineError> {
        let mut assembly = Assembly::new(&prepared);
        for index in 0..prepared.packing.len() {
            let packing = Arc::clone(&prepared.packing);
            let chunk = off_worker(move || packing.chunk(index)).await?;
            let Chunk { batch, readouts, runs } = chunk;
            let key = ChunkKey { readouts, runs, rows: batch.peak_rows, row_layers: batch.row_layers };
            let (reply, done) = oneshot::channel();
            let work = Work { batch: Arc::new(batch), queued: Instant::now(), reply };
            self.work.send(work).map_err(|_| EngineError::Stopped)?;
            let done = done.await.map_err(|_| EngineError::Stopped)??;
            assembly.add(&key, done);
        }
        Ok(prepared.fold.output(assembly.finish()))
    }

    /// Whether the thread that computes is there.
    pub fn is_alive(&self) -> bool {
        self.alive.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// A plan cut into chunks.
#[derive(Debug, Clone)]
pub struct Prepared {
    packing: Arc<Packing>,
    fold: Arc<Fold>,
    /// What it costs.
    pub cost: Cost,
    readouts: usize,
    captures: usize,
    runs: usize,
}

/// Runs planning on a thread where it may take its time.
async fn off_worker<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(f).await.map_err(|_| EngineError::Stopped)
}
