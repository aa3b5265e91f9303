//! Sweeps in units of work: first the unpatched runs of every case, then the cells of those that count, and at the end the
//! result. Each unit is a small plan of its own, so that whoever computes it, whenever, gets the same bits.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Computed, Refusal, Service, Turn};
use crate::capacity::Share;
use crate::effect::cells::{ArmHead, CaseHead};
use crate::effect::sweep::{Part, Scores, arm_heads, head, part, written};
use crate::engine::EngineError;
use crate::lower::facts::Facts;
use crate::lower::layout::Lowered;
use crate::lower::lint::{Lint, Lints};
use crate::lower::sweep::{Part as Which, Shared, Sweep, SweepLayout};
use crate::owner::Owner;
use crate::plan::cost::{Ceiling, Cost};
use crate::plan::output::Usage;
use crate::plan::pack::Mode;
use crate::result::common::{Provenance, RngUsed};
use crate::result::dry_run::PlanResponse;
use crate::result::sweep::SweepFacts;
use crate::spec::dry_run::Planned;
use crate::spec::problem::{Problems, code};
use crate::spec::sweep::SweepSpec;

/// Cases whose whole plans are priced; of more, these stand for all.
const PRICED: usize = 12;
/// Most unpatched runs of cases in one unit.
const MOST_CASES: u32 = 64;
/// Most cells in one unit.
const MOST_CELLS: u32 = 8192;

/// How a sweep is cut into units, and all that its result says beside numbers: fixed when it is submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// What its cases share.
    pub shared: Shared,
    /// Cells of each case, each counted once whatever its samples.
    pub cells: Vec<u32>,
    /// Cells of a unit; a case's last unit may have fewer.
    pub cells_per_unit: u32,
    /// Cases of a unit of unpatched runs.
    pub cases_per_unit: u32,
    /// Samples of each corrupted run.
    pub samples: u64,
    /// Name of the model.
    pub model: String,
    /// Arms.
    pub arms: Vec<ArmHead>,
    /// Remarks found without running.
    pub lints: Vec<Value>,
    /// How the numbers come about.
    pub provenance: Value,
}

/// A sweep that may be submitted.
#[derive(Debug, Clone)]
pub struct Priced {
    /// How it is cut.
    pub cut: Cut,
    /// What it will cost at most.
    pub cost: Cost,
    /// The request with every default.
    pub request: Value,
    /// Remarks found without running.
    pub lints: Vec<Lint>,
}

/// A submitted sweep on which units are computed.
#[derive(Debug)]
pub struct Opened {
    owner: Owner,
    sweep: Sweep,
    /// How it is cut.
    pub cut: Cut,
    /// The case lowered last: its units follow each other.
    last: Mutex<Option<(usize, Arc<Lowered<SweepLayout>>)>>,
}

impl Cut {
    /// Units of each phase: unpatched runs, cells, result.
    pub fn units(&self) -> [u32; 3] {
        let baselines = (self.cells.len() as u32).div_ceil(self.cases_per_unit);
        let cells = self.cells.iter().map(|cells| cells.div_ceil(self.cells_per_unit)).sum();
        [baselines, cells, 1]
    }

    /// What the result says beside numbers.
    pub fn facts(&self) -> SweepFacts {
        SweepFacts {
            model: self.model.clone(),
            arms: self.arms.clone(),
            cells: self.cells.clone(),
            samples: self.samples,
            sigma: self.shared.sigma.as_ref().map(json),
            lints: self.lints.clone(),
            provenance: self.provenance.clone(),
        }
    }

    /// Cells of all cases.
    pub fn cells_total(&self) -> u64 {
        self.cells.iter().map(|cells| u64::from(*cells)).sum()
    }

    /// The cases of a unit of unpatched runs.
    pub fn cases_of(&self, unit: u32) -> Range<usize> {
        let first = (unit * self.cases_per_unit) as usize;
        first..(first + self.cases_per_unit as usize).min(self.cells.len())
    }

    /// The unit of unpatched runs that has a case.
    pub fn unit_of(&self, case: usize) -> u32 {
        case as u32 / self.cases_per_unit
    }

