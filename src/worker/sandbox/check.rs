//! What a locked process can still do, tried at every start.
//!
//! The attempts are made by an evaluator's process, under the very lock of one, since it can call the kernel directly; and
//! some by a worker's, through the standard library.

use super::{Bounds, EVALUATOR_BYTES, WORKER_BYTES, evaluator_lock, landlock, lock_worker};
use crate::message::CheckReport;
use crate::zygote;
use serde_json::json;
use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// Processor time of the attempts.
const SECONDS: u64 = 20;

/// What is tried: names of calls, their numbers and arguments. None does harm where it gets through.
fn calls() -> Vec<(&'static str, i64, serde_json::Value)> {
    let here = libc::AT_FDCWD;
    let mut calls = vec![
        ("openat", libc::SYS_openat, json!([here, "/etc/passwd", 0, 0])),
        ("openat2", libc::SYS_openat2, json!([here, "/etc/passwd", 0, 0])),
        ("execve", libc::SYS_execve, json!(["/nowhere", 0, 0])),
        ("execveat", libc::SYS_execveat, json!([here, "/nowhere", 0, 0, 0])),
        ("clone", libc::SYS_clone, json!([libc::SIGCHLD, 0, 0, 0, 0])),
        ("clone3", libc::SYS_clone3, json!([0, 0])),
        ("socket", libc::SYS_socket, json!([libc::AF_INET, libc::SOCK_STREAM, 0])),
        ("socketpair", libc::SYS_socketpair, json!([libc::AF_UNIX, libc::SOCK_STREAM, 0, 0])),
        ("connect", libc::SYS_connect, json!([99, 0, 0])),
        ("bind", libc::SYS_bind, json!([99, 0, 0])),
        ("accept4", libc::SYS_accept4, json!([99, 0, 0, 0])),
        ("ptrace", libc::SYS_ptrace, json!([libc::PTRACE_ATTACH, i32::MAX, 0, 0])),
        ("process_vm_readv", libc::SYS_process_vm_readv, json!([1, 0, 0, 0, 0, 0])),
        ("kill", libc::SYS_kill, json!([i32::MAX, 0])),
        ("tkill", libc::SYS_tkill, json!([i32::MAX, 0])),
        ("pidfd_open", libc::SYS_pidfd_open, json!([i32::MAX, 0])),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal, json!([99, 0, 0, 0])),
        ("memfd_create", libc::SYS_memfd_create, json!(["x", 0])),
        ("bpf", libc::SYS_bpf, json!([99, 0, 0])),
        ("perf_event_open", libc::SYS_perf_event_open, json!([0, 0, -1, -1, 0])),
        ("io_uring_setup", libc::SYS_io_uring_setup, json!([0, 0])),
        ("userfaultfd", libc::SYS_userfaultfd, json!([1 << 20])),
        ("mount", libc::SYS_mount, json!(["x", "/nowhere", "x", 0, 0])),
        ("umount2", libc::SYS_umount2, json!(["/nowhere", 0])),
        ("pivot_root", libc::SYS_pivot_root, json!(["/nowhere", "/nowhere"])),
        ("chroot", libc::SYS_chroot, json!(["/nowhere"])),
        ("unshare", libc::SYS_unshare, json!([0])),
        ("setns", libc::SYS_setns, json!([99, 0])),
        ("prctl", libc::SYS_prctl, json!([libc::PR_GET_DUMPABLE, 0, 0, 0, 0])),
        ("seccomp", libc::SYS_seccomp, json!([99, 0, 0])),
        ("ioctl", libc::SYS_ioctl, json!([99, 0, 0])),
        ("fcntl", libc::SYS_fcntl, json!([99, 0, 0])),
        ("dup", libc::SYS_dup, json!([99])),
        ("pipe2", libc::SYS_pipe2, json!([0, 0])),
        ("setrlimit", libc::SYS_prlimit64, json!([0, 99, 0, 0])),
        ("setuid", libc::SYS_setuid, json!([-1])),
        ("setsid", libc::SYS_setsid, json!([])),
        ("setpgid", libc::SYS_setpgid, json!([i32::MAX, 0])),
        ("keyctl", libc::SYS_keyctl, json!([99, 0, 0, 0, 0])),
        ("init_module", libc::SYS_init_module, json!([0, 0, ""])),
        ("unlinkat", libc::SYS_unlinkat, json!([here, "/nowhere", 0])),
        ("mkdirat", libc::SYS_mkdirat, json!([here, "/nowhere/x", 0])),
        ("renameat2", libc::SYS_renameat2, json!([here, "/nowhere", here, "/nowhere", 0])),
        ("linkat", libc::SYS_linkat, json!([here, "/nowhere", here, "/nowhere", 0])),
        ("symlinkat", libc::SYS_symlinkat, json!(["/nowhere", here, "/nowhere/x"])),
        ("fchmodat", libc::SYS_fchmodat, json!([here, "/nowhere", 0, 0])),
        ("statx", libc::SYS_statx, json!([here, "/", 0, 0, 0])),
        ("getdents64", libc::SYS_getdents64, json!([99, 0, 0])),
        ("readlinkat", libc::SYS_readlinkat, json!([here, "/proc/self/exe", 0, 0])),
        ("getcwd", libc::SYS_getcwd, json!([0, 0])),
        ("inotify_init1", libc::SYS_inotify_init1, json!([1 << 20])),
        ("epoll_create1", libc::SYS_epoll_create1, json!([1])),
        ("eventfd2", libc::SYS_eventfd2, json!([0, 1])),
        ("timerfd_create", libc::SYS_timerfd_create, json!([99, 0])),
        ("mq_open", libc::SYS_mq_open, json!(["/x", 0, 0, 0])),
        ("shmget", libc::SYS_shmget, json!([1, 0, 0])),
        ("msgget", libc::SYS_msgget, json!([1, 0])),
        ("sysinfo", libc::SYS_sysinfo, json!([0])),
        ("uname", libc::SYS_uname, json!([0])),
        ("sched_setaffinity", libc::SYS_sched_setaffinity, json!([i32::MAX, 0, 0])),
        (
            "memory that runs",
            libc::SYS_mmap,
            json!([0, 4096, 7, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0]),
        ),
        ("memory made to run", libc::SYS_mprotect, json!([0, 4096, libc::PROT_READ | libc::PROT_EXEC])),
        ("pkey_mprotect", libc::SYS_pkey_mprotect, json!([0, 4096, 7, -1])),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        ("fork", libc::SYS_fork, json!([])),
        ("open", libc::SYS_open, json!(["/etc/passwd", 0, 0])),
        ("32-bit names of calls", 0x4000_0000 | libc::SYS_openat, json!([here, "/etc/passwd", 0, 0])),
    ]);
    calls
}

