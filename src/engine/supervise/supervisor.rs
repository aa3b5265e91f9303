//! The life of a server's engine processes, one after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::busy::Busy;
use super::super::known_answer;
use super::super::process::unpacked;
use super::super::row_budget::RowBudget;
use super::super::shared::Folder;
use super::super::wire::{self, FromEngine, Order, Output, ToEngine, WireError};
use super::super::work::{ChunkKey, Done, Failure, Work};
use super::super::{Health, State};
use super::child::{Frame, Process};
use super::watchdog::{Breaker, Watchdog};
use crate::config::Config;
use crate::model::config::ModelConfig;
use crate::plan::batch::ForwardBatch;
use crate::plan::output::Lost;

/// Batches that an engine has at once: one that it computes, and the next.
const AHEAD: usize = 2;
/// Deaths after which a batch is not tried again as it is.
const ATTEMPTS: u32 = 2;
/// The number of the known answer's batch.
const KNOWN: u64 = 0;
/// A timer that goes off later than this says nothing about the engine.
const LATE: Duration = Duration::from_secs(1);

/// Watches over one engine process at a time.
pub(super) struct Supervisor {
    order: Order,
    socket: Folder,
    memory: Folder,
    inbox: mpsc::UnboundedReceiver<Work>,
    busy: Arc<Busy>,
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
    /// To be sent, in order, before what comes in.
    waiting: VecDeque<Flight>,
    /// To be sent after these.
    laying: Option<JoinHandle<Option<Flight>>>,
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
    /// Whose it is; nobody's if it asks for the known answer.
    asked: Option<(Work, ChunkKey)>,
    frame: Frame,
    /// Row-layers and readouts.
    size: (u64, u64),
    /// For how long the engine had been busy when it was begun, if it was.
    begun: Option<Duration>,
    /// Processes that died of it.
    deaths: u32,
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
        inbox: mpsc::UnboundedReceiver<Work>,
        busy: Arc<Busy>,
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
            state: None,
            epoch: 0,
            next: KNOWN + 1,
            flights: VecDeque::new(),
            since: now,
            pinged: None,
            waiting: VecDeque::new(),
            laying: None,
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
        let budget = ready.budget;
        self.watchdog.measured(budget.flops_per_second);
        let state = State { health: Health::Ready, ready };
        if let Some(told) = &self.state {
            tracing::info!(engine.epoch = self.epoch, "the engine is back");
            self.busy.restarted();
            told.send_replace(state);
        } else {
            let (sender, state) = watch::channel(state);
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
        let budget = process.ready.budget;
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
            let busy = !self.flights.is_empty();
            let room = self.flights.len() < AHEAD && self.laying.is_none();
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
                    self.waiting.extend(flight);
                }
                work = self.inbox.recv(), if room => match work {
                    Some(work) => self.lay_out(work),
                    None => return End::Finished,
                },
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
                () = sleep_until(self.known.due), if !busy && room => self.ask_known(process),
            }
        }
    }

    /// Has tables made and written out, off this thread, which must keep watching.
    fn lay_out(&mut self, work: Work) {
        if work.is_abandoned() {
            return;
        }
        let id = self.next;
        self.next += 1;
        self.laying = Some(tokio::task::spawn_blocking(move || {
            let (work, key, batch) = work.lay_out()?;
            let size = size(&batch);
            let frame = wire::frame(&ToEngine::Compute { id, batch: Box::new(batch) }).into();
            Some(Flight { id, asked: Some((work, key)), frame, size, begun: None, deaths: 0 })
        }));
    }

    fn ask_known(&mut self, process: &Process) {
        let (frame, size) = (Frame::clone(&self.known.frame), self.known.size);
        self.send(Flight { id: KNOWN, asked: None, frame, size, begun: None, deaths: 0 }, process);
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
                flight.fail(&Failure::Lost(Lost::OutOfMemory));
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
        let Some((work, key)) = flight.asked else { return self.known.check(&output) };
        let output = match unpacked(flight.id, output, self.memory.path()) {
            Ok(output) => output,
            Err(error) => {
                // As if it had died of it: computed again, and then perhaps with more luck.
                self.flights.push_front(Flight { asked: Some((work, key)), ..flight });
                return Err(format!("its output is lost: {error}"));
            }
        };
        self.breaker.finished();
        if let Some(state) = &self.state {
            let flops = state.borrow().ready.budget.flops(flight.size.0, flight.size.1);
            self.watchdog.finished(flops, took.as_secs_f64());
        }
        let queued = work.queued;
        let begun = flight.begun.unwrap_or(queued);
        work.answer(Ok(Done { key, output, queued, begun, took }));
        Ok(())
    }

    /// A process died: what it was computing is at fault, if anything is. All that was not finished is sent again.
    fn blame(&mut self) {
        let mut counts = true;
        self.busy.abandon();
        if let Some(mut flight) = self.flights.pop_front_if(|flight| flight.begun.is_some()) {
            flight.deaths += 1;
            let suspect = flight.is_suspect();
            // A suspect was expected to be guilty; that says nothing about the engine.
            counts = !suspect;
            if suspect || flight.deaths >= ATTEMPTS {
                flight.fail(&Failure::Lost(Lost::EngineCrash));
            } else {
                self.flights.push_front(flight);
            }
        }
        if counts {
            self.breaker.died();
        }
        for flight in self.flights.drain(..).rev().filter(|flight| flight.asked.is_some()) {
            self.waiting.push_front(Flight { begun: None, ..flight });
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
        loop {
            tokio::select! {
                () = sleep_until(until) => break,
                work = self.inbox.recv() => match work {
                    Some(work) => work.answer(Err(failure.clone())),
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
        self.asked.as_ref().is_some_and(|(work, _)| work.is_abandoned())
    }

    fn is_suspect(&self) -> bool {
        self.asked.as_ref().is_some_and(|(work, _)| work.suspect)
    }

    fn flops(&self, budget: &RowBudget) -> f64 {
        budget.flops(self.size.0, self.size.1)
    }

    fn fail(self, failure: &Failure) {
        if let Some((work, _)) = self.asked {
            work.answer(Err(failure.clone()));
        }
    }
}

impl Known {
    /// Compares an answer with the one before. The error is why the process must go.
    fn check(&mut self, output: &Output) -> Result<(), String> {
        let bytes = wire::frame(output);
        let same = self.answer.as_ref().is_none_or(|known| *known == bytes);
        if !same && self.given {
            return Err("its known answer has other bits than before: memory or device are broken, and results since the \
                        last check are suspect"
                .to_owned());
        }
        if !same {
            tracing::error!("the engine's known answer has other bits than that of the process before");
        }
        self.answer = Some(bytes);
        self.given = true;
        self.due = Instant::now() + self.interval;
        Ok(())
    }
}

fn out_of_turn() -> String {
    WireError::OutOfTurn.to_string()
}

/// Work of a batch: its row-layers and the rows that are unembedded.
fn size(batch: &ForwardBatch) -> (u64, u64) {
    let lens = batch.layers.iter().map(|layer| layer.lens.rows.len());
    (batch.row_layers, (batch.readout.rows.len() + lens.sum::<usize>()) as u64)
}

/// The batch that was being laid out; never, if none is.
async fn laid_out(laying: &mut Option<JoinHandle<Option<Flight>>>) -> Option<Flight> {
    match laying {
        // A panic was caught, and answered, inside.
        Some(laying) => laying.await.ok().flatten(),
        None => std::future::pending().await,
    }
}
