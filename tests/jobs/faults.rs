//! A database that is held, damaged, too new, full, locked, torn or away.

use std::path::Path;
use std::time::{Duration, Instant};

use mediant::store::job::{Committed, Done, File};
use mediant::store::{Settings, Store, StoreError};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::support::{Db, FREE, bytes, claim, commit, job, run, submit};

fn sqlite<F: Future<Output = ()>>(test: impl FnOnce(Db) -> F) {
    run(Db::sqlite(), test);
}

#[test]
fn a_second_server_is_refused_at_once_and_told_who_has_the_folder() {
    sqlite(async |db| {
        let store = db.open().await;
        let begun = Instant::now();
        let refused = Store::open(&db.settings()).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(1));
        let pid = Some(std::process::id());
        assert_eq!(refused, StoreError::HeldByOther { folder: db.folder().to_owned(), pid });
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        store.close().await.unwrap();
        drop(store);
        db.open().await;
    });
}

#[test]
fn a_damaged_file_is_refused_and_left_as_it_is() {
    sqlite(async |db| {
        let store = db.open().await;
        for _ in 0..200 {
            submit(&store, job([0, 1, 0])).await;
        }
        store.close().await.unwrap();
        drop(store);
        let sound = std::fs::read(db.file()).unwrap();
        let pages = sound.len() / 4096;
        let mut found = 0;
        for page in 0..pages {
            let mut damaged = sound.clone();
            for (i, byte) in damaged[page * 4096..(page + 1) * 4096].iter_mut().enumerate() {
                *byte = (i * 31 + page) as u8;
            }
            std::fs::write(db.file(), &damaged).unwrap();
            let begun = Instant::now();
            match Store::open(&db.settings()).await {
                Ok(store) => store.close().await.unwrap(),
                Err(error @ StoreError::Corrupt { .. }) => {
                    found += 1;
                    let words = error.to_string();
                    assert!(words.contains("mediant.sqlite3") && words.contains(".recover"), "{words}");
                    assert_eq!(std::fs::read(db.file()).unwrap(), damaged);
                }
                Err(other) => panic!("page {page}: {other:?}"),
            }
            assert!(begun.elapsed() < Duration::from_secs(2));
        }
        // A page of free space may hold anything.
        assert!(found + 2 >= pages, "{found} of {pages}");
    });
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    sqlite(async |db| {
        std::fs::write(db.file(), "my thesis, the only copy. ".repeat(1000)).unwrap();
        let refused = Store::open(&db.settings()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
        assert!(std::fs::read_to_string(db.file()).unwrap().starts_with("my thesis"));
    });
}

both! {
    async fn a_database_of_a_newer_version_is_refused(db: Db) {
        db.open().await.close().await.unwrap();
        db.sql("update _sqlx_migrations set version = 1000 where version = 2").await;
        let refused = Store::open(&db.settings()).await.unwrap_err();
        assert!(matches!(refused, StoreError::NewerSchema { version: 1000, .. }), "{refused:?}");
    }
}

/// A small disk in memory. Only root may mount one.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::TempDir::new().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path());
        let mounted = mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: no file system can be mounted here");
        }
        mounted.then_some(Self(folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: connections close in threads of their own.
        std::process::Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}

#[test]
fn a_full_disk_loses_nothing_and_is_over_when_there_is_space() {
    let Some(disk) = Disk::new("4m") else { return };
    sqlite(async |_| {
        let ballast = disk.0.path().join("ballast");
        std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
        let settings = Settings { data_dir: disk.0.path().to_owned(), url: String::new() };
        let store = Store::open(&settings).await.unwrap();
        let id = submit(&store, job([0, 50, 1])).await;
        let mut counted = 0;
        let output = |seq| Done { output: vec![7; 40_000], ..crate::support::done(seq) };
        let (unit, full) = loop {
            let unit = claim(&store).await;
            match store.commit(&unit, output(unit.seq)).await {
                Ok(Committed::Counted { units_done }) => counted = units_done,
                Ok(Committed::Stale) => panic!("nobody else is there"),
                Err(error) => break (unit, error),
            }
        };
        assert!(matches!(full, StoreError::Full { .. }) && full.is_temporary(), "{full:?}");
        assert!((3..50).contains(&counted), "{counted}");
        let refused = store.submit(large(), FREE).await;
        assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:.200?}");
        assert_eq!(store.outputs(id).await.unwrap().len(), counted as usize, "reading goes on");
        std::fs::remove_file(ballast).unwrap();
        store.check().await.unwrap();
        let committed = store.commit(&unit, output(unit.seq)).await.unwrap();
        assert_eq!(committed, Committed::Counted { units_done: counted + 1 });
        assert!(!store.submit(large(), FREE).await.unwrap().replayed);
        store.close().await.unwrap();
        drop(store);
        let store = Store::open(&settings).await.unwrap();
        assert_eq!(store.job(id).await.unwrap().unwrap().units_done, counted + 1);
    });
}

