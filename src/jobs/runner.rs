//! Claims units and computes them, a few at a time, until the server stops.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet};
use uuid::Uuid;

use super::work::{Failed, OpenSweeps, compute};
use super::{Jobs, outcome};
use crate::engine::{EngineError, Health};
use crate::plan::output::Lost;
use crate::service::{Refusal, Service};
use crate::store::job::{Charged, Claim, Committed, Done, JobId, Phase};
use crate::store::{GivenBack, StoreError};
use crate::usage::{Tab, Used};

/// How often an idle runner looks for work that nobody told it of, and a busy one for jobs that were cancelled.
const LOOK: Duration = Duration::from_millis(500);
/// How long a stopping runner waits for units on their way. They are cut to take about a second.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often units are looked for that this process holds without knowing.
const STRAYS: Duration = Duration::from_secs(5);
/// Units at work of all jobs, in times of those of one: the engine takes turns among them, so a job that comes need not wait for
/// another's.
const AHEAD_IN_ALL: usize = 8;
/// How long a store that failed is left alone.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How often partial means are told, and what share of the time they may take.
const PARTIAL_EVERY: Duration = Duration::from_secs(5);
const PARTIAL_SHARE: u32 = 50;

/// A running runner.
#[derive(Debug)]
pub struct Runner {
    stop: watch::Sender<bool>,
    tasks: [JoinHandle<()>; 3],
}

impl Runner {
    /// Starts to claim and compute.
    pub fn start(jobs: &Jobs) -> Self {
        let stop = watch::Sender::new(false);
        let tasks = [
            tokio::spawn(Work::new(jobs.clone()).run(stop.subscribe())),
            tokio::spawn(live(jobs.clone())),
            tokio::spawn(keep(jobs.clone())),
        ];
        Self { stop, tasks }
    }

    /// Claims nothing more, lets units on their way end, and gives back what does not end in time.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let [work, alive, keeper] = self.tasks;
        keeper.abort();
        if work.await.is_err() {
            tracing::error!("the job runner panicked");
        }
        // Units that were still on their way kept their lease.
        alive.abort();
    }
}

fn every(lease: Duration) -> Duration {
    (lease / 4).clamp(Duration::from_millis(50), Duration::from_secs(10))
}

/// Signs of life, which nothing else may hold up.
async fn live(jobs: Jobs) {
    let lease = jobs.settings.lease;
    loop {
        if let Err(error) = jobs.store.heartbeat(lease).await {
            tracing::warn!("the job store took no sign of life: {error}");
        }
        tokio::time::sleep(every(lease)).await;
    }
}

/// What somebody must do from time to time.
async fn keep(jobs: Jobs) {
    loop {
        let kept = async {
            jobs.store.recover().await?;
            jobs.store.expire().await
        };
        if let Err(error) = kept.await {
            tracing::warn!("the job store cannot be kept: {error}");
        }
        // The store remembers what it finds, and readiness says so.
        let _ = jobs.store.check().await;
        let every = every(jobs.settings.lease);
        tokio::time::sleep(if jobs.store.trouble().is_some() { every.min(STORE_PAUSE) } else { every }).await;
    }
}

/// The units that this process holds.
struct Work {
    jobs: Jobs,
    sweeps: Arc<OpenSweeps>,
    tasks: JoinSet<()>,
    held: HashMap<Id, (Claim, AbortHandle)>,
    /// When partial means of a job are due next.
    due: Due,
}

