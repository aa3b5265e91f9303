//! Wrong fields of a patch.

use serde_json::{Value, json};

use super::{Fields, no_integers, no_texts, with};

pub(super) fn fields() -> Fields {
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
