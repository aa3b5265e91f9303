//! Lowered plans, by eye.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{show, trace};
use crate::lower;
use crate::lower::layout::CellKey;
use crate::lower::noise::{numpy_legacy, numpy_legacy_of};
use crate::lower::select;
use crate::lower::tautology::Triviality;
use crate::lower::testing::{Fake, id};
use crate::plan::{Address, EditGroup, Op, RunId, Source};
use crate::spec::patch::Control;
use crate::spec::site::Site;

fn small_trace(more: Value) -> Value {
    let mut body = json!({"prompt": "The Eiffel Tower is", "subject": "Eiffel", "target": " Paris",
                          "corrupt": {"sigma": {"abs": 0.5}, "samples": 2}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_denoising_trace_is_a_clean_root_corrupted_branches_and_a_branch_of_them_per_cell() {
    let lowered = trace(&small_trace(json!({})));
    let (plan, layout) = (&lowered.plan, &lowered.layout);
    // 1 clean, 2 corrupted, 4 layers x 4 positions x 2 samples, and the clean run's twin
    assert_eq!(plan.runs.len(), 1 + 2 + 32 + 1);
    assert_eq!(&*plan.runs[0].tokens, [id("The"), id(" Eiffel"), id(" Tower"), id(" is")]);
    assert_eq!(plan.runs[0].parent, None);
    for sample in [1, 2] {
        assert_eq!(plan.runs[sample].parent, Some(RunId(0)));
        assert_eq!(show(plan, RunId(sample as u32)), ["embed@0[1] = + 1 * constants 8"]);
        assert_eq!(plan.runs[sample].edits[0].group, EditGroup::Corruption);
    }
    // Layer 2, position 3, sample 1: cell 11.
    let grid = layout.case.arms.get("hidden").unwrap();
    assert_eq!(grid.grid.key(11), CellKey { layer: Some(2), position: Some(3), ..CellKey::default() });
    let readout = plan.readouts[grid.grid.cell(11)[1]];
    assert_eq!((plan.run(readout.run).parent, readout.position), (Some(RunId(2)), 3));
    assert_eq!(show(plan, readout.run), ["resid_post@2[3] = run 0 [3]"]);
    assert_eq!(plan.run(readout.run).edits[0].group, EditGroup::Patch);
    // Clean and corrupted are read in order before the cells.
    assert_eq!((layout.case.clean, &layout.case.corrupted[..], grid.grid.readouts[0]), (0, &[1, 2][..], 3));
    assert_eq!(plan.scoring.targets, [id(" Paris")]);
    assert_eq!(layout.case.corrupted_positions, [1]);
    assert_eq!(layout.case.subject, Some(1..2));
    // What it differs by from a root of its own tokens, computed last, is the noise floor.
    let (clean, twin) = layout.case.common.twins.unwrap();
    assert_eq!((clean, twin), (layout.case.clean, plan.readouts.len() - 1));
    let (twin, last) = (plan.readouts[twin], RunId(plan.runs.len() as u32 - 1));
    assert_eq!((twin.run, twin.position, plan.run(last).parent), (last, 3, None));
    assert!(Arc::ptr_eq(&plan.run(last).tokens, &plan.runs[0].tokens) && plan.run(last).edits.is_empty());
}

#[test]
fn noising_turns_base_and_source_around() {
    let lowered = trace(&small_trace(json!({"base": "clean"})));
    let cell = lowered.plan.readouts[lowered.layout.case.arms.get("hidden").unwrap().grid.cell(5)[1]].run;
    assert_eq!(lowered.plan.run(cell).parent, Some(RunId(0)));
    assert_eq!(show(&lowered.plan, cell), ["resid_post@1[1] = run 2 [1]"]);
}

#[test]
fn another_run_can_take_the_place_of_noise() {
    let body = json!({
        "runs": {"clean": {"prompt": "The Eiffel Tower is"}, "other": {"prompt": "The river Tower is"}},
        "corrupt": {"method": "run", "run": "other"}, "target": " Paris"});
    let lowered = trace(&body);
    assert_eq!(lowered.layout.case.corrupted_positions, [1]);
    assert_eq!(lowered.layout.case.corrupted, [1]);
    let cell = lowered.plan.readouts[lowered.layout.case.arms.get("hidden").unwrap().grid.cell(1)[0]].run;
    assert_eq!(lowered.plan.run(cell).parent, Some(RunId(1)));
    assert_eq!(show(&lowered.plan, cell), ["resid_post@0[1] = run 0 [1]"]);
}

#[test]
fn windows_follow_rome_at_the_edges() {
    assert_eq!(select::window(5, 10, 30), 0..10);
    assert_eq!(select::window(2, 10, 30), 0..7);
    assert_eq!(select::window(29, 10, 30), 24..30);
    assert_eq!(select::window(5, 3, 30), 4..7);
    assert_eq!(select::window(7, 1, 30), 7..8);
    let lowered = trace(&small_trace(json!({"arms": {"mlp": {"site": "mlp_out", "window": 2}}})));
    let grid = lowered.layout.case.arms.get("mlp").unwrap();
    let cell = lowered.plan.readouts[grid.grid.cell(9)[0]].run;
    assert_eq!(show(&lowered.plan, cell), ["mlp_out@1[1] = run 0 [1]", "mlp_out@2[1] = run 0 [1]"]);
}

#[test]
fn self_patch_controls_take_the_place_of_their_own_run() {
    let lowered = trace(&small_trace(json!({"controls": ["self_patch"]})));
    let grid = lowered.layout.case.arms.get("hidden").unwrap();
    let controls = grid.grid.control(Control::SelfPatch);
    assert_eq!(controls.len(), grid.grid.readouts.len());
    let run = lowered.plan.readouts[controls[1]].run;
    assert_eq!(lowered.plan.run(run).parent, Some(RunId(2)));
    assert_eq!(show(&lowered.plan, run), ["resid_post@0[0] = run 2 [0]"]);
    assert_eq!(lowered.plan.run(run).edits[0].group, EditGroup::Control);
}

#[test]
fn noise_is_the_generators_times_sigma_at_the_positions_in_order() {
    let body = small_trace(json!({"corrupt": {"sigma": {"abs": 0.5}, "samples": 2, "rng": "numpy_legacy",
                                              "positions": [2, 1]}}));
    let lowered = trace(&body);
    let expected = numpy_legacy(1, 2 * 2 * 8);
    for sample in 0..2 {
        let edit = &lowered.plan.runs[1 + sample].edits[0];
        assert_eq!(edit.positions, [1, 2], "NumPy's stream is laid out by ascending position");
        let Op::Add { source: Source::Constant(rows), .. } = &edit.op else { panic!("{edit:?}") };
        let own: Vec<f32> = expected[sample * 16..][..16].iter().map(|x| (x * 0.5) as f32).collect();
        assert_eq!(rows[..], own);
    }
}

#[test]
fn relative_sigma_is_the_deviation_of_the_subjects_embeddings() {
    let body = small_trace(json!({"corrupt": {"sigma": {"k": 2}, "samples": 2}}));
    let sigma = trace(&body).layout.case.sigma.unwrap();
    // The fake embedding of one token: (id * 7 + d) % 5 - 2 for d in 0..8.
    let row: Vec<f64> = (0..8).map(|d| f64::from((id(" Eiffel") * 7 + d) % 5) - 2.0).collect();
    let mean = row.iter().sum::<f64>() / 8.0;
    let std = (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 7.0).sqrt();
    assert!((sigma.abs - 2.0 * std).abs() < 1e-12, "{sigma:?}");
    assert_eq!((sigma.k, sigma.of), (Some(2.0), Some(crate::spec::corruption::SigmaOf::Subjects)));
    let vocab = small_trace(json!({"corrupt": {"sigma": {"k": 3, "of": "vocab"}, "samples": 2}}));
    assert_eq!(trace(&vocab).layout.case.sigma.unwrap().abs, 1.5);
}

#[test]
fn bos_gets_no_noise_unless_it_is_named_and_allowed() {
    let facts = Fake { adds_bos: true, ..Fake::default() };
    let positions = |corrupt: Value| {
        lower::lower::<crate::spec::trace::TraceSpec>(
            &json!({"prompt": "The Eiffel Tower", "target": " Paris", "corrupt": corrupt}),
            &facts,
        )
    };
    let all = positions(json!({"positions": "all"})).unwrap();
    assert_eq!(all.layout.case.corrupted_positions, [1, 2, 3]);
    assert!(!all.layout.case.common.lints.has("BOS_CORRUPTED"));
    let with = positions(json!({"positions": "all", "include_bos": true})).unwrap();
    assert_eq!(with.layout.case.corrupted_positions, [0, 1, 2, 3]);
    assert!(with.layout.case.common.lints.has("BOS_CORRUPTED"));
    let named = positions(json!({"positions": [0, 1]})).unwrap_err();
    assert_eq!((&*named.0[0].pointer, named.0[0].code), ("/corrupt/positions", "conflict"));
}

#[test]
fn trivial_cells_are_the_last_layers_read_position_and_cuts() {
    let lowered = trace(&small_trace(json!({"positions": "all"})));
    let grid = lowered.layout.case.arms.get("hidden").unwrap();
    let trivial: Vec<usize> = (0..16).filter(|c| grid.grid.trivial[*c].is_some()).collect();
    assert_eq!(trivial, [15], "layer 3, position 3");
    assert_eq!(grid.grid.trivial[15], Some(Triviality::LastLayer));
    // Attention output alone never is, nor is a layer whose attention is still to come.
    let lowered = trace(&small_trace(json!({"arms": {"a": {"site": "attn_out", "window": 4},
                                                     "pre": {"site": "resid_pre"}, "mid": {"site": "resid_mid"}}})));
    let trivial =
        |arm: &str| lowered.layout.case.arms.get(arm).unwrap().grid.trivial.iter().flatten().count();
    assert_eq!((trivial("a"), trivial("pre"), trivial("mid")), (0, 0, 1));

    let cut = |positions: Value, site: &str| {
        let body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower is"}},
                          "base": "a", "interventions": [{"site": site, "layers": 1, "positions": positions,
                                                          "source": {"run": "b"}}], "allow_trivial": true});
        lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default())
            .unwrap()
            .layout
            .arm()
            .grid
            .trivial[0]
    };
    assert_eq!(cut(json!("all"), "resid_post"), Some(Triviality::Cut));
    assert_eq!(cut(json!([1, 2, 3]), "resid_pre"), Some(Triviality::Cut), "position 0 can't differ");
    assert_eq!(cut(json!([2, 3]), "resid_post"), None, "position 1 differs");
    assert_eq!(cut(json!("all"), "mlp_out"), None);
    // Only the position read goes through the final norm.
    let normed = |positions: Value| {
        let body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river"}}, "base": "a",
                          "interventions": [{"site": "final_norm", "positions": "last",
                                             "source": {"run": "b", "positions": positions}}], "allow_trivial": true});
        lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default())
            .unwrap()
            .layout
            .arm()
            .grid
            .trivial[0]
    };
    assert_eq!(normed(json!("last")), Some(Triviality::LastLayer));
    assert_eq!(normed(json!(0)), None, "read where the source is not");
}

