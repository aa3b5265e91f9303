//! The lock of the data folder: of two servers one is refused, at once and before it reads the database.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use crate::disk::{Anchor, open_private};

/// Name of the file that says who has the folder.
pub(super) const LOCK: &str = "mediant.lock";

/// Held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) struct FolderLock {
    /// The folder itself: unlike the file in it, it cannot be deleted from under a server whose database stays.
    folder: File,
    /// For file systems that cannot lock folders, and to say who has it.
    file: File,
    /// Whether a server has had the folder before.
    pub(super) was_used: bool,
    /// What both were when they were locked.
    pub(super) anchors: [Anchor; 2],
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Not by closing: a child that another thread is just starting has the files open too, until it runs its program.
        self.file.unlock().ok();
        self.folder.unlock().ok();
    }
}

impl FolderLock {
    /// Takes the lock, or says who has it.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let name = path.join(LOCK);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| StoreError::file("lock it", &path, &error)
        };
        let held = || StoreError::HeldByOther { folder: path.to_owned(), pid: holder(&name) };
        let folder = File::open(path).map_err(failed(path))?;
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held()),
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "the data folder itself cannot be locked");
            }
        }
        // Not truncated: it may be another's.
        let mut file =
            open_private(File::options().read(true).write(true).create(true).truncate(false), &name)
                .map_err(failed(&name))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held()),
            Err(TryLockError::Error(error)) => return Err(failed(&name)(error)),
        }
        let was_used = file.metadata().map_err(failed(&name))?.len() > 0;
        file.set_len(0).map_err(failed(&name))?;
        file.seek(SeekFrom::Start(0)).map_err(failed(&name))?;
        writeln!(file, "{}", std::process::id()).map_err(failed(&name))?;
        let anchors = [
            Anchor::opened(path, &folder).map_err(failed(path))?,
            Anchor::opened(&name, &file).map_err(failed(&name))?,
        ];
        Ok(Self { folder, file, was_used, anchors })
    }
}

/// The process that wrote its number into the file; one that has just taken the lock is about to.
fn holder(file: &PathBuf) -> Option<u32> {
    for _ in 0..10 {
        let mut text = String::new();
        if let Ok(mut file) = File::open(file) {
            file.read_to_string(&mut text).ok()?;
        }
        if let Ok(pid) = text.trim().parse() {
            return Some(pid);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    None
}
