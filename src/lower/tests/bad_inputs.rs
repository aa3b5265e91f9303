//! Bad requests: each is answered with the field's pointer, and nothing panics.

use serde_json::{Value, json};

use super::problems;
use crate::lower;
use crate::lower::testing::Fake;
use crate::model::architecture::{BlockShape, GPT2, PositionShape};
use crate::model::config::ModelConfig;
use crate::spec::activation::UploadSpec;
use crate::spec::patch::PatchSpec;
use crate::spec::problem::Problems;

/// A request that is in order, by endpoint.
fn good(endpoint: &str) -> Value {
    match endpoint {
        "run" => json!({
            "runs": {"a": {"prompt": "The Eiffel Tower is", "spans": {"s": "Eiffel"}}, "b": {"tokens": [257, 258]}},
            "targets": {"x": [" Paris"], "y": [260]},
            "metrics": ["prob:x", "logit_diff:x-y", "kl:b"],
            "read": {"at": "last", "topk": 3, "capture": [{"site": "z", "layers": [0], "positions": "all"}]}}),
        "patch" => json!({
            "runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower is"}},
            "base": "a",
            "interventions": [
                {"site": "resid_post", "layers": "all", "positions": [0, 1], "source": {"run": "b"}},
                {"site": "z", "layers": "all", "positions": [0, 1], "heads": [0], "op": "add", "coef": 2,
                 "source": {"vector": [1, 2, 3, 4]}}],
            "sweep": ["layers"], "target": " Paris", "metrics": ["prob:target"],
            "normalise": {"zero": "a", "one": "b"}, "controls": ["self_patch"]}),
        "trace" => json!({
            "runs": {"clean": {"prompt": "The Eiffel Tower is", "spans": {"subject": "Eiffel"}},
                     "other": {"prompt": "The river Tower is"}},
            "corrupt": {"method": "gaussian", "positions": {"span": "subject"}, "sigma": {"k": 3}, "samples": 2},
            "arms": {"hidden": {"site": "resid_post"}, "z": {"site": "z", "heads": [1]}},
            "layers": "all", "positions": "all", "base": "corrupted",
            "targets": {"x": [" Paris"]}, "metrics": ["prob:x"], "expect_top1": "x"}),
        _ => json!({"prompt": "The Eiffel Tower is", "spans": {"s": "Eiffel"}}),
    }
}

/// `good` with one field set.
fn with(endpoint: &str, pointer: &str, value: Value) -> Value {
    let mut body = good(endpoint);
    set(&mut body, pointer, value);
    body
}

fn set(body: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match body.pointer_mut(parent).unwrap() {
        Value::Object(map) => {
            map.insert(key.replace("~1", "/").replace("~0", "~"), value);
        }
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        other => panic!("{pointer}: {other}"),
    }
}

fn check(endpoint: &str, cases: Vec<(&str, Value, &str)>) {
    assert_eq!(
        problems(endpoint, &good(endpoint), &Fake::default()),
        [""; 0],
        "the good request of {endpoint}"
    );
    for (pointer, value, expected) in cases {
        let found = problems(endpoint, &with(endpoint, pointer, value.clone()), &Fake::default());
        assert_eq!(found, [expected], "{endpoint} {pointer} = {value}");
    }
}

