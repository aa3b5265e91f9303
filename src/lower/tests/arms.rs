//! Arms of a trace: joint positions, severed sites, heads and columns.

use serde_json::{Value, json};

use super::{problems, show, trace};
use crate::lower::testing::Fake;
use crate::plan::RunId;

fn body(arm: Value, more: Value) -> Value {
    let mut body = json!({"prompt": "The Eiffel Tower is", "subject": "Eiffel Tower", "target": " Paris", "arms": {"arm": arm},
                          "corrupt": {"sigma": {"abs": 0.5}, "samples": 2}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Axes of the arm and the edits of one of its cells, in the second sample.
fn cell(arm: Value, more: Value, cell: usize) -> (Vec<&'static str>, RunId, Vec<String>) {
    let lowered = trace(&body(arm, more));
    let grid = lowered.layout.case.arms.get("arm").unwrap();
    let run = lowered.plan.readouts[grid.grid.cell(cell)[1]].run;
    let parent = lowered.plan.run(run).parent.unwrap();
    (grid.grid.axes.iter().map(|axis| axis.name).collect(), parent, show(&lowered.plan, run))
}

#[test]
fn severed_sites_are_held_at_the_unrestored_runs_values_in_all_layers_above() {
    let severed = json!({"site": "resid_post", "freeze": ["mlp_out", "attn_out"]});
    // Layer 1, position 2.
    let (axes, base, edits) = cell(severed.clone(), json!({}), 4 + 2);
    assert_eq!((axes, base), (vec!["layer", "position"], RunId(2)));
    let held = [
        "mlp_out@2[2] = run 2 [2]",
        "attn_out@2[2] = run 2 [2]",
        "mlp_out@3[2] = run 2 [2]",
        "attn_out@3[2] = run 2 [2]",
    ];
    assert_eq!(edits[0], "resid_post@1[2] = run 0 [2]");
    assert_eq!(edits[1..], held);
    // Noising puts corrupted states into the clean run, whose values are held then.
    let (_, base, edits) = cell(severed.clone(), json!({"base": "clean"}), 8 + 1);
    assert_eq!(base, RunId(0));
    assert_eq!(
        edits,
        ["resid_post@2[1] = run 2 [1]", "mlp_out@3[1] = run 0 [1]", "attn_out@3[1] = run 0 [1]"]
    );
    let (_, _, edits) = cell(severed, json!({}), 12);
    assert_eq!(edits, ["resid_post@3[0] = run 0 [0]"], "nothing is above the last layer");
}

#[test]
fn severing_begins_above_the_window_and_above_the_embedding_in_every_layer() {
    let window = json!({"site": "mlp_out", "window": 2, "freeze": ["attn_out"]});
    let (_, _, edits) = cell(window, json!({}), 4 + 3);
    assert_eq!(edits[..2], ["mlp_out@0[3] = run 0 [3]", "mlp_out@1[3] = run 0 [3]"]);
    assert_eq!(edits[2..], ["attn_out@2[3] = run 2 [3]", "attn_out@3[3] = run 2 [3]"]);
    let (axes, _, edits) = cell(json!({"site": "embed", "freeze": ["mlp_out"]}), json!({}), 1);
    assert_eq!(axes, ["position"]);
    assert_eq!(edits[0], "embed@0[1] = run 0 [1]");
    assert_eq!(edits[1..], (0..4).map(|layer| format!("mlp_out@{layer}[1] = run 2 [1]")).collect::<Vec<_>>());
    let (_, _, edits) = cell(json!({"site": "final_norm", "freeze": ["mlp_out"]}), json!({}), 3);
    assert_eq!(edits, ["final_norm@4[3] = run 0 [3]"]);
}

#[test]
fn joint_positions_are_restored_together_and_leave_no_position_axis() {
    let joint = json!({"site": "mlp_out", "positions": {"span": "subject"}, "freeze": ["attn_out"]});
    let (axes, base, edits) = cell(joint, json!({}), 2);
    assert_eq!((axes, base), (vec!["layer"], RunId(2)));
    assert_eq!(edits, ["mlp_out@2[1, 2] = run 0 [1, 2]", "attn_out@3[1, 2] = run 2 [1, 2]"]);
    // Arms beside it keep the map's positions.
    let arms = json!({"arms": {"joint": {"site": "z", "positions": [3, 0]}, "map": {"site": "z"}}, "positions": [1, 3]});
    let lowered = trace(&body(json!(null), arms));
    let cells = |arm: &str| lowered.layout.case.arms.get(arm).unwrap().grid.cells();
    assert_eq!((cells("joint"), cells("map")), (4, 8));
    let embed = trace(&body(json!({"site": "embed", "positions": "all"}), json!({"allow_trivial": true})));
    let grid = embed.layout.case.arms.get("arm").unwrap();
    assert_eq!((grid.grid.axes.len(), grid.grid.cells()), (0, 1));
}

#[test]
fn what_arms_write_counts_in_the_limits() {
    let limited = |arm: Value, edits: u64, positions: u64| {
        let mut facts = Fake::default();
        (facts.limits.edits, facts.limits.edit_positions) = (edits, positions);
        problems("trace", &body(arm, json!({})), &facts)
    };
    // 4 layers x 2 samples of a joint cell: one edit each of two positions.
    let joint = json!({"site": "mlp_out", "positions": [1, 2]});
    assert_eq!(limited(joint.clone(), 8, 16), [""; 0]);
    assert_eq!(limited(joint.clone(), 7, 16), ["/arms limit_exceeded"]);
    assert_eq!(limited(joint, 8, 15), ["/arms limit_exceeded"]);
    // What is severed may be as much as all layers.
    let severed = json!({"site": "mlp_out", "positions": [1, 2], "freeze": ["attn_out"]});
    assert_eq!(limited(severed.clone(), 40, 80), [""; 0]);
    assert_eq!(limited(severed, 39, 80), ["/arms limit_exceeded"]);
}

#[test]
fn arms_name_heads_and_columns_of_their_site() {
    let columns = |arm: Value| {
        let lowered = trace(&body(arm, json!({})));
        let run = lowered.plan.readouts[lowered.layout.case.arms.get("arm").unwrap().grid.cell(0)[0]].run;
        let edits = lowered.plan.run(run).edits.iter();
        edits.map(|edit| (edit.at.site.name(), edit.columns.clone())).collect::<Vec<_>>()
    };
    assert_eq!(columns(json!({"site": "head_out", "heads": [1]})), [("head_out", Some(4..8))]);
    assert_eq!(
        columns(json!({"site": "q", "heads": [1], "dims": [0, 2]})),
        [("q", Some(4..5)), ("q", Some(6..7))]
    );
    assert_eq!(columns(json!({"site": "mlp_act", "dims": {"range": [3, 6]}})), [("mlp_act", Some(3..6))]);
    let heads = |site: &str, heads: Value| {
        problems("trace", &body(json!({"site": site, "heads": heads}), json!({})), &Fake::default())
    };
    assert_eq!(heads("k", json!([0])), [""; 0]);
    assert_eq!(
        heads("k", json!([1])),
        ["/arms/arm/heads/0 out_of_range"],
        "two query heads share one of keys"
    );
    let columns = json!({"site": "head_out", "heads": [1], "dims": [0]});
    assert_eq!(
        problems("trace", &body(columns, json!({})), &Fake::default()),
        ["/arms/arm/dims not_supported"]
    );
}