#[test]
fn a_full_disk_is_trouble_from_the_first_failure_until_there_is_space() {
    let Some(disk) = Disk::new("3m") else { return };
    sqlite(async |_| {
        let ballast = disk.0.path().join("ballast");
        let settings = Settings { data_dir: disk.0.path().to_owned(), url: String::new() };
        let store = Store::open(&settings).await.unwrap();
        assert_eq!(store.trouble(), None);
        std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
        let refused = loop {
            if let Err(error) = store.submit(large(), FREE).await {
                break error;
            }
        };
        assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
        assert_eq!(store.trouble(), Some(refused.clone()));
        // There may still be room for a little, which proves nothing.
        assert_eq!(store.check().await, Err(refused.clone()));
        assert_eq!(store.trouble(), Some(refused));
        std::fs::remove_file(ballast).unwrap();
        store.check().await.unwrap();
        assert_eq!(store.trouble(), None);
        store.submit(large(), FREE).await.unwrap();
    });
}

fn large() -> mediant::store::job::NewJob {
    let mut new = job([0, 1, 1]);
    new.request = format!("\"{}\"", "x".repeat(200_000));
    new
}

/// What may happen to a data folder under a running server, and how it is undone.
type Change = (&'static str, fn(&Path), fn(&Path));

fn aside(folder: &Path, name: &str) {
    std::fs::rename(folder.join(name), folder.join(format!("{name}.aside"))).unwrap();
}

fn back(folder: &Path, name: &str) {
    std::fs::rename(folder.join(format!("{name}.aside")), folder.join(name)).unwrap();
}

fn folder_aside(folder: &Path) -> std::path::PathBuf {
    folder.with_extension("aside")
}

const CHANGES: [Change; 6] = [
    (
        "the folder is gone",
        |folder| std::fs::rename(folder, folder_aside(folder)).unwrap(),
        |folder| std::fs::rename(folder_aside(folder), folder).unwrap(),
    ),
    (
        "the folder is another",
        |folder| {
            std::fs::rename(folder, folder_aside(folder)).unwrap();
            std::fs::create_dir(folder).unwrap();
        },
        |folder| {
            std::fs::remove_dir_all(folder).unwrap();
            std::fs::rename(folder_aside(folder), folder).unwrap();
        },
    ),
    ("the lock is gone", |folder| aside(folder, "mediant.lock"), |folder| back(folder, "mediant.lock")),
    (
        "the database is gone",
        |folder| aside(folder, "mediant.sqlite3"),
        |folder| back(folder, "mediant.sqlite3"),
    ),
    (
        "the database is another",
        |folder| {
            aside(folder, "mediant.sqlite3");
            std::fs::copy(folder.join("mediant.sqlite3.aside"), folder.join("mediant.sqlite3")).unwrap();
        },
        |folder| back(folder, "mediant.sqlite3"),
    ),
    (
        "the log is gone",
        |folder| aside(folder, "mediant.sqlite3-wal"),
        |folder| back(folder, "mediant.sqlite3-wal"),
    ),
];

#[test]
fn a_folder_whose_files_are_not_those_that_were_opened_takes_no_jobs_until_they_are_back() {
    for (what, change, undo) in CHANGES {
        sqlite(async |db| {
            let folder = db.folder().join("data");
            let settings = Settings { data_dir: folder.clone(), url: String::new() };
            let store = Store::open(&settings).await.unwrap();
            let before = submit(&store, job([0, 1, 0])).await;
            let unit = claim(&store).await;
            change(&folder);
            let displaced = |error: &StoreError| matches!(error, StoreError::Displaced { .. });
            // Readiness need not wait for a failure.
            assert!(store.trouble().as_ref().is_some_and(displaced), "{what}: {:?}", store.trouble());
            for error in [
                store.submit(job([0, 1, 0]), FREE).await.unwrap_err(),
                store.commit(&unit, crate::support::done(0)).await.unwrap_err(),
                store.put_dataset("alice", None, 1, "{}").await.unwrap_err(),
                store.check().await.unwrap_err(),
            ] {
                assert!(displaced(&error) && error.is_temporary(), "{what}: {error:?}");
                assert!(
                    error.to_string().contains("mediant") || error.to_string().contains("data"),
                    "{error}"
                );
            }
            // Nobody else gets in where the database is still that of this server.
            if what == "the lock is gone" {
                let refused = Store::open(&settings).await.unwrap_err();
                assert!(matches!(refused, StoreError::HeldByOther { .. }), "{refused:?}");
            }
            undo(&folder);
            assert_eq!(store.trouble(), None, "{what}");
            assert_eq!(commit(&store, &unit).await, Committed::Counted { units_done: 1 });
            let after = submit(&store, job([0, 1, 0])).await;
            store.close().await.unwrap();
            drop(store);
            let store = Store::open(&settings).await.unwrap();
            for id in [before, after] {
                assert!(store.job(id).await.unwrap().is_some(), "{what}");
            }
        });
    }
}

#[test]
fn a_server_whose_folder_was_replaced_does_no_harm_to_the_one_that_works_there_now() {
    sqlite(async |db| {
        let folder = db.folder().join("data");
        let settings = Settings { data_dir: folder.clone(), url: String::new() };
        let first = Store::open(&settings).await.unwrap();
        submit(&first, job([0, 1, 0])).await;
        std::fs::remove_dir_all(&folder).unwrap();
        let second = Store::open(&settings).await.unwrap();
        let id = submit(&second, job([0, 1, 0])).await;
        assert!(first.close().await.is_err());
        drop(first);
        // Connections close in threads of their own.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let copy = Db::sqlite();
        for name in ["mediant.sqlite3", "mediant.sqlite3-wal"] {
            std::fs::copy(folder.join(name), copy.folder().join(name)).unwrap();
        }
        assert_eq!(second.trouble(), None);
        submit(&second, job([0, 1, 0])).await;
        // As after a kill: what was acknowledged is in the files.
        assert!(copy.open().await.job(id).await.unwrap().is_some());
    });
}

#[test]
fn a_log_without_its_database_is_an_error_and_nothing_is_thrown_away() {
    sqlite(async |db| {
        let store = db.open().await;
        let id = submit(&store, job([0, 1, 0])).await;
        let (file, log) = (std::fs::read(db.file()).unwrap(), std::fs::read(log_of(&db.file())).unwrap());
        for content in [None, Some([])] {
            let lost = Db::sqlite();
            std::fs::write(log_of(&lost.file()), &log).unwrap();
            if let Some(content) = content {
                std::fs::write(lost.file(), content).unwrap();
            }
            let refused = Store::open(&lost.settings()).await.unwrap_err();
            let expected = StoreError::LostDatabase {
                file: lost.file(),
                empty: content.is_some(),
                log: log_of(&lost.file()),
                bytes: log.len() as u64,
            };
            assert_eq!(refused, expected);
            assert!(refused.to_string().contains("Put the database back"), "{refused}");
            assert_eq!(std::fs::read(log_of(&lost.file())).unwrap(), log);
            assert_eq!(lost.file().exists(), content.is_some());
            std::fs::write(lost.file(), &file).unwrap();
            assert!(lost.open().await.job(id).await.unwrap().is_some(), "put back, it is all there");
        }
    });
}

#[test]
fn numbers_and_requests_that_changed_on_the_disk_are_not_given_out() {
    sqlite(async |db| {
        let store = db.open().await;
        let id = submit(&store, job([0, 2, 1])).await;
        for _ in 0..2 {
            commit(&store, &claim(&store).await).await;
        }
        let (set, _) = store.put_dataset("alice", None, 1, "{\"prompt\":\"a\"}\n").await.unwrap();
        assert_eq!(store.outputs(id).await.unwrap().len(), 2);
        db.sql("update output set bytes = cast('other numbers' as blob) where seq = 1").await;
        db.sql("update dataset set content = cast('{\"prompt\":\"b\"}\n' as blob)").await;
        let refused = store.outputs(id).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Corrupt { .. }) && refused.to_string().contains("unit 1"),
            "{refused}"
        );
        assert!(matches!(store.output(id, 1).await, Err(StoreError::Corrupt { .. })));
        assert_eq!(store.output(id, 0).await.unwrap(), Some(bytes(0)));
        assert!(matches!(store.dataset_text("alice", &set.id).await, Err(StoreError::Corrupt { .. })));
        db.sql("update request set cut = '{\"rows\":9}'").await;
        let refused = store.job(id).await.unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
        // Rows that an earlier version wrote have no checksum, and are read.
        db.sql("update request set sha256 = null").await;
        db.sql("update output set sha256 = null").await;
        assert!(store.job(id).await.unwrap().is_some());
        assert_eq!(store.outputs(id).await.unwrap()[1].1, b"other numbers");
    });
}