impl Work {
    fn new(jobs: Jobs) -> Self {
        Self {
            jobs,
            sweeps: Arc::default(),
            tasks: JoinSet::new(),
            held: HashMap::new(),
            due: Due::default(),
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.jobs.store.subscribe();
        let (mut looked, mut tidied) = (Instant::now(), Instant::now());
        while !*stop.borrow_and_update() {
            let claimed = self.claim().await;
            if looked.elapsed() >= LOOK {
                self.drop_ended().await;
                looked = Instant::now();
            }
            if tidied.elapsed() >= STRAYS {
                self.drop_strays().await;
                tidied = Instant::now();
            }
            if claimed {
                continue;
            }
            tokio::select! {
                Some(done) = self.tasks.join_next_with_id() => self.settle(done).await,
                _ = changes.changed(), if self.has_room() => {}
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.changed() => {}
            }
        }
        self.finish().await;
    }

    fn has_room(&self) -> bool {
        self.held.len() < AHEAD_IN_ALL * self.jobs.settings.units_ahead as usize
    }

    /// Takes a unit on, if there is one and the engine can compute it.
    async fn claim(&mut self) -> bool {
        let Some(service) = self.jobs.service.get().filter(|_| self.has_room()).cloned() else {
            return false;
        };
        if service.engine.health() != Health::Ready {
            return false;
        }
        match self.jobs.store.claim(&service.identity(), self.jobs.settings.units_ahead).await {
            Ok(Some(claim)) => {
                tracing::debug!(job.id = %claim.job.id, unit = claim.seq, attempt = claim.attempt, "unit claimed");
                let unit = Unit {
                    jobs: self.jobs.clone(),
                    service,
                    sweeps: Arc::clone(&self.sweeps),
                    due: self.due.clone(),
                };
                let handle = self.tasks.spawn(unit.run(claim.clone()));
                self.held.insert(handle.id(), (claim, handle));
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!("no unit could be claimed: {error}");
                tokio::time::sleep(STORE_PAUSE).await;
                false
            }
        }
    }

    /// Stops computing for jobs that were cancelled, or failed elsewhere.
    async fn drop_ended(&mut self) {
        let mut ids: Vec<JobId> = self.held.values().map(|(claim, _)| claim.job.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return;
        }
        let Ok(ended) = self.jobs.store.ended(&ids).await else { return };
        for (claim, handle) in self.held.values().filter(|(claim, _)| ended.contains(&claim.job.id)) {
            tracing::info!(job.id = %claim.job.id, unit = claim.seq, "the job has ended; its unit is dropped");
            handle.abort();
        }
    }

    /// Gives back units whose giving back failed when it was their time, or whose claim was answered by nobody.
    async fn drop_strays(&self) {
        let held: Vec<Uuid> = self.held.values().map(|(claim, _)| claim.token).collect();
        match self.jobs.store.keep_only(&held).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(units = count, "gave back {count} units that nobody worked on"),
            Err(error) => tracing::debug!("units that nobody works on were not looked for: {error}"),
        }
    }

    async fn settle(&mut self, done: Result<(Id, ()), JoinError>) {
        let id = match &done {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some((claim, _)) = self.held.remove(&id) else { return };
        if done.is_err_and(|error| error.is_panic()) {
            give_up(&self.jobs, &claim, "computing it failed in a way that should not be possible", true)
                .await;
        }
    }

    async fn finish(mut self) {
        let ended = async {
            while let Some(done) = self.tasks.join_next_with_id().await {
                self.settle(done).await;
            }
        };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            self.tasks.shutdown().await;
            for (claim, _) in self.held.values() {
                let _ = self.jobs.store.release(claim).await;
            }
        }
    }
}

/// One unit on its way.
struct Unit {
    jobs: Jobs,
    service: Service,
    sweeps: Arc<OpenSweeps>,
    due: Due,
}

impl Unit {
    async fn run(self, claim: Claim) {
        let tab = Tab::of(&self.service.ledger);
        let service = self.service.for_job(&tab);
        let done = match compute(&self.jobs, &service, &self.sweeps, &claim).await {
            Ok(done) => {
                let Used { row_layers, seconds, .. } = tab.total();
                Done { charged: Charged { row_layers, seconds }, ..done }
            }
            Err(failed) => return settle_failure(&self.jobs, &claim, failed).await,
        };
        loop {
            match self.jobs.store.commit(&claim, done.clone()).await {
                Ok(Committed::Counted { .. }) => break tab.is_stored(),
                Ok(Committed::Stale) => {
                    tracing::info!(job.id = %claim.job.id, unit = claim.seq, "unit came too late; it is dropped");
                    return;
                }
                // What was computed is not thrown away: the job pauses until there is room.
                Err(error) if error.is_temporary() => {
                    tracing::warn!(job.id = %claim.job.id, unit = claim.seq, "unit cannot be stored: {error}");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                Err(error) => return settle_failure(&self.jobs, &claim, Failed::Store(error)).await,
            }
        }
        if claim.phase == Phase::Finish {
            tracing::info!(job.id = %claim.job.id, "job done");
        } else if claim.phase == Phase::Cells && self.due.now(claim.job.id) {
            self.tell_partial(&claim).await;
        }
    }

    /// Says what the cells so far show.
    async fn tell_partial(&self, claim: &Claim) {
        let began = Instant::now();
        let Ok(outputs) = self.jobs.store.outputs(claim.job.id).await else { return };
        let Ok(opened) = self.sweeps.of(claim) else { return };
        let made = tokio::task::spawn_blocking(move || outcome::running(&opened, &outputs)).await;
        if let Ok(Ok(partial)) = made {
            let _ = self.jobs.store.event(claim.job.id, "partial", &partial.to_string()).await;
        }
        // Of a large sweep they take long: then they are told less often.
        self.due.after(claim.job.id, (PARTIAL_SHARE * began.elapsed()).max(PARTIAL_EVERY));
    }
}

/// When partial means of each job are due.
#[derive(Debug, Clone, Default)]
struct Due(Arc<Mutex<HashMap<JobId, Instant>>>);

impl Due {
    /// Whether they are due, and then for nobody else.
    fn now(&self, id: JobId) -> bool {
        let mut due = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        due.retain(|_, at| *at + 100 * PARTIAL_EVERY > now);
        // At first there is little to tell.
        let at = due.entry(id).or_insert(now + PARTIAL_EVERY);
        let is_due = *at <= now;
        if is_due {
            *at = now + PARTIAL_EVERY;
        }
        is_due
    }

