//! The matrix of bad requests: what is sent, and what must come back.

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
        _ => json!({"prompt": PROMPT, "spans": {"s": "Tower"}, "bos": true}),
    }
}

const ENDPOINTS: [&str; 5] = ["run", "patch", "trace", "tokenize", "align"];

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
    let fields = [run_fields(), patch_fields(), trace_fields(), tokenize_fields(), align_fields()];
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
    for (endpoint, body, expected) in bodies() {
        rows.push(Row::of(endpoint, &body, &expected));
    }
    // Only what needs no computation can be found by a plan.
    let unplanned = |row: &&Row| {
        !["/v1/tokenize", "/v1/align"].contains(&&*row.path)
            && !row.expected[0].ends_with("unexpected_answer")
    };
    let planned: Vec<Row> = rows.iter().filter(unplanned).map(inside_plan).collect();
    rows.extend(planned);
    rows.extend(huge());
    rows.extend(malformed());
    rows.extend(protocol());
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

fn run_fields() -> Fields {
    let big = json!(1_u64 << 63);
    vec![
        ("/model", with(no_texts(), &[(json!("gpt-5"), "unknown_model"), (json!(""), "empty")])),
        ("/modle", vec![(json!("x"), "unknown_field"), (json!(null), "unknown_field")]),
        ("/prompt", vec![(json!("x"), "conflict")]),
        ("/dataset", vec![(json!([]), "not_supported")]),
        ("/runs", vec![(json!([]), "wrong_type"), (json!({}), "empty"), (json!("x"), "wrong_type")]),
        (
            "/runs/a",
            vec![(json!(5), "wrong_type"), (json!(""), "empty"), (json!({}), "/runs/a/prompt missing_field")],
        ),
        ("/runs/a/prompt", with(no_texts(), &[(json!(""), "empty"), (json!(null), "missing_field")])),
        (
            "/runs/a/spans",
            vec![(json!([]), "wrong_type"), (json!({}), "empty"), (json!("Tower"), "wrong_type")],
        ),
        (
            "/runs/a/spans/s",
            vec![
                (json!("Berlin"), "span_absent"),
                (json!("tower"), "span_absent"),
                (json!("T"), "span_ambiguous"),
                (json!("l"), "span_ambiguous"),
                (json!(""), "empty"),
                (json!(3), "wrong_type"),
                (json!([1]), "wrong_type"),
                (json!([1, 2, 3]), "wrong_type"),
                (json!([1, 1]), "empty"),
                (json!([5, 2]), "empty"),
                (json!([0, 19]), "out_of_range"),
                (json!([-19, 2]), "out_of_range"),
                (json!(["0", 2]), "/runs/a/spans/s/0 wrong_type"),
                (json!([0, big]), "/runs/a/spans/s/1 wrong_type"),
            ],
        ),
        ("/runs/a/bos", vec![(json!("yes"), "wrong_type"), (json!(1), "wrong_type")]),
        ("/runs/a/colour", vec![(json!("red"), "unknown_field")]),
        ("/runs/b/tokens", vec![(json!([]), "empty"), (json!(5), "wrong_type"), (json!("Hi"), "wrong_type")]),
        (
            "/runs/b/tokens/1",
            with(
                no_integers(),
                &[
                    (json!(512), "unknown_token"),
                    (json!(u32::MAX), "unknown_token"),
                    (json!(1_u64 << 32), "out_of_range"),
                    (json!(-1), "out_of_range"),
                    (big.clone(), "out_of_range"),
                    (json!(null), "wrong_type"),
                ],
            ),
        ),
        ("/runs/b/prompt", vec![(json!("x"), "conflict")]),
        ("/runs/b/bos", vec![(json!(true), "conflict")]),
        ("/runs/b/spans", vec![(json!({"s": "T"}), "/runs/b/spans/s conflict")]),
        ("/targets", vec![(json!({}), "empty"), (json!([]), "wrong_type"), (json!("P"), "wrong_type")]),
        ("/target", vec![(json!("P"), "conflict")]),
        (
            "/targets/x",
            vec![
                (json!([]), "empty"),
                (json!({}), "wrong_type"),
                (json!(["P", "P"]), "/targets/x/1 duplicate"),
            ],
        ),
        (
            "/targets/y/0",
            vec![
                (json!(512), "unknown_token"),
                (json!(u32::MAX), "unknown_token"),
                (big.clone(), "out_of_range"),
                (json!(-1), "out_of_range"),
                (json!(1.5), "wrong_type"),
                (json!(true), "wrong_type"),
                (json!(""), "empty"),
                (json!([]), "wrong_type"),
            ],
        ),
        ("/metrics", vec![(json!([]), "empty"), (json!("prob:x"), "wrong_type"), (json!({}), "wrong_type")]),
        (
            "/metrics/0",
            with(
                no_texts(),
                &[
                    (json!("accuracy"), "unknown_value"),
                    (json!("porb:x"), "unknown_value"),
                    (json!("prob"), "unknown_value"),
                    (json!("prob:"), "unknown_value"),
                    (json!(""), "unknown_value"),
                    (json!("prob:z"), "unknown_name"),
                    (json!("kl:clean"), "unknown_name"),
                    (json!("logit_diff:x"), "unknown_value"),
                    (json!("logit_diff:x-z"), "unknown_name"),
                    (json!("top1_flip"), "not_supported"),
                    (json!("delta_norm"), "not_supported"),
                    (json!("kl:b"), "/metrics/2 duplicate"),
                ],
            ),
        ),
        ("/read", vec![(json!([]), "wrong_type"), (json!("last"), "wrong_type")]),
        (
            "/read/at",
            vec![
                (json!("first"), "unknown_value"),
                (json!(1.5), "wrong_type"),
                (json!(true), "wrong_type"),
                (json!([0]), "wrong_type"),
                (json!({}), "empty"),
                (json!({"a": 18}), "/read/at/a out_of_range"),
                (json!({"a": -19}), "/read/at/a out_of_range"),
                (json!({"a": i64::MIN}), "/read/at/a out_of_range"),
                (json!({"c": 0}), "/read/at/c unknown_name"),
                (json!(17), "out_of_range"),
            ],
        ),
        (
            "/read/topk",
            with(
                no_integers(),
                &[
                    (json!(-1), "out_of_range"),
                    (json!(513), "limit_exceeded"),
                    (json!(u32::MAX), "limit_exceeded"),
                    (big.clone(), "out_of_range"),
                ],
            ),
        ),
        ("/read/logit_lens", vec![(json!([]), "wrong_type"), (json!(true), "wrong_type")]),
        (
            "/read/capture",
            vec![(json!([]), "empty"), (json!({}), "wrong_type"), (json!("all"), "wrong_type")],
        ),
        (
            "/read/capture/0/site",
            with(
                no_texts(),
                &[
                    (json!("resid"), "unknown_value"),
                    (json!(null), "missing_field"),
                    (json!("embed"), "/read/capture/0/layers conflict"),
                    (json!("final_norm"), "/read/capture/0/layers conflict"),
                    (json!("logits"), "/read/capture/0/layers conflict"),
                ],
            ),
        ),
        (
            "/read/capture/0/layers",
            vec![
                (json!(4), "out_of_range"),
                (json!(999), "out_of_range"),
                (json!(-1), "out_of_range"),
                (json!([]), "empty"),
                (json!([0, 0]), "/read/capture/0/layers/1 duplicate"),
                (
                    json!([4, 5]),
                    "/read/capture/0/layers/0 out_of_range, /read/capture/0/layers/1 out_of_range",
                ),
                (json!("every"), "unknown_value"),
                (json!({"from": 0, "to": 5}), "/read/capture/0/layers/to out_of_range"),
                (json!({"from": 3, "to": 1}), "empty"),
                (json!({"step": 0}), "/read/capture/0/layers/step out_of_range"),
                (json!({"form": 1}), "/read/capture/0/layers/form unknown_field"),
            ],
        ),
        (
            "/read/capture/0/positions",
            vec![
                (json!(18), "out_of_range"),
                // The other run has three tokens.
                (
                    json!([0, -18]),
                    "/read/capture/0/positions/1 duplicate, /read/capture/0/positions/1 out_of_range",
                ),
                (json!({"span": "s"}), "/read/capture/0/positions/span unknown_name"),
                (json!({"map": [[0, 0]]}), "/read/capture/0/positions/map not_supported"),
                (json!({}), "missing_field"),
            ],
        ),
        ("/read/capture/0/as", vec![(json!("handel"), "unknown_value"), (json!("file"), "unknown_value")]),
        ("/read/capture/0/dtype", vec![(json!("bf16"), "not_supported"), (json!(32), "wrong_type")]),
        (
            "/strict",
            vec![
                (json!(1), "wrong_type"),
                (json!("true"), "wrong_type"),
                (json!(true), "/targets/x/0 NO_LEADING_SPACE"),
            ],
        ),
        ("/allow_trivial", vec![(json!("yes"), "wrong_type"), (json!(true), "not_supported")]),
        (
            "/target_scoring",
            with(no_texts(), &[(json!("last_token"), "unknown_value"), (json!(""), "unknown_value")]),
        ),
        ("/derive", vec![(json!(["argmax"]), "unknown_field")]),
    ]
}