#[test]
fn while_another_program_locks_the_file_reading_goes_on_and_writing_says_so() {
    sqlite(async |db| {
        let store = db.open().await;
        let id = submit(&store, job([0, 2, 1])).await;
        let unit = claim(&store).await;
        let options = SqliteConnectOptions::new().filename(db.file());
        let mut other = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("begin exclusive").execute(&mut other).await.unwrap();
        let begun = Instant::now();
        let (check, committed) = tokio::join!(store.check(), store.commit(&unit, crate::support::done(0)));
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        for error in [check.unwrap_err(), committed.unwrap_err()] {
            let held = matches!(error, StoreError::Locked { .. } | StoreError::Unavailable { .. });
            assert!(held && error.is_temporary(), "{error:?}");
        }
        assert_eq!(store.job(id).await.unwrap().unwrap().units_done, 0);
        sqlx::query("rollback").execute(&mut other).await.unwrap();
        assert_eq!(commit(&store, &unit).await, Committed::Counted { units_done: 1 });
        store.check().await.unwrap();
    });
}

#[test]
fn a_torn_log_leaves_the_first_commits_and_a_sound_file() {
    sqlite(async |db| {
        let store = db.open().await;
        let id = submit(&store, job([0, 40, 1])).await;
        for _ in 0..40 {
            commit(&store, &claim(&store).await).await;
        }
        // Copied while it is open: closing would empty the log.
        let (file, log) = (std::fs::read(db.file()).unwrap(), std::fs::read(log_of(&db.file())).unwrap());
        let mut last = 0;
        for part in 0..=24 {
            let torn = Db::sqlite();
            std::fs::write(torn.file(), &file).unwrap();
            let mut cut = log[..log.len() * part / 24].to_vec();
            if part % 3 == 2 {
                // Not only short but wrong at the end.
                let from = cut.len().saturating_sub(100);
                cut[from..].iter_mut().for_each(|byte| *byte ^= 0x55);
            }
            std::fs::write(log_of(&torn.file()), cut).unwrap();
            let store = torn.open().await;
            let outputs = store.outputs(id).await.unwrap();
            let expected: Vec<_> = (0..outputs.len() as u32).map(|seq| (seq, bytes(seq))).collect();
            assert_eq!(outputs, expected, "the first ones, whole");
            if let Some(job) = store.job(id).await.unwrap() {
                assert_eq!(job.units_done as usize, outputs.len());
            }
            if part % 3 != 2 {
                assert!(outputs.len() >= last);
                last = outputs.len();
            }
        }
        assert_eq!(last, 40);
    });
}

