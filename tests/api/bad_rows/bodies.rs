//! Wrong bodies and heads.

use serde_json::{Value, json};

use super::{PROMPT, Row};

/// Whole bodies, short forms above all.
pub(super) fn bodies() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let run = |run: &str| json!({"runs": {"clean": PROMPT, "b": "Hi"}, "target": "P", "corrupt": {"method": "run", "run": run}});
    vec![
        ("run", json!({}), vec!["/prompt missing_field"]),
        ("run", json!({"promt": "Hi"}), vec!["/prompt missing_field", "/promt unknown_field"]),
        ("run", json!({"prompt": "Hi", "tokens": [1]}), vec!["/prompt conflict"]),
        ("run", json!({"tokens": [1, 999]}), vec!["/tokens/1 unknown_token"]),
        ("run", json!({"prompt": "Hi", "spans": {"s": "x"}}), vec!["/spans/s span_absent"]),
        ("run", json!({"prompt": "Hi", "metrics": ["prob:target"]}), vec!["/metrics/0 unknown_name"]),
        ("run", json!({"prompt": "Hi", "target": 999}), vec!["/target unknown_token"]),
        ("run", json!({"prompt": "Hi", "target": ["P", 999]}), vec!["/target/1 unknown_token"]),
        ("run", json!([]), vec![" wrong_type"]),
        ("run", json!(null), vec![" wrong_type"]),
        ("run", json!("The Tower"), vec![" wrong_type"]),
        ("run", json!(5), vec![" wrong_type"]),
        ("patch", json!({}), vec!["/base missing_field", "/source missing_field"]),
        ("patch", json!({"base": "Hi", "source": 5}), vec!["/source wrong_type"]),
        ("patch", json!({"base": "Hi", "source": "Ho", "target": ""}), vec!["/target empty"]),
        ("patch", json!({"base": {"prompt": "Hi"}, "source": "Ho"}), vec!["/base wrong_type"]),
        ("trace", json!({}), vec!["/prompt missing_field", "/target missing_field"]),
        ("trace", json!({"prompt": PROMPT}), vec!["/subject missing_field", "/target missing_field"]),
        ("trace", json!({"prompt": PROMPT, "target": "P"}), vec!["/subject missing_field"]),
        ("trace", json!({"prompt": PROMPT, "target": "P", "subject": "River"}), vec!["/subject span_absent"]),
        ("trace", json!({"prompt": PROMPT, "target": "P", "subject": "l"}), vec!["/subject span_ambiguous"]),
        (
            "trace",
            json!({"prompt": PROMPT, "target": "P", "subject": [0, 99]}),
            vec!["/subject out_of_range"],
        ),
        ("trace", json!({"prompt": PROMPT, "target": "P", "subject": 5}), vec!["/subject wrong_type"]),
        (
            "trace",
            json!({"prompt": PROMPT, "target": "P", "corrupt": {"sigma": 0.1, "positions": [1]}}),
            vec!["/corrupt/sigma wrong_type"],
        ),
        ("trace", run("b"), vec!["/corrupt/run length_mismatch"]),
        ("trace", run("clean"), vec!["/corrupt/run self_reference"]),
        ("trace", run("nobody"), vec!["/corrupt/run unknown_name"]),
        ("tokenize", json!({}), vec!["/prompt missing_field"]),
        ("tokenize", json!([]), vec![" wrong_type"]),
    ]
}

