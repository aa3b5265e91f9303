//! Generated text: read, priced, begun, and followed to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json as object};
use tokio::time::timeout;

use super::cut::json;
use super::{Asked, Refusal, ServedTo, Service, activations, required_runs};
use crate::activations::Reservation;
use crate::capacity::{Busy, Lane, Share};
use crate::engine::{self, Asker, Engine, EngineError, Errand, Prepared, Turn};
use crate::generate::{Event, Job, Texts};
use crate::lower::facts::Facts;
use crate::lower::generate::Generation;
use crate::owner::Account;
use crate::plan::cost::Cost;
use crate::plan::pack::Mode;
use crate::result::common::Envelope;
use crate::result::dry_run::PlanResponse;
use crate::result::generate::{Collecting, GenerateResponse, prompt_logprobs};
use crate::spec::problem::{Problems, code};
use crate::tokens::Tokenizer;
use crate::usage::Ledger;

/// How long a request waits for room for its keys.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request for text, read and priced.
pub(super) struct Read {
    pub(super) job: Job,
    /// What has to be computed before its prompt.
    pub(super) first: Option<Prepared>,
    pub(super) cost: Cost,
}

/// Reads and prices a request for text. What has to be computed before its prompt is made ready.
pub(super) fn read(
    body: &Value,
    facts: &ServedTo,
    engine: &Engine,
    most_rows: usize,
) -> Result<Read, Refusal> {
    let job = Job {
        words: facts.tokenizer.clone(),
        ends: facts.tokenizer.ends().iter().copied().collect(),
        context: facts.limits().prompt_tokens as u32,
        layers: facts.config().num_layers as u32,
        generation: Generation::of(body, facts)?,
    };
    check(&job, most_rows, engine.slots().total())?;
    let prepare = |plan| engine.prepare(plan, Mode::Branching);
    let first = job.generation.prelude.as_ref().map(prepare).transpose()?;
    let cost = prepare(&job.generation.plan)?.cost;
    let cost = first.as_ref().map_or(cost, |first| cost.and(&first.cost));
    let (rows, steps) = (job.rows() as u64, u64::from(job.longest()));
    let cost = cost.and(&engine.budget().step_cost(rows, steps, u64::from(job.layers)));
    Ok(Read { job, first, cost })
}

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
    /// Space for what is read of the texts and stored.
    promised: Option<Reservation>,
    /// Told before anything else.
    first: VecDeque<(&'static str, Value)>,
}

impl Service {
    async fn read_text(&self, body: Value, share: &Share) -> Result<Read, Refusal> {
        let (engine, most_rows) = (self.engine.clone(), self.step_rows);
        let read = move |facts: &ServedTo, _: &_| read(&body, facts, &engine, most_rows);
        self.off_workers(share, Lane::Prepare, read).await
    }

    /// What a request for text would do and cost.
    pub(super) async fn plan_text(&self, mut body: Value, share: &Share) -> Result<PlanResponse, Refusal> {
        // How it is answered says nothing of what it costs.
        if let Some(map) = body.as_object_mut() {
            map.shift_remove("stream");
        }
        let Read { job, cost, .. } = self.read_text(body, share).await?;
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
        let Read { mut job, first, cost } = self.read_text(body, &share).await?;
        if !self.ceiling.allows(&cost) {
            return Err(Refusal::TooLarge { cost, ceiling: self.ceiling });
        }
        let promised = activations::reserve_steps(&self.served.activations, share.owner(), &job.generation)?;
        let lane = if share.is_bounded() { engine::Lane::Interactive } else { engine::Lane::Sweep };
        let asker = Asker::of(share.account(), lane);
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
            promised,
            first: VecDeque::from([("start", started(&job, &texts, &self.served.tokenizer, &envelope))]),
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

    /// The whole of it, when all texts have ended. What is kept is stored: not for async workers.
    ///
    /// # Errors
    /// What is to be kept cannot be stored.
    pub fn response(self) -> Result<GenerateResponse, Refusal> {
        let Generating { job, texts, collecting, envelope, facts, promised, .. } = self;
        let kept = collecting.kept(&job.generation);
        let mut response =
            collecting.response(&job.generation, &texts.written, &texts.prompt, facts.words(), envelope);
        activations::keep_steps(&facts, &job.generation, kept, promised, &mut response)?;
        Ok(response)
    }
}

/// What is known before the first token.
fn started(job: &Job, texts: &Texts, words: &Tokenizer, envelope: &Envelope) -> Value {
    let generation = &job.generation;
    let run = generation.common.runs.get(&generation.spec.base).map(|(run, _)| run);
    let mut start = object!({
        "id": envelope.id,
        "model": envelope.model,
        "prompt": {"text": run.map(|run| &*run.text), "tokens": run.map(|run| &*run.ids), "spans": run.map(|run| &run.spans)},
        "branches": generation.branches.iter().map(|branch| &branch.name).collect::<Vec<_>>(),
        "samples": generation.spec.samples,
        "lints": generation.common.lints.0,
    });
    if generation.spec.read.prompt_logprobs {
        let all = texts.prompt.iter().map(|tokens| prompt_logprobs(generation, tokens, words));
        start["prompt_logprobs"] = object!(all.collect::<Vec<_>>());
    }
    start
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
