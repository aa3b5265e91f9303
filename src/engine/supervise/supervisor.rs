//! The life of a server's engine processes, one after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::busy::Busy;
use super::super::known_answer;
use super::super::process::unpacked;
use super::super::queue::Queue;
use super::super::row_budget::RowBudget;
use super::super::shared::Folder;
use super::super::step::{Hand, LostStep, StepFailure, StepWork, Stepped, Turns};
use super::super::wire::{self, FromEngine, Order, Output, ToEngine, WireError};
use super::super::work::{Company, Failure, Incoming, Piece, lay_out, size};
use super::super::{Health, State};
use super::child::{Frame, Process};
use super::watchdog::{Breaker, Watchdog};
use crate::config::Config;
use crate::model::config::ModelConfig;
use crate::plan::output::Lost;

/// Batches that an engine has at once: one that it computes, and the next.
const AHEAD: usize = 2;
/// Deaths after which a piece is not tried again as it is; those in company do not count.
const ATTEMPTS: u32 = 2;
/// A batch is formed at least so long before the one in hand is expected to end.
const LEAST_LEAD: Duration = Duration::from_millis(2);
/// A batch whose tables are no larger, in row-layers and keys, is laid out where it is formed: that takes tenths of a
/// millisecond, as long as handing it to another thread and back.
const SMALL_TABLES: u64 = 8192;
/// Weight of the last batch in what is expected of the next.
const RECENT: f64 = 0.2;
/// The number of the known answer's batch.
const KNOWN: u64 = 0;
/// A timer that goes off later than this says nothing about the engine.
const LATE: Duration = Duration::from_secs(1);

/// Watches over one engine process at a time.
pub(super) struct Supervisor {
    order: Order,
    socket: Folder,
    memory: Folder,
    inbox: mpsc::UnboundedReceiver<Incoming>,
    busy: Arc<Busy>,
    /// How many texts are being written.
    texts: Arc<AtomicUsize>,
    /// Told since the first process was ready.
    state: Option<watch::Sender<State>>,
    /// Number of the process.
    epoch: u64,
    /// Number of the next batch.
    next: u64,
    /// Sent, in order. The first is being computed.
    flights: VecDeque<Flight>,
    /// When the first of them became the first, or was begun.
    since: Instant,
    /// When an idle engine was asked for a sign of life that has not come yet.
    pinged: Option<Instant>,
    /// To be sent, in order, before anything else.
    waiting: VecDeque<Flight>,
    /// To be sent after these.
    laying: Option<JoinHandle<Option<Flight>>>,
    /// Of which batches are formed.
    queue: Queue,
    /// Steps of generation, which are batches by themselves.
    steps: VecDeque<StepWork>,
    turns: Turns,
    /// How long before the end of a batch the next one is formed.
    lead: Duration,
    watchdog: Watchdog,
    breaker: Breaker,
    known: Known,
    /// The frame that asks for a sign of life.
    ping: Frame,
    pause: Duration,
}

/// A batch with its tables written out.
struct Flight {
    id: u64,
    asked: Whose,
    frame: Frame,
    /// What it took to lay it out.
    laid_out: Duration,
    /// Row-layers and readouts.
    size: (u64, u64),
    /// For how long the engine had been busy when it was begun, if it was.
    begun: Option<Duration>,
    /// Processes that died of it.
    deaths: u32,
}

/// Whose a batch is.
enum Whose {
    /// Nobody's: it asks for the known answer.
    Known,
    /// Of plans.
    Plans(Company),
    /// Of texts.
    Step(StepWork),
}

/// The batch whose answer is known.
struct Known {
    frame: Frame,
    size: (u64, u64),
    /// The answer's bytes.
    answer: Option<Vec<u8>>,
    /// Whether the present process gave it.
    given: bool,
    /// When it is due again.
    due: Instant,
    interval: Duration,
}

/// How a process came to its end.
enum End {
    /// Nobody needs it any more.
    Finished,
    /// It died, or must die for this reason.
    Died(Option<String>),
}

