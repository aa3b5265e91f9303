//! What can go wrong with a database, told apart by what somebody can do about it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

use super::job::JobId;
use crate::disk::{Anchor, Displaced, FullDisk};

/// Why nothing was stored, or nothing read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached: not started, restarting, too many connections.
    #[error("{place} cannot be reached: {detail}")]
    Unavailable {
        /// Which database, without its password.
        place: String,
        /// What its driver says.
        detail: String,
    },
    /// Clients ask for more changes than it makes.
    #[error("{place} has more changes to make than it can")]
    Busy {
        /// Which database.
        place: String,
    },
    /// Another program holds it for longer than this one waits.
    #[error("{place} is locked by another program: {detail}")]
    Locked {
        /// Which database.
        place: String,
        /// What it says.
        detail: String,
    },
    /// The disk it is on is full. Nothing that was stored before is lost.
    #[error("the disk of {place} is full; free some space, or delete results that are not needed")]
    Full {
        /// Which database.
        place: String,
    },
    /// What is in the file is not a sound database. It is left as it is.
    #[error(
        "{place} is damaged ({detail}). It is left as it is. Put a copy of it from before the damage in its place \
         (together with its -wal file, if the copy has one), or move it away to begin with an empty one; \
         `sqlite3 FILE .recover` may save what is readable"
    )]
    Corrupt {
        /// The file, or the database.
        place: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Reading or writing failed. What was being stored is not; after a failed sync nothing more is until the next start.
    #[error("{place} cannot be read or written: {detail}")]
    Io {
        /// The file, or the database.
        place: String,
        /// What the system says.
        detail: String,
    },
    /// The folder, its lock or the database is no longer what was opened. What is stored now would not be there after the
    /// next start.
    #[error("{displaced}")]
    Displaced {
        /// Which, and how.
        displaced: Displaced,
    },
    /// A database is gone whose log is still there.
    #[error(
        "{} is {}, but the log of a database is beside it ({}, {bytes} bytes): acknowledged jobs may be in it. Nothing was \
         changed. Put the database back beside its log, or move the log away to begin with an empty one",
        file.display(), if *empty { "empty" } else { "missing" }, log.display()
    )]
    LostDatabase {
        /// Where the database should be.
        file: PathBuf,
        /// Whether there is an empty file in its place.
        empty: bool,
        /// The log.
        log: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Another server works in the same folder.
    #[error(
        "the folder {} is in use by another mediant{}; stop it, or name another folder with --data-dir. Several servers \
         share their work through PostgreSQL only (store.url)",
        folder.display(), pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    HeldByOther {
        /// The folder.
        folder: PathBuf,
        /// The other's process, if it says.
        pid: Option<u32>,
    },
    /// A later version of this program has changed the tables.
    #[error(
        "{place} was last used by a newer version of mediant (schema {version}); use that version or a later one"
    )]
    NewerSchema {
        /// Which database.
        place: String,
        /// The schema's number that this version does not know.
        version: i64,
    },
    /// The key names a job that was asked for in other words.
    #[error("this Idempotency-Key was used before with another request, for {job}")]
    IdempotencyMismatch {
        /// The job that has the key.
        job: JobId,
    },
    /// The owner has as many jobs waiting as may be.
    #[error("{limit} jobs are waiting already, the most there may be")]
    TooManyQueued {
        /// The most.
        limit: u32,
    },
    /// The database refused a statement: a mistake of this program, or tables that somebody has changed.
    #[error("{place} refused a statement: {detail}")]
    Refused {
        /// Which database.
        place: String,
        /// What it says.
        detail: String,
    },
}

impl StoreError {
    /// Whether the same may work a little later, with nothing changed in what was asked: 503 with Retry-After.
    pub const fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::Locked { .. }
                | Self::Full { .. }
                | Self::Io { .. }
                | Self::Displaced { .. }
        )
    }

    /// A failed operation on a file.
    pub(super) fn file(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        let place = path.display().to_string();
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full { place },
            _ => Self::Io { place, detail: format!("cannot {doing}: {error}") },
        }
    }
}

/// The database as errors name it, and whether it can be trusted with what is to be stored.
#[derive(Debug)]
pub(super) struct Place {
    name: String,
    /// A sync has failed. The system may have dropped the pages, and the next sync would succeed without them.
    lost_sync: AtomicBool,
    /// What was opened, the folder first: SQLite would go on in files that are no longer there.
    anchors: OnceLock<Vec<Anchor>>,
    /// It is being closed: what is deleted now is deleted by SQLite.
    closing: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
}

/// Why using the database failed when it last did.
#[derive(Debug)]
struct Trouble {
    error: StoreError,
    /// The disk, if it was full.
    full: Option<FullDisk>,
}

impl Place {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            lost_sync: AtomicBool::new(false),
            anchors: OnceLock::new(),
            closing: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    /// Remembers what was opened.
    pub(super) fn anchor(&self, anchors: Vec<Anchor>) {
        let _ = self.anchors.set(anchors);
    }

