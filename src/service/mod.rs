//! The whole flow of a request in one place: body -> lowered plan -> engine -> response.
//!
//! Adapters (HTTP, later others) hold a [`Service`] and know nothing of what lies behind it.

mod activations;
mod cases;
pub mod follow;
pub mod cut;
pub mod experiment;
mod generate;
pub mod program;
mod required_runs;
mod mean;
mod served;
pub mod start;
pub mod sweep;
mod table;
mod texts;
mod weight;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tracing::Instrument;
use tracing::field::Empty;

pub use activations::NumbersAsked;
pub use follow::{Happened, Tell};
pub use generate::Generating;
pub use served::{Served, ServedTo};

use crate::activations::StoreError;
use crate::capacity::{Abandoned, Busy, Lane, Share};
use crate::engine::found::Found;
use crate::engine::growth::Follower;
use crate::engine::{self, Asker, Charge, Engine, EngineError, Errand, Prepared, Turn};
use crate::generate::Writer;
use crate::load::LoadError;
use crate::owner::Owner;
use crate::plan::Plan;
use crate::plan::cone;
use crate::plan::cost::{Ceiling, Cost};
use crate::plan::hash::Key;
use crate::plan::output::{Lost, PlanOutput, Usage};
use crate::plan::pack::{Mode, PackError};
use crate::result::common::{Envelope, Provenance, TokenizeResponse, tokenize};
use crate::result::respond::Computed;
use crate::spec::dtype::Dtype;
use crate::spec::problem::Problems;
use crate::usage::{Ledger, Tab};

/// A served model. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    /// What is known of the model.
    pub served: Arc<Served>,
    /// What computes.
    pub engine: Engine,
    /// What was computed before.
    pub found: Found,
    /// What one request may cost.
    pub ceiling: Ceiling,
    /// What one job may cost.
    pub jobs: JobCeiling,
    /// What owners have used.
    pub ledger: Ledger,
    /// What writes texts.
    pub(crate) writer: Writer,
    /// Rows of a step of generation, at most.
    pub(crate) step_rows: usize,
    /// Who waits for what it computes.
    pub(crate) follower: Follower,
    /// Where what happens is told, if somebody listens.
    pub(crate) tell: Option<Tell>,
}

/// The most that one job may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JobCeiling {
    /// Patched runs, samples counted.
    pub cells: u64,
    /// Estimated seconds.
    pub seconds: f64,
}

impl JobCeiling {
    /// What its price is held against.
    pub const fn ceiling(&self) -> Ceiling {
        Ceiling { row_layers: u64::MAX, seconds: self.seconds }
    }
}

/// The body of a request and the memory that the request holds.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub body: Value,
    /// What it holds; of a body alone, nothing that is counted.
    pub share: Share,
}

/// Of the program itself, not of a client.
impl From<Value> for Asked {
    fn from(body: Value) -> Self {
        Self { body, share: Share::unbounded(Owner::local()) }
    }
}

impl From<(Value, &Share)> for Asked {
    fn from((body, share): (Value, &Share)) -> Self {
        Self { body, share: share.clone() }
    }
}

/// A plan that can be computed.
struct Ready {
    /// By which it is found, if it may be.
    key: Option<Key>,
    prepared: Prepared,
}

/// Why a request was not answered with a result.
#[derive(Debug)]
pub enum Refusal {
    /// Fields are wrong.
    Invalid(Problems),
    /// It would cost too much.
    TooLarge {
        /// What it would cost.
        cost: Cost,
        /// The most allowed.
        ceiling: Ceiling,
    },
    /// The engine did not compute it.
    Engine(EngineError),
    /// What everything else is compared with could not be computed.
    Lost(Lost),
    /// Activations were not stored or not found.
    Store(StoreError),
    /// What it needs of the embeddings could not be read.
    Checkpoint(LoadError),
    /// No memory was free for it.
    Busy(Busy),
}

impl From<Problems> for Refusal {
    fn from(problems: Problems) -> Refusal {
        Refusal::Invalid(problems)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::Store(error)
    }
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Refusal {
        Refusal::Busy(busy)
    }
}