fn patch_fields() -> Fields {
    const ZERO: &str = "/interventions/0";
    let big = json!(1_u64 << 63);
    vec![
        (
            "/base",
            with(
                no_texts(),
                &[(json!("c"), "unknown_name"), (json!(null), "missing_field"), (json!(""), "empty")],
            ),
        ),
        ("/source", vec![(json!("x"), "conflict")]),
        (
            "/interventions",
            vec![(json!([]), "empty"), (json!({}), "wrong_type"), (json!(null), "missing_field")],
        ),
        (
            ZERO,
            vec![
                (json!([]), "wrong_type"),
                (json!({}), "/interventions/0/site missing_field, /interventions/0/source missing_field"),
            ],
        ),
        (
            "/interventions/0/site",
            with(
                no_texts(),
                &[
                    (json!("resid_pots"), "unknown_value"),
                    (
                        json!("logits"),
                        "/interventions/0/layers conflict, /interventions/0/site not_supported",
                    ),
                    (json!(null), "missing_field"),
                ],
            ),
        ),
        (
            "/interventions/0/layers",
            vec![
                (json!(4), "out_of_range"),
                (json!(999), "out_of_range"),
                (json!(-1), "out_of_range"),
                (json!(u32::MAX), "out_of_range"),
                (big.clone(), "out_of_range"),
                (json!(1e39), "wrong_type"),
                (json!(1.0), "wrong_type"),
                (json!(true), "wrong_type"),
                (json!("al"), "unknown_value"),
                (json!([]), "empty"),
                (json!([0, 4]), "/interventions/0/layers/1 out_of_range"),
                (json!([1, 1]), "/interventions/0/layers/1 duplicate"),
                (json!(["1"]), "/interventions/0/layers/0 wrong_type"),
                (json!([0, 1]), "length_mismatch"),
                (json!({"from": 4}), "/interventions/0/layers/from out_of_range"),
                (json!({"to": 1_000_000_000}), "/interventions/0/layers/to out_of_range"),
                (json!({"from": -1}), "/interventions/0/layers/from out_of_range"),
            ],
        ),
        (
            "/interventions/0/positions",
            vec![
                (json!([0, 18]), "/interventions/0/positions/1 out_of_range"),
                (json!([0, -19]), "/interventions/0/positions/1 out_of_range"),
                (json!([0, -18]), "/interventions/0/positions/1 duplicate"),
                (json!([0, 0]), "/interventions/0/positions/1 duplicate"),
                (json!([0, 1.5]), "/interventions/0/positions/1 wrong_type"),
                (json!([0, "last"]), "/interventions/0/positions/1 wrong_type"),
                (json!([0, big]), "/interventions/0/positions/1 wrong_type"),
                (json!([]), "empty"),
                (json!("first"), "unknown_value"),
                (json!(false), "wrong_type"),
                (json!(i64::MIN), "out_of_range"),
                (json!(i64::MAX), "out_of_range"),
                (json!({"span": "t"}), "/interventions/0/positions/span unknown_name"),
                (json!({"span": "s", "which": "middle"}), "/interventions/0/positions/which unknown_value"),
                (json!({"span": "s", "range": [0, 2]}), "/interventions/0/positions/span conflict"),
                (json!({"range": [0, 99]}), "/interventions/0/positions/range out_of_range"),
                (json!({"range": [3, 3]}), "/interventions/0/positions/range empty"),
                (json!({"range": [3]}), "/interventions/0/positions/range wrong_type"),
                (json!({"align": "diff"}), "/interventions/0/source/positions conflict"),
                (json!({"align": "words"}), "/interventions/0/positions/align unknown_value"),
                (json!({"class": "last_subject"}), "/interventions/0/positions/class unknown_name"),
                (
                    json!({"class": "middle_subject", "span": "t"}),
                    "/interventions/0/positions/class unknown_name",
                ),
                (json!([0, 1, 2]), "/interventions/0/source/positions length_mismatch"),
            ],
        ),
        ("/interventions/0/heads", vec![(json!([0]), "not_supported"), (json!("all"), "not_supported")]),
        (
            "/interventions/1/heads",
            vec![
                (json!(4), "out_of_range"),
                (json!([4]), "/interventions/1/heads/0 out_of_range"),
                (json!([0, 0]), "/interventions/1/heads/1 duplicate"),
                (json!([-1]), "/interventions/1/heads/0 out_of_range"),
                (json!([]), "empty"),
                (json!({}), "wrong_type"),
                (json!("some"), "unknown_value"),
                (json!(null), "/interventions/1/source/vector length_mismatch"),
            ],
        ),
        (
            "/interventions/0/window",
            with(
                no_integers(),
                &[(json!(0), "out_of_range"), (json!(-1), "out_of_range"), (big.clone(), "out_of_range")],
            ),
        ),
        ("/interventions/2/window", vec![(json!(2), "conflict")]),
        ("/interventions/2/layers", vec![(json!([0]), "conflict")]),
        (
            "/interventions/0/op",
            with(
                no_texts(),
                &[
                    (json!("replcae"), "unknown_value"),
                    (
                        json!("project_out"),
                        "/interventions/0/basis missing_field, /interventions/0/source conflict",
                    ),
                    (json!("zero"), "/interventions/0/source conflict"),
                    (
                        json!("clamp"),
                        "/interventions/0/along missing_field, /interventions/0/max missing_field, /interventions/0/source conflict",
                    ),
                    (
                        json!("scale"),
                        "/interventions/0/factor missing_field, /interventions/0/source conflict",
                    ),
                ],
            ),
        ),
        ("/interventions/3", unserved_ops()),
        ("/interventions/0/coef", vec![(json!(2), "conflict")]),
        (
            "/interventions/0/dims",
            vec![
                (json!([0, 64]), "/interventions/0/dims/1 out_of_range"),
                (json!(-1), "out_of_range"),
                (json!([1, 1]), "/interventions/0/dims/1 duplicate"),
                (json!([]), "empty"),
                (json!("some"), "wrong_type"),
                (json!({"range": [3, 3]}), "/interventions/0/dims/range empty"),
                (json!({"range": [0, 65]}), "/interventions/0/dims/range out_of_range"),
            ],
        ),
        (
            "/interventions/1/dims",
            vec![
                (json!(16), "out_of_range"),
                (json!([0, 1]), "/interventions/1/source/vector length_mismatch"),
            ],
        ),
        ("/interventions/0/colour", vec![(json!(1), "unknown_field")]),
        (
            "/interventions/0/source",
            vec![
                (json!(null), "missing_field"),
                (json!("b"), "wrong_type"),
                (json!({}), "/interventions/0/source/run missing_field"),
                (
                    json!({"mean_of": ["b"], "run": "b", "positions": [0, 1]}),
                    "/interventions/0/source/run conflict",
                ),
                (json!({"mean_of": "b"}), "/interventions/0/source/mean_of wrong_type"),
                (json!({"mean_of": []}), "/interventions/0/source/mean_of empty"),
                (json!({"mean_of": ["b", "d"]}), "/interventions/0/source/mean_of/1 unknown_name"),
                (
                    json!({"any_of": ["b"]}),
                    "/interventions/0/source/any_of unknown_field, /interventions/0/source/run missing_field",
                ),
                (json!({"run": "b", "site": "mlp_act"}), "/interventions/0/source/site length_mismatch"),
                (json!({"run": "b", "site": "pattern"}), "/interventions/0/source/site length_mismatch"),
                (json!({"run": "b", "site": "resid"}), "/interventions/0/source/site unknown_value"),
                (json!({"run": "b", "layer": 4}), "/interventions/0/source/layer out_of_range"),
                (
                    json!({"run": "b", "site": "embed", "layer": 0}),
                    "/interventions/0/source/layer out_of_range",
                ),
            ],
        ),
        (
            "/interventions/0/source/run",
            with(no_texts(), &[(json!("c"), "unknown_name"), (json!(""), "empty")]),
        ),
        (
            "/interventions/0/source/positions",
            vec![
                (json!([0, 1, 2]), "length_mismatch"),
                (json!([0, 99]), "/interventions/0/source/positions/1 out_of_range"),
                (json!({"span": "s"}), "/interventions/0/source/positions/span unknown_name"),
                (json!("each"), "unknown_value"),
            ],
        ),
        (
            "/interventions/1/coef",
            vec![
                (json!("2"), "wrong_type"),
                (json!("NaN"), "wrong_type"),
                (json!(1e39), "out_of_range"),
                (json!(-1e300), "out_of_range"),
                // A list is of steps, which generated texts have.
                (json!([]), "not_supported"),
            ],
        ),
        (
            "/interventions/1/source/vector",
            vec![
                (json!([1]), "length_mismatch"),
                (json!(vec![1; 64]), "length_mismatch"),
                (json!([]), "empty"),
                (json!(1), "wrong_type"),
            ],
        ),
        (
            "/interventions/1/source/vector/3",
            vec![
                (json!("NaN"), "wrong_type"),
                (json!(1e39), "out_of_range"),
                (json!(null), "wrong_type"),
                (json!([1]), "wrong_type"),
            ],
        ),
        ("/interventions/2/sigma", vec![(json!(null), "missing_field"), (json!(1), "wrong_type")]),
        (
            "/interventions/2/sigma/k",
            vec![(json!(-1), "out_of_range"), (json!(0), "out_of_range"), (json!(1e-50), "out_of_range")],
        ),
        ("/interventions/2/seed", with(no_integers(), &[(json!(-1), "out_of_range")])),
        ("/interventions/2/rng", vec![(json!("xorshift"), "unknown_value"), (json!(7), "wrong_type")]),
        (
            "/interventions/3/factor",
            vec![(json!(null), "missing_field"), (json!("2"), "wrong_type"), (json!(1e39), "out_of_range")],
        ),
        (
            "/sweep",
            vec![
                (json!("layers"), "wrong_type"),
                (json!({}), "wrong_type"),
                (json!(["layers", "layers"]), "/sweep/1 duplicate"),
                (json!(["arms"]), "/sweep/0 not_supported"),
                // Every column: a different number at each site.
                (json!(["dims"]), "/interventions/1/dims length_mismatch"),
                (json!(["colours"]), "/sweep/0 unknown_value"),
                (json!([5]), "/sweep/0 wrong_type"),
            ],
        ),
        (
            "/normalise",
            vec![(json!([]), "wrong_type"), (json!({"zero": "a"}), "/normalise/one missing_field")],
        ),
        (
            "/normalise/one",
            with(no_texts(), &[(json!("c"), "unknown_name"), (json!("a"), "/normalise self_reference")]),
        ),
        (
            "/controls",
            vec![
                (json!("self_patch"), "wrong_type"),
                (json!(["self_patch", "self_patch"]), "/controls/1 duplicate"),
            ],
        ),
        ("/allow_trivial", vec![(json!(1), "wrong_type")]),
        (
            "/derive",
            vec![
                (json!("argmax"), "wrong_type"),
                (json!(["argmin"]), "/derive/0 unknown_value"),
                (json!(["argmax", "argmax"]), "/derive/1 duplicate"),
            ],
        ),
        (
            "/controls/0",
            vec![
                (json!("random_positions"), "unknown_value"),
                (json!("x"), "unknown_value"),
                (json!(1), "wrong_type"),
            ],
        ),
        ("/read", vec![(json!({"capture": []}), "/read/capture unknown_field")]),
        ("/swap", vec![(json!(true), "not_supported")]),
        ("/async", vec![(json!(1), "wrong_type")]),
        ("/subject", vec![(json!("Tower"), "unknown_field")]),
    ]
}

