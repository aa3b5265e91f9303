//! `derive`: what is refused, and what responses hold.

use serde_json::{Value, json};

use super::problems;
use super::respond::{near, patch_response, respond};
use crate::lower::testing::Fake;

#[test]
fn quantities_that_the_cells_do_not_have_are_refused() {
    let patch = |derive: Value, more: Value| {
        let mut body = json!({
            "runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower is"}}, "base": "a",
            "interventions": [{"site": "mlp_out", "positions": [1, 2], "source": {"run": "b"}}], "target": " Paris",
            "sweep": ["layers"], "derive": derive});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        problems("patch", &body, &Fake::default())
    };
    let all = json!(["leaves_base", "half_recovery_layer", "argmax", "concentration", "reaches_source"]);
    assert_eq!(patch(all.clone(), json!({})), [""; 0]);
    assert_eq!(patch(json!([]), json!({"sweep": []})), [""; 0]);
    assert_eq!(
        patch(all.clone(), json!({"sweep": ["positions"]})),
        ["/derive/0 conflict", "/derive/1 conflict", "/derive/4 conflict"]
    );
    let joint = [0, 1, 2, 3, 4].map(|i| format!("/derive/{i} conflict"));
    assert_eq!(patch(all.clone(), json!({"sweep": []})), joint);
    let zero = json!({"interventions": [{"site": "mlp_out", "op": "zero"}]});
    let none = ["/derive/1 conflict", "/derive/4 conflict"];
    assert_eq!(
        patch(all.clone(), zero),
        none,
        "no source, so nothing to take half of, and no answer to reach"
    );
    assert_eq!(patch(json!(["first_flip"]), json!({})), ["/derive/0 unknown_value"]);
    assert_eq!(
        patch(json!(["first_flip_layer"]), json!({})),
        ["/derive/0 unknown_value"],
        "its name of before"
    );
    assert_eq!(patch(json!(["argmax", "argmax"]), json!({})), ["/derive/1 duplicate"]);
    assert_eq!(patch(json!("argmax"), json!({})), ["/derive wrong_type"]);

    let trace = |arms: Value| {
        let body = json!({"prompt": "The Eiffel Tower is", "subject": "Eiffel", "target": " Paris", "arms": arms,
                          "derive": all});
        problems("trace", &body, &Fake::default())
    };
    assert_eq!(trace(json!({"e": {"site": "embed"}, "m": {"site": "mlp_out"}})), [""; 0]);
    assert_eq!(
        trace(json!({"e": {"site": "embed"}})),
        ["/derive/0 conflict", "/derive/1 conflict", "/derive/4 conflict"]
    );
    let run = json!({"prompt": "The", "derive": ["argmax"]});
    assert_eq!(problems("run", &run, &Fake::default()), ["/derive unknown_field"]);
}

#[test]
fn a_patch_tells_where_its_answer_turns_and_how_it_is_concentrated() {
    let all = json!(["leaves_base", "half_recovery_layer", "argmax", "concentration", "reaches_source"]);
    // Effects 0, 1, 2, 4 on a logit that is 2 higher in the source; the last layer is trivial.
    let r = patch_response(json!({"derive": all}), 0.0, 3.0);
    assert_eq!(r["request"]["derive"], all);
    let derived = &r["derived"];
    let at = json!({"layer": 2, "token": {"id": 265, "text": " Paris"}, "trivial": false});
    assert_eq!(derived["leaves_base"], json!([{"first": at, "lasting": at}]));
    assert_eq!(derived["reaches_source"], json!([{"first": at, "lasting": at}]));
    let half = &derived["half_recovery_layer"];
    assert_eq!(half["logit:target"], json!([{"layer": 1, "value": 0.5, "trivial": false}]));
    let strongest = &derived["argmax"]["logit:target"];
    assert_eq!((&strongest["layer"], &strongest["by"]), (&json!(2), &json!("increase")));
    assert_eq!(strongest["effect"], json!({"mean": 2.0, "se": null}));
    assert_eq!(strongest["wins"], json!([{"layer": 2, "samples": 1, "share": 1.0}]));
    assert_eq!(strongest["runner_up"]["lead"], json!({"mean": 1.0, "se": null}));
    let concentration = &derived["concentration"]["logit:target"];
    assert_eq!((&concentration["cells"], &concentration["positive"]["total"]), (&json!(3), &json!(3.0)));
    near(&concentration["positive"]["max_share"], &json!(2.0 / 3.0));
    near(&concentration["positive"]["participation_ratio"], &json!(9.0 / 5.0));
    // Only what is asked for, and nothing if nothing is.
    let r = patch_response(json!({"derive": ["argmax"]}), 0.0, 3.0);
    assert_eq!(r["derived"].as_object().unwrap().keys().collect::<Vec<_>>(), ["argmax"]);
    assert_eq!(patch_response(json!({}), 0.0, 3.0).get("derived"), None);
}

