//! Traces of many prompts: all are priced, the unpatched runs of each decide which count, and these are traced one after
//! another, each reduced to its averages before the next.

use std::sync::Arc;

use serde_json::Value;

use super::{Asked, Computed, Refusal, ServedTo, Service, Turn, lost};
use crate::capacity::{Abandoned, Share};
use crate::effect::cases::{judge, of_baselines, reduce};
use crate::effect::lints;
use crate::engine::{Engine, EngineError};
use crate::lower::cases::{Cases, cases};
use crate::lower::facts::Facts;
use crate::lower::layout::{Lowered, TraceLayout};
use crate::lower::lint::{Lint, Lints};
use crate::plan::cost::{Ceiling, Cost};
use crate::plan::output::{EditStats, PlanOutput, Usage};
use crate::plan::pack::{Mode, PackError};
use crate::plan::{EditGroup, Plan, RunId};
use crate::result::cases::{self, CasesResponse, Totals};
use crate::result::common::Receipts;
use crate::result::dry_run::PlanResponse;
use crate::spec::dry_run::Planned;
use crate::spec::problem::Problems;

/// Cases whose plans have been made once, to see what is wrong with them and what they cost.
struct Priced {
    cases: Cases,
    lints: Vec<Lint>,
    /// Each arm's layers; none at sites without.
    layers: Vec<Option<Vec<u32>>>,
    /// Of the first `counted` cases.
    cost: Cost,
    runs: usize,
    readouts: usize,
    /// Fewer than all if these cost too much already.
    counted: usize,
}

impl Service {
    /// `POST /v1/trace` with `cases`.
    pub async fn trace_cases(&self, asked: impl Into<Asked>) -> Result<CasesResponse, Refusal> {
        let Asked { body, share } = asked.into();
        let share = &share;
        let (engine, ceiling) = (self.engine.clone(), self.ceiling);
        let priced = self
            .lower_long(share, move |facts, abandoned| price(&body, facts, &engine, ceiling, abandoned))
            .await?;
        let Priced { cases, mut lints, layers, cost, .. } = priced.map_err(EngineError::from)?;
        if !ceiling.allows(&cost) {
            return Err(Refusal::TooLarge { cost, ceiling });
        }
        let cases = Arc::new(cases);
        let mut written = [EditStats::default(); 3];
        let mut usage = Usage::default();
        let (mut computed, mut of_dropped) =
            (Vec::with_capacity(cases.len()), Vec::with_capacity(cases.len()));
        for case in 0..cases.len() {
            let turn = if case == 0 { Turn::New } else { Turn::Next };
            let done = self.one(share, &cases, case, turn, Cases::baseline).await?;
            usage = usage.and(&done.output.usage);
            let filters = cases.spec.filters;
            let judged = move |facts: &ServedTo| {
                let (layout, scores) = (&done.layout, &done.output.scores);
                let measures = &layout.common.measures;
                let mut remarks = Lints::default();
                lints::not_finite(layout, scores).lint(&mut remarks);
                let computed = cases::Computed {
                    baselines: of_baselines(layout, scores),
                    metrics: measures.iter().map(|measure| measure.metric.to_string()).collect(),
                    dropped: judge(layout, scores, &filters, &|id| facts.words().text(id)),
                    effects: None,
                };
                Ok((computed, remarks))
            };
            let (one, remarks) = self.respond(share, judged).await?;
            computed.push(one);
            of_dropped.push(remarks);
        }
        let mut found = cases.gather();
        // Of cases that count, their traces say it.
        for (case, remarks) in of_dropped.into_iter().enumerate() {
            if !computed[case].dropped.is_empty() {
                found.add_lints(case, remarks);
            }
        }
        for (case, computed) in computed.iter_mut().enumerate().filter(|(_, case)| case.dropped.is_empty()) {
            let done = self.one(share, &cases, case, Turn::Next, Cases::trace).await?;
            usage = usage.and(&done.output.usage);
            for (sum, one) in written.iter_mut().zip(done.output.receipts) {
                *sum = sum.and(one);
            }
            let (subject, len) = (cases.subject(case), cases.runs[case].len());
            let reduced = move |facts: &ServedTo| {
                let Done { layout, output, resolved } = &done;
                let parents = layout.parents();
                let nulls = layout.arms.iter().flat_map(|(_, grid)| grid.exact_nulls(resolved, &parents));
                let nulls: Vec<bool> = nulls.collect();
                let patched = output.receipt(EditGroup::Patch);
                let remarks =
                    lints::trace(layout, &output.scores, &nulls, patched, &|id| facts.words().text(id));
                Ok((reduce(layout, &subject, len, resolved, &output.scores), remarks))
            };
            let (effects, remarks) = self.respond(share, reduced).await?;
            found.add_lints(case, remarks);
            computed.traced(effects);
        }
        found.lint(cases::remarks(&cases, &computed));
        let found = found.lints();
        cases.refused(&found)?;
        lints.extend(found);
        let receipt = Receipts::of(&PlanOutput { receipts: written, ..PlanOutput::default() });
        let totals = Totals { receipt, usage, lints, layers };
        let envelope = self.envelope("trace");
        let answer =
            move |facts: &ServedTo| Ok(cases::respond(&cases, &computed, totals, facts.words(), envelope));
        self.respond(share, answer).await
    }

