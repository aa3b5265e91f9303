//! `OpenAI`'s routes on the tiny model: what they ask for is what `/v1/generate` writes. Its own client is asked by
//! `tests/python/check_openai.py`.

use serde_json::{Value, json};

use crate::support::{ok, post, post_accepting, tiny};

fn completion() -> Value {
    json!({"prompt": "The Tower is", "max_tokens": 6, "temperature": 0})
}

/// The `data` of every event.
fn events(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_completion_is_the_text_that_generate_writes() {
    let state = tiny();
    let own = ok(
        &state,
        "/v1/generate",
        &json!({"prompt": "The Tower is", "max_tokens": 6, "read": {"logprobs": 2}}),
    )
    .await;
    let own = &own["branches"]["plain"]["samples"][0];
    let mut body = completion();
    body["logprobs"] = json!(2);
    let answer = ok(&state, "/v1/completions", &body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], own["text"]);
    assert_eq!(
        (answer["object"].as_str(), choice["finish_reason"].as_str()),
        (Some("text_completion"), Some("length"))
    );
    assert_eq!(choice["logprobs"]["token_logprobs"][0], own["tokens"][0]["logprob"]);
    assert_eq!(answer["usage"], json!({"prompt_tokens": 13, "completion_tokens": 6, "total_tokens": 19}));
    // Token ids are the same prompt, and echo puts it first.
    let ids = ok(&state, "/v1/tokenize", &json!({"prompt": "The Tower is"})).await["ids"].clone();
    let mut echoed = body.clone();
    (echoed["prompt"], echoed["echo"]) = (ids.clone(), json!(true));
    let echoed = ok(&state, "/v1/completions", &echoed).await;
    assert_eq!(echoed["choices"][0]["text"], format!("The Tower is{}", own["text"].as_str().unwrap()));
    // The prompt's tokens have log-probabilities then, those of runs of what stands before them.
    let scored = &echoed["choices"][0]["logprobs"];
    let lengths = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
    assert!(lengths.iter().all(|of| scored[of].as_array().unwrap().len() == 19), "{scored}");
    assert_eq!((&scored["token_logprobs"][0], &scored["top_logprobs"][0]), (&Value::Null, &Value::Null));
    assert_eq!(scored["token_logprobs"][13], choice["logprobs"]["token_logprobs"][0]);
    let ids = ids.as_array().unwrap();
    for i in [1, 7, 12] {
        let run = json!({"tokens": ids[..i], "targets": {"x": ids[i]}, "metrics": ["logprob:x"]});
        let run = ok(&state, "/v1/run", &run).await;
        let (whole, own) = (&run["runs"]["run"]["metrics"]["logprob:x"], &scored["token_logprobs"][i]);
        assert!((whole.as_f64().unwrap() - own.as_f64().unwrap()).abs() < 1e-12, "{i}: {whole} {own}");
    }
}

#[tokio::test]
async fn a_stream_is_the_same_in_pieces() {
    let state = tiny();
    let mut body = completion();
    body["mediant"] = json!({"branches": {"plain": [], "cut": [{"site": "resid_post", "layers": 1,
        "positions": {"steps": "all"}, "op": "zero"}]}, "compare_with": "plain"});
    (body["temperature"], body["n"], body["seed"]) = (json!(1), json!(2), json!(3));
    let whole = ok(&state, "/v1/completions", &body).await;
    assert_eq!(whole["choices"].as_array().unwrap().len(), 4);
    assert_eq!(whole["mediant"]["branches"]["cut"]["samples"][1]["text"], whole["choices"][3]["text"]);
    (body["stream"], body["stream_options"]) = (json!(true), json!({"include_usage": true}));
    let streamed = post_accepting(&state, "/v1/completions", &body, "*/*").await;
    let events = events(&streamed.text());
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let mut texts = vec![String::new(); 4];
    let mut ends = vec![Value::Null; 4];
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index].push_str(choice["text"].as_str().unwrap());
        if !choice["finish_reason"].is_null() {
            ends[index] = choice["finish_reason"].clone();
        }
    }
    for (i, text) in texts.iter().enumerate() {
        assert_eq!(
            (&json!(text), &ends[i]),
            (&whole["choices"][i]["text"], &whole["choices"][i]["finish_reason"])
        );
    }
    let last = chunks.last().unwrap();
    assert_eq!(last["usage"], whole["usage"]);
    assert_eq!(last["mediant"]["branches"]["cut"]["samples"], whole["mediant"]["branches"]["cut"]["samples"]);
}

#[tokio::test]
async fn what_is_wrong_is_told_in_their_form_at_their_field() {
    let state = tiny();
    let refused = async |path: &str, change: Value, param: &str| {
        let mut body = completion();
        if path.contains("chat") {
            body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        }
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let reply = post(&state, path, &body).await;
        assert!(reply.status.is_client_error(), "{}", reply.text());
        let error = &reply.json()["error"];
        assert_eq!(error["param"], param, "{error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains(';'), "{error}");
    };
    refused("/v1/completions", json!({"suffix": "x"}), "suffix").await;
    refused("/v1/completions", json!({"top_p": 2, "temperature": 1}), "top_p").await;
    refused("/v1/completions", json!({"n": 2}), "n").await;
    refused("/v1/completions", json!({"presence_penalty": 1}), "presence_penalty").await;
    refused("/v1/completions", json!({"model": "other"}), "model").await;
    refused(
        "/v1/completions",
        json!({"mediant": {"interventions": [{"site": "resid_post", "op": "zero"}]}}),
        "mediant.interventions.0.positions",
    )
    .await;
    refused("/v1/completions", json!({"mediant": {"compare_with": "x"}}), "mediant.compare_with").await;
    // The tiny model has no chat template.
    refused("/v1/chat/completions", json!({}), "messages").await;
    refused("/v1/chat/completions", json!({"tools": []}), "tools").await;
}

#[tokio::test]
async fn a_model_without_a_template_takes_no_messages() {
    let state = tiny();
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    for path in ["/v1/run", "/v1/tokenize", "/v1/generate"] {
        let reply = post(&state, path, &body).await;
        assert_eq!(reply.status, 422, "{}", reply.text());
        let error = &reply.json()["errors"][0];
        assert_eq!(
            (error["pointer"].as_str(), error["code"].as_str()),
            (Some("/messages"), Some("not_supported"))
        );
    }
}
