//! What every request that is computed is to the server: read and lowered, priced, computed and answered.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::cut::{Cuts, json};
use super::{Asked, Refusal, ServedTo, Service, activations, required_runs};
use crate::capacity::{Abandoned, Lane, Share};
use crate::engine::{Engine, Turn};
use crate::lower;
use crate::lower::facts::Facts;
use crate::lower::layout::Lowered;
use crate::lower::request::{Layout, Request};
use crate::plan::cost::{Ceiling, Cost};
use crate::plan::pack::{Mode, PackError};
use crate::plan::{Plan, Scoring};
use crate::result::common::Provenance;
use crate::result::dry_run::PlanResponse;
use crate::result::respond::{Computed, Respond};
use crate::spec::experiment::Form;
use crate::spec::kind::{Kind, of_kind, split};
use crate::spec::problem::Problems;

/// Something that the server can be asked for.
pub trait Experiment: 'static {
    /// What its bodies mean to the model.
    type Lowered: Send + 'static;

    /// Reads and lowers a body.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    fn lowered(body: &Arc<Value>, facts: &dyn Facts) -> Result<Self::Lowered, Problems>;

    /// What it would do and cost, with every remark that needs no computation.
    ///
    /// # Errors
    /// What is wrong with it and is seen when its plans are made alone.
    fn price(lowered: Self::Lowered, pricing: &Pricing<'_>) -> Result<Priced, Refusal>;
}

/// An experiment that is answered at once.
pub trait AtOnce: Experiment {
    /// What with.
    type Response: Serialize + Send + 'static;

    /// Computes it, and puts the answer together.
    fn answer(
        lowered: Self::Lowered,
        service: &Service,
        share: &Share,
    ) -> impl Future<Output = Result<Self::Response, Refusal>> + Send;
}

/// What prices depend on beside the request.
pub struct Pricing<'p> {
    /// The model.
    pub facts: &'p ServedTo,
    /// What will compute it.
    pub engine: &'p Engine,
    /// The most that it may cost: what costs more is not counted to its end.
    pub ceiling: Ceiling,
    /// The most patched runs, or texts, of a job.
    pub cells: u64,
    /// The most rows of a step of generated text.
    pub step_rows: usize,
    /// Seconds of computation that a job's units are cut to.
    pub unit_s: f64,
    /// How a job's numbers come about.
    pub provenance: Provenance,
    /// Whether anybody still waits.
    pub abandoned: &'p Abandoned,
}

/// What a request would do and cost.
#[derive(Debug, Clone)]
pub struct Priced {
    /// The answer of a dry run.
    pub plan: PlanResponse,
    /// How it is cut, if it is computed in units.
    pub cut: Option<Cuts>,
}

impl Service {
    /// Reads, lowers and computes a request, and answers it.
    ///
    /// # Errors
    /// [`Refusal`]
    pub async fn answer<E: AtOnce>(&self, asked: impl Into<Asked>) -> Result<E::Response, Refusal> {
        let Asked { body, share } = asked.into();
        let body = Arc::new(body);
        let lowered = self.off_workers(&share, Lane::Prepare, move |facts, _| Ok(E::lowered(&body, facts)?));
        E::answer(lowered.await?, self, &share).await
    }

    /// What a request would cost, if it is valid. A job's units are cut to `unit_s` seconds.
    ///
    /// # Errors
    /// [`Refusal`]
    pub async fn price(
        &self,
        kind: Kind,
        body: Arc<Value>,
        ceiling: Ceiling,
        unit_s: f64,
        share: &Share,
    ) -> Result<Priced, Refusal> {
        let (engine, cells, step_rows) = (self.engine.clone(), self.jobs.cells, self.step_rows);
        // Whoever computes a job, with however many threads.
        let device = self.engine.ready().kind();
        let provenance = Provenance { device, ..self.envelope(kind.name()).provenance };
        self.off_workers(share, Lane::Prepare, move |facts, abandoned| {
            let pricing =
                Pricing { facts, engine: &engine, ceiling, cells, step_rows, unit_s, provenance, abandoned };
            of_kind!(kind, E => E::price(E::lowered(&body, facts)?, &pricing))
        })
        .await
    }

    /// `POST /v1/plan`: everything up to the engine's door, or the queue's.
    ///
    /// # Errors
    /// [`Refusal`]
    pub async fn plan(&self, asked: impl Into<Asked>) -> Result<PlanResponse, Refusal> {
        let Asked { body, share } = asked.into();
        let (kind, inner) = self.off_workers(&share, Lane::Prepare, move |_, _| Ok(split(body)?)).await?;
        let under = |refusal| match refusal {
            Refusal::Invalid(problems) => problems.under(&format!("/{}", kind.name())).into(),
            other => other,
        };
        if kind == Kind::Generate && inner.get("dataset").is_none_or(Value::is_null) {
            return self.plan_text(inner, &share).await.map_err(under);
        }
        let ceiling = if kind.is_in_units() { self.jobs.ceiling() } else { self.ceiling };
        match self.price(kind, Arc::new(inner), ceiling, 1.0, &share).await {
            Ok(priced) => Ok(priced.plan),
            Err(refusal) => Err(under(refusal)),
        }
    }
}