    /// The case and cells of a unit of cells, counted from the first of these.
    pub fn cells_of(&self, unit: u32) -> Option<(usize, Range<usize>)> {
        let mut rest = unit;
        for (case, cells) in self.cells.iter().enumerate() {
            let units = cells.div_ceil(self.cells_per_unit);
            if rest < units {
                let first = rest * self.cells_per_unit;
                return Some((case, first as usize..(first + self.cells_per_unit).min(*cells) as usize));
            }
            rest -= units;
        }
        None
    }
}

impl Opened {
    /// A sweep as it was stored. `None` if this version can't read it any more.
    pub fn new(owner: Owner, request: &Value, cut: Cut) -> Option<Self> {
        let mut out = Problems::default();
        let spec = SweepSpec::read(request, &mut out).filter(|_| out.is_empty())?;
        Some(Self { owner, sweep: Sweep { spec, shared: cut.shared.clone() }, cut, last: Mutex::default() })
    }

    /// The request with every default.
    pub fn spec(&self) -> &SweepSpec {
        &self.sweep.spec
    }

    fn whole(&self, case: usize, facts: &dyn Facts) -> Result<Arc<Lowered<SweepLayout>>, Problems> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lowered)) = last.as_ref().filter(|(lowered, _)| *lowered == case) {
            return Ok(Arc::clone(lowered));
        }
        let lowered = Arc::new(self.sweep.case(case, Which::Whole, facts)?);
        *last = Some((case, Arc::clone(&lowered)));
        Ok(lowered)
    }
}

