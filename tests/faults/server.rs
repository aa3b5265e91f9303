//! The program as a process, with faults in its engine, and what is to be seen of it from outside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for anything: a server of the dev profile on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// A server of `dummy:tiny`, killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    /// What it writes to standard error.
    pub(crate) log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    /// Temporary folders and data.
    pub(crate) folder: PathBuf,
    /// Deletes the folder, if it is this server's alone.
    owned: Option<tempfile::TempDir>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// The command that serves, with a fault.
pub(crate) fn command(folder: &Path, fault: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mediant"));
    let model =
        settings.iter().find(|(key, _)| *key == "MODEL__REF").map_or("dummy:tiny", |(_, model)| model);
    command.args(["serve", "--listen", "127.0.0.1:0", "--model", model, "--data-dir"]);
    command.arg(folder.join("data")).env("TMPDIR", folder).env("MEDIANT__ENGINE__THREADS", "1");
    // Each request is to meet the engine.
    command.env("MEDIANT__CACHE__SHARE", "off");
    // 264 rows: traces take several chunks.
    command.env("MEDIANT__ENGINE__ROW_BUDGET_BYTES", "770000").env_remove("MEDIANT_FAULT");
    // Processes for blocks are started where a test asks for them.
    command.env("MEDIANT__REMOTE__SOURCE", "off");
    if !fault.is_empty() {
        command.env("MEDIANT_FAULT", fault);
    }
    for (key, value) in settings {
        command.env(format!("MEDIANT__{key}"), value);
    }
    command.stderr(Stdio::piped());
    command
}

impl Server {
    /// A ready server.
    pub(crate) fn start(fault: &str, settings: &[(&str, &str)]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Self::start_in(&folder, fault, settings, true);
        server.owned = Some(folder);
        server
    }

    /// A server, if `ready` a ready one, in a folder that outlives it.
    pub(crate) fn start_in(
        folder: &tempfile::TempDir,
        fault: &str,
        settings: &[(&str, &str)],
        ready: bool,
    ) -> Server {
        Self::of(command(folder.path(), fault, settings), folder.path(), ready)
    }

    /// A server that a command starts.
    pub(crate) fn of(mut command: Command, folder: &Path, ready: bool) -> Server {
        let folder = folder.to_owned();
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        while !first.contains("listening on http://") {
            assert_ne!(lines.read_line(&mut first).unwrap(), 0, "ended before it listened: {first}");
        }
        let address = first.rsplit("http://").next().unwrap().split_whitespace().next().unwrap();
        let address = address.parse().unwrap();
        let log = Arc::new(Mutex::new(first));
        let kept = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = kept.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let server = Server { child, address, log, reader: Some(reader), folder, owned: None };
        if ready {
            server.until_ready();
        }
        server
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is ready.
    pub(crate) fn until_ready(&self) {
        until("ready", || get(self.address, "/readyz").status == 200, || self.log());
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        exchange(self.address, "POST", path, &body.to_string())
    }

    /// With a key.
    pub(crate) fn post_as(&self, key: &str, path: &str, body: &Value) -> Answer {
        let more = format!("authorization: Bearer {key}\r\n");
        answered(try_exchange_with(self.address, "POST", path, &more, &body.to_string()).unwrap())
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        exchange(self.address, "DELETE", path, "")
    }

    /// An answer that must be a result, without what differs from time to time.
    pub(crate) fn result(&self, path: &str, body: &Value) -> Value {
        let Answer { status, body } = self.post(path, body);
        assert_eq!(status, 200, "{body}\n{}", self.log());
        comparable(body)
    }

    /// Its engine process.
    pub(crate) fn engine(&self) -> u32 {
        engine_of(self.pid(), || self.log())
    }

    pub(crate) fn signal(&self, signal: &str) {
        kill(self.pid(), signal);
    }

    /// The exit status and all of the log.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let (mut status, log) = (None, Arc::clone(&self.log));
        let ended = || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        };
        until("the end", ended, || log.lock().unwrap().clone());
        self.reader.take().unwrap().join().unwrap();
        (status.unwrap().code(), self.log())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        delete_folders(self.pid(), &self.folder);
        drop(self.owned.take());
    }
}

/// Folders of a server, wherever they may be.
pub(crate) fn folders(pid: u32, temporary: &Path) -> Vec<PathBuf> {
    let prefix = format!("mediant-engine-{pid}-");
    let bases = [temporary, Path::new("/dev/shm")];
    let entries = bases.iter().filter_map(|base| std::fs::read_dir(base).ok()).flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}

