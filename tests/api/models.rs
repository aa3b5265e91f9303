//! What is served and what it can do; and that nothing is while the model loads.

use mediant::http::Readiness;
use serde_json::{Value, json};

use crate::schema::check_response;
use crate::support::{Reply, get, post, state, tiny};

async fn described(path: &str, documented: &str) -> Value {
    let reply = get(&tiny(), path).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    check_response("get", documented, "200", &reply.json());
    reply.json()
}

fn is_problem(reply: &Reply, status: u16, slug: &str) {
    assert_eq!((reply.status.as_u16(), reply.media_type()), (status, "application/problem+json"));
    let problem = reply.json();
    assert_eq!(problem["type"], format!("urn:mediant:problem:{slug}"), "{problem}");
    assert_eq!(problem["status"], status);
    assert_eq!(problem["instance"], reply.headers["x-request-id"].to_str().unwrap());
}

#[tokio::test]
async fn the_list_of_models_holds_the_served_one_with_its_shape() {
    let models = described("/v1/models", "/v1/models").await;
    let [model] = &models["models"].as_array().unwrap()[..] else { panic!("{models}") };
    assert_eq!(model["config"]["num_layers"], 4);
    assert_eq!((&model["dtype"], &model["tokenizer"]["bos"]), (&json!("f32"), &json!(256)));
    assert_eq!(model["tokenizer"]["adds_bos"], true);
    assert!(model["flops_per_second"].as_f64().unwrap() > 1e6);
    // 512 x 64 twice, and 4 layers of q, k, v, o and three of the MLP.
    let layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160;
    assert_eq!(model["parameters"].as_u64().unwrap() / 1000, (2 * 512 * 64 + 4 * layer) / 1000);
    let sigma = model["vocab_sigma"].as_f64().unwrap();
    assert!((sigma - 1.0).abs() < 0.02, "embeddings of the dummy have unit deviation, not {sigma}");

    let id = model["id"].as_str().unwrap();
    assert_eq!(&described(&format!("/v1/models/{id}"), "/v1/models/{id}").await, model);
    let by_source = model["fingerprint"]["source"].as_str().unwrap().replace('/', "%2F");
    assert_eq!(&described(&format!("/v1/models/{by_source}"), "/v1/models/{id}").await, model);
}

#[tokio::test]
async fn an_unknown_model_is_404_and_names_the_one_that_is_served() {
    let reply = get(&tiny(), "/v1/models/gpt-5").await;
    is_problem(&reply, 404, "not-found");
    assert!(reply.text().contains("dummy"), "{}", reply.text());
}

/// An intervention of every position at a site.
fn edit(site: &Value, op: &Value) -> Value {
    let width = site["width"].as_u64().unwrap_or(1) as usize;
    let unit: Vec<u8> = (0..width).map(|i| u8::from(i == 0)).collect();
    let more = match op.as_str().unwrap() {
        "replace" | "freeze" => json!({"source": {"run": "b"}}),
        "add" => json!({"source": {"vector": vec![0.5; width]}}),
        "scale" => json!({"factor": 2}),
        "clamp" => json!({"along": unit, "max": -1000}),
        "mean" => json!({"source": {"mean_of": ["a", "b"]}}),
        "resample" => json!({"source": {"any_of": ["b"]}}),
        "noise" => json!({"sigma": {"abs": 0.5}}),
        "project_out" => json!({"basis": [unit]}),
        "subspace" => json!({"basis": [unit], "source": {"run": "b"}}),
        // The first position has no other key.
        "knockout" => json!({"keys": [0], "heads": [0], "positions": [1, 2, 3]}),
        _ => json!({}),
    };
    let mut edit = json!({"site": site["site"], "op": op, "positions": "all"});
    edit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    if site["heads"].is_null() {
        edit.as_object_mut().unwrap().remove("heads");
    }
    edit
}

/// Where an operation that a site has no meaning for is refused.
fn unserved(site: &Value, op: &str) -> Option<&'static str> {
    if !site["editable"].as_bool().unwrap() {
        return Some("/interventions/0/site");
    }
    if op == "knockout" {
        return (site["site"] != "scores").then_some("/interventions/0/op");
    }
    let refused = match site["site"].as_str().unwrap() {
        "scores" | "pattern" => !["replace", "resample", "freeze", "scale", "zero"].contains(&op),
        "head_out" => ["add", "noise", "project_out", "subspace", "clamp"].contains(&op),
        _ => false,
    };
    refused.then_some("/interventions/0/op")
}

