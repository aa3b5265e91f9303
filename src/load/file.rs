//! Files of a model: opened only if they are files, read only where they are asked for, and never mapped.
//!
//! A map of a file that somebody cuts short ends the process that reads it; so does a failing disk. Read, both are errors. A
//! named pipe, a device or a folder where a file should be would let a start wait for ever or read without an end.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;
use rustix::fs::OFlags;

use super::LoadError;

/// Bytes that one thread reads at once of a large part.
const PART: usize = 8 << 20;

/// A file that is open. Another one that takes its name later is not read.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    changed: Option<SystemTime>,
}

/// Whether a name is taken in a folder, by whatever it is.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// All of a file that has at most `most` bytes.
pub(super) fn read_whole(path: &Path, most: u64) -> Result<Vec<u8>, LoadError> {
    let file = OpenFile::open(path)?;
    if file.bytes > most {
        return Err(LoadError::TooLarge { path: path.to_owned(), bytes: file.bytes, most });
    }
    let mut bytes = vec![0; file.bytes as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

impl OpenFile {
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        // Without waiting: to open a pipe that nobody writes to would never end.
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(path).map_err(LoadError::io("open", path))?;
        let about = file.metadata().map_err(LoadError::io("read", path))?;
        let kind = about.file_type();
        if !kind.is_file() {
            let kind = match kind {
                kind if kind.is_dir() => "a folder",
                kind if kind.is_fifo() => "a named pipe",
                kind if kind.is_char_device() || kind.is_block_device() => "a device",
                _ => "no file",
            };
            return Err(LoadError::NotAFile { path: path.to_owned(), kind });
        }
        Ok(Self { file, path: path.to_owned(), bytes: about.len(), changed: about.modified().ok() })
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it was found.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `out` with what stands from `offset` on.
    ///
    /// # Errors
    /// It cannot be read, or is no longer the file that was opened: then what is read is another model's.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), LoadError> {
        let about = self.file.metadata().map_err(LoadError::io("read", &self.path))?;
        if about.len() != self.bytes || about.modified().ok() != self.changed {
            let (path, was, now) = (self.path.clone(), self.bytes, about.len());
            return Err(LoadError::Changed { path, was, now });
        }
        let parts = out.par_chunks_mut(PART).enumerate();
        let read = parts.try_for_each(|(i, part)| self.file.read_exact_at(part, offset + (i * PART) as u64));
        read.map_err(LoadError::io("read", &self.path))
    }

    /// The file from its start, as if it had at most `most` bytes.
    pub(super) fn reader(&self, most: u64) -> Reader<'_> {
        Reader { file: self, at: 0, end: self.bytes.min(most) }
    }
}

/// Reads an [`OpenFile`] from a place of its own.
#[derive(Debug)]
pub(super) struct Reader<'f> {
    file: &'f OpenFile,
    at: u64,
    end: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let wanted = out.len().min(self.end.saturating_sub(self.at) as usize);
        self.file.read_at(self.at, &mut out[..wanted]).map_err(std::io::Error::other)?;
        self.at += wanted as u64;
        Ok(wanted)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_at_once_and_by_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| OpenFile::open(path).unwrap_err().to_string();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(refused(&pipe).ends_with("pipe is a named pipe, not a file"), "{}", refused(&pipe));
        assert!(refused(dir.path()).contains("is a folder, not a file"));
        assert!(refused(Path::new("/dev/zero")).contains("is a device, not a file"));
        assert!(refused(&dir.path().join("none")).starts_with("cannot open"));
    }

    #[test]
    fn a_file_that_is_cut_short_or_written_to_is_an_error_and_one_that_is_replaced_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        std::fs::write(&path, [7; 1000]).unwrap();
        let file = OpenFile::open(&path).unwrap();
        let read = || {
            let mut bytes = [0; 10];
            file.read_at(500, &mut bytes).map(|()| bytes)
        };
        assert_eq!(read().unwrap(), [7; 10]);
        let other = dir.path().join("other");
        std::fs::write(&other, [8; 1000]).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(read().unwrap(), [7; 10]);
        File::options().write(true).open(dir.path().join("old")).unwrap().set_len(100).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains("changed since it was opened: it had 1000 bytes and has 100"), "{error}");
    }

    #[test]
    fn a_file_larger_than_it_can_sensibly_be_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read_whole(&path, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("has 1099511627776 bytes"), "{error}");
    }
}