/// Interventions whose operation has no meaning at their site, or lacks what it needs.
fn unserved_ops() -> Vec<(Value, &'static str)> {
    const AT: &str = "/interventions/3/op not_supported";
    let b = json!({"run": "b"});
    let at = |site: &str, more: Value| {
        let mut one = json!({"site": site, "layers": 0, "positions": 0});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one
    };
    let unit = |n: usize| (0..n).map(|i| u8::from(i == 0)).collect::<Vec<_>>();
    vec![
        (at("scores", json!({"op": "add", "source": b})), AT),
        (at("pattern", json!({"op": "mean", "source": {"mean_of": ["b"]}})), AT),
        (at("pattern", json!({"op": "noise", "sigma": {"abs": 1}})), AT),
        (at("scores", json!({"source": {"run": "b", "layer": 1}})), AT),
        (
            at("pattern", json!({"positions": 1, "source": {"run": "b", "positions": 0}})),
            "/interventions/3/source conflict",
        ),
        (at("head_out", json!({"op": "add", "source": b})), AT),
        (
            at("head_out", json!({"op": "zero", "heads": 0, "dims": [1]})),
            "/interventions/3/dims not_supported",
        ),
        (at("head_out", json!({"op": "project_out", "heads": 0, "basis": [unit(16)]})), AT),
        (at("head_out", json!({"op": "clamp", "heads": 0, "along": unit(16), "max": 1})), AT),
        (at("pattern", json!({"op": "scale", "factor": 2, "along": unit(16)})), AT),
        (
            at("resid_post", json!({"op": "clamp", "along": unit(64), "min": 2, "max": 1})),
            "/interventions/3/min out_of_range",
        ),
        (
            at("resid_post", json!({"op": "clamp", "along": unit(63), "max": 1})),
            "/interventions/3/along length_mismatch",
        ),
        (
            at("resid_post", json!({"op": "scale", "factor": 2, "along": vec![0; 64]})),
            "/interventions/3/along duplicate",
        ),
        (
            at("resid_post", json!({"op": "scale", "factor": 2, "along": unit(64), "dims": [1]})),
            "/interventions/3/dims conflict",
        ),
        (at("resid_post", json!({"op": "zero", "along": unit(64)})), "/interventions/3/along conflict"),
        (
            at("resid_post", json!({"op": "project_out", "basis": [unit(64)], "dims": [1]})),
            "/interventions/3/dims conflict",
        ),
        (at("resid_post", json!({"op": "project_out", "basis": []})), "/interventions/3/basis empty"),
        (
            at("resid_post", json!({"op": "project_out", "basis": [unit(63)]})),
            "/interventions/3/basis/0 length_mismatch",
        ),
        (
            at("resid_post", json!({"op": "project_out", "basis": [unit(64), unit(64)]})),
            "/interventions/3/basis/1 duplicate",
        ),
        (
            at("resid_post", json!({"op": "subspace", "basis": [unit(64)]})),
            "/interventions/3/source missing_field",
        ),
        (
            at("resid_post", json!({"op": "resample", "source": b})),
            "/interventions/3/source/any_of missing_field, /interventions/3/source/run unknown_field",
        ),
        (
            at("resid_post", json!({"op": "resample", "source": {"any_of": ["b", "c"]}})),
            "/interventions/3/source/any_of/1 unknown_name",
        ),
        (
            at("resid_post", json!({"op": "freeze", "source": {"vector": unit(64)}})),
            "/interventions/3/source conflict",
        ),
        (
            at("resid_post", json!({"op": "scale", "factor": 2, "norm_match": true})),
            "/interventions/3/norm_match conflict",
        ),
        (at("k", json!({"op": "zero", "heads": [2]})), "/interventions/3/heads/0 out_of_range"),
        (at("mlp_act", json!({"op": "zero", "heads": [0]})), "/interventions/3/heads not_supported"),
        (at("mlp_act", json!({"op": "zero", "dims": [160]})), "/interventions/3/dims/0 out_of_range"),
    ]
}