#[test]
fn restoring_every_position_after_noise_of_its_own_is_a_cut() {
    let restored = |positions: Value, site: &str| {
        let noise = json!({"site": "embed", "op": "noise", "positions": [1, 2], "sigma": {"k": 3}});
        let body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}}, "base": "a", "target": " Paris",
                          "interventions": [noise, {"site": site, "layers": 1, "positions": positions,
                                                    "source": {"run": "a"}}], "allow_trivial": true});
        lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default())
            .unwrap()
            .layout
            .arm()
            .grid
            .trivial[0]
    };
    assert_eq!(restored(json!("all"), "resid_post"), Some(Triviality::Cut));
    assert_eq!(restored(json!([1, 2, 3]), "resid_pre"), Some(Triviality::Cut), "position 0 has no noise");
    assert_eq!(restored(json!([2, 3]), "resid_post"), None, "position 1 keeps its noise");
    assert_eq!(restored(json!("all"), "mlp_out"), None);
}

#[test]
fn later_edits_undo_a_cut_unless_they_copy_the_same_run() {
    let with = |second: Value| {
        let first = json!({"site": "resid_post", "layers": 1, "positions": "all", "source": {"run": "b"}});
        let body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower is"}},
                          "base": "a", "interventions": [first, second], "allow_trivial": true});
        lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default())
            .unwrap()
            .layout
            .arm()
            .grid
            .trivial[0]
    };
    assert_eq!(with(json!({"site": "mlp_out", "layers": 2, "op": "zero"})), None);
    assert_eq!(with(json!({"site": "mlp_out", "layers": 0, "op": "zero"})), Some(Triviality::Cut));
    let same = json!({"site": "mlp_out", "layers": 3, "positions": 2, "source": {"run": "b"}});
    assert_eq!(with(same), Some(Triviality::Cut));
    let other = json!({"site": "mlp_out", "layers": 3, "positions": 2, "source": {"run": "a"}});
    assert_eq!(with(other), None);
}

