//! A PostgreSQL server of our own: one for all tests of this program, on a socket in a temporary folder and over TLS on the
//! loopback, with a database for each test. It ends with the program, however that ends.

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
    port: u16,
    databases: AtomicU32,
}

static SERVER: OnceLock<Option<Server>> = OnceLock::new();

/// The URL of a new database, or `None` with a printed line.
pub(crate) fn database() -> Option<String> {
    let server = SERVER.get_or_init(start).as_ref()?;
    let name = format!("test{}", server.databases.fetch_add(1, Ordering::Relaxed));
    block_on(async {
        let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("create database {name}"));
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    });
    Some(server.url(&name))
}

/// The URL of a database from [`database`] over TLS, whose certificate must be of the server's authority, or of another one.
#[allow(dead_code, reason = "not every program of tests asks over TLS")]
pub(crate) fn over_tls(url: &str, authority: bool) -> String {
    let server = SERVER.get().unwrap().as_ref().unwrap();
    let name = url.split(['/', '?']).nth(3).unwrap();
    let file = server.folder.join(if authority { "ca.pem" } else { "stranger.pem" });
    let port = server.port;
    format!("postgres://postgres@localhost:{port}/{name}?sslmode=verify-full&sslrootcert={}", file.display())
}

/// A certificate for this machine, its key and its authority, and one of another authority.
fn write_certificates(folder: &Path) {
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if root() {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    };
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::default();
        wanted.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        wanted.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = wanted.self_signed(&key).unwrap().pem();
        (pem, rcgen::Issuer::new(wanted, key))
    };
    let (pem, issuer) = authority("authority");
    write("ca.pem", pem);
    write("stranger.pem", authority("stranger").0);
    let key = rcgen::KeyPair::generate().unwrap();
    let wanted = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    write("cert.pem", wanted.signed_by(&key, &issuer).unwrap().pem());
    write("key.pem", key.serialize_pem());
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Server {
    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost:{}/{database}?host={}", self.port, self.folder.display())
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
    write_certificates(&folder);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = as_nobody(Command::new(programs.join("postgres")), &folder)
        .arg("-D")
        .arg(&data)
        .args(["-c", "listen_addresses=localhost", "-p", &port.to_string(), "-c", "max_connections=300"])
        .args(["-c", "shared_buffers=32MB", "-c", "ssl=on"])
        .args(["-c", "ssl_cert_file=../cert.pem", "-c", "ssl_key_file=../key.pem", "-k"])
        .arg(&folder)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap();
    guard(&process, &folder);
    let server = Server { process, folder, port, databases: AtomicU32::new(0) };
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
