//! Sweeps over HTTP on the tiny model, held against the endpoints that compute the same one request at a time.

use axum::body::Body;
use axum::http::{Request, header};
use mediant::http::AppState;
use serde_json::{Value, json};

use crate::support::{Reply, ok, post, send, tiny, tiny_with, working, working_with};

const PROMPTS: [(&str, &str); 3] =
    [("The Tower is in", "Tower"), ("Rome has a", "Rome"), ("Ah, it is", "Ah")];

fn cases() -> Value {
    let case = |(i, (prompt, subject)): (usize, &(&str, &str))| {
        json!({"id": format!("c{i}"), "group": if i == 0 { "first" } else { "rest" }, "prompt": prompt,
               "subject": subject, "target": "P", "foil": "Q"})
    };
    PROMPTS.iter().enumerate().map(case).collect()
}

fn noise() -> Value {
    json!({"sigma": {"abs": 0.4}, "samples": 3, "seed": 5})
}

fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn sweep(more: &Value) -> Value {
    let body = json!({"dataset": {"inline": cases()}, "corrupt": noise(), "arms": ["hidden", "mlp"],
                      "filters": {"expect_top1": false}});
    with(body, more)
}

/// Rows of the cells of a case and arm, by layer and position.
fn row(outcome: &Value, case: usize, arm: &str, layer: u64, position: u64) -> usize {
    let arms: Vec<&str> =
        outcome["arms"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    let arm = arms.iter().position(|name| *name == arm).unwrap() as u64;
    let cells = &outcome["cells"];
    (0..cells["case"].as_array().unwrap().len())
        .find(|i| {
            cells["case"][i] == case as u64
                && cells["arm"][i] == arm
                && cells["layer"][i] == layer
                && cells["position"][i] == position
        })
        .unwrap()
}

#[tokio::test]
async fn every_cell_is_that_of_the_trace_of_its_prompt_by_itself() {
    let state = working().await;
    for base in ["corrupted", "clean"] {
        let ends = json!({"base": base});
        let outcome = ok(&state, "/v1/sweep", &sweep(&ends)).await;
        assert_eq!(outcome["complete"], true);
        assert_eq!(outcome["cells_done"], outcome["cells_total"]);
        for (case, (prompt, subject)) in PROMPTS.iter().enumerate() {
            let trace = json!({"prompt": prompt, "subject": subject, "target": "P", "arms": ["hidden", "mlp"],
                               "corrupt": noise(), "base": base});
            let trace = ok(&state, "/v1/trace", &trace).await;
            let positions = trace["tokens"].as_array().unwrap().len() as u64;
            for (arm, metric) in [("hidden", 0), ("mlp", 1)] {
                let name = ["prob:target", "logprob:target"][metric];
                for layer in 0..4 {
                    for position in 0..positions {
                        let row = row(&outcome, case, arm, layer, position);
                        let columns = &outcome["cells"]["metrics"][metric];
                        let (l, p) = (layer as usize, position as usize);
                        let of = &trace["arms"][arm];
                        let at = format!("{base} {case} {arm} {layer} {position}");
                        assert_eq!(columns["value"][row], of["values"][name]["mean"][l][p], "{at}");
                        assert_eq!(columns["effect"][row], of["effects"][name]["mean"][l][p], "{at}");
                        assert_eq!(columns["effect_se"][row], of["effects"][name]["se"][l][p], "{at}");
                        let masks = &of["masks"];
                        assert_eq!(outcome["cells"]["trivial"][row], masks["trivial"][l][p], "{at}");
                        assert_eq!(outcome["cells"]["exact_null"][row], masks["exact_null"][l][p], "{at}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn averages_by_token_class_are_those_of_a_trace_with_cases() {
    let state = working().await;
    let by = json!({"aggregate": {"by": ["layer", "token_class"], "ci": {"seed": 3}}});
    let outcome = ok(&state, "/v1/sweep", &sweep(&by)).await;
    let traced: Vec<Value> = PROMPTS
        .iter()
        .map(|(prompt, subject)| json!({"prompt": prompt, "subject": subject, "target": "P"}))
        .collect();
    let trace = json!({"cases": traced, "corrupt": noise(), "arms": ["hidden", "mlp"], "filters": {"expect_top1": false}});
    let trace = ok(&state, "/v1/trace", &trace).await;
    let classes = trace["classes"].as_array().unwrap();
    let mut compared = 0;
    for average in outcome["averages"]["rows"].as_array().unwrap() {
        let metric = average["metric"].as_str().unwrap();
        if metric == "logit_diff:target-foil" {
            continue;
        }
        let arm = &trace["arms"][average["arm"].as_str().unwrap()];
        let class = classes.iter().position(|class| *class == average["token_class"]).unwrap();
        let layer = average["layer"].as_u64().unwrap() as usize;
        let estimates = &arm["effects"][metric];
        let near = |found: &Value, expected: &Value| match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => (found - expected).abs() <= 1e-12 + 1e-9 * expected.abs(),
            (found, expected) => found == expected,
        };
        for (found, expected) in [("mean", "mean"), ("se", "se")] {
            let (found, expected) = (&average["effect"][found], &estimates[expected][class][layer]);
            assert!(near(found, expected), "{average}: {found} {expected}");
        }
        assert!(near(&average["recovery"], &arm["recovery"][metric]["value"][class][layer]), "{average}");
        assert_eq!(average["effect"]["n"], estimates["n"][class][layer], "{average}");
        assert_eq!(average["cells"], arm["cells"][class][layer], "{average}");
        compared += 1;
    }
    assert_eq!(compared, outcome["averages"]["rows"].as_array().unwrap().len() / 3 * 2);
    assert!(compared >= 2 * 2 * 4 * 5);
}

#[tokio::test]
async fn a_pun_switch_is_two_patches() {
    let state = working().await;
    let (a, b) = ("They know the current", "The river has water");
    let intervention = json!({"site": "resid_post", "layers": "all", "positions": "last",
                              "source": {"run": "pun", "positions": "last"}});
    let body = json!({"runs": {"pun": {"prompt": a}, "literal": {"prompt": b}}, "base": "literal",
                      "arms": {"pun_into_literal": [intervention]}, "swap": true, "sweep": ["layers"],
                      "targets": {"x": ["v", "e"], "y": ["f"]}, "metrics": ["logit_diff:x-y", "kl:pun", "top1_flip"],
                      "derive": ["leaves_base", "reaches_source", "half_recovery_layer"]});
    let outcome = ok(&state, "/v1/sweep", &body).await;
    for (arm, base, source) in
        [("pun_into_literal", "literal", "pun"), ("pun_into_literal_swapped", "pun", "literal")]
    {
        let patch = json!({"runs": {"pun": {"prompt": a}, "literal": {"prompt": b}}, "base": base,
                           "interventions": [{"site": "resid_post", "layers": "all", "positions": "last",
                                              "source": {"run": source, "positions": "last"}}],
                           "sweep": ["layers"], "targets": {"x": ["v", "e"], "y": ["f"]},
                           "metrics": ["logit_diff:x-y", "kl:pun", "top1_flip"],
                           "derive": ["leaves_base", "reaches_source", "half_recovery_layer"]});
        let patch = ok(&state, "/v1/patch", &patch).await;
        let arms = outcome["arms"].as_array().unwrap();
        let index = arms.iter().position(|a| a["name"] == arm).unwrap();
        for layer in 0..4_usize {
            for (metric, name) in ["logit_diff:x-y", "kl:pun", "top1_flip"].iter().enumerate() {
                let columns = &outcome["cells"]["metrics"][metric];
                let row = 4 * index + layer;
                assert_eq!(columns["value"][row], patch["values"][name][layer], "{arm} {name} {layer}");
                assert_eq!(columns["effect"][row], patch["effects"][name][layer], "{arm} {name} {layer}");
            }
        }
        let derived = outcome["derived"].as_array().unwrap();
        let derived = derived.iter().find(|entry| entry["arm"] == arm).unwrap();
        for name in ["leaves_base", "reaches_source"] {
            assert_eq!(derived[name], patch["derived"][name]);
        }
        let reached = &derived["reaches_source"][0];
        let lasting = reached["lasting"]["layer"].as_u64().unwrap() as usize;
        let goal = &patch["runs"][source]["topk"][0]["id"];
        assert!((lasting..4).all(|layer| patch["topk"][layer][0]["id"] == *goal), "{reached}");
        assert!(lasting == 0 || patch["topk"][lasting - 1][0]["id"] != *goal);
        assert_eq!(reached["lasting"]["token"]["text"], patch["runs"][source]["topk"][0]["text"]);
        let half = &patch["derived"]["half_recovery_layer"]["logit_diff:x-y"];
        assert_eq!(&derived["half_recovery_layer"]["logit_diff:x-y"], half);
    }
}

#[tokio::test]
async fn heads_are_an_axis_of_those_arms_that_have_them() {
    let state = working().await;
    let body = json!({"dataset": {"inline": cases()}, "corrupt": noise(), "filters": {"expect_top1": false},
                      "arms": {"heads": {"site": "z", "layers": "all", "heads": "all", "positions": "last"},
                               "mlp": [{"site": "mlp_out", "layers": "all", "positions": "last"}]},
                      "sweep": ["layers", "heads", "arms"], "metrics": ["logit_diff:target-foil"],
                      "aggregate": {"by": ["arm", "layer", "head"], "topk": {"k": 3, "correction": "max_t"},
                                    "compare": ["arm"]}});
    let outcome = ok(&state, "/v1/sweep", &body).await;
    assert_eq!(outcome["arms"][0]["axes"], json!(["layer", "head"]));
    assert_eq!(outcome["arms"][1]["axes"], json!(["layer"]));
    assert_eq!(outcome["cells_total"], 3 * (4 * 4 + 4));
    assert_eq!(outcome["averages"]["rows"].as_array().unwrap().len(), 4 * 4 + 4);
    assert_eq!(outcome["averages"]["top"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn paired_prompts_take_the_place_of_a_corruption_and_ablations_need_none() {
    let state = working().await;
    let pair = json!({"prompt": "Rome is in", "corrupted": "Oslo is in", "subject": "Rome", "target": "I"});
    let body = json!({"dataset": {"inline": [pair]}, "arms": ["hidden"], "filters": {"expect_top1": false}});
    let outcome = ok(&state, "/v1/sweep", &body).await;
    let trace = json!({"runs": {"clean": {"prompt": "Rome is in"}, "other": {"prompt": "Oslo is in"}}, "target": "I",
                       "corrupt": {"method": "run", "run": "other"}, "arms": ["hidden"]});
    let trace = ok(&state, "/v1/trace", &trace).await;
    let row = row(&outcome, 0, "hidden", 1, 2);
    let found = &outcome["cells"]["metrics"][0]["effect"][row];
    assert_eq!(*found, trace["arms"]["hidden"]["effects"]["prob:target"]["mean"][1][2]);

    let ablate = json!({"runs": {"clean": {"prompt": "Rome is in"}}, "base": "clean", "target": "I", "sweep": ["layers"],
                        "arms": {"zero": {"site": "mlp_out", "layers": "all", "op": "zero"}}});
    let outcome = ok(&state, "/v1/sweep", &ablate).await;
    assert_eq!(outcome["cells_total"], 4);
    assert_eq!(outcome["arms"][0].get("reference"), None);
    assert_eq!(outcome["averages"]["rows"][0]["recovery"], Value::Null);
}

#[tokio::test]
async fn cases_that_fail_a_filter_are_listed_with_the_reason_and_not_computed() {
    let state = working().await;
    let body = sweep(&json!({"filters": {"expect_top1": false, "min_clean_prob": 0.9}}));
    let outcome = ok(&state, "/v1/sweep", &body).await;
    assert_eq!((&outcome["averages"]["kept"], &outcome["averages"]["dropped"]), (&json!(0), &json!(3)));
    assert_eq!(outcome["cells"]["case"], json!([]));
    assert_eq!(outcome["complete"], true);
    for case in outcome["cases"].as_array().unwrap() {
        assert_eq!(case["kept"], false);
        assert_eq!(case["dropped"][0]["filter"], "min_clean_prob");
    }
    let lints = outcome["lints"].as_array().unwrap();
    assert!(lints.iter().any(|lint| lint["code"] == "NO_CASE_KEPT"));
}

#[tokio::test]
async fn what_averages_rest_on_is_in_the_result() {
    let state = working().await;
    let more = json!({"aggregate": {"by": ["arm", "layer"], "stats": ["mean", "median", "trimmed_mean"],
                                    "topk": {"k": 3, "order": "t", "correction": "max_t"}}});
    let outcome = ok(&state, "/v1/sweep", &sweep(&more)).await;
    assert_eq!(outcome["request"]["aggregate"]["stats"], json!(["median", "trimmed_mean"]));
    assert_eq!(outcome["request"]["aggregate"]["topk"], json!({"k": 3, "order": "t"}));
    let averages = &outcome["averages"];
    let cases = json!({"cases": 3, "patterns": 4, "exact": true, "smallest_p": 0.25});
    assert_eq!(averages["test"], cases);
    let row = &averages["rows"][0]["effect"];
    assert!(row["robust"]["median"].is_number() && row["robust"]["trimmed_mean_ci"].is_array(), "{row}");
    assert!(row["ci_t"].is_array() && row.get("se_over").is_none(), "{row}");
    let top = &averages["top"][0];
    assert!(top["n"] == 3 && top["se"].is_number() && top["p_max_t"].as_f64() >= Some(0.25), "{top}");
    for case in outcome["cases"].as_array().unwrap() {
        assert!(case["dropped"] == json!([]) && case["answers"].is_boolean(), "{case}");
    }
    let codes: Vec<&str> =
        outcome["lints"].as_array().unwrap().iter().map(|lint| lint["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"P_OUT_OF_REACH") && codes.contains(&"SMALL_N"), "{codes:?}");
    // By size, unless t is asked for.
    let by_size = json!({"aggregate": {"by": ["arm", "layer"], "topk": 12}});
    let outcome = ok(&state, "/v1/sweep", &sweep(&by_size)).await;
    for metric in outcome["metrics"].as_array().unwrap() {
        let top = outcome["averages"]["top"].as_array().unwrap();
        let sizes: Vec<f64> = top
            .iter()
            .filter(|top| top["metric"] == *metric)
            .map(|top| top["mean"].as_f64().unwrap().abs())
            .collect();
        assert!(sizes.len() > 3 && sizes.windows(2).all(|two| two[0] >= two[1]), "{sizes:?}");
    }
    assert_eq!(outcome["averages"]["rows"][0]["effect"].get("robust"), None);
    for (aggregate, pointer) in [
        (json!({"by": ["layer"], "topk": {"k": 3, "order": "p"}}), "/aggregate/topk/order"),
        (json!({"by": ["layer"], "stats": ["mode"]}), "/aggregate/stats/0"),
    ] {
        refused(&state, &sweep(&json!({"aggregate": aggregate})), pointer).await;
    }
    // One case: its error is over its samples.
    let mut one = sweep(&json!({"aggregate": {"by": ["arm", "layer", "position"]}}));
    one["dataset"]["inline"].as_array_mut().unwrap().truncate(1);
    let outcome = ok(&state, "/v1/sweep", &one).await;
    for row in outcome["averages"]["rows"].as_array().unwrap() {
        assert_eq!((&row["effect"]["se_over"], &row["effect"]["n"]), (&json!("samples"), &json!(1)), "{row}");
        assert!(row["effect"]["se"].is_number());
    }
}

#[tokio::test]
async fn errors_follow_the_cases_that_count_and_not_those_that_were_asked_for() {
    let state = working().await;
    // By arm and layer: each average is of several cells, whose samples do not move together.
    let by = json!({"by": ["arm", "layer"], "topk": 3});
    let all = ok(&state, "/v1/sweep", &sweep(&json!({"aggregate": by}))).await;
    assert!(all["averages"]["rows"][0]["effect"].get("se_over").is_none());
    let prob = |case: &Value| case["runs"][0]["values"][0]["mean"].as_f64().unwrap();
    let mut probs: Vec<f64> = all["cases"].as_array().unwrap().iter().map(prob).collect();
    let best = (0..3).max_by(|a, b| probs[*a].total_cmp(&probs[*b])).unwrap();
    probs.sort_by(f64::total_cmp);
    let filters = json!({"expect_top1": false, "min_clean_prob": probs[1].midpoint(probs[2])});
    let of_three = ok(&state, "/v1/sweep", &sweep(&json!({"aggregate": by, "filters": filters}))).await;
    let mut body = sweep(&json!({"aggregate": by}));
    body["dataset"]["inline"] = json!([cases()[best]]);
    let of_one = ok(&state, "/v1/sweep", &body).await;
    assert_eq!((&of_three["averages"]["kept"], &of_one["averages"]["kept"]), (&json!(1), &json!(1)));
    for what in ["rows", "totals", "top"] {
        assert_eq!(of_three["averages"][what], of_one["averages"][what], "{what}");
    }
    let row = &of_three["averages"]["rows"][0]["effect"];
    assert!(row["se"].is_number() && row["se_over"] == "samples" && row["n"] == 1, "{row}");
    // One case has no p-value, and none is said to be out of reach.
    assert_eq!(of_three["averages"]["test"], Value::Null);
    let lints = of_three["lints"].as_array().unwrap();
    let small = lints.iter().find(|lint| lint["code"] == "SMALL_N" && lint["where"] == "/dataset").unwrap();
    assert!(small["detail"].as_str().unwrap().starts_with("one case"), "{small}");
    assert!(lints.iter().all(|lint| lint["code"] != "P_OUT_OF_REACH"), "{lints:?}");
}

#[tokio::test]
async fn however_a_sweep_is_cut_its_bytes_are_the_same() {
    let mut results = Vec::new();
    for unit in ["0.001", "0.02", "30.0"] {
        let state = tiny_with(&[("jobs.unit_s", unit)]);
        let state = working_with(state).await;
        let reply = post(&state, "/v1/sweep", &sweep(&json!({}))).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let job = reply.headers[header::LOCATION].to_str().unwrap().to_owned();
        let units = crate::support::get(&state, &job).await.json()["progress"]["total"].as_u64().unwrap();
        results.push((units, reply.bytes));
    }
    assert!(results[0].0 > 20 && results[2].0 == 5, "{} {}", results[0].0, results[2].0);
    assert!(results.iter().all(|(_, bytes)| *bytes == results[0].1));
}

async fn refused(state: &AppState, body: &Value, pointer: &str) -> String {
    let reply = post(state, "/v1/sweep", body).await;
    assert_eq!(reply.status, 422, "{body}: {}", reply.text());
    let problem = reply.json();
    let errors = problem["errors"].as_array().unwrap();
    let error = errors.iter().find(|error| error["pointer"] == pointer);
    let error = error.unwrap_or_else(|| panic!("{pointer} is not named: {problem}"));
    error["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn bad_sweeps_are_refused_by_field_and_nothing_is_stored() {
    let state = working().await;
    let case = |more: Value| {
        let body = json!({"corrupt": noise(), "filters": {"expect_top1": false}});
        let case = with(json!({"prompt": "Rome is", "subject": "Rome", "target": "a"}), &more);
        with(
            body,
            &json!({"dataset": {"inline": [json!({"prompt": "Ah it", "subject": "Ah", "target": "b"}), case]}}),
        )
    };
    for (body, pointer) in [
        (json!({}), "/dataset"),
        (json!({"dataset": {}}), "/dataset/inline"),
        (json!({"dataset": {"inline": []}}), "/dataset/inline"),
        (json!({"dataset": {"id": "ds_nothing"}}), "/dataset/id"),
        (case(json!({"subject": "Paris"})), "/dataset/inline/1/subject"),
        (case(json!({"subject": null})), "/dataset/inline/1/subject"),
        (case(json!({"promt": "x"})), "/dataset/inline/1/promt"),
        (case(json!({"id": "0"})), "/dataset/inline/1/id"),
        (case(json!({"runs": {"clean": "x"}})), "/dataset/inline/1/prompt"),
        (case(json!({"target": []})), "/dataset/inline/1/target"),
        (sweep(&json!({"arms": {"a": {"site": "mlp_in_out"}}})), "/arms/a/site"),
        (sweep(&json!({"arms": {"a": {"site": "mlp_out", "layers": 9}}})), "/arms/a/0/layers"),
        (
            sweep(&json!({"arms": {"a": {"site": "mlp_out", "layers": "all", "source": {"run": "x"}}}})),
            "/arms/a/0/source/run",
        ),
        (sweep(&json!({"sweep": ["layers", "heads"]})), "/sweep/1"),
        (sweep(&json!({"sweep": ["layer"]})), "/sweep/0"),
        (sweep(&json!({"base": "dirty"})), "/base"),
        (sweep(&json!({"aggregate": {"by": ["token"]}})), "/aggregate/by/0"),
        (sweep(&json!({"aggregate": {"by": ["layer"], "ci": {"resamples": 5}}})), "/aggregate/ci/resamples"),
        (sweep(&json!({"aggregate": {"by": ["layer"], "topk": 0}})), "/aggregate/topk"),
        (sweep(&json!({"keep": {"per_sample": true}})), "/keep/per_sample"),
        (sweep(&json!({"notify": {"webhook": "http://x"}})), "/notify"),
        (sweep(&json!({"output": ["pickle"]})), "/output/0"),
        (sweep(&json!({"priority": "urgent"})), "/priority"),
        (sweep(&json!({"metrics": ["prob:nobody"]})), "/metrics/0"),
        (sweep(&json!({"swap": "yes"})), "/swap"),
        (sweep(&json!({"strict": true})), "/arms/mlp/0/window"),
        (
            json!({"runs": {"a": "x", "b": "y"}, "arms": {"m": {"site": "mlp_out", "layers": 0, "op": "zero"}}}),
            "/base",
        ),
    ] {
        refused(&state, &body, pointer).await;
    }
    assert_eq!(crate::support::get(&state, "/v1/jobs").await.json()["jobs"], json!([]));
    let detail = refused(&state, &case(json!({"subject": "Paris"})), "/dataset/inline/1/subject").await;
    assert!(detail.contains("Paris"), "{detail}");
}

async fn fetch(state: &AppState, path: &str) -> Reply {
    send(state, Request::get(path).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_result_has_every_form_and_a_picture() {
    let state = working().await;
    let body = sweep(&json!({"aggregate": {"by": ["layer", "token_class", "group"], "topk": 2}}));
    let reply = post(&state, "/v1/sweep", &body).await;
    let job = reply.headers[header::LOCATION].to_str().unwrap().to_owned();
    for (format, media, start) in [
        ("json", "application/json", &b"{"[..]),
        ("jsonl", "application/x-ndjson", b"{"),
        ("csv", "text/csv; charset=utf-8", b"arm,"),
        ("npz", "application/x-npz", b"PK"),
        ("safetensors", "application/vnd.safetensors", b""),
        ("parquet", "application/vnd.apache.parquet", b"PAR1"),
    ] {
        let reply = fetch(&state, &format!("{job}/result?format={format}")).await;
        assert_eq!((reply.status.as_u16(), reply.media_type()), (200, media), "{format}: {}", reply.text());
        if format != "csv" {
            assert!(reply.bytes.starts_with(start), "{format}");
        }
        assert!(reply.bytes.len() > 500, "{format}");
    }
    for table in ["averages", "cells", "cases", "differences", "top"] {
        let reply = fetch(&state, &format!("{job}/result?format=csv&table={table}")).await;
        assert_eq!(reply.status, 200, "{table}: {}", reply.text());
        assert!(reply.text().lines().count() > 2, "{table}");
    }
    for (path, media) in [
        ("plot", "image/svg+xml"),
        ("plot?format=png", "image/png"),
        ("plot?kind=heatmap", "image/svg+xml"),
        ("plot?kind=bars&token_class=last&title=Mine&vmax=2", "image/svg+xml"),
        ("result?format=svg", "image/svg+xml"),
    ] {
        let reply = fetch(&state, &format!("{job}/{path}")).await;
        assert_eq!((reply.status.as_u16(), reply.media_type()), (200, media), "{path}: {}", reply.text());
    }
    for bad in [
        "result?format=xml",
        "result?table=x",
        "result?format=csv&metric=prob:x",
        "plot?kind=pie",
        "plot?kind=lens",
        "plot?group=nobody",
        "plot?arm=nobody",
        "plot?run=clean",
        "plot?vmax=-1",
        "result?format=csv&title=x",
    ] {
        assert_eq!(fetch(&state, &format!("{job}/{bad}")).await.status, 422, "{bad}");
    }
}

#[tokio::test]
async fn a_dry_run_of_a_sweep_says_what_it_costs() {
    let state = tiny();
    let plan = ok(&state, "/v1/plan", &json!({"sweep": sweep(&json!({}))})).await;
    assert_eq!(plan["kind"], "sweep");
    assert!(plan["cost"]["row_layers"].as_u64().unwrap() > 1000);
    let reply = post(&state, "/v1/plan", &json!({"sweep": sweep(&json!({"sweep": ["layer"]}))})).await;
    assert_eq!(reply.json()["errors"][0]["pointer"], "/sweep/sweep/0");
}

#[tokio::test]
async fn edges_cut_and_layers_read_in_arms_are_those_of_patches() {
    let state = working().await;
    let cut = json!([{"site": "scores", "op": "knockout", "layers": [1, 2], "window": 2, "positions": "last",
                      "keys": {"span": "subject"}}]);
    let cross = json!([{"site": "head_out", "layers": [0, 2], "heads": [1], "positions": "last",
                        "source": {"run": "clean", "layer": [1, 3]}}]);
    let arms = json!({"cut": {"base": "clean", "interventions": cut}, "cross": {"base": "clean", "interventions": cross}});
    let axes = json!(["layers", "source_layers"]);
    let body = json!({"dataset": {"inline": cases()}, "arms": arms, "sweep": axes, "filters": {"expect_top1": false},
                      "metrics": ["logit:target"]});
    let outcome = ok(&state, "/v1/sweep", &body).await;
    let (cells, effects) = (&outcome["cells"], &outcome["cells"]["metrics"][0]["effect"]);
    let mut compared = 0;
    for (case, (prompt, subject)) in PROMPTS.iter().enumerate() {
        for (arm, interventions, axes) in [(0, &cut, json!(["layers"])), (1, &cross, axes.clone())] {
            let runs = json!({"clean": {"prompt": prompt, "spans": {"subject": subject}}});
            let patch = json!({"runs": runs, "base": "clean", "interventions": interventions, "sweep": axes,
                               "targets": {"target": ["P"]}, "metrics": ["logit:target"], "controls": ["self_patch"]});
            let patch = ok(&state, "/v1/patch", &patch).await;
            assert_eq!(patch["controls"]["self_patch"]["max_abs_effect"], 0.0);
            let expected = &patch["effects"]["logit:target"];
            let expected: Vec<&Value> = if arm == 0 {
                expected.as_array().unwrap().iter().collect()
            } else {
                expected.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap()).collect()
            };
            let rows = (0..cells["case"].as_array().unwrap().len())
                .filter(|i| cells["case"][i] == case as u64 && cells["arm"][i] == arm);
            let found: Vec<&Value> = rows.clone().map(|i| &effects[i]).collect();
            assert_eq!(found, expected, "{prompt} {arm}");
            assert!(found.iter().all(|effect| effect.as_f64().unwrap() != 0.0));
            let read: Value = rows.map(|i| cells["source_layer"][i].clone()).collect();
            assert_eq!(read, if arm == 0 { json!([null, null]) } else { json!([1, 3, 1, 3]) });
            compared += found.len();
        }
    }
    assert_eq!(compared, 3 * (2 + 4));
    // A cut score falls by infinity, which JSON has no number for.
    assert_eq!(outcome["receipt"]["max_abs_delta"], json!(null));
    let by = |key: &str| {
        outcome["averages"]["rows"].as_array().unwrap().iter().filter(|row| !row[key].is_null()).count()
    };
    assert_eq!((by("layer"), by("source_layer")), (2 + 4, 4));
}

/// Path patching over a data set: the run that is sent is derived from each case's clean run.
#[tokio::test]
async fn runs_beside_a_data_set_are_those_of_every_case() {
    let state = working().await;
    let texts = [("Rome is in", "Rome"), ("They know Paris", "Paris"), ("A river has water", "river")];
    let cases: Vec<Value> = texts
        .iter()
        .map(|(text, subject)| json!({"prompt": text, "subject": subject, "target": "I"}))
        .collect();
    let sent = json!({"from": "clean", "interventions": [{"site": "mlp_out", "layers": 1, "positions": {"span": "subject"}, "op": "zero"}]});
    let arm =
        json!([{"site": "resid_post", "positions": "last", "layers": "all", "source": {"run": "sent"}}]);
    let body = |dataset: Value, runs: Value| {
        json!({"dataset": dataset, "runs": runs, "base": "clean", "reference": "sent",
        "arms": {"path": arm}, "sweep": ["layers"], "filters": {"expect_top1": false}})
    };
    let common =
        ok(&state, "/v1/sweep", &body(json!({"inline": cases}), json!({"sent": sent, "other": "Water"})))
            .await;
    for (i, (text, subject)) in texts.iter().enumerate() {
        let alone = json!({"runs": {"clean": {"prompt": text, "spans": {"subject": subject}}, "sent": sent}, "base": "clean",
            "interventions": arm, "sweep": ["layers"], "target": "I", "metrics": ["prob:target"]});
        let alone = ok(&state, "/v1/patch", &alone).await;
        for layer in 0..4 {
            let row = 4 * i + layer;
            assert_eq!(common["cells"]["metrics"][0]["effect"][row], alone["effects"]["prob:target"][layer]);
        }
    }
    assert_eq!(common["cases"][0]["runs"].as_array().unwrap().len(), 3);
    // What is wrong with them is said once, where they stand.
    let stored = post(&state, "/v1/datasets", &json!(cases)).await.json()["id"].clone();
    for (runs, expected) in [
        (
            json!({"sent": {"from": "clean", "interventions": [{"site": "mlp_out", "layers": 9, "op": "zero"}]}}),
            "/runs/sent/interventions/0/layers",
        ),
        (
            json!({"sent": {"from": "nobody", "interventions": [{"site": "mlp_out", "layers": 1, "op": "zero"}]}}),
            "/runs/sent/from",
        ),
        (
            json!({"sent": {"from": "clean", "interventions": [{"site": "mlp_out", "layers": 1, "positions": {"span": "object"}, "op": "zero"}]}}),
            "/runs/sent/interventions/0/positions/span",
        ),
        (json!({"clean": "x"}), "/runs/clean"),
    ] {
        let reply = post(&state, "/v1/sweep", &body(json!({"id": stored}), runs.clone())).await;
        assert_eq!(reply.status, 422, "{}", reply.text());
        let told = reply.json();
        let errors: Vec<&str> =
            told["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
        assert!(errors.contains(&expected), "{runs}: {errors:?}");
        assert!(errors.len() <= 2, "{errors:?}");
    }
}

/// A curve of faithfulness: the strongest heads of an earlier sweep, and all but those, at several sizes in one request.
#[tokio::test]
async fn cells_of_an_earlier_sweep_are_the_strongest_of_it_or_all_but_those() {
    let state = working().await;
    let cases =
        json!([{"prompt": "Rome is in", "target": "I"}, {"prompt": "They know Paris", "target": "x"}]);
    let head = |more: Value| {
        let mut one = json!({"site": "z", "positions": "all", "op": "zero"});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([one])
    };
    let body = |arms: Value, sweep: Value, by: Value| {
        json!({"dataset": {"inline": cases}, "base": "clean", "arms": arms, "sweep": sweep,
        "metrics": ["logit:target", "prob:target"], "filters": {"expect_top1": false}, "aggregate": {"by": by}})
    };
    let heads = json!({"heads": head(json!({"layers": "all", "heads": "all"}))});
    let reply =
        post(&state, "/v1/sweep", &body(heads, json!(["layers", "heads"]), json!(["layer", "head"]))).await;
    let job = reply.headers["location"].to_str().map(|path| path.rsplit('/').next().unwrap().to_owned());
    let (earlier, job) = (reply.json(), job.unwrap());
    let mut ranked: Vec<(f64, u64, u64)> = earlier["averages"]["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["metric"] == "logit:target")
        .map(|row| {
            (
                row["effect"]["mean"].as_f64().unwrap().abs(),
                row["layer"].as_u64().unwrap(),
                row["head"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(ranked.len(), 16);
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let by_hand = |chosen: &[(f64, u64, u64)]| -> Value {
        let mut of_layers = std::collections::BTreeMap::<u64, Vec<u64>>::new();
        for (_, layer, head) in chosen {
            of_layers.entry(*layer).or_default().push(*head);
        }
        let one = |(layer, mut heads): (u64, Vec<u64>)| {
            heads.sort_unstable();
            head(json!({"layers": layer, "heads": heads}))[0].clone()
        };
        of_layers.into_iter().map(one).collect()
    };
    let curve = json!({"only": head(json!({"cells": {"of": job, "k": [1, 3, 7]}})),
        "others": {"interventions": head(json!({"cells": {"of": job, "k": 3, "complement": true, "arm": "heads", "metric": "logit:target"}}))}});
    let curve = ok(&state, "/v1/sweep", &body(curve, json!([]), json!(["arm"]))).await;
    let plain = json!({"only_k1": by_hand(&ranked[..1]), "only_k3": by_hand(&ranked[..3]), "only_k7": by_hand(&ranked[..7]),
        "others": by_hand(&ranked[3..])});
    let plain = ok(&state, "/v1/sweep", &body(plain, json!([]), json!(["arm"]))).await;
    assert_eq!(curve["averages"]["rows"], plain["averages"]["rows"]);
    assert_eq!(curve["arms"], plain["arms"]);
    // Priced alike.
    let priced = json!({"sweep": body(json!({"only": head(json!({"cells": {"of": job, "k": 2}}))}), json!([]), json!(["arm"]))});
    ok(&state, "/v1/plan", &priced).await;
    for (arms, sweep, pointer) in [
        (head(json!({"cells": {"of": "job_none", "k": 2}})), json!([]), "/arms/x/0/cells/of"),
        (head(json!({"cells": {"of": job, "k": 17}})), json!([]), "/arms/x/0/cells/k"),
        (head(json!({"cells": {"of": job, "k": 16, "complement": true}})), json!([]), "/arms/x/0/cells/k"),
        (head(json!({"cells": {"of": job, "k": 2, "arm": "mlp"}})), json!([]), "/arms/x/0/cells/arm"),
        (
            head(json!({"cells": {"of": job, "k": 2, "metric": "kl:clean"}})),
            json!([]),
            "/arms/x/0/cells/metric",
        ),
        (head(json!({"cells": {"of": job, "k": 2, "kk": 1}})), json!([]), "/arms/x/0/cells/kk"),
        (head(json!({"cells": {"of": job, "k": 2}, "heads": [1]})), json!([]), "/arms/x/0/heads"),
        (head(json!({"cells": {"of": job, "k": 2}})), json!(["layers"]), "/sweep"),
    ] {
        let reply = post(&state, "/v1/sweep", &body(json!({"x": arms}), sweep, json!(["arm"]))).await;
        assert_eq!(reply.status, 422, "{}", reply.text());
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{}", reply.text());
    }
    let patch = json!({"prompt": "a", "runs": {"a": "x"}, "base": "a", "target": "I", "interventions": head(json!({"cells": {"of": job, "k": 2}}))});
    let reply = post(&state, "/v1/patch", &patch).await;
    assert!(reply.text().contains("/interventions/0/cells"), "{}", reply.text());
}
