//! Alignment requests: what is compared, what is answered, what is refused.

use serde_json::{Value, json};

use super::problems;
use super::respond::{answered, lint_codes, near, output, score};
use crate::lower;
use crate::lower::testing::{Fake, id};
use crate::plan::Plan;

/// The response to a body, with these probabilities of the target in `a` and `b` if there is one.
fn respond(body: &Value, probabilities: Option<[f64; 2]>) -> Value {
    let lowered = lower::lower::<crate::spec::align::AlignSpec>(body, &Fake::default())
        .unwrap_or_else(|p| panic!("{p:#?}"));
    let output = probabilities.map(|p| output(p.iter().map(|p| score(&[*p], " Rome")).collect()));
    let response = answered(&lowered, output.unwrap_or_default());
    serde_json::to_value(response.unwrap()).unwrap()
}

#[test]
fn two_prompts_are_compared_token_by_token() {
    let r = respond(&json!({"a": "The Eiffel is in the city", "b": "The river Tower is in a city"}), None);
    assert_eq!(
        r["ops"],
        json!([{"op": "equal", "a": [0, 1], "b": [0, 1]}, {"op": "replace", "a": [1, 2], "b": [1, 3]},
               {"op": "equal", "a": [2, 4], "b": [3, 5]}, {"op": "replace", "a": [4, 5], "b": [5, 6]},
               {"op": "equal", "a": [5, 6], "b": [6, 7]}])
    );
    assert_eq!(r["map"], json!([[0, 0], [2, 3], [3, 4], [4, 5], [5, 6]]));
    assert_eq!(r["unpaired"], json!({"a": [1], "b": [1, 2]}));
    assert_eq!((&r["equal_length"], &r["minimal_pair"]), (&json!(false), &json!(false)));
    assert_eq!(r["differing_positions"], Value::Null);
    assert_eq!(r["runs"]["b"]["tokens"][2]["text"], " Tower");
    assert_eq!((r["runs"].as_object().unwrap().len(), &r["runs"]["a"]["topk"]), (2, &json!([])));
    for absent in ["contrast", "usage"] {
        assert_eq!(r.get(absent), None, "nothing was computed");
    }
}

#[test]
fn the_map_goes_into_an_intervention_as_it_is() {
    let (a, b) = ("The Eiffel is in the city", "The river Tower is in a city");
    let map = respond(&json!({"a": a, "b": b}), None)["map"].clone();
    let patch = |positions: Value| {
        let body = json!({"runs": {"a": {"prompt": a}, "b": {"prompt": b}}, "base": "b", "target": " Paris",
                          "interventions": [{"site": "mlp_out", "layers": 1, "positions": positions,
                                             "source": {"run": "a"}}]});
        lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default())
            .unwrap_or_else(|p| panic!("{p:#?}"))
            .plan
    };
    let (by_map, by_align) = (patch(json!({"map": map})), patch(json!({"align": "diff"})));
    let edits = |plan: &Plan| format!("{:?}", plan.runs.last().unwrap().edits);
    assert_eq!(edits(&by_map), edits(&by_align));
}

#[test]
fn a_pair_for_token_replacement_is_equally_long_and_differs_in_one_place() {
    let pair = |b: &str| {
        let r = respond(&json!({"a": "The Eiffel Tower is", "b": b}), None);
        (r["differing_positions"].clone(), r["minimal_pair"].clone())
    };
    assert_eq!(pair("The river Tower is"), (json!([1]), json!(true)));
    assert_eq!(pair("The river water is"), (json!([1, 2]), json!(true)));
    assert_eq!(pair("The river Tower has"), (json!([1, 3]), json!(false)));
    assert_eq!(pair("The Eiffel Tower is"), (json!([]), json!(false)));
}

