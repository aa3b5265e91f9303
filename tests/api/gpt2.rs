//! A GPT-2 behind the API: its shape, the sites that it has, what is refused, and attributions that add up.

use mediant::http::AppState;
use serde_json::{Value, json};

use crate::schema::check_response;
use crate::support::{get, post, tiny_with};

fn gpt2() -> AppState {
    tiny_with(&[("model.ref", "dummy:gpt2-tiny")])
}

async fn described(state: &AppState, path: &str) -> Value {
    let reply = get(state, path).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    check_response("get", path, "200", &reply.json());
    reply.json()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn sum(values: &Value) -> f64 {
    values.as_array().unwrap().iter().map(number).sum()
}

#[tokio::test]
async fn models_tell_what_its_blocks_are_made_of_and_capabilities_leave_out_the_sites_of_rotations() {
    let state = gpt2();
    let models = described(&state, "/v1/models").await;
    let config = &models["models"][0]["config"];
    assert_eq!((&config["architecture"], &config["tie_word_embeddings"]), (&json!("gpt2"), &json!(true)));
    let block = json!({"norm": {"kind": "layer", "eps": 1e-5}, "positions": {"kind": "learned"},
                       "bias": {"qkv": true, "attention_output": true, "mlp": true}, "head_norms": false,
                       "mlp": "gelu_tanh"});
    assert_eq!(config["block"], block);
    // Embeddings of 512 tokens and 1024 positions, and 4 layers of q, k, v, o and two of the MLP.
    assert_eq!(models["models"][0]["parameters"], 64 * (512 + 1024) + 4 * 12 * 64 * 64);
    let can = described(&state, "/v1/capabilities").await;
    let sites: Vec<&str> =
        can["sites"].as_array().unwrap().iter().map(|site| site["site"].as_str().unwrap()).collect();
    assert_eq!(sites.len(), 19);
    assert!(!sites.contains(&"k_rope") && !sites.contains(&"q_rope"), "{sites:?}");
    let body = json!({"prompt": "abc", "read": {"capture": [{"site": "k_rope"}]}});
    let refused = post(&state, "/v1/run", &body).await;
    assert_eq!(refused.status, 422);
    let error = &refused.json()["errors"][0];
    assert_eq!(
        (&error["pointer"], &error["code"]),
        (&json!("/read/capture/0/site"), &json!("not_supported"))
    );
    assert_eq!(error["fix"], "write k, which is what attention reads here");
    let body = json!({"prompt": "abc", "read": {"capture": [{"site": "mlp_gate"}]}});
    let refused = post(&state, "/v1/run", &body).await.json();
    assert_eq!(refused["errors"][0]["fix"], "write mlp_pre, which is what its activation function gets");
    for site in can["sites"].as_array().unwrap() {
        let name = site["site"].as_str().unwrap();
        if !site["editable"].as_bool().unwrap() {
            continue;
        }
        let body = json!({"runs": {"a": "abc", "b": "xyz"}, "base": "a", "target": "P", "allow_trivial": true,
                          "interventions": [{"site": name, "source": {"run": "b"}, "positions": "all"}],
                          "controls": ["self_patch"]});
        let reply = post(&state, "/v1/patch", &body).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        let receipt = &reply.json()["receipt"];
        assert_eq!(receipt["controls"]["max_abs_delta"], 0.0, "{name}");
        assert!(number(&receipt["max_abs_delta"]) > 0.0, "{name}: {receipt}");
    }
}

#[tokio::test]
async fn shares_of_a_logit_add_up_with_positions_and_biases_and_heads_with_theirs_to_attention() {
    let state = gpt2();
    let body = json!({"prompt": "abcdef", "targets": {"x": "P", "y": "Q"}, "metrics": ["logit:x", "logit_diff:x-y"],
                      "read": {"attribution": {"target": "x", "heads": true}}});
    let of_difference = json!({"prompt": "abcdef", "targets": {"x": "P", "y": "Q"}, "metrics": ["logit_diff:x-y"],
                               "read": {"attribution": {"target": "x-y"}}});
    for (body, metric) in [(body, "logit:x"), (of_difference, "logit_diff:x-y")] {
        let reply = post(&state, "/v1/run", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        check_response("post", "/v1/run", "200", &answer);
        let run = &answer["runs"]["run"];
        let found = &run["attribution"];
        let of = |name: &str| number(&found[name]);
        let shares =
            of("embed") + of("positions") + sum(&found["attn_out"]) + sum(&found["mlp_out"]) + of("bias");
        assert!((shares - of("mean_logit")).abs() < 1e-5, "{found}");
        assert!((of("mean_logit") - number(&run["metrics"][metric])).abs() < 1e-4, "{found}");
        assert!(of("remainder").abs() < 1e-5 && of("positions") != 0.0 && of("bias") != 0.0, "{found}");
        let Some(heads) = found["heads"].as_array() else {
            assert!(found.get("attn_bias").is_none());
            continue;
        };
        for (layer, heads) in heads.iter().enumerate() {
            let bias = number(&found["attn_bias"][layer]);
            let difference = sum(heads) + bias - number(&found["attn_out"][layer]);
            assert!(difference.abs() < 1e-5 && bias != 0.0, "layer {layer}: {found}");
        }
    }
}

#[tokio::test]
async fn a_causal_trace_runs_and_noise_is_added_before_positions() {
    let state = gpt2();
    let body = json!({"prompt": "abcdef", "subject": "bc", "target": "P",
                      "arms": ["hidden", "mlp", "attn"], "controls": ["self_patch"]});
    let reply = post(&state, "/v1/trace", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    // Capturing embeddings of one token at two positions shows no position in them; the stream behind them has it.
    let read = json!({"prompt": "aa", "read": {"capture": [{"site": "embed", "positions": [-2, -1]},
                                                           {"site": "resid_pre", "layers": [0], "positions": [-2, -1]}]}});
    let reply = post(&state, "/v1/run", &read).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let captures = reply.json()["runs"]["run"]["captures"].clone();
    assert_eq!(captures[0]["values"][0], captures[0]["values"][1], "the embedding of one token");
    assert_ne!(captures[1]["values"][0][0], captures[1]["values"][0][1]);
}