#[test]
fn a_trace_tells_how_surely_its_strongest_cell_leads() {
    let all = json!(["leaves_base", "half_recovery_layer", "argmax", "concentration", "reaches_source"]);
    let r = respond(json!({"derive": all}), (0.8, " Paris"), [0.2, 0.4], [0.6, 0.7, 0.2, 0.4]);
    let derived = &r["arms"]["hidden"]["derived"];
    let strongest = &derived["argmax"]["prob:target"];
    assert_eq!((&strongest["position"], &strongest["n"]), (&json!(1), &json!(2)));
    near(&strongest["effect"]["mean"], &json!(0.35));
    near(&strongest["effect"]["se"], &json!(0.05));
    assert_eq!(strongest["wins"], json!([{"layer": 1, "position": 1, "samples": 2, "share": 1.0}]));
    let next = &strongest["runner_up"];
    assert_eq!(next["position"], 3);
    near(&next["lead"]["mean"], &json!(0.35));
    near(&next["lead"]["se"], &json!(0.05));
    let half = &derived["half_recovery_layer"]["prob:target"];
    assert_eq!((&half[0]["position"], &half[0]["layer"]), (&json!(1), &json!(1)));
    assert_eq!((&half[1]["position"], &half[1]["layer"]), (&json!(3), &json!(null)));
    assert_eq!(half[1]["reason"], "no layer reaches 0.5; the largest is 0.000, at layer 1");
    // Corrupted runs and cells all favour the same token.
    assert_eq!(derived["leaves_base"][0]["first"], json!(null));
    assert_eq!(derived["reaches_source"][0], json!({"position": 1, "first": null, "lasting": null}));
    near(&derived["concentration"]["prob:target"]["positive"]["max_share"], &json!(1.0));
    assert_eq!(r["arms"]["hidden"]["argmax"]["prob:target"]["position"], 1, "as without `derive`");
    // Noising: cells are compared with the clean run, whose answer they lose.
    let more = json!({"derive": ["leaves_base", "reaches_source"], "base": "clean"});
    let r = respond(more, (0.8, " Paris"), [0.2, 0.4], [0.5, 0.6, 0.8, 0.8]);
    let derived = &r["arms"]["hidden"]["derived"];
    let at = json!({"layer": 1, "token": {"id": 266, "text": " Rome"}, "trivial": false});
    assert_eq!(derived["leaves_base"][0], json!({"position": 1, "first": at, "lasting": at}));
    assert_eq!(derived["reaches_source"], derived["leaves_base"], "the corrupted runs' answer");
}

#[test]
fn what_was_written_is_a_metric_beside_the_effects() {
    let r = patch_response(json!({"metrics": ["logit:target", "delta_norm"]}), 0.0, 3.0);
    // The patched runs' scores say 0, 1, 2, 3 squares.
    let norms = [0.0, 1.0, 2.0_f64.sqrt(), 3.0_f64.sqrt()];
    assert_eq!(r["values"]["delta_norm"], json!(norms));
    assert_eq!(r["effects"]["delta_norm"], json!(norms), "the base was not written");
    assert_eq!(r["normalised"]["delta_norm"], json!([null, null, null, null]));
    assert_eq!(r["baselines"]["base"]["delta_norm"], 0.0);
}
