//! The model as a model hub serves it.

use axum::body::Body;
use axum::http::{Method, Request, header};
use mediant::http::router;
use mediant::keys::Scope;
use mediant::tokens::Tokenizer;
use serde_json::Value;

use crate::support::{Reply, get, send, tiny, tiny_with, token, with_keys};

fn code(reply: &Reply) -> &str {
    reply.headers["x-error-code"].to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_configuration_and_tokenizer_and_no_weights() {
    let state = tiny();
    let info = get(&state, "/api/models/dummy-tiny").await.json();
    let commit = info["sha"].as_str().unwrap();
    assert_eq!((info["id"].as_str(), commit.len()), (Some("dummy-tiny"), 40));
    assert_eq!(info["pipeline_tag"], "text-generation");
    let names: Vec<&str> =
        info["siblings"].as_array().unwrap().iter().map(|file| file["rfilename"].as_str().unwrap()).collect();
    assert_eq!(names, ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(get(&state, "/api/models/dummy-tiny/revision/main").await.json(), info);
    let tree = get(&state, &format!("/api/models/dummy-tiny/tree/{commit}?recursive=false")).await.json();
    for (file, name) in tree.as_array().unwrap().iter().zip(&names) {
        let path = format!("/dummy-tiny/resolve/{commit}/{name}");
        let reply = get(&state, &path).await;
        assert_eq!(reply.status, 200);
        assert_eq!(
            (file["path"].as_str(), file["size"].as_u64()),
            (Some(*name), Some(reply.bytes.len() as u64))
        );
        assert_eq!(reply.headers["x-repo-commit"], commit);
        let head = send(&state, Request::head(&path).body(Body::empty()).unwrap()).await;
        assert_eq!(head.headers[header::ETAG], reply.headers[header::ETAG]);
        assert_eq!(head.headers[header::CONTENT_LENGTH], reply.bytes.len().to_string());
        let known = Request::get(&path).header(header::IF_NONE_MATCH, &reply.headers[header::ETAG]);
        assert_eq!(send(&state, known.body(Body::empty()).unwrap()).await.status, 304);
    }
    let config = get(&state, "/dummy-tiny/resolve/main/config.json").await.json();
    assert_eq!(
        (config["model_type"].as_str(), config["num_hidden_layers"].as_u64()),
        (Some("llama"), Some(4))
    );
    let [words, policy] =
        ["tokenizer.json", "tokenizer_config.json"].map(|name| format!("/dummy-tiny/resolve/main/{name}"));
    let (words, policy) = (get(&state, &words).await.bytes, get(&state, &policy).await.bytes);
    let read = Tokenizer::from_json(&words, Some(&policy)).unwrap();
    let served = &state.service().unwrap().served.tokenizer;
    let text = "The Eiffel T\u{f6}wer";
    assert_eq!(read.encode(text, None).unwrap().ids, served.encode(text, None).unwrap().ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_as_a_hub_tells_it() {
    let state = tiny();
    for (path, wanted) in [
        ("/api/models/gpt2", "RepoNotFound"),
        ("/api/models/openai-community/gpt2", "RepoNotFound"),
        ("/openai-community/gpt2/resolve/main/config.json", "RepoNotFound"),
        ("/dummy-tiny/resolve/main/model.safetensors", "EntryNotFound"),
        ("/dummy-tiny/resolve/main/onnx/model.onnx", "EntryNotFound"),
        ("/api/models/dummy-tiny/tree/main/additional_chat_templates", "EntryNotFound"),
        ("/dummy-tiny/resolve/v2/config.json", "RevisionNotFound"),
        ("/api/models/dummy-tiny/tree/v2", "RevisionNotFound"),
    ] {
        let reply = get(&state, path).await;
        assert_eq!((reply.status.as_u16(), code(&reply)), (404, wanted), "{path}");
        assert!(reply.json()["detail"].is_string());
    }
    assert_eq!(get(&state, "/api/models/dummy-tiny/commits/main").await.status, 404);
    let off = tiny_with(&[("remote.hub", "false")]);
    assert_eq!(code(&get(&off, "/api/models/dummy-tiny").await), "RepoNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hubs_client_and_nnsight_show_keys_as_they_do() {
    let (state, keys) = with_keys(tiny()).await;
    let good = token(&keys, "alice", &[Scope::Remote]).await;
    let other = token(&keys, "alice", &[Scope::Run]).await;
    let ask = async |path: &str, name: &str, value: &str| {
        let mut request = Request::builder().method(Method::GET).uri(path);
        if !name.is_empty() {
            request = request.header(name, value);
        }
        tower::ServiceExt::oneshot(router(state.clone()), request.body(Body::empty()).unwrap())
            .await
            .unwrap()
            .status()
    };
    let paths = [
        "/api/models/dummy-tiny",
        "/dummy-tiny/resolve/main/config.json",
        "/status",
        "/legacy/env",
        "/legacy/whoami",
    ];
    for path in paths {
        assert_eq!(ask(path, "authorization", &format!("Bearer {good}")).await, 200, "{path}");
        assert_eq!(ask(path, "ndif-api-key", &good).await, 200, "{path}");
        assert_eq!(ask(path, "ndif-api-key", &other).await, 403, "{path}");
        for none in ["", "None", "hf_something"] {
            assert_eq!(ask(path, "ndif-api-key", none).await, 401, "{path} {none:?}");
        }
        assert_eq!(ask(path, "", "").await, 401, "{path}");
    }
    for open in ["/ping", "/legacy/ping", "/connected"] {
        assert_eq!(ask(open, "", "").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_what_nnsight_reads() {
    let status = get(&tiny(), "/status").await.json();
    let deployment = &status["deployments"]["dummy-tiny"];
    assert_eq!(
        (deployment["deployment_level"].as_str(), deployment["revision"].as_str()),
        (Some("HOT"), Some("main"))
    );
    assert_eq!(deployment["application_state"], "UNHEALTHY", "no block runs here");
    assert!(status["server"]["reason"].is_string());
    let (class, key) = deployment["model_key"].as_str().unwrap().split_once(':').unwrap();
    assert!(class.ends_with(".TransformersModel"));
    assert_eq!(serde_json::from_str::<Value>(key).unwrap()["repo_id"], "dummy-tiny");
    assert_eq!(get(&tiny(), "/legacy/status").await.json(), status);
}