fn log_of(file: &Path) -> std::path::PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    sqlite(async |db| {
        std::fs::write(db.folder().join("file"), "").unwrap();
        let settings = Settings { data_dir: db.folder().join("file/below"), url: String::new() };
        let refused = Store::open(&settings).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::Io { .. }) && refused.to_string().contains("below"),
            "{refused}"
        );
    });
}

#[test]
fn a_server_that_is_away_is_named_without_its_password() {
    sqlite(async |db| {
        let url = "postgres://me:secret@127.0.0.1:1/lab".to_owned();
        let settings = Settings { data_dir: db.folder().to_owned(), url };
        assert!(!format!("{settings:?}").contains("secret"));
        let begun = Instant::now();
        let refused = Store::open(&settings).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(8));
        assert!(matches!(&refused, StoreError::Unavailable { .. }), "{refused:?}");
        let words = refused.to_string();
        assert!(words.contains("lab at 127.0.0.1:1") && !words.contains("secret"), "{words}");
    });
}

#[test]
fn a_server_is_asked_over_tls_if_its_certificate_will_do() {
    let Some(db) = Db::postgres() else { return };
    run(db, async |db| {
        let store = Store::open(&db.over_tls(true)).await.unwrap();
        let id = submit(&store, job([0, 1, 0])).await;
        assert!(db.open().await.job(id).await.unwrap().is_some());
        let mut connection = PgConnection::connect(&db.over_tls(true).url).await.unwrap();
        let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        assert!(sqlx::query_scalar::<_, bool>(encrypted).fetch_one(&mut connection).await.unwrap());
        let refused = Store::open(&db.over_tls(false)).await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{refused}");
    });
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let Some(db) = Db::postgres() else { return };
    run(db, async |db| {
        let store = db.open().await;
        let id = submit(&store, job([0, 1, 0])).await;
        let unit = claim(&store).await;
        // As when the server is started again: every connection ends.
        db.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mediant' \
                and datname = current_database()",
        )
        .await;
        let files = [File { name: "json".to_owned(), bytes: Vec::new() }];
        let mut put = store.put_files(id, &files).await;
        for _ in 0..20 {
            if put.is_ok() {
                break;
            }
            assert!(put.as_ref().is_err_and(StoreError::is_temporary), "{put:?}");
            put = store.put_files(id, &files).await;
        }
        assert_eq!(put, Ok(true));
        assert_eq!(commit(&store, &unit).await, Committed::Counted { units_done: 1 });
        let mut changes = store.subscribe();
        let other = db.open().await;
        let mut woken = false;
        for _ in 0..20 {
            changes.mark_unchanged();
            submit(&other, job([0, 1, 0])).await;
            woken |= tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.is_ok();
            if woken {
                break;
            }
        }
        assert!(woken, "it listens again");
    });
}
