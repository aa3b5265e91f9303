//! The matrix of bad requests: what is sent, and what must come back.

mod bodies;
mod patch;
mod reads;
mod run;
mod tokens;
mod trace;

use serde_json::{Value, json};

const PROMPT: &str = "The Tower is tall";

/// A request and the answer it must get.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: Vec<u8>,
    pub(crate) status: u16,
    /// Last part of the problem's type.
    pub(crate) slug: &'static str,
    /// `pointer code` of every error.
    pub(crate) expected: Vec<String>,
    /// The path under which the OpenAPI document describes the answer.
    pub(crate) documented: Option<&'static str>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body: String = String::from_utf8_lossy(&self.body).chars().take(300).collect();
        write!(
            f,
            "{} {} {:?} {body} -> {} {:?}",
            self.method, self.path, self.headers, self.status, self.expected
        )
    }
}

impl Row {
    /// A JSON body whose fields are wrong.
    pub(crate) fn of(endpoint: &'static str, body: &Value, expected: &[impl ToString]) -> Self {
        Self::raw(endpoint, body.to_string().into_bytes(), 422, "invalid-request", expected)
    }

    fn raw(
        endpoint: &'static str,
        body: Vec<u8>,
        status: u16,
        slug: &'static str,
        expected: &[impl ToString],
    ) -> Self {
        Self {
            method: "POST",
            path: format!("/v1/{endpoint}"),
            headers: vec![("content-type", "application/json")],
            body,
            status,
            slug,
            expected: expected.iter().map(ToString::to_string).collect(),
            documented: Some(match endpoint {
                "run" => "/v1/run",
                "patch" => "/v1/patch",
                "trace" => "/v1/trace",
                "plan" => "/v1/plan",
                "align" => "/v1/align",
                "lens" => "/v1/lens",
                "surprisal" => "/v1/surprisal",
                _ => "/v1/tokenize",
            }),
        }
    }
}

/// A request that is in order, by endpoint.
fn good(endpoint: &str) -> Value {
    match endpoint {
        "run" => json!({
            "runs": {"a": {"prompt": PROMPT, "spans": {"s": "Tower"}}, "b": {"tokens": [256, 84, 104]}},
            "targets": {"x": ["P"], "y": [300]},
            "metrics": ["prob:x", "logit_diff:x-y", "kl:b"],
            "read": {"at": "last", "topk": 3,
                     "capture": [{"site": "z", "layers": [0], "positions": [0], "as": "inline", "dtype": "f32"}]},
            "strict": false}),
        "patch" => json!({
            "runs": {"a": {"prompt": PROMPT, "spans": {"s": "Tower"}}, "b": "The river is deep"},
            "base": "a",
            "interventions": [
                {"site": "resid_post", "layers": "all", "positions": [0, 1], "window": 1, "op": "replace",
                 "source": {"run": "b", "positions": [0, 1]}},
                {"site": "z", "layers": "all", "positions": [0, 1], "heads": [0], "op": "add", "coef": 2,
                 "source": {"vector": vec![0.5; 16]}},
                {"site": "embed", "positions": [2], "op": "noise", "sigma": {"k": 1, "of": "vocab"}, "seed": 3,
                 "rng": "philox"},
                {"site": "mlp_out", "layers": [0], "positions": "last", "op": "scale", "factor": 2}],
            "sweep": ["layers"], "target": "P", "metrics": ["prob:target"],
            "normalise": {"zero": "a", "one": "b"}, "controls": ["self_patch"]}),
        "trace" => json!({
            "runs": {"clean": {"prompt": PROMPT, "spans": {"subject": "Tower"}}, "other": "The river is deep", "short": "Hi"},
            "corrupt": {"from": "clean", "method": "gaussian", "positions": {"span": "subject", "which": "all"},
                        "sigma": {"k": 3, "of": "subjects"}, "mode": "add", "samples": 2, "seed": 1, "rng": "philox",
                        "include_bos": false},
            "arms": {"hidden": {"site": "resid_post", "window": 1}, "z": {"site": "z", "heads": [1]}},
            "layers": "all", "positions": "all", "base": "corrupted",
            "targets": {"x": ["P"]}, "metrics": ["prob:x"], "expect_top1": "x", "on_unexpected": "warn",
            "controls": [], "keep": {"per_sample": false}, "plot": ["svg"]}),
        "align" => json!({
            "a": PROMPT, "b": {"prompt": "The River is tall", "spans": {"s": "River"}}, "target": "P",
            "metrics": ["prob:target"], "read": {"at": "last", "topk": 2}, "strict": false}),
        "lens" => json!({
            "prompt": PROMPT, "spans": {"s": "Tower"}, "target": "P", "metrics": ["prob:target"], "layers": "all",
            "positions": [0, 1], "topk": 2, "strict": false}),
        "surprisal" => json!({"runs": {"a": PROMPT, "b": {"tokens": [256, 84]}}, "topk": 1, "strict": false}),
        _ => json!({"prompt": PROMPT, "spans": {"s": "Tower"}, "bos": true}),
    }
}

