//! Generated text: read, priced, begun, and followed to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json as object};
use tokio::time::timeout;

use super::cut::json;
use super::{Asked, Refusal, ServedTo, Service, required_runs};
use crate::capacity::{Busy, Lane, Share};
use crate::engine::{self, Asker, EngineError, Errand, Prepared, Turn};
use crate::generate::{Event, Job, Texts};
use crate::lower::facts::Facts;
use crate::lower::generate::Generation;
use crate::owner::Account;
use crate::plan::cost::Cost;
use crate::plan::pack::Mode;
use crate::result::common::Envelope;
use crate::result::dry_run::PlanResponse;
use crate::result::generate::{Collecting, GenerateResponse};
use crate::spec::problem::{Problems, code};
use crate::usage::Ledger;

/// How long a request waits for room for its keys.
const PATIENCE: Duration = Duration::from_secs(30);

/// Texts on their way.
#[derive(Debug)]
pub struct Generating {
    job: Arc<Job>,
    texts: Texts,
    collecting: Collecting,
    envelope: Envelope,
    facts: ServedTo,
    ledger: Ledger,
    account: Account,
    /// Told before anything else.
    first: VecDeque<(&'static str, Value)>,
}

impl Service {
    /// Reads and prices a request for text. What has to be computed before its prompt is made ready.
    async fn read_text(&self, body: Value, share: &Share) -> Result<(Job, Option<Prepared>, Cost), Refusal> {
        let (engine, most_rows, total) = (self.engine.clone(), self.step_rows, self.engine.slots().total());
        let read = self.off_workers(share, Lane::Prepare, move |facts, _| {
            let job = Job {
                words: facts.tokenizer.clone(),
                ends: facts.tokenizer.ends().iter().copied().collect(),
                context: facts.limits().prompt_tokens as u32,
                layers: facts.config().num_layers as u32,
                generation: Generation::of(&body, facts)?,
            };
            check(&job, most_rows, total)?;
            let prepare = |plan| engine.prepare(plan, Mode::Branching);
            let first = job.generation.prelude.as_ref().map(prepare).transpose()?;
            let cost = prepare(&job.generation.plan)?.cost;
            let cost = first.as_ref().map_or(cost, |first| cost.and(&first.cost));
            let (rows, steps) = (job.rows() as u64, u64::from(job.longest()));
            let cost = cost.and(&engine.budget().step_cost(rows, steps, u64::from(job.layers)));
            Ok((job, first, cost))
        });
        read.await
    }

    /// What a request for text would do and cost.
    pub(super) async fn plan_text(&self, mut body: Value, share: &Share) -> Result<PlanResponse, Refusal> {
        // How it is answered says nothing of what it costs.
        if let Some(map) = body.as_object_mut() {
            map.shift_remove("stream");
        }
        let (job, _, cost) = self.read_text(body, share).await?;
        let Job { generation, .. } = &job;
        Ok(PlanResponse {
            model: self.served.model().to_owned(),
            kind: "generate",
            request: json(&generation.spec),
            runs: generation.plan.runs.len(),
            readouts: generation.plan.readouts.len() + job.rows() * job.longest() as usize,
            cost,
            ceiling: self.ceiling,
            allowed: self.ceiling.allows(&cost),
            lints: generation.common.lints.0.clone(),
            plan_sha256: generation.common.plan_sha256.clone(),
        })
    }