#[test]
fn a_sweep_takes_axes_in_order_and_keeps_single_values_in_every_cell() {
    let body = json!({
        "runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river has"}},
        "base": "a",
        "interventions": [
            {"site": "z", "layers": [1, 3], "positions": [0, 2], "heads": "all", "source": {"run": "b"}},
            {"site": "mlp_out", "layers": 2, "positions": "last", "op": "scale", "factor": 0.5}],
        "sweep": ["heads", "layers"]});
    let lowered = lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default()).unwrap();
    let grid = &lowered.layout.arm().grid;
    assert_eq!(
        grid.axes.iter().map(|a| (a.name, &a.values[..])).collect::<Vec<_>>(),
        [("head", &[0, 1][..]), ("layer", &[1, 3][..])]
    );
    assert_eq!(grid.key(1), CellKey { layer: Some(3), head: Some(0), ..CellKey::default() });
    let run = lowered.plan.readouts[grid.readouts[2]].run;
    assert_eq!(show(&lowered.plan, run), ["z@1[0, 2] = run 1 [0, 2]", "mlp_out@2[3] = * 0.5"]);
    assert_eq!(lowered.plan.run(run).edits[0].columns, Some(4..8));
    assert_eq!(lowered.plan.run(run).edits[0].at, Address { layer: 1, site: Site::Z });
}

