//! Attention knockout: which edges are cut where, in what order, and when a position would be left without a key.

use serde_json::{Value, json};

use super::{patch, problems, show, trace};
use crate::lower::testing::Fake;

/// `The Eiffel Tower is in`: the subject covers [1, 3). Two heads.
fn body(interventions: Value, sweep: Value) -> Value {
    json!({"runs": {"a": {"prompt": "The Eiffel Tower is in", "spans": {"subject": "Eiffel Tower"}},
                    "b": {"prompt": "The river Tower has a"}},
           "base": "a", "target": " Paris", "interventions": interventions, "sweep": sweep})
}

fn cut(keys: Value, more: Value) -> Value {
    let mut one = json!({"site": "scores", "op": "knockout", "layers": 1, "heads": [0], "keys": keys});
    one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    one
}

/// Layer, first and one past the last column, and positions of every edit of each cell.
type Cut = (u32, u32, u32, Vec<u32>);

fn cells(interventions: Value, sweep: Value) -> Vec<Vec<Cut>> {
    let lowered = patch(&body(interventions, sweep));
    let of = |readout: &usize| {
        let edits = &lowered.plan.run(lowered.plan.readouts[*readout].run).edits;
        let columns = |edit: &crate::plan::Edit| edit.columns.clone().unwrap();
        edits.iter().map(|e| (e.at.layer, columns(e).start, columns(e).end, e.positions.clone())).collect()
    };
    lowered.layout.arm().grid.readouts.iter().map(of).collect()
}

fn refused(interventions: Value, sweep: Value) -> Vec<String> {
    problems("patch", &body(interventions, sweep), &Fake::default())
}

#[test]
fn edges_are_cut_where_the_position_sees_the_key() {
    let subject = json!({"span": "subject"});
    assert_eq!(cells(json!([cut(subject.clone(), json!({}))]), json!([])), [[(1, 1, 3, vec![4])]]);
    // Position 1 sees itself, position 0 none of them; head 1 begins at column 5.
    let all = cut(subject, json!({"positions": "all", "heads": [1], "layers": [0, 2]}));
    let each = |layer| [(layer, 6, 7, vec![1]), (layer, 6, 8, vec![2, 3, 4])];
    assert_eq!(cells(json!([all]), json!([])), [[each(0), each(2)].concat()]);
    // All heads; stretches of keys; a window.
    let wide = cut(json!([3, 0, 1]), json!({"heads": null, "window": 2}));
    let head =
        |layer, first: u32| [(layer, first, first + 2, vec![4]), (layer, first + 3, first + 4, vec![4])];
    assert_eq!(cells(json!([wide]), json!([])), [[head(0, 0), head(0, 5), head(1, 0), head(1, 5)].concat()]);
}

#[test]
fn keys_positions_layers_and_heads_are_swept() {
    let one = cut(json!([0, 2]), json!({"positions": [1, 3], "layers": [1, 3], "heads": "all"}));
    let swept = cells(json!([one]), json!(["dims", "positions"]));
    let both = |columns: [u32; 2], position: u32| -> Vec<Cut> {
        let layers = [1, 3].into_iter();
        layers.flat_map(|l| columns.map(|c| (l, c, c + 1, vec![position]))).collect()
    };
    // No edge leads from position 2 back to 1: that cell changes nothing.
    assert_eq!(swept, [both([0, 5], 1), both([0, 5], 3), vec![], both([2, 7], 3)]);
    let swept = cells(json!([one]), json!(["layers", "heads"]));
    assert_eq!(
        swept.iter().map(|cell| (cell[0].0, cell[0].1)).collect::<Vec<_>>(),
        [(1, 0), (1, 5), (3, 0), (3, 5)]
    );
}

#[test]
fn a_cut_comes_after_all_else_that_is_written_to_the_scores() {
    let copy = json!({"site": "scores", "layers": 1, "heads": [0], "source": {"run": "b"}});
    let lowered = patch(&body(json!([cut(json!([0]), json!({})), copy]), json!([])));
    let run = lowered.plan.readouts[lowered.layout.arm().grid.readouts[0]].run;
    assert_eq!(show(&lowered.plan, run), ["scores@1[4] = run 1 [4]", "scores@1[4] = cut"]);
}

#[test]
fn a_position_keeps_a_key() {
    let keys = |keys: Value, positions: Value| cut(keys, json!({"positions": positions}));
    assert_eq!(refused(json!([keys(json!([0, 1]), json!([1]))]), json!([])), ["/interventions/0/keys empty"]);
    assert_eq!(
        refused(json!([keys(json!("all"), json!("last"))]), json!([])),
        ["/interventions/0/keys empty"]
    );
    assert_eq!(refused(json!([keys(json!([4]), json!("last"))]), json!([])), [""; 0], "the diagonal alone");
    assert_eq!(refused(json!([keys(json!([0]), json!([0, 3]))]), json!([])), ["/interventions/0/keys empty"]);
    // Together, in one layer and head.
    let two = |more: Value| json!([keys(json!([0]), json!([1])), cut(json!([1]), more)]);
    assert_eq!(refused(two(json!({"positions": [1]})), json!([])), ["/interventions/1/keys empty"]);
    assert_eq!(refused(two(json!({"positions": [1], "layers": 2})), json!([])), [""; 0]);
    assert_eq!(refused(two(json!({"positions": [1], "heads": [1]})), json!([])), [""; 0]);
    assert_eq!(refused(two(json!({"positions": [2]})), json!([])), [""; 0]);
    // Key by key.
    assert_eq!(refused(json!([keys(json!("all"), json!("last"))]), json!(["dims"])), [""; 0]);
    // What the base cuts counts too.
    let mut derived = body(json!([keys(json!([1]), json!([1]))]), json!([]));
    derived["runs"]["d"] = json!({"from": "a", "interventions": [keys(json!([0]), json!([1]))]});
    assert_eq!(problems("patch", &derived, &Fake::default()), [""; 0]);
    derived["base"] = json!("d");
    assert_eq!(problems("patch", &derived, &Fake::default()), ["/interventions/0/keys empty"]);
    derived["runs"]["d"]["interventions"][0]["keys"] = json!([0, 1]);
    assert_eq!(problems("patch", &derived, &Fake::default())[0], "/runs/d/interventions/0/keys empty");
}

