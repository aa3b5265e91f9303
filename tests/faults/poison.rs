//! Work that kills every engine that computes it: it is told apart from the work beside it.

use serde_json::{Value, json};

use crate::server::{Pulse, Server};

/// Every layer at two positions.
fn patch() -> Value {
    json!({"runs": {"a": "The Tower is tall", "b": "The river is deep"}, "base": "b", "target": "P", "metrics": ["prob:target"],
           "interventions": [{"site": "resid_mid", "layers": "all", "positions": [-3, -1], "source": {"run": "a"}}],
           "sweep": ["layers", "positions"]})
}

#[test]
fn only_the_cells_that_kill_the_engine_are_null_and_say_so() {
    let clean = Server::start("", &[]).result("/v1/patch", &patch());
    let server = Server::start("abort@layer=1", &[]);
    let pulse = Pulse::of(&server);
    let found = server.result("/v1/patch", &patch());
    pulse.was_steady();
    let (name, values) = found["values"].as_object().unwrap().iter().next().unwrap();
    for layer in 0..4 {
        for position in 0..2 {
            let (value, expected) = (&values[layer][position], &clean["values"][name][layer][position]);
            if layer == 1 {
                assert!(value.is_null() && !expected.is_null(), "{found}");
            } else {
                assert_eq!(value, expected, "layer {layer}, position {position}");
            }
        }
    }
    let nulls = found["nulls"].as_array().unwrap();
    // Both cells of the layer, and with it the whole row of each array.
    for array in ["values", "effects", "normalised"] {
        let at = format!("/{array}/{name}/1");
        let reason =
            nulls.iter().find(|null| null["where"] == at).unwrap_or_else(|| panic!("{at}: {nulls:?}"));
        assert!(reason["reason"].as_str().unwrap().starts_with("engine_crash"), "{reason}");
    }
    assert!(nulls.iter().any(|null| null["where"] == "/topk/1") && nulls.len() == 4, "{nulls:?}");
    assert!(found["topk"][1][0].is_null() && found["topk"][2][0].is_array(), "{found}");
    assert_eq!(found["masks"]["exact_null"][1][0], false, "what is known beforehand is known");
    assert!(found["lints"].as_array().unwrap().iter().any(|lint| lint["code"] == "CELLS_LOST"), "{found}");
}

#[test]
fn a_trace_loses_one_cell_and_its_means_are_those_of_the_others() {
    let request = json!({"prompt": "The Tower is tall", "subject": "Tower", "target": "P",
        "corrupt": {"method": "gaussian", "sigma": {"k": 3, "of": "vocab"}, "samples": 2},
        "arms": {"one": {"site": "resid_post", "positions": [7]}}});
    let clean = Server::start("", &[]).result("/v1/trace", &request);
    let found = Server::start("kill@layer=1", &[]).result("/v1/trace", &request);
    let means = |answer: &Value| {
        let values = answer["arms"]["one"]["effects"].as_object().unwrap().values().next().unwrap();
        values["mean"].as_array().unwrap().clone()
    };
    let (clean, lost) = (means(&clean), means(&found));
    for (layer, (clean, lost)) in clean.iter().zip(&lost).enumerate() {
        assert_eq!(lost.is_array(), clean.is_array());
        let lost = lost.get(0).unwrap_or(lost);
        if layer == 1 {
            assert!(lost.is_null(), "{found}");
        } else {
            assert_eq!(lost, clean.get(0).unwrap_or(clean));
        }
    }
}

#[test]
fn a_request_whose_base_is_guilty_fails_and_those_beside_it_do_not() {
    // The token of "Z".
    let server = Server::start("segv@token=90", &[]);
    let pulse = Pulse::of(&server);
    let mut bad = patch();
    bad["runs"]["b"] = json!("The Ziver is deep");
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| (0..4).map(|_| server.result("/v1/patch", &patch())).collect::<Vec<_>>());
        let answer = server.post("/v1/patch", &bad);
        let crash = json!("urn:mediant:problem:engine-crash");
        assert_eq!((answer.status, &answer.body["type"]), (500, &crash), "{answer:?}\n{}", server.log());
        let run = server.post("/v1/run", &json!({"prompt": "Zz"}));
        assert_eq!((run.status, &run.body["type"]), (500, &crash), "{run:?}");
        let beside = beside.join().unwrap();
        assert!(beside.iter().all(|result| *result == beside[0]));
    });
    pulse.was_steady();
    let deaths = server.log().matches("the engine is restarted").count();
    // Two each, and one more if it was in company; and of the patch the base and its copy for the noise floor, each alone.
    assert!(deaths <= 8, "{deaths} restarts for two guilty requests:\n{}", server.log());
}

#[test]
fn a_guilty_request_among_31_others_is_found_in_three_restarts_and_all_others_get_their_bits() {
    let prompt = |i: usize| json!({"prompt": format!("The Tower {i} is tall"), "read": {"topk": 3}});
    let alone = {
        let server = Server::start("", &[]);
        (0..31).map(|i| server.result("/v1/run", &prompt(i))).collect::<Vec<_>>()
    };
    // The token of "Z".
    let server = Server::start("abort@token=90", &[]);
    std::thread::scope(|scope| {
        // All of it is there when the next batch is formed.
        let long = scope.spawn(|| server.result("/v1/trace", &crate::server::trace()));
        let server = &server;
        let others = (0..31).map(|i| scope.spawn(move || server.result("/v1/run", &prompt(i))));
        let others: Vec<_> = others.collect();
        let guilty = server.post("/v1/run", &json!({"prompt": "Z"}));
        let crash = json!("urn:mediant:problem:engine-crash");
        assert_eq!((guilty.status, &guilty.body["type"]), (500, &crash), "{guilty:?}");
        for (other, alone) in others.into_iter().zip(&alone) {
            assert_eq!(other.join().unwrap(), *alone);
        }
        assert_eq!(long.join().unwrap(), *crate::server::expected());
    });
    let deaths = server.log().matches("the engine is restarted").count();
    assert!((2..=3).contains(&deaths), "{deaths} restarts:\n{}", server.log());
}
