//! One task that owns the texts of all requests. Every turn it gathers a row of each, has them computed together, deals out what comes
//! back and lets go of what has ended. An engine that dies takes the keys along, not the texts: prompt, tokens and edits so far are
//! one plan, which has the bits of the steps that it stands for.

#![allow(clippy::needless_pass_by_value, reason = "what is told is given away")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Change, Event, Finish, Job, RowRead, Writing};
use crate::engine::{Asker, Engine, EngineError, Errand, Lane, LostStep, StepFailure, Stepped};
use crate::owner::Owner;
use crate::plan::batch::AskedRows;
use crate::plan::draw::Draw;
use crate::plan::output::{Lost, Missing};
use crate::plan::pack::Mode;
use crate::plan::step::{StepBatch, StepRow};
use crate::plan::{Edit, Plan, RunId};

/// Engines that a text may kill, all by itself in the end.
const MOST_DEATHS: u32 = 2;
/// Times that keys are made anew before a request is given up.
const MOST_RESUMED: u32 = 24;

/// What the stepper is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Texts whose prompt was read.
    Begin(Box<Writing>),
    /// Somebody does not wait any more.
    Left,
    /// The keys of a request's texts were made anew, by this process; or why not.
    Resumed {
        /// Number of the request.
        id: u64,
        /// The process, and the texts that could not be.
        result: Result<(Option<u64>, Vec<usize>), EngineError>,
    },
}

/// The task.
#[derive(Debug)]
pub(super) struct Stepper {
    engine: Engine,
    most_rows: usize,
    own: mpsc::WeakUnboundedSender<Message>,
    all: BTreeMap<u64, Writing>,
    /// How often the keys of each were made anew.
    resumed: BTreeMap<u64, u32>,
    next: u64,
    /// The request whose texts come first in the next step.
    first: u64,
}

/// Texts that are computed together or not at all: those of one request and sample, where branches read one another; else one.
struct Unit {
    id: u64,
    texts: Vec<usize>,
}

/// A step on its way.
struct Turn {
    units: Vec<Unit>,
    process: u64,
    batch: StepBatch,
    /// What each row is.
    rows: Vec<Row>,
    /// Of each text its draw, where it has one.
    draws: BTreeMap<(u64, usize), usize>,
    /// Captures of each row, as the batch counts them.
    captures: Vec<Range<usize>>,
}

/// What a row of a step is: a request's text, and whether it stands for the branch that texts are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    id: u64,
    text: usize,
    shadow: bool,
}

impl Stepper {
    pub(super) fn new(engine: Engine, most_rows: usize, own: mpsc::WeakUnboundedSender<Message>) -> Stepper {
        Stepper { engine, most_rows, own, all: BTreeMap::new(), resumed: BTreeMap::new(), next: 0, first: 0 }
    }