#[test]
fn bad_runs_name_their_field() {
    check(
        "run",
        vec![
            ("/model", json!("gpt-5"), "/model unknown_model"),
            ("/model", json!(1), "/model wrong_type"),
            ("/modle", json!("fake"), "/modle unknown_field"),
            ("/a~1b~0c", json!(1), "/a~1b~0c unknown_field"),
            ("/prompt", json!("x"), "/prompt conflict"),
            ("/runs", json!([]), "/runs wrong_type"),
            ("/runs", json!({}), "/runs empty"),
            ("/runs/a", json!(5), "/runs/a wrong_type"),
            ("/runs/a", json!({}), "/runs/a/prompt missing_field"),
            ("/runs/a/prompt", json!(""), "/runs/a/prompt empty"),
            ("/runs/a/prompt", json!(null), "/runs/a/prompt missing_field"),
            ("/runs/a/prompt", json!(["x"]), "/runs/a/prompt wrong_type"),
            ("/runs/a/spans/s", json!("Berlin"), "/runs/a/spans/s span_absent"),
            ("/runs/a/spans/s", json!("e"), "/runs/a/spans/s span_ambiguous"),
            ("/runs/a/spans/s", json!([2, 2]), "/runs/a/spans/s empty"),
            ("/runs/a/spans/s", json!([0, 5]), "/runs/a/spans/s out_of_range"),
            ("/runs/a/spans/s", json!([0]), "/runs/a/spans/s wrong_type"),
            ("/runs/a/spans/s", json!(1), "/runs/a/spans/s wrong_type"),
            ("/runs/a/bos", json!("yes"), "/runs/a/bos wrong_type"),
            ("/runs/a/bos", json!(true), "/runs/a/bos not_supported"),
            ("/runs/b/tokens", json!([]), "/runs/b/tokens empty"),
            ("/runs/b/tokens/1", json!(300), "/runs/b/tokens/1 unknown_token"),
            ("/runs/b/tokens/1", json!(-1), "/runs/b/tokens/1 out_of_range"),
            ("/runs/b/tokens/1", json!(1.0), "/runs/b/tokens/1 wrong_type"),
            ("/runs/b/tokens/1", json!(4_294_967_296_u64), "/runs/b/tokens/1 out_of_range"),
            ("/runs/b/prompt", json!("x"), "/runs/b/prompt conflict"),
            ("/runs/b/spans", json!({"s": "x"}), "/runs/b/spans/s conflict"),
            ("/targets", json!({}), "/targets empty"),
            ("/targets/y", json!([]), "/targets/y empty"),
            ("/targets/y/0", json!(280), "/targets/y/0 unknown_token"),
            ("/targets/y/0", json!(1e300), "/targets/y/0 wrong_type"),
            ("/targets/y/0", json!({}), "/targets/y/0 wrong_type"),
            ("/targets/y/0", json!(""), "/targets/y/0 empty"),
            ("/targets/y", json!([260, 260]), "/targets/y/1 duplicate"),
            ("/target", json!(" Paris"), "/target conflict"),
            ("/metrics", json!("prob:x"), "/metrics wrong_type"),
            ("/metrics", json!([]), "/metrics empty"),
            ("/metrics/0", json!("prob"), "/metrics/0 unknown_value"),
            ("/metrics/0", json!("probs:x"), "/metrics/0 unknown_value"),
            ("/metrics/0", json!("prob:z"), "/metrics/0 unknown_name"),
            ("/metrics/0", json!("kl:z"), "/metrics/0 unknown_name"),
            ("/metrics/0", json!("kl:b"), "/metrics/2 duplicate"),
            ("/metrics/0", json!("logit_diff:x"), "/metrics/0 unknown_value"),
            ("/metrics/0", json!("logit_diff:x-z"), "/metrics/0 unknown_name"),
            ("/metrics/0", json!("top1_flip"), "/metrics/0 not_supported"),
            ("/metrics/0", json!("delta_norm"), "/metrics/0 not_supported"),
            ("/metrics/0", json!(3), "/metrics/0 wrong_type"),
            ("/read/at", json!(9), "/read/at out_of_range"),
            ("/read/at", json!("first"), "/read/at unknown_value"),
            ("/read/at", json!({"a": -9}), "/read/at/a out_of_range"),
            ("/read/at", json!({"c": 0}), "/read/at/c unknown_name"),
            ("/read/topk", json!(-1), "/read/topk out_of_range"),
            ("/read/topk", json!(301), "/read/topk limit_exceeded"),
            ("/read/capture/0/site", json!("resid_pots"), "/read/capture/0/site unknown_value"),
            ("/read/capture/0/site", json!("logits"), "/read/capture/0/layers conflict"),
            ("/read/capture/0/site", json!("embed"), "/read/capture/0/layers conflict"),
            ("/read/capture/0/layers", json!(4), "/read/capture/0/layers out_of_range"),
            (
                "/read/capture/0/positions",
                json!({"map": [[0, 0]]}),
                "/read/capture/0/positions/map not_supported",
            ),
            ("/read/capture/0/as", json!("handel"), "/read/capture/0/as unknown_value"),
            ("/read/capture/0/dtype", json!("f16"), "/read/capture/0/dtype not_supported"),
            ("/read/capture/0/dtype", json!("int8"), "/read/capture/0/dtype unknown_value"),
            ("/read/attention", json!([]), "/read/attention empty"),
            ("/read/attention", json!([{"heads": 2}]), "/read/attention/0/heads out_of_range"),
            ("/read/logit_lens", json!({"layers": 4}), "/read/logit_lens/layers out_of_range"),
            ("/read/logit_lens", json!({"topk": 301}), "/read/logit_lens/topk limit_exceeded"),
            ("/read/logit_lens", json!({"at": 1}), "/read/logit_lens/at unknown_field"),
            ("/read/attribution", json!({}), "/read/attribution/target missing_field"),
            ("/read/attribution", json!({"target": "z"}), "/read/attribution/target unknown_name"),
            ("/strict", json!(1), "/strict wrong_type"),
            ("/target_scoring", json!("last_token"), "/target_scoring unknown_value"),
            ("/dataset", json!({}), "/dataset not_supported"),
        ],
    );
}

