//! Private folders of a server: one for the socket, one in shared memory for captures too large for it.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::disk::open_private;

const PREFIX: &str = "mediant-engine-";
/// Held by the server that a folder belongs to, as long as it lives.
const LOCK: &str = "lock";
/// Memory in the guise of a file system.
const SHARED_MEMORY: &str = "/dev/shm";

/// A folder that only this user may enter, deleted when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    folder: TempDir,
    _lock: File,
}

impl Folder {
    /// A folder for sockets.
    pub(super) fn temporary() -> io::Result<Folder> {
        Self::within(&std::env::temp_dir())
    }

    /// A folder in shared memory, or else where temporary files lie.
    pub(super) fn in_memory() -> io::Result<Folder> {
        Self::within(Path::new(SHARED_MEMORY)).or_else(|_| Self::temporary())
    }

    fn within(base: &Path) -> io::Result<Folder> {
        sweep(base);
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let private = Permissions::from_mode(0o700);
        loop {
            let mut builder = tempfile::Builder::new();
            let folder = builder.prefix(&prefix).permissions(private.clone()).tempdir_in(base)?;
            let path = folder.path().join(LOCK);
            let lock = open_private(File::options().write(true).create_new(true), &path)?;
            lock.lock()?;
            // Another server may have taken it for a dead one's before it was locked.
            if path.exists() {
                return Ok(Folder { folder, _lock: lock });
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Deletes what is in it.
    pub(super) fn clear(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.path())? {
            let entry = entry?;
            if entry.file_name() != LOCK {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Deletes the folders of servers that were killed: their locks are free.
fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    let ours = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with(PREFIX));
    for folder in entries.flatten().filter(|entry| ours(&entry.file_name())).map(|entry| entry.path()) {
        let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
        if lock.try_lock().is_ok() && std::fs::remove_dir_all(&folder).is_ok() {
            tracing::info!(folder = %folder.display(), "deleted what a server left behind that was killed");
        }
    }
}

/// Where a batch's captures lie.
fn file_of(folder: &Path, id: u64) -> PathBuf {
    folder.join(id.to_string())
}

/// Puts captures into a file for the other side, and says what lies there.
pub(super) fn put(folder: &Path, id: u64, captures: &[(usize, Vec<f32>)]) -> io::Result<Vec<(usize, usize)>> {
    let path = file_of(folder, id);
    let write = || {
        let mut file = open_private(File::options().write(true).create_new(true), &path)?;
        captures.iter().try_for_each(|(_, numbers)| file.write_all(bytemuck::cast_slice(numbers)))
    };
    match write() {
        Ok(()) => Ok(captures.iter().map(|(capture, numbers)| (*capture, numbers.len())).collect()),
        Err(error) => {
            // Half a file would only take memory.
            let _ = std::fs::remove_file(&path);
            Err(error)
        }
    }
}

/// Takes out what was put in.
pub(super) fn take(folder: &Path, id: u64, lengths: &[(usize, usize)]) -> io::Result<Vec<(usize, Vec<f32>)>> {
    let path = file_of(folder, id);
    let mut file = File::open(&path)?;
    // Its memory is free as soon as it is read.
    std::fs::remove_file(&path)?;
    let mut left = file.metadata()?.len();
    let take = |&(capture, length): &(usize, usize)| {
        let bytes = 4 * length as u64;
        left = left.checked_sub(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut numbers = vec![0.0f32; length];
        file.read_exact(bytemuck::cast_slice_mut(&mut numbers))?;
        Ok((capture, numbers))
    };
    lengths.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_in(base: &Path) -> Folder {
        Folder::within(base).unwrap()
    }

    #[test]
    fn captures_come_back_with_their_bits_and_leave_nothing_behind() {
        let base = tempfile::tempdir().unwrap();
        let folder = folder_in(base.path());
        let captures = vec![(4, vec![1.5, -0.0]), (2, vec![]), (9, vec![f32::MIN_POSITIVE; 1000])];
        let lengths = put(folder.path(), 7, &captures).unwrap();
        assert_eq!(lengths, [(4, 2), (2, 0), (9, 1000)]);
        assert_eq!(take(folder.path(), 7, &lengths).unwrap(), captures);
        assert!(take(folder.path(), 7, &lengths).is_err());
        put(folder.path(), 8, &captures).unwrap();
        assert!(take(folder.path(), 8, &[(1, 1_000_000_000)]).is_err(), "more than there is");
        put(folder.path(), 9, &captures).unwrap();
        folder.clear().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the lock");
    }

    #[test]
    fn folders_are_private_and_those_of_the_dead_are_deleted_and_no_others() {
        use std::fs::DirBuilder;
        use std::os::unix::fs::DirBuilderExt;
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join(format!("{PREFIX}1-dead"));
        DirBuilder::new().mode(0o700).create(&dead).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        let foreign = base.path().join("something-else");
        DirBuilder::new().create(&foreign).unwrap();
        let living = folder_in(base.path());
        let second = folder_in(base.path());
        assert!(!dead.exists() && foreign.exists() && living.path().exists());
        assert_eq!(second.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists());
    }
}