impl Supervisor {
    pub(super) fn new(
        config: &Config,
        shape: &ModelConfig,
        weights_sha256: &str,
        inbox: mpsc::UnboundedReceiver<Incoming>,
        busy: Arc<Busy>,
        texts: Arc<AtomicUsize>,
    ) -> std::io::Result<Supervisor> {
        let (socket, memory) = (Folder::temporary()?, Folder::in_memory()?);
        let order = Order {
            config: config.clone(),
            weights_sha256: weights_sha256.to_owned(),
            shared: memory.path().to_owned(),
        };
        let batch = known_answer::batch(shape);
        let now = Instant::now();
        let known = Known {
            size: size(&batch),
            frame: wire::frame(&ToEngine::Compute { id: KNOWN, batch: Box::new(batch) }).into(),
            answer: None,
            given: false,
            due: now,
            interval: config.engine.known_answer_interval(),
        };
        Ok(Supervisor {
            order,
            socket,
            memory,
            inbox,
            busy,
            texts,
            steps: VecDeque::new(),
            turns: Turns::new(config.engine.step_share),
            state: None,
            epoch: 0,
            next: KNOWN + 1,
            flights: VecDeque::new(),
            since: now,
            pinged: None,
            waiting: VecDeque::new(),
            laying: None,
            queue: Queue::default(),
            lead: LEAST_LEAD,
            // Known better as soon as a process has measured it.
            watchdog: Watchdog::new(config.engine.watchdog_floor(), 1.0),
            breaker: Breaker::default(),
            known,
            ping: wire::frame(&ToEngine::Ping).into(),
            pause: config.engine.unhealthy_pause(),
        })
    }

    /// One process after the other, until nobody needs one. `first`: told when the first is ready, or why it is not; in that
    /// case there is no second one.
    pub(super) async fn run(mut self, first: oneshot::Sender<Result<watch::Receiver<State>, String>>) {
        let mut first = Some(first);
        loop {
            self.epoch += 1;
            let reason = match self.launch().await {
                Ok(mut process) => {
                    self.is_ready(&process, &mut first);
                    let End::Died(why) = self.drive(&mut process).await else { return };
                    let how = process.end();
                    // What it still said counts: also which batch it had begun.
                    while let Some(event) = process.events.recv().await {
                        let _ = self.hear(event);
                    }
                    self.blame();
                    why.unwrap_or_else(|| format!("its process ended, {how}"))
                }
                Err(reason) => {
                    if let Some(first) = first.take() {
                        let _ = first.send(Err(reason));
                        return;
                    }
                    self.breaker.died();
                    reason
                }
            };
            tracing::error!(engine.epoch = self.epoch, "the engine is restarted: {reason}");
            if self.breaker.is_open() {
                self.refuse(&reason).await;
            }
            self.set(Health::Away { reason });
            sleep(self.breaker.wait()).await;
        }
    }

    async fn launch(&self) -> Result<Process, String> {
        self.memory.clear().map_err(|error| format!("its shared memory cannot be cleared: {error}"))?;
        Process::launch(&self.order, self.socket.path(), self.epoch).await
    }

    fn is_ready(
        &mut self,
        process: &Process,
        first: &mut Option<oneshot::Sender<Result<watch::Receiver<State>, String>>>,
    ) {
        let ready = process.ready.clone();
        // Later processes keep as many, whatever memory is free then.
        if let Some(bytes) = ready.devices.iter().map(|device| device.key_bytes).max() {
            self.order.config.engine.key_bytes = bytes;
        }
        let budget = ready.budget;
        self.watchdog.measured(budget.flops_per_second);
        if let Some(told) = &self.state {
            tracing::info!(engine.epoch = self.epoch, "the engine is back");
            self.busy.restarted();
            told.send_modify(|state| *state = State { health: Health::Ready, ready, group: state.group });
        } else {
            let (sender, state) = watch::channel(State { health: Health::Ready, ready, group: 0 });
            self.state = Some(sender);
            if let Some(first) = first.take() {
                let _ = first.send(Ok(state));
            }
        }
    }

