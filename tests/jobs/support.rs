//! A database for one test, and jobs to put into it.

use std::future::Future;
use std::path::{Path, PathBuf};

use mediant::spec::kind::Kind;
use mediant::store::job::{Claim, Committed, Cost, Done, Event, File, JobId, NewJob, Priority};
use mediant::store::{Limits, Settings, Store};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

use crate::server;

pub(crate) const MODEL: &str = "sha-of-the-model";
pub(crate) const OWNER: &str = "alice";
/// Units of one job at work, at most.
pub(crate) const AHEAD: u32 = 1000;
pub(crate) const FREE: Limits = Limits { queued_per_owner: 1_000_000, queued_per_key: None };

/// An empty database of its own.
pub(crate) struct Db {
    folder: TempDir,
    url: String,
}

impl Db {
    pub(crate) fn sqlite() -> Self {
        Self { folder: TempDir::new().unwrap(), url: String::new() }
    }

    /// `None`, with a printed line, where there is no PostgreSQL; that is a failure in CI.
    pub(crate) fn postgres() -> Option<Self> {
        Some(Self { folder: TempDir::new().unwrap(), url: server::database()? })
    }

    /// The same database, asked over TLS; whether its certificate is of the authority that the URL names.
    pub(crate) fn over_tls(&self, authority: bool) -> Settings {
        Settings { url: server::over_tls(&self.url, authority), ..self.settings() }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        !self.url.is_empty()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("mediant.sqlite3")
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings { data_dir: self.folder.path().to_owned(), url: self.url.clone() }
    }

    /// Says something to the database behind the store's back.
    pub(crate) async fn sql(&self, sql: &'static str) {
        let done = if self.is_postgres() {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::query(sql).execute(&mut connection).await.map(|_| ())
        } else {
            let options = SqliteConnectOptions::new().filename(self.file());
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::query(sql).execute(&mut connection).await.map(|_| ())
        };
        done.unwrap();
    }

    /// The store of the next process after this one was killed: it gave nothing back. On PostgreSQL its lease is over.
    pub(crate) async fn kill(&self, store: Store) -> Store {
        drop(store);
        if self.is_postgres() {
            self.sql("update process set lease_until = 0").await;
        }
        Store::open(&self.settings()).await.unwrap()
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.settings()).await.unwrap()
    }
}

/// Runs a test on a runtime with several threads, as the server has.
pub(crate) fn run<F: Future<Output = ()>>(db: Db, test: impl FnOnce(Db) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(db));
}

/// A sweep of these units.
pub(crate) fn job(units: [u32; 3]) -> NewJob {
    NewJob {
        id: JobId::new(),
        owner: OWNER.to_owned(),
        key: None,
        weight: 100,
        kind: Kind::Sweep,
        model: "tiny".to_owned(),
        model_sha: MODEL.to_owned(),
        request: r#"{"cases":["\u0000"]}"#.to_owned(),
        cut: r#"{"rows":8}"#.to_owned(),
        priority: Priority::Normal,
        units,
        max_attempts: 3,
        keep_s: 3600,
        estimate_s: 1.5,
        idempotency: None,
    }
}

pub(crate) async fn submit(store: &Store, new: NewJob) -> JobId {
    store.submit(new, FREE).await.unwrap().job.id
}

pub(crate) async fn claim(store: &Store) -> Claim {
    store.claim(MODEL, AHEAD).await.unwrap().expect("a unit to claim")
}

pub(crate) async fn nothing_to_claim(store: &Store) {
    let claim = store.claim(MODEL, AHEAD).await.unwrap();
    assert!(claim.is_none(), "{claim:?}");
}

/// What a unit gives: a function of the unit, so that doubles would be seen.
pub(crate) fn bytes(seq: u32) -> Vec<u8> {
    format!("output of {seq}").into_bytes()
}

pub(crate) fn done(seq: u32) -> Done {
    let cost = Cost { rows: 10, row_layers: 20, seconds: 0.5, peak_bytes: 1000 + u64::from(seq) };
    Done { output: bytes(seq), cost, ..Done::default() }
}

pub(crate) fn finished() -> Done {
    let file = File { name: "json".to_owned(), bytes: b"{}".to_vec() };
    Done { files: vec![file], ..Done::default() }
}

pub(crate) async fn commit(store: &Store, claim: &Claim) -> Committed {
    store.commit(claim, done(claim.seq)).await.unwrap()
}

/// Computes whatever can be claimed, and says how much that was.
pub(crate) async fn work_off(store: &Store) -> u32 {
    let mut count = 0;
    while let Some(claim) = store.claim(MODEL, AHEAD).await.unwrap() {
        let done = if claim.job.units_total() == claim.seq + 1 { finished() } else { done(claim.seq) };
        assert!(matches!(store.commit(&claim, done).await.unwrap(), Committed::Counted { .. }));
        count += 1;
    }
    count
}

pub(crate) async fn events(store: &Store, id: JobId) -> Vec<Event> {
    store.events(id, 0, 1000).await.unwrap()
}

/// `kind data` of every event.
pub(crate) async fn told(store: &Store, id: JobId) -> Vec<String> {
    events(store, id).await.into_iter().map(|event| format!("{} {}", event.kind, event.data)).collect()
}
