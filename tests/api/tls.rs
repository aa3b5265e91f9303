//! The program over TLS, asked by curl and by hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{data_dir, read_to_close};

struct Server {
    process: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Server {
    /// With a certificate for this machine, of an authority of its own.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Not the name of the certificates that it vouches for.
        authority.distinguished_name.push(rcgen::DnType::CommonName, folder.path().to_str().unwrap());
        let pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        for (name, text) in
            [("ca.pem", pem), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
        {
            std::fs::write(path(name), text).unwrap();
        }
        let mut process = Command::new(env!("CARGO_BIN_EXE_mediant"))
            .args(["serve", "--listen", "127.0.0.1:0", "--model", "dummy:tiny"])
            .env("MEDIANT__STORE__DATA_DIR", data_dir())
            .env("MEDIANT__HTTP__TLS_CERT", path("cert.pem"))
            .env("MEDIANT__HTTP__TLS_KEY", path("key.pem"))
            .env("MEDIANT__HTTP__FIRST_BYTE_TIMEOUT_S", "1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "ended before it listened");
            if let Some((_, rest)) = line.split_once("listening on https://") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { process, address, folder }
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn curl(&self, scheme: &str, path: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new("curl")
            .args(["-sS", "-m", "60", "--retry", "20", "--cacert"])
            .arg(self.authority())
            .args(arguments)
            .arg(format!("{scheme}://{}{path}", self.address))
            .output()
            .expect("curl is installed");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    fn connect(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn curl_knows_tls() -> bool {
    let version = Command::new("curl").arg("--version").output().unwrap();
    String::from_utf8_lossy(&version.stdout).contains("https")
}

#[test]
fn the_program_speaks_tls() {
    assert!(curl_knows_tls());
    let server = Server::start();
    let (status, body) = server.curl("https", "/healthz", &[]);
    assert_eq!(status, Some(0), "{body}");
    let prompt = r#"{"tokens": [1, 2, 3]}"#;
    let json = ["-H", "content-type: application/json", "-d", prompt];
    let (status, body) = server.curl("https", "/v1/run", &json);
    assert!(status == Some(0) && body.contains("\"usage\""), "{body}");
    let (_, metrics) = server.curl("https", "/metrics", &[]);
    assert!(metrics.contains("mediant_certificate_end_seconds{setting=\"http.tls_cert\"}"), "{metrics}");
    // Another authority's certificate.
    let other = Server::start();
    let output = Command::new("curl")
        .args(["-sS", "--cacert"])
        .arg(other.authority())
        .arg(format!("https://{}/healthz", server.address))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(60), "curl's word for a certificate that nobody vouches for");
    // The command line, with the authority and without.
    let keys = |authority: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mediant"));
        command.args(["key", "list", "--server", &format!("https://{}", server.address)]);
        command.envs(authority.map(|file| ("MEDIANT_CA_CERT", file)));
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    // This server needs no keys, so it has none to list: it was reached all the same.
    assert!(keys(Some(&server.authority())).contains("auth.keys"), "{}", keys(Some(&server.authority())));
    assert!(keys(None).contains("does not answer"), "{}", keys(None));
}

#[test]
fn plain_http_is_told_to_use_tls() {
    let server = Server::start();
    let (status, body) = server.curl("http", "/v1/run", &["-d", "{}"]);
    assert_eq!(status, Some(0));
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["status"], 400);
    assert!(problem["detail"].as_str().unwrap().contains("https://"), "{problem}");
}

#[test]
fn clients_that_drag_their_greeting_are_closed() {
    let server = Server::start();
    for said in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream =
            crate::support::Client::connect(server.address.parse().unwrap(), Duration::from_secs(20));
        stream.write_all(said).unwrap();
        let (_, took) = read_to_close(&mut stream);
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    // What is no greeting at all.
    let mut stream =
        crate::support::Client::connect(server.address.parse().unwrap(), Duration::from_secs(20));
    stream.write_all(b"\x16 is how it begins, and this is no TLS\r\n\r\n").unwrap();
    read_to_close(&mut stream);
    assert_eq!(server.curl("https", "/healthz", &[]).0, Some(0), "others are served");
}

/// A client that has left ends the work: the engine is free for the next long before that trace would have been done.
#[test]
fn a_client_that_left_ends_its_work() {
    let server = Server::start();
    // curl asks again until the model is loaded.
    assert_eq!(server.curl("https", "/readyz", &["-f"]).0, Some(0));
    let waiting = |what: &str| {
        let (_, metrics) = server.curl("https", "/metrics", &[]);
        let line = metrics.lines().find(|line| line.starts_with(what)).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let prompt = format!("The Space Needle is{}", " where the river has water".repeat(9));
    let body = serde_json::json!({
        "prompt": prompt, "subject": "Space Needle", "target": " x", "corrupt": {"samples": 16},
    });
    let body = body.to_string();
    let mut stream = server.connect();
    let head = "POST /v1/trace HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    let begun = Instant::now();
    while waiting("mediant_queue_requests") < 1.0 {
        assert!(begun.elapsed() < Duration::from_mins(1), "the trace is never computed");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stream);
    let left = Instant::now();
    while waiting("mediant_queue_requests") > 0.0 {
        assert!(left.elapsed() < Duration::from_secs(5), "it is computed for nobody");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut again = server.connect();
    write!(again, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    again.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
