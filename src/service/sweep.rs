//! Sweeps in units of work: first the unpatched runs of every case, then the cells of those that count, and at the end the
//! result. Each unit is a small plan of its own, so that whoever computes it, whenever, gets the same bits.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::OnceCell;

use super::cut::{Cut, Cuts, json};
use super::experiment::{Experiment, Priced, Pricing};
use super::{Refusal, ServedTo, Service, Turn};
use crate::capacity::{Abandoned, Lane, Share};
use crate::effect::cells::{ArmHead, CaseHead, Standing};
use crate::effect::sweep::{Part, Scores, arm_heads, head, part, written};
use crate::engine::Engine;
use crate::lower::facts::Facts;
use crate::lower::layout::{ArmLayout, CaseLayout, Lowered};
use crate::lower::lint::{Lint, Lints};
use crate::lower::measure::TargetToken;
use crate::lower::sweep::{self as lower_sweep, Part as Which, Sweep};
use crate::owner::Account;
use crate::plan::cost::Cost;
use crate::plan::output::{EditStats, Usage};
use crate::plan::pack::Mode;
use crate::result::common::{Provenance, RngUsed};
use crate::result::dry_run::PlanResponse;
use crate::result::respond::Computed;
use crate::spec::kind::Kind;
use crate::spec::problem::{Problems, code};
use crate::spec::sweep::{Form, SweepSpec, TARGET};

/// Cases whose whole plans are priced; of more, these stand for all.
const PRICED: usize = 12;
/// Most unpatched runs of cases in one unit.
const MOST_CASES: u32 = 64;
/// Most cells in one unit.
const MOST_CELLS: u32 = 8192;

/// A submitted sweep on which units are computed.
#[derive(Debug)]
pub struct Opened {
    account: Account,
    sweep: Arc<Sweep>,
    /// How it is cut.
    pub cut: Cut,
    /// How its cases enter averages, once it is known which count.
    pub standings: OnceCell<Vec<Standing>>,
    /// The case lowered last: its units follow each other.
    last: Mutex<Option<(usize, Arc<Lowered<CaseLayout>>)>>,
}

impl Opened {
    /// A sweep as it was stored. `None` if this version can't read it any more.
    pub fn new(account: Account, request: Value, cut: Cut) -> Option<Self> {
        let mut out = Problems::default();
        let spec = SweepSpec::read(&request, &mut out).filter(|_| out.is_empty())?;
        let sweep = Arc::new(Sweep { spec, shared: cut.shared.clone(), body: Arc::new(request) });
        Some(Self { account, sweep, cut, standings: OnceCell::new(), last: Mutex::default() })
    }

    /// The request with every default.
    pub fn spec(&self) -> &SweepSpec {
        &self.sweep.spec
    }

    fn whole(&self, case: usize, facts: &dyn Facts) -> Result<Arc<Lowered<CaseLayout>>, Problems> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lowered)) = last.as_ref().filter(|(lowered, _)| *lowered == case) {
            return Ok(Arc::clone(lowered));
        }
        let lowered = Arc::new(self.sweep.case(case, Which::Whole, facts)?);
        *last = Some((case, Arc::clone(&lowered)));
        Ok(lowered)
    }
}

/// What is known of a sweep before any of it is computed.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Remarks.
    pub lints: Vec<Lint>,
    /// What the cases that were priced cost together, all taken to be kept.
    pub cost: Cost,
    /// Their runs and readouts.
    pub runs: usize,
    /// Readouts.
    pub readouts: usize,
    /// Their cells.
    of_priced: u64,
    /// Cells of each case looked at: fewer than all if these were enough.
    pub cells: Vec<u32>,
    /// Cells of all of them.
    total: u64,
    /// Corrupted runs of a case.
    pub samples: u64,
    /// Arms, as the first case has them.
    pub arms: Vec<ArmHead>,
    /// Each arm's layers; none at sites without.
    pub layers: Vec<Option<Vec<u32>>>,
}