#[test]
fn bad_patches_name_their_field() {
    check(
        "patch",
        vec![
            ("/base", json!("c"), "/base unknown_name"),
            ("/base", json!(null), "/base missing_field"),
            ("/source", json!("The"), "/source conflict"),
            ("/interventions", json!([]), "/interventions empty"),
            ("/interventions", json!(null), "/interventions missing_field"),
            ("/interventions/0/site", json!(null), "/interventions/0/site missing_field"),
            ("/interventions/0/layers", json!(999), "/interventions/0/layers out_of_range"),
            ("/interventions/0/layers", json!(-1), "/interventions/0/layers out_of_range"),
            ("/interventions/0/layers", json!([0, 4]), "/interventions/0/layers/1 out_of_range"),
            ("/interventions/0/layers", json!([0, 0]), "/interventions/0/layers/1 duplicate"),
            ("/interventions/0/layers", json!("al"), "/interventions/0/layers unknown_value"),
            (
                "/interventions/0/layers",
                json!({"from": 0, "to": 1_000_000_000}),
                "/interventions/0/layers/to out_of_range",
            ),
            ("/interventions/0/layers", json!({"from": 2, "to": 2}), "/interventions/0/layers empty"),
            (
                "/interventions/0/layers",
                json!({"from": 0, "step": 0}),
                "/interventions/0/layers/step out_of_range",
            ),
            ("/interventions/0/layers", json!([0, 1]), "/interventions/0/layers length_mismatch"),
            ("/interventions/0/layers", json!(true), "/interventions/0/layers wrong_type"),
            ("/interventions/0/positions", json!([0, 4]), "/interventions/0/positions/1 out_of_range"),
            ("/interventions/0/positions", json!([1, -3]), "/interventions/0/positions/1 duplicate"),
            ("/interventions/0/positions", json!(i64::MIN), "/interventions/0/positions out_of_range"),
            (
                "/interventions/0/positions",
                json!({"span": "s"}),
                "/interventions/0/positions/span unknown_name",
            ),
            (
                "/interventions/0/positions",
                json!({"range": [0, 9]}),
                "/interventions/0/positions/range out_of_range",
            ),
            (
                "/interventions/0/positions",
                json!({"class": "last_subject"}),
                "/interventions/0/positions/class unknown_name",
            ),
            (
                "/interventions/0/positions",
                json!({"align": "words"}),
                "/interventions/0/positions/align unknown_value",
            ),
            ("/interventions/0/positions", json!({}), "/interventions/0/positions missing_field"),
            (
                "/interventions/0/positions",
                json!({"map": [[0, 9]]}),
                "/interventions/0/positions/map/0/1 out_of_range",
            ),
            (
                "/interventions/0/positions",
                json!({"map": [[9, 0]]}),
                "/interventions/0/positions/map/0/0 out_of_range",
            ),
            (
                "/interventions/0/positions",
                json!({"map": [[0, 1], [2, 1]]}),
                "/interventions/0/positions/map/1 duplicate",
            ),
            ("/interventions/0/heads", json!([0]), "/interventions/0/heads not_supported"),
            ("/interventions/1/heads", json!([2]), "/interventions/1/heads/0 out_of_range"),
            ("/interventions/1/heads", json!({}), "/interventions/1/heads wrong_type"),
            ("/interventions/0/window", json!(0), "/interventions/0/window out_of_range"),
            ("/interventions/0/window", json!(u64::MAX), "/interventions/0/window out_of_range"),
            (
                "/interventions/0",
                json!({"site": "logits", "op": "zero"}),
                "/interventions/0/site not_supported",
            ),
            ("/interventions/0/dims", json!([7, 8]), "/interventions/0/dims/1 out_of_range"),
            ("/interventions/0/dims", json!([1, 1]), "/interventions/0/dims/1 duplicate"),
            ("/interventions/0/dims", json!([]), "/interventions/0/dims empty"),
            ("/interventions/1/dims", json!(4), "/interventions/1/dims out_of_range"),
            ("/interventions/1/dims", json!([0, 2]), "/interventions/1/source/vector length_mismatch"),
            ("/interventions/0/op", json!("replcae"), "/interventions/0/op unknown_value"),
            (
                "/interventions/1",
                json!({"site": "z", "heads": [0], "op": "freeze", "source": {"vector": [1, 2, 3, 4]}}),
                "/interventions/1/source conflict",
            ),
            ("/interventions/0/op", json!("zero"), "/interventions/0/source conflict"),
            ("/interventions/0/coef", json!(2), "/interventions/0/coef conflict"),
            ("/interventions/0/source", json!(null), "/interventions/0/source missing_field"),
            ("/interventions/0/source", json!({}), "/interventions/0/source/run missing_field"),
            ("/interventions/0/source/run", json!("c"), "/interventions/0/source/run unknown_name"),
            (
                "/interventions/0/source/positions",
                json!([0, 1, 2]),
                "/interventions/0/source/positions length_mismatch",
            ),
            ("/interventions/0/source/positions", json!(7), "/interventions/0/source/positions out_of_range"),
            (
                "/interventions/0/source/site",
                json!("mlp_act"),
                "/interventions/0/source/site length_mismatch",
            ),
            ("/interventions/0/source/site", json!("scores"), "/interventions/0/source/site length_mismatch"),
            ("/interventions/0/source/layer", json!(4), "/interventions/0/source/layer out_of_range"),
            (
                "/interventions/0/source",
                json!({"run": "b", "site": "embed", "layer": 0}),
                "/interventions/0/source/layer out_of_range",
            ),
            (
                "/interventions/0/source/vector",
                json!([1, 2, 3, 4, 5, 6, 7, 8.5]),
                "/interventions/0/source/run conflict",
            ),
            (
                "/interventions/1/source/vector",
                json!([1, 2, 3]),
                "/interventions/1/source/vector length_mismatch",
            ),
            ("/interventions/1/source/vector", json!([]), "/interventions/1/source/vector empty"),
            ("/interventions/1/source/vector/0", json!("NaN"), "/interventions/1/source/vector/0 wrong_type"),
            (
                "/interventions/1/source/vector/0",
                json!(1e39),
                "/interventions/1/source/vector/0 out_of_range",
            ),
            ("/interventions/1/coef", json!(-1e300), "/interventions/1/coef out_of_range"),
            ("/sweep", json!("layers"), "/sweep wrong_type"),
            ("/sweep/0", json!("layer"), "/sweep/0 unknown_value"),
            // Every column of either: eight channels, four dimensions of a head.
            ("/sweep/0", json!("dims"), "/interventions/1/dims length_mismatch"),
            ("/sweep/0", json!("arms"), "/sweep/0 not_supported"),
            ("/sweep", json!(["layers", "layers"]), "/sweep/1 duplicate"),
            ("/normalise/one", json!("c"), "/normalise/one unknown_name"),
            ("/normalise/one", json!("a"), "/normalise self_reference"),
            ("/normalise", json!({"zero": "a"}), "/normalise/one missing_field"),
            ("/controls/0", json!("random_positions"), "/controls/0 unknown_value"),
            ("/swap", json!(true), "/swap not_supported"),
            ("/async", json!(1), "/async wrong_type"),
        ],
    );
}

