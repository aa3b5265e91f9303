//! A PostgreSQL server of our own: one for all tests of this program, on a socket in a temporary folder, with a database for
//! each test. It ends with the program, however that ends.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

/// An account to be when the tests are root, which PostgreSQL refuses to be: `nobody` on every Linux.
const NOBODY: u32 = 65_534;

struct Server {
    folder: PathBuf,
    databases: AtomicU32,
}

/// The URL of a new database, or `None` with a printed line.
pub(crate) fn database() -> Option<String> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(start).as_ref()?;
    let name = format!("test{}", server.databases.fetch_add(1, Ordering::Relaxed));
    let admin = server.url("postgres");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = PgConnection::connect(&admin).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("create database {name}"));
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    });
    Some(server.url(&name))
}

impl Server {
    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.display())
    }
}

fn start() -> Option<Server> {
    let Some(programs) = programs() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "PostgreSQL's server is needed in CI: apt-get install postgresql"
        );
        println!("skipped: no PostgreSQL here (initdb and postgres on the PATH or in /usr/lib/postgresql)");
        return None;
    };
    // Short: the path of a socket has at most 107 bytes.
    let folder = tempfile::Builder::new().prefix("mediant-pg").tempdir_in("/tmp").unwrap().keep();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    if root() {
        std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let data = folder.join("data");
    let output = as_nobody(Command::new(programs.join("initdb")), &folder)
        .args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    let mut server = as_nobody(Command::new(programs.join("postgres")), &folder)
        .arg("-D")
        .arg(&data)
        .args(["-c", "listen_addresses=", "-c", "max_connections=300", "-c", "shared_buffers=32MB", "-k"])
        .arg(&folder)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap();
    guard(&server, &folder);
    let begun = Instant::now();
    while !folder.join(".s.PGSQL.5432").exists() || !ready(&programs, &folder) {
        let ended = server.try_wait().unwrap();
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(ended.is_none() && begun.elapsed() < Duration::from_secs(60), "PostgreSQL: {}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(Server { folder, databases: AtomicU32::new(0) })
}

fn ready(programs: &Path, folder: &Path) -> bool {
    let probe = Command::new(programs.join("pg_isready")).arg("-q").arg("-h").arg(folder).status();
    probe.is_ok_and(|status| status.success())
}

/// A process of its own that outlives the tests by a moment: Rust runs nothing at the end of a test program.
fn guard(server: &Child, folder: &Path) {
    let script = "while kill -0 $1 2>/dev/null; do sleep 0.2; done; kill -QUIT $2; \
                  while kill -0 $2 2>/dev/null; do sleep 0.1; done; rm -rf \"$3\"";
    Command::new("sh")
        .args(["-c", script, "guard"])
        .arg(std::process::id().to_string())
        .arg(server.id().to_string())
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A signal to the terminal's group ends the tests, not the guard.
        .process_group(0)
        .spawn()
        .unwrap();
}

/// The folder with `initdb` and `postgres`: the newest installed.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    folders.into_iter().find(|folder| ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file()))
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn as_nobody(mut command: Command, folder: &Path) -> Command {
    if root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir(folder);
    command
}
