//! Every bad request answers 4xx with the pointer to each wrong field and its fix; none costs memory, time or the server.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bad_rows::{self, Row};
use crate::schema::check_response;
use crate::support::{Client, data_dir, post, read_to_close, tiny_with};

/// The program serving `dummy:tiny`; killed when dropped.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came back: status, media type and body.
struct Answer {
    status: u16,
    media_type: String,
    body: Value,
    bytes: usize,
}

impl Program {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mediant"))
            .args(["serve", "--listen", "127.0.0.1:0", "--model", "dummy:tiny", "--data-dir", &data_dir()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut address = None;
        let mut line = String::new();
        while !line.trim_end().ends_with("ready") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "ended before it was ready");
            if let Some((_, rest)) = line.split_once("listening on http://") {
                let end =
                    rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(rest.len());
                address = Some(rest[..end].parse().unwrap());
            }
        }
        // What it logs from now on must go somewhere.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, address: address.unwrap() }
    }

    /// Sends a request and reads the answer; a server that stops reading is no error.
    fn exchange(&self, row: &Row) -> Answer {
        let mut stream = Client::connect(self.address, Duration::from_secs(30));
        let (method, path, length) = (row.method, &row.path, row.body.len());
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n"
        );
        for (name, value) in &row.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&row.body));
        let (text, _) = read_to_close(&mut stream);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{row:?}: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| Some(line.to_ascii_lowercase().strip_prefix("content-type: ")?.to_owned());
        let media_type = head.lines().find_map(header).unwrap_or_default();
        let parsed = serde_json::from_str(body).unwrap_or_else(|e| panic!("{row:?}: {e}: {body}"));
        Answer { status, media_type, body: parsed, bytes: body.len() }
    }

    /// The most memory it ever had, in bytes.
    fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory that it has.
    fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// What is wrong with the answer to a bad request, if anything.
fn fault(row: &Row, answer: &Answer) -> Option<String> {
    let problem = &answer.body;
    if answer.status != row.status || answer.media_type != "application/problem+json" {
        return Some(format!("{} {}: {problem}", answer.status, answer.media_type));
    }
    if problem["type"] != format!("urn:mediant:problem:{}", row.slug) || problem["status"] != row.status {
        return Some(format!("{problem}"));
    }
    let none = Vec::new();
    let errors = problem["errors"].as_array().unwrap_or(&none);
    let text = |error: &Value, key: &str| error[key].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<String> =
        errors.iter().map(|e| format!("{} {}", text(e, "pointer"), text(e, "code"))).collect();
    found.sort();
    let mut expected = row.expected.clone();
    expected.sort();
    if found != expected {
        found.truncate(20);
        return Some(format!("found {found:?}"));
    }
    let silent = |e: &&Value| text(e, "fix").is_empty() || text(e, "detail").is_empty();
    if let Some(error) = errors.iter().find(silent) {
        return Some(format!("no detail or no fix: {error}"));
    }
    if problem["detail"].as_str().is_none_or(str::is_empty) || !problem["instance"].is_string() {
        return Some(format!("no detail or no instance: {problem}"));
    }
    // Pointers are as long as names are; nothing else grows with the body.
    let pointers: usize = expected.iter().map(String::len).sum();
    (answer.bytes > 100_000 + 2 * pointers).then(|| format!("{} bytes", answer.bytes))
}

#[test]
fn every_bad_request_names_its_fields_and_the_server_lives_on_within_its_memory() {
    let program = Program::start();
    let good = bad_rows::good_rows();
    for row in &good {
        let answer = program.exchange(row);
        assert_eq!(answer.status, 200, "{row:?}: {}", answer.body);
    }
    let before = program.peak();
    let started = Instant::now();
    let rows = bad_rows::rows();
    let mut faults = Vec::new();
    for row in &rows {
        let answer = program.exchange(row);
        if let Some(fault) = fault(row, &answer) {
            faults.push(format!("{row:?}\n    {fault}"));
        } else if let Some(template) = row.documented {
            check_response(&row.method.to_ascii_lowercase(), template, &row.status.to_string(), &answer.body);
        }
    }
    let (took, grown) = (started.elapsed(), program.peak() - before);
    eprintln!("{} bad requests in {took:.1?}; the peak grew by {:.1} MB", rows.len(), grown as f64 / 1e6);
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), rows.len(), faults.join("\n"));
    assert!(rows.len() >= 400, "{}", rows.len());
    assert!(grown < 200 << 20, "the peak grew by {grown} bytes");
    for row in &good {
        assert_eq!(program.exchange(row).status, 200, "{row:?} after the matrix");
    }
}