#[test]
fn bad_traces_name_their_field() {
    check(
        "trace",
        vec![
            ("/subject", json!("Eiffel"), "/subject conflict"),
            ("/corrupt", json!("gaussian"), "/corrupt wrong_type"),
            ("/corrupt/from", json!("nobody"), "/corrupt/from unknown_name"),
            ("/corrupt/method", json!("gauss"), "/corrupt/method unknown_value"),
            ("/corrupt/mode", json!("subtract"), "/corrupt/mode unknown_value"),
            ("/corrupt/positions", json!({"span": "s"}), "/corrupt/positions/span unknown_name"),
            ("/corrupt/positions", json!([9]), "/corrupt/positions/0 out_of_range"),
            ("/corrupt/sigma", json!(3), "/corrupt/sigma wrong_type"),
            ("/corrupt/sigma", json!({}), "/corrupt/sigma/k missing_field"),
            ("/corrupt/sigma/k", json!(0), "/corrupt/sigma/k out_of_range"),
            ("/corrupt/sigma/k", json!(-3), "/corrupt/sigma/k out_of_range"),
            ("/corrupt/sigma/k", json!(3e38), "/corrupt/sigma out_of_range"),
            ("/corrupt/sigma/abs", json!(1), "/corrupt/sigma/k conflict"),
            ("/corrupt/sigma/of", json!("words"), "/corrupt/sigma/of unknown_value"),
            ("/corrupt/samples", json!(0), "/corrupt/samples out_of_range"),
            ("/corrupt/samples", json!(1_000_000_000), "/corrupt/samples limit_exceeded"),
            ("/corrupt/samples", json!(1.5), "/corrupt/samples wrong_type"),
            ("/corrupt/seed", json!(-1), "/corrupt/seed out_of_range"),
            ("/corrupt/rng", json!("xorshift"), "/corrupt/rng unknown_value"),
            (
                "/corrupt",
                json!({"rng": "numpy_legacy", "seed": 4_294_967_296_u64}),
                "/corrupt/seed out_of_range",
            ),
            ("/corrupt", json!({"method": "run"}), "/corrupt/run missing_field"),
            (
                "/corrupt",
                json!({"method": "run", "run": "clean", "from": "clean"}),
                "/corrupt/run self_reference",
            ),
            ("/corrupt", json!({"method": "run", "run": "x", "from": "clean"}), "/corrupt/run unknown_name"),
            ("/corrupt", json!({"method": "run", "run": "other", "seed": 1}), "/corrupt/seed unknown_field"),
            ("/arms", json!({}), "/arms empty"),
            ("/arms", json!(["hidden", "hidden"]), "/arms/1 duplicate"),
            ("/arms", json!(["everything"]), "/arms/0 unknown_value"),
            ("/arms/hidden/site", json!("logits"), "/arms/hidden/site not_supported"),
            ("/arms/hidden/dims", json!([8]), "/arms/hidden/dims/0 out_of_range"),
            ("/arms/hidden/positions", json!([4]), "/arms/hidden/positions/0 out_of_range"),
            ("/arms/hidden/freeze", json!(["resid_post"]), "/arms/hidden/freeze/0 unknown_value"),
            ("/arms/hidden/heads", json!([0]), "/arms/hidden/heads not_supported"),
            ("/arms/z/heads", json!([0, 2]), "/arms/z/heads/1 out_of_range"),
            ("/arms/hidden/windw", json!(1), "/arms/hidden/windw unknown_field"),
            ("/layers", json!({"from": 4}), "/layers/from out_of_range"),
            ("/positions", json!({"map": [[0, 0]]}), "/positions/map not_supported"),
            ("/positions", json!([[0]]), "/positions/0 wrong_type"),
            ("/base", json!("both"), "/base unknown_name"),
            ("/expect_top1", json!("y"), "/expect_top1 unknown_name"),
            ("/on_unexpected", json!("stop"), "/on_unexpected unknown_value"),
            ("/keep", json!({"per_sample": "yes"}), "/keep/per_sample wrong_type"),
            ("/plot", json!(1), "/plot wrong_type"),
        ],
    );
}

