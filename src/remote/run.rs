//! The life of a job: its turn, its worker, what the worker asks for, and its end.

use std::time::{Duration, Instant};

use mediant_worker::message::{Failure, Job as WorkerJob, Limits, Outcome, ToServer, ToWorker};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Remote;
use super::frame::{self, Status};
use super::job::{Answer, Job, Told};
use super::pool::Worker;
use crate::plan::cost::Cost;
use crate::plan::output::Usage;
use crate::service::program::ProgramLimits;
use crate::service::{Refusal, Service};

/// A result of at most so many bytes is sent at once; a larger one is fetched.
const SENT_AT_ONCE: usize = 4 << 20;
/// Bytes of the unpacked block, for each byte of the largest request.
const UNPACKED: u64 = 8;

/// Runs a job, and tells who waits what becomes of it.
pub(super) async fn to_its_end(remote: &Remote, service: &Service, job: Job) {
    let mut spent = Spent::of(&job);
    let ended = match &job.client {
        None => run(remote, service, &job, &mut spent).await,
        Some(client) => tokio::select! {
            ended = run(remote, service, &job, &mut spent) => ended,
            () = client.closed() => {
                tracing::info!(job = job.id, "cancelled: its client is gone");
                refill(remote);
                return;
            }
        },
    };
    let meta = spent.meta();
    tracing::info!(job = job.id, ok = ended.is_ok(), "remote job: {meta}");
    let told = match ended {
        Ok(bytes) => completed(remote, &job, bytes, &meta).await,
        Err(why) => Err(why),
    };
    if let Err(why) = told {
        let status = frame::status(&job.id, Status::Error, &why, Some(&meta));
        match &job.client {
            Some(client) => drop(client.send(Told::Status(status))),
            None => finish(remote, &job, status, None).await.unwrap_or_else(|error| {
                tracing::error!(job = job.id, "how a job ended cannot be stored: {error}");
            }),
        }
    }
    refill(remote);
}

/// Starts the worker of a job to come, now that this one has its answer.
fn refill(remote: &Remote) {
    if let Some(pool) = remote.pool() {
        pool.fill();
    }
}

/// Hands a result over.
async fn completed(remote: &Remote, job: &Job, bytes: Vec<u8>, meta: &Value) -> Result<(), String> {
    let mut status = frame::status(&job.id, Status::Completed, "", Some(meta));
    let Some(client) = &job.client else {
        let stored = finish(remote, job, status, Some(bytes)).await;
        return stored.map_err(|error| format!("the result cannot be stored: {error}"));
    };
    let told = if bytes.len() <= SENT_AT_ONCE {
        let framed = frame::with_data(&status, &bytes)
            .map_err(|error| format!("the result cannot be sent: {error}"))?;
        Told::Result(framed.into())
    } else {
        let share = job.share.clone();
        share.resize(bytes.len() as u64).await.map_err(|busy| format!("{busy}; save less, or try again"))?;
        let path = remote.keep(&job.id, Answer { bytes: bytes.into(), share: Some(share) });
        status["data"] = format!("{}{path}", job.base).into();
        Told::Status(status)
    };
    let _ = client.send(told);
    Ok(())
}