impl From<PackError> for Refusal {
    fn from(error: PackError) -> Refusal {
        Refusal::Engine(error.into())
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Refusal {
        Refusal::Engine(error)
    }
}

impl Service {
    /// `POST /v1/tokenize`
    ///
    /// # Errors
    /// [`Refusal`]
    pub async fn tokenize(&self, asked: impl Into<Asked>) -> Result<TokenizeResponse, Refusal> {
        let Asked { body, share } = asked.into();
        self.off_workers(&share, Lane::Prepare, move |facts, _| Ok(tokenize(&body, facts)?)).await
    }

    /// The same service for a part of a job: its size is bounded where it is taken on, and what it costs goes on a tab.
    #[must_use]
    pub fn for_job(&self, tab: &Tab) -> Self {
        let ceiling = Ceiling { row_layers: u64::MAX, seconds: f64::INFINITY };
        Self { ceiling, ledger: tab.ledger().clone(), ..self.clone() }
    }

    /// The same service for somebody who listens to what happens, and may go away for a while.
    #[must_use]
    pub fn followed(&self, follower: Follower, tell: Tell) -> Self {
        Self { follower, tell: Some(tell), ..self.clone() }
    }

    /// What must be equal in two processes for their numbers to be: weights, tokenizer, arithmetic and devices (sums over
    /// several round differently).
    pub fn identity(&self) -> String {
        let ready = self.engine.ready();
        let (numerics, print, kind) = (ready.numerics, &self.served.fingerprint, ready.kind());
        let formats =
            [numerics.weights, numerics.compute, numerics.residual, numerics.logits].map(Dtype::name);
        format!("{}:{}:{}:{kind}", print.weights_sha256, print.tokenizer_sha256, formats.join(","))
    }

    /// The model as the requests of an owner see it.
    pub fn served_to(&self, owner: &Owner) -> ServedTo {
        ServedTo { served: Arc::clone(&self.served), owner: owner.clone() }
    }

    /// Does what takes its time off the async workers, when the request's turn in a lane has come. Nobody may wait for it any
    /// more.
    async fn off_workers<T: Send + 'static>(
        &self,
        share: &Share,
        lane: Lane,
        f: impl FnOnce(&ServedTo, &Abandoned) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let served = self.served_to(share.owner());
        share.run(lane, move |abandoned| reading(|| f(&served, abandoned))).await
    }

    /// Computes a plan, after the one whose captures it reads. Both are priced before either is computed.
    async fn compute(&self, share: &Share, prelude: Option<Plan>, plan: Plan) -> Result<Computed, Refusal> {
        self.compute_in(Turn::New, share, 0, prelude, plan).await
    }

    /// The same for one of several plans of a request, of which `kept` bytes are held already.
    async fn compute_in(
        &self,
        turn: Turn,
        share: &Share,
        kept: u64,
        prelude: Option<Plan>,
        plan: Plan,
    ) -> Result<Computed, Refusal> {
        let layers = self.served.config().num_layers as u32;
        let (service, owner) = (self.clone(), share.owner().clone());
        let look_up = !share.wants_fresh();
        share.stays_light(prelude.is_none() && weight::is_little(&plan));
        let prepared = self.off_workers(share, Lane::Prepare, move |facts, _| {
            let resolved = cone::resolved(&plan, layers);
            let bytes = weight::bytes(&plan, &facts.config)
                + prelude.as_ref().map_or(0, |p| weight::bytes(p, &facts.config));
            let prepare = |plan: &Plan| service.prepare(plan, look_up.then_some(&owner));
            let first = prelude.map(|prelude| prepare(&prelude)).transpose()?;
            Ok((first, prepare(&plan)?, plan, resolved, bytes))
        });
        let (first, mut second, mut plan, resolved, bytes) = prepared.await?;
        let (cost, ceiling) = (
            first
                .as_ref()
                .map_or(second.prepared.cost, |first| second.prepared.cost.and(&first.prepared.cost)),
            self.ceiling,
        );
        if !ceiling.allows(&cost) {
            return Err(Refusal::TooLarge { cost, ceiling });
        }
        // From here on the plan and what will come of it take the place of the body.
        share.resize(kept.saturating_add(bytes)).await?;
        let mut usage = Usage::default();
        if let Some(first) = first {
            let captured = self.execute(turn, share, first).await?;
            required_runs::none(&captured)?;
            usage = captured.usage;
            let (service, owner) = (self.clone(), share.owner().clone());
            let again = self.off_workers(share, Lane::Finish, move |_, _| {
                plan.fill(&captured.captures);
                Ok(service.prepare(&plan, look_up.then_some(&owner))?)
            });
            second = again.await?;
        }
        let mut output = self.execute(turn, share, second).await?;
        output.usage = output.usage.and(&usage);
        let Usage { cached, shared_with, seconds, queue_seconds, .. } = output.usage;
        let alone = !cached && shared_with == 0;
        share.was_computed(
            alone.then(|| Duration::try_from_secs_f64(seconds + queue_seconds).unwrap_or_default()),
        );
        Ok(Computed { output, resolved, again: None })
    }

