//! Where there is no such lock: nothing of a client is read there.

use super::Lock;
use crate::message::CheckReport;
use std::io;
use std::path::Path;

const REASON: &str = "remote=True needs Linux, whose kernel locks the processes that read a client's code";

/// Refuses.
pub fn lock_worker(_seconds: u64) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, REASON))
}

/// Refuses.
pub fn evaluator_lock() -> io::Result<Lock> {
    Err(io::Error::new(io::ErrorKind::Unsupported, REASON))
}

/// Says that there is none.
pub fn check(_python: &Path) -> CheckReport {
    CheckReport { ok: false, reason: Some(REASON.to_owned()), lacks: Vec::new() }
}