#[tokio::test]
async fn capabilities_name_all_that_requests_accept() {
    let can = described("/v1/capabilities", "/v1/capabilities").await;
    let state = tiny();
    assert_eq!(can["sites"].as_array().unwrap().len(), 22, "no head norms, but a gate");
    for site in can["sites"].as_array().unwrap() {
        let name = site["site"].as_str().unwrap();
        for op in can["ops"].as_array().unwrap().iter().map(|facts| &facts["op"]) {
            let body = json!({"runs": {"a": "abc", "b": "xyz"}, "base": "a", "interventions": [edit(site, op)],
                              "target": "P", "allow_trivial": true});
            let reply = post(&state, "/v1/patch", &body).await;
            if let Some(pointer) = unserved(site, op.as_str().unwrap()) {
                is_problem(&reply, 422, "invalid-request");
                assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{name} {op}: {}", reply.text());
                assert_eq!(reply.json()["errors"][0]["code"], "not_supported", "{name} {op}");
                continue;
            }
            assert_eq!(reply.status, 200, "{name} {op}: {}", reply.text());
            let cells = reply.json()["receipt"]["cells"].as_u64().unwrap();
            // Four layers of four positions, BOS included. After the last layer's keys only the read position counts.
            let written = match name {
                "embed" => 4,
                "resid_pre" | "attn_norm" | "k" | "v" | "k_rope" => 16,
                "final_norm" => 1,
                _ if op == "knockout" => 10,
                _ => 13,
            };
            assert_eq!(cells, written, "{name} {op}");
        }
        let heads = match name {
            "k" | "v" | "k_rope" => json!(2),
            "q" | "q_rope" | "scores" | "pattern" | "z" | "head_out" => json!(4),
            _ => json!(null),
        };
        assert_eq!(site["heads"], heads, "{name}");
    }
    for metric in can["metrics"].as_array().unwrap() {
        let form = metric["form"].as_str().unwrap();
        let of = form.replace(":T", ":x").replace("A-B", "x-y").replace("RUN", "clean");
        let body = json!({"prompt": "abc", "subject": "b", "targets": {"x": "P", "y": "Q"}, "metrics": [of]});
        let reply = post(&state, "/v1/trace", &body).await;
        assert_eq!(reply.status, 200, "{metric}: {}", reply.text());
        assert!(reply.json()["total_effect"][&of]["mean"].is_f64(), "{metric}");
        let clean = reply.json()["baselines"]["clean"][&of].as_f64().unwrap();
        assert!(metric["min"].as_f64().is_none_or(|min| min <= clean), "{metric}: {clean}");
        assert!(metric["max"].as_f64().is_none_or(|max| clean <= max), "{metric}: {clean}");
    }
    for axis in can["sweep"].as_array().unwrap() {
        let mut one = json!({"site": "z", "op": "zero", "positions": "all"});
        if *axis == "source_layers" {
            one = json!({"site": "z", "source": {"run": "base", "layer": "all"}});
        }
        let body = json!({"base": "abc", "interventions": [one], "sweep": [axis], "target": "P"});
        let reply = post(&state, "/v1/patch", &body).await;
        assert_eq!(reply.status, 200, "{axis}: {}", reply.text());
        let n = reply.json()["axes"][0]["values"].as_array().unwrap().len();
        let expected = if *axis == "dims" { 16 } else { 4 };
        assert_eq!(n, expected, "{axis}: four layers, positions and heads of sixteen dimensions");
    }
    for control in can["controls"].as_array().unwrap() {
        let body = json!({"base": "abc", "source": "xyz", "target": "P", "controls": [control]});
        let reply = post(&state, "/v1/patch", &body).await;
        assert_eq!(reply.status, 200, "{control}: {}", reply.text());
        // As many rows as the patches write; only the control of a run's own states leaves them as they were.
        let receipt = &reply.json()["receipt"];
        assert_eq!(receipt["controls"]["cells"], receipt["cells"], "{control}");
        let moved = receipt["controls"]["max_abs_delta"].as_f64().unwrap() > 0.0;
        assert_eq!(moved, control != "self_patch", "{control}: {receipt}");
    }
    for method in can["corruptions"].as_array().unwrap().iter().map(|facts| &facts["method"]) {
        let more = match method.as_str().unwrap() {
            "run" => json!({"run": "other"}),
            "replace_tokens" => json!({"with": "z"}),
            _ => json!({"samples": 2}),
        };
        let mut corrupt = json!({"method": method});
        corrupt.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let runs = json!({"clean": {"prompt": "abc", "spans": {"subject": "b"}}, "other": "axc"});
        let body = json!({"runs": runs, "target": "P", "corrupt": corrupt});
        let reply = post(&state, "/v1/trace", &body).await;
        assert_eq!(reply.status, 200, "{method}: {}", reply.text());
    }
    for rng in can["generators"].as_array().unwrap() {
        let body =
            json!({"prompt": "abc", "subject": "b", "target": "P", "corrupt": {"rng": rng, "samples": 2}});
        let reply = post(&state, "/v1/trace", &body).await;
        assert_eq!(reply.json()["request"]["corrupt"]["rng"], *rng, "{}", reply.text());
    }
    assert_eq!(can["corruptions"].as_array().unwrap().len(), 6);
    assert_eq!(can["generators"], json!(["philox", "numpy_legacy"]));
    let formats = ["json", "csv", "npz", "safetensors", "jsonl", "parquet", "svg", "png"];
    assert_eq!(can["formats"], json!(formats));
    assert!(can["limits"]["samples"].as_u64().unwrap() >= 100 && can["ceiling"]["row_layers"].is_u64());
}

#[tokio::test]
async fn while_the_model_loads_work_is_503_with_a_time_to_come_back() {
    let state = state(Readiness::Loading);
    for path in ["run", "patch", "trace", "plan", "tokenize", "align"] {
        let reply = post(&state, &format!("/v1/{path}"), &json!({"prompt": "x"})).await;
        is_problem(&reply, 503, "unavailable");
        assert_eq!(reply.headers["retry-after"], reply.json()["retry_after_s"].to_string().as_str());
        check_response("post", &format!("/v1/{path}"), "503", &reply.json());
    }
    for path in ["/v1/models", "/v1/models/x", "/v1/capabilities"] {
        is_problem(&get(&state, path).await, 503, "unavailable");
    }
    assert_eq!(get(&state, "/healthz").await.status, 200);
    assert_eq!(get(&state, "/readyz").await.status, 503);
}