async fn finish(remote: &Remote, job: &Job, status: Value, result: Option<Vec<u8>>) -> std::io::Result<()> {
    let (kept, id) = (remote.0.kept.clone(), job.id.clone());
    let stored = tokio::task::spawn_blocking(move || kept.finish(&id, &status, result.as_deref())).await;
    stored.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// What a job has used.
#[derive(Debug)]
struct Spent {
    /// When the job was handed in.
    came: Instant,
    /// Waiting for its turn.
    queued: Duration,
    /// Between the engine's answers: reading and running the block.
    block: Duration,
    /// Making batches of what the block asks for, and handing numbers on: beside the engine's own time.
    programs: Duration,
    forwards: u64,
    operations: u64,
    usage: Usage,
}

impl Spent {
    fn of(job: &Job) -> Self {
        let (queued, block, programs) = <(Duration, Duration, Duration)>::default();
        Self { came: job.came, queued, block, programs, forwards: 0, operations: 0, usage: Usage::default() }
    }

    fn meta(&self) -> Value {
        let seconds = |duration: Duration| (duration.as_secs_f64() * 1e5).round() / 1e5;
        json!({
            "forwards": self.forwards,
            "operations": self.operations,
            "rows": self.usage.rows,
            "row_layers": self.usage.row_layers,
            "seconds": seconds(self.came.elapsed()),
            "queue_seconds": seconds(self.queued),
            "block_seconds": seconds(self.block),
            "program_seconds": seconds(self.programs),
            "engine_seconds": seconds(Duration::try_from_secs_f64(self.usage.seconds).unwrap_or_default()),
            "engine_queue_seconds": seconds(Duration::try_from_secs_f64(self.usage.queue_seconds).unwrap_or_default()),
        })
    }
}

/// The bytes of the result, or what the client's user is told.
async fn run(remote: &Remote, service: &Service, job: &Job, spent: &mut Spent) -> Result<Vec<u8>, String> {
    let tell = |status: Status, description: &str| {
        if let Some(client) = &job.client {
            let _ = client.send(Told::Status(frame::status(&job.id, status, description, None)));
        }
    };
    let came = Instant::now();
    let queued = |before: usize| {
        if before > 0 {
            let jobs = if before == 1 { "1 job is".to_owned() } else { format!("{before} jobs are") };
            tell(Status::Queued, &format!("{jobs} before it"));
        }
    };
    let _turn = remote.0.queue.turn(&job.party, queued).await;
    spent.queued = came.elapsed();
    tell(Status::Running, "");
    let pool = remote.pool().ok_or("no blocks are run here")?;
    let mut worker = pool.take().await?;
    let settings = remote.settings();
    let order = WorkerJob {
        payload: job.payload.to_vec(),
        packed: job.packed,
        near: job.near,
        profile: job.profile,
        model: remote.told(service, job.profile, job.eager).await?,
        limits: Limits {
            unpacked_bytes: UNPACKED * settings.request_bytes as u64,
            tensor_bytes: settings.tensor_bytes,
            operations: settings.job_operations,
            programs: settings.job_forwards,
            result_bytes: settings.result_bytes,
            log_bytes: 1 << 20,
        },
    };
    let sent = worker.tell(&ToWorker::Job(Box::new(order))).await;
    sent.map_err(|error| format!("the block cannot be handed over: {error}"))?;
    let mut conversation = Conversation {
        service,
        job,
        spent,
        left: Duration::from_secs_f64(settings.job_s),
        remote,
        logged: 0,
    };
    loop {
        let said = conversation.hear(&mut worker).await?;
        let answer = match said {
            ToServer::Log(line) => {
                conversation.logged += line.len() as u64;
                if conversation.logged > 1 << 20 {
                    return Err("the block printed more than 1 MiB".to_owned());
                }
                tell(Status::Log, &line);
                continue;
            }
            ToServer::Done(Outcome { bytes, operations }) => {
                conversation.spent.operations = operations;
                if bytes.len() as u64 > settings.result_bytes {
                    return Err(format!(
                        "the result has {} bytes, the limit is {} (remote.result_bytes); save less",
                        bytes.len(),
                        settings.result_bytes
                    ));
                }
                return Ok(bytes);
            }
            ToServer::Failed(Failure { traceback }) => return Err(traceback),
            ToServer::Ready => return Err("the worker spoke out of turn".to_owned()),
            ToServer::Tokenize { texts, special } => {
                let tokens = service.tokens_of(texts, special, &job.share).await;
                tokens.map_or_else(ToWorker::Refused, ToWorker::Tokens)
            }
            ToServer::Decode { rows, skip_special } => {
                let texts = service.texts_of(rows, skip_special, &job.share).await;
                texts.map_or_else(ToWorker::Refused, ToWorker::Texts)
            }
            ToServer::Forward(program) => conversation.forward(program).await,
        };
        let told = worker.tell(&answer).await;
        told.map_err(|error| format!("the numbers of one forward pass are too many: {error}"))?;
    }
}

/// What is said with one worker.
struct Conversation<'c> {
    service: &'c Service,
    remote: &'c Remote,
    job: &'c Job,
    spent: &'c mut Spent,
    /// How much longer the block may run, the engine's time left out.
    left: Duration,
    logged: u64,
}

impl Conversation<'_> {
    /// Waits for what the worker says next, as long as its block may run.
    async fn hear(&mut self, worker: &mut Worker) -> Result<ToServer, String> {
        let began = Instant::now();
        let said = timeout(self.left, worker.hear()).await;
        let took = began.elapsed();
        self.spent.block += took;
        self.left = self.left.saturating_sub(took);
        let settings = self.remote.settings();
        match said {
            Err(_) => Err(format!(
                "the block ran for longer than {} s beside its forward passes (remote.job_s)",
                settings.job_s
            )),
            Ok(Err(error)) => Err(format!("the worker of this block said what is no message: {error}")),
            Ok(Ok(None)) => Err(format!(
                "the process of this block ended, {}: it may use {} s of a processor (remote.job_cpu_s) and a bounded amount of memory",
                worker.end().await,
                settings.job_cpu_s
            )),
            Ok(Ok(Some(said))) => Ok(said),
        }
    }

    async fn forward(&mut self, program: mediant_worker::program::Program) -> ToWorker {
        let settings = self.remote.settings();
        if self.spent.forwards >= settings.job_forwards {
            let most = settings.job_forwards;
            return ToWorker::Refused(format!(
                "the block asked for more than {most} forward passes (remote.job_forwards)"
            ));
        }
        let limits = ProgramLimits {
            row_layers: settings.job_row_layers.saturating_sub(self.spent.usage.row_layers),
            numbers: settings.tensor_bytes / 4,
        };
        self.spent.forwards += 1;
        let began = Instant::now();
        match self.service.program(program, limits, &self.job.share).await {
            Ok(output) => {
                let engine = output.usage.seconds + output.usage.queue_seconds;
                let engine = Duration::try_from_secs_f64(engine).unwrap_or_default();
                self.spent.programs += began.elapsed().saturating_sub(engine);
                self.spent.usage = self.spent.usage.and(&output.usage);
                ToWorker::Values(output.values)
            }
            Err(refusal) => ToWorker::Refused(in_words(&refusal)),
        }
    }
}

/// A refusal in words for a block's author.
fn in_words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Invalid(problems) => {
            let first = problems.0.first();
            first.map_or_else(
                || "the forward pass is not valid".to_owned(),
                |p| format!("{}; {}", p.detail, p.fix),
            )
        }
        Refusal::TooLarge { cost: Cost { row_layers, seconds, .. }, ceiling } => format!(
            "the forward pass takes {row_layers} row-layers and about {seconds:.1} s, over what is left of {} and {} s: use fewer or \
             shorter prompts",
            ceiling.row_layers, ceiling.seconds
        ),
        Refusal::Engine(error) => error.to_string(),
        Refusal::Lost(lost) => lost.to_string(),
        Refusal::Store(error) => error.to_string(),
        Refusal::Checkpoint(error) => error.to_string(),
        Refusal::Busy(busy) => format!("{busy}; try again in a moment"),
    }
}