/// The layout of what a form is read as.
type LayoutOf<F> = <<F as Form>::Request as Request>::Layout;

/// A wire form of a request that is one plan.
impl<F: Form<Request: Request>> Experiment for F
where
    LayoutOf<F>: Respond,
{
    type Lowered = Lowered<LayoutOf<F>>;

    fn lowered(body: &Arc<Value>, facts: &dyn Facts) -> Result<Self::Lowered, Problems> {
        lower::lower::<F>(body, facts)
    }

    fn price(lowered: Self::Lowered, pricing: &Pricing<'_>) -> Result<Priced, Refusal> {
        let Lowered { prelude, plan, layout } = lowered;
        let again = rescored(&plan, &layout);
        let cost = cost(pricing.engine, prelude.as_ref(), &plan, again.as_ref())?;
        let (ceiling, common) = (pricing.ceiling, layout.common());
        let plan = PlanResponse {
            model: pricing.facts.model().to_owned(),
            kind: F::NAME,
            request: json(layout.request()),
            runs: plan.runs.len(),
            readouts: plan.readouts.len(),
            cost,
            ceiling,
            allowed: ceiling.allows(&cost),
            lints: common.lints.0.clone(),
            plan_sha256: common.plan_sha256.clone(),
        };
        Ok(Priced { plan, cut: None })
    }
}

impl<F: Form<Request: Request>> AtOnce for F
where
    LayoutOf<F>: Respond,
{
    type Response = <LayoutOf<F> as Respond>::Response;

    async fn answer(
        lowered: Self::Lowered,
        service: &Service,
        share: &Share,
    ) -> Result<Self::Response, Refusal> {
        let Lowered { prelude, plan, layout } = lowered;
        let promised = activations::reserve(&service.served.activations, share.owner(), &layout)?;
        let envelope = service.envelope(F::NAME);
        let layout = Arc::new(layout);
        let again = rescored(&plan, &*layout).map(|again| (prelude.clone(), again));
        if let Some((prelude, again)) = &again {
            let (cost, ceiling) =
                (cost(&service.engine, prelude.as_ref(), &plan, Some(again))?, service.ceiling);
            if !ceiling.allows(&cost) {
                return Err(Refusal::TooLarge { cost, ceiling });
            }
        }
        let mut computed = if layout.is_computed() {
            Box::pin(service.told_of(F::NAME, share, &layout, &envelope, prelude, plan)).await?
        } else {
            Computed::default()
        };
        match layout.required() {
            None => required_runs::none(&computed.output)?,
            Some(readouts) => required_runs::none_of(&computed.output, readouts)?,
        }
        if let Some((prelude, mut again)) = again {
            again.scoring.targets = layout.wanted_again(&computed.output);
            let again =
                Box::pin(service.compute_in(Turn::Next, share, share.bytes(), prelude, again)).await?.output;
            computed.output.usage = computed.output.usage.and(&again.usage);
            computed.again = Some(again);
        }
        let answer = move |facts: &ServedTo, _: &Abandoned| {
            let id = envelope.id.clone();
            let mut response = layout.respond(&computed, facts, envelope)?;
            activations::keep(facts, &*layout, &computed.output, promised, &id, &mut response)?;
            Ok(response)
        };
        service.off_workers(share, Lane::Finish, answer).await
    }
}

/// The plan of what is scored once more, without the tokens: which these are is not known before the first is computed.
fn rescored<L: Respond>(plan: &Plan, layout: &L) -> Option<Plan> {
    let readouts = layout.again();
    let bare = || Plan { scoring: Scoring::default(), ..plan.clone() };
    (!readouts.is_empty()).then(|| bare().only(&readouts))
}

/// What plans cost that are computed one after the other; each of the two with what is captured beforehand.
fn cost(
    engine: &Engine,
    prelude: Option<&Plan>,
    plan: &Plan,
    again: Option<&Plan>,
) -> Result<Cost, PackError> {
    let of = |plan: &Plan| engine.prepare(plan, Mode::Branching).map(|prepared| prepared.cost);
    let first = prelude.map_or(Ok(Cost::default()), of)?;
    let once = of(plan)?.and(&first);
    again.map_or(Ok(once), |again| Ok(once.and(&first).and(&of(again)?)))
}
