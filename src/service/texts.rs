//! Texts in units of work: those of every case of a data set, their samples in parts. Each part is a request of its own
//! ([`Service::generate`]), so that whoever computes it, whenever, gets the same texts, and what is written is not lost.

use std::sync::Arc;

use serde_json::Value;

use super::cut::{Cuts, TextsCut, json};
use super::experiment::{Experiment, Priced, Pricing};
use super::generate::{Read, read};
use super::{Refusal, Service};
use crate::capacity::{Lane, Share};
use crate::lower::facts::Facts;
use crate::lower::generate::Generation;
use crate::lower::lint::Lint;
use crate::owner::Account;
use crate::plan::cost::Cost;
use crate::plan::output::Usage;
use crate::result::common::Provenance;
use crate::result::dry_run::PlanResponse;
use crate::result::texts::TextsPart;
use crate::spec::generate::TextCase;
use crate::spec::kind::{Kind, Texts};
use crate::spec::problem::{Problems, code};

/// Cases whose prompts are priced; of more, these stand for all.
const PRICED: usize = 32;

/// Texts of every case, lowered one by one.
#[derive(Debug)]
pub struct TextsJob {
    request: Arc<Value>,
    cases: Vec<TextCase>,
}

impl Experiment for Texts {
    type Lowered = TextsJob;

    fn lowered(body: &Arc<Value>, _: &dyn Facts) -> Result<TextsJob, Problems> {
        Ok(TextsJob { request: Arc::clone(body), cases: TextCase::all(body)? })
    }

    fn price(job: TextsJob, pricing: &Pricing<'_>) -> Result<Priced, Refusal> {
        let TextsJob { request, cases } = job;
        let mut found = Found::default();
        let every = cases.len().div_ceil(PRICED);
        for (i, case) in cases.iter().enumerate() {
            if pricing.abandoned.is_set() || found.problems.is_full() {
                break;
            }
            found.add(case, i.is_multiple_of(every), pricing)?;
        }
        let Found { problems, lints, cost, priced, samples, first_sample, rows, texts, readouts } = found;
        problems.or(Some(()))?;
        if texts > pricing.cells {
            let mut problems = Problems::default();
            let detail = format!("{texts} texts, the limit is {}", pricing.cells);
            let fix = "send fewer cases, branches or samples in a job";
            problems.push("/dataset", code::LIMIT, detail, fix);
            return Err(problems.into());
        }
        let cost = cost.times(cases.len() as f64 / priced.max(1) as f64);
        let per_text = cost.seconds / (cases.len() as f64 * f64::from(samples)).max(1.0);
        // As many samples as take a unit's time, and have room in a step.
        let most = (pricing.step_rows / rows.max(1)).max(1) as u32;
        let per_unit = ((pricing.unit_s / per_text.max(1e-9)) as u32).clamp(1, most.min(samples));
        let plan = PlanResponse {
            model: pricing.facts.model().to_owned(),
            kind: Kind::Generate.name(),
            request: (*request).clone(),
            runs: texts as usize,
            readouts,
            cost,
            ceiling: pricing.ceiling,
            allowed: pricing.ceiling.allows(&cost),
            lints,
            plan_sha256: crate::spec::canonical::sha256(&request),
        };
        let cut = TextsCut {
            cases: cases.len() as u32,
            samples,
            first_sample,
            per_unit,
            model: plan.model.clone(),
            provenance: Provenance { plan_sha256: plan.plan_sha256.clone(), ..pricing.provenance.clone() },
        };
        Ok(Priced { plan, cut: Some(Cuts::Texts(cut)) })
    }
}

/// What is known of the cases so far.
#[derive(Default)]
struct Found {
    problems: Problems,
    lints: Vec<Lint>,
    /// Of those priced.
    cost: Cost,
    priced: usize,
    samples: u32,
    first_sample: u32,
    /// Rows of a step for one sample of a case.
    rows: usize,
    texts: u64,
    readouts: usize,
}

impl Found {
    fn add(&mut self, case: &TextCase, priced: bool, pricing: &Pricing<'_>) -> Result<(), Refusal> {
        // Units have as few samples as there is room for.
        let mut one = case.body.clone();
        let lowered = Generation::of(&one, pricing.facts);
        one["samples"] = 1.into();
        let restored = |problems: Problems| {
            let at = |mut problem: crate::spec::problem::FieldProblem| {
                problem.pointer = case.restore(&problem.pointer);
                problem
            };
            Problems(problems.0.into_iter().map(at).collect())
        };
        let generation = match lowered {
            Ok(generation) => generation,
            Err(problems) => {
                // What is wrong with all cases is said once.
                for problem in restored(problems).0 {
                    if !self.problems.0.contains(&problem) {
                        self.problems.push(problem.pointer, problem.code, problem.detail, problem.fix);
                    }
                }
                return Ok(());
            }
        };
        for mut lint in generation.common.lints.0.iter().cloned() {
            lint.pointer = case.restore(&lint.pointer);
            if !self.lints.iter().any(|known| known.code == lint.code && known.detail == lint.detail) {
                self.lints.push(lint);
            }
        }
        let samples = generation.spec.samples;
        self.samples = samples;
        self.first_sample = generation.spec.first_sample;
        self.texts += generation.branches.len() as u64 * u64::from(samples);
        if priced {
            let Read { job, cost, .. } = match read(&one, pricing.facts, pricing.engine, pricing.step_rows) {
                Ok(read) => read,
                Err(Refusal::Invalid(problems)) => return Err(restored(problems).into()),
                Err(refusal) => return Err(refusal),
            };
            self.cost = self.cost.and(&cost.times(f64::from(samples)));
            self.priced += 1;
            self.rows = job.rows();
            self.readouts += job.rows() * job.longest() as usize * samples as usize;
        }
        Ok(())
    }
}

impl Service {
    /// The texts of a unit.
    pub async fn texts_unit(
        &self,
        account: Account,
        case: TextCase,
        body: Value,
    ) -> Result<(TextsPart, Usage), Refusal> {
        // A job's size was bounded when it was taken on.
        let share = Share::unbounded(account);
        let mut generating = self.generate((body, &share)).await?;
        while generating.next().await?.is_some() {}
        let layers = self.served.config().num_layers as u64;
        let response = share.run(Lane::Finish, move |_: &_| generating.response()).await?;
        let of_steps = Usage {
            rows: response.usage.step_rows,
            row_layers: response.usage.step_rows * layers,
            seconds: response.usage.step_seconds,
            ..Usage::default()
        };
        let usage = response.usage.prefill.and(&of_steps);
        let (id, group) = (case.id, case.group);
        Ok((TextsPart { id, group, response: json(&response) }, usage))
    }
}
