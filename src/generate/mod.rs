//! Text that the model writes: prompts are read once, and then every step computes one row of each text of all requests.

pub mod rng;
mod stepper;
pub mod text;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use crate::effect::measure;
use crate::engine::slots::{Held, Promise};
use crate::engine::{Asker, Charge, Engine, EngineError, Errand, Turn};
use crate::lower::generate::Generation;
use crate::model::draw::Urn;
use crate::plan::draw::{Choice, Drawn};
use crate::plan::output::{Missing, PlanOutput, Usage, larger};
use crate::plan::pack::Mode;
use crate::plan::{Plan, Score};
use crate::tokens::Tokenizer;
use stepper::{Message, Stepper};
use text::Text;

/// Prefills that are torn by deaths of the engine are begun anew so often.
const TRIES: u32 = 4;

/// What a request for text needs beside its prompt.
#[derive(Debug)]
pub struct Job {
    /// What is written, filled.
    pub generation: Generation,
    /// Words of the model.
    pub words: Tokenizer,
    /// Tokens that end a text.
    pub ends: BTreeSet<u32>,
    /// Positions that the model has.
    pub context: u32,
    /// Blocks of the model.
    pub layers: u32,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it.
    Stop,
    /// A text of `stop` came up; the text ends before it.
    StopString,
    /// It has `max_tokens`.
    Length,
    /// The model has no further position.
    Context,
    /// The branch that it reads has ended.
    SourceEnded,
    /// Its logits are NaN or infinite.
    NotFinite,
    /// The engine died of it.
    Lost,
}

/// A token of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Index of the branch.
    pub branch: usize,
    /// The sample.
    pub sample: u32,
    /// The step.
    pub step: u32,
    /// The token.
    pub id: u32,
    /// Text that is certain by now and was not before.
    pub text: String,
    /// Its log-probability under the model, before temperature and filters.
    pub logprob: f64,
    /// Share of the probability that temperature and filters left to draw from.
    pub mass_kept: f64,
    /// The most probable tokens with their log-probabilities.
    pub top: Vec<(u32, f64)>,
    /// How much the largest logit exceeds the next.
    pub margin: f64,
    /// Values of the metrics.
    pub metrics: Vec<Option<f64>>,
    /// Its log-probability under the branch that texts are compared with, and the divergence of this distribution from that
    /// branch's.
    pub compare: Option<(f64, f64)>,
    /// What else was read of the row that predicted it.
    pub read: RowRead,
}

/// What was read of a row beside its distribution.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowRead {
    /// Activations, in the order of [`StepReads::addresses`](crate::lower::step_reads::StepReads::addresses).
    pub captures: Vec<Vec<f32>>,
    /// The logit lens, layer by layer.
    pub lens: Vec<Score>,
}

/// The end of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Index of the branch.
    pub branch: usize,
    /// The sample.
    pub sample: u32,
    /// Why.
    pub finish: Finish,
    /// The rest of its text.
    pub text: String,
    /// Whether it ends inside of a character.
    pub is_cut: bool,
    /// What was written to its rows.
    pub receipt: Receipt,
}

/// What was written to the rows of a text at steps from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Receipt {
    /// The first and the last step with an edit.
    pub steps: Option<(u32, u32)>,
    /// Rows that were to be written, each as often as it was.
    pub expected: u64,
    /// Rows that were.
    pub cells: u64,
    /// Largest change of a number; NaN if one is not finite.
    pub max_abs_delta: f32,
    /// The longest way that an addition, a multiple or a bound moved a row, in lengths of the row as it was, and at which step.
    pub farthest: Option<(f64, u32)>,
}

/// What one write did to a row.
#[derive(Debug, Clone, Copy)]
struct Change {
    largest: f32,
    /// How far it moved, in lengths of the row as it was; none where another row was put in its place.
    far: Option<f64>,
}

/// What happens to the texts of a request.
#[derive(Debug)]
pub enum Event {
    /// A token was drawn.
    Token(Token),
    /// A text has ended.
    Done(Done),
    /// Steps that one of its texts took part in: seconds, and rows of this request.
    Step {
        /// Seconds.
        seconds: f64,
        /// Rows.
        rows: usize,
    },
    /// Nothing more comes.
    Failed(EngineError),
}

/// Texts of one request on their way. Dropping them ends them.
#[derive(Debug)]
pub struct Texts {
    events: mpsc::UnboundedReceiver<Event>,
    stepper: mpsc::UnboundedSender<Message>,
    /// What reading the prompt cost.
    pub prefill: Usage,
    /// Rows written in the prompt, by branch.
    pub written: Vec<u64>,
    /// What the prompt's own tokens score, by branch, from the second on; none if that is not asked for.
    pub prompt: Vec<Vec<PromptScore>>,
}

