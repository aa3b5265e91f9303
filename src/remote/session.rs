//! Websockets of clients that wait for their jobs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::job::{Told, secret};
use crate::owner::Owner;

/// Websockets that are open, by their ids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<HashMap<String, Open>>>);

#[derive(Debug)]
struct Open {
    owner: Owner,
    sender: mpsc::UnboundedSender<Told>,
}

/// An open websocket; jobs that wait for it learn that it is gone when this is dropped.
#[derive(Debug)]
pub struct Session {
    /// What the client names it by.
    pub id: String,
    /// What is to be sent.
    pub told: mpsc::UnboundedReceiver<Told>,
    all: Sessions,
}

impl Sessions {
    /// A new websocket of an owner.
    pub fn open(&self, owner: &Owner) -> Session {
        let (sender, told) = mpsc::unbounded_channel();
        let id = secret();
        self.lock().insert(id.clone(), Open { owner: owner.clone(), sender });
        Session { id, told, all: self.clone() }
    }

    /// Where to tell what becomes of a job of an owner, if that websocket is open and its own.
    pub fn find(&self, id: &str, owner: &Owner) -> Option<mpsc::UnboundedSender<Told>> {
        self.lock().get(id).filter(|open| open.owner == *owner).map(|open| open.sender.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Whether no job waits for it, and nothing is left to be sent.
    pub fn is_idle(&self) -> bool {
        // Its own sender is among the open ones.
        self.told.sender_strong_count() <= 1 && self.told.is_empty()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}
