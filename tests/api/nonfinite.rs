//! Numbers that are none, over HTTP: whatever is made of a row that is not finite is null and has a reason, one remark says what
//! happened, and a model of which no answer is finite is not served.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};
use mediant::config;
use mediant::http::{AppState, Readiness};
use mediant::service::start;
use serde_json::{Value, json};

use crate::support::{data_dir, get, ok, post, post_accepting, state, tiny, working, working_with};

#[path = "../load/made.rs"]
mod made;

/// Fields that may be null for other reasons, which their descriptions say.
const MAY_BE_NULL: [&str; 22] = [
    // An axis that an arm doesn't have, a test that is not asked for.
    "source_layer",
    "test",
    "request",
    "se",
    "ci",
    "recovery_ci",
    "sigma",
    "subject",
    "derived",
    "layers",
    "usage",
    "rng",
    "seed",
    "group",
    "layer",
    "position",
    "token_class",
    "head",
    "dim",
    "model_sha",
    "effect_se",
    "reference",
];

/// Nulls of an answer of which no entry of `nulls` gives the reason.
fn unexplained(answer: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, reasons: &[&str], found: &mut Vec<String>) {
        let covered = || reasons.iter().any(|r| at == *r || at.starts_with(&format!("{r}/")));
        match value {
            Value::Null if !covered() => found.push(at.to_owned()),
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    walk(item, &format!("{at}/{i}"), reasons, found);
                }
            }
            Value::Object(fields) => {
                for (key, field) in fields.iter().filter(|(key, _)| !MAY_BE_NULL.contains(&key.as_str())) {
                    walk(field, &format!("{at}/{key}"), reasons, found);
                }
            }
            _ => {}
        }
    }
    let nulls = answer["nulls"].as_array().unwrap();
    let reasons: Vec<&str> = nulls.iter().map(|null| null["where"].as_str().unwrap()).collect();
    for reason in &reasons {
        // What is said to be null is there, and is, or is made of nulls alone.
        let named = answer.pointer(reason).unwrap_or_else(|| panic!("{reason} is not in {answer}"));
        assert!(named.is_null() || named.is_array() || named.is_object(), "{reason} is {named}");
    }
    let mut found = Vec::new();
    walk(answer, "", &reasons, &mut found);
    found
}

fn codes(answer: &Value) -> Vec<&str> {
    answer["lints"].as_array().unwrap().iter().map(|lint| lint["code"].as_str().unwrap()).collect()
}

/// That an answer explains its nulls and says once what happened.
fn explained(answer: &Value) {
    assert_eq!(unexplained(answer), Vec::<String>::new(), "{answer:#}");
    let lints = answer["lints"].as_array().unwrap();
    let said: Vec<&Value> = lints.iter().filter(|lint| lint["code"] == "NOT_FINITE").collect();
    assert_eq!(said.len(), 1, "{lints:#?}");
    let fix = said[0]["fix"].as_str().unwrap();
    assert!(fix.contains("bf16 or f32") && said[0]["detail"].as_str().unwrap().contains("NaN"), "{fix}");
}

/// Where nothing but nulls may stand.
fn all_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().all(all_null),
        Value::Object(fields) => fields.values().all(all_null),
        _ => false,
    }
}

#[tokio::test]
async fn a_patch_that_overflows_has_no_numbers_ranks_flips_or_top_tokens() {
    let body = json!({"runs": {"a": {"prompt": "hello there"}}, "base": "a",
        "interventions": [{"site": "mlp_act", "layers": 1, "positions": "last", "op": "scale", "factor": 3e38}],
        "targets": {"t": ["b"]}, "metrics": ["prob:t", "rank:t", "top1_flip", "delta_norm"]});
    let answer = ok(&tiny(), "/v1/patch", &body).await;
    explained(&answer);
    assert!(all_null(&answer["values"]) && all_null(&answer["effects"]), "{answer:#}");
    assert!(answer["topk"].is_null() && all_null(&answer["masks"]));
    assert!(answer["runs"]["a"]["topk"].is_array() && answer["baselines"]["a"]["rank:t"].is_f64());
    let reasons: Vec<&str> =
        answer["nulls"].as_array().unwrap().iter().map(|null| null["reason"].as_str().unwrap()).collect();
    assert!(reasons.iter().all(|reason| reason.contains("not_finite")), "{reasons:?}");
    let mut strict = with(body, &json!({"strict": true, "metrics": ["kl:a"]}));
    strict.as_object_mut().unwrap().remove("targets");
    let strict = post(&tiny(), "/v1/patch", &strict).await;
    assert!(strict.status == 422 && strict.text().contains("NOT_FINITE"), "{}", strict.text());
}

fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn of_a_sweep_some_cells_are_null_and_the_others_as_they_are() {
    // The layers' scales differ, so that layers 0 and 1 are finite.
    let bad =
        json!({"site": "mlp_act", "layers": {"from": 2}, "positions": "last", "op": "scale", "factor": 3e38});
    let base = json!({"runs": {"a": {"prompt": "hello there"}}, "base": "a", "targets": {"t": ["b"]}, "sweep": ["layers"],
        "metrics": ["prob:t", "rank:t", "top1_flip"], "derive": ["leaves_base", "argmax", "concentration"],
        "controls": ["self_patch", "random_vector"]});
    let patch = |interventions: Value| with(base.clone(), &json!({"interventions": interventions}));
    let scaled = |factor: f64| json!([{"site": "mlp_act", "layers": "all", "positions": "last", "op": "scale", "factor": factor}]);
    let all = ok(&tiny(), "/v1/patch", &patch(scaled(0.5))).await;
    assert_eq!((unexplained(&all), all["nulls"].as_array().unwrap().len()), (vec![], 0));
    let half = ok(&tiny(), "/v1/patch", &patch(json!([bad]))).await;
    explained(&half);
    assert!(all_null(&half["values"]["prob:t"]));
    assert_eq!(half["nulls"][0]["where"], "/values/prob:t", "one reason for a whole array");
    let flips = &half["derived"]["leaves_base"][0];
    assert!(flips["first"].is_null() && flips["reason"].as_str().unwrap().contains("layer 2"), "{flips}");
    assert!(half["derived"]["argmax"]["prob:t"].is_null());
    // Restoring a row of NaN from another run: only what reads it.
    let runs = json!({"runs": {"a": {"prompt": "hello there"},
        "b": {"from": "a", "interventions": [{"site": "resid_post", "layers": 1, "positions": [3], "op": "scale", "factor": 3e38}]}},
        "interventions": [{"site": "resid_post", "layers": "all", "positions": [3], "source": {"run": "b"}}]});
    let some = ok(&tiny(), "/v1/patch", &with(base.clone(), &with(runs, &json!({"controls": []})))).await;
    explained(&some);
    let prob = some["values"]["prob:t"].as_array().unwrap();
    // Before layer 1 nothing differs; at the last layer position 3 is read by nobody.
    assert_eq!(prob.iter().map(Value::is_null).collect::<Vec<_>>(), [false, true, true, false], "{some:#}");
    assert_eq!(some["masks"]["exact_null"], json!([true, null, null, true]));
    assert!(all_null(&some["baselines"]["b"]) && some["runs"]["b"]["topk"].is_null());
    let flips = &some["derived"]["leaves_base"][0];
    assert_eq!((&flips["first"], &flips["lasting"]), (&Value::Null, &Value::Null));
    assert!(flips["reason"].as_str().unwrap().contains("layer 1"), "{flips}");
    let svg = post_accepting(&tiny(), "/v1/patch?format=svg", &some["request"], "*/*").await;
    assert!(svg.text().contains("not finite"), "{}", svg.text());
}

#[tokio::test]
async fn what_is_compared_with_a_base_that_is_not_finite_is_null_too() {
    let body = json!({"runs": {"a": {"prompt": "hello there"},
        "b": {"from": "a", "interventions": [{"site": "embed", "positions": [2], "op": "scale", "factor": 3e38}]}},
        "base": "b", "targets": {"t": ["b"]}, "metrics": ["prob:t", "top1_flip", "kl:a", "kl:b"], "normalise": {"zero": "b", "one": "a"},
        "controls": ["self_patch"],
        "interventions": [{"site": "embed", "positions": "all", "source": {"run": "a"}}], "sweep": ["positions"]});
    let answer = ok(&tiny(), "/v1/patch", &body).await;
    explained(&answer);
    let prob = answer["values"]["prob:t"].as_array().unwrap();
    // Restoring the broken position gives the clean run, whose numbers are numbers.
    let known: Vec<usize> = (0..prob.len()).filter(|i| prob[*i].is_f64()).collect();
    assert_eq!(known, [2], "{answer:#}");
    assert_eq!(answer["values"]["kl:a"][2], 0.0);
    assert!(all_null(&answer["values"]["kl:b"]) && all_null(&answer["values"]["top1_flip"]));
    assert!(all_null(&answer["effects"]) && all_null(&answer["normalised"]) && all_null(&answer["masks"]));
    assert!(answer["topk"][2].is_array() && answer["topk"][3].is_null());
    assert!(answer["controls"]["self_patch"]["max_abs_effect"].is_null());
}