/// Makes the plan of every case once: what is wrong with it, what is to be said of it, and, of every `priced`th, what it
/// costs. Stops where that is `enough` already.
pub(super) fn survey(
    sweep: &Sweep,
    facts: &dyn Facts,
    engine: &Engine,
    priced: usize,
    abandoned: &Abandoned,
    enough: impl Fn(&Survey) -> bool,
) -> Result<Survey, Refusal> {
    let mut found = sweep.case_table();
    let mut survey = Survey { samples: 1, ..Survey::default() };
    for case in 0..sweep.len() {
        if abandoned.is_set() || found.is_full() {
            break;
        }
        let lowered = match sweep.case(case, Which::Whole, facts) {
            Ok(lowered) => lowered,
            Err(problems) => {
                found.add_problems(case, problems);
                continue;
            }
        };
        let layout = &lowered.layout;
        found.add_lints(case, layout.common.lints.clone());
        survey.cells.push(layout.cells() as u32);
        survey.samples = layout.corrupted.len().max(1) as u64;
        survey.total += layout.cells() as u64;
        if survey.arms.is_empty() {
            survey.arms = arm_heads(&sweep.spec, layout);
            let layers = |(_, arm): (&str, &ArmLayout)| {
                let axis = arm.grid.axes.iter().find(|axis| axis.name == "layer");
                axis.map(|axis| axis.values.clone())
            };
            survey.layers = layout.arms.iter().map(layers).collect();
        }
        if case % priced == 0 {
            survey.of_priced += layout.cells() as u64;
            // A job's estimate is that of its cells, which its units are cut by.
            let at_once = sweep.spec.form == Form::Trace;
            let unpatched = at_once.then(|| sweep.case(case, Which::Baselines, facts)).transpose()?;
            let unpatched = unpatched.as_ref().map(|unpatched| &unpatched.plan);
            for plan in lowered.prelude.iter().chain([&lowered.plan]).chain(unpatched) {
                survey.cost = survey.cost.and(&engine.prepare(plan, Mode::Branching)?.cost);
                survey.runs += plan.runs.len();
                survey.readouts += plan.readouts.len();
            }
        }
        if enough(&survey) {
            break;
        }
    }
    found.problems().or(Some(()))?;
    survey.lints = found.lints();
    refused(&sweep.spec, &survey.lints)?;
    Ok(survey)
}

/// What `strict` refuses of these remarks.
pub(super) fn refused(spec: &SweepSpec, lints: &[Lint]) -> Result<(), Problems> {
    let refused = Lints(lints.to_vec()).refused();
    if spec.strict && !refused.is_empty() { Err(refused) } else { Ok(()) }
}

/// How the numbers of a sweep come about.
pub(super) fn provenance(sweep: &Sweep, provenance: Provenance) -> Provenance {
    let draws = sweep.spec.corrupt.as_ref().and_then(|corrupt| corrupt.method.draws());
    let rng = draws.map(|draws| RngUsed { algo: draws.rng, seed: draws.seed });
    Provenance { rng, plan_sha256: sweep.shared.plan_sha256.clone(), ..provenance }
}

/// The unpatched runs of a case.
pub(super) struct Unpatched {
    /// What they gave: the metrics asked for, and the probability of the target if a filter may need it.
    pub head: CaseHead,
    /// Its target as it was understood.
    pub target: Vec<TargetToken>,
    /// Cost.
    pub usage: Usage,
}

/// Some cells of a case.
pub(super) struct Computation {
    /// What they gave.
    pub part: Part,
    /// What was written, by kind.
    pub written: [EditStats; 3],
    /// Cost.
    pub usage: Usage,
}

impl Experiment for SweepSpec {
    type Lowered = Sweep;

    fn lowered(body: &Arc<Value>, facts: &dyn Facts) -> Result<Sweep, Problems> {
        lower_sweep::sweep(body, facts)
    }

    fn price(lowered: Sweep, pricing: &Pricing<'_>) -> Result<Priced, Refusal> {
        price(lowered, pricing)
    }
}

/// What a sweep will cost, and how it is cut into units.
fn price(sweep: Sweep, pricing: &Pricing<'_>) -> Result<Priced, Refusal> {
    let Pricing { facts, engine, ceiling, cells: most_cells, unit_s, abandoned, .. } = *pricing;
    let every = sweep.len().div_ceil(PRICED).max(1);
    let cells = |survey: &Survey| survey.total.saturating_mul(survey.samples);
    let too_many = |survey: &Survey| cells(survey) > most_cells;
    let survey = survey(&sweep, facts, engine, every, abandoned, too_many)?;
    if too_many(&survey) {
        // The other cases were not looked at.
        let mut problems = Problems::default();
        let (cells, cases) = (cells(&survey), survey.cells.len());
        let detail = format!("{cells} patched runs in the first {cases} cases, the limit is {most_cells}");
        let fix = "sweep fewer layers or positions, or send fewer cases per sweep";
        problems.push("/sweep", code::LIMIT, detail, fix);
        return Err(problems.into());
    }
    let Survey { cost, total, of_priced, cells, samples, arms, lints, .. } = survey;
    let cost = cost.times(total as f64 / of_priced.max(1) as f64);
    let per_cell = (cost.seconds / total.max(1) as f64).max(1e-9);
    let per_unit = (unit_s / per_cell).clamp(1.0, f64::from(MOST_CELLS)) as u32;
    let patched = (total * samples) as usize;
    let plan = PlanResponse {
        model: facts.model().to_owned(),
        kind: Kind::Sweep.name(),
        request: json(&sweep.spec),
        runs: patched + cells.len() * (1 + samples as usize),
        readouts: patched,
        cost,
        ceiling,
        allowed: ceiling.allows(&cost),
        plan_sha256: sweep.shared.plan_sha256.clone(),
        lints,
    };
    let cut = Cut {
        cells,
        cells_per_unit: per_unit,
        cases_per_unit: MOST_CASES.min((unit_s / (2.0 * per_cell)).max(1.0) as u32),
        samples,
        model: facts.model().to_owned(),
        arms,
        lints: plan.lints.clone(),
        provenance: provenance(&sweep, pricing.provenance.clone()),
        shared: sweep.shared,
    };
    Ok(Priced { plan, cut: Some(Cuts::Sweep(cut)) })
}

