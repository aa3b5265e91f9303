//! For how long an engine has been busy, so that a request's wait for others can be told from the time that its own parts take,
//! that they are laid out, or that nothing is computed at all.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts the time that an engine computes, whoever it computes for.
#[derive(Debug, Default)]
pub(super) struct Busy(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of all that is over.
    total: Duration,
    /// When what is computed now was begun.
    since: Option<Instant>,
}

impl Busy {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time so far.
    pub(super) fn time(&self) -> Duration {
        let state = self.state();
        state.total + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Something is computed from now on. The time so far.
    pub(super) fn begin(&self) -> Duration {
        let mut state = self.state();
        state.since = Some(Instant::now());
        state.total
    }

    /// It is over, and took so long.
    pub(super) fn end(&self, took: Duration) {
        let mut state = self.state();
        state.since = None;
        state.total += took;
    }

    /// It came to nothing, and counts for nothing.
    pub(super) fn abandon(&self) {
        self.state().since = None;
    }
}
