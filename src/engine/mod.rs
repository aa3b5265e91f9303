//! Stage 3: forward batches to numbers. One thread owns the model; everybody else holds an [`Engine`] and sends it work.
//!
//! The engine knows nothing of requests: it gets [`ForwardBatch`]es and gives back scores in readout order. Requests
//! take turns chunk by chunk, and a request whose client is gone simply sends no further chunk.

mod assemble;
mod rank;
pub mod row_budget;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use crate::model::decoder::BatchOutput;
use crate::plan::Plan;
use crate::plan::batch::ForwardBatch;
use crate::plan::output::PlanOutput;
use crate::plan::pack::{Mode, PackError, Packing};
use assemble::Assembly;
pub use rank::Model;
use row_budget::RowBudget;

/// A handle on the thread that computes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    work: std::sync::mpsc::Sender<Work>,
    admission: Arc<Semaphore>,
    layers: u32,
    budget: RowBudget,
}

/// A batch on its way to the engine's thread.
struct Work {
    batch: ForwardBatch,
    queued: Instant,
    reply: oneshot::Sender<Done>,
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
    /// The engine's thread ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// What a plan will cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, utoipa::ToSchema)]
pub struct Cost {
    /// Rows computed: positions of runs.
    pub rows: u64,
    /// Rows times the layers each passes through.
    pub row_layers: u64,
    /// Floating-point operations, 2 per multiply-add: linear layers and unembedding.
    pub flops: f64,
    /// Forward batches.
    pub chunks: u64,
    /// Memory at once, weights left out.
    pub peak_bytes: u64,
    /// Seconds, from the rate measured when the server started.
    pub seconds: f64,
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
        rank::spawn(model, inbox)?;
        Ok(Engine { work, admission: Arc::new(Semaphore::new(limit)), layers, budget })
    }

    /// How many rows a batch may hold, and what they cost.
    pub fn budget(&self) -> &RowBudget {
        &self.budget
    }

    /// What a plan will cost. Takes time in proportion to the plan; call it off the async workers.
    pub fn cost(&self, plan: &Plan, mode: Mode) -> Result<Cost, PackError> {
        Ok(self.budget.cost(Packing::new(plan, self.layers, self.budget.rows, mode)?.size()))
    }

    /// Computes a plan, chunk by chunk. Dropping the future stops after the chunk in hand.
    pub async fn execute(&self, plan: Arc<Plan>, mode: Mode) -> Result<PlanOutput, EngineError> {
        let limit = self.admission.available_permits();
        let _permit = self.admission.try_acquire().map_err(|_| EngineError::Overloaded { limit })?;
        let (layers, rows) = (self.layers, self.budget.rows);
        let packing = {
            let plan = Arc::clone(&plan);
            Arc::new(off_worker(move || Packing::new(&plan, layers, rows, mode)).await??)
        };
        let mut assembly = Assembly::new(&plan, self.budget.cost(packing.size()).peak_bytes);
        for index in 0..packing.len() {
            let chunk = {
                let packing = Arc::clone(&packing);
                off_worker(move || packing.chunk(index)).await?
            };
            let (reply, done) = oneshot::channel();
            let peak_rows = chunk.batch.peak_rows;
            let row_layers = chunk.batch.row_layers;
            let work = Work { batch: chunk.batch, queued: Instant::now(), reply };
            self.work.send(work).map_err(|_| EngineError::Stopped)?;
            let done = done.await.map_err(|_| EngineError::Stopped)?;
            assembly.add(&chunk.readouts, done, peak_rows, row_layers);
        }
        Ok(assembly.finish())
    }
}

/// Runs planning on a thread where it may take its time.
async fn off_worker<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(f).await.map_err(|_| EngineError::Stopped)
}
