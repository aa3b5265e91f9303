//! Stored activations as sources: what a sweep holds of them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::problems;
use crate::activations::{Draft, Origin, Quota, Store, Timestamp};
use crate::lower;
use crate::lower::testing::Fake;
use crate::owner::LOCAL;
use crate::plan::{Along, Op, Source};
use crate::spec::dtype::Dtype;
use crate::spec::site::Site;

/// Facts with a stored set of all four layers and three positions of `z`, numbered from 0, and its handle.
fn stored() -> (Fake, String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let quota = Quota { total_bytes: 1 << 20, owner_bytes: 1 << 20, ttl_default_s: 60, ttl_max_s: 60 };
    let store = Store::open(folder.path(), quota, Arc::new(|| Timestamp(0))).unwrap();
    let draft = Draft {
        name: None,
        model: "fake".to_owned(),
        model_sha: "sha of fake".to_owned(),
        site: Site::Z,
        layers: Some(vec![0, 1, 2, 3]),
        positions: Some(vec![0, 1, 2]),
        tokens: None,
        prompt_tokens: Some(3),
        heads: None,
        shape: [4, 3, 8],
        dtype: Dtype::F32,
        ttl_s: None,
        origin: Origin::Uploaded,
        values: (0..96).map(|i| i as f32).collect(),
    };
    let id = store.put(LOCAL, &draft, None).unwrap().id.to_string();
    (Fake { stored: Some(store), ..Fake::default() }, id, folder)
}

fn body(id: &str, intervention: Value, sweep: Value) -> Value {
    let mut intervention = intervention;
    intervention["site"] = json!("z");
    intervention["source"] = json!({"activation": id});
    json!({"runs": {"b": {"prompt": "The river has"}}, "base": "b", "interventions": [intervention],
           "sweep": sweep, "target": " a", "controls": []})
}

/// Layer, positions, first column and constant of an edit.
type Written = (u32, Vec<u32>, u32, Arc<[f32]>);

/// Every edit of every cell.
fn constants(body: &Value, facts: &Fake) -> Vec<Written> {
    let plan =
        lower::lower::<crate::spec::patch::PatchSpec>(body, facts).unwrap_or_else(|p| panic!("{p:#?}")).plan;
    let edits = plan.runs.into_iter().flat_map(|run| run.edits);
    let constant = |op| match op {
        Op::Replace(Source::Constant(rows)) | Op::Add { source: Source::Constant(rows), .. } => rows,
        other => panic!("{other:?}"),
    };
    edits.map(|e| (e.at.layer, e.positions, e.columns.map_or(0, |c| c.start), constant(e.op))).collect()
}

#[test]
fn each_cell_gets_the_rows_of_its_own_layer_position_and_head() {
    let (facts, id, _folder) = stored();
    let whole = json!({"layers": "all", "positions": "all", "heads": "all"});
    let found = constants(&body(&id, whole.clone(), json!(["layers", "positions", "heads"])), &facts);
    assert_eq!(found.len(), 4 * 3 * 2);
    for (layer, positions, column, rows) in found {
        let first = (layer * 3 + positions[0]) * 8 + column;
        assert_eq!(rows[..], [first, first + 1, first + 2, first + 3].map(|x| x as f32));
    }
    let joint = constants(&body(&id, whole, json!([])), &facts);
    assert_eq!(joint.len(), 4);
    for (layer, positions, _, rows) in joint {
        assert_eq!((positions, rows.len()), (vec![0, 1, 2], 24));
        assert_eq!(rows[0], (layer * 24) as f32);
    }
}

