//! Answers that are kept for a while, so that their other forms need no computation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use crate::config;
use crate::owner::Owner;
use crate::result::render::Rendered;

/// The largest result, as a part of all.
const LARGEST: u64 = 4;

/// The results of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Results {
    pub(super) settings: config::Results,
    kept: Arc<Mutex<Cache<String, Kept, ByBytes>>>,
}

#[derive(Debug, Clone)]
struct Kept {
    owner: Owner,
    at: Instant,
    bytes: u64,
    result: Arc<dyn Rendered + Send + Sync>,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<String, Kept> for ByBytes {
    fn weight(&self, _: &String, kept: &Kept) -> u64 {
        kept.bytes
    }
}

impl Results {
    /// None yet.
    pub fn new(settings: config::Results) -> Self {
        let cache = Cache::with_weighter(1024, settings.bytes, ByBytes);
        Self { settings, kept: Arc::new(Mutex::new(cache)) }
    }

    fn kept(&self) -> MutexGuard<'_, Cache<String, Kept, ByBytes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a result of an owner, if it is not too large: `bytes` is how much it is as JSON.
    pub(super) fn keep(&self, owner: &Owner, result: Arc<dyn Rendered + Send + Sync>, bytes: usize) {
        let bytes = (bytes as u64).max(1);
        if bytes <= self.settings.bytes / LARGEST {
            let id = result.id().to_owned();
            self.kept().insert(id, Kept { owner: owner.clone(), at: Instant::now(), bytes, result });
        }
    }

    /// An owner's result. Of others' there is nothing to be known.
    pub(super) fn find(&self, owner: &Owner, id: &str) -> Option<Arc<dyn Rendered + Send + Sync>> {
        let mut kept = self.kept();
        let found = kept.get(id)?;
        if found.at.elapsed() > Duration::from_secs_f64(self.settings.keep_s) {
            kept.remove(id);
            return None;
        }
        (found.owner == *owner).then(|| Arc::clone(&found.result))
    }
}
