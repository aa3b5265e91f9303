//! A bound on the time of a rendering. Fuel counts instructions, and one instruction can take long; so renderings are done on a thread
//! that nobody has to wait for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Stack of the thread: macros may be nested deeply.
const STACK: usize = 8 << 20;
/// Renderings that went over their time and still run, at most: a further one is not begun.
const MOST_STRAYS: usize = 4;

/// Renderings that went over their time and still run.
#[derive(Debug, Clone, Default)]
pub(super) struct Strays(Arc<AtomicUsize>);

/// A rendering on its way.
enum State<T> {
    Running,
    Done(T),
    /// Nobody waits any more.
    Abandoned,
}

impl Strays {
    /// What `f` gives, if it does so in time.
    pub(super) fn within<T: Send + 'static>(
        &self,
        time: Duration,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.0.load(Ordering::Relaxed) >= MOST_STRAYS {
            return None;
        }
        let shared = Arc::new((Mutex::new(State::Running), Condvar::new()));
        let (theirs, strays) = (Arc::clone(&shared), Arc::clone(&self.0));
        let run = move || {
            let done = f();
            let mut state = theirs.0.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*state, State::Abandoned) {
                strays.fetch_sub(1, Ordering::Relaxed);
            } else {
                *state = State::Done(done);
                theirs.1.notify_one();
            }
        };
        std::thread::Builder::new().name("template".into()).stack_size(STACK).spawn(run).ok()?;
        let (state, change) = &*shared;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = change.wait_timeout_while(state, time, |state| matches!(state, State::Running));
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Abandoned) {
            State::Done(done) => Some(done),
            State::Running | State::Abandoned => {
                self.0.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_takes_too_long_is_not_waited_for_and_few_such_run_at_once() {
        let strays = Strays::default();
        assert_eq!(strays.within(Duration::from_mins(1), || 7), Some(7));
        let ends: Vec<mpsc::Sender<()>> = (0..MOST_STRAYS)
            .map(|_| {
                let (end, wait) = mpsc::channel();
                let long = move || {
                    let _ = wait.recv();
                };
                assert_eq!(strays.within(Duration::from_millis(1), long), None);
                end
            })
            .collect();
        assert_eq!(strays.within(Duration::from_mins(1), || 7), None, "enough of them run");
        drop(ends);
        while strays.0.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(strays.within(Duration::from_mins(1), || 7), Some(7));
    }
}