#[test]
fn what_a_knockout_cannot_mean_is_refused_by_field() {
    let site = |site: &str| json!([{"site": site, "op": "knockout", "layers": 1, "keys": [0]}]);
    assert_eq!(refused(site("pattern"), json!([])), ["/interventions/0/op not_supported"]);
    assert_eq!(refused(site("z"), json!([])), ["/interventions/0/op not_supported"]);
    assert_eq!(
        refused(json!([cut(json!(null), json!({}))]), json!([])),
        ["/interventions/0/keys missing_field"]
    );
    assert_eq!(
        refused(json!([cut(json!([5]), json!({}))]), json!([])),
        ["/interventions/0/keys/0 out_of_range"]
    );
    assert_eq!(
        refused(json!([cut(json!({"span": "sujbect"}), json!({}))]), json!([])),
        ["/interventions/0/keys/span unknown_name"]
    );
    let dims = cut(json!([0]), json!({"dims": [0]}));
    assert_eq!(refused(json!([dims]), json!([])), ["/interventions/0/dims conflict"]);
    let later = cut(json!([3, 4]), json!({"positions": [1, 2]}));
    assert_eq!(refused(json!([later]), json!([])), ["/interventions/0/keys empty"]);
    let keys = json!([{"site": "scores", "op": "zero", "layers": 1, "keys": [0]}]);
    assert_eq!(refused(keys, json!([])), ["/interventions/0/keys conflict"]);
    let mut controlled = body(json!([cut(json!([0]), json!({}))]), json!([]));
    controlled["controls"] = json!(["self_patch", "random_vector", "random_position"]);
    assert_eq!(
        problems("patch", &controlled, &Fake::default()),
        ["/controls/1 conflict", "/controls/2 conflict"]
    );
}

#[test]
fn an_arm_of_a_trace_cuts_edges_of_the_unrestored_run() {
    let arm = |more: Value| {
        let mut arm = json!({"site": "scores", "op": "knockout", "keys": {"span": "subject"}});
        arm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"prompt": "The Eiffel Tower is", "subject": "Eiffel Tower", "target": " Paris", "base": "clean",
               "arms": {"cut": arm}, "corrupt": {"sigma": {"abs": 0.5}, "samples": 2}})
    };
    let lowered = trace(&arm(json!({"positions": "last", "window": 3, "heads": [1]})));
    let grid = lowered.layout.case.arms.get("cut").unwrap();
    assert_eq!((grid.grid.axes.len(), grid.grid.cells()), (1, 4));
    let run = lowered.plan.readouts[grid.grid.cell(3)[0]].run;
    assert_eq!(lowered.plan.run(run).parent.unwrap().0, 0);
    assert_eq!(show(&lowered.plan, run), ["scores@2[3] = cut", "scores@3[3] = cut"]);
    assert_eq!(lowered.plan.run(run).edits[0].columns, Some(5..7));
    // Position by position: those before the subject have no such edge.
    let lowered = trace(&arm(json!({})));
    let grid = lowered.layout.case.arms.get("cut").unwrap();
    assert_eq!(grid.grid.cells(), 4 * 4);
    let edits = |cell| lowered.plan.run(lowered.plan.readouts[grid.grid.cell(cell)[0]].run).edits.len();
    assert_eq!((edits(0), edits(1), edits(3)), (0, 2, 2));
    let refused = |more: Value| problems("trace", &arm(more), &Fake::default());
    assert_eq!(refused(json!({"site": "z"})), ["/arms/cut/op not_supported"]);
    assert_eq!(refused(json!({"keys": null})), ["/arms/cut/keys missing_field"]);
    assert_eq!(refused(json!({"op": null})), ["/arms/cut/keys conflict"]);
    assert_eq!(refused(json!({"dims": [0]})), ["/arms/cut/dims conflict"]);
    assert_eq!(refused(json!({"keys": [3], "positions": [1, 2]})), ["/arms/cut/keys empty"]);
    assert_eq!(refused(json!({"keys": [0, 1]})), ["/arms/cut/keys empty"]);
    let mut controlled = arm(json!({}));
    controlled["controls"] = json!(["self_patch", "random_position"]);
    assert_eq!(problems("trace", &controlled, &Fake::default()), ["/controls/1 conflict"]);
}

#[test]
fn the_size_of_what_is_written_is_told_to_be_infinite() {
    let mut one = body(json!([cut(json!([0]), json!({}))]), json!([]));
    let codes = |body: &Value| {
        let lints = patch(body).layout.case.common.lints;
        lints.0.iter().map(|lint| format!("{} {}", lint.code, lint.pointer)).collect::<Vec<_>>()
    };
    assert!(!codes(&one).contains(&"UNBOUNDED_DELTA /interventions".to_owned()));
    one["metrics"] = json!(["prob:target", "logit:target", "delta_norm"]);
    assert!(codes(&one).contains(&"UNBOUNDED_DELTA /interventions".to_owned()));
}