/// Bodies that ask for too much, or are too much.
pub(super) fn huge() -> Vec<Row> {
    let long = "The Tower ".repeat(10_000);
    let positions = |n: usize, p: i64| json!({"prompt": PROMPT, "subject": "Tower", "target": "P", "positions": vec![p; n]});
    let too_large = |endpoint, body: Value| {
        Row::raw(endpoint, body.to_string().into_bytes(), 413, "body-too-large", &[" too_large"])
    };
    let runs: serde_json::Map<String, Value> = (0..65).map(|i| (format!("r{i}"), json!("Hi"))).collect();
    let mut rows = vec![
        // 100,000 tokens.
        Row::of("run", &json!({"prompt": long}), &["/prompt limit_exceeded"]),
        Row::of("tokenize", &json!({"prompt": long}), &["/prompt limit_exceeded"]),
        Row::of("run", &json!({"tokens": vec![7; 100_000]}), &["/tokens limit_exceeded"]),
        Row::of("run", &json!({"tokens": vec![7; 2049]}), &["/tokens limit_exceeded"]),
        Row::of("run", &json!({"prompt": "x".repeat(2048)}), &["/prompt limit_exceeded"]),
        Row::of("run", &json!({"runs": runs}), &["/runs limit_exceeded"]),
        Row::of("run", &json!({"prompt": "Hi", "target": "P".repeat(5000)}), &["/target limit_exceeded"]),
        Row::of(
            "run",
            &json!({"prompt": "Hi", "target": (0..300).collect::<Vec<_>>()}),
            &["/target limit_exceeded"],
        ),
        Row::of(
            "run",
            &json!({"prompt": "Hi", "x".repeat(500_000): 1}),
            &[format!("/{} unknown_field", "x".repeat(500_000))],
        ),
        too_large("run", json!({"prompt": "x".repeat(1 << 20)})),
        too_large("run", json!({"tokens": vec![7; 1_000_000]})),
        too_large("trace", positions(1_000_000, 3)),
        Row::raw("run", vec![b' '; 10_000_000], 413, "body-too-large", &[" too_large"]),
    ];
    // A problem for each of 300,000 items: the first hundred are told.
    let each = |code: &str, from: usize| {
        (from..from + 100).map(|i| format!("/positions/{i} {code}")).collect::<Vec<_>>()
    };
    rows.push(Row::of("trace", &positions(300_000, 99), &each("out_of_range", 0)));
    rows.push(Row::of("trace", &positions(300_000, 3), &["/positions/1 duplicate"]));
    let strings =
        json!({"prompt": PROMPT, "subject": "Tower", "target": "P", "positions": vec!["a"; 200_000]});
    rows.push(Row::of("trace", &strings, &each("wrong_type", 0)));
    let unknown: serde_json::Map<String, Value> =
        (0..60_000).map(|i| (format!("field{i}"), json!(1))).collect();
    let first: Vec<String> = (0..100).map(|i| format!("/field{i} unknown_field")).collect();
    rows.push(Row::of("tokenize", &json!(unknown), &first));
    rows
}

/// Bodies that are no JSON, or not one that means one thing.
pub(super) fn malformed() -> Vec<Row> {
    let deep = |n: usize| format!("{{\"prompt\":{}1{}}}", "[".repeat(n), "]".repeat(n));
    let raw = |body: &[u8], code: &str| {
        Row::raw("run", body.to_vec(), 400, "malformed-json", &[format!(" {code}")])
    };
    let mut rows: Vec<Row> = [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("{\"prompt\":", "syntax"),
        ("{\"prompt\":\"x\"", "syntax"),
        ("{\"prompt\":\"x\"} x", "syntax"),
        ("{\"prompt\":\"x\"}{}", "syntax"),
        ("{prompt:\"x\"}", "syntax"),
        ("{'prompt':'x'}", "syntax"),
        ("{\"prompt\":\"x\",}", "syntax"),
        ("{\"prompt\":\"a\nb\"}", "syntax"),
        ("{\"prompt\":\"\\ud800\"}", "syntax"),
        ("{\"prompt\":\"\\x\"}", "syntax"),
        ("{\"prompt\":NaN}", "syntax"),
        ("{\"prompt\":\"x\",\"read\":{\"topk\":Infinity}}", "syntax"),
        ("{\"prompt\":\"x\",\"read\":{\"topk\":-NaN}}", "syntax"),
        ("{\"prompt\":\"x\",\"read\":{\"topk\":1e999}}", "syntax"),
        ("{\"prompt\":\"x\",\"read\":{\"topk\":01}}", "syntax"),
        ("{\"prompt\":\"x\",\"read\":{\"topk\":.5}}", "syntax"),
        ("<xml/>", "syntax"),
        ("prompt=x", "syntax"),
        ("\u{feff}{\"prompt\":\"x\"}", "encoding"),
    ]
    .map(|(body, code)| raw(body.as_bytes(), code))
    .into();
    rows.push(raw(deep(200).as_bytes(), "syntax"));
    rows.push(raw("[".repeat(500_000).as_bytes(), "syntax"));
    rows.push(raw(b"{\"prompt\":\"\xff\"}", "encoding"));
    rows.push(raw(b"\xff\xfe{\x00}\x00", "encoding"));
    rows.push(Row::of("run", &serde_json::from_str(&deep(100)).unwrap(), &["/prompt wrong_type"]));
    let digits = format!("{{\"prompt\":\"x\",\"read\":{{\"topk\":{}}}}}", "9".repeat(100_000));
    rows.push(raw(digits.as_bytes(), "syntax"));
    let twice = b"{\"prompt\":\"x\",\"read\":{\"topk\":1,\"topk\":2},\"prompt\":\"y\"}".to_vec();
    rows.push(Row::raw(
        "run",
        twice,
        400,
        "malformed-json",
        &["/prompt duplicate_key", "/read/topk duplicate_key"],
    ));
    rows
}

