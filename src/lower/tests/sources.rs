//! Values from other layers, sites and several runs: captured by a plan that is computed first.

use serde_json::{Value, json};

use super::{patch, problems, show};
use crate::lower::layout::{Lowered, PatchLayout};
use crate::lower::testing::{Fake, id};
use crate::plan::{Address, CapturedRows, Op, RunId, Source};
use crate::spec::site::Site;

fn body(interventions: Value, sweep: Value) -> Value {
    json!({
        "runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower has"}, "c": {"prompt": "The city of"}},
        "base": "a", "target": " Paris", "interventions": interventions, "sweep": sweep})
}

/// What the first edit of a cell reads from earlier captures.
fn parts(lowered: &Lowered<PatchLayout>, cell: usize) -> Vec<CapturedRows> {
    let run = lowered.plan.readouts[lowered.layout.arm().grid.readouts[cell]].run;
    match lowered.plan.run(run).edits[0].op.source() {
        Some(Source::Captured(parts)) => parts.clone(),
        other => panic!("{other:?}"),
    }
}

/// Run, layer and site of every capture of the prelude.
fn captures(lowered: &Lowered<PatchLayout>) -> Vec<(u32, u32, Site)> {
    let prelude = lowered.prelude.as_ref().unwrap();
    prelude.captures.iter().map(|c| (c.run.0, c.at.layer, c.at.site)).collect()
}

#[test]
fn a_mean_is_captured_once_for_each_run_and_address_whatever_the_cells() {
    let mean = |positions: Value| {
        json!({"site": "z", "layers": "all", "positions": [1, 2], "heads": "all", "op": "mean",
               "source": {"mean_of": ["b", "c"], "positions": positions}})
    };
    let lowered = patch(&body(
        json!([mean(json!([1, 2])), mean(json!("last"))]),
        json!(["layers", "positions", "heads"]),
    ));
    assert_eq!(lowered.layout.arm().grid.cells(), 4 * 2 * 2);
    let layers = |run: u32| (0..4).map(move |layer| (run, layer, Site::Z));
    let mut found = captures(&lowered);
    found.sort_unstable();
    assert_eq!(found, layers(0).chain(layers(1)).collect::<Vec<_>>());
    // All positions of each, so that every cell finds its own.
    let prelude = lowered.prelude.as_ref().unwrap();
    assert_eq!(prelude.runs.len(), 2);
    assert_eq!(&*prelude.runs[0].tokens, [id("The"), id(" river"), id(" Tower"), id(" has")]);
    assert!(prelude.captures.iter().all(|c| c.positions.len() == prelude.run(c.run).tokens.len()));
    // Layer 2, position 2, head 1.
    let cell = 2 * 4 + 3;
    let at = |run| captures(&lowered).iter().position(|c| *c == (run, 2, Site::Z)).unwrap();
    let part = |run| CapturedRows { capture: at(run), rows: vec![2], columns: 4..8, width: 8 };
    assert_eq!(parts(&lowered, cell), [part(0), part(1)]);
    let run = lowered.plan.readouts[lowered.layout.arm().grid.readouts[cell]].run;
    let second = &lowered.plan.run(run).edits[1];
    let Op::Replace(Source::Captured(last)) = &second.op else { panic!("{second:?}") };
    assert_eq!(
        (last[0].rows[..].to_vec(), last[1].rows[..].to_vec()),
        (vec![3], vec![2]),
        "each prompt's last"
    );
}

#[test]
fn what_was_captured_becomes_constants_of_the_mean_rows() {
    let mean = json!([{"site": "mlp_out", "layers": 1, "positions": [0, 2], "dims": [3, 4], "op": "mean",
                       "source": {"mean_of": ["b", "c"]}}]);
    let Lowered { prelude, mut plan, layout } = patch(&body(mean, json!([])));
    let numbers: Vec<Vec<f32>> = prelude
        .unwrap()
        .captures
        .iter()
        .map(|c| (0..c.positions.len() * 8).map(|i| i as f32 + 100.0 * c.run.0 as f32).collect())
        .collect();
    plan.fill(&numbers);
    let run = plan.readouts[layout.arm().grid.readouts[0]].run;
    let edit = &plan.run(run).edits[0];
    let Op::Replace(Source::Constant(rows)) = &edit.op else { panic!("{edit:?}") };
    assert_eq!((edit.columns.clone(), &rows[..]), (Some(3..5), &[53.0, 54.0, 69.0, 70.0][..]));
}