    /// A plan made ready to be computed, or, for an owner, to be found. One that is to be filled is never found as it is.
    fn prepare(&self, plan: &Plan, owner: Option<&Owner>) -> Result<Ready, PackError> {
        let key = owner
            .filter(|_| plan.is_filled())
            .and_then(|owner| self.found.key(&self.engine, plan, &self.identity(), owner));
        Ok(Ready { key, prepared: self.engine.prepare(plan, Mode::Branching)? })
    }

    /// Computes a plan, or finds what came of it before.
    async fn execute(
        &self,
        turn: Turn,
        share: &Share,
        Ready { key, prepared }: Ready,
    ) -> Result<PlanOutput, EngineError> {
        let lane = if share.is_bounded() { engine::Lane::Interactive } else { engine::Lane::Sweep };
        let asker = Asker::of(share.account(), lane);
        let errand = Errand::new(asker, turn, self.charge(share));
        let span = tracing::debug_span!(
            "compute",
            ?lane,
            planned.row_layers = prepared.cost.row_layers,
            cached = Empty,
            row_layers = Empty,
            seconds = Empty,
            queue_seconds = Empty
        );
        let found = self
            .found
            .get(&self.engine, key, prepared, errand, &self.follower)
            .instrument(span.clone())
            .await;
        if let Ok(PlanOutput { usage, .. }) = &found {
            span.record("cached", usage.cached);
            span.record("row_layers", usage.row_layers);
            span.record("seconds", usage.seconds);
            span.record("queue_seconds", usage.queue_seconds);
        }
        found
    }

    /// Charges what is computed of a plan to its owner.
    fn charge(&self, share: &Share) -> Charge {
        let (ledger, account) = (self.ledger.clone(), share.account().clone());
        Box::new(move |usage| ledger.computed(&account, usage.row_layers, usage.seconds))
    }

    fn envelope(&self, kind: &str) -> Envelope {
        let served = &self.served;
        let ready = self.engine.ready();
        let numerics = ready.numerics;
        Envelope {
            id: format!("{kind}_{}", uuid::Uuid::now_v7().simple()),
            model: served.model().to_owned(),
            provenance: Provenance {
                server: env!("CARGO_PKG_VERSION").to_owned(),
                model_sha: Some(served.fingerprint.weights_sha256.clone()),
                tokenizer_sha: Some(served.fingerprint.tokenizer_sha256.clone()),
                weights_dtype: numerics.weights.name().to_owned(),
                compute: numerics.compute.name().to_owned(),
                residual: numerics.residual.name().to_owned(),
                logits: numerics.logits.name().to_owned(),
                device: ready.device(),
                tensor_parallel: ready.devices.len() as u32,
                batch_invariance: numerics.batch_invariance.name().to_owned(),
                ..Provenance::default()
            },
        }
    }
}

/// Does what may read the embeddings. A table that can no longer be read says so by a panic with the reason; any other panic
/// goes on its way to the layer that answers it.
fn reading<T>(f: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(done) => done,
        Err(panic) => match panic.downcast::<LoadError>() {
            Ok(error) => Err(Refusal::Checkpoint(*error)),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}
