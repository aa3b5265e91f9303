//! The lock of a worker and of its evaluator: what a client's files and code cannot do, whatever they are.
//!
//! The kernel holds it, in layers that each hold alone: limits of memory and processor time, no new rights, death with the
//! parent, no files (Landlock), and a list of the system calls that arithmetic and one open socket need (seccomp). Everything
//! else fails with `EPERM`. A process that is locked stays locked, and so does what it starts, though it can start nothing.
//!
//! [`check()`] tries at every start whether this is so.

#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod landlock;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(not(target_os = "linux"))]
mod elsewhere;

#[cfg(target_os = "linux")]
pub use check::check;
#[cfg(not(target_os = "linux"))]
pub use elsewhere::{check, evaluator_lock, lock_worker};

/// What a locked process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of address space.
    pub memory: u64,
    /// Seconds of processor time.
    pub seconds: u64,
}

/// What an evaluator, which is no program of ours, locks itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The filter of system calls, as the kernel's `sock_filter`s.
    pub filter: Vec<u8>,
    /// The `landlock_ruleset_attr` of a ruleset without rules; empty: the kernel has no Landlock.
    pub landlock: Vec<u8>,
}

/// Address space of a worker: the payload unpacked, the job's tensors, the answer.
pub const WORKER_BYTES: u64 = 4 << 30;

/// Address space of an evaluator, which holds no numbers.
pub const EVALUATOR_BYTES: u64 = 1 << 30;

/// Locks this process for a job of so many seconds of processor time. To be called by its first thread before there are others;
/// what comes after has only the files that are open now.
#[cfg(target_os = "linux")]
pub fn lock_worker(seconds: u64) -> std::io::Result<()> {
    limits::set(Bounds { memory: WORKER_BYTES, seconds })?;
    landlock::restrict()?;
    filter::install()
}

/// What an evaluator locks itself with.
#[cfg(target_os = "linux")]
pub fn evaluator_lock() -> std::io::Result<Lock> {
    Ok(Lock { filter: filter::bytes()?, landlock: landlock::attributes() })
}
