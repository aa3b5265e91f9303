//! The worker's one job: between the server, which has the model, and the evaluator, which runs the block.

use crate::evaluator::{Evaluator, Refusal, Request, refusal};
use crate::message::{Failure, Job, Limits, Outcome, Profile, ToServer, ToWorker, encode, read};
use crate::program::Program;
use crate::taps::{Server, Taps};
use crate::tensor::{Budget, Dtype, Heap, Value, is_served, served};
use crate::{load, save};
use serde_json::json;
use std::io::{self, Read, Write};

/// Serves one job and ends. The server is told when the worker is ready, and what came of the job; an error here means that the
/// server is gone.
///
/// # Errors
/// The server is gone, or does not keep to the messages.
pub fn serve<S: Read + Write, E: Read + Write>(mut server: S, evaluator: E) -> io::Result<()> {
    server.write_all(&encode(&ToServer::Ready)?)?;
    let job = match read(&mut server)? {
        Some(ToWorker::Job(job)) => *job,
        Some(_) => return Err(io::Error::other("the server did not begin with a job")),
        None => return Ok(()),
    };
    let said = match Worker::new(&mut server, evaluator, &job).and_then(|mut worker| worker.run(&job)) {
        Ok(outcome) => ToServer::Done(outcome),
        Err(Ended::Failed(traceback)) => ToServer::Failed(Failure { traceback }),
        Err(Ended::Server(error)) => return Err(error),
    };
    server.write_all(&encode(&said)?)
}

/// Why a job has no answer.
enum Ended {
    /// The block's fault, or that of its process.
    Failed(String),
    /// The server is gone.
    Server(io::Error),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Ended {
        Ended::Failed(format!("{}: {}", refusal.kind, refusal.message))
    }
}

/// The server, as somebody to ask.
struct Asked<'s, S> {
    stream: &'s mut S,
    gone: Option<io::Error>,
}

impl<S: Read + Write> Asked<'_, S> {
    fn tell(&mut self, said: &ToServer) -> io::Result<()> {
        self.stream.write_all(&encode(said)?)
    }

    fn ask(&mut self, question: &ToServer) -> Result<ToWorker, Refusal> {
        let answer = self.tell(question).and_then(|()| read(self.stream));
        match answer {
            Ok(Some(ToWorker::Refused(why))) => Err(Refusal::new("RuntimeError", why)),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.lost(error)),
        }
    }

    /// Nobody waits for this job any more: it ends as soon as it can.
    fn lost(&mut self, error: io::Error) -> Refusal {
        self.gone = Some(error);
        Refusal::new("RuntimeError", "the server is gone")
    }
}

impl<S: Read + Write> Asked<'_, S> {
    /// Token ids of each text.
    fn tokens(&mut self, texts: Vec<String>, special: bool) -> Result<Vec<Vec<u32>>, Refusal> {
        match self.ask(&ToServer::Tokenize { texts, special })? {
            ToWorker::Tokens(rows) => Ok(rows),
            _ => Err(self.lost(io::Error::other("the server answered another question"))),
        }
    }

    /// Prompts as token ids, of all invokes in one question.
    fn rows(&mut self, invokes: Vec<Option<Vec<Prompt>>>) -> Result<Vec<Option<Vec<Vec<u32>>>>, Refusal> {
        let text = |prompt: &Prompt| if let Prompt::Text(text) = prompt { Some(text.clone()) } else { None };
        let texts: Vec<String> = invokes.iter().flatten().flatten().filter_map(text).collect();
        let wanted = texts.len();
        let tokens = if texts.is_empty() { Vec::new() } else { self.tokens(texts, true)? };
        if tokens.len() != wanted {
            return Err(self.lost(io::Error::other("the server tokenized another number of texts")));
        }
        let mut tokens = tokens.into_iter();
        let mut row = |prompt| match prompt {
            Prompt::Ids(ids) => ids,
            Prompt::Text(_) => tokens.next().unwrap_or_default(),
        };
        let invokes = invokes.into_iter();
        Ok(invokes.map(|rows| rows.map(|rows| rows.into_iter().map(&mut row).collect())).collect())
    }
}

impl<S: Read + Write> Server for Asked<'_, S> {
    fn forward(&mut self, program: Program) -> Result<Vec<Vec<f32>>, Refusal> {
        match self.ask(&ToServer::Forward(program))? {
            ToWorker::Values(values) => Ok(values),
            _ => Err(self.lost(io::Error::other("the server answered another question"))),
        }
    }
}

