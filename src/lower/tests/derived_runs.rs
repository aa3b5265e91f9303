//! Runs derived from others: order, sharing, and what holds in every cell.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{patch, problems, show};
use crate::lower;
use crate::lower::testing::Fake;
use crate::plan::{EditGroup, RunId};

fn body(derived: Value, more: Value) -> Value {
    let mut body = json!({
        "runs": {"a": {"prompt": "The Eiffel Tower is", "spans": {"s": "Eiffel Tower"}}, "b": {"prompt": "The river Tower has"}},
        "base": "a", "target": " Paris",
        "interventions": [{"site": "mlp_out", "layers": 2, "positions": "last", "source": {"run": "b"}}]});
    body["runs"].as_object_mut().unwrap().extend(derived.as_object().unwrap().clone());
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn zero(from: &str) -> Value {
    json!({"from": from, "interventions": [{"site": "mlp_out", "layers": 1, "op": "zero"}]})
}

#[test]
fn a_derived_run_branches_off_its_run_shares_its_tokens_and_spans_and_serves_as_base_and_source() {
    let sender = json!({"from": "a", "interventions": [
        {"site": "z", "layers": 1, "heads": [1], "positions": {"span": "s"}, "source": {"run": "b", "positions": [1, 2]}}]});
    // A second one reads and changes the first.
    let receiver = json!({"from": "sender", "interventions": [
        {"site": "q", "layers": 2, "positions": "all", "source": {"run": "sender"}},
        {"site": "mlp_out", "layers": [0, 3], "op": "scale", "factor": 0.5}]});
    let interventions =
        json!([{"site": "resid_mid", "layers": 3, "positions": {"span": "s"}, "source": {"run": "sender"}}]);
    let derived = json!({"sender": sender, "receiver": receiver});
    let lowered = patch(&body(derived, json!({"base": "receiver", "interventions": interventions})));
    let plan = &lowered.plan;
    let parents: Vec<Option<RunId>> = plan.runs.iter().map(|run| run.parent).collect();
    assert_eq!(parents, [None, None, Some(RunId(0)), Some(RunId(2)), Some(RunId(3))]);
    assert!((2..5).all(|run| Arc::ptr_eq(&plan.runs[run].tokens, &plan.runs[0].tokens)));
    assert_eq!(show(plan, RunId(2)), ["z@1[1, 2] = run 1 [1, 2]"]);
    assert_eq!(plan.runs[2].edits[0].columns, Some(4..8));
    assert_eq!(plan.runs[2].edits[0].group, EditGroup::Patch);
    let written = ["q@2[0, 1, 2, 3] = run 2 [0, 1, 2, 3]", "mlp_out@0[3] = * 0.5", "mlp_out@3[3] = * 0.5"];
    assert_eq!(show(plan, RunId(3)), written);
    assert_eq!(show(plan, RunId(4)), ["resid_mid@3[1, 2] = run 2 [1, 2]"]);
    let runs = &lowered.layout.case.common.runs;
    assert_eq!(runs.get("receiver").unwrap().0.spans.get("s").unwrap().range(), Some(1..3));
    // Each has a readout of its own; an edited run has no twin that would be computed alike.
    let readouts: Vec<u32> = plan.readouts.iter().map(|readout| readout.run.0).collect();
    assert_eq!(readouts, [0, 1, 2, 3, 4]);
    assert_eq!(lowered.layout.case.common.twins, None);
}

#[test]
fn runs_are_derived_from_those_above_them_and_read_those_only() {
    let reading = |source: Value| json!({"from": "a", "interventions": [{"site": "mlp_out", "op": "replace", "source": source}]});
    for (derived, expected) in [
        (json!({"x": zero("a"), "y": zero("x")}), vec![]),
        (json!({"x": zero("y"), "y": zero("a")}), vec!["/runs/x/from self_reference"]),
        (json!({"x": zero("y"), "y": zero("x")}), vec!["/runs/x/from self_reference"]),
        (json!({"x": zero("x")}), vec!["/runs/x/from self_reference"]),
        (json!({"x": zero("nobody")}), vec!["/runs/x/from unknown_name"]),
        (
            json!({"x": reading(json!({"run": "nobody"}))}),
            vec!["/runs/x/interventions/0/source/run unknown_name"],
        ),
        (
            json!({"x": reading(json!({"run": "x"}))}),
            vec!["/runs/x/interventions/0/source/run self_reference"],
        ),
        (
            json!({"x": reading(json!({"run": "y"})), "y": {"prompt": "The river"}}),
            vec!["/runs/x/interventions/0/source/run self_reference"],
        ),
        (
            json!({"x": reading(json!({"mean_of": ["b", "y"]})), "y": {"prompt": "The river"}}),
            vec!["/runs/x/interventions/0/source/mean_of/1 self_reference"],
        ),
        (
            json!({"x": {"from": "a", "interventions": [
                {"site": "mlp_out", "op": "resample", "source": {"any_of": ["y", "b"]}}]}, "y": {"prompt": "The river"}}),
            vec!["/runs/x/interventions/0/source/any_of/0 self_reference"],
        ),
        (json!({"x": {"from": "a"}}), vec!["/runs/x/interventions missing_field"]),
        (json!({"x": {"from": "a", "interventions": []}}), vec!["/runs/x/interventions empty"]),
        (
            json!({"x": {"interventions": [{"site": "mlp_out", "op": "zero"}]}}),
            vec!["/runs/x/from missing_field"],
        ),
        (
            json!({"x": {"from": "a", "prompt": "The", "interventions": [{"site": "mlp_out", "op": "zero"}]}}),
            vec!["/runs/x/prompt conflict"],
        ),
        (
            json!({"x": {"from": "a", "interventions": [{"site": "mlp_out", "layers": 4, "op": "zero"}]}}),
            vec!["/runs/x/interventions/0/layers out_of_range"],
        ),
    ] {
        let body = body(derived, json!({}));
        assert_eq!(problems("patch", &body, &Fake::default()), expected, "{}", body["runs"]);
    }
}

#[test]
fn edits_of_derived_runs_count_in_the_limits() {
    let mut facts = Fake::default();
    let derived =
        json!({"x": {"from": "a", "interventions": [{"site": "mlp_out", "positions": "all", "op": "zero"}]}});
    // Four layers of four positions, and one edit of one position in the only cell.
    facts.limits.edit_positions = 17;
    assert_eq!(problems("patch", &body(derived.clone(), json!({})), &facts), [""; 0]);
    facts.limits.edit_positions = 16;
    assert_eq!(problems("patch", &body(derived.clone(), json!({})), &facts), ["/sweep limit_exceeded"]);
    let run = json!({"runs": body(derived, json!({}))["runs"]});
    assert_eq!(problems("run", &run, &facts), [""; 0]);
    facts.limits.edits = 3;
    assert_eq!(problems("run", &run, &facts), ["/runs limit_exceeded"]);
}

#[test]
fn what_is_frozen_comes_first_holds_everywhere_and_is_never_swept() {
    let cells = |freeze: Value| {
        let interventions = json!([
            {"site": "resid_post", "layers": "all", "positions": [1], "source": {"run": "b"}}, freeze]);
        let lowered = patch(&body(
            json!({}),
            json!({"interventions": interventions, "sweep": ["layers", "positions"]}),
        ));
        let grid = &lowered.layout.arm().grid;
        let axes: Vec<(&str, usize)> = grid.axes.iter().map(|axis| (axis.name, axis.values.len())).collect();
        assert_eq!(axes, [("layer", 4), ("position", 1)]);
        grid.readouts.iter().map(|r| show(&lowered.plan, lowered.plan.readouts[*r].run)).collect::<Vec<_>>()
    };
    let all = "[0, 1, 2, 3]";
    for (layer, cell) in
        cells(json!({"site": "attn_out", "layers": [0, 3], "op": "freeze"})).iter().enumerate()
    {
        let held = |layer: u32| format!("attn_out@{layer}{all} = run 0 {all}");
        assert_eq!(cell[..], [held(0), held(3), format!("resid_post@{layer}[1] = run 1 [1]")]);
    }
    let from = json!({"site": "z", "layers": 2, "positions": [0, 3], "op": "freeze", "source": {"run": "b"}});
    assert_eq!(cells(from)[1], ["z@2[0, 3] = run 1 [0, 3]", "resid_post@1[1] = run 1 [1]"]);
    // A sweep of nothing but what is held has no cells.
    let alone = json!([{"site": "z", "op": "freeze"}]);
    let body = body(json!({}), json!({"interventions": alone, "sweep": ["layers"]}));
    assert_eq!(problems("patch", &body, &Fake::default()), ["/sweep/0 conflict"]);
}

#[test]
fn a_clean_run_may_be_derived_too() {
    let run = json!({"runs": body(json!({"x": zero("a")}), json!({}))["runs"], "target": " Paris"});
    let lowered = lower::lower::<crate::spec::run::RunSpec>(&run, &Fake::default()).unwrap();
    assert_eq!(show(&lowered.plan, RunId(2)), ["mlp_out@1[3] = zero"]);
    assert_eq!(lowered.plan.readouts.len(), 3);
}

#[test]
fn the_layers_above_are_those_above_what_a_cell_writes_at_its_positions() {
    let cells = |freeze: Value, more: Value| {
        let mut body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower is"}}, "base": "a",
            "targets": {"x": [" Paris"]}, "sweep": ["layers", "positions"], "interventions": [
                {"site": "mlp_out", "layers": "all", "positions": "all", "window": 2, "source": {"run": "b"}}, freeze]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let lowered = patch(&body);
        let runs =
            lowered.layout.arm().grid.readouts.iter().map(|readout| lowered.plan.readouts[*readout].run);
        runs.map(|run| show(&lowered.plan, run)).collect::<Vec<_>>()
    };
    let above = json!({"site": "attn_out", "layers": "above", "op": "freeze"});
    let found = cells(above.clone(), json!({}));
    assert_eq!(found.len(), 16);
    // Layer 1 with a window of two writes layers 0 and 1; position 2.
    let expected = [
        "mlp_out@0[2] = run 1 [2]",
        "mlp_out@1[2] = run 1 [2]",
        "attn_out@2[2] = run 0 [2]",
        "attn_out@3[2] = run 0 [2]",
    ];
    assert_eq!(found[4 + 2], expected);
    // Nothing is above the last layer.
    assert_eq!(found[12], ["mlp_out@2[0] = run 1 [0]", "mlp_out@3[0] = run 1 [0]"]);
    // Positions that are not swept stay together, as the frozen ones do.
    let found = cells(above.clone(), json!({"sweep": ["layers"]}));
    assert_eq!(found[2].last().unwrap(), "attn_out@3[0, 1, 2, 3] = run 0 [0, 1, 2, 3]");
    let body = |interventions: Value| {
        json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower is"}}, "base": "a",
               "targets": {"x": [" Paris"]}, "sweep": ["positions"], "interventions": interventions})
    };
    let writes = json!({"site": "mlp_out", "layers": 1, "positions": [1, 2], "source": {"run": "b"}});
    for (interventions, expected) in [
        (json!([above]), "/interventions/0/layers conflict"),
        (
            json!([writes, {"site": "mlp_out", "layers": "above", "op": "zero"}]),
            "/interventions/1/layers conflict",
        ),
        (
            json!([writes, {"site": "mlp_out", "layers": "above", "positions": [1, 2], "op": "freeze", "window": 3}]),
            "/interventions/1/layers conflict",
        ),
        (
            json!([writes, {"site": "final_norm", "layers": "above", "op": "freeze"}]),
            "/interventions/1/layers conflict",
        ),
        (json!([writes, above]), "/interventions/0/positions length_mismatch"),
    ] {
        assert_eq!(problems("patch", &body(interventions), &Fake::default()), [expected]);
    }
    assert_eq!(
        problems(
            "run",
            &json!({"prompt": "The", "read": {"capture": [{"site": "z", "layers": "above"}]}}),
            &Fake::default()
        ),
        ["/read/capture/0/layers unknown_value"]
    );
}
