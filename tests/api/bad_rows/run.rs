//! Wrong fields of a run.

use serde_json::json;

use super::{Fields, no_integers, no_texts, with};

pub(super) fn fields() -> Fields {
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