#[test]
fn source_positions_follow_the_selector_in_the_source_run_and_sweeps_keep_pairs() {
    let body = |positions: Value, source: Value| {
        json!({
        "runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river has"}}, "base": "a",
        "interventions": [{"site": "resid_post", "layers": 1, "positions": positions, "source": source}],
        "sweep": ["positions"]})
    };
    let edits = |body: Value| {
        let lowered = lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default()).unwrap();
        let readouts = lowered.layout.arm().grid.readouts.iter();
        readouts.flat_map(|r| show(&lowered.plan, lowered.plan.readouts[*r].run)).collect::<Vec<_>>()
    };
    assert_eq!(edits(body(json!("last"), json!({"run": "b"}))), ["resid_post@1[3] = run 1 [2]"]);
    assert_eq!(
        edits(body(json!({"map": [[2, 3], [0, 1]]}), json!({"run": "b"}))),
        ["resid_post@1[3] = run 1 [2]", "resid_post@1[1] = run 1 [0]"]
    );
    assert_eq!(
        edits(body(json!([1, 2]), json!({"run": "b", "positions": "last"}))),
        ["resid_post@1[1] = run 1 [2]", "resid_post@1[2] = run 1 [2]"]
    );
}

#[test]
fn vectors_repeat_over_positions_and_heads_and_noise_follows_its_key() {
    let rows = |intervention: Value| {
        let body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}}, "base": "a",
                          "interventions": [intervention]});
        let lowered = lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default()).unwrap();
        let run = lowered.plan.readouts[lowered.layout.arm().grid.readouts[0]].run;
        let op = lowered.plan.run(run).edits[0].op.clone();
        match op {
            Op::Add { source: Source::Constant(rows), coef, .. } => (rows.to_vec(), coef),
            op => panic!("{op:?}"),
        }
    };
    let vector = json!({"site": "z", "layers": 0, "positions": [0, 1], "heads": [0, 1], "op": "add", "coef": 2,
                        "source": {"vector": [1, 2, 3, 4]}});
    let (row, coef) = rows(vector);
    assert_eq!((row, coef), ([1.0, 2.0, 3.0, 4.0].repeat(4), 2.0));
    let noise = |layers: u32, positions: Value, heads: Value| {
        rows(json!({"site": "z", "layers": layers, "positions": positions, "heads": heads, "op": "noise",
                    "sigma": {"abs": 0.1}}))
        .0
    };
    assert_eq!(noise(1, json!([1, 2]), json!([1]))[4..], noise(1, json!(2), json!([1])));
    assert_eq!(noise(1, json!(2), json!(null))[4..], noise(1, json!(2), json!([1])));
    assert_ne!(noise(1, json!(2), json!([1])), noise(2, json!(2), json!([1])));
}