struct Worker<'s, S, E> {
    server: Asked<'s, S>,
    evaluator: Evaluator<E>,
    heap: Heap,
    taps: Taps,
    limits: Limits,
    profile: Profile,
    packed: bool,
    near: bool,
    logged: u64,
}

impl<'s, S: Read + Write, E: Read + Write> Worker<'s, S, E> {
    fn new(server: &'s mut S, evaluator: E, job: &Job) -> Result<Self, Ended> {
        let limits = job.limits;
        Ok(Worker {
            server: Asked { stream: server, gone: None },
            evaluator: Evaluator::new(evaluator),
            heap: Heap::new(Budget { bytes: limits.tensor_bytes, operations: limits.operations }),
            taps: Taps::new(job.model.clone(), limits)?,
            limits,
            profile: job.profile,
            packed: job.packed,
            near: job.near,
            logged: 0,
        })
    }

    fn run(&mut self, job: &Job) -> Result<Outcome, Ended> {
        let unpacked = job.packed.then(|| load::unpack(&job.payload, job.limits.unpacked_bytes)).transpose();
        let unpacked =
            unpacked.map_err(|why| Ended::Failed(format!("the request cannot be unpacked: {why}")))?;
        let payload = unpacked.as_deref().unwrap_or(&job.payload);
        let config: serde_json::Value = serde_json::from_str(&job.model.config).unwrap_or_else(|_| json!({}));
        let model = json!({
            "repo_id": job.model.repo_id, "config": config, "dtype": job.model.dtype, "pad": job.model.pad,
        });
        let facts = json!({ "served": served(), "model": model });
        self.evaluator.begin(&facts, payload).map_err(|_| died())?;
        loop {
            let request = match self.evaluator.hear() {
                Ok(Some(request)) => request,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(Ended::Failed(error.to_string()));
                }
                Ok(None) | Err(_) => return Err(died()),
            };
            for id in &request.dead {
                self.heap.free(*id);
            }
            match (request.what.as_str(), request.args.as_slice()) {
                ("log", [Value::Str(line)]) => self.log(line)?,
                ("failed", [Value::Str(traceback)]) => return Err(Ended::Failed(traceback.clone())),
                ("done", [answer]) => return self.finish(answer.clone()),
                _ => {
                    let answer = self.answer(request);
                    if let Some(error) = self.server.gone.take() {
                        return Err(Ended::Server(error));
                    }
                    self.evaluator.answer(&self.heap, &answer).map_err(|_| died())?;
                }
            }
        }
    }

    /// A line that the block printed.
    fn log(&mut self, line: &str) -> Result<(), Ended> {
        self.logged += line.len() as u64 + 1;
        if self.logged > self.limits.log_bytes {
            return Err(Ended::Failed(format!(
                "the block printed more than {} bytes",
                self.limits.log_bytes
            )));
        }
        self.server.tell(&ToServer::Log(line.to_owned())).map_err(Ended::Server)
    }

    fn finish(&mut self, answer: Value) -> Result<Outcome, Ended> {
        let answer = self.taps.settle(&mut self.heap, &mut self.server, answer);
        if let Some(error) = self.server.gone.take() {
            return Err(Ended::Server(error));
        }
        let bytes = save::torch_save(&self.heap, &answer?, self.profile).map_err(refusal)?;
        if bytes.len() as u64 > self.limits.result_bytes {
            let (n, most) = (bytes.len(), self.limits.result_bytes);
            return Err(Ended::Failed(format!(
                "the saved values take {n} bytes, the limit is {most}: save less of them"
            )));
        }
        let bytes = if self.packed { save::pack(&bytes, self.near).map_err(Ended::Server)? } else { bytes };
        Ok(Outcome { bytes, operations: self.heap.operations() })
    }

    /// What the block asked, answered.
    fn answer(&mut self, request: Request) -> Result<Value, Refusal> {
        let Request { what, args, kwargs, .. } = request;
        let (heap, taps) = (&mut self.heap, &mut self.taps);
        match (what.as_str(), args.as_slice()) {
            ("serves", [Value::Str(name)]) => Ok(Value::Bool(is_served(name))),
            ("load", [Value::Bytes(bytes)]) => Ok(load::tensor_bytes(heap, bytes)?),
            ("raw", [Value::Bytes(bytes), Value::Str(dtype), shape]) => {
                let dtype = Dtype::from_name(dtype).ok_or_else(|| wrong("raw"))?;
                Ok(load::raw(heap, bytes, dtype, &sizes(shape).ok_or_else(|| wrong("raw"))?)?)
            }
            ("tokenize", [Value::List(texts), Value::Bool(special)]) => {
                let texts = texts
                    .iter()
                    .map(text)
                    .collect::<Option<Vec<String>>>()
                    .ok_or_else(|| wrong("tokenize"))?;
                let rows = self.server.tokens(texts, *special)?;
                Ok(Value::List(rows.iter().map(|row| ids_value(row)).collect()))
            }
            ("decode", [Value::List(rows), Value::Bool(skip_special)]) => {
                let rows =
                    rows.iter().map(ids).collect::<Option<Vec<Vec<u32>>>>().ok_or_else(|| wrong("decode"))?;
                match self.server.ask(&ToServer::Decode { rows, skip_special: *skip_special })? {
                    ToWorker::Texts(texts) => Ok(Value::List(texts.into_iter().map(Value::Str).collect())),
                    _ => Err(self.server.lost(io::Error::other("the server answered another question"))),
                }
            }
            ("begin", [Value::List(invokes)]) => {
                let invokes =
                    invokes.iter().map(prompts).collect::<Option<Vec<_>>>().ok_or_else(|| wrong("begin"))?;
                Ok(Value::Int(taps.begin(self.server.rows(invokes)?)? as i64))
            }
            ("tap", [trace, invoke, Value::Str(path)]) => {
                let (trace, invoke) = place(trace, invoke).ok_or_else(|| wrong("tap"))?;
                taps.read(heap, trace, invoke, path)
            }
            ("swap", [trace, invoke, Value::Str(path), value]) => {
                let at = place(trace, invoke).ok_or_else(|| wrong("swap"))?;
                taps.replace(heap, &mut self.server, at, path, value)?;
                Ok(Value::None)
            }
            ("close", [trace, invoke]) => {
                let (trace, invoke) = place(trace, invoke).ok_or_else(|| wrong("close"))?;
                taps.close(heap, trace, invoke)?;
                Ok(Value::None)
            }
            // a question whose arguments are none of the above: the stand-ins never send it
            ("serves" | "load" | "raw" | "tokenize" | "decode" | "begin" | "tap" | "swap" | "close", _) => {
                Err(wrong(&what))
            }
            (name, args) => taps.call(heap, &mut self.server, name, args, &kwargs),
        }
    }
}