    /// Until nobody can ask any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        loop {
            while let Ok(message) = inbox.try_recv() {
                self.hear(message);
            }
            self.let_go();
            let Some(turn) = self.gather() else {
                match inbox.recv().await {
                    Some(message) => self.hear(message),
                    None => return,
                }
                continue;
            };
            let (batch, process) = (turn.batch.batch.clone(), turn.process);
            let result = self.engine.step(batch, process).await;
            self.deal(turn, result);
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Begin(writing) => {
                let id = self.next;
                self.next += 1;
                let known = writing.process.is_some();
                self.all.insert(id, *writing);
                if !known {
                    self.resume(id);
                }
            }
            Message::Left => {}
            Message::Resumed { id, result } => {
                let Some(writing) = self.all.get_mut(&id) else { return };
                match result {
                    Err(error) => self.fail(id, error),
                    Ok((process, lost)) => {
                        for text in lost {
                            writing.texts[text].end(Finish::Lost, &writing.events);
                        }
                        writing.process = process;
                        if process.is_none() {
                            self.resume(id);
                        }
                    }
                }
            }
        }
    }

    /// Lets go of texts that have ended or that nobody waits for, and of their keys.
    fn let_go(&mut self) {
        self.all.retain(|_, writing| writing.is_wanted());
        self.resumed.retain(|id, _| self.all.contains_key(id));
        let texts = self.all.values().flat_map(|writing| &writing.texts).filter(|text| !text.ended);
        self.engine.writing(texts.count());
    }

    fn fail(&mut self, id: u64, error: EngineError) {
        if let Some(writing) = self.all.remove(&id) {
            let _ = writing.events.send(Event::Failed(error));
        }
    }

    /// What can be computed now, the requests in turn.
    fn units(&self, process: u64) -> Vec<Unit> {
        let mut units = Vec::new();
        let (before, after): (Vec<_>, Vec<_>) = self
            .all
            .iter()
            .filter(|(_, writing)| writing.process == Some(process))
            .partition(|(id, _)| **id < self.first);
        for (&id, writing) in after.into_iter().chain(before) {
            let linked = writing.job.generation.branches.iter().any(|branch| !branch.reads().is_empty());
            let mut of_sample: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for (i, text) in writing.texts.iter().enumerate().filter(|(_, text)| !text.ended) {
                if linked {
                    of_sample.entry(text.sample).or_default().push(i);
                } else {
                    units.push(Unit { id, texts: vec![i] });
                }
            }
            units.extend(of_sample.into_values().map(|texts| Unit { id, texts }));
        }
        units
    }

    fn deaths(&self, unit: &Unit) -> u32 {
        unit.texts.iter().map(|text| self.all[&unit.id].texts[*text].deaths).max().unwrap_or(0)
    }

    fn rows_of(&self, unit: &Unit) -> usize {
        let texts = &self.all[&unit.id].texts;
        unit.texts.iter().map(|text| 1 + usize::from(texts[*text].shadow.is_some())).sum()
    }

    /// The next step: a row of each text that there is room for. What an engine has died of is computed alone.
    fn gather(&mut self) -> Option<Turn> {
        let process = self.all.values().filter_map(|writing| writing.process).max()?;
        let stale = |(id, writing): (&u64, &Writing)| writing.process.filter(|p| *p < process).map(|_| *id);
        for id in self.all.iter().filter_map(stale).collect::<Vec<_>>() {
            self.resume(id);
        }
        let mut units = self.units(process);
        if let Some(suspect) = units.iter().position(|unit| self.deaths(unit) > 0) {
            units = vec![units.swap_remove(suspect)];
        }
        let mut room = self.most_rows;
        let mut chosen = Vec::new();
        for unit in units {
            let rows = self.rows_of(&unit);
            if rows > room && !chosen.is_empty() {
                self.first = unit.id;
                break;
            }
            room = room.saturating_sub(rows);
            chosen.push(unit);
        }
        self.end_without_source(&mut chosen);
        if chosen.is_empty() {
            return None;
        }
        Some(self.lay_out(chosen, process))
    }

    /// Ends texts that read a branch that has ended.
    fn end_without_source(&mut self, units: &mut Vec<Unit>) {
        for unit in &mut *units {
            let Some(writing) = self.all.get_mut(&unit.id) else { continue };
            let job = Arc::clone(&writing.job);
            // One that ends may be read by another.
            loop {
                let ended = unit.texts.iter().position(|&i| {
                    let text = &writing.texts[i];
                    let under = text.shadow.as_ref().and(job.generation.compare);
                    let mut reads = [Some(text.branch), under].into_iter().flatten().flat_map(|branch| {
                        let edits = job.generation.branches[branch].edits(text.step());
                        edits.into_iter().filter_map(|edit| Some(edit.op.run_read()?.0.0 as usize))
                    });
                    reads.any(|branch| writing.going_on(branch, text.sample).is_none())
                });
                let Some(place) = ended else { break };
                let i = unit.texts.remove(place);
                writing.texts[i].end(Finish::SourceEnded, &writing.events);
            }
        }
        units.retain(|unit| !unit.texts.is_empty());
    }

    fn lay_out(&mut self, units: Vec<Unit>, process: u64) -> Turn {
        let mut rows: Vec<Row> = Vec::new();
        for unit in &units {
            for &text in &unit.texts {
                let shadow = self.all[&unit.id].texts[text].shadow.is_some();
                rows.extend(shadow.then_some(Row { id: unit.id, text, shadow: true }));
                rows.push(Row { id: unit.id, text, shadow: false });
            }
        }
        let (mut asked, mut draws, mut drawn) = (Vec::<AskedRows>::new(), Vec::new(), BTreeMap::new());
        let mut step_rows = Vec::with_capacity(rows.len());
        let (mut captures, mut next) = (Vec::with_capacity(rows.len()), 0);
        for (place, row) in rows.iter().enumerate() {
            let writing = self.all.get_mut(&row.id).expect("BUG: units are of requests that are there");
            let job = Arc::clone(&writing.job);
            let generation = &job.generation;
            let step = writing.texts[row.text].step();
            let branch = match generation.compare.filter(|_| row.shadow) {
                Some(compare) => compare,
                None => writing.texts[row.text].branch,
            };
            let sample = writing.texts[row.text].sample;
            let mut edits = generation.branches[branch].edits(step);
            for edit in &mut edits {
                if let Some((read, _)) = edit.op.run_read() {
                    let other = writing.going_on(read.0 as usize, sample);
                    let other = other.and_then(|text| {
                        rows.iter().position(|row_| *row_ == Row { id: row.id, text, shadow: false })
                    });
                    edit.op.read_run(RunId(other.expect("BUG: what is read is in the same unit") as u32));
                }
            }
            let text = &mut writing.texts[row.text];
            let held = text.shadow.as_mut().filter(|_| row.shadow).unwrap_or(&mut text.held);
            let position = generation.prompt + step - 1;
            // A step that was not computed has its place already.
            if held.places().len() == position as usize {
                writing.places.promise.extend(held);
            }
            // Under the branch that texts are compared with, only the distribution is read.
            let reads = Some(&generation.reads).filter(|_| !row.shadow);
            let row_read = StepRow {
                token: text.tokens[step as usize - 1],
                position,
                prompt: generation.prompt,
                slots: held.places().to_vec(),
                edits,
                captures: reads.map(|reads| reads.addresses(step)).unwrap_or_default(),
                lens: reads.map(|reads| reads.layers(step).to_vec()).unwrap_or_default(),
            };
            captures.push(next..next + row_read.captures.len());
            next += row_read.captures.len();
            step_rows.push(row_read);
            if row.shadow {
                continue;
            }
            let compared = text.shadow.is_some();
            let of_text = AskedRows {
                count: 1 + usize::from(compared),
                targets: generation.plan.scoring.targets[..generation.step_targets].to_vec(),
                topk: generation.spec.most_probable(),
                kl_refs: if compared { vec![0] } else { Vec::new() },
                entropy: generation.reads.lens.is_some(),
            };
            match asked.last_mut() {
                // What is read of several rows is read of all of them at once.
                Some(last) if !compared && of_text == AskedRows { count: 1, ..last.clone() } => {
                    last.count += 1;
                }
                _ => asked.push(of_text),
            }
            let choice = job.choice();
            if !choice.is_plain() {
                let also = if compared { vec![place as u32 - 1] } else { Vec::new() };
                let u = job.luck(sample, step);
                drawn.insert((row.id, row.text), draws.len());
                draws.push(Draw { row: place as u32, choice, u, also });
            }
        }
        let layers = self.all[&units[0].id].job.layers;
        let batch = StepBatch::new(&step_rows, asked, draws, layers);
        Turn { units, process, batch, rows, draws: drawn, captures }
    }

    fn deal(&mut self, turn: Turn, result: Result<Stepped, StepFailure>) {
        match result {
            Ok(stepped) => self.advance(&turn, stepped),
            Err(StepFailure::Forgotten) => self.resume_all(turn.process),
            Err(StepFailure::Lost(LostStep(Lost::OutOfMemory))) => {
                // Nothing was computed, and less may fit.
                if turn.units.len() == 1 {
                    self.lose(&turn.units[0]);
                } else {
                    self.most_rows = (turn.rows.len() / 2).max(1);
                }
            }
            Err(StepFailure::Lost(LostStep(Lost::EngineCrash))) => {
                let alone = turn.units.len() == 1;
                for unit in &turn.units {
                    let Some(writing) = self.all.get_mut(&unit.id) else { continue };
                    unit.texts.iter().for_each(|text| writing.texts[*text].deaths += 1);
                    if alone && self.deaths(unit) >= MOST_DEATHS {
                        self.lose(unit);
                    }
                }
                self.resume_all(turn.process);
            }
            Err(failure @ (StepFailure::Unhealthy(_) | StepFailure::Stopped)) => {
                for id in self.all.keys().copied().collect::<Vec<_>>() {
                    self.fail(id, failure.clone().into());
                }
            }
        }
    }

    fn lose(&mut self, unit: &Unit) {
        let Some(writing) = self.all.get_mut(&unit.id) else { return };
        for text in &unit.texts {
            writing.texts[*text].end(Finish::Lost, &writing.events);
        }
    }

    /// Gives every text what came of its row.
    fn advance(&mut self, turn: &Turn, stepped: Stepped) {
        let Stepped { mut output, took } = stepped;
        let mut captured: BTreeMap<usize, Vec<f32>> =
            std::mem::take(&mut output.captures).into_iter().collect();
        let scores = &output.scores[output.scores.len() - turn.rows.len()..];
        let mut changes: Vec<Vec<Change>> = vec![Vec::new(); turn.rows.len()];
        for ((edited, moves), written) in turn.batch.edited.iter().zip(&turn.batch.moves).zip(&output.written)
        {
            let far = (written.squared / written.before).sqrt();
            let far = moves.then_some(far).filter(|far| far.is_finite());
            changes[edited.run.0 as usize].push(Change { largest: written.largest, far });
        }
        let mut of_request: BTreeMap<u64, usize> = BTreeMap::new();
        for (place, row) in turn.rows.iter().enumerate() {
            *of_request.entry(row.id).or_default() += 1;
            let Some(writing) = self.all.get_mut(&row.id).filter(|_| !row.shadow) else { continue };
            let job = Arc::clone(&writing.job);
            let text = &mut writing.texts[row.text];
            let step = text.step();
            text.deaths = 0;
            let expected = job.generation.branches[text.branch].edits(step).len() as u64;
            text.receipt.count(step, expected, &changes[place]);
            let draw = turn.draws.get(&(row.id, row.text)).map(|draw| output.drawn[*draw].as_ref());
            let shadow = text.shadow.as_ref().map(|_| &scores[place - 1]);
            let read = RowRead {
                captures: turn.captures[place]
                    .clone()
                    .filter_map(|capture| captured.remove(&capture))
                    .collect(),
                lens: turn.batch.lens[place].iter().map(|score| output.scores[*score].clone()).collect(),
            };
            let of = (text.branch, text.sample, step);
            let token = match draw {
                Some(None) => None,
                Some(drawn) => job.token(of, &scores[place], drawn, shadow, read),
                None => job.token(of, &scores[place], None, shadow, read),
            };
            text.advance(&job, token, false, &writing.events);
        }
        let seconds = took.as_secs_f64();
        for (id, rows) in of_request {
            if let Some(writing) = self.all.get(&id) {
                let share = seconds * rows as f64 / turn.rows.len() as f64;
                let _ = writing.events.send(Event::Step { seconds: share, rows });
            }
        }
    }

    /// Makes the keys of all texts anew that a process had.
    fn resume_all(&mut self, process: u64) {
        let ids = self.all.iter().filter(|(_, writing)| writing.process == Some(process)).map(|(id, _)| *id);
        for id in ids.collect::<Vec<_>>() {
            self.resume(id);
        }
    }

    fn resume(&mut self, id: u64) {
        let times = self.resumed.entry(id).or_default();
        *times += 1;
        if *times > MOST_RESUMED {
            return self
                .fail(id, EngineError::Unhealthy { reason: "it died while texts were written".to_owned() });
        }
        let (Some(writing), Some(own)) = (self.all.get_mut(&id), self.own.upgrade()) else { return };
        writing.process = None;
        let again = Again::of(writing);
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let result = again.compute(engine).await;
            let _ = own.send(Message::Resumed { id, result });
        });
    }
}