/// Starts `python` under the lock of an evaluator and tries them, then locks this process as a worker and tries some more. What
/// got through is in the reason.
///
/// This process stays locked: it is one started for the purpose.
pub fn check(python: &Path) -> CheckReport {
    let lacks = if landlock::is_there() { Vec::new() } else { vec!["landlock".to_owned()] };
    let reason = evaluator_gets_through(python, true)
        .and_then(|mut through| {
            through.extend(worker_gets_through()?);
            Ok((!through.is_empty())
                .then(|| format!("a locked process can still do this: {}", through.join(", "))))
        })
        .unwrap_or_else(|error| Some(error.to_string()));
    CheckReport { ok: reason.is_none(), reason, lacks }
}

/// What an evaluator can do.
fn evaluator_gets_through(python: &Path, locked: bool) -> io::Result<Vec<String>> {
    let bounds = Bounds { memory: EVALUATOR_BYTES, seconds: SECONDS };
    let told = json!({
        "zygote": zygote::ZYGOTE,
        "setup": zygote::setup(&evaluator_lock()?, bounds),
        "calls": calls(),
        "locked": locked,
        "memory": bounds.memory,
    });
    let mut command = Command::new(zygote::interpreter(python)?);
    command.args(["-I", "-S", "-B", "-c", include_str!("check.py")]).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn()?;
    if let Some(mut input) = process.stdin.take() {
        input.write_all(told.to_string().as_bytes())?;
        input.write_all(b"\n")?;
    }
    let output = process.wait_with_output()?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("nothing").to_owned();
        io::Error::other(format!("{} cannot be locked: {last}", python.display()))
    })?;
    match said["through"].as_array() {
        Some(through) => Ok(through.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()),
        None => Err(io::Error::other(format!(
            "{} cannot be locked: it ended with {}",
            python.display(),
            said["died"]
        ))),
    }
}

