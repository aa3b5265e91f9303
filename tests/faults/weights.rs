//! Weights that change under a running server: requests that need them are answered with what happened, all others as before.

use serde_json::json;

use crate::made;
use crate::server::{Server, get, kill, until};

#[test]
fn weights_cut_short_end_neither_server_nor_engine_and_what_needs_them_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    made::write(&folder, &made::config(), &made::tensors(), 1);
    let cache = dir.path().join("cache");
    let settings = [
        ("MODEL__REF", folder.to_str().unwrap()),
        ("MODEL__CACHE_DIR", cache.to_str().unwrap()),
        ("ENGINE__UNHEALTHY_PAUSE_S", "1"),
    ];
    let server = Server::start("", &settings);
    // Rows of the embedding are read for it.
    let noise = json!({"prompt": "The Tower is", "subject": "Tower", "target": "P",
                       "corrupt": {"method": "gaussian", "sigma": {"k": 3, "of": "subjects"}, "samples": 2}});
    let plain = json!({"prompt": "The Tower is", "read": {"topk": 3}});
    server.result("/v1/trace", &noise);
    let run = server.result("/v1/run", &plain);
    let (first, weights) = (server.engine(), folder.join("model.safetensors"));
    let whole = std::fs::read(&weights).unwrap();

    std::fs::File::options().write(true).open(&weights).unwrap().set_len(100).unwrap();
    let refused = server.post("/v1/trace", &noise);
    assert_eq!(refused.status, 503, "{refused:?}");
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("model.safetensors changed since it was opened"), "{detail}");
    assert!(detail.contains("and has 100"), "{detail}");
    assert_eq!(server.result("/v1/run", &plain), run, "the engine has them");
    assert_eq!(server.engine(), first);

    // A new engine cannot be had, which is said.
    kill(first, "KILL");
    let said = || get(server.address, "/readyz").body.to_string();
    until(
        "the reason",
        || said().contains("too few for a header") || said().contains("its header has"),
        || format!("{}\n{}", said(), server.log()),
    );
    assert_eq!(get(server.address, "/healthz").status, 200);
    // Back where they were, they are loaded.
    std::fs::write(&weights, whole).unwrap();
    server.until_ready();
    assert_eq!(server.result("/v1/run", &plain), run);
}
