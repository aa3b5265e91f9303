//! The notebook that this project starts from, replayed: Parts 1 to 5 and exercises 1 to 3 as the requests in
//! `openapi/examples/*-seed-*.json`, with what each must show (`openapi/examples/README.md`).

use mediant::service::Refusal;
use mediant::spec::kind::Traces;
use mediant::spec::patch::PatchSpec;
use mediant::spec::run::RunSpec;
use serde_json::{Value, json};

use crate::examples::examples;
use crate::support::{answered, service};

/// A committed request, shortened where the full one only takes longer.
fn example(name: &str, shorter: &Value) -> Value {
    let (_, mut body) = examples().into_iter().find(|(found, _)| found == name).unwrap();
    body.as_object_mut().unwrap().extend(shorter.as_object().unwrap().clone());
    body
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn codes(answer: &Value) -> Vec<&str> {
    answer["lints"].as_array().unwrap().iter().map(|lint| lint["code"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn part_1_both_contexts_are_read_at_once_and_their_states_kept() {
    let mut body = example("run-seed-part1", &json!({}));
    body["read"]["capture"][0]["as"] = json!("inline");
    body["read"]["capture"][0]["positions"] = json!("last");
    let answer = answered(service().answer::<RunSpec>(body).await);
    let (pun, literal) = (&answer["runs"]["pun"], &answer["runs"]["literal"]);
    // The small model does not get the joke: " current" follows the wires, not the swimmers.
    assert!(number(&pun["metrics"]["prob:current"]) < 1e-3);
    assert!(number(&literal["metrics"]["prob:current"]) > 0.25);
    assert_eq!(literal["metrics"]["rank:current"], 2.0);
    assert_eq!(pun["captures"][0]["shape"], json!([30, 1, 576]));
    // The lens's last layer is the answer itself.
    let last = &pun["logit_lens"]["topk"][5][0][0]["text"];
    assert_eq!(pun["logit_lens"]["layers"].as_array().unwrap().len(), 6);
    assert!(last.is_string());
}

#[tokio::test]
async fn part_2_the_last_layer_is_the_source_by_construction_and_controls_stand_beside() {
    let answer = answered(service().answer::<PatchSpec>(example("patch-seed-part2", &json!({}))).await);
    let values = answer["values"]["prob:current"].as_array().unwrap();
    assert_eq!(values.len(), 30);
    // Defect D11: the curve must end at the source's own probability; the cell says so.
    assert_eq!(values[29], answer["baselines"]["pun"]["prob:current"]);
    assert_eq!(answer["masks"]["trivial"][29], true);
    assert_eq!(answer["controls"]["self_patch"]["max_abs_effect"], 0.0);
    assert!(number(&answer["controls"]["random_vector"]["prob:current"]["max_abs"]) > 0.0);
    assert_eq!(answer["provenance"]["noise_floor"]["prob:current"], 0.0);
    // Patching the pun's last position lowers the literal answer at every layer.
    let base = number(&answer["baselines"]["literal"]["prob:current"]);
    assert!(values.iter().all(|value| number(value) < base));
}

#[tokio::test]
async fn part_3_the_map_is_signed_shares_its_noise_and_says_what_it_cannot_mean() {
    let mut body = example("trace-seed-part3", &json!({"layers": [0, 10, 20, 29]}));
    body["corrupt"]["samples"] = json!(3);
    let answer = answered(service().answer::<Traces>(body).await);
    let arm = &answer["arms"]["hidden"];
    let nulls = arm["masks"]["exact_null"].as_array().unwrap();
    // Before the subject, and beside the last position of the last layer, nothing can be restored (12 tokens).
    assert_eq!(nulls[0][0], true);
    assert_eq!(nulls[3][5], true);
    assert_eq!(arm["effects"]["prob:current"]["mean"][0][0], 0.0);
    assert_eq!(answer["controls"]["self_patch"]["max_abs_effect"], 0.0);
    // Defects D6 and D8: noise raises this target, which is not the model's answer; nothing is clamped.
    let clean = number(&answer["baselines"]["clean"]["prob:current"]);
    let corrupted = number(&answer["baselines"]["corrupted"]["prob:current"]["mean"]);
    assert!(corrupted > clean);
    let found = codes(&answer);
    assert!(found.contains(&"CORRUPTION_HELPS") && found.contains(&"TARGET_NOT_TOP1"), "{found:?}");
    let effects = arm["effects"]["prob:current"]["mean"].as_array().unwrap();
    assert!(effects.iter().flat_map(|row| row.as_array().unwrap()).any(|e| number(e) < 0.0));
}

#[tokio::test]
async fn part_4_restoring_whole_layers_is_refused_as_the_tautology_it_is() {
    let body = json!({
        "prompt": "Why do electricians make good swimmers? Because they know the", "subject": "electricians",
        "target": " current", "layers": {"from": 0, "step": 8},
        "corrupt": {"samples": 2}, "arms": {"layer": {"site": "resid_post", "positions": "all"}}
    });
    let Err(Refusal::Invalid(problems)) = service().answer::<Traces>(body.clone()).await else {
        panic!("the notebook's Part 4 was computed")
    };
    assert_eq!((problems.0[0].pointer.as_str(), problems.0.len()), ("/arms/layer", 1));
    // Allowed, it gives the clean run's probability at every layer, exactly.
    let mut allowed = body;
    allowed["allow_trivial"] = json!(true);
    let answer = answered(service().answer::<Traces>(allowed).await);
    let clean = &answer["baselines"]["clean"]["prob:target"];
    let values = answer["arms"]["layer"]["values"]["prob:target"]["mean"].as_array().unwrap();
    assert!(values.iter().all(|value| value == clean), "{values:?} {clean}");
    assert!(codes(&answer).contains(&"TAUTOLOGICAL_CUT"));
}

#[tokio::test]
async fn part_5_mlp_and_attention_share_noise_and_batch() {
    let mut body = example("trace-seed-part5", &json!({"layers": [5, 15, 25]}));
    body["corrupt"]["samples"] = json!(3);
    let answer = answered(service().answer::<Traces>(body).await);
    for arm in ["mlp", "attn"] {
        assert_eq!(answer["arms"][arm]["axes"].as_array().unwrap().len(), 1, "all positions jointly");
        assert_eq!(answer["arms"][arm]["effects"]["prob:current"]["se"].as_array().unwrap().len(), 3);
    }
    assert_eq!(answer["arms"]["mlp by position"]["axes"][1]["values"].as_array().unwrap().len(), 12);
}

#[tokio::test]
async fn exercise_1_goes_both_ways_and_to_other_positions_than_the_last() {
    for (name, base, source) in
        [("patch-seed-exercise1", "literal", "pun"), ("patch-seed-exercise1-reversed", "pun", "literal")]
    {
        let answer = answered(service().answer::<PatchSpec>(example(name, &json!({}))).await);
        assert_eq!(answer["axes"][1]["values"].as_array().unwrap().len(), 3);
        let end = &answer["values"]["prob:current"][29];
        assert_eq!(end[0], answer["baselines"][source]["prob:current"]);
        assert_eq!(end[1], answer["baselines"][base]["prob:current"], "an exact null");
        assert!(answer["controls"]["unrelated_prompt"]["prob:current"]["max_abs"].is_number());
        assert!(!codes(&answer).contains(&"LENGTH_MISMATCH"), "positions are counted from the end");
    }
}

#[tokio::test]
async fn exercise_2_finds_the_layer_at_which_the_reading_flips_for_good() {
    let answer = answered(service().answer::<PatchSpec>(example("patch-seed-exercise2", &json!({}))).await);
    let turn = |name: &str| answer["derived"][name][0].clone();
    let top = |layer: usize| answer["topk"][layer][0]["text"].as_str().unwrap().to_owned();
    let base = answer["runs"]["literal"]["topk"][0]["text"].as_str().unwrap();
    // The literal answer is lost at once, to neither reading.
    let leaves = turn("leaves_base");
    assert!((0..30).all(|layer| top(layer) != base));
    assert_eq!((&leaves["first"]["layer"], &leaves["lasting"]["layer"]), (&json!(0), &json!(0)));
    assert_eq!(leaves["first"]["token"]["text"], top(0));
    let goal = answer["runs"]["pun"]["topk"][0]["text"].as_str().unwrap();
    assert!(top(0) != goal);
    let reaches = turn("reaches_source");
    let [first, lasting] = ["first", "lasting"].map(|at| reaches[at]["layer"].as_u64().unwrap() as usize);
    assert!((0..first).all(|layer| top(layer) != goal) && top(first) == goal);
    assert!((lasting..30).all(|layer| top(layer) == goal) && top(lasting - 1) != goal);
    assert_eq!(reaches["lasting"]["token"]["text"], goal);
    // The pun's own answer is there from some layer on: its last state is all that is read in the end.
    assert_eq!(top(29), answer["runs"]["pun"]["topk"][0]["text"].as_str().unwrap());
    let half = &answer["derived"]["half_recovery_layer"]["logit_diff:electric-water"][0];
    let (layer, value) = (half["layer"].as_u64().unwrap() as usize, number(&half["value"]));
    let normalised = &answer["normalised"]["logit_diff:electric-water"];
    assert!(value >= 0.5 && number(&normalised[layer]) >= 0.5 && number(&normalised[layer - 1]) < 0.5);
}

#[tokio::test]
async fn part_4_and_exercise_3_average_by_token_class_and_compare_kinds_of_puns() {
    let mut body =
        example("trace-seed-part4", &json!({"layers": [5, 25], "arms": {"mlp": {"site": "mlp_out"}}}));
    body["corrupt"]["samples"] = json!(2);
    let answer = answered(service().answer::<Traces>(body).await);
    assert_eq!(answer["kept"], 4);
    let effects = &answer["arms"]["mlp"]["effects"]["prob:target"];
    let classes = answer["classes"].as_array().unwrap();
    assert_eq!(effects["mean"].as_array().unwrap().len(), classes.len());
    let last = classes.iter().position(|class| class == "last").unwrap();
    assert_eq!(effects["n"][last][0], 4);
    assert!(number(&effects["ci_low"][last][0]) <= number(&effects["mean"][last][0]));

    let mut body = example("trace-seed-exercise3", &json!({"layers": [5, 25]}));
    body["corrupt"]["samples"] = json!(2);
    let answer = answered(service().answer::<Traces>(body).await);
    let groups = answer["groups"].as_object().unwrap();
    assert_eq!(groups.len(), 3, "homograph, homophone, compound");
    // " impasta" counts as a whole: less probable than its first token alone.
    let impasta = &answer["cases"][2];
    assert!(number(&impasta["clean"]["logprob:target"]) < -1.0, "{impasta}");
}
