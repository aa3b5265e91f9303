//! Cures of lints that are one change of the request, as JSON Patch (RFC 6902): a client can apply them and ask again.

use serde_json::{Map, Value, json};

use super::lint::{Change, Lint, Lints, Op};

/// Samples that are usual, and that a cure asks for.
const USUAL_SAMPLES: u64 = 10;

impl Lints {
    /// The lints with the change that cures each, of those for which there is one. `body`: the request as it was sent, which their
    /// pointers are into.
    #[must_use]
    pub fn cured(mut self, body: &Value) -> Self {
        for lint in &mut self.0 {
            lint.apply = cure(lint, body).unwrap_or_default();
        }
        self
    }
}

/// Lints that may have a cure.
pub const CURABLE: &[&str] = &[
    "DISCRETE_METRIC_ONLY",
    "MULTI_TOKEN_TARGET",
    "NO_LEADING_SPACE",
    "PROB_ONLY",
    "PROMPT_ENDS_IN_SPACE",
    "SINGLE_NOISE_SAMPLE",
    "SINGLE_SAMPLE",
    "SMALL_N",
];

fn cure(lint: &Lint, body: &Value) -> Option<Vec<Change>> {
    let text = || body.pointer(&lint.pointer).and_then(Value::as_str);
    let change = match lint.code {
        "SINGLE_NOISE_SAMPLE" | "SMALL_N" if lint.pointer == "/corrupt/samples" => {
            set(body, &lint.pointer, json!(USUAL_SAMPLES))?
        }
        "SINGLE_SAMPLE" => set(body, "/samples", json!(USUAL_SAMPLES))?,
        "NO_LEADING_SPACE" => set(body, &lint.pointer, json!(format!(" {}", text()?)))?,
        "PROMPT_ENDS_IN_SPACE" => set(body, &lint.pointer, json!(text()?.trim_end_matches(' ')))?,
        "MULTI_TOKEN_TARGET" => set(body, "/target_scoring", json!("joint"))?,
        // A request that names no metric has those of its kind.
        "PROB_ONLY" | "DISCRETE_METRIC_ONLY" => {
            let named = body.get("metrics").and_then(Value::as_array);
            match named.map(|list| list.iter().find_map(|metric| metric.as_str()?.split_once(':'))) {
                Some(of) => Change { op: Op::Add, path: "/metrics/-".to_owned(), value: logprob(of?.1) },
                None if body.get("target").is_some() => {
                    set(body, "/metrics", json!(["prob:target", "logprob:target"]))?
                }
                None => return None,
            }
        }
        _ => return None,
    };
    Some(vec![change])
}

fn logprob(target: &str) -> Value {
    json!(format!("logprob:{target}"))
}

/// The change after which a value stands at a pointer: objects on the way that are missing are made.
fn set(body: &Value, pointer: &str, value: Value) -> Option<Change> {
    if body.pointer(pointer).is_some() {
        return Some(Change { op: Op::Replace, path: pointer.to_owned(), value });
    }
    let (parent, name) = pointer.rsplit_once('/')?;
    match body.pointer(parent) {
        Some(Value::Object(_)) => Some(Change { op: Op::Add, path: pointer.to_owned(), value }),
        Some(_) => None,
        None => set(body, parent, Value::Object(Map::from_iter([(name.to_owned(), value)]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cured(code: &'static str, pointer: &str, body: &Value) -> Value {
        let mut lints = Lints::default();
        lints.info(code, pointer, String::new(), "");
        json!(lints.cured(body).0[0].apply)
    }

    #[test]
    fn what_is_missing_on_the_way_is_made_and_what_is_there_is_replaced() {
        let at = "/corrupt/samples";
        let add = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
        assert_eq!(cured("SMALL_N", at, &json!({})), add("/corrupt", json!({"samples": 10})));
        assert_eq!(cured("SMALL_N", at, &json!({"corrupt": {"seed": 1}})), add(at, json!(10)));
        let there = json!([{"op": "replace", "path": at, "value": 10}]);
        assert_eq!(cured("SINGLE_NOISE_SAMPLE", at, &json!({"corrupt": {"samples": 1}})), there);
        assert_eq!(cured("SMALL_N", at, &json!({"corrupt": 3})), json!([]));
    }

    #[test]
    fn a_lint_without_one_cure_has_none() {
        assert_eq!(cured("TARGET_NOT_TOP1", "/target", &json!({"target": " a"})), json!([]));
        assert_eq!(cured("NO_LEADING_SPACE", "/target", &json!({"target": [1]})), json!([]));
        assert_eq!(cured("SMALL_N", "/cases", &json!({})), json!([]));
        assert!(CURABLE.is_sorted());
    }
}