fn trace_fields() -> Fields {
    let big = json!(1_u64 << 63);
    vec![
        ("/subject", vec![(json!("Tower"), "conflict")]),
        ("/prompt", vec![(json!("x"), "conflict")]),
        ("/corrupt", vec![(json!("gaussian"), "wrong_type"), (json!([]), "wrong_type")]),
        ("/corrupt/from", with(no_texts(), &[(json!("nobody"), "unknown_name"), (json!(""), "empty")])),
        (
            "/corrupt/method",
            with(no_texts(), &[(json!("gauss"), "unknown_value"), (json!("tokens"), "unknown_value")]),
        ),
        ("/corrupt/mode", vec![(json!("sum"), "unknown_value"), (json!(1), "wrong_type")]),
        (
            "/corrupt/positions",
            vec![
                (json!([18]), "/corrupt/positions/0 out_of_range"),
                (json!([3, 3]), "/corrupt/positions/1 duplicate"),
                (json!([0]), "conflict"),
                (json!({"span": "s"}), "/corrupt/positions/span unknown_name"),
                (json!({"map": [[1, 1]]}), "/corrupt/positions/map not_supported"),
                (json!([]), "empty"),
            ],
        ),
        (
            "/corrupt/sigma",
            vec![
                (json!(3), "wrong_type"),
                (json!({}), "/corrupt/sigma/k missing_field"),
                (json!({"abs": 0}), "/corrupt/sigma/abs out_of_range"),
                (json!({"abs": -0.1}), "/corrupt/sigma/abs out_of_range"),
                (json!({"abs": 1e39}), "/corrupt/sigma/abs out_of_range"),
                (json!({"abs": 1e-46}), "/corrupt/sigma/abs out_of_range"),
                (json!({"abs": 1e37}), "out_of_range"),
                (json!({"abs": "NaN"}), "/corrupt/sigma/abs wrong_type"),
                (json!({"abs": 1, "k": 3}), "/corrupt/sigma/k conflict"),
                (json!({"k": 3, "of": "words"}), "/corrupt/sigma/of unknown_value"),
            ],
        ),
        (
            "/corrupt/sigma/k",
            vec![
                (json!(0), "out_of_range"),
                (json!(-3), "out_of_range"),
                (json!(-0.0), "out_of_range"),
                (json!("3"), "wrong_type"),
                (json!(true), "wrong_type"),
                (json!(1e39), "out_of_range"),
                (json!(1e308), "out_of_range"),
                (json!(1e38), "/corrupt/sigma out_of_range"),
            ],
        ),
        (
            "/corrupt/samples",
            with(
                no_integers(),
                &[
                    (json!(0), "out_of_range"),
                    (json!(-1), "out_of_range"),
                    (json!(1001), "limit_exceeded"),
                    (json!(1_000_000_000), "limit_exceeded"),
                    (big.clone(), "limit_exceeded"),
                    (json!(u64::MAX), "limit_exceeded"),
                ],
            ),
        ),
        ("/corrupt/seed", with(no_integers(), &[(json!(-1), "out_of_range")])),
        ("/corrupt/rng", vec![(json!("mersenne"), "unknown_value"), (json!(1), "wrong_type")]),
        ("/corrupt/include_bos", vec![(json!("no"), "wrong_type")]),
        ("/corrupt/temperature", vec![(json!(1), "unknown_field")]),
        (
            "/arms",
            vec![
                (json!({}), "empty"),
                (json!([]), "empty"),
                (json!(["hidden", "hidden"]), "/arms/1 duplicate"),
                (json!(["all"]), "/arms/0 unknown_value"),
                (json!(1), "wrong_type"),
            ],
        ),
        (
            "/arms/hidden",
            vec![(json!("resid_post"), "wrong_type"), (json!({}), "/arms/hidden/site missing_field")],
        ),
        (
            "/arms/hidden/site",
            vec![
                (json!("logits"), "not_supported"),
                (json!("resid"), "unknown_value"),
                (json!(1), "wrong_type"),
            ],
        ),
        ("/arms/hidden/heads", vec![(json!([0]), "not_supported")]),
        (
            "/arms/hidden/dims",
            vec![(json!([64]), "/arms/hidden/dims/0 out_of_range"), (json!("some"), "wrong_type")],
        ),
        (
            "/arms/hidden/positions",
            vec![
                (json!([18]), "/arms/hidden/positions/0 out_of_range"),
                (json!({"span": "s"}), "/arms/hidden/positions/span unknown_name"),
                (json!({"map": [[0, 0]]}), "/arms/hidden/positions/map not_supported"),
            ],
        ),
        (
            "/arms/hidden/freeze",
            vec![
                (json!("mlp_out"), "wrong_type"),
                (json!(["resid_post"]), "/arms/hidden/freeze/0 unknown_value"),
                (json!([]), "empty"),
            ],
        ),
        (
            "/arms/hidden/window",
            with(no_integers(), &[(json!(0), "out_of_range"), (json!(1 << 21), "out_of_range")]),
        ),
        (
            "/arms/z/heads",
            vec![
                (json!([1, 4]), "/arms/z/heads/1 out_of_range"),
                (json!(-1), "out_of_range"),
                (json!([]), "empty"),
            ],
        ),
        ("/arms/e", vec![(json!({"site": "embed", "window": 3}), "/arms/e/window conflict")]),
        (
            "/layers",
            vec![
                (json!(999), "out_of_range"),
                (json!(-1), "out_of_range"),
                (json!([]), "empty"),
                (json!([3, 3]), "/layers/1 duplicate"),
                (json!({"from": 2, "to": 2}), "empty"),
                (json!({"step": big}), "/layers/step out_of_range"),
                (json!("last"), "unknown_value"),
            ],
        ),
        (
            "/positions",
            vec![
                (json!(18), "out_of_range"),
                (json!([]), "empty"),
                (json!([[0]]), "/positions/0 wrong_type"),
                (json!({"class": "subject"}), "/positions/class unknown_value"),
                (json!({"align": "diff"}), "/positions/align not_supported"),
                (json!({"span": "subject", "which": 1}), "/positions/which wrong_type"),
            ],
        ),
        ("/base", vec![(json!("both"), "unknown_name"), (json!(""), "empty"), (json!(true), "wrong_type")]),
        (
            "/expect_top1",
            vec![
                (json!("y"), "unknown_name"),
                (json!(""), "empty"),
                (json!(1), "wrong_type"),
                (json!(true), "wrong_type"),
                (json!(false), "/on_unexpected conflict"),
            ],
        ),
        (
            "/on_unexpected",
            vec![
                (json!("stop"), "unknown_value"),
                (json!(true), "wrong_type"),
                (json!("refuse"), "/expect_top1 unexpected_answer"),
            ],
        ),
        (
            "/keep",
            vec![
                (json!(true), "wrong_type"),
                (json!({"per_sampel": true}), "/keep/per_sampel unknown_field"),
            ],
        ),
        ("/keep/per_sample", vec![(json!("yes"), "wrong_type")]),
        (
            "/cells",
            vec![
                (json!("all"), "wrong_type"),
                (json!([{"layer": 0, "position": 1}]), "/cells/0/arm missing_field"),
                (json!([{"arm": "hiden", "layer": 0, "position": 1}]), "/cells/0/arm unknown_name"),
                (json!([{"arm": "hidden", "position": 1}]), "/cells/0/layer missing_field"),
                (json!([{"arm": "hidden", "layer": 99, "position": 1}]), "/cells/0/layer out_of_range"),
                (json!([{"arm": "hidden", "layer": 0, "position": -99}]), "/cells/0/position out_of_range"),
                (
                    json!([{"arm": "hidden", "layer": 0, "position": 1, "head": 0}]),
                    "/cells/0/head unknown_field",
                ),
                (
                    json!([{"arm": "hidden", "layer": 0, "position": 1}, {"arm": "hidden", "layer": 0, "position": 1}]),
                    "/cells/1 duplicate",
                ),
            ],
        ),
        (
            "/plot",
            vec![
                (json!("svg"), "wrong_type"),
                (json!([]), "empty"),
                (json!(["pdf"]), "/plot/0 unknown_value"),
            ],
        ),
        (
            "/metrics",
            vec![
                (json!(["prob:x", "prob:x"]), "/metrics/1 duplicate"),
                (json!(["kl:nobody"]), "/metrics/0 unknown_name"),
            ],
        ),
        ("/interventions", vec![(json!([]), "unknown_field")]),
    ]
}