/// Deletes what a killed server cannot.
pub(crate) fn delete_folders(pid: u32, temporary: &Path) {
    for folder in folders(pid, temporary) {
        // Another server may have done so meanwhile.
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Polls `/healthz` until dropped; every answer must come within a second.
pub(crate) struct Pulse {
    stop: Arc<AtomicBool>,
    poller: Option<JoinHandle<usize>>,
}

impl Pulse {
    pub(crate) fn of(server: &Server) -> Pulse {
        let (stop, address) = (Arc::new(AtomicBool::new(false)), server.address);
        let stopped = Arc::clone(&stop);
        let poller = std::thread::spawn(move || {
            let mut beats = 0;
            while !stopped.load(Ordering::Relaxed) {
                let started = Instant::now();
                assert_eq!(get(address, "/healthz").status, 200);
                assert!(started.elapsed() < Duration::from_secs(1), "a late beat: {:?}", started.elapsed());
                beats += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            beats
        });
        Pulse { stop, poller: Some(poller) }
    }

    pub(crate) fn was_steady(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.poller.take().unwrap().join().unwrap() > 0);
    }
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool, log: impl Fn() -> String) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}:\n{}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    exchange(address, "GET", path, "")
}

/// What a path answers, byte by byte.
pub(crate) fn bytes(address: SocketAddr, path: &str) -> Vec<u8> {
    try_exchange(address, "GET", path, "").unwrap().1
}

fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    answered(try_exchange(address, method, path, body).unwrap())
}

fn answered((head, body): (String, Vec<u8>)) -> Answer {
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
}

/// A request whose connection may break.
pub(crate) fn try_post(address: SocketAddr, path: &str, body: &Value) -> std::io::Result<Answer> {
    try_exchange(address, "POST", path, &body.to_string()).map(answered)
}

fn try_exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(String, Vec<u8>)> {
    try_exchange_with(address, method, path, "", body)
}

/// `more`: further lines of the head.
fn try_exchange_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    more: &str,
    body: &str,
) -> std::io::Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {more}content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let split = split.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8(answer[..split].to_vec()).unwrap();
    let body = &answer[split + 4..];
    let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
        unchunked(body)
    } else {
        body.to_vec()
    };
    Ok((head, body))
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.extend(&body[line + 2..line + 2 + length]);
        body = &body[line + 2 + length + 2..];
    }
}

/// A result without its id, its times and its company.
pub(crate) fn comparable(mut result: Value) -> Value {
    result["id"] = Value::Null;
    for field in ["seconds", "queue_seconds", "shared_with"] {
        result["usage"][field] = Value::Null;
    }
    result
}

/// A trace of several chunks: 4 layers and 18 positions, 5 samples.
pub(crate) fn trace() -> Value {
    json!({"prompt": "The Tower is tall", "subject": "Tower", "target": "P",
           "corrupt": {"method": "gaussian", "sigma": {"k": 3, "of": "vocab"}, "samples": 5}})
}

/// What a server without a fault answers to [`trace`].
pub(crate) fn expected() -> &'static Value {
    static EXPECTED: LazyLock<Value> = LazyLock::new(|| Server::start("", &[]).result("/v1/trace", &trace()));
    &EXPECTED
}

pub(crate) fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {signal} {pid}");
}

/// Whether a process is there, and not merely waited for.
pub(crate) fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|(state, _)| state != 'Z')
}

/// State and parent of a process.
fn state(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Waits for the engine process of a server. Its command line tells it from interpreters and workers; its number does
/// not: the numbers of processes begin again.
pub(crate) fn engine_of(pid: u32, log: impl Fn() -> String) -> u32 {
    let mut found = None;
    until(
        "an engine process",
        || {
            found = children(pid)
                .into_iter()
                .find(|child| command_line(*child).nth(1).as_deref() == Some("engine"));
            found.is_some()
        },
        log,
    );
    found.unwrap()
}

/// The program and the arguments of a process; none if it has ended.
pub(crate) fn command_line(pid: u32) -> impl Iterator<Item = String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split_terminator('\0').map(str::to_owned).collect::<Vec<_>>().into_iter()
}

pub(crate) fn children(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| state(*child).is_some_and(|(state, parent)| parent == pid && state != 'Z')).collect()
}