    fn set(&self, health: Health) {
        if let Some(state) = &self.state {
            state.send_modify(|state| state.health = health);
        }
    }

    /// Lets a process compute until it dies or nobody needs it any more.
    async fn drive(&mut self, process: &mut Process) -> End {
        let (budget, merges) = (process.ready.budget, process.ready.numerics.merges());
        self.known.given = false;
        self.pinged = None;
        self.ask_known(process);
        let (alone, answer) = self.watchdog.idle();
        loop {
            while self.flights.len() < AHEAD
                && let Some(flight) = self.waiting.pop_front()
            {
                if !flight.is_abandoned() {
                    self.send(flight, process);
                }
            }
            if self.flights.len() < AHEAD && self.waiting.is_empty() && self.is_steps_turn() {
                self.send_step(process);
            }
            let busy = !self.flights.is_empty();
            let idle = !busy && self.laying.is_none() && self.queue.is_empty() && self.steps.is_empty();
            let form = self.form_at(&budget);
            if form.is_some_and(|at| at <= Instant::now()) {
                // Timers count milliseconds: one that is due would go off in the next of them.
                self.form(&budget, merges);
                continue;
            }
            let limit = self.flights.front().map(|flight| self.watchdog.limit(flight.flops(&budget)));
            let deadline = self.since + limit.unwrap_or_default();
            let silent =
                self.pinged.unwrap_or(self.since) + if self.pinged.is_some() { answer } else { alone };
            tokio::select! {
                event = process.events.recv() => match event.map(|event| self.hear(event)) {
                    Some(Ok(())) => {}
                    Some(Err(why)) => return End::Died(Some(why)),
                    None => return End::Died(None),
                },
                flight = laid_out(&mut self.laying) => {
                    self.laying = None;
                    if let Some(flight) = flight {
                        self.laid_out(flight);
                    }
                }
                work = self.inbox.recv() => match work {
                    Some(work) => self.take(work, busy),
                    None => return End::Finished,
                },
                () = arrive(form.unwrap_or_else(Instant::now)), if form.is_some() => self.form(&budget, merges),
                () = sleep_until(deadline), if busy => {
                    let limit = limit.unwrap_or_default().as_secs_f64();
                    return End::Died(Some(format!("it hangs: nothing came of a batch within {limit:.1} s")));
                }
                () = sleep_until(silent), if !busy => {
                    // Late by more is this process's own fault: it was stopped itself, and has not read what came meanwhile.
                    let late = silent.elapsed() > LATE;
                    if self.pinged.is_some() && !late {
                        let limit = answer.as_secs_f64();
                        return End::Died(Some(format!("it hangs: it was idle and gave no sign of life for {limit:.1} s")));
                    }
                    let again = self.pinged.is_some();
                    self.pinged = Some(Instant::now());
                    if !again {
                        process.send(&self.ping);
                    }
                }
                () = sleep_until(self.known.due), if idle => self.ask_known(process),
            }
        }
    }

    fn take(&mut self, work: Incoming, busy: bool) {
        match work {
            Incoming::Part(work) => self.queue.push(work, busy, Instant::now().into_std()),
            Incoming::Step(work) => self.steps.push_back(work),
        }
    }

    /// When the next batch is to be formed, if one is: as late as is possible without letting the engine wait, so that who comes
    /// meanwhile is in it. Where little waits, not before the engine is idle: those who are answered then may be in it, too.
    fn form_at(&self, budget: &RowBudget) -> Option<Instant> {
        if self.queue.is_empty() || self.laying.is_some() || !self.waiting.is_empty() {
            return None;
        }
        let now = Instant::now().into_std();
        let hand = match self.flights.front() {
            None => Hand::Nothing,
            Some(Flight { asked: Whose::Step(_), .. }) => Hand::Step,
            Some(_) => Hand::Others,
        };
        let from = if self.are_writing() { self.turns.others_from(hand, now)? } else { now };
        let wanted = match self.flights.front() {
            None => self.queue.held_until(budget, now).map_or(now, |until| until.max(now)).into(),
            Some(flight) if self.flights.len() < AHEAD && self.queue.is_ripe(budget, now) => {
                let expected = self.watchdog.expected(flight.flops(budget));
                self.since + expected.saturating_sub(self.lead)
            }
            Some(_) => return None,
        };
        Some(wanted.max(from.into()))
    }