const ENDPOINTS: [&str; 7] = ["run", "patch", "trace", "tokenize", "align", "lens", "surprisal"];

/// Requests that must succeed before and after the matrix.
pub(crate) fn good_rows() -> Vec<Row> {
    ENDPOINTS.iter().map(|endpoint| Row::of(endpoint, &good(endpoint), &[""; 0])).collect()
}

fn set(body: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match body.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}")) {
        Value::Object(map) => {
            map.insert(key.to_owned(), value);
        }
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        other => panic!("{pointer}: {other}"),
    }
}

/// All rows: each wrong field also inside `/v1/plan`.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let fields = [
        run::fields(),
        patch::fields(),
        trace::fields(),
        tokens::tokenize_fields(),
        tokens::align_fields(),
        reads::lens_fields(),
        reads::surprisal_fields(),
    ];
    for (endpoint, fields) in ENDPOINTS.into_iter().zip(fields) {
        for (pointer, cases) in fields {
            for (value, expected) in cases {
                // A code alone is of the field that was set.
                let full = |e: &str| if e.contains(' ') { e.to_owned() } else { format!("{pointer} {e}") };
                let expected: Vec<String> = expected.split(", ").map(full).collect();
                let mut body = good(endpoint);
                set(&mut body, pointer, value);
                rows.push(Row::of(endpoint, &body, &expected));
            }
        }
    }
    for (endpoint, body, expected) in bodies::bodies() {
        rows.push(Row::of(endpoint, &body, &expected));
    }
    // Only what needs no computation can be found by a plan.
    let unplanned = |row: &&Row| {
        !["/v1/tokenize", "/v1/align"].contains(&&*row.path)
            && !row.expected[0].ends_with("unexpected_answer")
    };
    let planned: Vec<Row> = rows.iter().filter(unplanned).map(inside_plan).collect();
    rows.extend(planned);
    rows.extend(bodies::huge());
    rows.extend(bodies::malformed());
    rows.extend(bodies::protocol());
    rows
}

fn inside_plan(row: &Row) -> Row {
    let kind = row.path.strip_prefix("/v1/").unwrap();
    let body = [format!("{{\"{kind}\":").as_bytes(), &row.body, b"}"].concat();
    let expected: Vec<String> = row.expected.iter().map(|e| format!("/{kind}{e}")).collect();
    Row::raw("plan", body, 422, "invalid-request", &expected)
}

type Fields = Vec<(&'static str, Vec<(Value, &'static str)>)>;

/// Values that are no integer.
fn no_integers() -> Vec<(Value, &'static str)> {
    [json!("5"), json!(true), json!([1]), json!({}), json!(1.0), json!(1e39)]
        .map(|value| (value, "wrong_type"))
        .into()
}

/// Values that are no text.
fn no_texts() -> Vec<(Value, &'static str)> {
    [json!(5), json!(false), json!(["x"]), json!({})].map(|value| (value, "wrong_type")).into()
}

fn with(mut cases: Vec<(Value, &'static str)>, more: &[(Value, &'static str)]) -> Vec<(Value, &'static str)> {
    cases.extend_from_slice(more);
    cases
}
