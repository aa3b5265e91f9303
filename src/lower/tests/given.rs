//! Stored activations as sources: what a sweep holds of them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::problems;
use crate::activations::{Draft, LOCAL, Origin, Quota, Store, Timestamp};
use crate::lower;
use crate::lower::testing::Fake;
use crate::plan::{Op, Source};
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
    let plan = lower::patch(body, facts).unwrap_or_else(|p| panic!("{p:#?}")).plan;
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
    let plan = lower::patch(&body, &facts).unwrap().plan;
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
    assert!(lower::patch(&one, &facts).is_ok());
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
