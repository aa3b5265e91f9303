//! The program with keys: the command line makes them, the server asks for them, and no log has them.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::data_dir;

/// The program in a folder, with what else the environment says.
fn program(folder: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mediant"));
    command.env_remove("MEDIANT_KEY").env_remove("MEDIANT_SERVER").env("MEDIANT__STORE__DATA_DIR", folder);
    command.envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Standard output of a command that must succeed.
fn ok(mut command: Command, arguments: &[&str]) -> String {
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A token, made in the store of a folder.
fn made(folder: &str, owner: &str, scopes: &str) -> String {
    ok(program(folder, &[]), &["key", "create", "--owner", owner, "--scopes", scopes])
}

/// A server, and all that it has written so far.
struct Server {
    child: Child,
    written: Arc<Mutex<String>>,
    url: String,
    http: Client,
}

impl Server {
    /// One that is ready.
    async fn start(folder: &str, listen: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = program(folder, settings);
        let mut child = command.args(["serve", "--listen", listen, "--model", "dummy:tiny"]).spawn().unwrap();
        let written = Arc::new(Mutex::new(String::new()));
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stderr.take().unwrap()), Box::new(child.stdout.take().unwrap())];
        for stream in streams {
            let written = Arc::clone(&written);
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    let mut written = written.lock().unwrap();
                    written.push_str(&String::from_utf8_lossy(&line));
                    written.push('\n');
                }
            });
        }
        let mut server = Self { child, written, url: String::new(), http: Client::new() };
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(30), "{}", server.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
            if server.url.is_empty() {
                let log = server.log();
                let port = log.split_once("listening on http://").and_then(|(_, rest)| {
                    let rest = rest.split_once('\n')?.0;
                    let is_of_address = |c: char| c.is_ascii_hexdigit() || ".:[]".contains(c);
                    let address = rest.split(|c| !is_of_address(c)).next()?;
                    Some(address.rsplit_once(':')?.1.to_owned())
                });
                server.url = port.map(|port| format!("http://127.0.0.1:{port}")).unwrap_or_default();
            } else if server.get("/readyz", None).await.0 == 200 {
                return server;
            }
        }
    }

    fn log(&self) -> String {
        self.written.lock().unwrap().clone()
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let reply = request.send().await.unwrap();
        let status = reply.status();
        let text = reply.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str, token: Option<&str>) -> (StatusCode, Value) {
        self.ask(Method::GET, path, token, &[], None).await
    }

    async fn post(&self, path: &str, token: &str, body: &Value) -> (StatusCode, Value) {
        self.ask(Method::POST, path, Some(token), &[], Some(body.to_string())).await
    }

    /// The program as a client of this server.
    fn client(&self, token: Option<&str>) -> Command {
        let mut command = program(&data_dir(), &[("MEDIANT_SERVER", &self.url)]);
        command.envs(token.map(|token| ("MEDIANT_KEY", token)));
        command
    }

    /// Ends it; all that it wrote.
    fn end(mut self) -> String {
        let killed =
            Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success() && self.child.wait().unwrap().success());
        std::thread::sleep(Duration::from_millis(200));
        self.log()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const KEYS_ON: (&str, &str) = ("MEDIANT__AUTH__KEYS", "on");

