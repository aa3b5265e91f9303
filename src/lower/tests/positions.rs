//! Positions by token class and by alignment.

use serde_json::{Value, json};

use super::problems;
use crate::lower;
use crate::lower::layout::{Lowered, PatchLayout};
use crate::lower::testing::Fake;
use crate::plan::{Op, Source};

/// `The Eiffel Tower is in the city of`: the subject covers [1, 3).
fn by(positions: Value) -> Value {
    json!({"runs": {"a": {"prompt": "The Eiffel Tower is in the city of",
                          "spans": {"subject": "Eiffel Tower", "place": "city"}}},
           "base": "a", "target": " Paris", "interventions": [{"site": "mlp_out", "op": "zero", "layers": 0, "positions": positions}]})
}

/// `[source, destination]` positions of every cell's only edit.
fn copies(lowered: &Lowered<PatchLayout>) -> Vec<Vec<[u32; 2]>> {
    let cells = lowered.layout.arm().grid.readouts.iter().map(|readout| {
        let edit = &lowered.plan.run(lowered.plan.readouts[*readout].run).edits[0];
        match &edit.op {
            Op::Replace(Source::Run { positions, .. }) => {
                positions.iter().zip(&edit.positions).map(|(src, dst)| [*src, *dst]).collect()
            }
            _ => edit.positions.iter().map(|p| [*p, *p]).collect(),
        }
    });
    cells.collect()
}

fn patch(body: &Value) -> Lowered<PatchLayout> {
    lower::lower::<crate::spec::patch::PatchSpec>(body, &Fake::default()).unwrap_or_else(|p| panic!("{p:#?}"))
}

#[test]
fn token_classes_select_the_tokens_around_a_span() {
    let selected = |positions: Value| -> Vec<u32> {
        copies(&patch(&by(positions)))[0].iter().map(|pair| pair[1]).collect()
    };
    assert_eq!(selected(json!({"class": "first_subject"})), [1]);
    assert_eq!(selected(json!({"class": "last_subject"})), [2]);
    assert_eq!(selected(json!({"class": "first_subsequent"})), [3]);
    assert_eq!(selected(json!({"class": "further"})), [4, 5, 6]);
    assert_eq!(selected(json!({"class": "last"})), [7]);
    assert_eq!(selected(json!({"class": "last_subject", "span": "place"})), [6]);
    assert_eq!(selected(json!({"class": "last", "span": "place"})), [7]);
}

#[test]
fn a_class_without_tokens_is_an_error_that_says_what_to_name() {
    for (positions, expected) in [
        (json!({"class": "middle_subject"}), "/interventions/0/positions/class empty"),
        (json!({"class": "first_subject", "span": "place"}), "/interventions/0/positions/class empty"),
        (json!({"class": "further", "span": "place"}), "/interventions/0/positions/class empty"),
        (json!({"class": "last_subject", "span": "plaec"}), "/interventions/0/positions/class unknown_name"),
        (json!({"class": "last_subjekt"}), "/interventions/0/positions/class unknown_value"),
        (json!({"class": 3}), "/interventions/0/positions/class wrong_type"),
        (json!({"class": "last", "span": 3}), "/interventions/0/positions/span wrong_type"),
        (json!({"class": "last", "which": "all"}), "/interventions/0/positions/which conflict"),
        (json!({"class": "last", "range": [0, 1]}), "/interventions/0/positions/range conflict"),
        (json!({"which": "all"}), "/interventions/0/positions missing_field"),
    ] {
        assert_eq!(problems("patch", &by(positions.clone()), &Fake::default()), [expected], "{positions}");
    }
    let found = lower::lower::<crate::spec::patch::PatchSpec>(
        &by(json!({"class": "middle_subject"})),
        &Fake::default(),
    )
    .unwrap_err();
    assert_eq!(
        found.0[0].detail,
        "the run has no middle_subject token: its \"subject\" covers [1, 3) of 8 tokens"
    );
}

#[test]
fn the_span_of_a_class_is_echoed_when_it_was_left_out() {
    let echo = serde_json::to_value(&patch(&by(json!({"class": "last_subject"}))).layout.spec).unwrap();
    let positions = &echo["interventions"][0]["positions"];
    assert_eq!(*positions, json!({"class": "last_subject", "span": "subject"}));
    assert_eq!(serde_json::to_value(&patch(&echo).layout.spec).unwrap(), echo);
}