    fn after(&self, id: JobId, wait: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Instant::now() + wait);
    }
}

/// What becomes of a unit that was not computed.
async fn settle_failure(jobs: &Jobs, claim: &Claim, failed: Failed) {
    let (error, retry) = match failed {
        Failed::Request(
            Refusal::Busy(_)
            | Refusal::Engine(
                EngineError::Stopped | EngineError::Unhealthy { .. } | EngineError::Overloaded { .. },
            ),
        ) => {
            // Not this unit's fault: it waits for the engine.
            let _ = jobs.store.release(claim).await;
            tokio::time::sleep(STORE_PAUSE).await;
            return;
        }
        Failed::Request(Refusal::Engine(error)) => (error.to_string(), true),
        Failed::Request(Refusal::Invalid(problems)) => {
            let said =
                problems.0.first().map_or_else(String::new, |p| format!("{}: {}", p.pointer, p.detail));
            (format!("the request is not valid any more: {said}"), false)
        }
        Failed::Request(Refusal::TooLarge { cost, .. }) => {
            (format!("it would take about {:.0} s, more than the limit", cost.seconds), false)
        }
        Failed::Request(Refusal::Lost(lost)) => (lost.to_string(), lost == Lost::EngineCrash),
        Failed::Request(Refusal::Store(error)) => (error.to_string(), false),
        Failed::Request(Refusal::Checkpoint(error)) => (error.to_string(), true),
        Failed::Unreadable => (
            "another version of the server stored it, and this one can't read it; send its request again"
                .to_owned(),
            false,
        ),
        Failed::Store(error) if error.is_temporary() => {
            tracing::warn!(job.id = %claim.job.id, unit = claim.seq, "the store failed: {error}");
            tokio::time::sleep(STORE_PAUSE).await;
            let _ = jobs.store.release(claim).await;
            return;
        }
        Failed::Store(error) => (error.to_string(), true),
    };
    give_up(jobs, claim, &error, retry).await;
}

async fn give_up(jobs: &Jobs, claim: &Claim, error: &str, retry: bool) {
    tracing::warn!(job.id = %claim.job.id, unit = claim.seq, attempt = claim.attempt, "unit failed: {error}");
    match jobs.store.fail(claim, error, retry).await {
        Ok(GivenBack::JobFailed) => {
            tracing::warn!(job.id = %claim.job.id, "job failed: {error}");
            if let Err(error) = keep_what_there_is(jobs, claim).await {
                tracing::warn!(job.id = %claim.job.id, "its partial result cannot be stored: {error}");
            }
        }
        Ok(GivenBack::Waits | GivenBack::Stale) => {}
        Err(error) => tracing::warn!(job.id = %claim.job.id, "its failure cannot be stored: {error}"),
    }
}

async fn keep_what_there_is(jobs: &Jobs, claim: &Claim) -> Result<(), StoreError> {
    match jobs.store.job(claim.job.id).await? {
        Some(job) if job.kind.is_in_units() => jobs.keep_partial(&job).await,
        _ => Ok(()),
    }
}