    /// Whether texts are being written.
    fn are_writing(&self) -> bool {
        self.texts.load(Ordering::Relaxed) > 0
    }

    /// Whether a step is to be computed before anything else that waits.
    fn is_steps_turn(&self) -> bool {
        !self.steps.is_empty()
            && (self.turns.step_first() || (self.queue.is_empty() && self.laying.is_none()))
    }

    /// Sends the next step whose keys this process has. A step's tables are small, so they are written out here.
    fn send_step(&mut self, process: &Process) {
        while let Some(mut work) = self.steps.pop_front() {
            if work.is_abandoned() {
                continue;
            }
            if work.process != self.epoch {
                work.answer(Err(StepFailure::Forgotten));
                continue;
            }
            let (id, size) = (self.next, size(&work.batch));
            self.next += 1;
            let order = ToEngine::Compute { id, batch: std::mem::take(&mut work.batch) };
            let frame = wire::frame(&order).into();
            let asked = Whose::Step(work);
            let laid_out = Duration::ZERO;
            return self.send(Flight { id, asked, frame, laid_out, size, begun: None, deaths: 0 }, process);
        }
    }

    /// A batch is there. It tells how long it takes to lay one out.
    fn laid_out(&mut self, flight: Flight) {
        let lead = self.lead.mul_f64(1.0 - RECENT) + flight.laid_out.mul_f64(2.0 * RECENT);
        self.lead = lead.max(LEAST_LEAD);
        self.waiting.push_back(flight);
    }

    /// Forms the next batch of all that has come.
    fn form(&mut self, budget: &RowBudget, merges: bool) {
        let busy = !self.flights.is_empty();
        while let Ok(work) = self.inbox.try_recv() {
            self.take(work, busy);
        }
        let pieces = self.queue.form(budget, merges, Instant::now().into_std());
        self.lay_out(pieces, *budget);
    }

    /// Has tables made and written out: off this thread, which must keep watching, unless they are small.
    fn lay_out(&mut self, pieces: Vec<Piece>, budget: RowBudget) {
        if pieces.is_empty() {
            return;
        }
        let id = self.next;
        self.next += 1;
        let tables: u64 = pieces.iter().map(|piece| piece.tables).sum();
        if tables > SMALL_TABLES {
            self.laying = Some(tokio::task::spawn_blocking(move || written_out(id, pieces, &budget)));
        } else if let Some(flight) = written_out(id, pieces, &budget) {
            self.laid_out(flight);
        }
    }

    fn ask_known(&mut self, process: &Process) {
        let (frame, size) = (Frame::clone(&self.known.frame), self.known.size);
        let laid_out = Duration::ZERO;
        let asked = Whose::Known;
        self.send(Flight { id: KNOWN, asked, frame, laid_out, size, begun: None, deaths: 0 }, process);
    }

    fn send(&mut self, flight: Flight, process: &Process) {
        if self.flights.is_empty() {
            self.since = Instant::now();
        }
        process.send(&flight.frame);
        self.flights.push_back(flight);
    }

