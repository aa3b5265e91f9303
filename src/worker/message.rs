//! What the server and a worker say to each other over one socket, in frames of `postcard` behind a length of four bytes.
//!
//! The worker says [`ToServer::Ready`] once it and its evaluator are locked and warm; workers are started ahead. The server
//! sends [`ToWorker::Job`], then answers each question of the worker until it says [`ToServer::Done`] or [`ToServer::Failed`].
//! Then it ends the worker's process group.

use crate::program::Program;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read as _};

/// Bytes of the longest message: a request, an answer or the numbers of one forward pass.
pub const MOST_BYTES: usize = 1 << 30;

/// So much room is made for a message before it comes.
pub const AHEAD: usize = 1 << 20;

/// A message as it is sent: its length in four bytes, little end first, and itself.
///
/// # Errors
/// It is too long.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut framed = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let length = framed.len() - 4;
    check(length)?;
    framed[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(framed)
}

/// The length that a message's first four bytes state.
///
/// # Errors
/// It is too long.
pub fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    check(length).map(|()| length)
}

fn check(length: usize) -> io::Result<()> {
    if length <= MOST_BYTES { Ok(()) } else { Err(io::Error::other(format!("a message of {length} bytes"))) }
}

/// A message without its length.
///
/// # Errors
/// It is none.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body).map_err(io::Error::other)
}

/// Waits for a message. `None`: the other side is gone.
///
/// # Errors
/// It broke off, or is none.
pub fn read<T: DeserializeOwned>(from: &mut impl io::Read) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    let mut got = 0;
    while got < head.len() {
        match from.read(&mut head[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    decode(&body(from, length(head)?)?).map(Some)
}

/// So many bytes, in one go: beyond a bound the room for them grows with what comes, not with what is said to come.
pub(crate) fn body(from: &mut impl io::Read, length: usize) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length.min(AHEAD)];
    from.read_exact(&mut body)?;
    from.take((length - body.len()) as u64).read_to_end(&mut body)?;
    if body.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(body) }
}

/// From the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The job of this process; sent once, first.
    Job(Box<Job>),
    /// Answer to [`ToServer::Tokenize`].
    Tokens(Vec<Vec<u32>>),
    /// Answer to [`ToServer::Decode`].
    Texts(Vec<String>),
    /// Answer to [`ToServer::Forward`]: of each read `[positions, width]` in f32, row by row.
    Values(#[serde(with = "crate::bulk::lists")] Vec<Vec<f32>>),
    /// The question cannot be answered: what is wrong and what to do, in words for the block's author.
    Refused(String),
}

/// To the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToServer {
    /// Locked and warm: waits for its job.
    Ready,
    /// Token ids of each text, as the tokenizer makes them by itself.
    Tokenize {
        /// The texts.
        texts: Vec<String>,
        /// With the tokenizer's own special tokens.
        special: bool,
    },
    /// Text of each row of token ids.
    Decode {
        /// The rows.
        rows: Vec<Vec<u32>>,
        /// Leave special tokens out.
        skip_special: bool,
    },
    /// Compute this.
    Forward(Program),
    /// A line that the block printed.
    Log(String),
    /// The block ended: the answer's bytes as the client reads them.
    Done(Outcome),
    /// The block failed.
    Failed(Failure),
}

/// A job as it came from the client, unread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// What the client sent, opaque to the server.
    #[serde(with = "crate::bulk::bytes")]
    pub payload: Vec<u8>,
    /// The payload and the answer are packed by zstd.
    pub packed: bool,
    /// The client is near: bytes cost it less than packing them well.
    pub near: bool,
    /// How the model shows itself.
    pub profile: Profile,
    /// The served model.
    pub model: Model,
    /// What the job may use.
    pub limits: Limits,
}

/// How the model shows itself to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// As today's client expects.
    Plain,
    /// As older notebooks expect: a layer's output is a tuple of one, saved tensors have `.value`.
    Legacy,
}

/// What a block may know of the served model: its shape and its names, no weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Repository id that clients name.
    pub repo_id: String,
    /// `config.json` as text.
    pub config: String,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Columns of a head.
    pub head_width: u32,
    /// The dtype in which the engine computes, by torch's name: `float32`, `bfloat16`, `float16`.
    pub dtype: String,
    /// The id of the token that pads, for [`Profile`]s that show padded ids.
    pub pad: u32,
    /// Each module path that is served and what it stands for.
    pub taps: Vec<Tap>,
    /// Largest number of tokens of a run.
    pub context: u32,
}

/// A module's input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Path below the model, with `*` for the layer's number: `model.layers.*.self_attn.o_proj.input`.
    pub path: String,
    /// The site's public name.
    pub site: String,
    /// Numbers at one position.
    pub width: u32,
    /// Where the site stands in the order of computation inside its layer.
    pub moment: u32,
    /// Whether a block may change it.
    pub writable: bool,
    /// A new value of it is written to this site instead (a norm's input: the residual stream is not replaced, what the norm
    /// gives is).
    pub replaced_at: Option<String>,
    /// It is the first member of a tuple of this many, the others being none.
    pub tuple: u32,
    /// The site of the tuple's second member, which is over keys: attention weights. A block can read them.
    pub second: Option<String>,
    /// What `silu` makes of the site's numbers is shown. A block can read it.
    pub activated: bool,
}

/// What one job may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the unpacked payload.
    pub unpacked_bytes: u64,
    /// Bytes of all tensors together.
    pub tensor_bytes: u64,
    /// Operations.
    pub operations: u64,
    /// Forward passes.
    pub programs: u64,
    /// Bytes of the answer.
    pub result_bytes: u64,
    /// Bytes of printed lines.
    pub log_bytes: u64,
}

/// A finished job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What `torch.load` reads, packed if the client asked for it.
    #[serde(with = "crate::bulk::bytes")]
    pub bytes: Vec<u8>,
    /// Operations that the block made.
    pub operations: u64,
}

/// A failed job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The traceback in the client's own files and lines, with the error last.
    pub traceback: String,
}

/// What the self-check of the sandbox found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Nothing got through.
    pub ok: bool,
    /// What did, or why it cannot be tried.
    pub reason: Option<String>,
    /// What this machine's kernel lacks, without which the rest must hold: `landlock`.
    pub lacks: Vec<String>,
}
