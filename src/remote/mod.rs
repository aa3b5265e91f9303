//! `remote=True` of nnsight: its wire, the queue of its jobs, and the processes that run them.
//!
//! ```text
//! client -> http::remote -> Envelope -> queue -> run -> worker process -> Program -> service::program -> engine
//!                                                  <- frames, or an address to fetch the result from
//! ```
//! What a client sends in a rich format goes to the worker unread ([`pool`]); here its envelope is read, and what the worker
//! asks for, in plain data.

pub mod envelope;
pub mod frame;
pub mod hub;
pub mod job;
pub mod kept;
pub mod model;
pub mod names;
pub mod pool;
pub mod queue;
mod run;
pub mod session;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mediant_worker::message::{Model, Profile};

use crate::config;
use crate::service::{Served, Service};
use hub::Hub;
use job::{Answer, Job};
use kept::Kept;
use pool::Pool;
use queue::{Full, Queue};
use session::Sessions;

/// How long a result waits to be fetched.
const TO_FETCH: Duration = Duration::from_mins(10);

/// What a server has for clients of nnsight. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Remote(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: config::Remote,
    hub: OnceLock<Arc<Hub>>,
    /// What blocks are told of the model, by profile and whether attention shows its weights.
    models: [OnceLock<Model>; 4],
    /// What runs blocks, or why none is run.
    pool: OnceLock<Result<Pool, String>>,
    queue: Queue,
    sessions: Sessions,
    kept: Kept,
    results: Mutex<HashMap<String, Waiting>>,
}

/// A result that waits to be fetched by who knows its token.
#[derive(Debug)]
struct Waiting {
    token: String,
    answer: Answer,
    until: Instant,
}

impl Remote {
    /// By the configuration. `folder`: where jobs that nobody waits for are kept.
    pub fn new(settings: &config::Remote, folder: PathBuf) -> Self {
        let queue = Queue::new(settings.jobs_at_once(), settings.queued_per_owner);
        Self(Arc::new(Inner {
            settings: settings.clone(),
            hub: OnceLock::new(),
            models: Default::default(),
            pool: OnceLock::new(),
            queue,
            sessions: Sessions::default(),
            kept: Kept::new(folder),
            results: Mutex::default(),
        }))
    }

    /// The settings.
    pub fn settings(&self) -> &config::Remote {
        &self.0.settings
    }

    /// The model's files; takes a moment when it is called first.
    ///
    /// # Errors
    /// They cannot be made.
    pub async fn hub(&self, served: &Arc<Served>) -> Result<Arc<Hub>, String> {
        if let Some(hub) = self.0.hub.get() {
            return Ok(Arc::clone(hub));
        }
        let (inner, served) = (Arc::clone(&self.0), Arc::clone(served));
        let made = tokio::task::spawn_blocking(move || {
            Arc::clone(inner.hub.get_or_init(|| Arc::new(Hub::of(&served))))
        });
        made.await.map_err(|_| "the model's files cannot be made".to_owned())
    }

    /// What blocks are told of the model.
    async fn told(&self, service: &Service, profile: Profile, eager: bool) -> Result<Model, String> {
        let hub = self.hub(&service.served).await?;
        let place = usize::from(profile == Profile::Legacy) * 2 + usize::from(eager);
        Ok(self.0.models[place].get_or_init(|| model::told(service, &hub, profile, eager)).clone())
    }

    /// Websockets of clients that wait.
    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// Checks the sandbox, starts workers ahead, and takes up jobs that an earlier process left. Blocks run from then on.
    pub async fn start(&self, service: &Service) {
        let settings = &self.0.settings;
        let pool = if settings.source == config::RemoteSource::Off {
            Err("remote.source = \"off\" in the server's configuration".to_owned())
        } else {
            Pool::start(settings).await
        };
        match &pool {
            Ok(pool) if pool.lacks().is_empty() => tracing::info!("remote=True of nnsight is served"),
            Ok(pool) => {
                let lacks = pool.lacks().join(", ");
                tracing::warn!(
                    "remote=True of nnsight is served; this machine lacks {lacks}, and the rest of the sandbox holds"
                );
            }
            Err(reason) => tracing::warn!("remote=True of nnsight is not served: {reason}"),
        }
        let serves = pool.is_ok();
        if self.0.pool.set(pool).is_ok() && serves {
            for job in self.0.kept.unfinished() {
                self.spawn(job, service.clone());
            }
        }
    }