#[test]
fn another_layer_or_site_is_read_by_every_cell_from_one_capture() {
    let from = |source: Value| {
        let one = json!([{"site": "resid_post", "layers": "all", "positions": [1], "source": source}]);
        let lowered = patch(&body(one, json!(["layers"])));
        let rows: Vec<(usize, u32)> =
            (0..4).map(|cell| (parts(&lowered, cell)[0].capture, parts(&lowered, cell)[0].rows[0])).collect();
        (captures(&lowered), rows)
    };
    assert_eq!(from(json!({"run": "b", "layer": 3})), (vec![(0, 3, Site::ResidPost)], vec![(0, 1); 4]));
    assert_eq!(
        from(json!({"run": "b", "site": "embed", "positions": [2]})),
        (vec![(0, 0, Site::Embed)], vec![(0, 2); 4])
    );
    let (found, rows) = from(json!({"run": "b", "site": "resid_pre"}));
    assert_eq!(found, (0..4).map(|layer| (0, layer, Site::ResidPre)).collect::<Vec<_>>());
    assert_eq!(rows, (0..4).map(|layer| (layer, 1)).collect::<Vec<_>>());
    assert_eq!(from(json!({"run": "b", "site": "final_norm"})).0, [(0, 4, Site::FinalNorm)]);
    // Where the site and the layer are the written ones by default, nothing is captured.
    let plain = json!([{"site": "resid_post", "layers": "all", "source": {"run": "b"}}]);
    assert!(patch(&body(plain, json!(["layers"]))).prelude.is_none());
    let out = json!([{"site": "final_norm", "source": {"run": "b", "site": "resid_post", "layer": 2}}]);
    assert_eq!(captures(&patch(&body(out, json!([])))), [(0, 2, Site::ResidPost)]);
}

#[test]
fn what_cannot_be_captured_is_refused_at_its_place() {
    let one = |more: Value| {
        let mut one = json!({"site": "resid_post", "layers": 1, "positions": [1]});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one
    };
    for (intervention, expected) in [
        (
            one(json!({"source": {"run": "b", "site": "mlp_act"}})),
            "/interventions/0/source/site length_mismatch",
        ),
        (
            one(json!({"source": {"run": "b", "site": "logits"}})),
            "/interventions/0/source/site length_mismatch",
        ),
        (one(json!({"source": {"run": "b", "layer": 4}})), "/interventions/0/source/layer out_of_range"),
        (one(json!({"source": {"run": "x", "layer": 2}})), "/interventions/0/source/run not_supported"),
        (
            one(json!({"op": "mean", "source": {"mean_of": ["b", "x"]}})),
            "/interventions/0/source/mean_of/1 not_supported",
        ),
        (
            one(json!({"op": "mean", "source": {"mean_of": ["b", "c"], "positions": [1, 2]}})),
            "/interventions/0/source/positions length_mismatch",
        ),
        (
            json!({"site": "final_norm", "source": {"run": "b", "site": "resid_post"}}),
            "/interventions/0/source/layer missing_field",
        ),
        // Equally wide, but cut into other heads.
        (
            one(json!({"site": "z", "heads": [0], "source": {"run": "b", "site": "resid_post"}})),
            "/interventions/0/source/site length_mismatch",
        ),
    ] {
        let mut body = body(json!([intervention]), json!([]));
        body["runs"]["x"] = json!({"from": "a", "interventions": [{"site": "mlp_out", "op": "zero"}]});
        assert_eq!(problems("patch", &body, &Fake::default()), [expected], "{intervention}");
    }
}

