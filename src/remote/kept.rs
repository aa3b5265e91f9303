//! Jobs that nobody waits for: kept as files until they are asked after, so that they outlive a server that is killed.
//!
//! A job is a folder, which appears by one rename and is whole or not there: what it is, its block, and once it is over its last
//! status and its result.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use mediant_worker::message::Profile;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::frame::{self, Status};
use super::job::{Job, Party};
use crate::capacity::Share;
use crate::owner::Owner;

/// How long a job is kept after its last change.
const KEPT: Duration = Duration::from_hours(24);

/// Jobs in a folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kept {
    folder: PathBuf,
}

/// What is written down of a job.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    owner: String,
    legacy: bool,
    packed: bool,
    #[serde(default)]
    eager: bool,
}

/// What is known of a job.
#[derive(Debug)]
pub enum Found {
    /// It is not over, or failed.
    Status(Value),
    /// Its last status, and its result.
    Completed(Value, Bytes),
}

impl Kept {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Stores a job, on the disk when this returns.
    pub(super) fn put(&self, job: &Job) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        self.expire();
        let partial = self.folder.join(format!("{}.partial", job.id));
        fs::create_dir(&partial)?;
        let written = Written {
            owner: job.owner.to_string(),
            legacy: job.profile == Profile::Legacy,
            packed: job.packed,
            eager: job.eager,
        };
        let written = serde_json::to_vec(&written).map_err(io::Error::other)?;
        let stored = write(&partial.join("job.json"), &written)
            .and_then(|()| write(&partial.join("block"), &job.payload))
            .and_then(|()| fs::rename(&partial, self.folder.join(&job.id)))
            .and_then(|()| fs::File::open(&self.folder)?.sync_all());
        if stored.is_err() {
            let _ = fs::remove_dir_all(&partial);
        }
        stored
    }

    /// Stores how a job ended.
    pub(super) fn finish(&self, id: &str, status: &Value, result: Option<&[u8]>) -> io::Result<()> {
        let folder = self.folder.join(id);
        if let Some(result) = result {
            write(&folder.join("result"), result)?;
        }
        // The status is the last to appear: with it the job is over.
        let partial = folder.join("status.partial");
        write(&partial, &serde_json::to_vec(status).map_err(io::Error::other)?)?;
        fs::rename(&partial, folder.join("status.json"))?;
        let _ = fs::remove_file(folder.join("block"));
        fs::File::open(&folder)?.sync_all()
    }

    /// What is known of a job of an owner.
    pub(super) fn response(&self, id: &str, owner: &Owner) -> Option<Found> {
        let folder = self.of(id)?;
        let written: Written = serde_json::from_slice(&fs::read(folder.join("job.json")).ok()?).ok()?;
        if written.owner != owner.to_string() {
            return None;
        }
        let Ok(status) = fs::read(folder.join("status.json")) else {
            return Some(Found::Status(frame::status(
                id,
                Status::Running,
                "it waits for its turn, or runs",
                None,
            )));
        };
        let status: Value = serde_json::from_slice(&status).ok()?;
        Some(match fs::read(folder.join("result")) {
            Ok(result) => Found::Completed(status, result.into()),
            Err(_) => Found::Status(status),
        })
    }

    /// Jobs that are not over, in the order in which they came.
    pub(super) fn unfinished(&self) -> Vec<Job> {
        self.expire();
        let mut found: Vec<(SystemTime, Job)> = self.ids().filter_map(|id| self.unfinished_of(id)).collect();
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, job)| job).collect()
    }

    fn unfinished_of(&self, id: String) -> Option<(SystemTime, Job)> {
        let folder = self.of(&id)?;
        if folder.join("status.json").exists() {
            return None;
        }
        let at = fs::metadata(folder.join("job.json")).and_then(|data| data.modified()).ok()?;
        let written: Written = serde_json::from_slice(&fs::read(folder.join("job.json")).ok()?).ok()?;
        let owner = Owner::parse(&written.owner).unwrap_or_else(Owner::local);
        let job = Job {
            id,
            party: Party::Owner(owner.clone()),
            share: Share::unbounded(owner.clone()),
            owner,
            profile: if written.legacy { Profile::Legacy } else { Profile::Plain },
            packed: written.packed,
            came: Instant::now(),
            eager: written.eager,
            near: false,
            payload: fs::read(folder.join("block")).ok()?.into(),
            base: String::new(),
            client: None,
        };
        Some((at, job))
    }

    /// The folder of a job, if this can be its id.
    fn of(&self, id: &str) -> Option<PathBuf> {
        let plain = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        plain.then(|| self.folder.join(id))
    }

    fn ids(&self) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    }

    /// Deletes what is over for long, and what was never whole.
    fn expire(&self) {
        for id in self.ids() {
            let folder = self.folder.join(&id);
            let changed = fs::metadata(&folder).and_then(|data| data.modified());
            let is_old = changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEPT));
            if is_old && (folder.join("status.json").exists() || self.of(&id).is_none()) {
                let _ = fs::remove_dir_all(&folder);
            }
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::job::secret;
    use serde_json::json;

    fn job(owner: &Owner) -> Job {
        Job {
            id: secret(),
            owner: owner.clone(),
            party: Party::Owner(owner.clone()),
            profile: Profile::Legacy,
            packed: true,
            came: Instant::now(),
            eager: true,
            near: false,
            payload: Bytes::from_static(b"a block"),
            base: String::new(),
            client: None,
            share: Share::unbounded(owner.clone()),
        }
    }

    #[test]
    fn a_job_outlives_its_process_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path().join("remote"));
        assert!(kept.unfinished().is_empty());
        let (alice, bob) = (Owner::parse("alice").unwrap(), Owner::parse("bob").unwrap());
        let (first, second) = (job(&alice), job(&bob));
        kept.put(&first).unwrap();
        kept.put(&second).unwrap();
        assert!(
            matches!(kept.response(&first.id, &alice), Some(Found::Status(status)) if status["status"] == "RUNNING")
        );
        assert!(kept.response(&first.id, &bob).is_none());
        for id in ["", "..", "../remote", &secret()] {
            assert!(kept.response(id, &alice).is_none());
        }
        // Another process.
        let kept = Kept::new(folder.path().join("remote"));
        let again: Vec<_> =
            kept.unfinished().into_iter().map(|job| (job.id, job.owner, job.payload)).collect();
        assert_eq!(again.len(), 2);
        assert!(again.contains(&(first.id.clone(), alice.clone(), first.payload.clone())));
        kept.finish(&first.id, &json!({"status": "COMPLETED"}), Some(b"numbers")).unwrap();
        kept.finish(&second.id, &json!({"status": "ERROR"}), None).unwrap();
        assert!(kept.unfinished().is_empty());
        let found = kept.response(&first.id, &alice);
        assert!(matches!(found, Some(Found::Completed(_, bytes)) if bytes == "numbers"));
        assert!(
            matches!(kept.response(&second.id, &bob), Some(Found::Status(status)) if status["status"] == "ERROR")
        );
    }
}