#[test]
fn cells_share_the_numbers_that_they_write() {
    let (facts, id, _folder) = stored();
    let mut body = body(&id, json!({"layers": 2, "positions": "all"}), json!(["layers"]));
    body["interventions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"site": "mlp_out", "layers": "all", "op": "zero"}));
    let plan = lower::lower::<crate::spec::patch::PatchSpec>(&body, &facts).unwrap().plan;
    let rows: Vec<&Arc<[f32]>> = plan
        .runs
        .iter()
        .flat_map(|run| &run.edits)
        .filter_map(|edit| match &edit.op {
            Op::Replace(Source::Constant(rows)) => Some(rows),
            _ => None,
        })
        .collect();
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|other| Arc::ptr_eq(rows[0], other)));
}

#[test]
fn what_all_interventions_hold_together_is_bounded_and_cells_do_not_count() {
    let (mut facts, id, _folder) = stored();
    let one = body(&id, json!({"layers": "all", "positions": "all"}), json!(["layers", "positions"]));
    let mut two = one.clone();
    let second = two["interventions"][0].clone();
    two["interventions"].as_array_mut().unwrap().push(second);
    facts.limits.noise_elements = 96;
    assert!(lower::lower::<crate::spec::patch::PatchSpec>(&one, &facts).is_ok());
    assert_eq!(problems("patch", &two, &facts), ["/interventions/1 limit_exceeded"]);
    facts.limits.noise_elements = 95;
    assert_eq!(problems("patch", &one, &facts), ["/interventions/0 limit_exceeded"]);
}

#[test]
fn a_set_of_another_width_is_refused() {
    let (mut facts, id, _folder) = stored();
    facts.config.hidden_size = 16;
    let mut wide = body(&id, json!({"layers": "all"}), json!([]));
    wide["interventions"][0]["site"] = json!("resid_post");
    assert_eq!(problems("patch", &wide, &facts), ["/interventions/0/source/activation length_mismatch"]);
}

#[test]
fn layers_of_a_set_are_read_one_by_one() {
    let (facts, id, _folder) = stored();
    let mut swept =
        body(&id, json!({"layers": [0, 1], "positions": "all"}), json!(["source_layers", "layers"]));
    swept["interventions"][0]["source"]["layer"] = json!([3, 1]);
    let found = constants(&swept, &facts);
    let read: Vec<_> = found.iter().map(|(layer, _, _, rows)| (*layer, rows[0])).collect();
    assert_eq!(read, [(0, 72.0), (1, 72.0), (0, 24.0), (1, 24.0)]);
    swept["sweep"] = json!(["layers"]);
    assert_eq!(problems("patch", &swept, &facts), ["/interventions/0/source/layer conflict"]);
    swept["interventions"][0]["source"]["layer"] = json!([3, 4]);
    assert_eq!(problems("patch", &swept, &facts), ["/interventions/0/source/layer out_of_range"]);
}

#[test]
fn a_direction_is_one_row_of_a_set() {
    let (facts, id, _folder) = stored();
    let body = |along: Value| {
        let one = json!({"site": "z", "layers": [1, 2], "op": "clamp", "max": 1, "along": along});
        json!({"runs": {"b": {"prompt": "The river has"}}, "base": "b", "interventions": [one], "target": " a"})
    };
    let found = lower::lower::<crate::spec::patch::PatchSpec>(
        &body(json!({"activation": id, "positions": [1]})),
        &facts,
    );
    let plan = found.unwrap_or_else(|p| panic!("{p:#?}")).plan;
    let lengths = plan.runs.iter().flat_map(|run| &run.edits).map(|edit| match &edit.op {
        Op::Along { direction, change: Along::Clamp(min, 1.0) } if *min == f32::NEG_INFINITY => {
            direction.iter().map(|x| x * x).sum::<f32>()
        }
        other => panic!("{other:?}"),
    });
    let lengths: Vec<f32> = lengths.collect();
    assert!(lengths.len() == 2 && lengths.iter().all(|length| (length - 1.0).abs() < 1e-6), "{lengths:?}");
    let many = problems("patch", &body(json!({"activation": id})), &facts);
    assert_eq!(many, ["/interventions/0/along/positions length_mismatch"]);
    let unknown = problems("patch", &body(json!({"activation": "act_none"})), &facts);
    assert!(unknown[0].starts_with("/interventions/0/along/activation "), "{unknown:?}");
}