/// A token of the prompt under a branch.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptScore {
    /// Its log-probability; none where the distribution is not finite.
    pub logprob: Option<f64>,
    /// The most probable tokens with theirs.
    pub top: Vec<(u32, f64)>,
}

impl Texts {
    /// What happens next; `None` when all texts have ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Texts {
    fn drop(&mut self) {
        self.events.close();
        let _ = self.stepper.send(Message::Left);
    }
}

/// Writes the texts of all requests. Clones are of the same.
#[derive(Debug, Clone)]
pub struct Writer {
    engine: Engine,
    /// Rows of a step, at most.
    most_rows: usize,
    stepper: Arc<Mutex<Option<mpsc::UnboundedSender<Message>>>>,
}

impl Writer {
    /// Steps of at most so many rows.
    pub fn new(engine: &Engine, most_rows: usize) -> Writer {
        Writer { engine: engine.clone(), most_rows, stepper: Arc::default() }
    }

    /// Reads the prompt and begins its texts. `promise`: of places for all their keys ([`Job::places`]).
    ///
    /// # Errors
    /// The prompt was not read.
    pub async fn begin(
        &self,
        job: Arc<Job>,
        promise: Promise,
        asker: &Asker,
        mut charge: impl FnMut() -> Charge,
    ) -> Result<Texts, EngineError> {
        let places = Places::new(&job, promise);
        let output = {
            let plan = places.prefill(&job.generation);
            let mut tries = 0;
            loop {
                let (engine, plan) = (self.engine.clone(), plan.clone());
                let prepared = tokio::task::spawn_blocking(move || engine.prepare(&plan, Mode::Branching));
                let prepared = prepared.await.map_err(|_| EngineError::LayOut)??;
                let turn = if tries == 0 { Turn::New } else { Turn::Next };
                let errand = Errand::new(asker.clone(), turn, charge());
                let output = self.engine.execute(prepared, errand).await?;
                tries += 1;
                if output.process.is_some() || output.lost.is_some() || tries == TRIES {
                    break output;
                }
            }
        };
        let (events, receiver) = mpsc::unbounded_channel();
        let texts = Texts {
            events: receiver,
            stepper: self.stepper(),
            prefill: output.usage,
            written: job.generation.branches.iter().map(|b| output.cells[b.run.0 as usize]).collect(),
            prompt: job
                .generation
                .branches
                .iter()
                .map(|b| job.prompt(&output.scores[b.prompt_reads.clone()]))
                .collect(),
        };
        let writing = Writing::new(job, places, events, &output);
        let _ = texts.stepper.send(Message::Begin(Box::new(writing)));
        Ok(texts)
    }

    /// The task that computes steps, which is started when it is needed.
    fn stepper(&self) -> mpsc::UnboundedSender<Message> {
        let mut stepper = self.stepper.lock().unwrap_or_else(PoisonError::into_inner);
        match &*stepper {
            Some(running) if !running.is_closed() => running.clone(),
            _ => {
                let (sender, inbox) = mpsc::unbounded_channel();
                let own = sender.downgrade();
                let stepping = Stepper::new(self.engine.clone(), self.most_rows, own);
                // On a thread of its own, so that it outlives whoever asked first, and waits for nobody.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let run = |runtime: tokio::runtime::Runtime| {
                    let run = move || runtime.block_on(stepping.run(inbox));
                    std::thread::Builder::new().name("stepper".into()).spawn(run)
                };
                if let Err(error) = runtime.and_then(run) {
                    tracing::error!("texts cannot be written: {error}");
                }
                stepper.insert(sender).clone()
            }
        }
    }
}

impl Job {
    fn spec(&self) -> &crate::spec::generate::GenerateSpec {
        &self.generation.spec
    }

    /// How tokens are drawn.
    pub fn choice(&self) -> Choice {
        let sampling = &self.spec().sampling;
        Choice {
            temperature: sampling.temperature,
            top_k: sampling.top_k.unwrap_or(0),
            top_p: sampling.top_p.unwrap_or(1.0),
            min_p: sampling.min_p.unwrap_or(0.0),
            bias: sampling.logit_bias.iter().map(|(token, bias)| (*token, *bias)).collect(),
        }
    }

    /// The random number of a step of a sample: the same whichever branch, batch or part of a job it is in.
    fn luck(&self, sample: u32, step: u32) -> f64 {
        rng::uniform(self.spec().sampling.seed, self.spec().first_sample + sample, step)
    }

    /// Rows of a text beyond its prompt, at most: the last token's is never computed.
    pub fn longest(&self) -> u32 {
        let room = self.context.saturating_sub(self.generation.prompt);
        (self.spec().max_tokens - 1).min(room)
    }

    /// Rows of a step, while all texts are written.
    pub fn rows(&self) -> usize {
        let branches = self.generation.branches.len();
        let compared = self.generation.compare.map_or(0, |_| branches - 1);
        (branches + compared) * self.spec().samples as usize
    }

