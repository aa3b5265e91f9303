//! The engine process: connects to its server, loads what it is told to, computes what it is sent.
//!
//! It has no other way in or out than its socket, and lives no longer than that: when the server is gone, however it went,
//! so is the engine, also in the middle of a batch.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use rustix::process::{
    Resource, Rlimit, Signal, getpid, kill_process, set_parent_process_death_signal, setrlimit,
};

use super::fault::{Fault, Faulty};
use super::load::{self, Computing};
use super::model::{Model, ModelError, panic_message};
use super::shared;
use super::wire::{self, Captures, FromEngine, Hello, Order, Output, ToEngine, WireError};
use crate::plan::batch::ForwardBatch;
use crate::plan::output::BatchOutput;

/// Captures of more bytes than this go through shared memory.
const MOST_INLINE: usize = 1 << 20;

/// An engine process that knows what to do.
#[derive(Debug)]
pub struct Process {
    socket: UnixStream,
    epoch: u64,
    /// What it is there for.
    pub order: Order,
}

impl Process {
    /// Connects to the server that started this process.
    ///
    /// # Errors
    /// There is no server, or one of another version.
    pub fn connect(path: &Path, epoch: u64) -> Result<Process, WireError> {
        // A core of a hundred gigabytes would be written before the server learns of the death.
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        let _ = setrlimit(Resource::Core, none);
        // Also where this process is stopped and could not see its socket close.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let mut socket = UnixStream::connect(path)?;
        let ours = Hello::new(epoch);
        std::io::Write::write_all(&mut socket, &ours.to_bytes())?;
        let mut theirs = [0; Hello::BYTES];
        socket.read_exact(&mut theirs)?;
        ours.expect(theirs)?;
        match wire::read(&mut socket)? {
            ToEngine::Load(order) => Ok(Process { socket, epoch, order: *order }),
            ToEngine::Compute { .. } | ToEngine::Ping => Err(WireError::OutOfTurn),
        }
    }

    /// Loads the model and computes until the server has enough. What goes wrong is told to the server.
    ///
    /// # Errors
    /// The server can't be told.
    pub fn serve(self) -> Result<(), WireError> {
        let Process { socket, epoch, order } = self;
        let (orders, inbox) = mpsc::channel();
        let incoming = socket.try_clone()?;
        std::thread::Builder::new().name("socket".into()).spawn(move || receive(incoming, &orders))?;
        let out = Outbox(Arc::new(Mutex::new(socket)));
        let loaded = catch_unwind(AssertUnwindSafe(|| load(&order, epoch, &out)));
        let why = match loaded {
            Ok(Ok(Computing { model, ready })) => {
                out.send(&FromEngine::Ready(ready))?;
                return compute(model, &inbox, &out, &order.shared);
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => format!("loading panicked: {}", panic_message(&*panic)),
        };
        out.send(&FromEngine::LoadFailed(why))
    }
}

/// The way to the server. Clones share it.
#[derive(Debug, Clone)]
struct Outbox(Arc<Mutex<UnixStream>>);

impl Outbox {
    fn send(&self, message: &FromEngine) -> Result<(), WireError> {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wire::write(&mut *socket, message)
    }
}

/// What the server asks of a loaded model, in its order.
enum Asked {
    /// To compute a batch.
    Batch(u64, Arc<ForwardBatch>),
    /// A sign of life, from the thread that computes.
    Sign,
}

/// Reads what is asked until the server is gone, then ends the process.
fn receive(mut socket: UnixStream, orders: &mpsc::Sender<Asked>) {
    loop {
        let asked = match wire::read(&mut socket) {
            Ok(ToEngine::Compute { id, batch }) => Asked::Batch(id, Arc::from(batch)),
            Ok(ToEngine::Ping) => Asked::Sign,
            Ok(ToEngine::Load(_)) | Err(_) => break,
        };
        if orders.send(asked).is_err() {
            break;
        }
    }
    // Not `exit`: what would run then may wait for a device that does not answer.
    let _ = kill_process(getpid(), Signal::KILL);
}

fn load(order: &Order, epoch: u64, out: &Outbox) -> anyhow::Result<Computing> {
    let fault = Fault::from_environment()?;
    let checkpoint = load::checkpoint(&order.config)?;
    let found = &checkpoint.fingerprint.weights_sha256;
    anyhow::ensure!(
        *found == order.weights_sha256,
        "the weights changed since the server started: their SHA-256 is {found}, no longer {}",
        order.weights_sha256
    );
    let out = out.clone();
    let told = move |blocks| {
        // If the server is gone, this process is about to be.
        let _ = out.send(&FromEngine::Loading { blocks });
    };
    let Computing { model, ready } = load::computing(&order.config, &checkpoint, told)?;
    let model = match fault {
        Some(fault) => Box::new(Faulty::new(model, fault, epoch)),
        None => model,
    };
    Ok(Computing { model, ready })
}

fn compute(
    mut model: impl Model,
    inbox: &mpsc::Receiver<Asked>,
    out: &Outbox,
    folder: &Path,
) -> Result<(), WireError> {
    for asked in inbox {
        let Asked::Batch(id, batch) = asked else {
            out.send(&FromEngine::Pong)?;
            continue;
        };
        out.send(&FromEngine::Begun { id })?;
        let started = Instant::now();
        let output = catch_unwind(AssertUnwindSafe(|| model.forward(&batch)));
        let seconds = started.elapsed().as_secs_f64();
        let message = match output {
            Ok(Ok(output)) => FromEngine::Done { id, seconds, output: packed(id, output, folder) },
            Ok(Err(error @ ModelError::OutOfMemory(_))) => {
                FromEngine::OutOfMemory { id, why: error.to_string() }
            }
            Ok(Err(ModelError::Failed(why))) => FromEngine::Failed(why),
            Err(panic) => FromEngine::Failed(format!("a rank panicked: {}", panic_message(&*panic))),
        };
        out.send(&message)?;
        if matches!(message, FromEngine::Failed(_)) {
            break;
        }
    }
    Ok(())
}

/// The output as it is sent: large captures by way of a file.
fn packed(id: u64, output: BatchOutput, folder: &Path) -> Output {
    let BatchOutput { scores, captures, written, drawn } = output;
    let bytes: usize = captures.iter().map(|(_, numbers)| 4 * numbers.len()).sum();
    let shared = (bytes > MOST_INLINE).then(|| shared::put(folder, id, &captures));
    let captures = match shared {
        Some(Ok(lengths)) => Captures::Shared(lengths),
        Some(Err(error)) => {
            tracing::warn!(bytes, "captures go through the socket, for shared memory took none: {error}");
            Captures::Inline(captures)
        }
        None => Captures::Inline(captures),
    };
    Output { scores, written, captures, drawn }
}

/// The output as it was before it was sent.
pub(super) fn unpacked(id: u64, output: Output, folder: &Path) -> std::io::Result<BatchOutput> {
    let Output { scores, written, captures, drawn } = output;
    let captures = match captures {
        Captures::Inline(captures) => captures,
        Captures::Shared(lengths) => shared::take(folder, id, &lengths)?,
    };
    Ok(BatchOutput { scores, captures, written, drawn })
}

/// The program to start as an engine, or a worker: this one, also if its file was replaced meanwhile.
///
/// # Errors
/// It is not to be found.
pub fn program() -> std::io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { Ok(running) } else { std::env::current_exe() }
}