/// Requests whose head is wrong.
pub(super) fn protocol() -> Vec<Row> {
    let body = json!({"prompt": "Hi"}).to_string().into_bytes();
    let media = |headers: Vec<(&'static str, &'static str)>| Row {
        headers,
        ..Row::raw("run", body.clone(), 415, "unsupported-media-type", &[" media_type"])
    };
    let mut rows = vec![
        media(vec![("content-type", "application/x-www-form-urlencoded")]),
        media(vec![("content-type", "text/plain")]),
        media(vec![("content-type", "application/json; charset=utf-16")]),
        media(vec![("content-type", "application/json"), ("content-encoding", "gzip")]),
        media(vec![("content-type", "")]),
    ];
    for (method, path) in [
        ("GET", "/v1/run"),
        ("PUT", "/v1/trace"),
        ("DELETE", "/v1/patch"),
        ("POST", "/v1/models"),
        ("PATCH", "/v1/plan"),
    ] {
        let row = Row::raw("run", Vec::new(), 405, "method-not-allowed", &[""; 0]);
        rows.push(Row { method, path: path.to_owned(), documented: None, ..row });
    }
    for path in [
        "/v1/runs",
        "/v1/run/",
        "//v1/run",
        "/v1/run/x",
        "/v2/run",
        "/v1/%72un%00",
        "/v1/../v1/run",
        "/v1/models/a%2Fb",
    ] {
        let row = Row::raw("run", Vec::new(), 404, "not-found", &[""; 0]);
        let method = if path.starts_with("/v1/models") { "GET" } else { "POST" };
        rows.push(Row { method, path: path.to_owned(), documented: None, ..row });
    }
    for (path, expected) in [
        ("/v1/run?x=1", "?x unknown_parameter"),
        ("/v1/run?format=xml", "?format unknown_format"),
        ("/v1/run?format=svg", "?format not_supported"),
        ("/v1/run?format=csv&format=csv", "?format duplicate_parameter"),
        ("/v1/trace?metrics=prob:x", "?metrics unknown_parameter"),
        ("/v1/plan?format=json", "?format unknown_parameter"),
        ("/v1/run?format=csv&metric=prob:x", "?metric unknown_name"),
    ] {
        let row = Row::raw("run", body.clone(), 422, "invalid-request", &[expected]);
        rows.push(Row { path: path.to_owned(), ..row });
    }
    let accept = |accept| vec![("content-type", "application/json"), ("accept", accept)];
    for unserved in ["application/pdf", "image/gif", "text/html, video/*;q=0.5"] {
        let row = Row::raw("run", body.clone(), 406, "not-acceptable", &[""; 0]);
        rows.push(Row { headers: accept(unserved), ..row });
    }
    rows
}
