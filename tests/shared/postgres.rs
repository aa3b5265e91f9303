//! A PostgreSQL server of our own: one for all tests of this program, on a socket in a temporary folder, with a database for
//! each test. It ends with the program, however that ends.

use std::future::Future;
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
    process: Child,
    folder: PathBuf,
    databases: AtomicU32,
}

/// The URL of a new database, or `None` with a printed line.
pub(crate) fn database() -> Option<String> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(start).as_ref()?;
    let name = format!("test{}", server.databases.fetch_add(1, Ordering::Relaxed));
    block_on(async {
        let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("create database {name}"));
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    });
    Some(server.url(&name))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Server {
    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.display())
    }

    /// Until it takes connections.
    fn wait(&self) {
        let begun = Instant::now();
        while let Err(error) = block_on(PgConnection::connect(&self.url("postgres"))) {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(
                begun.elapsed() < Duration::from_mins(1),
                "{error} from process {}: {}",
                self.process.id(),
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
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
    let process = as_nobody(Command::new(programs.join("postgres")), &folder)
        .arg("-D")
        .arg(&data)
        .args(["-c", "listen_addresses=", "-c", "max_connections=300", "-c", "shared_buffers=32MB", "-k"])
        .arg(&folder)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap();
    guard(&process, &folder);
    let server = Server { process, folder, databases: AtomicU32::new(0) };
    server.wait();
    Some(server)
}

/// A process of its own that outlives the tests by a moment: Rust runs nothing at the end of a test program.
#[expect(clippy::zombie_processes, reason = "it waits for the end of this one")]
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