/// Layer, first column and basis of every edit.
fn bases(body: &Value, facts: &Fake) -> Vec<(u32, u32, Arc<[f32]>)> {
    let plan =
        lower::lower::<crate::spec::patch::PatchSpec>(body, facts).unwrap_or_else(|p| panic!("{p:#?}")).plan;
    let edits = plan.runs.into_iter().flat_map(|run| run.edits);
    let basis = |op| match op {
        Op::Project { basis, .. } => basis,
        other => panic!("{other:?}"),
    };
    edits.map(|e| (e.at.layer, e.columns.map_or(0, |c| c.start), basis(e.op))).collect()
}

#[test]
fn stored_activations_span_a_subspace_row_by_row_layer_by_layer_and_head_by_head() {
    let (facts, id, _folder) = stored();
    let body = |basis: Value, more: Value| {
        let mut one = json!({"site": "z", "layers": [1, 2], "op": "project_out", "basis": basis});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"runs": {"b": {"prompt": "The river has"}}, "base": "b", "interventions": [one], "target": " a"})
    };
    let unit = |row: &[f32]| -> Vec<f32> {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(|x| x / norm).collect()
    };
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    // Row 1 of layer l holds 24 l + 8 and the seven numbers after it.
    let row = |layer: u32, columns: std::ops::Range<u32>| -> Vec<f32> {
        columns.map(|column| (24 * layer + 8 + column) as f32).collect()
    };
    let one = json!({"activation": id, "positions": [1]});
    let found = bases(&body(one.clone(), json!({})), &facts);
    assert_eq!(found.iter().map(|(layer, ..)| *layer).collect::<Vec<_>>(), [1, 2]);
    assert!(found.iter().all(|(layer, _, basis)| near(basis, &unit(&row(*layer, 0..8)))));
    let heads = bases(&body(one, json!({"heads": [0, 1]})), &facts);
    assert_eq!(
        heads.iter().map(|(layer, c, _)| (*layer, *c)).collect::<Vec<_>>(),
        [(1, 0), (1, 4), (2, 0), (2, 4)]
    );
    assert!(heads.iter().all(|(layer, c, basis)| near(basis, &unit(&row(*layer, *c..c + 4)))));
    // The layer read may be another; several rows make several vectors.
    let fixed = json!({"activation": id, "layer": 3, "positions": [0, 2]});
    let found = bases(&body(fixed, json!({})), &facts);
    assert!(found.iter().all(|(_, _, basis)| basis.len() == 16));
    assert_eq!(found[0].2, found[1].2);
    let swap = json!({"activation": id, "positions": [0, 1]});
    let source = json!({"op": "subspace", "source": {"run": "b", "positions": [0]}});
    assert_eq!(bases(&body(swap, source), &facts).len(), 2);
    let refused = |basis: Value| problems("patch", &body(basis, json!({})), &facts);
    // Of three rows that differ by a constant, the third lies in the plane of the others.
    assert_eq!(refused(json!({"activation": id})), ["/interventions/0/basis/activation duplicate"]);
    assert_eq!(
        refused(json!({"activation": "act_none"})),
        ["/interventions/0/basis/activation unknown_name"]
    );
    assert_eq!(
        refused(json!({"activation": id, "positions": [3]})),
        ["/interventions/0/basis/positions/0 out_of_range"]
    );
    assert_eq!(refused(json!({"activation": id, "layer": 4})), ["/interventions/0/basis/layer out_of_range"]);
    assert_eq!(refused(json!({})), ["/interventions/0/basis/activation missing_field"]);
    let mut wide = body(json!({"activation": id, "positions": [1]}), json!({}));
    wide["interventions"][0]["site"] = json!("mlp_act");
    assert_eq!(problems("patch", &wide, &facts), ["/interventions/0/basis/activation length_mismatch"]);
}
