//! The store: a folder of files and an index of them in memory.
//!
//! The files are the truth; the index is rebuilt from them at start, and a file that another process wrote since is found
//! when it is asked for. Nothing is written before its space is admitted, and a file gets its final name only when all
//! of it is on the disk, so that a crash or a full disk loses nothing but the set being written.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::time::Duration;

use super::block::{Activation, ActivationId, Draft};
use super::file::{self, ActivationSet};
use super::{Quota, StoreError, Timestamp, Usage};
use crate::disk::{Anchor, FullDisk, close_to_others, open_private, private_folder};

const SUFFIX: &str = "safetensors";
const PARTIAL: &str = "partial";
/// Expired sets that are remembered, so that they are answered as gone rather than as unknown.
const REMEMBERED: usize = 10_000;

/// What time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Stored sets of activations.
pub struct Store {
    folder: PathBuf,
    quota: Quota,
    clock: Clock,
    index: Mutex<Index>,
    /// The folder, once it is there.
    anchor: OnceLock<Anchor>,
    /// The disk, if it was full when something was last stored.
    full: Mutex<Option<FullDisk>>,
    /// Dropped with the store, which ends the janitor's thread.
    janitor: OnceLock<mpsc::Sender<()>>,
}

#[derive(Default)]
struct Index {
    sets: BTreeMap<ActivationId, Entry>,
    /// Expired ones: owner and time.
    gone: BTreeMap<ActivationId, (String, Timestamp)>,
    /// Bytes promised, by owner.
    promised: BTreeMap<String, u64>,
}

#[derive(Clone)]
struct Entry {
    meta: Arc<Activation>,
    /// Bytes of the file.
    length: u64,
    data_at: u64,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Sets, oldest first.
    pub sets: Vec<Arc<Activation>>,
    /// The last of them, if more follow.
    pub next: Option<ActivationId>,
}