    /// Reads a request for text and its prompt, and begins its texts.
    ///
    /// # Errors
    /// [`Refusal`]
    pub async fn generate(&self, asked: impl Into<Asked>) -> Result<Generating, Refusal> {
        let Asked { body, share } = asked.into();
        let (mut job, first, cost) = self.read_text(body, &share).await?;
        if !self.ceiling.allows(&cost) {
            return Err(Refusal::TooLarge { cost, ceiling: self.ceiling });
        }
        let asker = Asker::of(share.account(), engine::Lane::Interactive);
        if let Some(first) = first {
            let captured = self
                .engine
                .execute(first, Errand::new(asker.clone(), Turn::New, self.charge(&share)))
                .await?;
            required_runs::none(&captured)?;
            job.generation.fill(&captured.captures);
        }
        let promise = self.engine.slots().promise(job.places());
        let promise = timeout(PATIENCE, promise).await.map_err(|_| Busy)?;
        let job = Arc::new(job);
        let texts = self.writer.begin(Arc::clone(&job), promise, &asker, || self.charge(&share)).await?;
        let mut collecting = Collecting::new(&job.generation);
        let ready = self.engine.ready();
        collecting.usage.prefill = texts.prefill;
        collecting.usage.keys_bytes =
            ready.key_bytes() / ready.key_slots().max(1) as u64 * job.places() as u64;
        let envelope = self.envelope("generate");
        let generating = Generating {
            facts: self.served_to(share.owner()),
            ledger: self.ledger.clone(),
            account: share.account().clone(),
            first: VecDeque::from([("start", started(&job, &envelope))]),
            job,
            texts,
            collecting,
            envelope,
        };
        Ok(generating)
    }
}

impl Generating {
    /// What happens next, as an event: `start`, `token`, `done`. `None`: all texts have ended.
    ///
    /// # Errors
    /// The engine cannot go on.
    pub async fn next(&mut self) -> Result<Option<(&'static str, Value)>, Refusal> {
        if let Some(first) = self.first.pop_front() {
            return Ok(Some(first));
        }
        loop {
            return Ok(Some(match self.texts.next().await {
                None if self.collecting.is_complete() => return Ok(None),
                // Whoever writes them is gone.
                None => return Err(EngineError::Stopped.into()),
                Some(Event::Token(token)) => ("token", self.collecting.token(token)),
                Some(Event::Done(done)) => ("done", self.collecting.done(&done)),
                Some(Event::Step { seconds, rows }) => {
                    let usage = &mut self.collecting.usage;
                    usage.steps += 1;
                    usage.step_rows += rows as u64;
                    usage.step_seconds += seconds;
                    self.ledger.computed(&self.account, rows as u64 * u64::from(self.job.layers), seconds);
                    continue;
                }
                Some(Event::Failed(error)) => return Err(error.into()),
            }));
        }
    }

    /// The whole of it, when all texts have ended.
    pub fn response(self) -> GenerateResponse {
        let Generating { job, texts, collecting, envelope, facts, .. } = self;
        collecting.response(&job.generation, &texts.written, facts.words(), envelope)
    }
}

/// What is known before the first token.
fn started(job: &Job, envelope: &Envelope) -> Value {
    let generation = &job.generation;
    let run = generation.common.runs.get(&generation.spec.base).map(|(run, _)| run);
    object!({
        "id": envelope.id,
        "model": envelope.model,
        "prompt": {"text": run.map(|run| &*run.text), "tokens": run.map(|run| &*run.ids), "spans": run.map(|run| &run.spans)},
        "branches": generation.branches.iter().map(|branch| &branch.name).collect::<Vec<_>>(),
        "samples": generation.spec.samples,
        "lints": generation.common.lints.0,
    })
}

/// Refuses what there is no room for.
fn check(job: &Job, most_rows: usize, total: usize) -> Result<(), Problems> {
    let mut out = Problems::default();
    let spec = &job.generation.spec;
    let rows = job.rows();
    if rows > most_rows {
        let detail = format!("a step of {rows} rows, the limit is {most_rows}");
        let fix = "name fewer branches or samples, or leave out `compare_with`; or raise limits.step_rows";
        out.push(if spec.samples > 1 { "/samples" } else { "/branches" }, code::LIMIT, detail, fix);
    }
    let places = job.places();
    if places > total {
        let detail = format!("keys of {places} positions, and there is room for {total}");
        let fix = "ask for fewer tokens, samples or branches; or raise engine.key_bytes";
        out.push("/max_tokens", code::LIMIT, detail, fix);
    }
    if job.generation.prompt >= job.context {
        let detail = format!(
            "the prompt has {} tokens, and the model {} positions",
            job.generation.prompt, job.context
        );
        out.push("/base", code::LIMIT, detail, "shorten the prompt");
    }
    out.or(Some(()))
}
