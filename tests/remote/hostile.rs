//! Blocks and payloads of people who want more than their job's answer: each fails alone, and nothing else notices.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{block, block_of, fetch, poll, serving, submit, tensors};
use crate::kills::named;
use crate::server::{Server, expected, trace, until};

/// What attempts and blocks have at hand.
const BEGIN: &str = r#"
import ctypes, gc, io, os, signal, socket, struct, sys, threading, time
import link, nnsight, torch
libc = ctypes.CDLL(None, use_errno=True)

def failed(result):
    if result in (-1, 2 ** 32 - 1): raise OSError

def refused(function, *args):
    function.restype = ctypes.c_ssize_t
    failed(function(*args))

def raw(text):
    link._socket.sendall(struct.pack("<II", 4 + len(text), len(text)) + text)
    time.sleep(1000)

class Id:
    def __init__(self, id): self.id = id
    def _wire(self, encoder): return {"t": self.id}
"#;

/// Ends a block of attempts: what got through is its error.
const END: &str = r#"
if through: raise RuntimeError(f"got through: {through}")
ok = torch.ones(3).save()
"#;

/// Every number of a system call but those that arithmetic and one socket need (`sandbox/filter.rs`); 56 is `clone`, which here
/// would start a process. 335 and 336 belong to the kernel's own probes: it ends whoever else calls them.
#[cfg(target_arch = "x86_64")]
const CALLS: &str = "
allowed = {0, 1, 3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 19, 20, 24, 25, 28, 35, 39, 44, 45, 46, 47, 60, 96, 131, 186, 202, 219, 228, 229,
           230, 231, 271, 273, 318, 334, 335, 336}
through = []
libc.syscall.restype = ctypes.c_long
for number in [*range(470), *(0x40000000 + n for n in (0, 2, 39, 56, 57, 59, 520))]:
    if number in allowed: continue
    ctypes.set_errno(0)
    got = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    if got != -1 or ctypes.get_errno() not in (1, 38): through.append((number, got, ctypes.get_errno()))
";

