//! The whole flow of a request in one place: body -> lowered plan -> engine -> response.
//!
//! Adapters (HTTP, later others) hold a [`Service`] and know nothing of what lies behind it.

mod activations;
mod cases;
mod required_runs;
mod mean;
mod served;
pub mod start;
pub mod sweep;
mod table;
mod weight;

use std::sync::Arc;

use serde_json::Value;

pub use activations::NumbersAsked;
pub use served::{Served, ServedTo};

use crate::activations::StoreError;
use crate::capacity::{Abandoned, Busy, Lane, Share};
use crate::engine::{self, Asker, Engine, EngineError, Prepared};
use crate::load::LoadError;
use crate::lower::facts::Facts;
use crate::lower::layout::{Common, Lowered};
use crate::lower::{self, Traced};
use crate::owner::Owner;
use crate::plan::cone;
use crate::plan::cost::{Ceiling, Cost};
use crate::plan::output::{Lost, PlanOutput, Usage};
use crate::plan::pack::Mode;
use crate::plan::{Plan, RunId};
use crate::result::align::AlignResponse;
use crate::result::common::{Envelope, Provenance, TokenizeResponse, tokenize};
use crate::result::dry_run::PlanResponse;
use crate::result::patch::PatchResponse;
use crate::result::render::TraceAnswer;
use crate::result::run::RunResponse;
use crate::result::{align, patch, run, trace};
use crate::spec::dry_run::{self, Planned};
use crate::spec::dtype::Dtype;
use crate::spec::problem::Problems;

/// A served model. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    /// What is known of the model.
    pub served: Arc<Served>,
    /// What computes.
    pub engine: Engine,
    /// What one request may cost.
    pub ceiling: Ceiling,
    /// What one job may cost.
    pub jobs: JobCeiling,
}

/// The most that one job may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JobCeiling {
    /// Patched runs, samples counted.
    pub cells: u64,
    /// Estimated seconds.
    pub seconds: f64,
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

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Refusal {
        Refusal::Engine(error)
    }
}

/// What a plan gave, with the runs its readouts really come from.
struct Computed {
    output: PlanOutput,
    resolved: Vec<RunId>,
}

/// Whether a plan is the first of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The first: refused where too many wait.
    New,
    /// A further one: waits.
    Next,
}

impl Turn {
    async fn execute(
        self,
        engine: &Engine,
        prepared: Prepared,
        asker: &Asker,
    ) -> Result<PlanOutput, EngineError> {
        match self {
            Self::New => engine.execute(prepared, asker).await,
            Self::Next => engine.execute_next(prepared, asker).await,
        }
    }
}

impl Service {
    /// `POST /v1/run`
    pub async fn run(&self, asked: impl Into<Asked>) -> Result<RunResponse, Refusal> {
        let Asked { body, share } = asked.into();
        let share = &share;
        let Lowered { prelude, plan, layout } =
            self.lower(share, move |facts| lower::lower::<crate::spec::run::RunSpec>(&body, facts)).await?;
        let promised = activations::reserve(&self.served.activations, share.owner(), &layout)?;
        let Computed { output, .. } = self.compute(share, prelude, plan).await?;
        required_runs::none(&output)?;
        let envelope = self.envelope("run");
        let answer = move |facts: &ServedTo| {
            let mut response = run::respond(&layout, &output, facts, envelope)?;
            Ok(activations::keep(facts, &layout, &output, promised, &mut response).map(|()| response))
        };
        Ok(self.respond(share, answer).await??)
    }

    /// `POST /v1/patch`
    pub async fn patch(&self, asked: impl Into<Asked>) -> Result<PatchResponse, Refusal> {
        let Asked { body, share } = asked.into();
        let share = &share;
        let Lowered { prelude, plan, layout } = self
            .lower(share, move |facts| lower::lower::<crate::spec::patch::PatchSpec>(&body, facts))
            .await?;
        let Computed { output, resolved } = self.compute(share, prelude, plan).await?;
        required_runs::none_of(&output, required_runs::compared_in_patch(&layout))?;
        let envelope = self.envelope("patch");
        let answer =
            move |facts: &ServedTo| patch::respond(&layout, &resolved, &output, facts.words(), envelope);
        self.respond(share, answer).await
    }