    /// Takes note of a message. The error is why the process must go.
    fn hear(&mut self, event: FromEngine) -> Result<(), String> {
        match event {
            FromEngine::Begun { id } => {
                self.since = Instant::now();
                let flight = self.flights.front_mut().filter(|flight| flight.id == id);
                flight.ok_or_else(out_of_turn)?.begun = Some(self.busy.begin());
                Ok(())
            }
            FromEngine::Done { id, seconds, output } => {
                let flight = self.landed(id)?;
                let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                self.busy.end(took, flight.size.0);
                self.done(flight, took, output)
            }
            FromEngine::OutOfMemory { id, why } => {
                tracing::warn!(batch.id = id, "{why}");
                let flight = self.landed(id)?;
                self.busy.abandon();
                match flight.asked {
                    // Each alone takes less.
                    Whose::Plans(company) if company.is_several() => self.queue.part(company.apart()),
                    Whose::Plans(company) => company.fail(&Failure::Lost(Lost::OutOfMemory)),
                    Whose::Step(work) => work.answer(Err(LostStep(Lost::OutOfMemory).into())),
                    Whose::Known => {}
                }
                Ok(())
            }
            FromEngine::Failed(why) => Err(why),
            FromEngine::Pong => {
                self.since = Instant::now();
                self.pinged.take().map(|_| ()).ok_or_else(out_of_turn)
            }
            FromEngine::Loading { .. } | FromEngine::LoadFailed(_) | FromEngine::Ready(_) => {
                Err(out_of_turn())
            }
        }
    }

    /// The batch that is not computed any more.
    fn landed(&mut self, id: u64) -> Result<Flight, String> {
        let front = self.flights.pop_front_if(|flight| flight.id == id);
        self.since = Instant::now();
        front.ok_or_else(out_of_turn)
    }

    fn done(&mut self, flight: Flight, took: Duration, output: Output) -> Result<(), String> {
        if let Whose::Known = flight.asked {
            let (changed, checked) = self.known.check(&output);
            if let (true, Some(state)) = (changed, &self.state) {
                state.send_modify(|state| state.group += 1);
            }
            return checked;
        }
        let output = match unpacked(flight.id, output, self.memory.path()) {
            Ok(output) => output,
            Err(error) => {
                // As if it had died of it: computed again, and then perhaps with more luck.
                self.flights.push_front(flight);
                return Err(format!("its output is lost: {error}"));
            }
        };
        self.breaker.finished();
        let others = !self.queue.is_empty() || self.laying.is_some() || !self.flights.is_empty();
        let company = match flight.asked {
            Whose::Step(work) => {
                self.turns.step_done(took, others, std::time::Instant::now());
                work.answer(Ok(Stepped { output, took }));
                return Ok(());
            }
            Whose::Plans(company) => company,
            Whose::Known => return Ok(()),
        };
        self.turns.other_done(took, self.are_writing());
        if let Some(state) = &self.state {
            let flops = state.borrow().ready.budget.flops(flight.size.0, flight.size.1);
            self.watchdog.finished(flops, took.as_secs_f64());
        }
        if self.flights.is_empty() {
            self.queue.answered(took, Instant::now().into_std());
        }
        company.land(output, flight.begun.unwrap_or_default(), took, self.epoch);
        Ok(())
    }

    /// A process died: what it was computing is at fault, if anything is. All that was not finished is sent again; pieces that
    /// were computed together each alone, so that it is clear what an engine dies of.
    fn blame(&mut self) {
        let mut counts = true;
        self.busy.abandon();
        if let Some(mut flight) = self.flights.pop_front_if(|flight| flight.begun.is_some()) {
            flight.deaths += 1;
            match flight.asked {
                Whose::Plans(company) if company.is_several() => self.queue.part(company.apart()),
                // Who has sent it knows which texts are in it, and makes their keys anew.
                Whose::Step(work) => work.answer(Err(LostStep(Lost::EngineCrash).into())),
                Whose::Plans(company) if company.is_suspect() || flight.deaths >= ATTEMPTS => {
                    // A suspect was expected to be guilty; that says nothing about the engine.
                    counts = !company.is_suspect();
                    company.fail(&Failure::Lost(Lost::EngineCrash));
                }
                asked => self.flights.push_front(Flight { asked, ..flight }),
            }
        }
        if counts {
            self.breaker.died();
        }
        for flight in self.flights.drain(..).rev() {
            match flight.asked {
                Whose::Plans(_) => self.waiting.push_front(Flight { begun: None, ..flight }),
                Whose::Step(work) => work.answer(Err(StepFailure::Forgotten)),
                Whose::Known => {}
            }
        }
    }