fn died() -> Ended {
    Ended::Failed(
        "the process that ran the block ended: it used up its memory or its processor time, or it crashed"
            .to_owned(),
    )
}

fn wrong(what: &str) -> Refusal {
    Refusal::new("TypeError", format!("`{what}` was given other arguments than it takes"))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Str(text) => Some(text.clone()),
        _ => None,
    }
}

fn ids_value(row: &[u32]) -> Value {
    Value::List(row.iter().map(|&id| Value::Int(i64::from(id))).collect())
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    let (Value::List(items) | Value::Tuple(items)) = value else { return None };
    items.iter().map(|id| if let Value::Int(id) = id { u32::try_from(*id).ok() } else { None }).collect()
}

fn sizes(value: &Value) -> Option<Vec<usize>> {
    Some(ids(value)?.into_iter().map(|size| size as usize).collect())
}

/// A prompt of a row.
enum Prompt {
    Ids(Vec<u32>),
    Text(String),
}

/// Prompts of an invoke; `None` inside: it has none of its own.
#[expect(clippy::option_option, reason = "the outer one: the message is wrong")]
fn prompts(value: &Value) -> Option<Option<Vec<Prompt>>> {
    let prompt = |value: &Value| match value {
        Value::Str(text) => Some(Prompt::Text(text.clone())),
        value => ids(value).map(Prompt::Ids),
    };
    match value {
        Value::None => Some(None),
        Value::List(rows) => rows.iter().map(prompt).collect::<Option<Vec<_>>>().map(Some),
        _ => None,
    }
}

fn place(trace: &Value, invoke: &Value) -> Option<(usize, usize)> {
    match (trace, invoke) {
        (Value::Int(trace), Value::Int(invoke)) => {
            Some((usize::try_from(*trace).ok()?, usize::try_from(*invoke).ok()?))
        }
        _ => None,
    }
}