#[test]
fn bad_short_forms_name_the_field_that_was_written() {
    for (endpoint, body, expected) in [
        ("run", json!({}), vec!["/prompt missing_field"]),
        ("run", json!([]), vec![" wrong_type"]),
        ("run", json!({"prompt": "The", "spans": {"s": "x"}}), vec!["/spans/s span_absent"]),
        ("run", json!({"tokens": [1, 999]}), vec!["/tokens/1 unknown_token"]),
        ("patch", json!({}), vec!["/base missing_field", "/source missing_field"]),
        ("patch", json!({"base": "The", "source": 5}), vec!["/source wrong_type"]),
        ("trace", json!({}), vec!["/prompt missing_field", "/target missing_field"]),
        ("trace", json!({"prompt": "The"}), vec!["/target missing_field", "/subject missing_field"]),
        (
            "trace",
            json!({"prompt": "The", "subject": "The", "target": " Paris", "layers": {"step": 1_u64 << 63}}),
            vec!["/layers/step out_of_range"],
        ),
        (
            "trace",
            json!({"prompt": "The", "subject": "The", "target": " Paris", "read": {"capture": []}}),
            vec!["/read/capture unknown_field"],
        ),
        ("run", json!({"prompt": "The", "target": vec![1; 257]}), vec!["/target limit_exceeded"]),
        ("trace", json!({"prompt": "The", "target": " Paris"}), vec!["/subject missing_field"]),
        ("trace", json!({"prompt": "The", "subject": "x", "target": " Paris"}), vec!["/subject span_absent"]),
        ("trace", json!({"prompt": "The", "subject": "The", "target": 999}), vec!["/target unknown_token"]),
        (
            "trace",
            json!({"prompt": "The", "subject": "The", "target": [" Paris", 999]}),
            vec!["/target/1 unknown_token"],
        ),
        ("tokenize", json!({}), vec!["/prompt missing_field"]),
        (
            "tokenize",
            json!({"prompt": "The", "spans": {"s": "x"}, "model": "m"}),
            vec!["/model unknown_model", "/spans/s span_absent"],
        ),
    ] {
        assert_eq!(problems(endpoint, &body, &Fake::default()), expected, "{endpoint} {body}");
    }
}