/// A request's texts as far as they are written: all that is needed to make their keys anew.
struct Again {
    job: Arc<Job>,
    plan: Plan,
    texts: Vec<TextAgain>,
}

struct TextAgain {
    text: usize,
    /// Whether it stands for the branch that texts are compared with.
    shadow: bool,
    branch: usize,
    sample: u32,
    /// Tokens whose rows were computed.
    written: Vec<u32>,
    slots: Vec<u32>,
}

impl Again {
    fn of(writing: &Writing) -> Again {
        let compare = writing.job.generation.compare;
        let mut texts = Vec::new();
        for (i, text) in writing.texts.iter().enumerate().filter(|(_, text)| !text.ended) {
            let computed = text.tokens.len() - 1;
            let end = writing.job.generation.prompt as usize + computed;
            let mut add = |branch: usize, shadow: bool, places: &[u32]| {
                texts.push(TextAgain {
                    text: i,
                    shadow,
                    branch,
                    sample: text.sample,
                    written: text.tokens[..computed].to_vec(),
                    slots: places[..end].to_vec(),
                });
            };
            add(text.branch, false, text.held.places());
            if let (Some(compare), Some(shadow)) = (compare, &text.shadow) {
                add(compare, true, shadow.places());
            }
        }
        Again { job: Arc::clone(&writing.job), plan: writing.places.prefill(&writing.job.generation), texts }
    }

