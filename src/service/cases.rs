//! Traces of many prompts: a sweep that is answered at once. The unpatched runs of each case decide which count; these are
//! traced one after another, and each is added to the averages before the next.

use std::sync::Arc;

use serde_json::Value;

use super::sweep::{Computation, Survey, provenance, refused, survey};
use super::{Refusal, ServedTo, Service, Turn};
use crate::capacity::{Abandoned, Share};
use crate::effect::average::{Averaging, How};
use crate::effect::cells::Observed;
use crate::effect::sweep::Tally;
use crate::effect::sweep_lints::{of_averages, of_cases};
use crate::engine::{Engine, EngineError};
use crate::lower::facts::Facts;
use crate::lower::lint::Lints;
use crate::lower::sweep::{Part as Which, Sweep};
use crate::plan::cost::Ceiling;
use crate::plan::output::{EditStats, PlanOutput, Usage};
use crate::plan::pack::PackError;
use crate::result::cases::{self, CasesResponse, Traced};
use crate::result::common::Receipts;
use crate::result::dry_run::PlanResponse;
use crate::spec::cases::CasesSpec;
use crate::spec::dry_run::Planned;
use crate::spec::problem::Problems;

impl Service {
    /// `POST /v1/trace` with `cases`. `body`: the request, as it was written.
    pub(super) async fn trace_cases(
        &self,
        share: &Share,
        spec: CasesSpec,
        sweep: Sweep,
        body: Arc<Value>,
    ) -> Result<CasesResponse, Refusal> {
        let (engine, ceiling) = (self.engine.clone(), self.ceiling);
        let sweep = Arc::new(sweep);
        let of_sweep = Arc::clone(&sweep);
        let priced = move |facts: &ServedTo, abandoned: &Abandoned| {
            price(&of_sweep, &body, facts, &engine, ceiling, abandoned)
        };
        let Survey { mut lints, layers, arms, cost, .. } =
            self.lower_long(share, priced).await?.map_err(EngineError::from)?;
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
        let (mut tally, mut written) = (Tally::default(), [EditStats::default(); 3]);
        for case in (0..sweep.len()).filter(|case| observed.cases[*case].kept) {
            let of_sweep = Arc::clone(&sweep);
            let lowered = self.lower(share, move |facts| of_sweep.case(case, Which::Whole, facts)).await?;
            let cells = 0..lowered.layout.cells();
            let Computation { part, written: own, usage: used } =
                self.patched(share, Arc::new(lowered), case, cells).await?;
            usage = usage.and(&used);
            for (sum, one) in written.iter_mut().zip(own) {
                *sum = sum.and(one);
            }
            averaging.add(&observed, &part.cells);
            tally = tally.and(part.tally());
        }
        let receipt = Receipts::of(&PlanOutput { receipts: written, ..PlanOutput::default() });
        let mut envelope = self.envelope("trace");
        envelope.provenance = provenance(&sweep, envelope.provenance);
        let answer = move |_: &ServedTo| {
            let spec_of = &sweep.spec;
            let averaged = averaging.finish(&observed);
            let (averages, dominated) = averaged.averages();
            let mut found = of_cases(spec_of, &observed.arms, &observed.cases, &tally);
            of_averages(spec_of, &dominated, averages.test.as_ref(), &mut found);
            refused(spec_of, &found.0)?;
            lints.extend(found.0);
            let sigma = sweep.shared.sigma;
            let traced = Traced { averages, targets, layers, sigma, receipt, usage, lints };
            Ok(cases::respond(spec, &averaged, traced, envelope))
        };
        self.respond(share, answer).await
    }
}

/// Every case is priced: it is answered at once, or not at all.
fn price(
    sweep: &Sweep,
    body: &Value,
    facts: &dyn Facts,
    engine: &Engine,
    ceiling: Ceiling,
    abandoned: &Abandoned,
) -> Result<Result<Survey, PackError>, Problems> {
    survey(sweep, body, facts, engine, 1, abandoned, |survey| !ceiling.allows(&survey.cost))
}

/// `POST /v1/plan` of a trace with `cases`.
pub(super) fn plan(
    spec: &CasesSpec,
    sweep: &Sweep,
    body: &Value,
    facts: &dyn Facts,
    engine: &Engine,
    ceiling: Ceiling,
    abandoned: &Abandoned,
) -> Result<Result<PlanResponse, PackError>, Problems> {
    let survey = match price(sweep, body, facts, engine, ceiling, abandoned)? {
        Ok(survey) => survey,
        Err(error) => return Ok(Err(error)),
    };
    let mut lints = Lints(survey.lints);
    let (counted, all) = (survey.cells.len(), sweep.len());
    if counted < all {
        let detail = format!(
            "the first {counted} of {all} cases cost more than is let in; the others were not counted"
        );
        lints.info("COST_INCOMPLETE", "/cases", detail, "send fewer cases per request");
    }
    let request = serde_json::to_value(spec).expect("BUG: specs hold finite numbers and string keys only");
    Ok(Ok(PlanResponse {
        model: facts.model().to_owned(),
        kind: Planned::Trace.name(),
        request,
        runs: survey.runs,
        readouts: survey.readouts,
        cost: survey.cost,
        ceiling,
        allowed: ceiling.allows(&survey.cost),
        lints: lints.0,
        plan_sha256: sweep.shared.plan_sha256.clone(),
    }))
}
