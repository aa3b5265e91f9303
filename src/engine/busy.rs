//! What an engine has done: for how long it has been busy, so that a request's wait for others can be told from the time that
//! its own parts take, that they are laid out, or that nothing is computed at all; and how much it has computed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an engine has done since the server started.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Activity {
    /// Requests that are computed now or wait.
    pub requests: u64,
    /// Forward batches computed.
    pub batches: u64,
    /// Rows of them times the layers each went through.
    pub row_layers: u64,
    /// The time that they took.
    pub busy: Duration,
    /// Processes started after the first.
    pub restarts: u64,
}

/// Counts the time that an engine computes, whoever it computes for, and what it computes.
#[derive(Debug, Default)]
pub(super) struct Busy(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of all that is over.
    total: Duration,
    batches: u64,
    row_layers: u64,
    restarts: u64,
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
    pub(super) fn end(&self, took: Duration, row_layers: u64) {
        let mut state = self.state();
        state.since = None;
        state.total += took;
        state.batches += 1;
        state.row_layers += row_layers;
    }

    /// Another process computes from now on.
    pub(super) fn restarted(&self) {
        self.state().restarts += 1;
    }

    /// Everything so far.
    pub(super) fn activity(&self) -> Activity {
        let (busy, state) = (self.time(), self.state());
        let State { batches, row_layers, restarts, .. } = *state;
        Activity { requests: 0, batches, row_layers, busy, restarts }
    }

    /// It came to nothing, and counts for nothing.
    pub(super) fn abandon(&self) {
        self.state().since = None;
    }
}
