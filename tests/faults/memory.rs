//! Memory that runs out, and outputs that are large.

use serde_json::{Value, json};

use crate::server::{Server, expected, folders, trace};

#[test]
fn a_chunk_for_which_memory_runs_out_is_halved_without_any_death() {
    let server = Server::start("oom@rows=150", &[]);
    let found = server.result("/v1/trace", &trace());
    assert!(found["usage"]["halved"].as_u64().unwrap() > 0, "{}", found["usage"]);
    assert_eq!(found["arms"], expected()["arms"]);
    assert_eq!(found["baselines"], expected()["baselines"]);
    assert!(!server.log().contains("restarted"), "{}", server.log());
}

#[test]
fn a_single_run_for_which_memory_runs_out_is_too_large_and_others_are_not() {
    let server = Server::start("oom@rows=40", &[]);
    let long = server.post("/v1/run", &json!({"prompt": "x".repeat(50)}));
    assert_eq!((long.status, &long.body["type"]), (422, &json!("urn:mediant:problem:too-large")), "{long:?}");
    assert_eq!(long.body["errors"][0]["code"], "out_of_memory");
    server.result("/v1/run", &json!({"prompt": "x".repeat(20)}));
}

#[test]
fn large_captures_come_through_shared_memory_with_the_same_numbers_and_leave_nothing_there() {
    let server = Server::start("", &[]);
    let capture = |positions: Value| {
        let capture = json!([{"site": "mlp_act", "layers": "all", "positions": positions}]);
        let answer =
            server.result("/v1/run", &json!({"prompt": "x".repeat(200), "read": {"capture": capture}}));
        answer["runs"].as_object().unwrap().values().next().unwrap()["captures"][0]["values"].clone()
    };
    // 201 positions of 4 layers with 160 + 4 x 64 numbers of 4 bytes: 1.3 MB.
    let all = json!([{"site": "mlp_act", "layers": "all", "positions": "all"},
                      {"site": "z", "layers": "all", "positions": "all"},
                      {"site": "mlp_out", "layers": "all", "positions": "all"},
                      {"site": "attn_out", "layers": "all", "positions": "all"},
                      {"site": "resid_post", "layers": "all", "positions": "all"}]);
    let answer = server.result("/v1/run", &json!({"prompt": "x".repeat(200), "read": {"capture": all}}));
    let large = &answer["runs"].as_object().unwrap().values().next().unwrap()["captures"][0]["values"];
    let small = capture(json!([0, 200]));
    for layer in 0..4 {
        assert_eq!(large[layer][0], small[layer][0]);
        assert_eq!(large[layer][200], small[layer][1]);
    }
    let ours = folders(server.pid(), &server.folder).into_iter();
    let left: Vec<_> = ours.flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten()).collect();
    assert_eq!(left.len(), 2, "the locks: {left:?}");
}
