//! Forward batches to numbers. Somebody owns the model; everybody else holds an [`Engine`] and sends it work.
//!
//! The engine knows nothing of requests: it gets plans and gives back scores in readout order. What is computed next is decided
//! batch by batch (`schedule`): pieces of several plans are computed together, each with the bits that it has alone, and of a
//! request whose client is gone no further piece is taken.
//!
//! Who owns the model is a thread of this process ([`Engine::start`]: tests), or a process of its own
//! ([`Engine::supervise`]: servers), which may die: it is started again, and what it had not finished is computed again.

mod assemble;
mod backlog;
mod busy;
mod execute;
pub mod fault;
pub mod found;
#[cfg(feature = "cuda")]
mod gpus;
pub mod group;
pub mod growth;
mod known_answer;
pub mod load;
mod local;
mod model;
pub mod process;
mod queue;
pub mod ranks;
pub mod row_budget;
mod schedule;
mod shared;
pub mod slots;
mod step;
mod supervise;
#[cfg(test)]
mod tests;
pub mod wire;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use backlog::Waiting;
use backlog::{Ahead, Backlog, Place};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use utoipa::ToSchema;

use crate::kernels::facts::DeviceFacts;
use crate::owner::Owner;
use crate::plan::Plan;
use crate::plan::cost::Cost;
use crate::plan::output::{PlanOutput, Usage};
use crate::plan::pack::{Mode, PackError, Packing, Part};
use crate::plan::sequences::{Expansion, Fold};
use crate::spec::dtype::Dtype;
pub use busy::Activity;
use busy::Busy;
use growth::{Follower, Growth};
pub use load::Computing;
pub use model::{Model, ModelError};
use row_budget::RowBudget;
pub use schedule::{Asker, Lane};
use slots::Slots;
pub use step::{LostStep, StepFailure, Stepped};
pub use supervise::{Keeper, StartError};
use work::{Incoming, Lift};

/// Is told once what a plan cost: all of it, or, where nobody waits any more, what was computed until then.
pub type Charge = Box<dyn FnOnce(&Usage) + Send>;

/// For whom a plan is computed.
pub struct Errand {
    /// Who asks.
    pub asker: Asker,
    /// Whether the plan is the first of its request.
    pub turn: Turn,
    /// Who pays.
    pub charge: Charge,
    /// Whether it has become more urgent.
    lift: Lift,
    /// How far it is, and whether anybody waits.
    growth: Growth,
}

impl Errand {
    /// For who asks.
    pub fn new(asker: Asker, turn: Turn, charge: Charge) -> Self {
        Self { asker, turn, charge, lift: Lift::default(), growth: Growth::default() }
    }
}

/// Whether a plan is the first of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The first: refused where too many wait.
    New,
    /// A further one: it waits, so that what has been computed isn't lost.
    Next,
}

/// A handle on whoever computes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    work: mpsc::UnboundedSender<Incoming>,
    slots: Slots,
    texts: Arc<AtomicUsize>,
    admission: Arc<Semaphore>,
    limit: usize,
    state: watch::Receiver<State>,
    busy: Arc<Busy>,
    backlog: Arc<Backlog>,
    layers: u32,
}

/// What a loaded model says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// How many rows a batch may hold, and what they cost.
    pub budget: RowBudget,
    /// In which number formats, and how reproducibly.
    pub numerics: Numerics,
    /// Where it is computed, by rank.
    pub devices: Vec<DeviceFacts>,
}

impl Ready {
    /// Its devices in words, such as "2 x NVIDIA H200".
    pub fn device(&self) -> String {
        self.named(|device| &device.name)
    }

    /// The same without the number of threads: what the bits of a result can depend on.
    pub fn kind(&self) -> String {
        self.named(|device| device.name.split(',').next().unwrap_or_default())
    }

    /// Positions whose keys and values are kept.
    pub fn key_slots(&self) -> usize {
        self.devices.iter().map(|device| device.key_slots as usize).min().unwrap_or(0)
    }

    /// Bytes of all devices that these take.
    pub fn key_bytes(&self) -> u64 {
        self.devices.iter().map(|device| device.key_bytes).sum()
    }

    fn named(&self, name: impl Fn(&DeviceFacts) -> &str) -> String {
        let mut words: Vec<String> = Vec::new();
        for same in self.devices.chunk_by(|a, b| name(a) == name(b)) {
            let (n, name) = (same.len(), name(&same[0]));
            words.push(if n > 1 { format!("{n} x {name}") } else { name.to_owned() });
        }
        words.join(", ")
    }
}

/// Number formats of a computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numerics {
    /// Of the weights.
    pub weights: Dtype,
    /// Of the computation.
    pub compute: Dtype,
    /// Of the residual stream.
    pub residual: Dtype,
    /// Of the logits.
    pub logits: Dtype,
    /// Whether a row's bits depend on what else is in its batch.
    pub batch_invariance: BatchInvariance,
}