    /// `POST /v1/trace`
    pub async fn trace(&self, asked: impl Into<Asked>) -> Result<TraceAnswer, Refusal> {
        let Asked { body, share } = asked.into();
        let (body, share) = (Arc::new(body), &share);
        let written = Arc::clone(&body);
        let Lowered { prelude, plan, layout } =
            match self.lower(share, move |facts| lower::traced(&written, facts)).await? {
                Traced::One(one) => *one,
                Traced::Many(spec, sweep) => {
                    let response = self.trace_cases(share, *spec, *sweep, body).await?;
                    return Ok(TraceAnswer::Cases(Box::new(response)));
                }
            };
        drop(body);
        let Computed { output, resolved } = self.compute(share, prelude, plan).await?;
        required_runs::none_of(&output, layout.case.unpatched())?;
        let envelope = self.envelope("trace");
        let answer =
            move |facts: &ServedTo| trace::respond(&layout, &resolved, &output, facts.words(), envelope);
        Ok(TraceAnswer::One(Box::new(self.respond(share, answer).await?)))
    }

    /// `POST /v1/align`: the model runs only if something is to be measured.
    pub async fn align(&self, asked: impl Into<Asked>) -> Result<AlignResponse, Refusal> {
        let Asked { body, share } = asked.into();
        let share = &share;
        let Lowered { prelude, plan, layout } = self
            .lower(share, move |facts| lower::lower::<crate::spec::align::AlignSpec>(&body, facts))
            .await?;
        let output = match &layout.common.measures[..] {
            [] => None,
            _ => Some(self.compute(share, prelude, plan).await?.output),
        };
        output.as_ref().map_or(Ok(()), required_runs::none)?;
        let envelope = self.envelope("align");
        let answer =
            move |facts: &ServedTo| align::respond(&layout, output.as_ref(), facts.words(), envelope);
        self.respond(share, answer).await
    }

    /// `POST /v1/tokenize`
    pub async fn tokenize(&self, asked: impl Into<Asked>) -> Result<TokenizeResponse, Refusal> {
        let Asked { body, share } = asked.into();
        let share = &share;
        self.lower(share, move |facts| tokenize(&body, facts)).await
    }

    /// `POST /v1/plan`: everything up to the engine's door.
    pub async fn plan(&self, asked: impl Into<Asked>) -> Result<PlanResponse, Refusal> {
        let Asked { body, share } = asked.into();
        let share = &share;
        let split = move |_: &ServedTo| dry_run::split(body);
        let (kind, inner) = self.lower(share, split).await?;
        let planned = if kind == Planned::Sweep {
            self.plan_sweep(inner, share).await
        } else {
            self.planned(kind, inner, share).await
        };
        planned.map_err(|refusal| match refusal {
            Refusal::Invalid(problems) => Refusal::Invalid(problems.under(kind.prefix())),
            other => other,
        })
    }

    /// What a request that is valid would cost.
    pub async fn price(
        &self,
        kind: Planned,
        body: impl Into<Arc<Value>>,
        share: &Share,
    ) -> Result<Cost, Refusal> {
        Ok(self.planned(kind, body, share).await?.cost)
    }

    async fn planned(
        &self,
        kind: Planned,
        inner: impl Into<Arc<Value>>,
        share: &Share,
    ) -> Result<PlanResponse, Refusal> {
        let (engine, ceiling, inner) = (self.engine.clone(), self.ceiling, inner.into());
        let planned = self.lower_long(share, move |facts, abandoned| {
            let inner = &*inner;
            let (prelude, plan, request, common) = match kind {
                Planned::Run => lower::lower::<crate::spec::run::RunSpec>(inner, facts)
                    .map(|l| parts(l.prelude, l.plan, &l.layout.spec, &l.layout.common)),
                Planned::Patch => lower::lower::<crate::spec::patch::PatchSpec>(inner, facts)
                    .map(|l| parts(l.prelude, l.plan, &l.layout.spec, &l.layout.common)),
                Planned::Trace | Planned::Sweep => match lower::traced(inner, facts)? {
                    Traced::One(l) => Ok(parts(l.prelude, l.plan, &l.layout.spec, &l.layout.case.common)),
                    Traced::Many(spec, sweep) => {
                        return cases::plan(&spec, &sweep, inner, facts, &engine, ceiling, abandoned);
                    }
                },
            }?;
            let cost = |plan: &Plan| engine.prepare(plan, Mode::Branching).map(|prepared| prepared.cost);
            let first = prelude.as_ref().map_or(Ok(Cost::default()), cost);
            Ok(first.and_then(|first| {
                let cost = cost(&plan)?.and(&first);
                Ok(PlanResponse::new(facts.model(), kind, request, &plan, &common, cost, ceiling))
            }))
        });
        planned.await?.map_err(|error| Refusal::Engine(error.into()))
    }

