//! Worker processes: one a job, started ahead, ended with their job. What a client sends is read there and nowhere else.
//!
//! A worker is this program with the command `worker`. Its standard input is a socket to this process, its standard output one to
//! its evaluator, a child of a warm Python interpreter; it has no other file, no network and no weights
//! (`mediant_worker::sandbox`). It is killed when the job is over, whatever it says, and its evaluator with it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mediant_worker::message::{self, CheckReport, ToServer, ToWorker};
use mediant_worker::sandbox::{self, Bounds, EVALUATOR_BYTES};
use mediant_worker::zygote::Zygote;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::config;
use crate::engine::process::program;

/// Workers that wait for a job, at most.
const SPARE: usize = 4;
/// A worker that is not ready by then never will be.
const TO_START: Duration = Duration::from_secs(30);

/// Workers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: config::Remote,
    lacks: Vec<String>,
    /// From which evaluators are forked; none after it was found to have ended.
    interpreter: tokio::sync::Mutex<Option<Zygote>>,
    spare: Mutex<Spare>,
}

#[derive(Debug, Default)]
struct Spare {
    ready: Vec<Worker>,
    /// Being started.
    coming: usize,
    stopped: bool,
}

/// A worker process; ended when dropped, with all that it started.
#[derive(Debug)]
pub struct Worker {
    stream: UnixStream,
    process: Group,
}