/// Why a row's bits do not depend on its batch, or that they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchInvariance {
    /// Every kernel is ours and sums in an order fixed by the row.
    ByConstruction,
    /// The products are a library's; they were compared at start on the device at hand.
    Measured,
    /// They were compared and differ.
    Violated,
}

impl BatchInvariance {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ByConstruction => "by_construction",
            Self::Measured => "measured",
            Self::Violated => "violated",
        }
    }
}

impl Numerics {
    /// Whether plans may be computed in one batch: a row's bits do not depend on its company.
    pub fn merges(&self) -> bool {
        self.batch_invariance != BatchInvariance::Violated
    }

    /// Everything in one format, and logits in f32.
    pub fn of(dtype: Dtype, devices: &[DeviceFacts]) -> Self {
        let products: Vec<_> = devices.iter().flat_map(|device| &device.products).collect();
        let batch_invariance = if products.is_empty() {
            BatchInvariance::ByConstruction
        } else if products.iter().all(|product| product.floor.is_some()) {
            BatchInvariance::Measured
        } else {
            BatchInvariance::Violated
        };
        Self { weights: dtype, compute: dtype, residual: dtype, logits: Dtype::F32, batch_invariance }
    }
}

/// Whether the engine computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ready,
    /// Not now: it is being restarted. Work waits.
    Away {
        /// Why.
        reason: String,
    },
    /// It dies again and again. Work is refused for a while.
    Unhealthy {
        /// Of what.
        reason: String,
    },
    /// It is gone for good.
    Stopped,
}

/// What handles see of the engine.
#[derive(Debug)]
struct State {
    health: Health,
    ready: Ready,
    /// Changes when a known answer has other bits than before: numbers of before may not be those of now.
    group: u64,
}

/// Where one more request would stand, as turns are taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Queue {
    /// Requests that would be answered before it, and it.
    pub place: u64,
    /// Owners who would have something computed before that.
    pub owners: u64,
    /// Seconds until it would be answered, at the speed of the last minute of work.
    pub seconds: f64,
}

/// Why a plan was not computed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// As many requests are being computed and waiting as are let in.
    #[error("{limit} requests are being computed or waiting already")]
    Overloaded {
        /// Requests let in at once.
        limit: usize,
        /// What is before this one.
        queue: Queue,
    },
    /// The plan does not fit the row budget.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A chunk of this plan could not be laid out; the log says where.
    #[error("the engine failed on this request")]
    LayOut,
    /// It dies again and again, whatever it computes.
    #[error("the engine dies again and again: {reason}")]
    Unhealthy {
        /// Of what it died last.
        reason: String,
    },
    /// There is no engine any more.
    #[error("the engine has stopped")]
    Stopped,
}

impl Engine {
    /// Starts a thread that owns the model. `limit`: requests let in at once, computing or waiting.
    pub fn start(computing: Computing, layers: u32, limit: usize) -> std::io::Result<Engine> {
        let Computing { model, ready } = computing;
        let (work, inbox) = mpsc::unbounded_channel();
        let (sender, state) = watch::channel(State { health: Health::Ready, ready, group: 0 });
        let busy = Arc::new(Busy::default());
        let texts = Arc::default();
        local::spawn(model, inbox, sender, Arc::clone(&busy), Arc::clone(&texts))?;
        Ok(Engine::of(work, state, busy, texts, limit, layers))
    }

    fn of(
        work: mpsc::UnboundedSender<Incoming>,
        state: watch::Receiver<State>,
        busy: Arc<Busy>,
        texts: Arc<AtomicUsize>,
        limit: usize,
        layers: u32,
    ) -> Engine {
        let slots = Slots::new(state.borrow().ready.key_slots());
        let admission = Arc::new(Semaphore::new(limit));
        Engine { work, slots, texts, admission, limit, state, busy, backlog: Arc::default(), layers }
    }

    /// Places for keys that are kept.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Says how many texts are being written: as long as there are some, more steps are to be expected.
    pub fn writing(&self, texts: usize) {
        self.texts.store(texts, Ordering::Relaxed);
    }

    /// What the loaded model says of itself.
    pub fn ready(&self) -> Ready {
        self.state.borrow().ready.clone()
    }

    /// How many rows a batch may hold, and what they cost.
    pub fn budget(&self) -> RowBudget {
        self.state.borrow().ready.budget
    }

    /// Whether the engine computes.
    pub fn health(&self) -> Health {
        self.state.borrow().health.clone()
    }

    /// Numbers computed now have the bits of those computed in the same group.
    fn group(&self) -> u64 {
        self.state.borrow().group
    }