/// Bodies of a megabyte that take as much memory and time as they can.
fn heavy() -> Vec<(&'static str, &'static str, String)> {
    let list = |item: &str, n: usize| vec![item; n].join(",");
    let keys: Vec<String> = (0..75_000).map(|i| format!("\"field{i}\":0")).collect();
    let metrics: Vec<String> = (0..90_000).map(|i| format!("\"rank:t{i}\"")).collect();
    let targets: Vec<String> = (0..40_000).map(|i| format!("\"t{i}\":[\"b\"]")).collect();
    let nested = format!("{}{}", "[".repeat(100), "]".repeat(100));
    vec![
        ("nested lists", "/v1/run", format!("{{\"prompt\":\"a\",\"x\":[{}]}}", list(&nested, 5000))),
        ("objects", "/v1/run", format!("{{\"prompt\":\"a\",\"x\":[{}]}}", list("{\"\":0}", 120_000))),
        ("unknown fields", "/v1/patch", format!("{{{}}}", keys.join(","))),
        (
            "metrics",
            "/v1/run",
            format!("{{\"prompt\":\"a\",\"target\":\"b\",\"metrics\":[{}]}}", metrics.join(",")),
        ),
        (
            "targets of cases",
            "/v1/sweep",
            format!(
                "{{\"dataset\":{{\"inline\":[{}]}},\"targets\":{{{}}}}}",
                list("{\"prompt\":\"a\"}", 20_000),
                targets.join(",")
            ),
        ),
    ]
}

#[test]
fn many_heavy_bodies_at_once_keep_to_the_memory_and_leave_the_server_alive() {
    const CLIENTS: usize = 64;
    let program = Arc::new(Program::start());
    let good = &bad_rows::good_rows()[0];
    assert_eq!(program.exchange(good).status, 200);
    let before = program.resident();
    for (what, path, body) in heavy() {
        let row =
            Arc::new(Row { method: "POST", path: path.to_owned(), body: body.into_bytes(), ..good.clone() });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (program, row) = (Arc::clone(&program), Arc::clone(&row));
                std::thread::spawn(move || program.exchange(&row).status)
            })
            .collect();
        let mut waits = Vec::new();
        let probe = Row { method: "GET", path: "/v1/version".to_owned(), body: Vec::new(), ..good.clone() };
        while clients.iter().any(|client| !client.is_finished()) {
            let asked = Instant::now();
            assert_eq!(program.exchange(&probe).status, 200);
            waits.push(asked.elapsed());
            std::thread::sleep(Duration::from_millis(10));
        }
        waits.sort();
        let statuses: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(statuses.iter().all(|status| matches!(status, 413 | 422 | 429)), "{what}: {statuses:?}");
        let (late, grown) = (waits[waits.len() * 99 / 100], program.peak() - before);
        eprintln!("{what}: the 99th of 100 waits {late:?}, the peak grew by {:.0} MB", grown as f64 / 1e6);
        // In a build without optimisation, on cores shared with the clients. On cores of its own it is 50 ms.
        assert!(late < Duration::from_millis(1500), "{what}: {late:?}");
        assert!(grown < 512 << 20, "{what}: the peak grew by {grown} bytes");
    }
    assert_eq!(program.exchange(good).status, 200);
    let started = Instant::now();
    while program.resident() > before + (64 << 20) {
        let kept = program.resident() - before;
        assert!(started.elapsed() < Duration::from_mins(1), "{kept} bytes are kept");
        std::thread::sleep(Duration::from_millis(200));
    }
    eprintln!("memory is back after {:?}", started.elapsed());
}