#[test]
fn all_problems_come_at_once_those_of_the_text_too() {
    let body = json!({
        "runs": {"a": {"prompt": "The Eiffel Tower is", "spans": {"s": "Berlin"}}, "b": {"prompt": "The river"}},
        "base": "a", "colour": 1,
        "interventions": [{"site": "resid_post", "layers": 999, "positions": [77], "heads": [0], "source": {"run": "b"}},
                          {"site": "z", "heads": [9], "op": "add", "coef": "big", "source": {"vector": [1]}}],
        "target": 5000, "metrics": ["prob:target", "prob:nobody", "accuracy:x"]});
    let mut found = problems("patch", &body, &Fake::default());
    found.sort();
    let expected = [
        "/colour unknown_field",
        "/interventions/0/heads not_supported",
        "/interventions/0/layers out_of_range",
        "/interventions/0/positions/0 out_of_range",
        "/interventions/1/coef wrong_type",
        "/metrics/2 unknown_value",
        "/runs/a/spans/s span_absent",
        "/target unknown_token",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_long_list_of_faults_is_answered_with_its_first_hundred() {
    let mut body = good("trace");
    body["positions"] = json!(vec![99; 100_000]);
    body["layers"] = json!(vec!["x"; 100_000]);
    let found = problems("trace", &body, &Fake::default());
    assert_eq!(found.len(), Problems::MOST);
    assert_eq!(found[0], "/layers/0 wrong_type");
    let body = json!({"prompt": "The", "x".repeat(100_000): 1});
    let found = lower::lower::<crate::spec::run::RunSpec>(&body, &Fake::default()).unwrap_err().0;
    assert!(found[0].detail.len() < 200 && found[0].fix.len() < 1000, "{}", found[0].detail.len());
}

#[test]
fn what_is_too_large_is_refused_before_it_is_built() {
    let long = "The ".repeat(100_000);
    let body = json!({"prompt": long});
    assert_eq!(problems("run", &body, &Fake::default()), ["/prompt limit_exceeded"]);
    assert_eq!(
        problems("run", &json!({"tokens": vec![1; 60_000]}), &Fake::default()),
        ["/tokens limit_exceeded"]
    );
    assert_eq!(
        problems("run", &json!({"prompt": "x".repeat(65)}), &Fake::default()),
        ["/prompt limit_exceeded"]
    );

    let mut facts = Fake::default();
    facts.config.num_layers = 1000;
    facts.limits.samples = u64::MAX;
    let trace = |samples: u64| {
        json!({"prompt": "The Eiffel Tower is", "subject": "Eiffel", "target": " Paris",
                                      "corrupt": {"samples": samples}})
    };
    assert_eq!(problems("trace", &trace(u64::MAX), &facts)[0], "/corrupt/samples limit_exceeded");
    // 1000 layers x 4 positions x 63 samples
    assert_eq!(problems("trace", &trace(63), &facts), ["/arms limit_exceeded"]);
    assert_eq!(problems("trace", &trace(62), &facts), [""; 0]);
    let wide = json!({"prompt": "The Eiffel Tower is", "subject": "Eiffel", "target": " Paris",
                      "corrupt": {"samples": 60}, "arms": {"mlp": {"site": "mlp_out", "window": 10}}});
    assert_eq!(problems("trace", &wide, &facts), ["/arms limit_exceeded"]);

    facts.config.hidden_size = 1 << 20;
    let noise = json!({"base": "The Eiffel", "interventions": [{"site": "mlp_out", "positions": "all", "op": "noise",
                                                                "sigma": {"abs": 1}}]});
    assert_eq!(problems("patch", &noise, &facts), ["/interventions/0 limit_exceeded"]);
    facts.config.hidden_size = 8;
    facts.limits.edit_positions = 1999;
    let rows = json!({"base": "The Eiffel", "interventions": [{"site": "mlp_out", "positions": "all", "op": "zero"}]});
    assert_eq!(problems("patch", &rows, &facts), ["/sweep limit_exceeded"]);
    let loud =
        json!({"base": "The", "interventions": [{"site": "z", "op": "noise", "sigma": {"abs": 1e37}}]});
    assert_eq!(problems("patch", &loud, &facts), ["/interventions/0/sigma out_of_range"]);
    facts.config.hidden_size = 1 << 20;
    let capture = json!({"prompt": "The", "read": {"capture": [{"site": "mlp_out", "positions": "all"}]}});
    assert_eq!(problems("run", &capture, &facts), ["/read/capture/0 limit_exceeded"]);
}

/// Pointers of every value inside `value`.
fn pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| pointers(v, &format!("{at}/{k}"), into)),
        Value::Array(list) => {
            (0..).zip(list).for_each(|(i, v): (usize, _)| pointers(v, &format!("{at}/{i}"), into))
        }
        _ => {}
    }
}