    /// Makes the keys; the process that has them, and the texts that could not be.
    async fn compute(self, engine: Engine) -> Result<(Option<u64>, Vec<usize>), EngineError> {
        let Again { job, mut plan, texts } = self;
        plan.readouts.clear();
        plan.captures.clear();
        plan.scoring = crate::plan::Scoring::default();
        let preparing = engine.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let mut runs: Vec<Option<RunId>> = vec![None; texts.len()];
            // Those that others read come first.
            while let Some(next) = (0..texts.len()).find(|i| {
                runs[*i].is_none()
                    && reads(&job, &texts[*i]).iter().all(|read| {
                        text_of(&texts, *read, texts[*i].sample).is_none_or(|read| runs[read].is_some())
                    })
            }) {
                let text = &texts[next];
                let run = |branch| text_of(&texts, branch, text.sample).and_then(|read| runs[read]);
                let added = job.generation.resume(&mut plan, text.branch, &text.written, &text.slots, run);
                runs[next] = Some(added);
            }
            let order: Vec<usize> = plan
                .readouts
                .iter()
                .map(|readout| {
                    let of = runs.iter().position(|run| *run == Some(readout.run));
                    texts[of.expect("BUG: every readout is of a text")].text
                })
                .collect();
            (preparing.prepare(&plan, Mode::Branching), order)
        });
        let (prepared, order) = prepared.await.map_err(|_| EngineError::LayOut)?;
        let asker = Asker::of(&Owner::local().into(), Lane::Interactive);
        let output = engine
            .execute(prepared?, Errand::new(asker, crate::engine::Turn::Next, Box::new(|_| ())))
            .await?;
        let lost = output.scores.iter().zip(order);
        let lost = lost.filter(|(score, _)| matches!(score.missing, Some(Missing::Lost(_))));
        Ok((output.process, lost.map(|(_, text)| text).collect()))
    }
}

fn reads(job: &Job, text: &TextAgain) -> Vec<usize> {
    let steps = 1..=text.written.len() as u32;
    let edits = steps.flat_map(|step| job.generation.branches[text.branch].edits(step));
    edits.filter_map(|edit: Edit| Some(edit.op.run_read()?.0.0 as usize)).collect()
}

/// The text of a branch and sample itself.
fn text_of(texts: &[TextAgain], branch: usize, sample: u32) -> Option<usize> {
    texts.iter().position(|text| !text.shadow && (text.branch, text.sample) == (branch, sample))
}