    /// Places for keys, at most.
    pub fn places(&self) -> usize {
        let prompt = self.generation.prompt;
        let own: u32 = self.generation.branches.iter().map(|branch| prompt - branch.first).sum();
        (prompt + own) as usize + self.rows() * self.longest() as usize
    }

    /// What the scores of the prompt's positions say of the tokens that follow.
    fn prompt(&self, scores: &[Score]) -> Vec<PromptScore> {
        let of = |(score, target): (&Score, &usize)| {
            let log = |logit: f32| f64::from(logit) - score.log_sum_exp;
            let top = score.top.iter().take(self.spec().read.logprobs as usize);
            PromptScore {
                logprob: score.logits.get(*target).map(|logit| log(*logit)),
                top: top.map(|(id, logit)| (*id, log(*logit))).collect(),
            }
        };
        scores.iter().zip(&self.generation.prompt_targets).map(of).collect()
    }

    /// What a row says of its token, the one drawn or the most probable. `shadow`: the score under the branch that texts are
    /// compared with. `None`: there is no distribution.
    fn token(
        &self,
        (branch, sample, step): (usize, u32, u32),
        score: &Score,
        drawn: Option<&Drawn>,
        shadow: Option<&Score>,
        mut read: RowRead,
    ) -> Option<Token> {
        if score.missing.is_some() {
            return None;
        }
        let (id, logit, mass_kept) = match drawn {
            Some(drawn) => (drawn.token, drawn.logit, drawn.mass_kept),
            None => score.top.first().map(|(id, logit)| (*id, *logit, 1.0))?,
        };
        let log = |logit: f32| f64::from(logit) - score.log_sum_exp;
        let compare = match shadow {
            None => None,
            Some(under) => {
                under.missing.is_none().then_some(())?;
                let of = drawn.map_or(&score.top_under, |drawn| &drawn.also);
                Some((f64::from(*of.first()?) - under.log_sum_exp, *score.kl.first()?))
            }
        };
        let mut score = score.clone();
        let context = self.generation.plan.run(self.generation.base).context;
        score.context = context;
        read.lens.iter_mut().for_each(|score| score.context = context);
        Some(Token {
            branch,
            sample,
            step,
            id,
            text: String::new(),
            logprob: log(logit),
            mass_kept,
            margin: match score.top[..] {
                [(_, first), (_, next), ..] => f64::from(first) - f64::from(next),
                _ => f64::INFINITY,
            },
            top: score
                .top
                .iter()
                .take(self.spec().read.logprobs as usize)
                .map(|(id, l)| (*id, log(*l)))
                .collect(),
            metrics: self
                .generation
                .common
                .measures
                .iter()
                .map(|m| measure::value(m, &score, None))
                .collect(),
            compare,
            read,
        })
    }
}

/// Places of a request's prompt.
#[derive(Debug)]
struct Places {
    promise: Promise,
    /// Of the run that is continued.
    base: Held,
    /// Of each branch: those of the base up to its first own position, and its own.
    branches: Vec<Held>,
}

impl Places {
    fn new(job: &Job, mut promise: Promise) -> Places {
        let prompt = job.generation.prompt;
        let mut base = promise.held();
        (0..prompt).for_each(|_| {
            promise.extend(&mut base);
        });
        let branch = |first: u32| {
            let mut held = base.shared(first as usize);
            (first..prompt).for_each(|_| {
                promise.extend(&mut held);
            });
            held
        };
        let branches = job.generation.branches.iter().map(|branch| branch.first).map(branch).collect();
        Places { promise, base, branches }
    }

    fn prefill(&self, generation: &Generation) -> Plan {
        let own: Vec<&[u32]> = generation
            .branches
            .iter()
            .zip(&self.branches)
            .map(|(branch, held)| &held.places()[branch.first as usize..])
            .collect();
        generation.prefill(self.base.places(), &own)
    }
}

/// The texts of a request, as the stepper has them.
#[derive(Debug)]
struct Writing {
    job: Arc<Job>,
    places: Places,
    texts: Vec<Written>,
    events: mpsc::UnboundedSender<Event>,
    /// The engine process that has their keys; none while they are made anew.
    process: Option<u64>,
}

/// A text as far as it is written.
#[derive(Debug)]
struct Written {
    branch: usize,
    sample: u32,
    tokens: Vec<u32>,
    /// Places of its rows.
    held: Held,
    /// The same of the same tokens under the branch that texts are compared with.
    shadow: Option<Held>,
    text: Text,
    receipt: Receipt,
    /// Engines that died of steps that it took part in, one after the other.
    deaths: u32,
    ended: bool,
}