fn align_fields() -> Fields {
    vec![
        ("/a", with(no_objects_or_texts(), &[(json!(""), "empty"), (json!(null), "missing_field")])),
        ("/b/prompt", vec![(json!(null), "missing_field"), (json!(7), "wrong_type")]),
        ("/b/spans/s", vec![(json!("Tower"), "span_absent"), (json!([3, 99]), "out_of_range")]),
        ("/runs", vec![(json!({"a": "x", "b": "y"}), "/a conflict, /b conflict")]),
        ("/target", vec![(json!(99999), "unknown_token")]),
        ("/metrics/0", vec![(json!("top1_flip"), "not_supported"), (json!("kl:c"), "unknown_name")]),
        ("/map", vec![(json!([[0, 0]]), "unknown_field")]),
    ]
}

/// Values that are neither a text nor an object.
fn no_objects_or_texts() -> Vec<(Value, &'static str)> {
    [json!(5), json!(true), json!([1])].into_iter().map(|value| (value, "wrong_type")).collect()
}

fn tokenize_fields() -> Fields {
    vec![
        ("/prompt", with(no_texts(), &[(json!(""), "empty"), (json!(null), "missing_field")])),
        (
            "/tokens",
            vec![
                (json!([1]), "/bos conflict, /prompt conflict, /spans/s conflict"),
                (json!([]), "empty, /bos conflict, /prompt conflict"),
            ],
        ),
        (
            "/spans/s",
            vec![
                (json!("x"), "span_absent"),
                (json!("l"), "span_ambiguous"),
                (json!([0, 99]), "out_of_range"),
            ],
        ),
        ("/bos", vec![(json!("no"), "wrong_type")]),
        ("/model", vec![(json!("gpt-5"), "unknown_model"), (json!(5), "wrong_type")]),
        ("/text", vec![(json!("x"), "unknown_field")]),
        ("/target", vec![(json!("x"), "unknown_field")]),
    ]
}

/// Whole bodies, short forms above all.
fn bodies() -> Vec<(&'static str, Value, Vec<&'static str>)> {
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
fn huge() -> Vec<Row> {
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
fn malformed() -> Vec<Row> {
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
fn protocol() -> Vec<Row> {
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