#[test]
fn a_header_of_many_columns_is_refused_at_once() {
    let program = Program::start();
    let columns: Vec<String> = (0..1_000_000).map(|i| format!("c{i}")).collect();
    let headers = vec![("content-type", "text/csv")];
    let good = bad_rows::good_rows().swap_remove(0);
    let body = format!("{}\n", columns.join(",")).into_bytes();
    let row = Row { method: "POST", path: "/v1/datasets".to_owned(), headers, body, ..good };
    let started = Instant::now();
    let answer = program.exchange(&row);
    assert_eq!((answer.status, &answer.body["errors"][0]["code"]), (422, &json!("limit_exceeded")));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn one_body_with_many_faults_gets_them_all_at_once() {
    let program = Program::start();
    let body = json!({
        "modle": "x",
        "runs": {"a": {"prompt": "The Tower", "spans": {"s": "Berlin"}}, "b": {"tokens": [1, 5_000_000]}},
        "base": "a",
        "interventions": [
            {"site": "resid_post", "layers": 999, "positions": [77], "heads": [0], "source": {"run": "b"}},
            {"site": "z", "heads": [9], "op": "add", "coef": "big", "source": {"vector": [1]}},
            {"site": "nowhere", "op": "zero"}],
        "sweep": ["layers", "colours"], "target": -1, "metrics": ["accuracy:x"], "read": {"topk": -1}, "strict": "no"});
    let expected = [
        "/interventions/0/heads not_supported",
        "/interventions/0/layers out_of_range",
        "/interventions/0/positions/0 out_of_range",
        "/interventions/1/coef wrong_type",
        "/interventions/2/site unknown_value",
        "/metrics/0 unknown_value",
        "/modle unknown_field",
        "/read/topk out_of_range",
        "/runs/a/spans/s span_absent",
        "/runs/b/tokens/1 unknown_token",
        "/strict wrong_type",
        "/sweep/1 unknown_value",
        "/target out_of_range",
    ];
    let row = Row::of("patch", &body, &expected);
    assert_eq!(fault(&row, &program.exchange(&row)), None);
}

#[tokio::test]
async fn work_over_the_ceiling_is_refused_with_its_estimate_before_it_is_done() {
    let body = json!({"prompt": "The Tower is tall", "subject": "Tower", "target": "P"});
    let state = tiny_with(&[("limits.row_layers", "2000")]);
    let reply = post(&state, "/v1/trace", &body).await;
    assert_eq!(reply.status, 422, "{}", reply.text());
    let problem = reply.json();
    check_response("post", "/v1/trace", "422", &problem);
    assert_eq!(problem["type"], "urn:mediant:problem:too-large");
    assert_eq!(problem["errors"][0]["code"], "too_large");
    assert!(!problem["errors"][0]["fix"].as_str().unwrap().is_empty());
    assert_eq!(problem["ceiling"]["row_layers"], 2000);
    let planned = post(&state, "/v1/plan", &json!({"trace": body})).await.json();
    assert_eq!((&planned["allowed"], &planned["cost"]), (&json!(false), &problem["estimate"]));
    assert!(problem["estimate"]["row_layers"].as_u64().unwrap() > 2000);
    // Less of the same is let in.
    let less = json!({"prompt": "The Tower is tall", "subject": "Tower", "target": "P", "layers": [3], "corrupt": {"samples": 2}});
    assert_eq!(post(&state, "/v1/trace", &less).await.status, 200);

    let state = tiny_with(&[("limits.sync_limit_s", "0.001")]);
    let reply = post(&state, "/v1/trace", &body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["ceiling"]["seconds"]), (422, &json!(0.001)));
}

#[tokio::test]
async fn limits_of_the_configuration_are_the_limits_of_requests() {
    let state = tiny_with(&[
        ("limits.samples", "3"),
        ("limits.cells", "50"),
        ("limits.prompt_bytes", "20"),
        ("limits.response_numbers", "500"),
        ("http.max_body_bytes", "1024"),
    ]);
    for (body, expected) in [
        (
            json!({"prompt": "The Tower", "subject": "Tower", "target": "P", "corrupt": {"samples": 4}}),
            "/corrupt/samples",
        ),
        (
            json!({"prompt": "The Tower", "subject": "Tower", "target": "P", "corrupt": {"samples": 2}}),
            "/arms",
        ),
        (
            json!({"prompt": "The Tower is not so tall", "subject": "Tower", "target": "P", "corrupt": {"samples": 1}}),
            "/prompt",
        ),
        (
            json!({"prompt": "The Tower", "subject": "Tower", "target": "P", "layers": 1, "read": {"topk": 200},
                "corrupt": {"samples": 1}}),
            "/read/topk",
        ),
    ] {
        let reply = post(&state, "/v1/trace", &body).await;
        assert_eq!(reply.status, 422, "{body}: {}", reply.text());
        let errors = reply.json()["errors"].clone();
        assert_eq!(
            (&errors[0]["pointer"], &errors[0]["code"]),
            (&json!(expected), &json!("limit_exceeded")),
            "{errors}"
        );
        assert!(errors.as_array().unwrap().len() == 1, "{errors}");
    }
    let capture = json!({"prompt": "The Tower", "read": {"capture": [{"site": "z", "positions": "all"}]}});
    let reply = post(&state, "/v1/run", &capture).await;
    assert_eq!(reply.json()["errors"][0]["pointer"], "/read/capture/0", "{}", reply.text());
    let reply = post(&state, "/v1/run", &json!({"prompt": "x".repeat(1024)})).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["limit_bytes"]), (413, &json!(1024)));
}