    /// The same service for requests that nobody waits for: their size is bounded where they are taken on.
    #[must_use]
    pub fn unbounded(&self) -> Self {
        Self { ceiling: Ceiling { row_layers: u64::MAX, seconds: f64::INFINITY }, ..self.clone() }
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

    /// Reads and lowers off the async workers, where the request's turn is.
    async fn lower<T: Send + 'static>(
        &self,
        share: &Share,
        f: impl FnOnce(&ServedTo) -> Result<T, Problems> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.lower_long(share, move |facts, _| f(facts)).await
    }

    /// The same of what may take so long that it should stop when nobody waits for it any more.
    async fn lower_long<T: Send + 'static>(
        &self,
        share: &Share,
        f: impl FnOnce(&ServedTo, &Abandoned) -> Result<T, Problems> + Send + 'static,
    ) -> Result<T, Refusal> {
        let served = self.served_to(share.owner());
        share.run(Lane::Prepare, move |abandoned| reading(|| f(&served, abandoned))).await
    }

    /// Makes something of what was computed, off the async workers.
    async fn respond<T: Send + 'static>(
        &self,
        share: &Share,
        f: impl FnOnce(&ServedTo) -> Result<T, Problems> + Send + 'static,
    ) -> Result<T, Refusal> {
        let served = self.served_to(share.owner());
        share.run(Lane::Finish, move |_| reading(|| f(&served))).await
    }

    /// The model as the requests of an owner see it.
    pub fn served_to(&self, owner: &Owner) -> ServedTo {
        ServedTo { served: Arc::clone(&self.served), owner: owner.clone() }
    }

    /// Computes a plan, after the one whose captures it reads. Both are priced before either is computed.
    async fn compute(&self, share: &Share, prelude: Option<Plan>, plan: Plan) -> Result<Computed, Refusal> {
        self.compute_in(Turn::New, share, prelude, plan).await
    }

    /// The same for one of several plans of a request.
    async fn compute_in(
        &self,
        turn: Turn,
        share: &Share,
        prelude: Option<Plan>,
        plan: Plan,
    ) -> Result<Computed, Refusal> {
        let layers = self.served.config().num_layers as u32;
        let engine = self.engine.clone();
        let prepared = self.lower(share, move |facts| {
            let resolved = cone::resolved(&plan, layers);
            let bytes = weight::bytes(&plan, &facts.config)
                + prelude.as_ref().map_or(0, |p| weight::bytes(p, &facts.config));
            let first = prelude.map(|prelude| engine.prepare(&prelude, Mode::Branching)).transpose();
            Ok(first.and_then(|first| {
                Ok((first, engine.prepare(&plan, Mode::Branching)?, plan, resolved, bytes))
            }))
        });
        let (first, mut prepared, mut plan, resolved, bytes) = prepared.await?.map_err(EngineError::from)?;
        let (cost, ceiling) =
            (first.as_ref().map_or(prepared.cost, |f| prepared.cost.and(&f.cost)), self.ceiling);
        if !ceiling.allows(&cost) {
            return Err(Refusal::TooLarge { cost, ceiling });
        }
        let lane = if share.is_bounded() { engine::Lane::Interactive } else { engine::Lane::Sweep };
        let asker = Asker { owner: share.owner().clone(), lane };
        // From here on the plan and what will come of it take the place of the body.
        share.resize(bytes).await?;
        let mut usage = Usage::default();
        if let Some(first) = first {
            let captured = turn.execute(&self.engine, first, &asker).await?;
            required_runs::none(&captured)?;
            usage = captured.usage;
            let engine = self.engine.clone();
            let again = self.respond(share, move |_| {
                plan.fill(&captured.captures);
                Ok(engine.prepare(&plan, Mode::Branching))
            });
            prepared = again.await?.map_err(EngineError::from)?;
        }
        let mut output = turn.execute(&self.engine, prepared, &asker).await?;
        output.usage = output.usage.and(&usage);
        Ok(Computed { output, resolved })
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
fn reading<T>(f: impl FnOnce() -> Result<T, Problems>) -> Result<T, Refusal> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(done) => Ok(done?),
        Err(panic) => match panic.downcast::<LoadError>() {
            Ok(error) => Err(Refusal::Checkpoint(*error)),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// What all plans have in common, the request as JSON.
fn parts(
    prelude: Option<Plan>,
    plan: Plan,
    spec: &impl serde::Serialize,
    common: &Common,
) -> (Option<Plan>, Plan, Value, Common) {
    let request = serde_json::to_value(spec).expect("BUG: specs hold finite numbers and string keys only");
    (prelude, plan, request, common.clone())
}
