//! Limits of a process, and its end with its parent's.

use super::Bounds;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use std::io;

/// Open files of a locked process.
const FILES: u64 = 16;

/// Sets them for good: the hard limits too.
///
/// There is none on the number of processes: the kernel counts it per user, and the server's own threads are that user's too.
/// The filter lets no process begin, and threads end at the limit of memory.
pub(super) fn set(bounds: Bounds) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for (resource, most) in [
        (Resource::As, bounds.memory),
        (Resource::Cpu, bounds.seconds),
        (Resource::Nofile, FILES),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
    ] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}