fn trace(sigma: f64) -> Value {
    json!({"prompt": "The Tower is in", "subject": "Tower", "target": "P", "arms": ["hidden", "mlp"],
        "metrics": ["prob:target", "logit:target", "rank:target"], "controls": ["self_patch", "random_vector"],
        "derive": ["leaves_base", "reaches_source", "half_recovery_layer", "argmax", "concentration"], "keep": {"per_sample": true},
        "corrupt": {"sigma": {"abs": sigma}, "samples": 3, "seed": 4}})
}

#[tokio::test]
async fn noise_whose_squares_overflow_is_told_and_not_read_as_zeros() {
    let answer = ok(&tiny(), "/v1/trace", &trace(1e15)).await;
    assert_eq!((unexplained(&answer), codes(&answer).contains(&"NOT_FINITE")), (vec![], false));
    assert!(answer["baselines"]["corrupted"]["logit:target"]["mean"].is_f64());
    for sigma in [1e19, 1e20, 1e30] {
        let answer = ok(&tiny(), "/v1/trace", &trace(sigma)).await;
        explained(&answer);
        let corrupted = &answer["baselines"]["corrupted"]["logit:target"];
        assert!(corrupted["mean"].is_null() && all_null(&corrupted["samples"]), "{sigma}: {corrupted}");
        assert!(answer["baselines"]["clean"]["logit:target"].is_f64());
        assert!(all_null(&answer["total_effect"]) && all_null(&answer["arms"]["hidden"]["effects"]));
        assert!(answer["controls"]["self_patch"]["max_abs_effect"].is_null());
        assert!(all_null(&answer["arms"]["mlp"]["masks"]) && all_null(&answer["arms"]["mlp"]["argmax"]));
        for code in ["TARGET_NOT_TOP1", "CORRUPTION_HELPS", "WEAK_CORRUPTION", "SATURATED_CORRUPTION"] {
            let about_clean = code == "TARGET_NOT_TOP1";
            assert!(about_clean || !codes(&answer).contains(&code), "{code}");
        }
        for format in ["csv", "npz", "safetensors", "svg", "png"] {
            let reply =
                post_accepting(&tiny(), &format!("/v1/trace?format={format}"), &trace(sigma), "*/*").await;
            assert_eq!(reply.status, 200, "{format}: {}", reply.text());
            assert!(format != "svg" || reply.text().contains("not finite"));
        }
    }
}

