//! SHA-256 of files, remembered.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::LoadError;
use super::file::OpenFile;

/// Hexadecimal digits of a digest.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("BUG: writing to a string cannot fail");
        out
    })
}

/// SHA-256 of bytes in memory.
pub(super) fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, streamed.
pub(super) fn of_file(path: &Path) -> Result<String, LoadError> {
    let file = OpenFile::open(path)?;
    let mut file = file.reader(u64::MAX);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(LoadError::io("read", path))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// One digest for a checkpoint's weight files: the file's own if there is one, else that of the list `sha256sum` prints for them
/// (names without folders, sorted).
pub(super) fn of_weights(files: &[PathBuf], cache_dir: &Path) -> Result<String, LoadError> {
    let digests = files.par_iter().map(|file| remembered(file, cache_dir)).collect::<Result<Vec<_>, _>>()?;
    if let [one] = &digests[..] {
        return Ok(one.clone());
    }
    let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut list: Vec<_> = files.iter().map(name).zip(digests).collect();
    list.sort();
    let lines = list.iter().flat_map(|(name, digest)| [digest, "  ", name, "\n"]);
    Ok(of_bytes(lines.collect::<String>().as_bytes()))
}

/// [`of_file`], taken from the cache if the file has the path, size and time of change it had then.
/// A cache that cannot be written costs only time.
pub(super) fn remembered(path: &Path, cache_dir: &Path) -> Result<String, LoadError> {
    let path = path.canonicalize().map_err(LoadError::io("open", path))?;
    let meta = path.metadata().map_err(LoadError::io("read", &path))?;
    let changed = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    let Some(changed) = changed else { return of_file(&path) };
    let key = format!("{}\n{}\n{}", path.display(), meta.len(), changed.as_nanos());
    let note = cache_dir.join("sha256").join(of_bytes(key.as_bytes()));
    if let Ok(digest) = std::fs::read_to_string(&note)
        && digest.len() == 64
    {
        return Ok(digest);
    }
    let digest = of_file(&path)?;
    if let Err(error) = write_whole(&note, digest.as_bytes()) {
        tracing::debug!(path = %note.display(), %error, "the weights' SHA-256 could not be remembered");
    }
    Ok(digest)
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let temporary =
        folder.join(format!("{}.{}", path.file_name().unwrap_or_default().display(), std::process::id()));
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_remembered_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, cache) = (dir.path().join("w"), dir.path().join("cache"));
        std::fs::write(&file, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(remembered(&file, &cache).unwrap(), abc);
        let note = std::fs::read_dir(cache.join("sha256")).unwrap().next().unwrap().unwrap().path();
        let planted = "0".repeat(64);
        std::fs::write(&note, &planted).unwrap();
        assert_eq!(remembered(&file, &cache).unwrap(), planted, "the note is read");
        std::fs::write(&file, "abcd").unwrap();
        assert_eq!(remembered(&file, &cache).unwrap(), of_bytes(b"abcd"));
    }

    #[test]
    fn several_files_have_the_digest_of_their_sha256sum_list() {
        let dir = tempfile::tempdir().unwrap();
        let files = [dir.path().join("b"), dir.path().join("a")];
        for file in &files {
            std::fs::write(file, "abc").unwrap();
        }
        let abc = of_bytes(b"abc");
        let list = format!("{abc}  a\n{abc}  b\n");
        assert_eq!(of_weights(&files, &dir.path().join("c")).unwrap(), of_bytes(list.as_bytes()));
    }
}