impl Writing {
    /// Step 0 of every text, whose row is the prompt's last.
    fn new(
        job: Arc<Job>,
        places: Places,
        events: mpsc::UnboundedSender<Event>,
        output: &PlanOutput,
    ) -> Writing {
        let mut writing = Writing { job, places, texts: Vec::new(), events, process: output.process };
        let job = Arc::clone(&writing.job);
        let generation = &job.generation;
        let prompt = generation.prompt as usize;
        let choice = job.choice();
        let captured =
            |branch: usize| generation.branches[branch].logits.map(|i| output.captures[i].as_slice());
        for (index, branch) in generation.branches.iter().enumerate() {
            let compare = generation.compare.filter(|compare| *compare != index);
            let score = &output.scores[branch.readout];
            let logits = captured(index).filter(|logits| !logits.is_empty() && score.missing.is_none());
            let mut urn = logits.map(|logits| (Urn::new(logits, &choice), logits));
            for sample in 0..job.spec().samples {
                let mut text = Written {
                    branch: index,
                    sample,
                    tokens: Vec::new(),
                    held: writing.places.branches[index].shared(prompt),
                    shadow: compare.map(|compare| writing.places.branches[compare].shared(prompt)),
                    text: Text::new(&job.spec().stop),
                    receipt: Receipt::default(),
                    deaths: 0,
                    ended: false,
                };
                let drawn = urn.as_mut().map(|(urn, logits)| {
                    let (token, mass_kept) = urn.draw(job.luck(sample, 0));
                    let also = compare.and_then(|compare| captured(compare)?.get(token as usize).copied());
                    let also = also.into_iter().collect();
                    Drawn { token, logit: logits[token as usize], mass_kept, also }
                });
                let shadow = compare.map(|compare| &output.scores[generation.branches[compare].readout]);
                let read = RowRead {
                    captures: output.captures[branch.first_reads.captures.clone()].to_vec(),
                    lens: output.scores[branch.first_reads.lens.clone()].to_vec(),
                };
                let token = job.token((index, sample, 0), score, drawn.as_ref(), shadow, read);
                let lost = matches!(score.missing, Some(Missing::Lost(_)));
                text.advance(&job, token, lost, &writing.events);
                writing.texts.push(text);
            }
        }
        writing
    }

    /// Whether anybody waits for them.
    fn is_wanted(&self) -> bool {
        !self.events.is_closed() && self.texts.iter().any(|text| !text.ended)
    }

    /// The text of a branch with the same sample, as long as it goes on.
    fn going_on(&self, branch: usize, sample: u32) -> Option<usize> {
        self.texts.iter().position(|text| !text.ended && (text.branch, text.sample) == (branch, sample))
    }
}

impl Written {
    /// The step whose row is next: it predicts the token after those written.
    fn step(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Adds a token; `None`: there is none.
    fn advance(
        &mut self,
        job: &Job,
        token: Option<Token>,
        lost: bool,
        events: &mpsc::UnboundedSender<Event>,
    ) {
        let Some(mut token) = token else {
            return self.end(if lost { Finish::Lost } else { Finish::NotFinite }, events);
        };
        self.tokens.push(token.id);
        let ends = job.ends.contains(&token.id);
        let piece = if ends { None } else { Some(self.text.push(job.words.bytes_of(token.id))) };
        let stopped = piece.as_ref().is_some_and(|piece| piece.stopped);
        token.text = piece.map(|piece| piece.text).unwrap_or_default();
        // Who has left is noticed at the next step.
        let _ = events.send(Event::Token(token));
        let written = self.tokens.len() as u32;
        let finish = if ends {
            Finish::Stop
        } else if stopped {
            Finish::StopString
        } else if written >= job.spec().max_tokens {
            Finish::Length
        } else if job.generation.prompt + written > job.context {
            Finish::Context
        } else {
            return;
        };
        self.end(finish, events);
    }

    fn end(&mut self, finish: Finish, events: &mpsc::UnboundedSender<Event>) {
        self.ended = true;
        let is_cut = self.text.is_cut();
        let text = if finish == Finish::StopString { String::new() } else { self.text.finish() };
        let (branch, sample, receipt) = (self.branch, self.sample, self.receipt);
        let done = Done { branch, sample, finish, text, is_cut, receipt };
        let _ = events.send(Event::Done(done));
    }
}

impl Receipt {
    fn count(&mut self, step: u32, expected: u64, changes: &[Change]) {
        if expected == 0 {
            return;
        }
        let first = self.steps.map_or(step, |(first, _)| first);
        self.steps = Some((first, step));
        self.expected += expected;
        self.cells += changes.len() as u64;
        for change in changes {
            self.max_abs_delta = larger(self.max_abs_delta, change.largest);
            let Some(far) = change.far else { continue };
            if self.farthest.is_none_or(|(farthest, _)| far > farthest) {
                self.farthest = Some((far, step));
            }
        }
    }
}
