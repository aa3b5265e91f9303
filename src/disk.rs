//! Files and folders that only this user may read, and what can be noticed of a disk: that a file is no longer the one that
//! was opened under its name, and that there is no room.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;
const PERMISSIONS: u32 = 0o777;
/// Everybody may write into such a folder: it is not ours to close.
const STICKY: u32 = 0o1000;

/// Opens a file as `options` say; if it is made, for this user only, whatever the umask. One that others may read is closed
/// to them.
pub fn open_private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.mode(PRIVATE_FILE).open(path)?;
    if mode(&file.metadata()?) != PRIVATE_FILE
        && let Err(error) = file.set_permissions(Permissions::from_mode(PRIVATE_FILE))
    {
        tracing::warn!(path = %path.display(), %error, "a file may be read by others");
    }
    Ok(file)
}

/// Closes a file to others, if it is there. It is not opened: that would end the locks that SQLite has on it.
pub fn close_to_others(path: &Path) {
    let Ok(meta) = fs::metadata(path) else { return };
    if meta.is_file()
        && mode(&meta) & !PRIVATE_FILE != 0
        && let Err(error) = fs::set_permissions(path, Permissions::from_mode(PRIVATE_FILE))
    {
        tracing::warn!(path = %path.display(), %error, "a file may be read by others");
    }
}

/// Makes a folder, and those above it that are missing, for this user only. One that others may enter is closed to them if
/// nothing but ours is in it.
pub fn private_folder(path: &Path, is_ours: impl Fn(&OsStr) -> bool) -> io::Result<()> {
    let made = !path.is_dir();
    DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(path)?;
    let meta = fs::metadata(path)?;
    if mode(&meta) == PRIVATE_FOLDER || (!made && mode(&meta) & !PRIVATE_FOLDER == 0) {
        return Ok(());
    }
    // Where a file system of its own is mounted, this is in it.
    let is_ours = |name: &OsStr| name == "lost+found" || is_ours(name);
    let all_ours =
        || Ok::<_, io::Error>(fs::read_dir(path)?.flatten().all(|entry| is_ours(&entry.file_name())));
    let closed = if made || (meta.mode() & STICKY == 0 && all_ours()?) {
        fs::set_permissions(path, Permissions::from_mode(PRIVATE_FOLDER))
    } else {
        Err(io::Error::other("it is shared with other programs"))
    };
    if let Err(error) = closed {
        tracing::warn!(path = %path.display(), "others may see what a folder holds, though not read it: {error}");
    }
    Ok(())
}

fn mode(meta: &Metadata) -> u32 {
    meta.mode() & PERMISSIONS
}

/// A file or folder together with the path it had when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    path: PathBuf,
    /// Device and inode.
    is: (u64, u64),
}

/// A path that leads to something else than before, or to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} {}; put it back, or restart the server to work with what is there now",
    path.display(),
    if *gone { "is gone" } else { "is no longer the one that this server opened" }
)]
pub struct Displaced {
    /// The path.
    pub path: PathBuf,
    /// Whether there is nothing any more.
    pub gone: bool,
}

impl Anchor {
    /// What a path leads to.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), is: identity(&fs::metadata(path)?) })
    }

    /// What was opened under a path, whatever is there by now.
    pub fn opened(path: &Path, file: &File) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), is: identity(&file.metadata()?) })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses if the path leads to something else by now.
    pub fn holds(&self) -> Result<(), Displaced> {
        match fs::metadata(&self.path) {
            Ok(meta) if identity(&meta) == self.is => Ok(()),
            found => Err(Displaced {
                path: self.path.clone(),
                gone: found.is_err_and(|error| {
                    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                }),
            }),
        }
    }
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Room that is enough, however much was asked for when there was none.
const PLENTY: u64 = 64 << 20;
/// Otherwise so much must have been freed.
const FREED: u64 = 1 << 20;

/// A disk on which something found no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullDisk {
    folder: PathBuf,
    /// Bytes that were free all the same: what failed needed more.
    left: u64,
}

impl FullDisk {
    /// The disk of a folder, as it is now.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), left: free(folder).unwrap_or(0) }
    }

    /// Whether there is room again. Where that cannot be asked, trying shows it.
    pub fn is_over(&self) -> bool {
        free(&self.folder).is_none_or(|free| free >= PLENTY || free >= self.left.saturating_add(FREED))
    }
}

/// Bytes that this user may still write to the disk of a folder, or of what is above it.
fn free(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|path| path.is_dir())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &Path) -> u32 {
        mode(&fs::metadata(path).unwrap())
    }

    #[test]
    fn what_is_made_is_private_and_what_was_open_is_closed() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("a/b");
        private_folder(&folder, |_| true).unwrap();
        assert_eq!([of(&folder), of(&base.path().join("a"))], [PRIVATE_FOLDER; 2]);
        let path = folder.join("file");
        open_private(File::options().write(true).create(true).truncate(false), &path).unwrap();
        assert_eq!(of(&path), PRIVATE_FILE);
        for open in [0o644, 0o666, 0o640] {
            fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
            close_to_others(&path);
            assert_eq!(of(&path), PRIVATE_FILE);
            fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
            open_private(File::options().write(true).create(true).truncate(false), &path).unwrap();
            assert_eq!(of(&path), PRIVATE_FILE);
        }
        close_to_others(&folder.join("absent"));
    }

    #[test]
    fn a_folder_that_others_use_too_is_left_as_it_is() {
        let base = tempfile::tempdir().unwrap();
        let shared = |mode| fs::set_permissions(base.path(), Permissions::from_mode(mode)).unwrap();
        let ours = |name: &OsStr| name == "mediant.lock";
        fs::write(base.path().join("mediant.lock"), "").unwrap();
        shared(0o755);
        private_folder(base.path(), ours).unwrap();
        assert_eq!(of(base.path()), PRIVATE_FOLDER);
        shared(0o1777);
        private_folder(base.path(), ours).unwrap();
        assert_eq!(of(base.path()), 0o777, "a folder for temporary files");
        shared(0o755);
        fs::write(base.path().join("thesis.tex"), "").unwrap();
        private_folder(base.path(), ours).unwrap();
        assert_eq!(of(base.path()), 0o755);
    }

    #[test]
    fn a_file_that_was_removed_or_replaced_is_noticed_and_one_that_came_back_too() {
        let base = tempfile::tempdir().unwrap();
        let (path, aside) = (base.path().join("file"), base.path().join("aside"));
        fs::write(&path, "a").unwrap();
        let anchor = Anchor::of(&path).unwrap();
        assert_eq!(Anchor::opened(&path, &File::open(&path).unwrap()).unwrap(), anchor);
        assert_eq!(anchor.holds(), Ok(()));
        fs::rename(&path, &aside).unwrap();
        assert_eq!(anchor.holds(), Err(Displaced { path: path.clone(), gone: true }));
        fs::write(&path, "a").unwrap();
        let replaced = anchor.holds().unwrap_err();
        assert!(!replaced.gone && replaced.to_string().contains("no longer the one"), "{replaced}");
        fs::rename(&aside, &path).unwrap();
        assert_eq!(anchor.holds(), Ok(()));
    }

    #[test]
    fn a_disk_is_full_until_something_was_freed() {
        let base = tempfile::tempdir().unwrap();
        let Some(free) = free(base.path()) else { panic!("no disk") };
        let now = FullDisk::of(&base.path().join("not/there/yet"));
        assert_eq!(now.is_over(), free >= PLENTY);
        let full = FullDisk { folder: base.path().to_owned(), left: u64::MAX };
        assert_eq!(full.is_over(), free >= PLENTY);
    }
}