    /// Refuses all work for a while.
    async fn refuse(&mut self, reason: &str) {
        tracing::error!("the engine dies again and again; work is refused for {:?}", self.pause);
        self.set(Health::Unhealthy { reason: reason.to_owned() });
        let failure = Failure::Unhealthy(reason.to_owned());
        let until = Instant::now() + self.pause;
        if self.laying.is_some() {
            self.waiting.extend(laid_out(&mut self.laying).await);
            self.laying = None;
        }
        self.waiting.drain(..).for_each(|flight| flight.fail(&failure));
        self.queue.fail(&failure);
        let unhealthy = || StepFailure::Unhealthy(reason.to_owned());
        self.steps.drain(..).for_each(|work| work.answer(Err(unhealthy())));
        loop {
            tokio::select! {
                () = sleep_until(until) => break,
                work = self.inbox.recv() => match work {
                    Some(Incoming::Part(work)) => work.fail(&failure),
                    Some(Incoming::Step(work)) => work.answer(Err(unhealthy())),
                    None => break,
                },
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.set(Health::Stopped);
    }
}

impl Flight {
    fn is_abandoned(&self) -> bool {
        match &self.asked {
            Whose::Known => false,
            Whose::Plans(company) => company.is_abandoned(),
            Whose::Step(work) => work.is_abandoned(),
        }
    }

    fn flops(&self, budget: &RowBudget) -> f64 {
        budget.flops(self.size.0, self.size.1)
    }

    fn fail(self, failure: &Failure) {
        // Steps never wait as flights do.
        if let Whose::Plans(company) = self.asked {
            company.fail(failure);
        }
    }
}

impl Known {
    /// Compares an answer with the one before: whether it has changed. The error is why the process must go.
    fn check(&mut self, output: &Output) -> (bool, Result<(), String>) {
        let bytes = wire::frame(output);
        let same = self.answer.as_ref().is_none_or(|known| *known == bytes);
        if !same && self.given {
            let why = "its known answer has other bits than before: memory or device are broken, and results since the \
                       last check are suspect";
            return (true, Err(why.to_owned()));
        }
        if !same {
            tracing::error!("the engine's known answer has other bits than that of the process before");
        }
        self.answer = Some(bytes);
        self.given = true;
        self.due = Instant::now() + self.interval;
        (!same, Ok(()))
    }
}

fn out_of_turn() -> String {
    WireError::OutOfTurn.to_string()
}

/// A batch with its tables made and written out. `None`: nobody waits for it any more, or that failed.
fn written_out(id: u64, pieces: Vec<Piece>, budget: &RowBudget) -> Option<Flight> {
    let began = std::time::Instant::now();
    let (company, batch) = lay_out(pieces, budget)?;
    let size = size(&batch);
    let frame = wire::frame(&ToEngine::Compute { id, batch: Box::new(batch) }).into();
    let laid_out = began.elapsed();
    let asked = Whose::Plans(company);
    Some(Flight { id, asked, frame, laid_out, size, begun: None, deaths: 0 })
}

/// Waits until then, not at all if it is past. A timer by itself would: they tick once a millisecond, and a request that finds the
/// engine idle would wait for the next tick.
async fn arrive(then: Instant) {
    if Instant::now() < then {
        sleep_until(then).await;
    }
}

/// The batch that was being laid out; never, if none is.
async fn laid_out(laying: &mut Option<JoinHandle<Option<Flight>>>) -> Option<Flight> {
    match laying {
        // A panic was caught, and answered, inside.
        Some(laying) => laying.await.ok().flatten(),
        None => std::future::pending().await,
    }
}
