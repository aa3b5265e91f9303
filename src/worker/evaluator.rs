//! What the worker and the Python process that runs a block say to each other.
//!
//! A frame is four bytes of length, four bytes of the length of a JSON text, the text, and the bytes that the text refers to.
//! `shim/link.py` is the other side. Whatever comes from there was made by a stranger's code: it is read as data, and a frame
//! that is none ends the job.

use crate::message::body;
use crate::tensor::{Dtype, Heap, Id, Kind, Stop, TorchError, Value};
use serde_json::{Value as Json, json};
use std::io::{self, BufReader, Read, Write};

/// Bytes of the longest frame.
const MOST_BYTES: usize = 1 << 30;
/// At most so many bytes leave in one piece with the text that refers to them.
const TOGETHER: usize = 1 << 14;

/// An error that the block sees where it asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The exception's name in Python.
    pub kind: &'static str,
    /// Its message.
    pub message: String,
}

impl Refusal {
    /// An exception of this name.
    pub fn new(kind: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: message.into() }
    }
}

impl From<TorchError> for Refusal {
    fn from(error: TorchError) -> Refusal {
        Refusal { kind: error.kind.name(), message: error.message }
    }
}

/// What the evaluator asks or says.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// An operation's name, or one of the worker's own questions.
    pub what: String,
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Named arguments.
    pub kwargs: Vec<(String, Value)>,
    /// Tensors that the block has no name for any more.
    pub dead: Vec<Id>,
}

/// The socket to the Python process.
#[derive(Debug)]
pub struct Evaluator<S> {
    stream: BufReader<S>,
}

impl<S: Read + Write> Evaluator<S> {
    /// Over this socket.
    pub fn new(stream: S) -> Evaluator<S> {
        Evaluator { stream: BufReader::new(stream) }
    }

    /// Hands the payload over.
    ///
    /// # Errors
    /// The process is gone.
    pub fn begin(&mut self, facts: &Json, payload: &[u8]) -> io::Result<()> {
        self.send(facts, payload)
    }

