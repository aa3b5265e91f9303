//! Wrong fields of a trace.

use serde_json::json;

use super::{Fields, no_integers, no_texts, with};

pub(super) fn fields() -> Fields {
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