#[test]
fn no_value_anywhere_makes_it_panic_and_every_pointer_is_in_the_body_or_names_what_is_missing() {
    let odd = [
        json!(null),
        json!(true),
        json!(""),
        json!("x"),
        json!(" "),
        json!("\u{0}\u{1F600}"),
        json!(-1),
        json!(0),
        json!(1),
        json!(3.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!([]),
        json!([[]]),
        json!([0]),
        json!([0, 1]),
        json!([5, 1]),
        json!({}),
        json!({"x": 1}),
        json!("all"),
        json!("last"),
        json!(["x", "x"]),
        json!({"range": [-100, 100]}),
        json!({"map": [[0, 0]]}),
    ];
    let facts = Fake::default();
    let mut refused = 0;
    for endpoint in ["run", "patch", "trace", "tokenize"] {
        let body = good(endpoint);
        let mut all = Vec::new();
        pointers(&body, "", &mut all);
        for pointer in all.iter().filter(|p| !p.is_empty()) {
            for value in &odd {
                let body = with(endpoint, pointer, value.clone());
                for problem in problems(endpoint, &body, &facts) {
                    refused += 1;
                    let (at, code) = problem.rsplit_once(' ').unwrap();
                    let parent = at.rsplit_once('/').map_or("", |(parent, _)| parent);
                    let found = body.pointer(at).is_some()
                        || (body.pointer(parent).is_some() && code == "missing_field");
                    // A default that doesn't fit what was given points at where to write another value.
                    let default = at.starts_with("/corrupt/positions")
                        || at.starts_with("/metrics/")
                        || at.starts_with("/normalise")
                        || at.starts_with("/base")
                        || at == "/corrupt/from";
                    assert!(found || default, "{endpoint} {pointer} = {value}: {problem}");
                }
            }
        }
        for value in &odd {
            problems(endpoint, value, &facts);
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_corruption_that_cannot_be_read_hides_no_problem_of_the_rest() {
    let body = json!({"prompt": "abc", "subject": "z", "target": "c", "layers": [99], "foo": 1,
                      "corrupt": {"samples": 1e9, "sigma": {"k": -1}}, "metrics": ["prob:x"]});
    let problems = lower::lower::<crate::spec::trace::TraceSpec>(&body, &Fake::default()).unwrap_err();
    let found: Vec<&str> = problems.0.iter().map(|p| p.pointer.as_str()).collect();
    for pointer in ["/foo", "/corrupt/sigma/k", "/corrupt/samples", "/layers/0", "/subject"] {
        assert!(found.contains(&pointer), "{pointer} is not in {found:?}");
    }
}

#[test]
fn problems_behind_an_intervention_that_cannot_be_read_name_the_right_one() {
    let mut body = good("patch");
    body["interventions"] = json!([
        {"site": "nowhere", "op": "zero"},
        {"site": "resid_post", "layers": [999], "positions": "last", "op": "zero"},
    ]);
    let problems = lower::lower::<PatchSpec>(&body, &Fake::default()).unwrap_err();
    let found: Vec<&str> = problems.0.iter().map(|p| p.pointer.as_str()).collect();
    assert_eq!(found, ["/interventions/0/site", "/interventions/1/layers/0"]);
}

/// A model with learned positions and the sizes of the other.
fn gpt2() -> Fake {
    let llama = Fake::default();
    let block = GPT2.block(1e-5, PositionShape::Learned);
    let config = ModelConfig { family: &GPT2, num_kv_heads: 2, block, ..llama.config };
    Fake { config, ..Fake::default() }
}

#[test]
fn sites_of_rotary_models_are_refused_by_name_where_positions_are_learned() {
    let vector = |site: &str| json!([{"site": site, "layers": 1, "op": "zero", "positions": "last"}]);
    let source =
        json!([{"site": "q", "layers": 1, "positions": "last", "source": {"run": "b", "site": "q_rope"}}]);
    for (body, endpoint, pointer) in [
        (with("run", "/read/capture", json!([{"site": "k_rope"}])), "run", "/read/capture/0/site"),
        (with("patch", "/interventions", vector("q_rope")), "patch", "/interventions/0/site"),
        (with("patch", "/interventions", source), "patch", "/interventions/0/source/site"),
        (with("trace", "/arms/k", json!({"site": "k_rope"})), "trace", "/arms/k/site"),
    ] {
        assert_eq!(problems(endpoint, &body, &Fake::default()), [""; 0], "{pointer}");
        assert_eq!(problems(endpoint, &body, &gpt2()), [format!("{pointer} not_supported")]);
    }
    let upload = json!({"site": "k_rope", "values": [1, 2, 3, 4, 5, 6, 7, 8]});
    let upload = UploadSpec::read(&upload, &mut Problems::default()).unwrap();
    let refused = lower::upload(upload, &gpt2()).unwrap_err();
    assert_eq!((refused.0[0].pointer.as_str(), refused.0[0].fix.contains("write k,")), ("/site", true));
}

#[test]
fn sites_after_head_norms_are_refused_where_heads_have_none() {
    let body = with(
        "patch",
        "/interventions",
        json!([{"site": "q_norm", "layers": 1, "op": "zero", "positions": "last"}]),
    );
    assert_eq!(problems("patch", &body, &Fake::default()), ["/interventions/0/site not_supported"]);
    let llama = Fake::default().config;
    let normed = ModelConfig { block: BlockShape { head_norms: true, ..llama.block.clone() }, ..llama };
    assert_eq!(problems("patch", &body, &Fake { config: normed, ..Fake::default() }), [""; 0]);
}

#[test]
fn an_axis_that_no_intervention_names_says_how_it_comes_to_be_swept() {
    let short = |axis: &str| {
        let body = json!({"base": "The river is", "source": "The tower is", "target": " x", "sweep": [axis]});
        lower::lower::<PatchSpec>(&body, &Fake::default())
    };
    let refused = short("heads").unwrap_err();
    let problem = refused.0.iter().find(|problem| problem.pointer == "/sweep/0").unwrap();
    let named = "name heads in an intervention, as {\"site\": \"z\", \"heads\": \"all\"}";
    assert!(problem.fix.starts_with(named), "{problem:?}");
    // A row has dims without anybody naming them.
    let lowered = short("dims").unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(lowered.plan.runs.iter().flat_map(|run| &run.edits).all(|edit| edit.columns.is_some()));
}