impl Service {
    /// The unpatched runs of some cases.
    pub async fn sweep_baselines(
        &self,
        opened: &Arc<Opened>,
        cases: Range<usize>,
    ) -> Result<(Vec<CaseHead>, Usage), Refusal> {
        // A job's size was bounded when it was taken on.
        let share = &Share::unbounded(opened.account.clone());
        let mut heads = Vec::with_capacity(cases.len());
        let mut usage = Usage::default();
        let asked = opened.spec().metrics.len();
        for case in cases {
            let mut one = self.unpatched(share, &opened.sweep, case, Turn::Next).await?;
            one.head.keep(asked);
            usage = usage.and(&one.usage);
            heads.push(one.head);
        }
        Ok((heads, usage))
    }

    /// Some cells of a case. `alone`: whether it is averaged with no other.
    pub async fn sweep_cells(
        &self,
        opened: &Arc<Opened>,
        case: usize,
        range: Range<usize>,
        alone: bool,
    ) -> Result<(Part, Usage), Refusal> {
        let share = &Share::unbounded(opened.account.clone());
        let sweep = Arc::clone(opened);
        let lowered =
            self.off_workers(share, Lane::Prepare, move |facts, _| Ok(sweep.whole(case, facts)?)).await?;
        let Computation { part, usage, .. } = self.patched(share, lowered, case, range, alone).await?;
        Ok((part, usage))
    }

    /// The unpatched runs of a case, with the probability of its target.
    pub(super) async fn unpatched(
        &self,
        share: &Share,
        sweep: &Arc<Sweep>,
        case: usize,
        turn: Turn,
    ) -> Result<Unpatched, Refusal> {
        let of_case = Arc::clone(sweep);
        let baselines =
            move |facts: &ServedTo, _: &Abandoned| Ok(of_case.case(case, Which::Baselines, facts)?);
        let lowered = self.off_workers(share, Lane::Prepare, baselines).await?;
        let Lowered { prelude, plan, layout } = lowered;
        let Computed { output, resolved, .. } = self.compute_in(turn, share, 0, prelude, plan).await?;
        super::required_runs::none(&output)?;
        let usage = output.usage;
        let sweep = Arc::clone(sweep);
        let made = self.off_workers(share, Lane::Finish, move |facts, _| {
            let spec = &sweep.spec;
            let all: Vec<usize> = (0..output.scores.len()).collect();
            let scores = Scores::new(all.len(), &all, output, &resolved);
            let head = head(&layout, &spec.cases[case], &scores, &spec.filters, &|id| facts.words().text(id));
            let target = layout.common.targets.sets.get(TARGET).cloned().unwrap_or_default();
            Ok(Unpatched { head, target, usage })
        });
        made.await
    }

    /// Some cells of a case, counted through all arms. `alone`: whether it is averaged with no other.
    pub(super) async fn patched(
        &self,
        share: &Share,
        lowered: Arc<Lowered<CaseLayout>>,
        case: usize,
        range: Range<usize>,
        alone: bool,
    ) -> Result<Computation, Refusal> {
        let asked = range.clone();
        let (lowered, readouts, plan) = self
            .off_workers(share, Lane::Prepare, move |_, _| {
                let readouts = lowered.layout.readouts(&asked);
                let plan = lowered.plan.only(&readouts);
                Ok((lowered, readouts, plan))
            })
            .await?;
        let Computed { output, resolved, .. } =
            self.compute_in(Turn::Next, share, 0, lowered.prelude.clone(), plan).await?;
        super::required_runs::none_of(&output, 0..lowered.layout.unpatched().len())?;
        let (usage, by_kind) = (output.usage, output.receipts);
        let made = self.off_workers(share, Lane::Finish, move |facts, _| {
            let text = |id| facts.words().text(id);
            let written = written(&output);
            let scores = Scores::new(lowered.plan.readouts.len(), &readouts, output, &resolved);
            let part = part(&lowered.layout, case as u32, &range, &scores, written, alone, &text);
            Ok(Computation { part, written: by_kind, usage })
        });
        made.await
    }
}