#[test]
fn legacy_noise_has_numbers_of_its_own_at_every_site_and_layer() {
    let rows = |site: &str, layers: Value, positions: Value, sweep: Value| -> Vec<Vec<f32>> {
        let body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}}, "base": "a", "sweep": sweep, "interventions": [
            {"site": site, "layers": layers, "positions": positions, "op": "noise", "sigma": {"abs": 0.5}, "seed": 7,
             "rng": "numpy_legacy"}]});
        let plan = lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default())
            .unwrap_or_else(|p| panic!("{p:#?}"))
            .plan;
        let edits = plan.runs.iter().flat_map(|run| &run.edits);
        let constant = |op: &Op| match op {
            Op::Add { source: Source::Constant(rows), .. } => rows.to_vec(),
            op => panic!("{op:?}"),
        };
        edits.map(|edit| constant(&edit.op)).collect()
    };
    let numpy = |unit: Vec<f64>| unit.into_iter().map(|x| (x * 0.5) as f32).collect::<Vec<f32>>();
    // RandomState([7, 12, layer]): attn_out is the thirteenth site.
    let of = |layer| numpy(numpy_legacy_of(&[7, 12, layer], 16));
    assert_eq!(rows("attn_out", json!([0, 2]), json!([1, 3]), json!([])), [of(0), of(2)]);
    assert_eq!(
        rows("attn_out", json!([0, 2]), json!([1, 3]), json!(["layers", "positions"])),
        [of(0)[..8].to_vec(), of(0)[8..].to_vec(), of(2)[..8].to_vec(), of(2)[8..].to_vec()]
    );
    let mlp = numpy(numpy_legacy_of(&[7, 16, 0], 8));
    assert_eq!(rows("mlp_out", json!(0), json!([1]), json!([])), [mlp]);
    let last = numpy(numpy_legacy_of(&[7, 18, 0], 8));
    assert_eq!(rows("final_norm", json!(null), json!([1]), json!([])), [last]);
    // The embedding's is the stream that ROME's corruption draws from.
    assert_eq!(rows("embed", json!(null), json!([1, 2]), json!([])), [numpy(numpy_legacy(7, 16))]);
}

#[test]
fn lints_come_in_the_order_of_the_request_and_strict_refuses_them() {
    let codes = |endpoint: &str, body: Value| {
        let lints = match endpoint {
            "trace" => {
                lower::lower::<crate::spec::trace::TraceSpec>(&body, &Fake::default())
                    .unwrap()
                    .layout
                    .case
                    .common
                    .lints
            }
            _ => {
                lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default())
                    .unwrap()
                    .layout
                    .case
                    .common
                    .lints
            }
        };
        lints.0.iter().map(|l| format!("{} {}", l.code, l.pointer)).collect::<Vec<_>>()
    };
    let t = |more: Value| codes("trace", small_trace(more));
    let last = ["SMALL_N /corrupt/samples", "TRIVIAL_CELL /arms/hidden"];
    assert_eq!(t(json!({})), last);
    let target = ["MULTI_TOKEN_TARGET /target", "NO_LEADING_SPACE /target", last[0], last[1]];
    assert_eq!(t(json!({"target": "Paris"})), target);
    assert_eq!(t(json!({"corrupt": {"samples": 1}})), ["SINGLE_NOISE_SAMPLE /corrupt/samples", last[1]]);
    let sets = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river"}}, "base": "a",
                      "targets": {"x": [" Paris", " Rome"], "y": [" Rome"]},
                      "interventions": [{"site": "resid_post", "layers": 0, "positions": [0, 1], "window": 9,
                                         "source": {"run": "b"}},
                                        {"site": "resid_post", "source": {"run": "a"}}]});
    let expected = [
        "TARGET_SETS_OVERLAP /targets/y",
        "WINDOW_EXCEEDS_MODEL /interventions/0/window",
        "LENGTH_MISMATCH /interventions/0/positions",
    ];
    assert_eq!(codes("patch", sets.clone()), expected, "the second undoes the first: no self-patch");
    let itself = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}}, "base": "a", "target": " Paris",
                        "interventions": [{"site": "resid_post", "layers": 1, "source": {"run": "a"}}]});
    assert_eq!(codes("patch", itself), ["SELF_PATCH /interventions/0/source"]);
    let mut strict = sets;
    strict["strict"] = json!(true);
    let refused = lower::lower::<crate::spec::patch::PatchSpec>(&strict, &Fake::default()).unwrap_err();
    let codes: Vec<&str> = refused.0.iter().map(|p| p.code).collect();
    assert_eq!(codes, ["TARGET_SETS_OVERLAP", "WINDOW_EXCEEDS_MODEL", "LENGTH_MISMATCH"]);
}

#[test]
fn a_full_trace_of_three_arms_and_a_long_prompt_is_within_the_default_limits() {
    let mut facts = Fake::default();
    facts.config.num_layers = 30;
    facts.config.max_positions = 256;
    let body = json!({"prompt": "The".to_owned() + &"x".repeat(127), "subject": "The", "target": " Paris",
                      "arms": ["hidden", "mlp", "attn"]});
    let lowered = lower::lower::<crate::spec::trace::TraceSpec>(&body, &facts).unwrap();
    assert_eq!(lowered.plan.runs.len(), 1 + 10 + 3 * 30 * 128 * 10 + 1);
    let trivial = lowered.layout.case.arms.map(|_, grid| grid.grid.trivial.iter().flatten().count());
    assert_eq!(trivial.0.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1, 0, 0]);
}
