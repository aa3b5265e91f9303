//! Wrong fields of what reads tokens alone.

use serde_json::{Value, json};

use super::{Fields, no_texts, with};

pub(super) fn align_fields() -> Fields {
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

pub(super) fn tokenize_fields() -> Fields {
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