#[test]
fn a_resampled_run_is_the_seeds_choice_and_every_run_is_chosen_by_some_seed() {
    let chosen = |seed: u64| {
        let one = json!([{"site": "mlp_out", "layers": 1, "positions": "last", "op": "resample", "seed": seed,
                          "source": {"any_of": ["b", "c"]}}]);
        let lowered = patch(&body(one, json!([])));
        show(&lowered.plan, lowered.plan.readouts[lowered.layout.arm().grid.readouts[0]].run).concat()
    };
    let (b, c) = ("mlp_out@1[3] = run 1 [3]", "mlp_out@1[3] = run 2 [2]");
    let found: Vec<String> = (0..40).map(chosen).collect();
    assert!(found.iter().all(|edit| edit == b || edit == c), "{found:?}");
    let times = found.iter().filter(|edit| *edit == b).count();
    assert!((8..=32).contains(&times), "{times} of 40");
    assert_eq!(found, (0..40).map(chosen).collect::<Vec<_>>());
}

#[test]
fn the_prelude_computes_unchanged_prompts() {
    let mean = json!([{"site": "mlp_out", "layers": [0, 3], "op": "mean", "source": {"mean_of": ["c"]}}]);
    let lowered = patch(&body(mean, json!([])));
    let prelude = lowered.prelude.unwrap();
    assert!(
        prelude.readouts.is_empty()
            && prelude.runs.iter().all(|run| run.parent.is_none() && run.edits.is_empty())
    );
    assert_eq!(prelude.captures[1].at, Address { layer: 3, site: Site::MlpOut });
    assert_eq!((prelude.captures[1].run, &prelude.captures[1].positions[..]), (RunId(0), &[0, 1, 2][..]));
}

#[test]
fn the_layer_read_is_an_axis_of_its_own() {
    let one = json!({"site": "resid_post", "layers": [0, 3], "positions": [1], "source": {"run": "b", "layer": [1, 2, 3]}});
    let lowered = patch(&body(json!([one]), json!(["layers", "source_layers"])));
    let axes: Vec<_> =
        lowered.layout.arm().grid.axes.iter().map(|axis| (axis.name, axis.values.clone())).collect();
    assert_eq!(axes, [("layer", vec![0, 3]), ("source_layer", vec![1, 2, 3])]);
    let found: Vec<_> = (0..6)
        .map(|cell| {
            let run = lowered.plan.readouts[lowered.layout.arm().grid.readouts[cell]].run;
            let read = captures(&lowered)[parts(&lowered, cell)[0].capture];
            (lowered.plan.run(run).edits[0].at.layer, read.1)
        })
        .collect();
    assert_eq!(found, [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2), (3, 3)]);
    let key = lowered.layout.arm().grid.key(4);
    assert_eq!((key.layer, key.source_layer), (Some(3), Some(2)));
    // Every layer into every other; a single layer stays in each cell.
    let all = json!({"site": "z", "layers": "all", "positions": [1], "source": {"run": "b", "layer": "all"}});
    assert_eq!(patch(&body(json!([all]), json!(["layers", "source_layers"]))).layout.arm().grid.cells(), 16);
    let beside = json!({"site": "mlp_out", "layers": 1, "source": {"run": "b", "layer": 0}});
    assert_eq!(
        patch(&body(json!([all, beside]), json!(["source_layers", "layers"]))).layout.arm().grid.cells(),
        16
    );
    let refused =
        |interventions: Value, sweep: Value| problems("patch", &body(interventions, sweep), &Fake::default());
    assert_eq!(refused(json!([one]), json!(["layers"])), ["/interventions/0/source/layer conflict"]);
    assert_eq!(
        refused(json!([{"site": "z", "source": {"run": "b"}}]), json!(["source_layers"])),
        ["/sweep/0 conflict"]
    );
    let two = json!({"site": "z", "layers": 1, "source": {"run": "b", "layer": [0, 1]}});
    assert_eq!(
        refused(json!([one, two]), json!(["source_layers"])),
        ["/interventions/1/source/layer length_mismatch"]
    );
    let beyond = json!({"site": "z", "layers": 1, "source": {"run": "b", "layer": [0, 4]}});
    assert_eq!(
        refused(json!([beyond]), json!(["source_layers"])),
        ["/interventions/0/source/layer/1 out_of_range"]
    );
}