impl Service {
    /// `POST /v1/sweep`, up to the queue's door: everything that is wrong with it, what it will cost, and how it is cut into
    /// units of about `unit_s` seconds. At most `most_cells` cells, samples counted.
    pub async fn price_sweep(
        &self,
        body: impl Into<Arc<Value>>,
        unit_s: f64,
        most_cells: u64,
        share: &Share,
    ) -> Result<Priced, Refusal> {
        let (engine, body) = (self.engine.clone(), body.into());
        // Whoever computes it, with however many threads.
        let device = self.engine.ready().kind();
        let provenance = Provenance { device, ..self.envelope("sweep").provenance };
        let priced = self.lower_long(share, move |facts, abandoned| {
            let sweep = crate::lower::sweep::sweep(&body, facts)?;
            let mut found = sweep.gather(&body);
            let mut priced = Cost::default();
            let (mut cells, mut of_priced, mut samples) = (Vec::with_capacity(sweep.len()), 0_u64, 1);
            let (mut arms, mut total) = (None, 0_u64);
            let every = sweep.len().div_ceil(PRICED).max(1);
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
                cells.push(layout.cells() as u32);
                samples = layout.corrupted.len().max(1) as u64;
                total += layout.cells() as u64;
                if total.saturating_mul(samples) > most_cells {
                    // The other cases need not be looked at.
                    let mut problems = Problems::default();
                    let detail = format!(
                        "{} patched runs in the first {} cases, the limit is {most_cells}",
                        total * samples,
                        case + 1
                    );
                    let fix = "sweep fewer layers or positions, or send fewer cases per sweep";
                    problems.push("/sweep", code::LIMIT, detail, fix);
                    return Err(problems);
                }
                arms.get_or_insert_with(|| arm_heads(&sweep.spec, layout));
                if case % every == 0 {
                    of_priced += layout.cells() as u64;
                    for plan in lowered.prelude.iter().chain([&lowered.plan]) {
                        match engine.prepare(plan, Mode::Branching) {
                            Ok(prepared) => priced = priced.and(&prepared.cost),
                            Err(error) => return Ok(Err(error)),
                        }
                    }
                }
            }
            found.problems().or(Some(()))?;
            let lints = found.lints();
            let strict = sweep.spec.strict;
            let refused = Lints(lints.clone()).refused();
            if strict && !refused.is_empty() {
                return Err(refused);
            }
            let cost = scaled(&priced, total as f64 / of_priced.max(1) as f64);
            let per_cell = (cost.seconds / total.max(1) as f64).max(1e-9);
            let per_unit = (unit_s / per_cell).clamp(1.0, f64::from(MOST_CELLS)) as u32;
            let rng = sweep.spec.corrupt.as_ref().and_then(|corrupt| corrupt.method.draws());
            let rng = rng.map(|draws| RngUsed { algo: draws.rng, seed: draws.seed });
            let plan_sha256 = sweep.shared.plan_sha256.clone();
            let provenance = Provenance { rng, plan_sha256, ..provenance };
            let request = json(&sweep.spec);
            let cut = Cut {
                shared: sweep.shared,
                cells,
                cells_per_unit: per_unit,
                cases_per_unit: MOST_CASES.min((unit_s / (2.0 * per_cell)).max(1.0) as u32),
                samples,
                model: facts.model().to_owned(),
                arms: arms.unwrap_or_default(),
                lints: lints.iter().map(json).collect(),
                provenance: json(&provenance),
            };
            Ok(Ok(Priced { cut, cost, request, lints }))
        });
        Ok(priced.await?.map_err(EngineError::from)?)
    }

    /// `POST /v1/plan` of a sweep.
    pub(super) async fn plan_sweep(&self, body: Value, share: &Share) -> Result<PlanResponse, Refusal> {
        let ceiling = self.jobs;
        let Priced { cut, cost, request, lints } = self.price_sweep(body, 1.0, ceiling.cells, share).await?;
        let ceiling = Ceiling { row_layers: u64::MAX, seconds: ceiling.seconds };
        let cells = (cut.cells_total() * cut.samples) as usize;
        Ok(PlanResponse {
            model: self.served.model().to_owned(),
            kind: Planned::Sweep.name(),
            request,
            runs: cells + cut.cells.len() * (1 + cut.samples as usize),
            readouts: cells,
            cost,
            ceiling,
            allowed: ceiling.allows(&cost),
            lints,
            plan_sha256: cut.shared.plan_sha256,
        })
    }

    /// The unpatched runs of some cases.
    pub async fn sweep_baselines(
        &self,
        opened: &Arc<Opened>,
        cases: Range<usize>,
    ) -> Result<(Vec<CaseHead>, Usage), Refusal> {
        // A job's size was bounded when it was taken on.
        let share = &Share::unbounded(opened.owner.clone());
        let mut heads = Vec::with_capacity(cases.len());
        let mut usage = Usage::default();
        for case in cases {
            let sweep = Arc::clone(opened);
            let lowered =
                self.lower(share, move |facts| sweep.sweep.case(case, Which::Baselines, facts)).await?;
            let Lowered { prelude, plan, layout } = lowered;
            let Computed { output, resolved } = self.compute_in(Turn::Next, share, prelude, plan).await?;
            super::lost::none(&output)?;
            usage = usage.and(&output.usage);
            let sweep = Arc::clone(opened);
            let head = self.respond(share, move |facts| {
                let spec = sweep.spec();
                let len = output.scores.len();
                let all: Vec<usize> = (0..len).collect();
                let scores = Scores::new(len, &all, output, &resolved);
                let text = |id| facts.words().text(id);
                let asked = spec.metrics.len();
                Ok(head(&layout, &spec.cases[case], &scores, asked, &spec.filters, &text))
            });
            heads.push(head.await?);
        }
        Ok((heads, usage))
    }

    /// Some cells of a case.
    pub async fn sweep_cells(
        &self,
        opened: &Arc<Opened>,
        case: usize,
        range: Range<usize>,
    ) -> Result<(Part, Usage), Refusal> {
        let share = &Share::unbounded(opened.owner.clone());
        let sweep = Arc::clone(opened);
        let asked = range.clone();
        let (lowered, readouts, plan) = self
            .lower(share, move |facts| {
                let lowered = sweep.whole(case, facts)?;
                let readouts = lowered.layout.readouts(&asked);
                let plan = lowered.plan.only(&readouts);
                Ok((lowered, readouts, plan))
            })
            .await?;
        let Computed { output, resolved } =
            self.compute_in(Turn::Next, share, lowered.prelude.clone(), plan).await?;
        super::lost::none_of(&output, 0..lowered.layout.unpatched().len())?;
        let usage = output.usage;
        let part = self.respond(share, move |_| {
            let written = written(&output);
            let scores = Scores::new(lowered.plan.readouts.len(), &readouts, output, &resolved);
            Ok(part(&lowered.layout, case as u32, &range, &scores, written))
        });
        Ok((part.await?, usage))
    }
}

fn scaled(cost: &Cost, by: f64) -> Cost {
    let times = |n: u64| (n as f64 * by) as u64;
    Cost {
        rows: times(cost.rows),
        row_layers: times(cost.row_layers),
        flops: cost.flops * by,
        chunks: times(cost.chunks),
        peak_bytes: cost.peak_bytes,
        seconds: cost.seconds * by,
    }
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("BUG: remarks and provenance have string keys and finite numbers")
}