/// What a worker can do. Locks this process.
fn worker_gets_through() -> io::Result<Vec<String>> {
    let temporary = std::env::temp_dir().join("mediant-check");
    lock_worker(SECONDS)?;
    let attempts: [(&str, bool); 9] = [
        ("read a file", std::fs::read("/etc/passwd").is_ok()),
        ("read of processes", std::fs::read("/proc/self/maps").is_ok()),
        ("list a folder", std::fs::read_dir("/").is_ok()),
        ("write a file", std::fs::write(temporary, "x").is_ok()),
        ("start a program", Command::new("/bin/true").status().is_ok()),
        ("listen", TcpListener::bind("127.0.0.1:0").is_ok()),
        ("open a port", UdpSocket::bind("127.0.0.1:0").is_ok()),
        ("make a socket", UnixStream::pair().is_ok()),
        ("take more than its memory", Vec::<u8>::new().try_reserve_exact(WORKER_BYTES as usize).is_ok()),
    ];
    Ok(attempts
        .into_iter()
        .filter(|(_, through)| *through)
        .map(|(name, _)| format!("worker: {name}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Profile;
    use crate::save::torch_save;
    use crate::tensor::{Budget, Heap, Value, call};

    /// Set for the process that the test of the worker starts.
    const CHILD: &str = "MEDIANT_LOCKED_CHILD";

    #[test]
    fn a_locked_worker_can_do_nothing_but_compute() {
        if std::env::var_os(CHILD).is_some() {
            let through = worker_gets_through().unwrap();
            assert_eq!(through, Vec::<String>::new());
            // threads of a product, random numbers, an answer's file
            let mut heap = Heap::new(Budget { bytes: 1 << 28, operations: 100 });
            let wide = Value::Tuple(vec![Value::Int(300), Value::Int(300)]);
            let noise = call(&mut heap, "randn", &[wide], &[]).unwrap();
            let product = call(&mut heap, "matmul", &[noise.clone(), noise], &[]).unwrap();
            assert!(torch_save(&heap, &product, Profile::Plain).unwrap().len() > 300 * 300 * 4);
            let thread = std::thread::spawn(|| std::fs::read("/etc/passwd").is_err()).join();
            assert!(thread.unwrap());
            return;
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "sandbox::check::tests::a_locked_worker_can_do_nothing_but_compute",
            "--nocapture",
        ]);
        let output = command.env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn a_worker_that_takes_too_long_ends() {
        if std::env::var_os(CHILD).is_some() {
            lock_worker(1).unwrap();
            #[expect(clippy::empty_loop, reason = "it must not end by itself")]
            loop {}
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sandbox::check::tests::a_worker_that_takes_too_long_ends"]);
        let output = command.env(CHILD, "1").output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGKILL));
    }

    #[test]
    fn a_locked_evaluator_can_do_nothing_and_an_open_one_much() {
        assert!(calls().len() > 40);
        let python = Path::new("python3");
        assert_eq!(evaluator_gets_through(python, true).unwrap(), Vec::<String>::new());
        let open = evaluator_gets_through(python, false).unwrap();
        for name in ["openat", "socket", "fork", "memory that runs", "open a file", "start a program"] {
            assert!(open.iter().any(|other| other == name), "{name} is not noticed: {open:?}");
        }
    }
}