    /// Computes one plan of a case.
    async fn one(
        &self,
        share: &Share,
        cases: &Arc<Cases>,
        case: usize,
        turn: Turn,
        plan: impl FnOnce(&Cases, usize, &dyn Facts) -> Result<Lowered<TraceLayout>, Problems> + Send + 'static,
    ) -> Result<Done, Refusal> {
        let cases = Arc::clone(cases);
        let Lowered { prelude, plan, layout } =
            self.lower(share, move |facts| plan(&cases, case, facts)).await?;
        let Computed { output, resolved } = self.compute_in(turn, share, prelude, plan).await?;
        lost::none_of(&output, lost::compared_in_trace(&layout))?;
        Ok(Done { layout, output, resolved })
    }
}

/// A plan that was computed, and what it means.
struct Done {
    layout: TraceLayout,
    output: PlanOutput,
    resolved: Vec<RunId>,
}

/// Makes every plan once: what is wrong with them, what is to be said of them, and what they cost together, all cases taken
/// to be kept. Stops where the cost is too high already.
fn price(
    body: &Value,
    facts: &dyn Facts,
    engine: &Engine,
    ceiling: Ceiling,
    abandoned: &Abandoned,
) -> Result<Result<Priced, PackError>, Problems> {
    let cases = cases(body, facts)?;
    let mut found = cases.gather();
    let (mut cost, mut runs, mut readouts, mut counted) = (Cost::default(), 0, 0, 0);
    let mut layers = None;
    let mut add = |plan: &Plan| {
        (runs, readouts) = (runs + plan.runs.len(), readouts + plan.readouts.len());
        cost = engine.prepare(plan, Mode::Branching)?.cost.and(&cost);
        Ok(ceiling.allows(&cost))
    };
    for case in 0..cases.len() {
        if abandoned.is_set() || found.is_full() {
            break;
        }
        counted = case + 1;
        // The trace first: it has every problem of its unpatched runs.
        let plans = cases.trace(case, facts).and_then(|trace| Ok((cases.baseline(case, facts)?, trace)));
        let (unpatched, trace) = match plans {
            Ok(plans) => plans,
            Err(problems) => {
                found.add_problems(case, problems);
                continue;
            }
        };
        layers.get_or_insert_with(|| layers_of(&trace.layout));
        found.add_lints(case, trace.layout.common.lints.clone());
        let allowed = [unpatched.plan, trace.plan].iter().try_fold(true, |_, plan| add(plan));
        match allowed {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Ok(Err(error)),
        }
    }
    found.problems().or(Some(()))?;
    let lints = found.lints();
    cases.refused(&lints)?;
    let layers = layers.unwrap_or_default();
    Ok(Ok(Priced { cases, lints, layers, cost, runs, readouts, counted }))
}

fn layers_of(layout: &TraceLayout) -> Vec<Option<Vec<u32>>> {
    let layers = layout.arms.iter().map(|(_, grid)| {
        let axis = grid.axes.iter().find(|axis| axis.name == "layer");
        axis.map(|axis| axis.values.clone())
    });
    layers.collect()
}

/// `POST /v1/plan` of a trace with `cases`.
pub(super) fn plan(
    body: &Value,
    facts: &dyn Facts,
    engine: &Engine,
    ceiling: Ceiling,
    abandoned: &Abandoned,
) -> Result<Result<PlanResponse, PackError>, Problems> {
    let Priced { cases, lints, cost, runs, readouts, counted, .. } =
        match price(body, facts, engine, ceiling, abandoned)? {
            Ok(priced) => priced,
            Err(error) => return Ok(Err(error)),
        };
    let mut lints = Lints(lints);
    if counted < cases.len() {
        let detail = format!(
            "the first {counted} of {} cases cost more than is let in; the others were not counted",
            cases.len()
        );
        lints.info("COST_INCOMPLETE", "/cases", detail, "send fewer cases per request");
    }
    let request =
        serde_json::to_value(&cases.spec).expect("BUG: specs hold finite numbers and string keys only");
    Ok(Ok(PlanResponse {
        model: facts.model().to_owned(),
        kind: Planned::Trace.name(),
        request,
        runs,
        readouts,
        cost,
        ceiling,
        allowed: ceiling.allows(&cost),
        lints: lints.0,
        plan_sha256: cases.plan_sha256,
    }))
}