#[tokio::test]
async fn cases_and_sweeps_have_no_averages_of_what_is_no_number() {
    let cases: Value = ["The alpha tower 0", "The alpha tower 1", "The alpha tower 2"]
        .into_iter()
        .map(|prompt| json!({"prompt": prompt, "subject": "alpha", "target": "P"}))
        .collect();
    let noise = json!({"sigma": {"abs": 1e20}, "samples": 2});
    let body = json!({"cases": cases, "corrupt": noise, "metrics": ["prob:target", "rank:target"],
        "filters": {"expect_top1": false}, "aggregate": {"ci": {"resamples": 100}}});
    let answer = ok(&tiny(), "/v1/trace", &body).await;
    explained(&answer);
    assert_eq!(answer["kept"], 3);
    assert!(answer["total_effect"]["rank:target"]["mean"].is_null());
    assert!(all_null(&answer["arms"]["hidden"]["effects"]["rank:target"]["mean"]));
    assert!(
        answer["arms"]["hidden"]["exact_null"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .all(|n| *n == 0)
    );

    let state = working().await;
    let sweep = json!({"dataset": {"inline": cases}, "corrupt": {"samples": 2}, "base": "clean",
        "arms": {"x": [{"site": "mlp_act", "layers": "all", "positions": "all", "op": "scale", "factor": 3e38}]},
        "sweep": ["layers"], "metrics": ["prob:target", "rank:target"], "filters": {"expect_top1": false},
        "derive": ["leaves_base", "reaches_source"], "aggregate": {"by": ["layer"], "topk": {"k": 3}}});
    let outcome = ok(&state, "/v1/sweep", &sweep).await;
    explained(&outcome);
    for row in outcome["averages"]["rows"].as_array().unwrap() {
        assert!(
            row["effect"]["mean"].is_null() && row["effect"]["ci"].is_null() && row["recovery"].is_null(),
            "{row}"
        );
    }
    assert!(outcome["averages"]["top"].as_array().unwrap().is_empty());
    assert!(all_null(&outcome["cells"]["exact_null"]) && all_null(&outcome["cells"]["trivial"]));
    assert!(outcome["derived"][0]["leaves_base"][0]["reason"].is_string(), "{}", outcome["derived"]);
    for row in outcome["cases"].as_array().unwrap() {
        assert!(row["runs"][0]["top1"].is_string(), "{row}");
    }
}

/// A server of a model in a folder, whose tensors were changed.
fn served(
    folder: &Path,
    dtype: &str,
    change: impl FnOnce(&mut HashMap<String, Tensor>),
) -> anyhow::Result<AppState> {
    let mut tensors = made::tensors();
    change(&mut tensors);
    made::write(&folder.join("model"), &made::config(), &tensors, 1);
    let flags = [
        ("--model", "model.ref", folder.join("model").display().to_string()),
        ("--dtype", "model.dtype", dtype.to_owned()),
        ("--data-dir", "store.data_dir", data_dir()),
    ];
    let config = config::load(None, [], &flags).unwrap().config;
    let service = start::in_process(&config)?;
    let ready = state(Readiness::Ready);
    Ok(AppState { config: Arc::new(config), service: Arc::new(OnceLock::from(service)), ..ready })
}

/// A tensor with one of its rows set to a number.
fn with_row(tensor: &Tensor, row: usize, number: f32) -> Tensor {
    let columns = tensor.dims()[1];
    let mut numbers: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    numbers[row * columns..(row + 1) * columns].fill(number);
    Tensor::from_vec(numbers, tensor.dims(), &Device::Cpu).unwrap()
}

const EMBEDDING: &str = "model.embed_tokens.weight";

#[test]
fn a_model_whose_known_answer_is_not_finite_is_not_served_and_says_so() {
    let refused = |dtype: &str, name: &str, change: &dyn Fn(&Tensor) -> Tensor| {
        let folder = tempfile::tempdir().unwrap();
        let served = served(folder.path(), dtype, |tensors| {
            let changed = change(&tensors[name]);
            tensors.insert(name.to_owned(), changed);
        });
        served.err().map(|error| format!("{error:#}"))
    };
    let down = "model.layers.1.mlp.down_proj.weight";
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for name in [down, "model.layers.3.self_attn.k_proj.weight"] {
            let error = refused("f32", name, &|weight| with_row(weight, 5, bad)).unwrap();
            assert!(error.contains("NaN or infinite") && error.contains("look into the weights"), "{error}");
        }
        // A single token's logit is not finite.
        assert!(refused("f32", "lm_head.weight", &|weight| with_row(weight, 300, bad)).is_some());
    }
    let large: &dyn Fn(&Tensor) -> Tensor = &|weight| (weight * 1e5).unwrap();
    let error = refused("f16", down, large).unwrap();
    assert!(error.contains("in f16") && error.contains("\"bf16\" or \"f32\""), "{error}");
    assert_eq!((refused("f32", down, large), refused("bf16", down, large)), (None, None));
}