#[test]
fn targets_show_whether_the_model_tells_the_prompts_apart() {
    let body = json!({"runs": {"pun": {"prompt": "The Eiffel Tower is", "spans": {"s": "Eiffel"}},
                               "plain": {"prompt": "The river Tower is"}}, "target": " Paris"});
    let r = respond(&body, Some([0.4, 0.1]));
    let contrast = &r["contrast"];
    assert_eq!((&contrast["differs"], &contrast["threshold"]), (&json!(true), &json!(0.1)));
    near(&contrast["targets"]["target"]["prob_a"], &json!(0.4));
    near(&contrast["targets"]["target"]["prob_b"], &json!(0.1));
    near(&contrast["targets"]["target"]["logprob_difference"], &json!(4.0_f64.ln()));
    near(&r["runs"]["plain"]["metrics"]["prob:target"], &json!(0.1));
    assert_eq!((&r["runs"]["pun"]["spans"]["s"], r["usage"].is_object()), (&json!([1, 2]), true));
    assert_eq!(r["targets"]["target"][0]["id"], id(" Paris"));
    assert_eq!(lint_codes(&r), [""; 0]);

    let same = respond(&body, Some([0.4, 0.42]));
    assert_eq!(same["contrast"]["differs"], false);
    assert_eq!(lint_codes(&same), ["NO_CONTRAST"]);
    assert_eq!(same["lints"][0]["where"], "/runs");
    let unknown = respond(&body, Some([f64::NAN, 0.4]));
    assert_eq!(unknown["contrast"]["targets"]["target"]["prob_a"], Value::Null);
    assert_eq!(lint_codes(&unknown), [""; 0], "what isn't known isn't alike");
}

#[test]
fn the_short_form_echoes_its_long_form() {
    let body = json!({"a": "The Eiffel Tower is", "b": {"prompt": "The river", "spans": {"s": "river"}}, "target": " Paris"});
    let r = respond(&body, Some([0.4, 0.1]));
    let echo = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river", "spans": {"s": "river"}}},
                      "targets": {"target": [" Paris"]}, "target_scoring": "first_token",
                      "metrics": ["prob:target", "logprob:target"], "read": {"at": "last", "topk": 5},
                      "strict": false, "allow_trivial": false});
    assert_eq!(r["request"], echo);
    let again = respond(&echo, Some([0.4, 0.1]));
    assert_eq!(again["provenance"]["plan_sha256"], r["provenance"]["plan_sha256"]);
}

#[test]
fn bad_alignments_name_their_field() {
    for (body, expected) in [
        (json!({}), vec!["/a missing_field", "/b missing_field"]),
        (json!([]), vec![" wrong_type"]),
        (json!({"a": "The", "b": 3}), vec!["/b wrong_type"]),
        (json!({"a": "", "b": "The"}), vec!["/a empty"]),
        (json!({"a": "The", "b": "The", "c": "The"}), vec!["/c unknown_field"]),
        (json!({"a": {"prompt": "The", "spans": {"s": "x"}}, "b": "The"}), vec!["/a/spans/s span_absent"]),
        (json!({"a": {"tokens": [999]}, "b": "The"}), vec!["/a/tokens/0 unknown_token"]),
        (json!({"a": "x".repeat(65), "b": "The"}), vec!["/a limit_exceeded"]),
        (json!({"a": "The", "runs": {"a": "The", "b": "The"}}), vec!["/a conflict"]),
        (json!({"runs": {"a": "The"}}), vec!["/runs length_mismatch"]),
        (json!({"runs": {"a": "The", "b": "The", "c": "The"}}), vec!["/runs length_mismatch"]),
        (json!({"runs": {"a": "The", "b": 5}}), vec!["/runs/b wrong_type"]),
        (json!({"a": "The", "b": "The", "target": 999}), vec!["/target unknown_token"]),
        (json!({"a": "The", "b": "The", "metrics": ["top1_flip"]}), vec!["/metrics/0 not_supported"]),
        (json!({"a": "The", "b": "The", "model": "m"}), vec!["/model unknown_model"]),
        (json!({"a": "The", "b": "The", "read": {"capture": []}}), vec!["/read/capture unknown_field"]),
    ] {
        assert_eq!(problems("align", &body, &Fake::default()), expected, "{body}");
    }
}

#[test]
fn strict_refuses_pairs_without_contrast() {
    let body = json!({"a": "The Eiffel Tower is", "b": "The river", "target": " Paris", "strict": true});
    let lowered = lower::lower::<crate::spec::align::AlignSpec>(&body, &Fake::default()).unwrap();
    let scores = |b: f64| output(vec![score(&[0.4], " Rome"), score(&[b], " Rome")]);
    let answer = |b: f64| answered(&lowered, scores(b));
    assert!(answer(0.1).is_ok());
    let refused = answer(0.4).unwrap_err();
    assert_eq!((&*refused.0[0].pointer, refused.0[0].code), ("", "NO_CONTRAST"), "the short form's body");
}