#[derive(Debug)]
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Its id is its own until it was waited for.
        if let Some(pid) = self.0.id().and_then(|id| Pid::from_raw(id as i32)) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Pool {
    /// Tries what a locked process can still do, and starts the first workers.
    ///
    /// # Errors
    /// Why no block may run on this machine.
    pub async fn start(settings: &config::Remote) -> Result<Self, String> {
        let CheckReport { ok, reason, lacks } = check(settings).await?;
        if !ok {
            return Err(reason.unwrap_or_else(|| "the check of the sandbox failed".to_owned()));
        }
        let interpreter = tokio::sync::Mutex::default();
        let mut pool =
            Self(Arc::new(Inner { settings: settings.clone(), lacks, interpreter, spare: Mutex::default() }));
        // One by hand: what is wrong with it is told at the start, not to the first client.
        let first = pool.start_worker().await?;
        // Nobody else has the pool yet.
        if let Some(inner) = Arc::get_mut(&mut pool.0)
            && inner.interpreter.get_mut().as_ref().is_some_and(|zygote| !zygote.is_apart())
        {
            inner.lacks.push("namespaces".to_owned());
        }
        pool.spare().ready.push(first);
        pool.fill();
        Ok(pool)
    }

    /// What the kernel lacks of what the sandbox uses.
    pub fn lacks(&self) -> &[String] {
        &self.0.lacks
    }

    /// A worker that is ready.
    ///
    /// # Errors
    /// Why none can be started.
    pub async fn take(&self) -> Result<Worker, String> {
        let found = loop {
            let Some(mut worker) = self.spare().ready.pop() else { break None };
            if worker.is_alive() {
                break Some(worker);
            }
        };
        let worker = match found {
            Some(worker) => worker,
            None => self.start_worker().await?,
        };
        // While others wait, the next is started when this one's job is over: both would want the processor now.
        if self.spare().ready.is_empty() {
            self.fill();
        }
        Ok(worker)
    }

    /// Ends the workers that wait.
    pub fn stop(&self) {
        let mut spare = self.spare();
        spare.stopped = true;
        spare.ready.clear();
    }

    /// Starts as many as are missing, one after the other.
    pub fn fill(&self) {
        let most = self.0.settings.jobs_at_once().min(SPARE);
        {
            let mut spare = self.spare();
            if spare.stopped || spare.coming > 0 || spare.ready.len() >= most {
                return;
            }
            spare.coming = 1;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            let started = pool.start_worker().await;
            let again = {
                let mut spare = pool.spare();
                spare.coming = 0;
                match started {
                    Ok(worker) if !spare.stopped => {
                        spare.ready.push(worker);
                        true
                    }
                    Ok(_) => false,
                    Err(reason) => {
                        tracing::warn!("a worker cannot be started: {reason}");
                        false
                    }
                }
            };
            if again {
                pool.fill();
            }
        });
    }

    /// A worker and its evaluator.
    async fn start_worker(&self) -> Result<Worker, String> {
        let evaluator = self.evaluator().await?;
        Worker::start(&self.0.settings, evaluator).await
    }

    /// The worker's end of a socket to a new evaluator, of an interpreter that is started again if it has ended.
    async fn evaluator(&self) -> Result<OwnedFd, String> {
        let mut interpreter = self.0.interpreter.lock().await;
        if let Some(running) = interpreter.as_ref()
            && let Ok(evaluator) = running.evaluator()
        {
            return Ok(evaluator);
        }
        // An ended one is waited for before another begins.
        drop(interpreter.take());
        let python = PathBuf::from(&self.0.settings.python);
        let bounds = Bounds { memory: EVALUATOR_BYTES, seconds: self.0.settings.job_cpu_s };
        let started =
            tokio::task::spawn_blocking(move || Zygote::start(&python, &sandbox::evaluator_lock()?, bounds))
                .await;
        let started = started.map_err(|_| "starting the interpreter panicked".to_owned())?;
        let started = started.map_err(|error| error.to_string())?;
        let evaluator =
            started.evaluator().map_err(|error| format!("the interpreter ended at once: {error}"));
        *interpreter = Some(started);
        evaluator
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.0.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command of a worker, without anything of this process's environment.
fn command(settings: &config::Remote) -> Result<Command, String> {
    let program = program().map_err(|error| format!("the program is not to be found: {error}"))?;
    let mut command = Command::new(program);
    command.arg0("mediant").arg("worker").arg("--cpu-s").arg(settings.job_cpu_s.to_string());
    // A job's memory comes in pages of a few kilobytes: to clear huge ones takes longer than a small job.
    command.env_clear().env("MIMALLOC_ALLOW_THP", "0").process_group(0).kill_on_drop(true);
    Ok(command)
}

async fn check(settings: &config::Remote) -> Result<CheckReport, String> {
    let mut command = command(settings)?;
    // Where programs are: it starts the interpreter by its name.
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
        .arg("--check")
        .arg(&settings.python)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = timeout(TO_START, command.output()).await;
    let output =
        output.map_err(|_| format!("the check of the sandbox took longer than {} s", TO_START.as_secs()))?;
    let output = output.map_err(|error| format!("the check of the sandbox cannot be started: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("nothing");
        format!("the check of the sandbox ended with {} and said {said:?}", output.status)
    })
}

impl Worker {
    async fn start(settings: &config::Remote, evaluator: OwnedFd) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("a worker cannot be started: {error}");
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let mut command = command(settings)?;
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(evaluator));
        let process = Group(command.spawn().map_err(failed)?);
        // The command holds the other ends.
        drop(command);
        let mut worker = Self { stream: UnixStream::from_std(ours).map_err(failed)?, process };
        match timeout(TO_START, worker.hear()).await {
            Ok(Ok(Some(ToServer::Ready))) => Ok(worker),
            Ok(Ok(Some(_))) => Err("a worker spoke out of turn".to_owned()),
            Ok(Ok(None)) => Err(format!("a worker ended at once, {}", worker.end().await)),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(format!("a worker was not ready after {} s", TO_START.as_secs())),
        }
    }

    /// Sends a message. Whether it arrives is seen by whether it is answered.
    ///
    /// # Errors
    /// It is too long.
    pub async fn tell(&mut self, message: &ToWorker) -> std::io::Result<()> {
        let bytes = message::encode(message)?;
        let _ = self.stream.write_all(&bytes).await;
        Ok(())
    }

    /// Waits for what it says next. `None`: it ended.
    ///
    /// # Errors
    /// It says what is no message.
    pub async fn hear(&mut self) -> std::io::Result<Option<ToServer>> {
        let mut head = [0; 4];
        if self.stream.read_exact(&mut head).await.is_err() {
            return Ok(None);
        }
        let length = message::length(head)?;
        let mut body = Vec::with_capacity(length.min(message::AHEAD));
        let read = (&mut self.stream).take(length as u64).read_to_end(&mut body).await;
        if read.is_err() || body.len() < length {
            return Ok(None);
        }
        message::decode(&body).map(Some)
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.process.0.try_wait(), Ok(None))
    }

    /// How it ended, once its socket has; it is ended if need be.
    pub async fn end(&mut self) -> String {
        match timeout(Duration::from_secs(1), self.process.0.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "and had to be killed".to_owned(),
        }
    }
}