/// Space promised to an owner; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    store: Arc<Store>,
    owner: String,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut index = self.store.index();
        if let Some(promised) = index.promised.get_mut(&self.owner) {
            *promised = promised.saturating_sub(self.bytes);
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("folder", &self.folder)
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Reads the folder, which need not exist: it is made when something is stored. What a crash left half written is
    /// removed; files that are no sets of activations are left alone, with a warning.
    pub fn open(folder: &Path, quota: Quota, clock: Clock) -> Result<Arc<Self>, StoreError> {
        let store = Self {
            folder: folder.to_owned(),
            quota,
            clock,
            index: Mutex::default(),
            anchor: OnceLock::new(),
            full: Mutex::default(),
            janitor: OnceLock::new(),
        };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Arc::new(store)),
            Err(error) => return Err(StoreError::io("read the folder", folder, error)),
        };
        store.make_folder()?;
        for entry in entries {
            let path = entry.map_err(|error| StoreError::io("read the folder", folder, error))?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(PARTIAL) => remove_leftover(&path),
                Some(SUFFIX) => {
                    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                    if let Ok(id) = stem.parse() {
                        close_to_others(&path);
                        store.adopt(&id);
                    }
                }
                _ => {}
            }
        }
        store.sweep();
        let unverified = store.index().sets.values().filter(|entry| !entry.meta.verified).count();
        if unverified > 0 {
            tracing::warn!(
                "{unverified} sets of activations were stored by an earlier version, without checksums; until they expire \
                 they are read unverified"
            );
        }
        Ok(Arc::new(store))
    }

    /// Limits.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Promises an owner space that the request in hand is going to need, or refuses.
    pub fn reserve(self: &Arc<Self>, owner: &str, bytes: u64) -> Result<Reservation, StoreError> {
        let mut index = self.index();
        let (own, all) = index.used(owner);
        self.quota.admit(bytes, own, all)?;
        *index.promised.entry(owner.to_owned()).or_default() += bytes;
        drop(index);
        Ok(Reservation { store: Arc::clone(self), owner: owner.to_owned(), bytes })
    }

    /// Stores a set; its space is taken out of `within` as far as that reaches.
    ///
    /// # Panics
    /// On a bug only: the lists and the shape of a draft agree.
    pub fn put(
        self: &Arc<Self>,
        owner: &str,
        draft: &Draft,
        within: Option<&mut Reservation>,
    ) -> Result<Arc<Activation>, StoreError> {
        let created = (self.clock)();
        let meta = draft.described(owner, created, created.plus_seconds(self.quota.ttl(draft.ttl_s)));
        assert!(meta.is_consistent(), "BUG: drafts have been checked");
        let header = file::header(&meta);
        let length = file::length(&header, &meta);
        let promised = self.claim(owner, length, within)?;
        let path = self.path(&meta.id);
        let partial = path.with_extension(PARTIAL);
        if let Err(error) = self.write(&partial, &path, &header, draft) {
            if matches!(error, StoreError::DiskFull) {
                *self.full() = Some(FullDisk::of(&self.folder));
            }
            match fs::remove_file(&partial) {
                Err(left)
                    if left.kind() != ErrorKind::NotFound && left.kind() != ErrorKind::NotADirectory =>
                {
                    tracing::warn!(error = %left, "cannot remove a half-written file of activations");
                }
                _ => {}
            }
            return Err(error);
        }
        let meta = Arc::new(meta);
        let entry = Entry { meta: Arc::clone(&meta), length, data_at: header.len() as u64 };
        self.index().sets.insert(meta.id.clone(), entry);
        drop(promised);
        Ok(meta)
    }

    /// A promise of exactly `length` bytes, of which `within` gives what it has.
    fn claim(
        self: &Arc<Self>,
        owner: &str,
        length: u64,
        within: Option<&mut Reservation>,
    ) -> Result<Reservation, StoreError> {
        let mut index = self.index();
        let credit = within.as_ref().map_or(0, |reservation| reservation.bytes.min(length));
        let (own, all) = index.used(owner);
        self.quota.admit(length - credit, own, all)?;
        *index.promised.entry(owner.to_owned()).or_default() += length - credit;
        if let Some(reservation) = within {
            reservation.bytes -= credit;
        }
        drop(index);
        Ok(Reservation { store: Arc::clone(self), owner: owner.to_owned(), bytes: length })
    }

    fn write(&self, partial: &Path, path: &Path, header: &[u8], draft: &Draft) -> Result<(), StoreError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |error| StoreError::io(doing, &path, error)
        };
        self.make_folder()?;
        let mut file = open_private(File::options().write(true).create_new(true), partial)
            .map_err(failed("make", partial))?;
        // Tells other processes that somebody is still writing; not every file system has locks.
        if let Err(error) = file.lock() {
            tracing::debug!(%error, "the folder of activations has no locks");
        }
        file::write(&mut file, header, draft).map_err(failed("write", partial))?;
        file.sync_all().map_err(failed("write", partial))?;
        fs::rename(partial, path).map_err(failed("rename", partial))?;
        // The name is on the disk when the folder is.
        let folder = File::open(&self.folder).and_then(|folder| folder.sync_all());
        if let Err(error) = folder {
            tracing::debug!(%error, "the folder of activations cannot be synced");
        }
        // What lies elsewhere by now is not found again.
        self.in_place()
    }

    /// Makes the folder the first time. Later it must be the one that it was.
    fn make_folder(&self) -> Result<(), StoreError> {
        if self.anchor.get().is_none() {
            let failed = |error| StoreError::io("make the folder", &self.folder, error);
            private_folder(&self.folder, is_ours).map_err(failed)?;
            let _ = self.anchor.set(Anchor::of(&self.folder).map_err(failed)?);
        }
        self.in_place()
    }

    fn in_place(&self) -> Result<(), StoreError> {
        self.anchor.get().map_or(Ok(()), Anchor::holds).map_err(StoreError::Displaced)
    }

    /// Why nothing can be stored at present, if that is known: the folder is another, or the disk was full and still is.
    pub fn trouble(&self) -> Option<StoreError> {
        if let Err(displaced) = self.in_place() {
            return Some(displaced);
        }
        let mut full = self.full();
        if full.as_ref().is_some_and(FullDisk::is_over) {
            *full = None;
        }
        full.is_some().then_some(StoreError::DiskFull)
    }

    fn full(&self) -> MutexGuard<'_, Option<FullDisk>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A set by its id, if `owner` may use it.
    pub fn find(&self, owner: &str, id: &str) -> Result<ActivationSet, StoreError> {
        let unknown = || StoreError::Unknown { id: id.to_owned() };
        let parsed: ActivationId = id.parse().map_err(|()| unknown())?;
        let known = self.index().known(&parsed);
        if known {
            self.forget_if_absent(&parsed);
        } else {
            self.adopt(&parsed);
        }
        self.expire(&parsed);
        let index = self.index();
        if let Some((_, at)) = index.gone.get(&parsed).filter(|(whose, _)| whose == owner) {
            return Err(StoreError::Expired { id: id.to_owned(), at: *at });
        }
        let entry = index.sets.get(&parsed).filter(|entry| entry.meta.owner == owner).ok_or_else(unknown)?;
        Ok(ActivationSet { meta: Arc::clone(&entry.meta), path: self.path(&parsed), data_at: entry.data_at })
    }

    /// Sets of an owner, those after `after` only, at most `limit`.
    pub fn list(&self, owner: &str, after: Option<&ActivationId>, limit: usize) -> Page {
        let now = (self.clock)();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let index = self.index();
        let own = index.sets.range::<ActivationId, _>((start, Bound::Unbounded));
        let mut own = own.filter(|(_, e)| e.meta.owner == owner && e.meta.expires > now);
        let sets: Vec<_> = own.by_ref().take(limit).map(|(_, entry)| Arc::clone(&entry.meta)).collect();
        let next = own.next().and(sets.last()).map(|last| last.id.clone());
        Page { sets, next }
    }

    /// What an owner holds.
    pub fn usage(&self, owner: &str) -> Usage {
        let (own, _) = self.index().used(owner);
        Usage { used_bytes: own, limit_bytes: self.quota.owner_bytes }
    }

    /// What all owners hold.
    pub fn used_bytes(&self) -> u64 {
        self.index().used("").1
    }

    /// Deletes a set. Who has it open reads it to its end.
    pub fn delete(&self, owner: &str, id: &str) -> Result<(), StoreError> {
        let set = self.find(owner, id)?;
        // The file system decides who deletes it if several try. The file goes first: what is not in the index is looked
        // for in the folder.
        let removed = fs::remove_file(&set.path);
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io("delete", &set.path, error));
            }
            _ => self.index().sets.remove(&set.meta.id),
        };
        removed.map_err(|_| StoreError::Unknown { id: id.to_owned() })
    }

    /// Deletes what has expired; gives how many.
    pub fn sweep(&self) -> usize {
        let now = (self.clock)();
        let expired: Vec<ActivationId> = {
            let index = self.index();
            index.sets.values().filter(|e| e.meta.expires <= now).map(|e| e.meta.id.clone()).collect()
        };
        expired.iter().filter(|id| self.expire(id)).count()
    }

    /// Takes a set out if its time has come.
    fn expire(&self, id: &ActivationId) -> bool {
        let now = (self.clock)();
        let mut index = self.index();
        if index.sets.get(id).is_none_or(|entry| entry.meta.expires > now) {
            return false;
        }
        let Some(entry) = index.sets.remove(id) else { return false };
        index.gone.insert(id.clone(), (entry.meta.owner.clone(), entry.meta.expires));
        if index.gone.len() > REMEMBERED {
            index.gone.pop_first();
        }
        drop(index);
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, %id, "cannot delete expired activations");
            }
            _ => {}
        }
        true
    }

    /// Takes a file into the index that is in the folder only.
    fn adopt(&self, id: &ActivationId) {
        let path = self.path(id);
        match file::read_header(&path) {
            Ok((meta, length, data_at)) if meta.id == *id => {
                let entry = Entry { meta: Arc::new(meta), length, data_at };
                self.index().sets.entry(id.clone()).or_insert(entry);
                // It may have been deleted since it was read.
                self.forget_if_absent(id);
            }
            Ok(_) => tracing::warn!(path = %path.display(), "a file of activations bears another's name"),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read a file of activations; it is ignored");
            }
        }
    }

    /// Takes a set out of the index whose file is not there any more: somebody else deleted it.
    fn forget_if_absent(&self, id: &ActivationId) {
        if matches!(fs::exists(self.path(id)), Ok(false)) {
            self.index().sets.remove(id);
        }
    }

    fn path(&self, id: &ActivationId) -> PathBuf {
        self.folder.join(format!("{id}.{SUFFIX}"))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Every change of the index is one step: a thread that failed beside it left nothing half done.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn known(&self, id: &ActivationId) -> bool {
        self.sets.contains_key(id) || self.gone.contains_key(id)
    }

    /// Bytes in use or promised: of the owner, of all.
    fn used(&self, owner: &str) -> (u64, u64) {
        let mut own = self.promised.get(owner).copied().unwrap_or_default();
        let mut all: u64 = self.promised.values().sum();
        for entry in self.sets.values() {
            all += entry.length;
            if entry.meta.owner == owner {
                own += entry.length;
            }
        }
        (own, all)
    }
}

/// Whether a name in the folder is of this program.
fn is_ours(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"act_")
}

/// Removes what a crashed process was writing. What a living one writes is locked.
fn remove_leftover(path: &Path) {
    if !fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        return;
    }
    let Ok(file) = File::open(path) else { return };
    if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
        return;
    }
    match fs::remove_file(path) {
        Ok(()) => tracing::info!(path = %path.display(), "removed a half-written file of activations"),
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove a half-written file"),
    }
}

/// Starts the janitor: a thread that deletes what has expired, every so often, until the store is dropped.
pub fn watch(store: &Arc<Store>, every: Duration) -> std::io::Result<()> {
    let (alive, ended) = mpsc::channel();
    let watched: Weak<Store> = Arc::downgrade(store);
    let work = move || {
        while ended.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
            let Some(store) = watched.upgrade() else { return };
            let n = store.sweep();
            if n > 0 {
                tracing::info!(sets = n, "deleted {n} expired sets of activations");
            }
        }
    };
    std::thread::Builder::new().name("janitor".to_owned()).spawn(work)?;
    // A second janitor of one store ends at once, since its sender is dropped here.
    if store.janitor.set(alive).is_err() {
        tracing::debug!("the store has a janitor already");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
