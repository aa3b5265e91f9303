//! The warm Python interpreter from which each job's evaluator is forked.

use crate::load::unpack;
use crate::sandbox::{Bounds, Lock};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the interpreter runs; it is sent the rest.
pub(crate) const ZYGOTE: &str = include_str!("shim/zygote.py");

/// The stand-ins, frozen in: a block can import nothing that is not among them or Python's own.
const STAND_INS: [(&str, &str); 7] = [
    ("link", include_str!("shim/link.py")),
    ("torch", include_str!("shim/torch.py")),
    ("einops", include_str!("shim/einops.py")),
    ("block", include_str!("shim/block.py")),
    ("nnsight", include_str!("shim/nnsight.py")),
    ("unpickle", include_str!("shim/unpickle.py")),
    ("job", include_str!("shim/job.py")),
];

/// A request of nnsight's, packed: what evaluators get warm with. It is among those of `tests/remote`, too.
const REQUEST: &[u8] = include_bytes!("shim/warm.block");

/// How long the interpreter may take to start.
const START: Duration = Duration::from_secs(30);

/// A warm interpreter. It ends when this is dropped, and its children with it.
#[derive(Debug)]
pub struct Zygote {
    control: UnixStream,
    process: Child,
    apart: bool,
}

impl Zygote {
    /// Starts the interpreter and waits until it is warm.
    ///
    /// # Errors
    /// It cannot be started, lacks a module of its own library, or is too old.
    pub fn start(python: &Path, lock: &Lock, bounds: Bounds) -> io::Result<Zygote> {
        let (control, theirs) = UnixStream::pair()?;
        let mut command = Command::new(interpreter(python)?);
        command.args(["-I", "-S", "-B", "-c", ZYGOTE]).env_clear();
        command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let process = command.spawn()?;
        // it holds the other end
        drop(command);
        let mut zygote = Zygote { control, process, apart: false };
        let modules: serde_json::Map<String, serde_json::Value> =
            STAND_INS.iter().map(|(name, source)| ((*name).to_owned(), json!(source))).collect();
        let mut setup = setup(lock, bounds);
        setup["modules"] = modules.into();
        setup["request"] = hex(&unpack(REQUEST, 1 << 20).map_err(io::Error::other)?).into();
        let text = serde_json::to_vec(&setup).map_err(io::Error::other)?;
        let told = zygote.control.set_read_timeout(Some(START)).and_then(|()| {
            zygote.control.write_all(&(text.len() as u32).to_le_bytes())?;
            zygote.control.write_all(&text)?;
            let mut said = [0];
            zygote.control.read_exact(&mut said)?;
            Ok(said == *b"!")
        });
        zygote.apart = told.map_err(|error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "{} did not start: it must be CPython 3.9 or newer with ctypes ({error})",
                    python.display()
                ),
            )
        })?;
        Ok(zygote)
    }

    /// Forks an evaluator: the worker's end of its socket. Nothing is to be ended: it is killed when that end closes.
    ///
    /// # Errors
    /// The interpreter is gone.
    pub fn evaluator(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        let descriptors = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.control, &[IoSlice::new(b"j")], &mut beside, SendFlags::NOSIGNAL)?;
        Ok(ours.into())
    }

    /// Whether its processes have namespaces of their own for users, network and messages.
    pub fn is_apart(&self) -> bool {
        self.apart
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // its children have asked the kernel to die with it
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a child of the interpreter locks itself with.
pub(crate) fn setup(lock: &Lock, bounds: Bounds) -> serde_json::Value {
    let limits = json!({
        "RLIMIT_AS": bounds.memory, "RLIMIT_CPU": bounds.seconds, "RLIMIT_NOFILE": 16, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0,
    });
    json!({ "limits": limits, "filter": hex(&lock.filter), "landlock": hex(&lock.landlock) })
}

/// The interpreter itself: what is found by the name may be a script that looks for it, and needs an environment to do so.
pub(crate) fn interpreter(python: &Path) -> io::Result<PathBuf> {
    let failed = |why: String| io::Error::other(format!("{} cannot be started: {why}", python.display()));
    let mut command = Command::new(python);
    command.args(["-I", "-S", "-c", "import sys; print(sys.executable)"]).stdin(Stdio::null());
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
    let line = said.lines().next().unwrap_or("it says nothing");
    if output.status.success() { Ok(PathBuf::from(line)) } else { Err(failed(line.to_owned())) }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
