//! Controls: what each of them makes meaningless, and what it keeps.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::patch_with;
use crate::lower::layout::{Lowered, PatchLayout};
use crate::lower::testing::{Fake, id};
use crate::plan::{Edit, EditGroup, RunId};
use crate::spec::patch::Control;

fn body(control: Control, more: Value) -> Value {
    let mut body = json!({
        "runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower has in"}}, "base": "a", "target": " Paris",
        "interventions": [{"site": "mlp_out", "layers": "all", "positions": [1, 2, 3], "source": {"run": "b", "positions": [1, 2, 4]}}],
        "sweep": ["layers", "positions"], "controls": [control.name()]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Edits of each cell beside those of its control.
fn pairs(lowered: &Lowered<PatchLayout>, control: Control) -> Vec<(Vec<Edit>, Vec<Edit>)> {
    let edits = |readout: &usize| {
        let run = lowered.plan.run(lowered.plan.readouts[*readout].run);
        assert_eq!(run.parent, Some(RunId(0)));
        run.edits.clone()
    };
    let grid = &lowered.layout.arm().grid;
    assert_eq!(grid.control(control).len(), grid.readouts.len());
    let pairs = grid.readouts.iter().zip(grid.control(control));
    let found: Vec<_> = pairs.map(|(cell, control)| (edits(cell), edits(control))).collect();
    for (cell, control) in &found {
        assert_eq!(cell.len(), control.len());
        for (cell, control) in cell.iter().zip(control) {
            // The same rows and columns are written.
            assert_eq!(
                (cell.at, &cell.positions, &cell.columns),
                (control.at, &control.positions, &control.columns)
            );
            assert_eq!((cell.group, control.group), (EditGroup::Patch, EditGroup::Control));
        }
    }
    found
}

fn read(edit: &Edit) -> (u32, Vec<u32>) {
    let (run, positions) = edit.op.run_read().unwrap();
    (run.0, positions.to_vec())
}

#[test]
fn a_random_position_is_another_one_of_the_same_run_and_never_bos() {
    let facts = Fake { adds_bos: true, ..Fake::default() };
    let lowered = patch_with(&body(Control::RandomPosition, json!({})), &facts);
    let mut found = HashSet::new();
    for (cell, control) in pairs(&lowered, Control::RandomPosition) {
        let ((run, original), (same_run, positions)) = (read(&cell[0]), read(&control[0]));
        assert_eq!((run, same_run, positions.len()), (1, 1, 1));
        assert!((1..6).contains(&positions[0]) && positions != original, "{original:?} {positions:?}");
        found.insert(positions[0]);
    }
    assert!(found.len() > 2, "{found:?}");
    // Where there is nothing else, BOS is read.
    let short = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The"}}, "sweep": ["layers"],
                       "interventions": [{"site": "mlp_out", "layers": "all", "source": {"run": "b"}}]});
    for (cell, control) in
        pairs(&patch_with(&body(Control::RandomPosition, short), &facts), Control::RandomPosition)
    {
        assert_eq!((read(&cell[0]), read(&control[0])), ((1, vec![1]), (1, vec![0])));
    }
}

#[test]
fn random_positions_of_joint_edits_are_drawn_one_by_one_and_again_alike() {
    let joint = json!({"sweep": [], "interventions": [{"site": "mlp_out", "layers": 1, "positions": "all",
                                                       "source": {"run": "b", "positions": [0, 1, 2, 3]}}]});
    let draw = || {
        let lowered = patch_with(&body(Control::RandomPosition, joint.clone()), &Fake::default());
        read(&pairs(&lowered, Control::RandomPosition)[0].1[0]).1
    };
    assert!(draw().iter().enumerate().all(|(i, p)| *p != i as u32 && *p < 5), "{:?}", draw());
    assert_eq!(draw(), draw());
}

#[test]
fn random_vectors_are_directions_of_length_one_of_their_own_in_every_cell_and_position() {
    let heads = json!({"interventions": [{"site": "z", "layers": "all", "positions": [1, 2], "heads": [1],
                                          "source": {"run": "b"}}], "sweep": ["layers"]});
    let lowered = patch_with(&body(Control::RandomVector, heads), &Fake::default());
    let mut seen = HashSet::new();
    for (cell, control) in pairs(&lowered, Control::RandomVector) {
        let (cell, control) = (&cell[0], &control[0]);
        assert!(cell.instead.is_none());
        // What the patch would have written says how far.
        assert_eq!(read(cell), read(control));
        let rows = control.instead.as_ref().unwrap();
        assert_eq!(rows.len(), 2 * 4);
        for row in rows.chunks(4) {
            let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            assert!((norm - 1.0).abs() < 1e-6, "{norm}");
            assert!(seen.insert(row.iter().map(|x| x.to_bits()).collect::<Vec<_>>()), "drawn twice");
        }
    }
    assert_eq!(seen.len(), 4 * 2);
}

#[test]
fn an_unrelated_prompt_is_read_as_far_from_its_end() {
    let lowered = patch_with(&body(Control::UnrelatedPrompt, json!({})), &Fake::default());
    let unrelated =
        lowered.plan.runs.iter().position(|run| run.parent.is_none() && run.tokens[1] == u32::from(b' '));
    let unrelated = unrelated.expect("our own prompt");
    let length = lowered.plan.runs[unrelated].tokens.len() as u32;
    assert_eq!(length, 5, "cut to the longest run");
    for (cell, control) in pairs(&lowered, Control::UnrelatedPrompt) {
        let ((_, original), (run, positions)) = (read(&cell[0]), read(&control[0]));
        assert_eq!((run, positions[0] + 5), (unrelated as u32, original[0] + length));
    }
    // One of the request's own, shorter than the source: from its end, and not before its start.
    let runs = json!({"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower has in"},
                      "unrelated": {"prompt": "The city of"}});
    let lowered = patch_with(&body(Control::UnrelatedPrompt, json!({"runs": runs})), &Fake::default());
    let found: Vec<_> =
        pairs(&lowered, Control::UnrelatedPrompt).iter().map(|(_, control)| read(&control[0])).collect();
    assert_eq!(found[..3], [(2, vec![0]), (2, vec![0]), (2, vec![2])], "of positions 1, 2 and 4 of 5 tokens");
    assert_eq!(lowered.plan.run(RunId(2)).tokens[1], id(" city"));
}

#[test]
fn controls_that_would_only_repeat_the_patch_are_refused() {
    let of = |intervention: Value, control: &str| {
        let body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river has a"}}, "base": "a",
                          "interventions": [intervention], "controls": [control]});
        crate::lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default())
            .err()
            .map(|problems| problems.0[0].pointer.clone())
    };
    let zero = || json!({"site": "z", "op": "zero"});
    let mean = || json!({"site": "z", "op": "mean", "source": {"mean_of": ["b"]}, "positions": "last"});
    let copy = || json!({"site": "z", "source": {"run": "b"}, "positions": "last"});
    let pattern = || json!({"site": "pattern", "source": {"run": "b"}, "positions": 1});
    for control in ["random_position", "unrelated_prompt"] {
        assert_eq!(of(zero(), control).as_deref(), Some("/controls/0"));
        assert_eq!(of(mean(), control).as_deref(), Some("/controls/0"));
        assert_eq!(of(copy(), control), None);
    }
    assert_eq!(of(zero(), "random_vector"), None);
    assert_eq!(of(pattern(), "random_position").as_deref(), Some("/controls/0"));
    assert_eq!(of(pattern(), "unrelated_prompt"), None);
}
