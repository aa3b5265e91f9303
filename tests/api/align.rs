//! Alignment over HTTP on the tiny model: one token per byte, after a BOS.

use serde_json::json;

use crate::support::{ok, tiny};

#[tokio::test]
async fn prompts_are_aligned_without_and_compared_with_the_model() {
    let state = tiny();
    // 18 and 17 tokens: "Tower" and "Dome", which share an "o" and an "e".
    let (a, b) = ("The Tower is tall", "The Dome is tall");
    let plain = ok(&state, "/v1/align", &json!({"a": a, "b": b})).await;
    assert!(plain.get("usage").is_none() && plain.get("contrast").is_none(), "{plain}");
    assert_eq!((&plain["equal_length"], &plain["minimal_pair"]), (&json!(false), &json!(false)));
    let map = plain["map"].as_array().unwrap();
    assert_eq!((&map[0], &map[map.len() - 1]), (&json!([0, 0]), &json!([17, 16])));
    let tokens = |run: &str| plain["runs"][run]["tokens"].as_array().unwrap().clone();
    for op in plain["ops"].as_array().unwrap() {
        let texts = |run: &str| {
            let range: Vec<usize> =
                op[run].as_array().unwrap().iter().map(|p| p.as_u64().unwrap() as usize).collect();
            tokens(run)[range[0]..range[1]].iter().map(|t| t["text"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(texts("a") == texts("b"), op["op"] == "equal", "{op}");
    }

    let body = json!({"a": a, "b": b, "target": "P"});
    let asked = ok(&state, "/v1/align", &body).await;
    let run = ok(&state, "/v1/run", &json!({"runs": {"a": a, "b": b}, "target": "P"})).await;
    let contrast = &asked["contrast"]["targets"]["target"];
    for (run_name, key) in [("a", "prob_a"), ("b", "prob_b")] {
        let metrics = &run["runs"][run_name]["metrics"];
        assert_eq!(asked["runs"][run_name]["metrics"], *metrics);
        let (found, expected) = (contrast[key].as_f64().unwrap(), metrics["prob:target"].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-15, "{found} {expected}");
    }
    assert_eq!(asked["map"], plain["map"]);
    let near = contrast["logprob_difference"].as_f64().unwrap().abs() < 0.1;
    assert_eq!(asked["contrast"]["differs"], !near);
}

#[tokio::test]
async fn an_aligned_patch_is_the_patch_of_the_map_that_align_answers() {
    let state = tiny();
    let (a, b) = ("The Tower is tall", "The Dome is tall");
    let map = ok(&state, "/v1/align", &json!({"a": a, "b": b})).await["map"].clone();
    let patch = async |positions: serde_json::Value, sweep: serde_json::Value| {
        let body = json!({"runs": {"a": a, "b": b}, "base": "b", "target": "P", "sweep": sweep,
                          "interventions": [{"site": "resid_post", "layers": 1, "positions": positions,
                                             "source": {"run": "a"}}]});
        ok(&state, "/v1/patch", &body).await
    };
    for sweep in [json!([]), json!(["positions"])] {
        let aligned = patch(json!({"align": "diff"}), sweep.clone()).await;
        let mapped = patch(json!({"map": map}), sweep).await;
        for same in ["axes", "values", "effects", "receipt"] {
            assert_eq!(aligned[same], mapped[same], "{same}");
        }
        let codes = |answer: &serde_json::Value| {
            let lints = answer["lints"].as_array().unwrap().clone();
            lints.iter().any(|lint| lint["code"] == "POSITION_MAP_PARTIAL")
        };
        assert_eq!((codes(&aligned), codes(&mapped)), (true, false));
    }
}
