//! Who ends engine processes when their server ends.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::StartError;

/// Held by whoever runs the server, outside of what may still be loading when it ends: [`Keeper::stop`] leaves neither a
/// process nor a folder behind.
#[derive(Debug, Clone, Default)]
pub struct Keeper(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    stopped: bool,
    supervisors: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Keeper {
    /// Starts a supervisor, which ends when what it is given is dropped.
    pub(super) fn keep(
        &self,
        spawn: impl FnOnce(oneshot::Receiver<()>) -> io::Result<JoinHandle<()>>,
    ) -> Result<(), StartError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.stopped {
            return Err(StartError::Stopping);
        }
        let (stop, stopped) = oneshot::channel();
        kept.supervisors.push((stop, spawn(stopped)?));
        Ok(())
    }

    /// Ends every engine process and waits until it is gone. None is started afterwards.
    pub fn stop(&self) {
        let supervisors = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.stopped = true;
            std::mem::take(&mut kept.supervisors)
        };
        for (stop, supervisor) in supervisors {
            drop(stop);
            if supervisor.join().is_err() {
                tracing::error!("the engine's supervisor panicked");
            }
        }
    }
}