    /// Where one more request of an owner would stand.
    fn queue(&self, asker: &Asker, work: u64) -> Queue {
        self.seconds(self.backlog.ahead(&asker.owner, work, asker.weight))
    }

    /// When the first of an owner's requests will be answered, if one is being computed or waits.
    pub fn first_of(&self, owner: &Owner) -> Option<Queue> {
        self.backlog.first_of(owner).map(|ahead| self.seconds(ahead))
    }

    fn seconds(&self, Ahead { requests, owners, work }: Ahead) -> Queue {
        let rate = self.backlog.rate().unwrap_or_else(|| self.budget().row_layers_per_second());
        Queue { place: requests + 1, owners, seconds: work / rate }
    }

    /// What owners have that is computed or waits, by lane.
    pub fn waiting(&self) -> Vec<Waiting> {
        self.backlog.waiting()
    }

    /// Row-layers done in a second that it is busy, of late; `None`: too little was done to tell.
    pub fn rate(&self) -> Option<f64> {
        self.backlog.rate()
    }

    /// Texts that are being written.
    pub fn texts(&self) -> usize {
        self.texts.load(Ordering::Relaxed)
    }

    /// How often a known answer has had other bits than before.
    pub fn known_answer_changes(&self) -> u64 {
        self.group()
    }

    /// What it has done since the server started.
    pub fn activity(&self) -> Activity {
        let requests = (self.limit - self.admission.available_permits()) as u64;
        Activity { requests, ..self.busy.activity() }
    }

    /// Works out how a plan is computed and what it costs. Takes time in proportion to the plan; call it off the async
    /// workers.
    pub fn prepare(&self, plan: &Plan, mode: Mode) -> Result<Prepared, PackError> {
        let (plan, fold) = Expansion::new(plan).parts();
        let budget = self.budget();
        let keys = if plan.holds_scores() { plan.keys() } else { 0 };
        let packing = Packing::new(&plan, self.layers, budget.space(keys, true), mode)?;
        let size = packing.size();
        Ok(Prepared {
            work: size.in_chunks,
            packing: Arc::new(packing),
            fold: Arc::new(fold),
            cost: budget.with_scores(keys).cost(size),
            readouts: plan.readouts.len(),
            captures: plan.captures.len(),
            runs: plan.runs.len(),
        })
    }

    /// Computes a plan, piece by piece. Dropping the future stops after the piece in hand, and at most one sent ahead.
    pub async fn execute(&self, prepared: Prepared, errand: Errand) -> Result<PlanOutput, EngineError> {
        let growth = errand.growth.clone();
        Follower::patient().attend(&growth, self.compute(prepared, errand)).await
    }

    /// The same, as long as somebody waits for it.
    async fn compute(&self, prepared: Prepared, errand: Errand) -> Result<PlanOutput, EngineError> {
        errand.growth.wanted().await;
        let entry = self.enter(&errand.asker, errand.turn, prepared.work).await?;
        self.run(prepared, errand, Some(entry)).await
    }

    /// Lets a request in.
    async fn enter(&self, asker: &Asker, turn: Turn, work: u64) -> Result<Entry<'_>, EngineError> {
        let permit = match turn {
            Turn::New => {
                let queue = || self.queue(asker, work);
                let overloaded = |_| EngineError::Overloaded { limit: self.limit, queue: queue() };
                self.admission.try_acquire().map_err(overloaded)?
            }
            Turn::Next => self.admission.acquire().await.map_err(|_| EngineError::Stopped)?,
        };
        Ok(Entry { place: self.backlog.enter(asker, work), _permit: permit })
    }

    /// The same for what was let in, or, without that, needs no leave.
    async fn run(
        &self,
        prepared: Prepared,
        errand: Errand,
        entry: Option<Entry<'_>>,
    ) -> Result<PlanOutput, EngineError> {
        let output = execute::execute(self, &prepared, errand, entry).await?;
        Ok(prepared.fold.output(output))
    }
}

/// That a request was let in.
struct Entry<'e> {
    place: Place,
    _permit: SemaphorePermit<'e>,
}

impl Prepared {
    /// At most so much work a part is, in row-layers.
    fn work_of(&self, part: &Part) -> u64 {
        let all = self.packing.whole().len().max(1) as f64;
        (self.work as f64 * part.len() as f64 / all).ceil() as u64
    }
}

/// A plan cut into chunks.
#[derive(Debug, Clone)]
pub struct Prepared {
    packing: Arc<Packing>,
    fold: Arc<Fold>,
    /// What it costs.
    pub cost: Cost,
    /// Row-layers that are computed, if it is computed alone.
    work: u64,
    readouts: usize,
    captures: usize,
    runs: usize,
}