    /// Nothing is looked after any more.
    pub(super) fn let_go(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Refuses if anything is no longer what was opened.
    pub(super) fn in_place(&self) -> Result<(), StoreError> {
        if self.closing.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut anchors = self.anchors.get().into_iter().flatten();
        anchors.try_for_each(Anchor::holds).map_err(|displaced| StoreError::Displaced { displaced })
    }

    /// Why nothing can be stored, as far as is known: what failed last, until [`Place::is_well`].
    pub(super) fn trouble(&self) -> Option<StoreError> {
        let displaced = self.in_place().err();
        displaced.or_else(|| self.last_trouble().as_ref().map(|trouble| trouble.error.clone()))
    }

    /// Something was stored. That ends all trouble but that of a full disk, on which there may still be room for a little.
    pub(super) fn is_well(&self) -> Result<(), StoreError> {
        let mut last = self.last_trouble();
        match &*last {
            Some(Trouble { error, full: Some(full) }) if !full.is_over() => return Err(error.clone()),
            Some(_) => tracing::info!("{} can be written again", self.name),
            None => {}
        }
        *last = None;
        Ok(())
    }

    /// Remembers an error that is more than the fault of one statement, so that readiness says so at once.
    fn note(&self, error: &StoreError) {
        if !error.is_temporary() && !matches!(error, StoreError::Corrupt { .. }) {
            return;
        }
        let mut last = self.last_trouble();
        if last.as_ref().is_none_or(|trouble| trouble.error != *error) {
            tracing::error!("{error}");
        }
        let folder = self.anchors.get().and_then(|anchors| anchors.first());
        let is_full = matches!(error, StoreError::Full { .. });
        let full = folder.filter(|_| is_full).map(|folder| FullDisk::of(folder.path()));
        *last = Some(Trouble { error: error.clone(), full });
    }

    fn last_trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to write where a sync has failed, or where it would not be found again.
    pub(super) fn writable(&self) -> Result<(), StoreError> {
        self.in_place()?;
        if self.lost_sync.load(Ordering::Acquire) {
            let detail = "a sync has failed; nothing is stored until this server is started again".to_owned();
            return Err(StoreError::Io { place: self.name.clone(), detail });
        }
        Ok(())
    }

    /// A driver's error by what it means.
    pub(super) fn error(&self, error: sqlx::Error) -> StoreError {
        let error = self.meaning(error);
        self.note(&error);
        error
    }

    fn meaning(&self, error: sqlx::Error) -> StoreError {
        let place = self.name.clone();
        match error {
            sqlx::Error::Database(error) if is_sqlite(&*error) => self.sqlite(&*error),
            sqlx::Error::Database(error) => postgres(place, &*error),
            sqlx::Error::PoolTimedOut => {
                let detail = "all connections were busy for too long".to_owned();
                StoreError::Unavailable { place, detail }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => StoreError::Unavailable { place, detail: error.to_string() },
            error => StoreError::Refused { place, detail: error.to_string() },
        }
    }

    /// More is asked of it than it does. That is no trouble.
    pub(super) fn busy(&self) -> StoreError {
        StoreError::Busy { place: self.name.clone() }
    }

    /// Why the tables could not be brought up to date.
    pub(super) fn migration(&self, error: MigrateError) -> StoreError {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => self.error(error),
            MigrateError::VersionMissing(version)
            | MigrateError::VersionTooNew(version, _)
            | MigrateError::VersionTooOld(version, _) => {
                StoreError::NewerSchema { place: self.name.clone(), version }
            }
            error => StoreError::Refused { place: self.name.clone(), detail: error.to_string() },
        }
    }

    /// Damage that a check found.
    pub(super) fn corrupt(&self, detail: String) -> StoreError {
        StoreError::Corrupt { place: self.name.clone(), detail }
    }

    fn sqlite(&self, error: &dyn DatabaseError) -> StoreError {
        // Of the file, of its folder.
        const FAILED_SYNCS: [i32; 2] = [1034, 1290];
        let place = self.name.clone();
        let detail = error.message().to_owned();
        let code = error.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default();
        if FAILED_SYNCS.contains(&code) {
            self.lost_sync.store(true, Ordering::Release);
        }
        // https://sqlite.org/rescode.html; the low byte is the kind.
        match code & 0xff {
            5 | 6 => StoreError::Locked { place, detail },
            // Not allowed, read-only, input or output, cannot be opened.
            3 | 8 | 10 | 14 => StoreError::Io { place, detail },
            11 | 26 => StoreError::Corrupt { place, detail },
            13 => StoreError::Full { place },
            _ => StoreError::Refused { place, detail },
        }
    }
}

/// PostgreSQL's codes have five characters, SQLite's are numbers of at most four.
fn is_sqlite(error: &dyn DatabaseError) -> bool {
    error.code().is_none_or(|code| code.len() < 5)
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn postgres(place: String, error: &dyn DatabaseError) -> StoreError {
    let detail = error.message().to_owned();
    let code = error.code().unwrap_or_default().into_owned();
    match code.as_str() {
        "53100" => StoreError::Full { place },
        // Could not be serialised, deadlock, lock not available, statement timed out.
        "40001" | "40P01" | "55P03" | "57014" => StoreError::Locked { place, detail },
        "58030" => StoreError::Io { place, detail },
        "XX001" | "XX002" => StoreError::Corrupt { place, detail },
        // A standby that has not been promoted.
        "25006" => StoreError::Unavailable { place, detail },
        // Connection, resources, authorisation, no such database, operator's intervention (shutdown, crash, start).
        code if ["08", "53", "28", "3D", "57"].contains(&&code[..2.min(code.len())]) => {
            StoreError::Unavailable { place, detail }
        }
        _ => StoreError::Refused { place, detail },
    }
}