#[tokio::test(flavor = "multi_thread")]
async fn others_are_let_in_without_a_key_only_if_the_configuration_says_so_twice() {
    let off = ("MEDIANT__AUTH__KEYS", "off");
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let mut command = program(&data_dir(), &[off]);
        let output = command.args(["serve", "--listen", listen, "--model", "dummy:tiny"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = said(&output);
        for fix in ["auth.keys = \"on\"", "127.0.0.1", "auth.public_without_keys = true"] {
            assert!(said.contains(fix), "{said}");
        }
    }
    let open = [off, ("MEDIANT__AUTH__PUBLIC_WITHOUT_KEYS", "true")];
    let server = Server::start(&data_dir(), "0.0.0.0:0", &open).await;
    assert_eq!(server.get("/readyz", None).await.1["keys"], "off");
    assert_eq!(server.get("/v1/me", None).await.1["owner"], "local");
    // Left alone, a public address needs keys, and tells how the first is made.
    let folder = data_dir();
    let server = Server::start(&folder, "0.0.0.0:0", &[]).await;
    let (_, ready) = server.get("/readyz", None).await;
    assert_eq!((&ready["status"], &ready["keys"]), (&json!("ready"), &json!("none")));
    assert!(ready["first_key"].as_str().unwrap().contains("mediant key create"), "{ready}");
    let (status, told) = server.get("/v1/models", None).await;
    assert_eq!(status, 401);
    assert!(told["errors"][0]["fix"].as_str().unwrap().contains("mediant key create"), "{told}");
    assert_eq!(server.get("/healthz", None).await.0, 200);
    assert!(server.log().contains("there is none"), "{}", server.log());
    let mut busy = program(&folder, &[]);
    let output = busy.args(["key", "create", "--owner", "ann"]).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("--server"), "{}", said(&output));
    drop(server);
    let token = made(&folder, "ann", "admin,run");
    let server = Server::start(&folder, "0.0.0.0:0", &[]).await;
    assert_eq!(server.get("/readyz", None).await.1["keys"], "on");
    assert_eq!(server.get("/v1/me", Some(&token)).await.1["owner"], "ann");
    // On the loopback none is needed.
    let server = Server::start(&data_dir(), "127.0.0.1:0", &[]).await;
    assert_eq!(server.get("/v1/models", None).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_replaces_and_ends_keys_and_uses_them() {
    let folder = data_dir();
    let admin = made(&folder, "ann", "admin");
    let list = ok(program(&folder, &[]), &["key", "list"]);
    assert!(list.contains("ann  admin  active  no end  never used") && !list.contains("mdt_"), "{list}");
    let server = Server::start(&folder, "127.0.0.1:0", &[KEYS_ON]).await;
    let at = ["--server", &server.url];
    let key = |arguments: &[&str]| ok(server.client(Some(&admin)), &[&["key"], arguments, &at].concat());
    let token = key(&["create", "--owner", "bob", "--name", "notebook", "--expires", "90d"]);
    let list = key(&["list"]);
    let line = list.lines().find(|line| line.contains("bob")).unwrap();
    assert!(
        line.contains("run,sweep,upload,remote  active  until 20") && line.contains("\"notebook\""),
        "{line}"
    );
    let id = line.split_whitespace().next().unwrap();

    let mut run = server.client(None);
    let output = run.args(["submit", "-", "--to", "run"]).output().unwrap();
    let refused = said(&output);
    assert!(refused.contains("JSON") || refused.contains("401"), "{refused}");
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), r#"{"prompt": "Rome"}"#).unwrap();
    let submit = ["submit", body.path().to_str().unwrap(), "--to", "run", "--watch"];
    for (token, status) in [(None, "401"), (Some(&admin), "403")] {
        let output = server.client(token.map(String::as_str)).args(submit).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let refused = said(&output);
        assert!(refused.contains(status) && refused.contains("key"), "{refused}");
    }
    let job = ok(server.client(Some(&token)), &submit);
    assert!(ok(server.client(Some(&token)), &["result", &job]).contains("\"topk\""));
    let output = server.client(Some(&admin)).args(["result", &job]).output().unwrap();
    assert!(said(&output).contains("404"), "{}", said(&output));

    let next = key(&["rotate", id, "--grace", "1s"]);
    assert_ne!(next, token);
    assert_eq!(server.get("/v1/me", Some(&next)).await.0, 200);
    let began = Instant::now();
    while server.get("/v1/me", Some(&token)).await.0 == 200 {
        assert!(began.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let list = key(&["list"]);
    let line = list.lines().filter(|line| line.contains("bob")).find(|line| line.contains("active")).unwrap();
    let line = key(&["revoke", line.split_whitespace().next().unwrap()]);
    assert!(line.contains("revoked"), "{line}");
    assert_eq!(server.get("/v1/me", Some(&next)).await.1["errors"][0]["code"], "revoked_key");
    // By whom there is no right to do so.
    let output = server.client(None).args(["key", "list"]).args(at).output().unwrap();
    assert!(said(&output).contains("401"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_token_and_a_planted_prompt_are_in_no_log() {
    const PROMPT: &str = "Xylophagous quokkas vexed";
    // At `trace`, prompts may be; tokens never are.
    for (filter, prompts) in
        [("trace", true), ("debug", false), ("info", false), ("error,mediant::app=info", false)]
    {
        let folder = data_dir();
        let token = made(&folder, "alice", "run,sweep,upload,admin");
        let json = if filter == "info" { "true" } else { "false" };
        let mut settings =
            vec![KEYS_ON, ("MEDIANT__TELEMETRY__FILTER", filter), ("MEDIANT__TELEMETRY__JSON", json)];
        // What a panic says is there at every level; the work is computed all the same.
        let panics = matches!(filter, "debug" | "error,mediant::app=info");
        settings.extend(panics.then_some(("MEDIANT_FAULT", "panic@batch=2")));
        let server = Server::start(&folder, "127.0.0.1:0", &settings).await;
        let run = json!({"prompt": PROMPT, "target": "I"});
        assert_eq!(server.post("/v1/run", &token, &run).await.0, 200);
        let text = json!({"prompt": PROMPT, "max_tokens": 2});
        assert_eq!(server.post("/v1/generate", &token, &text).await.0, 200);
        assert_eq!(server.post("/v1/completions", &token, &text).await.0, 200);
        let patch = json!({"prompt": PROMPT, "target": "I", "interventions": [{"site": PROMPT}]});
        assert_eq!(server.post("/v1/patch", &token, &patch).await.0, 422);
        let cases = json!([{"prompt": PROMPT, "subject": "quokkas", "target": "I"}]);
        let (status, set) = server.post("/v1/datasets", &token, &cases).await;
        assert_eq!(status, 201, "{set}");
        let sweep = json!({"dataset": {"id": set["id"]}, "corrupt": {"samples": 2}, "arms": ["hidden"],
                           "filters": {"expect_top1": false}});
        assert_eq!(server.post("/v1/sweep", &token, &sweep).await.0, 200);
        let (status, key) = server.post("/v1/admin/keys", &token, &json!({"owner": "bob"})).await;
        assert_eq!(status, 201);
        let other = key["token"].as_str().unwrap();
        // Where it does not belong.
        let headers = [
            ("idempotency-key", &token[..]),
            ("x-api-key", &token),
            ("user-agent", &token),
            ("ndif-api-key", &token),
        ];
        let asked = async |path: &str, body: Option<String>| {
            let method = if body.is_some() { Method::POST } else { Method::GET };
            let (status, told) = server.ask(method, path, Some(&token), &headers, body).await;
            assert!(!told.to_string().contains(&token[4..40]), "{path} {status}: {told}");
            assert!(!status.is_server_error(), "{path}: {told}");
        };
        asked(&format!("/v1/jobs/{token}"), None).await;
        asked(&format!("/v1/{token}"), None).await;
        asked(&format!("/v1/jobs?key={token}"), None).await;
        asked(&format!("/v1/activations/{token}?{token}={token}"), None).await;
        asked("/v1/run", Some(json!({"prompt": "a", token.clone(): 1}).to_string())).await;
        asked("/v1/run", Some(format!("{{\"prompt\": \"a\", \"{token}"))).await;
        asked("/v1/plan", Some(json!({"run": {"prompt": "a", "key": token}}).to_string())).await;
        asked("/v1/admin/keys", Some(json!({"owner": token}).to_string())).await;
        let bad = format!("{}x", &token[..token.len() - 1]);
        assert_eq!(server.get("/v1/me", Some(&bad)).await.0, 401);
        assert_eq!(server.ask(Method::GET, "/v1/me", None, &[("authorization", &token)], None).await.0, 401);
        assert_eq!(server.get("/v1/me", Some(other)).await.0, 200);
        let log = server.end();
        assert!(
            filter.starts_with("error") || log.contains("key_") && log.contains("/v1/run"),
            "what was asked, and with which key, is there: {log}"
        );
        assert!(!panics || log.contains("panic"), "{filter}: {log}");
        for secret in [&token[..], other, &bad] {
            for piece in [&secret[4..40], &secret[4..24], &secret[24..47]] {
                let line = log.lines().find(|line| line.contains(piece));
                assert!(line.is_none(), "{filter}: {}", line.unwrap_or_default());
            }
        }
        let line = log.lines().find(|line| line.contains("quokkas")).filter(|_| !prompts);
        assert!(line.is_none(), "{filter}: {}", line.unwrap_or_default());
        // Of a token there is a hash in the store and nothing else.
        for file in std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()) {
            let bytes = std::fs::read(&file).unwrap_or_default();
            let found = bytes.windows(24).any(|window| window == &token.as_bytes()[4..28]);
            assert!(!found, "{}", file.display());
        }
    }
}