    /// Waits for a request. `None`: the process is gone.
    ///
    /// # Errors
    /// It broke off, or what came is no request.
    pub fn hear(&mut self) -> io::Result<Option<Request>> {
        let mut head = [0; 8];
        match self.stream.read(&mut head)? {
            0 => return Ok(None),
            n => self.stream.read_exact(&mut head[n..])?,
        }
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (size, text) = (number(0), number(4));
        let length = size.checked_sub(4).filter(|&length| length <= MOST_BYTES && text <= length);
        let length = length.ok_or_else(|| invalid("a frame of a wrong length"))?;
        let body = body(&mut self.stream, length)?;
        let (text, blobs) = body.split_at(text);
        let said = serde_json::from_slice(text);
        request(said.map_err(|_| invalid("text that is no JSON, or lists in too many lists"))?, blobs)
            .map(Some)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The process is gone.
    pub fn answer(&mut self, heap: &Heap, answer: &Result<Value, Refusal>) -> io::Result<()> {
        let mut blobs = Vec::new();
        let said = match answer {
            Ok(value) => to_json(heap, value, &mut blobs).map(|value| json!({ "ok": value })),
            Err(refusal) => Err(refusal.clone()),
        };
        let said = said.unwrap_or_else(|refusal| json!({ "error": [refusal.kind, refusal.message] }));
        self.send(&said, &blobs)
    }

    fn send(&mut self, said: &Json, blobs: &[u8]) -> io::Result<()> {
        let text = serde_json::to_vec(said).map_err(io::Error::other)?;
        let size =
            u32::try_from(4 + text.len() + blobs.len()).map_err(|_| invalid("a frame that is too long"))?;
        // In one piece, as each one wakes the other side, unless copying it takes longer than that.
        let (with, after) = if blobs.len() <= TOGETHER { (blobs, &[][..]) } else { (&[][..], blobs) };
        let mut frame = Vec::with_capacity(8 + text.len() + with.len());
        frame.extend_from_slice(&size.to_le_bytes());
        frame.extend_from_slice(&(text.len() as u32).to_le_bytes());
        frame.extend_from_slice(&text);
        frame.extend_from_slice(with);
        let stream = self.stream.get_mut();
        stream.write_all(&frame)?;
        stream.write_all(after)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the block's process sent {what}"))
}

fn request(said: Json, blobs: &[u8]) -> io::Result<Request> {
    let Json::Array(parts) = said else { return Err(invalid("no list")) };
    let Ok([what, args, kwargs, dead]) = <[Json; 4]>::try_from(parts) else {
        return Err(invalid("no request"));
    };
    let (Json::String(what), Json::Array(args), Json::Object(kwargs), Json::Array(dead)) =
        (what, args, kwargs, dead)
    else {
        return Err(invalid("no request"));
    };
    let args = args.into_iter().map(|x| from_json(x, blobs)).collect::<Option<Vec<Value>>>();
    let kwargs =
        kwargs.into_iter().map(|(name, x)| Some((name, from_json(x, blobs)?))).collect::<Option<Vec<_>>>();
    let dead = dead.iter().map(|id| Id::try_from(id.as_u64()?).ok()).collect::<Option<Vec<Id>>>();
    match (args, kwargs, dead) {
        (Some(args), Some(kwargs), Some(dead)) => Ok(Request { what, args, kwargs, dead }),
        _ => Err(invalid("a value that is none")),
    }
}

fn from_json(said: Json, blobs: &[u8]) -> Option<Value> {
    let list =
        |items: Vec<Json>| items.into_iter().map(|x| from_json(x, blobs)).collect::<Option<Vec<Value>>>();
    Some(match said {
        Json::Null => Value::None,
        Json::Bool(x) => Value::Bool(x),
        Json::Number(x) => {
            x.as_i64().map_or_else(|| Value::Float(x.as_f64().unwrap_or(f64::NAN)), Value::Int)
        }
        Json::String(x) => Value::Str(x),
        Json::Array(items) => Value::List(list(items)?),
        Json::Object(fields) => {
            let (key, x) = fields.into_iter().next()?;
            match (key.as_str(), x) {
                ("t", Json::Number(id)) => Value::Tensor(Id::try_from(id.as_u64()?).ok()?),
                ("u", Json::Array(items)) => Value::Tuple(list(items)?),
                ("s", Json::Array(items)) => {
                    Value::Slice(Box::new(<[Value; 3]>::try_from(list(items)?).ok()?))
                }
                ("e", _) => Value::Ellipsis,
                ("f", Json::String(x)) => Value::Float(x.parse().ok()?),
                ("y", Json::String(x)) => Value::Dtype(Dtype::from_name(&x)?),
                ("v", Json::String(x)) => Value::Device(x),
                ("b", Json::Array(range)) => {
                    let at = usize::try_from(range.first()?.as_u64()?).ok()?;
                    let length = usize::try_from(range.get(1)?.as_u64()?).ok()?;
                    Value::Bytes(blobs.get(at..at.checked_add(length)?)?.to_vec())
                }
                ("d", Json::Array(pairs)) => {
                    let pair = |x: Json| {
                        let Json::Array(x) = x else { return None };
                        let [key, value] = <[Json; 2]>::try_from(x).ok()?;
                        Some((from_json(key, blobs)?, from_json(value, blobs)?))
                    };
                    Value::Dict(pairs.into_iter().map(pair).collect::<Option<Vec<_>>>()?)
                }
                _ => return None,
            }
        }
    })
}

fn to_json(heap: &Heap, value: &Value, blobs: &mut Vec<u8>) -> Result<Json, Refusal> {
    let mut list = |items: &[Value]| {
        items.iter().map(|x| to_json(heap, x, blobs)).collect::<Result<Vec<Json>, Refusal>>()
    };
    Ok(match value {
        Value::None => Json::Null,
        Value::Bool(x) => json!(x),
        Value::Int(x) => json!(x),
        Value::Float(x) if x.is_finite() => json!(x),
        Value::Float(x) => json!({ "f": if x.is_nan() { "nan" } else if *x > 0.0 { "inf" } else { "-inf" } }),
        Value::Str(x) => json!(x),
        Value::List(items) => json!(list(items)?),
        Value::Tuple(items) => json!({ "u": list(items)? }),
        Value::Slice(parts) => json!({ "s": list(parts.as_slice())? }),
        Value::Ellipsis => json!({ "e": 0 }),
        Value::Tensor(id) => {
            let view = heap.view(*id)?;
            json!({ "t": id, "h": view.shape, "y": heap.dtype(*id)?.name() })
        }
        Value::Named(name, members) => {
            let mut named = Vec::with_capacity(members.len());
            for (field, x) in members {
                named.push(json!([field, to_json(heap, x, blobs)?]));
            }
            json!({ "n": name, "m": named })
        }
        Value::Dict(pairs) => {
            let mut said = Vec::with_capacity(pairs.len());
            for (key, x) in pairs {
                said.push(json!([to_json(heap, key, blobs)?, to_json(heap, x, blobs)?]));
            }
            json!({ "d": said })
        }
        Value::Dtype(dtype) => json!({ "y": dtype.name() }),
        Value::Device(device) => json!({ "v": device }),
        Value::Bytes(x) => {
            let at = blobs.len();
            blobs.extend_from_slice(x);
            json!({ "b": [at, x.len()] })
        }
    })
}

/// What a stopped operation says to the block, once nothing is left to be read.
pub(crate) fn refusal(stop: Stop) -> Refusal {
    match stop {
        Stop::Error(error) => error.into(),
        Stop::Unread(storage) => TorchError {
            kind: Kind::Runtime,
            message: format!("BUG: storage {storage} is unread and no tap"),
        }
        .into(),
    }
}