#[tokio::test]
async fn runs_their_lenses_and_attributions_are_null_where_a_token_has_no_numbers() {
    let folder = tempfile::tempdir().unwrap();
    // The token "z", which the known answer does not use.
    let state = served(folder.path(), "f32", |tensors| {
        let changed = with_row(&tensors[EMBEDDING], 89, f32::NAN);
        tensors.insert(EMBEDDING.to_owned(), changed);
    });
    let state = working_with(state.unwrap()).await;
    let run = json!({"runs": {"good": {"prompt": "abcd"}, "bad": {"prompt": "abzd"}}, "target": "x",
        "metrics": ["prob:target", "rank:target"],
        "read": {"logit_lens": {"layers": "all", "positions": "all"}, "attention": [{"layers": [1], "heads": "all"}],
                 "attribution": {"target": "target", "heads": true}, "capture": [{"site": "mlp_out", "layers": [0], "positions": "all"}]}});
    let answer = ok(&state, "/v1/run", &run).await;
    explained(&answer);
    let (good, bad) = (&answer["runs"]["good"], &answer["runs"]["bad"]);
    assert!(bad["topk"].is_null() && all_null(&bad["metrics"]) && good["metrics"]["rank:target"].is_f64());
    let lens = &bad["logit_lens"];
    for layer in 0..4 {
        let at = |array: &Value| -> Vec<bool> {
            array[layer].as_array().unwrap().iter().map(Value::is_null).collect()
        };
        // Positions before the token see nothing of it.
        let expected = [false, false, true, true];
        assert_eq!((at(&lens["topk"]), at(&lens["entropy"])), (expected.to_vec(), expected.to_vec()));
        assert_eq!(at(&lens["metrics"]["rank:target"]), expected);
        assert_eq!(lens["entropy"][layer][1], good["logit_lens"]["entropy"][layer][1]);
    }
    assert!(all_null(&bad["attribution"]["attn_out"]) && bad["attribution"]["mean_logit"].is_null());
    assert!(good["attribution"]["mean_logit"].is_f64());

    let align = json!({"runs": run["runs"], "target": "x", "metrics": ["prob:target"]});
    let answer = ok(&state, "/v1/align", &align).await;
    explained(&answer);
    assert!(
        answer["contrast"]["differs"].is_null() && answer["contrast"]["targets"]["target"]["prob_a"].is_f64()
    );

    // A clean run that has no answer has not the expected one either.
    let trace = json!({"prompt": "abzd", "subject": "a", "target": "x", "expect_top1": "target", "corrupt": {"sigma": {"abs": 0.1}}});
    let answer = ok(&state, "/v1/trace", &trace).await;
    explained(&answer);
    assert!(!codes(&answer).contains(&"TARGET_NOT_TOP1"));
    let refused = post(&state, "/v1/trace", &with(trace, &json!({"on_unexpected": "refuse"}))).await;
    assert!(refused.status == 422 && refused.text().contains("NaN or infinite"), "{}", refused.text());

    let cases = json!([{"prompt": "abzd", "subject": "a", "target": "x"}, {"prompt": "abcd", "subject": "a", "target": "x"}]);
    let expect = |expect: Value| json!({"expect_top1": expect});
    let of_cases =
        |filters: Value| json!({"cases": cases, "corrupt": {"sigma": {"abs": 0.1}}, "filters": filters});
    let answer = ok(&state, "/v1/trace", &of_cases(expect(json!("target")))).await;
    explained(&answer);
    let detail = answer["cases"][0]["dropped"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("no most probable token"), "{detail}");
    let answer = ok(&state, "/v1/trace", &of_cases(expect(json!(false)))).await;
    explained(&answer);
    assert_eq!(
        (answer["kept"].as_u64(), &answer["total_effect"]["prob:target"]["mean"]),
        (Some(2), &Value::Null)
    );

    let sweep = |filters: Value| json!({"dataset": {"inline": cases}, "corrupt": {"sigma": {"abs": 0.1}}, "arms": ["mlp"], "filters": filters});
    let outcome = ok(&state, "/v1/sweep", &sweep(expect(json!("target")))).await;
    explained(&outcome);
    let first = &outcome["cases"][0];
    assert_eq!((&first["kept"], &first["runs"][0]["not_finite"]), (&json!(false), &json!(1)));
    assert!(first["dropped"][0]["detail"].as_str().unwrap().contains("no most probable token"), "{first}");
    let outcome = ok(&state, "/v1/sweep", &sweep(expect(json!(false)))).await;
    explained(&outcome);
    let nulls = outcome["cells"]["exact_null"].as_array().unwrap();
    for (case, null) in outcome["cells"]["case"].as_array().unwrap().iter().zip(nulls) {
        assert_eq!((null.is_null(), null.is_boolean()), (case == 0, case == 1));
    }
    assert_eq!(get(&state, "/readyz").await.status, 200);
}

#[tokio::test]
async fn a_row_that_cannot_keep_its_norm_is_told() {
    let answer = async |coef: f64, norm_match: bool| {
        let body = json!({"runs": {"a": {"prompt": "hello there"}}, "base": "a", "targets": {"t": ["b"]},
            "metrics": ["logit:t", "delta_norm"], "interventions": [{"site": "mlp_out", "layers": [1], "positions": [2, 4],
            "op": "add", "coef": coef, "norm_match": norm_match, "source": {"run": "a", "positions": [2, 4]}}]});
        ok(&tiny(), "/v1/patch", &body).await
    };
    let cancelled = answer(-1.0, true).await;
    assert_eq!(cancelled["receipt"]["cancelled"], 2);
    let lint =
        cancelled["lints"].as_array().unwrap().iter().find(|lint| lint["code"] == "NORM_LOST").unwrap();
    assert!(lint["detail"].as_str().unwrap().contains("2 of 2 rows"), "{lint}");
    for (coef, norm_match) in [(-1.0, false), (-0.5, true)] {
        let kept = answer(coef, norm_match).await;
        assert_eq!(kept["receipt"]["cancelled"], 0);
        assert!(!codes(&kept).contains(&"NORM_LOST"));
    }
}
