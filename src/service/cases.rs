//! Traces of many prompts: a sweep that is answered at once. The unpatched runs of each case decide which count; these are
//! traced one after another, and each is added to the averages before the next.

use std::sync::Arc;

use serde_json::Value;

use super::cut::json;
use super::experiment::{AtOnce, Experiment, Priced, Pricing};
use super::sweep::{Computation, Survey, provenance, refused, survey};
use super::{Refusal, ServedTo, Service};
use crate::capacity::{Abandoned, Lane, Share};
use crate::effect::average::{Averaging, How};
use crate::effect::cells::{Observed, Standing, standings};
use crate::effect::sweep::Tally;
use crate::effect::sweep_lints::{of_averages, of_cases};
use crate::engine::Turn;
use crate::lower;
use crate::lower::facts::Facts;
use crate::lower::lint::Lints;
use crate::lower::sweep::{Part as Which, Sweep};
use crate::plan::output::{EditStats, PlanOutput, Usage};
use crate::result::cases::CasesResponse;
use crate::result::class_view::{self, Traced};
use crate::result::common::Receipts;
use crate::result::dry_run::PlanResponse;
use crate::result::render::TraceAnswer;
use crate::spec::cases::CasesSpec;
use crate::spec::kind::{Kind, Traces};
use crate::spec::problem::Problems;
use crate::spec::trace::TraceSpec;

impl Service {
    /// `POST /v1/trace` with `cases`.
    pub(super) async fn trace_cases(
        &self,
        share: &Share,
        spec: CasesSpec,
        sweep: Sweep,
    ) -> Result<CasesResponse, Refusal> {
        let (engine, ceiling) = (self.engine.clone(), self.ceiling);
        let sweep = Arc::new(sweep);
        let of_sweep = Arc::clone(&sweep);
        // Every case is priced: it is answered at once, or not at all.
        let priced = move |facts: &ServedTo, abandoned: &Abandoned| {
            survey(&of_sweep, facts, &engine, 1, abandoned, |survey| !ceiling.allows(&survey.cost))
        };
        let Survey { mut lints, layers, arms, cost, .. } =
            self.off_workers(share, Lane::Prepare, priced).await?;
        if !ceiling.allows(&cost) {
            return Err(Refusal::TooLarge { cost, ceiling });
        }
        let mut usage = Usage::default();
        let (mut heads, mut targets) = (Vec::with_capacity(sweep.len()), Vec::with_capacity(sweep.len()));
        for case in 0..sweep.len() {
            let turn = if case == 0 { Turn::New } else { Turn::Next };
            let one = self.unpatched(share, &sweep, case, turn).await?;
            usage = usage.and(&one.usage);
            heads.push(one.head);
            targets.push(one.target);
        }
        let metrics = sweep.spec.metrics.iter().map(ToString::to_string).collect();
        let observed = Observed { metrics, arms, cases: heads, ..Observed::default() };
        let mut averaging = Averaging::new(&observed, &How::of(&sweep.spec.aggregate));
        let standings = standings(&observed.cases, &sweep.spec.aggregate.by);
        let (mut tally, mut written) = (Tally::default(), [EditStats::default(); 3]);
        for (case, standing) in standings.into_iter().enumerate() {
            if standing == Standing::Dropped {
                continue;
            }
            let of_sweep = Arc::clone(&sweep);
            let whole =
                move |facts: &ServedTo, _: &Abandoned| Ok(of_sweep.case(case, Which::Whole, facts)?);
            let lowered = self.off_workers(share, Lane::Prepare, whole).await?;
            let cells = 0..lowered.layout.cells();
            let Computation { part, written: own, usage: used } =
                self.patched(share, Arc::new(lowered), case, cells, standing == Standing::Alone).await?;
            usage = usage.and(&used);
            for (sum, one) in written.iter_mut().zip(own) {
                *sum = sum.and(one);
            }
            averaging.add(&observed, &part.cells, &part.sampled);
            tally = tally.and(part.tally());
        }
        let receipt = Receipts::of(&PlanOutput { receipts: written, ..PlanOutput::default() });
        let mut envelope = self.envelope("trace");
        envelope.provenance = provenance(&sweep, envelope.provenance);
        let answer = move |_: &ServedTo, _: &Abandoned| {
            let spec_of = &sweep.spec;
            let averaged = averaging.finish(&observed);
            let (averages, dominated) = averaged.averages();
            let mut found = of_cases(spec_of, &observed.arms, &observed.cases, &tally);
            of_averages(spec_of, &dominated, averages.test.as_ref(), &mut found);
            refused(spec_of, &found.0)?;
            lints.extend(found.0);
            let sigma = sweep.shared.sigma;
            let traced = Traced { averages, targets, layers, sigma, receipt, usage, lints };
            Ok(class_view::respond(spec, &averaged, traced, envelope))
        };
        self.off_workers(share, Lane::Finish, answer).await
    }
}

impl Experiment for Traces {
    type Lowered = lower::Traced;

    fn lowered(body: &Arc<Value>, facts: &dyn Facts) -> Result<lower::Traced, Problems> {
        lower::traced(body, facts)
    }

    fn price(lowered: lower::Traced, pricing: &Pricing<'_>) -> Result<Priced, Refusal> {
        match lowered {
            lower::Traced::One(one) => <TraceSpec as Experiment>::price(*one, pricing),
            lower::Traced::Many(spec, sweep) => price(&spec, &sweep, pricing),
        }
    }
}

impl AtOnce for Traces {
    type Response = TraceAnswer;

    async fn answer(
        lowered: lower::Traced,
        service: &Service,
        share: &Share,
    ) -> Result<TraceAnswer, Refusal> {
        Ok(match lowered {
            lower::Traced::One(one) => {
                let answer = <TraceSpec as AtOnce>::answer(*one, service, share);
                TraceAnswer::One(Box::new(answer.await?))
            }
            lower::Traced::Many(spec, sweep) => {
                TraceAnswer::Cases(Box::new(service.trace_cases(share, *spec, *sweep).await?))
            }
        })
    }
}

/// What a trace with `cases` would cost.
fn price(spec: &CasesSpec, sweep: &Sweep, pricing: &Pricing<'_>) -> Result<Priced, Refusal> {
    let Pricing { facts, engine, ceiling, abandoned, .. } = *pricing;
    let survey = survey(sweep, facts, engine, 1, abandoned, |survey| !ceiling.allows(&survey.cost))?;
    let mut lints = Lints(survey.lints);
    let (counted, all) = (survey.cells.len(), sweep.len());
    if counted < all {
        let detail = format!(
            "the first {counted} of {all} cases cost more than the limit; the others were not counted"
        );
        lints.info("COST_INCOMPLETE", "/cases", detail, "send fewer cases per request");
    }
    let plan = PlanResponse {
        model: facts.model().to_owned(),
        kind: Kind::Trace.name(),
        request: json(spec),
        runs: survey.runs,
        readouts: survey.readouts,
        cost: survey.cost,
        ceiling,
        allowed: ceiling.allows(&survey.cost),
        lints: lints.0,
        plan_sha256: sweep.shared.plan_sha256.clone(),
    };
    Ok(Priced { plan, cut: None })
}
