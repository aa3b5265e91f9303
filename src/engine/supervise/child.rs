//! One engine process: started, greeted, listened to, and dead when dropped.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream, unix::OwnedReadHalf};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::super::Ready;
use super::super::process::program;
use super::super::wire::{self, FromEngine, Hello, Order, ToEngine, WireError};

/// A process that has not connected by then never will.
const CONNECT: Duration = Duration::from_mins(1);
/// How often a process that does not connect is looked after.
const LOOK: Duration = Duration::from_millis(20);
/// Loading that says nothing for this long hangs: no block of a model takes so long to read.
const LOADING_SILENCE: Duration = Duration::from_mins(10);

/// A process that is there for this long after it was killed is held by a driver, and may be for ever.
const HELD_FAST: Duration = Duration::from_secs(10);

/// A message as it is sent. Kept until it is answered, since it may have to be sent to another process.
pub(super) type Frame = Arc<[u8]>;

/// A process whose model is loaded.
#[derive(Debug)]
pub(super) struct Process {
    child: Reaped,
    /// What it says; ends when it does.
    pub(super) events: mpsc::UnboundedReceiver<FromEngine>,
    frames: mpsc::UnboundedSender<Frame>,
    /// What its model is.
    pub(super) ready: Ready,
}

impl Process {
    /// Starts a process and waits until its model is loaded. The error is the reason in words.
    pub(super) async fn launch(order: &Order, folder: &Path, epoch: u64) -> Result<Process, String> {
        let socket = folder.join("socket");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(|error| format!("no socket: {error}"))?;
        let mut child =
            start(&socket, epoch).map_err(|error| format!("its process cannot be started: {error}"))?;
        let connected = timeout(CONNECT, connect(&listener, &mut child, epoch)).await;
        let stream = connected.map_err(|_| "it did not connect".to_owned())??;
        let _ = std::fs::remove_file(&socket);

        let (incoming, mut outgoing) = stream.into_split();
        let (said, mut events) = mpsc::unbounded_channel();
        tokio::spawn(listen(incoming, said));
        let (frames, mut queue) = mpsc::unbounded_channel::<Frame>();
        tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                // What is at fault is seen where the answers come from.
                if outgoing.write_all(&frame).await.is_err() {
                    break;
                }
            }
        });
        let _ = frames.send(wire::frame(&ToEngine::Load(Box::new(order.clone()))).into());
        loop {
            match timeout(LOADING_SILENCE, events.recv()).await {
                Err(_) => return Err(format!("loading said nothing for {} s", LOADING_SILENCE.as_secs())),
                Ok(Some(FromEngine::Loading { blocks })) => tracing::debug!(blocks, "loading"),
                Ok(Some(FromEngine::Ready(ready))) => return Ok(Process { child, events, frames, ready }),
                Ok(Some(FromEngine::LoadFailed(why))) => return Err(why),
                Ok(Some(_)) => return Err(WireError::OutOfTurn.to_string()),
                Ok(None) => return Err(format!("its process ended while loading, {}", child.end())),
            }
        }
    }

    /// Sends a frame. Whether it arrives is seen by whether it is answered.
    pub(super) fn send(&self, frame: &Frame) {
        let _ = self.frames.send(Arc::clone(frame));
    }

    /// Ends the process, if it has not ended, and says how it did.
    pub(super) fn end(&mut self) -> String {
        self.child.end()
    }
}

fn start(socket: &Path, epoch: u64) -> std::io::Result<Reaped> {
    let mut command = Command::new(program()?);
    command.arg("engine").arg("--socket").arg(socket).args(["--epoch", &epoch.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // A name to be seen by, and a group of its own: ctrl-c is for the server, which still has work for the engine.
    command.arg0("mediant").process_group(0);
    Ok(Reaped(command.spawn()?))
}

async fn connect(listener: &UnixListener, child: &mut Reaped, epoch: u64) -> Result<UnixStream, String> {
    let mut stream = loop {
        tokio::select! {
            accepted = listener.accept() => break accepted.map_err(|error| error.to_string())?.0,
            () = sleep(LOOK) => if let Some(how) = child.ended() {
                return Err(format!("its process ended at once, {how}"));
            },
        }
    };
    let ours = Hello::new(epoch);
    let mut theirs = [0; Hello::BYTES];
    let greeted = async {
        stream.read_exact(&mut theirs).await?;
        stream.write_all(&ours.to_bytes()).await
    };
    greeted.await.map_err(|error| WireError::from(error).to_string())?;
    ours.expect(theirs).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Reads messages until the process ends or says what is none.
async fn listen(mut socket: OwnedReadHalf, said: mpsc::UnboundedSender<FromEngine>) {
    loop {
        match receive(&mut socket).await {
            Ok(message) => {
                if said.send(message).is_err() {
                    break;
                }
            }
            Err(WireError::Io(_)) => break,
            Err(error) => {
                let _ = said.send(FromEngine::Failed(error.to_string()));
                break;
            }
        }
    }
}

async fn receive(socket: &mut OwnedReadHalf) -> Result<FromEngine, WireError> {
    let mut header = [0; 8];
    socket.read_exact(&mut header).await?;
    let length = wire::length(header)?;
    let mut bytes = wire::room(length);
    if socket.take(length).read_to_end(&mut bytes).await? as u64 != length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    wire::message(&bytes)
}

/// A child process that is killed and waited for when it is dropped, so that none outlives its server.
#[derive(Debug)]
struct Reaped(Child);

impl Reaped {
    /// How it ended, if it has.
    fn ended(&mut self) -> Option<String> {
        self.0.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Ends it, if it has not ended by itself, and says how it did. The engine holds nothing that outlives it, so there is
    /// nothing to be gentle about. One that a driver holds fast is left to the system.
    fn end(&mut self) -> String {
        let _ = self.0.kill();
        let killed = Instant::now();
        while killed.elapsed() < HELD_FAST {
            if let Some(ended) = self.ended() {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        format!("it is still there {} s after it was killed", HELD_FAST.as_secs())
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.end();
    }
}
