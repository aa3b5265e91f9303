//! Wrong fields of the lens and of surprisal, whose pointers are those of their own short forms.

use serde_json::json;

use super::{Fields, no_integers, no_texts, with};

pub(super) fn lens_fields() -> Fields {
    vec![
        ("/prompt", with(no_texts(), &[(json!(""), "empty"), (json!(null), "missing_field")])),
        ("/spans/s", vec![(json!("River"), "span_absent"), (json!([0, 99]), "out_of_range")]),
        ("/target", vec![(json!(99999), "unknown_token")]),
        (
            "/metrics/0",
            with(no_texts(), &[(json!("prob:x"), "unknown_name"), (json!("probability"), "unknown_value")]),
        ),
        ("/layers", vec![(json!([99]), "/layers/0 out_of_range"), (json!("some"), "unknown_value")]),
        (
            "/positions",
            vec![
                (json!([99]), "/positions/0 out_of_range"),
                (json!({"span": "t"}), "/positions/span unknown_name"),
            ],
        ),
        ("/topk", with(no_integers(), &[(json!(0), "out_of_range"), (json!(100_000), "limit_exceeded")])),
        ("/strict", vec![(json!("yes"), "wrong_type")]),
        ("/read", vec![(json!({}), "unknown_field")]),
    ]
}

pub(super) fn surprisal_fields() -> Fields {
    vec![
        ("/runs", vec![(json!({}), "empty"), (json!("Hi"), "wrong_type")]),
        ("/runs/a", vec![(json!(5), "wrong_type"), (json!(""), "empty")]),
        (
            "/runs/b/tokens",
            vec![(json!([]), "empty"), (json!([1, 999_999]), "/runs/b/tokens/1 unknown_token")],
        ),
        ("/prompt", vec![(json!("Hi"), "conflict")]),
        ("/topk", with(no_integers(), &[(json!(-1), "out_of_range"), (json!(100_000), "limit_exceeded")])),
        ("/strict", vec![(json!("yes"), "wrong_type")]),
        ("/model", vec![(json!("gpt-5"), "unknown_model"), (json!(5), "wrong_type")]),
        ("/target", vec![(json!("P"), "unknown_field")]),
    ]
}