    /// Ends the workers that wait.
    pub fn stop(&self) {
        if let Some(Ok(pool)) = self.0.pool.get() {
            pool.stop();
        }
    }

    /// Why no block is run here, if so.
    pub fn unavailable(&self) -> Option<String> {
        match self.0.pool.get() {
            None => Some("the sandbox is being checked".to_owned()),
            Some(Ok(_)) => None,
            Some(Err(reason)) => Some(reason.clone()),
        }
    }

    /// What this machine's kernel lacks of what the sandbox uses.
    pub fn lacks(&self) -> Vec<String> {
        self.pool().map(|pool| pool.lacks().to_vec()).unwrap_or_default()
    }

    /// Jobs that run, and jobs that wait for their turn.
    pub fn jobs(&self) -> (usize, usize) {
        self.0.queue.counts()
    }

    fn pool(&self) -> Option<&Pool> {
        self.0.pool.get().and_then(|pool| pool.as_ref().ok())
    }

    /// Takes a job on: it is run when its turn has come. One that nobody waits for is stored before this returns.
    ///
    /// # Errors
    /// Its owner has enough waiting, or it cannot be stored.
    pub async fn submit(&self, job: Job, service: &Service) -> Result<(), NotTaken> {
        if !self.0.queue.has_room(&job.party) {
            return Err(NotTaken::Full(Full { most: self.0.settings.queued_per_owner }));
        }
        if job.is_polled() {
            let (kept, kept_job) = (self.0.kept.clone(), job.clone());
            let stored = tokio::task::spawn_blocking(move || kept.put(&kept_job)).await;
            stored.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(NotTaken::Store)?;
        }
        self.spawn(job, service.clone());
        Ok(())
    }

    fn spawn(&self, job: Job, service: Service) {
        let remote = self.clone();
        tokio::spawn(async move { run::to_its_end(&remote, &service, job).await });
    }

    /// Keeps a result until it is fetched. The path that it is fetched from.
    fn keep(&self, id: &str, answer: Answer) -> String {
        let token = job::secret();
        let mut results = self.results();
        let now = Instant::now();
        results.retain(|_, waiting| waiting.until > now);
        results.insert(id.to_owned(), Waiting { token: token.clone(), answer, until: now + TO_FETCH });
        format!("/result/{id}?token={token}")
    }

    /// Gives a result to who knows its token, once.
    pub fn fetch(&self, id: &str, token: &str) -> Option<Answer> {
        use subtle::ConstantTimeEq;
        let mut results = self.results();
        let waiting = results.get(id)?;
        let known = bool::from(waiting.token.as_bytes().ct_eq(token.as_bytes()));
        if known && waiting.until > Instant::now() {
            results.remove(id).map(|waiting| waiting.answer)
        } else {
            None
        }
    }

    fn results(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting>> {
        self.0.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a job that nobody waits for, as its owner is told. `base`: this server's address as the client has it.
    pub async fn response(
        &self,
        id: &str,
        owner: &crate::owner::Owner,
        base: &str,
    ) -> Option<serde_json::Value> {
        let (kept, id, owner) = (self.0.kept.clone(), id.to_owned(), owner.clone());
        let found = tokio::task::spawn_blocking(move || kept.response(&id, &owner)).await.ok()??;
        Some(match found {
            kept::Found::Status(status) => status,
            kept::Found::Completed(mut status, bytes) => {
                let id = status["id"].as_str().unwrap_or_default().to_owned();
                let path = self.keep(&id, Answer { bytes, share: None });
                status["data"] = format!("{base}{path}").into();
                status
            }
        })
    }
}

/// Why a job was not taken on.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// Its owner has enough waiting.
    #[error(transparent)]
    Full(Full),
    /// It cannot be stored.
    #[error("the job cannot be stored: {0}")]
    Store(std::io::Error),
}