#[test]
fn traces_take_classes_as_positions_and_as_what_is_corrupted() {
    let body = json!({"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris",
                      "corrupt": {"positions": {"class": "last_subject"}, "samples": 2},
                      "positions": {"class": "further"}});
    let layout = super::trace(&body).layout;
    assert_eq!(layout.case.corrupted_positions, [2]);
    assert_eq!(layout.case.arms.get("hidden").unwrap().grid.axes[1].values, [4, 5, 6]);
}

fn aligned(source: &str, more: Value) -> Value {
    let mut body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is in the city of"}, "b": {"prompt": source}},
                          "base": "a", "interventions": [
                              {"site": "mlp_out", "layers": 0, "positions": {"align": "diff"}, "source": {"run": "b"}}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn alignment_pairs_equal_tokens_and_replaced_ones_of_equal_number() {
    // One word for another: every position has its own counterpart.
    let same = patch(&aligned("The river Tower is in the city of", json!({})));
    assert_eq!(copies(&same), [(0..8).map(|p| [p, p]).collect::<Vec<_>>()]);
    assert!(!same.layout.case.common.lints.has("POSITION_MAP_PARTIAL"));
    // ` Tower` is missing: the rest moves up by one.
    let shorter = patch(&aligned("The Eiffel is in the city of", json!({})));
    assert_eq!(copies(&shorter), [[[0, 0], [1, 1], [2, 3], [3, 4], [4, 5], [5, 6], [6, 7]]]);
    let lints = &shorter.layout.case.common.lints.0;
    assert_eq!(
        lints.iter().map(|l| l.code).collect::<Vec<_>>(),
        ["POSITION_MAP_PARTIAL"],
        "no LENGTH_MISMATCH"
    );
    assert_eq!(lints[0].pointer, "/interventions/0/positions/align");
    assert_eq!(lints[0].detail, "without a counterpart: of \"a\" [2, 3) \" Tower\"");
    // Three tokens in the place of two are left out on both sides.
    let other = patch(&aligned("The strong water current is in the city of", json!({})));
    assert_eq!(copies(&other), [[[0, 0], [4, 3], [5, 4], [6, 5], [7, 6], [8, 7]]]);
    let detail =
        "without a counterpart: of \"b\" [1, 4) \" strong water current\"; of \"a\" [1, 3) \" Eiffel Tower\"";
    assert_eq!(other.layout.case.common.lints.0[0].detail, detail);
    // A map that is written out is taken at its word.
    let map = json!({"interventions": [{"site": "mlp_out", "layers": 0, "positions": {"map": [[0, 0], [2, 3]]},
                                        "source": {"run": "b"}}]});
    assert_eq!(patch(&aligned("The Eiffel is in the city of", map)).layout.case.common.lints.0, []);
}

#[test]
fn alignment_can_be_swept_position_by_position() {
    let lowered = patch(&aligned("The Eiffel is in the city of", json!({"sweep": ["positions"]})));
    assert_eq!(lowered.layout.arm().grid.axes[0].values, [0, 1, 3, 4, 5, 6, 7]);
    assert_eq!(copies(&lowered)[2], [[2, 3]]);
    let echo = serde_json::to_value(&lowered.layout.spec).unwrap();
    assert_eq!(echo["interventions"][0]["positions"], json!({"align": "diff"}));
}

#[test]
fn alignment_needs_a_source_run_that_shares_tokens() {
    let source = "The Eiffel is in the city of";
    let with = |field: &str, value: Value| {
        let mut body = aligned(source, json!({}));
        body["interventions"][0][field] = value;
        problems("patch", &body, &Fake::default())
    };
    let align = "/interventions/0/positions/align";
    assert_eq!(with("positions", json!({"align": "words"})), [format!("{align} unknown_value")]);
    assert_eq!(with("source", json!({"vector": [1, 2, 3, 4, 5, 6, 7, 8]})), [format!("{align} conflict")]);
    let given = json!({"run": "b", "positions": "last"});
    assert_eq!(with("source", given), ["/interventions/0/source/positions conflict"]);
    let inner = json!({"run": "b", "positions": {"align": "diff"}});
    assert_eq!(with("source", inner), ["/interventions/0/source/positions/align not_supported"]);
    let unknown = with("source", json!({"run": "c"}));
    assert!(unknown.contains(&"/interventions/0/source/run unknown_name".to_owned()), "{unknown:?}");
    let mut zero = by(json!({"align": "diff"}));
    assert_eq!(problems("patch", &zero, &Fake::default()), [format!("{align} conflict")]);
    zero["interventions"][0]["positions"] = json!({"align": "diff", "map": [[0, 0]]});
    let both = problems("patch", &zero, &Fake::default());
    assert_eq!(both[0], "/interventions/0/positions/map conflict");
    let apart = aligned("xyz", json!({}));
    assert_eq!(problems("patch", &apart, &Fake::default()), [format!("{align} empty")]);
    let trace = json!({"prompt": "The Eiffel Tower is", "subject": "Eiffel", "target": " Paris",
                       "positions": {"align": "diff"}});
    assert_eq!(problems("trace", &trace, &Fake::default()), ["/positions/align not_supported"]);
}

#[test]
fn one_occurrence_of_a_text_or_every_one_is_a_span() {
    let body = |occurrence: Value, positions: Value| {
        json!({"runs": {"a": {"prompt": "The city of the city is the city",
                              "spans": {"s": {"text": " city", "occurrence": occurrence}}}},
               "base": "a", "target": " Paris",
               "interventions": [{"site": "mlp_out", "op": "zero", "layers": 0, "positions": positions}]})
    };
    let span = json!({"span": "s"});
    let selected = |occurrence: Value, positions: &Value| -> Vec<u32> {
        copies(&patch(&body(occurrence, positions.clone())))[0].iter().map(|pair| pair[1]).collect()
    };
    assert_eq!(selected(json!(0), &span), [1]);
    assert_eq!(selected(json!(1), &span), [4]);
    assert_eq!(selected(json!(-1), &span), [7]);
    assert_eq!(selected(json!("every"), &span), [1, 4, 7]);
    assert_eq!(selected(json!(1), &json!({"class": "first_subsequent", "span": "s"})), [5]);
    let refused = |occurrence: Value, positions: &Value| {
        problems("patch", &body(occurrence, positions.clone()), &Fake::default())
    };
    assert_eq!(refused(json!(3), &span), ["/runs/a/spans/s/occurrence out_of_range"]);
    assert_eq!(refused(json!(-4), &span), ["/runs/a/spans/s/occurrence out_of_range"]);
    assert_eq!(refused(json!("all"), &span), ["/runs/a/spans/s/occurrence unknown_value"]);
    assert_eq!(refused(json!(null), &span), ["/runs/a/spans/s/occurrence missing_field"]);
    let class = json!({"class": "last_subject", "span": "s"});
    assert_eq!(refused(json!("every"), &class), ["/interventions/0/positions/class conflict"]);
    let mut absent = body(json!("every"), span);
    absent["runs"]["a"]["spans"]["s"]["text"] = json!("Rome");
    assert_eq!(problems("patch", &absent, &Fake::default()), ["/runs/a/spans/s span_absent"]);
    let tokenised = json!({"prompt": "The city of the city", "spans": {
        "every": {"text": " city", "occurrence": "every"}, "second": {"text": " city", "occurrence": 1}}});
    let found = crate::result::common::tokenize(&tokenised, &Fake::default()).unwrap();
    assert_eq!(
        serde_json::to_value(&found.spans).unwrap(),
        json!({"every": [[1, 2], [4, 5]], "second": [4, 5]})
    );
}

#[test]
fn tokens_of_several_stretches_are_selected_once_and_in_order() {
    let body = |which: &str| {
        json!({"runs": {"a": {"prompt": "The Eiffel Tower is Eiffel Tower",
                              "spans": {"s": {"text": "Eiffel Tower", "occurrence": "every"}}}},
               "base": "a", "target": " Paris",
               "interventions": [{"site": "mlp_out", "op": "zero", "layers": 0,
                                  "positions": {"span": "s", "which": which}}]})
    };
    let selected =
        |which: &str| -> Vec<u32> { copies(&patch(&body(which)))[0].iter().map(|pair| pair[1]).collect() };
    assert_eq!(selected("all"), [1, 2, 4, 5]);
    assert_eq!(selected("first"), [1, 4]);
    assert_eq!(selected("last"), [2, 5]);
}