/// What must end with an error, and what its request is.
fn payloads() -> Vec<(String, Vec<u8>)> {
    let packed = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    let good = zstd::stream::decode_all(block("read_end").as_slice()).unwrap();
    let mut made: Vec<(String, Vec<u8>)> = vec![
        ("nothing".into(), Vec::new()),
        ("no zstd".into(), b"no zstd".to_vec()),
        ("a frame of zstd that is cut".into(), block("read_end")[..400].to_vec()),
        ("a frame that unpacks to a gigabyte".into(), {
            let mut frame = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            let zeros = vec![0; 1 << 20];
            (0..1024).for_each(|_| std::io::Write::write_all(&mut frame, &zeros).unwrap());
            frame.finish().unwrap()
        }),
        ("nothing, packed".into(), packed(b"")),
        ("text".into(), packed(b"no pickle")),
        ("zeros".into(), packed(&vec![0; 1 << 22])),
        ("marks".into(), packed(&[b"\x80\x04".to_vec(), vec![b'('; 1 << 20]].concat())),
        (
            "tuples in tuples".into(),
            packed(&[b"\x80\x04N".to_vec(), vec![0x85; 1 << 20], b".".to_vec()].concat()),
        ),
        (
            "lists that double".into(),
            packed(&[b"\x80\x04]\x94".to_vec(), b"(h\x00h\x00e".repeat(64), b".".to_vec()].concat()),
        ),
        ("a text of an exabyte".into(), packed(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0f.")),
        ("bytes of four gigabytes".into(), packed(b"\x80\x04B\xff\xff\xff\xff.")),
        ("a number of a gigabyte".into(), packed(b"\x80\x04\x8b\xff\xff\xff\x3f.")),
        ("a frame of an exabyte".into(), packed(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0fN.")),
        ("a memo far out".into(), packed(b"\x80\x04Nr\xff\xff\xff\x7f.")),
        ("a memo that is not there".into(), packed(b"\x80\x04h\x07.")),
        ("another protocol".into(), packed(b"\x80\x63N.")),
        ("nothing on the stack".into(), packed(b"\x80\x04.")),
        ("a buffer from outside".into(), packed(b"\x80\x05\x97.")),
        ("an extension".into(), packed(b"\x80\x04\x82\x01.")),
        ("none".into(), packed(b"\x80\x04N.")),
        ("a pair of nothing".into(), packed(b"\x80\x04NN\x86.")),
        (
            "a session of nothing".into(),
            packed(b"\x80\x04cnnsight.tracing.tracer\nTracer\n)\x81NNN\x87\x86."),
        ),
        ("a part of the model that is none".into(), packed(b"\x80\x04X\x03\x00\x00\x00a.bQ.")),
    ];
    for (module, name, argument) in [
        ("os", "system", "id"),
        ("posix", "system", "id"),
        ("subprocess", "Popen", "id"),
        ("builtins", "eval", "__import__('os').system('id')"),
        ("builtins", "exec", "while True: pass"),
        ("builtins", "open", "/etc/passwd"),
        ("builtins", "__import__", "socket"),
        ("builtins", "breakpoint", ""),
        ("builtins", "input", "name"),
        ("cloudpickle.cloudpickle", "subimport", "os"),
        ("cloudpickle.cloudpickle", "_make_function", "x"),
        ("nnsight.intervention.serialization", "_load_function", "x"),
        ("torch.storage", "_load_from_bytes", "x"),
        ("torch", "load", "/etc/passwd"),
        ("torch.hub", "load", "x"),
        ("link", "connect", "x"),
        ("__main__", "serve", "x"),
        ("importlib", "import_module", "os"),
        ("ctypes", "CDLL", "libc.so.6"),
        ("sys", "exit", "0"),
        ("nt", "system", "id"),
        ("numpy._core.multiarray", "scalar", "x"),
    ] {
        let mut pickle = b"\x80\x04c".to_vec();
        pickle.extend(format!("{module}\n{name}\n(X").bytes());
        pickle.extend((argument.len() as u32).to_le_bytes());
        pickle.extend(argument.as_bytes());
        pickle.extend(b"tR.");
        made.push((format!("{module}.{name}"), packed(&pickle)));
    }
    for part in 1..8 {
        made.push((format!("cut after {part} of 8"), packed(&good[..good.len() * part / 8])));
    }
    made
}

/// Says that it is over, at the latest when a test fails.
struct Ends<'o>(&'o AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Hands all in, and waits for all: how each ended.
fn all(server: &Server, requests: &[(String, Vec<u8>)]) -> Vec<(String, serde_json::Value)> {
    let ids: Vec<String> = requests.iter().map(|(_, request)| submit(server, "/request", request)).collect();
    requests.iter().zip(ids).map(|((name, _), id)| (name.clone(), poll(server, &id))).collect()
}

#[test]
fn hostile_blocks_and_payloads_end_alone_and_nothing_else_notices() {
    let server = serving(&[
        ("REMOTE__JOBS_AT_ONCE", "4"),
        ("REMOTE__QUEUED_PER_OWNER", "1000"),
        ("REMOTE__JOB_S", "6"),
        ("REMOTE__JOB_CPU_S", "1"),
        ("REMOTE__JOB_FORWARDS", "20"),
        ("REMOTE__JOB_OPERATIONS", "2000"),
        ("REMOTE__RESULT_BYTES", "1000000"),
        ("REMOTE__REQUEST_BYTES", "4000000"),
    ]);
    let wanted = tensors(&fetch(&server, &poll(&server, &submit(&server, "/request", &block("read_end")))));
    let (engine, over) = (server.engine(), AtomicBool::new(false));

    let statements = include_str!("hostile/attempts.py").lines().filter(|line| !line.starts_with('#'));
    let statements: Vec<&str> = statements.collect();
    let mut held = Vec::new();
    for (i, some) in statements.chunks(40).enumerate() {
        let mut attempts = format!("{BEGIN}through = []\n");
        for statement in some {
            let _ = write!(
                attempts,
                "try:\n    {statement}\nexcept BaseException:\n    pass\nelse:\n    through.append({statement:?})\n"
            );
        }
        held.push((format!("attempts {i}"), block_of(&(attempts + END))));
    }
    #[cfg(target_arch = "x86_64")]
    held.push(("system calls".to_owned(), block_of(&format!("{BEGIN}{CALLS}{END}"))));

    let ends = include_str!("hostile/ends.py").split("# ---\n");
    let mut ending: Vec<(String, Vec<u8>)> =
        ends.map(|source| (source.to_owned(), block_of(&format!("{BEGIN}{source}")))).collect();
    ending.extend(payloads());
    let count = statements.len() + ending.len();
    assert!(count >= 250, "{count} attempts");

    std::thread::scope(|scope| {
        // Whatever fails below, the thread beside it ends.
        let ends = Ends(&over);
        // A trace of somebody else's beside it all.
        let beside = scope.spawn(|| {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(server.result("/v1/trace", &trace()), *expected());
                n += 1;
            }
            n
        });
        for (name, told) in all(&server, &held) {
            assert_eq!(told["status"], "COMPLETED", "{name}: {}", told["description"].as_str().unwrap());
            assert_eq!(tensors(&fetch(&server, &told)), [vec![1.0; 3]], "{name}");
        }
        for (name, told) in all(&server, &ending) {
            assert_eq!(told["status"], "ERROR", "{name}");
            let said = told["description"].as_str().unwrap();
            // 101: a worker that panicked.
            assert!(
                !said.is_empty() && !said.contains("BUG") && !said.contains("status: 101"),
                "{name}: {said}"
            );
        }
        // A thread that goes on when the block has ended.
        let spinning = "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()\n";
        let left =
            submit(&server, "/request", &block_of(&format!("{BEGIN}{spinning}x = torch.ones(1).save()\n")));
        assert_eq!(poll(&server, &left)["status"], "COMPLETED");
        let ended = Instant::now();
        // What waits for the next jobs: a worker and an evaluator each, and the interpreter that evaluators come from.
        until(
            "the end of their processes",
            || named(&server, "worker").len() <= 4 && named(&server, "python").len() <= 5,
            || server.log(),
        );
        assert!(ended.elapsed() < Duration::from_secs(2), "{:?}", ended.elapsed());
        drop(ends);
        assert!(beside.join().unwrap() > 0);
    });
    let after = tensors(&fetch(&server, &poll(&server, &submit(&server, "/request", &block("read_end")))));
    assert_eq!(after, wanted);
    assert_eq!(server.engine(), engine, "the engine did not notice");
}
