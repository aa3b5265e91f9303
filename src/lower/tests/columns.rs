//! Heads, columns and vectors: which numbers of a row are written, and what into them.

use serde_json::{Value, json};

use super::{patch_with, problems};
use crate::lower::testing::Fake;
use crate::plan::{Edit, Op, Source};
use crate::spec::site::Site;

/// Four query heads of four dimensions that share two key/value heads.
fn grouped() -> Fake {
    let mut fake = Fake::default();
    (fake.config.num_heads, fake.config.num_kv_heads) = (4, 2);
    fake
}

fn body(intervention: Value, sweep: Value) -> Value {
    json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river"}}, "base": "a",
           "interventions": [intervention], "sweep": sweep, "target": " Paris"})
}

/// Edits of every cell.
fn cells(intervention: Value, sweep: Value) -> Vec<Vec<Edit>> {
    let lowered = patch_with(&body(intervention, sweep), &grouped());
    let edits = |readout: &usize| lowered.plan.run(lowered.plan.readouts[*readout].run).edits.clone();
    lowered.layout.arm().grid.readouts.iter().map(edits).collect()
}

/// Site and columns of every edit of a joint patch.
fn written(mut intervention: Value) -> Vec<(Site, Option<(u32, u32)>)> {
    intervention["layers"] = json!(1);
    let edits = cells(intervention, json!([])).concat();
    edits.iter().map(|e| (e.at.site, e.columns.as_ref().map(|c| (c.start, c.end)))).collect()
}

#[test]
fn heads_are_counted_as_the_site_has_them() {
    let zero = |site: &str, heads: Value| json!({"site": site, "heads": heads, "op": "zero"});
    for site in [Site::Q, Site::QRope, Site::Z] {
        assert_eq!(written(zero(site.name(), json!([3]))), [(site, Some((12, 16)))]);
        assert_eq!(written(zero(site.name(), json!([0, 2, 1]))), [(site, Some((0, 12)))]);
        assert_eq!(written(zero(site.name(), json!("all"))), [(site, None)]);
    }
    for site in [Site::K, Site::V, Site::KRope] {
        assert_eq!(written(zero(site.name(), json!([1]))), [(site, Some((4, 8)))]);
        let refused = problems("patch", &body(zero(site.name(), json!([2])), json!([])), &grouped());
        assert_eq!(refused, ["/interventions/0/heads/0 out_of_range"]);
    }
    // A head has a column for each token of the longest run there.
    for site in [Site::Scores, Site::Pattern] {
        assert_eq!(written(zero(site.name(), json!([1, 3]))), [(site, Some((4, 8))), (site, Some((12, 16)))]);
    }
    let swept = cells(json!({"site": "v", "layers": 1, "op": "zero"}), json!(["heads"]));
    let columns: Vec<_> = swept.iter().map(|edits| edits[0].columns.clone()).collect();
    assert_eq!(columns, [Some(0..4), Some(4..8)]);
}

#[test]
fn a_heads_output_is_written_as_its_z_after_z_was_read() {
    let out = |a: u32, b: u32| (Site::HeadOut, Some((a, b)));
    assert_eq!(written(json!({"site": "head_out", "heads": [2], "op": "zero"})), [out(8, 12)]);
    assert_eq!(
        written(json!({"site": "head_out", "source": {"run": "b", "site": "head_out"}})),
        [(Site::HeadOut, None)]
    );
    let swept = cells(json!({"site": "head_out", "layers": 1, "source": {"run": "b"}}), json!(["heads"]));
    assert_eq!(swept.len(), 4);
    let [last] = &swept[3][..] else { panic!("{swept:?}") };
    assert_eq!(
        (last.at.site, last.columns.clone(), last.op.run_read().unwrap().1, last.through),
        (Site::HeadOut, Some(12..16), &[1][..], None)
    );
}

#[test]
fn a_heads_output_of_another_layer_goes_through_that_layers_projection() {
    let one =
        json!({"site": "head_out", "layers": [0, 1, 2], "heads": [3], "source": {"run": "b", "layer": 1}});
    let edits = cells(one, json!([])).concat();
    let through: Vec<_> = edits.iter().map(|edit| (edit.at.layer, edit.through)).collect();
    assert_eq!(through, [(0, Some(1)), (1, None), (2, Some(1))]);
    for edit in &edits {
        // What is captured is z of the layer read, which is as wide as the columns written.
        let Op::Replace(Source::Captured(parts)) = &edit.op else { panic!("{edit:?}") };
        assert_eq!((parts[0].columns.clone(), parts[0].width), (12..16, 16));
    }
    let other = json!({"site": "z", "layers": 0, "source": {"run": "b", "layer": 1}});
    assert_eq!(cells(other, json!([])).concat()[0].through, None);
}

#[test]
fn columns_are_named_within_each_head_and_within_the_row_elsewhere() {
    let zero = |site: &str, more: Value| {
        let mut one = json!({"site": site, "op": "zero"});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one
    };
    let z = |a: u32, b: u32| (Site::Z, Some((a, b)));
    assert_eq!(written(zero("z", json!({"heads": [1], "dims": [0, 3, 2]}))), [z(4, 5), z(6, 8)]);
    assert_eq!(written(zero("z", json!({"dims": 1}))), [z(1, 2), z(5, 6), z(9, 10), z(13, 14)]);
    assert_eq!(written(zero("z", json!({"heads": [1, 2], "dims": {"range": [0, 4]}}))), [z(4, 12)]);
    assert_eq!(
        written(zero("mlp_act", json!({"dims": [5, 15, 4]}))),
        [(Site::MlpAct, Some((4, 6))), (Site::MlpAct, Some((15, 16)))]
    );
    assert_eq!(written(zero("resid_post", json!({"dims": {"range": [0, 8]}}))), [(Site::ResidPost, None)]);
    // Key positions.
    assert_eq!(written(zero("pattern", json!({"heads": [2], "dims": [0]}))), [(Site::Pattern, Some((8, 9)))]);
    for (site, dims, expected) in [
        ("z", json!([4]), "/interventions/0/dims/0 out_of_range"),
        ("mlp_act", json!(16), "/interventions/0/dims out_of_range"),
        ("pattern", json!([4]), "/interventions/0/dims/0 out_of_range"),
        ("resid_post", json!({"range": [0, 9]}), "/interventions/0/dims/range out_of_range"),
    ] {
        let found = problems("patch", &body(zero(site, json!({"dims": dims})), json!([])), &grouped());
        assert_eq!(found, [expected], "{site} {dims}");
    }
}

/// Constants that each cell writes, edit by edit.
fn constants(intervention: Value, sweep: Value) -> Vec<Vec<Vec<f32>>> {
    let rows = |edit: &Edit| match edit.op.source() {
        Some(Source::Constant(rows)) => rows.to_vec(),
        other => panic!("{other:?}"),
    };
    cells(intervention, sweep).iter().map(|edits| edits.iter().map(rows).collect()).collect()
}

#[test]
fn a_vector_has_a_number_for_each_named_column_in_the_order_of_naming() {
    let vector = |dims: Value, vector: Value| json!({"site": "mlp_act", "layers": 1, "positions": [0, 2], "dims": dims, "source": {"vector": vector}});
    let joint = constants(vector(json!([9, 2, 3]), json!([90, 20, 30])), json!([]));
    assert_eq!(joint, [[vec![20.0, 30.0, 20.0, 30.0], vec![90.0, 90.0]]]);
    // Swept, each column gets its own number.
    let swept = constants(vector(json!([9, 2, 3]), json!([90, 20, 30])), json!(["dims"]));
    assert_eq!(swept, [[[90.0, 90.0]], [[20.0, 20.0]], [[30.0, 30.0]]]);
    let each = constants(vector(json!([9, 2]), json!([90, 20])), json!(["dims", "positions"]));
    assert_eq!(each, [[[90.0]], [[90.0]], [[20.0]], [[20.0]]]);
    // Of every named head alike.
    let heads =
        json!({"site": "z", "layers": 1, "heads": [3, 0], "dims": [2, 1], "source": {"vector": [20, 10]}});
    assert_eq!(constants(heads.clone(), json!([])), [[[10.0, 20.0], [10.0, 20.0]]]);
    assert_eq!(constants(heads, json!(["heads", "dims"])), [[[20.0]], [[10.0]], [[20.0]], [[10.0]]]);
    // All columns of a whole row, swept one by one.
    let whole = json!({"site": "k", "layers": 1, "heads": [1], "source": {"vector": [1, 2, 3, 4]}});
    assert_eq!(constants(whole, json!(["dims"])), [[[1.0]], [[2.0]], [[3.0]], [[4.0]]]);
}

#[test]
fn what_depends_on_a_whole_head_is_done_head_by_head() {
    let basis = json!([[1, 0, 0, 0], [1, 1, 0, 0]]);
    let edits = cells(
        json!({"site": "z", "layers": 1, "heads": [0, 1, 3], "op": "project_out", "basis": basis}),
        json!([]),
    );
    let columns: Vec<_> = edits[0].iter().map(|edit| edit.columns.clone().unwrap()).collect();
    assert_eq!(columns, [0..4, 4..8, 12..16]);
    for edit in &edits[0] {
        let Op::Project { basis, source: None } = &edit.op else { panic!("{edit:?}") };
        assert_eq!(basis[..], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    }
    let add = |more: Value| {
        let mut one = json!({"site": "z", "layers": 1, "heads": [0, 1], "op": "add", "source": {"run": "b"}});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cells(one, json!([])).concat().len()
    };
    assert_eq!((add(json!({})), add(json!({"norm_match": true}))), (1, 2));
    let subspace = json!({"site": "resid_post", "layers": 1, "op": "subspace", "basis": [[0, 2, 0, 0, 0, 0, 0, 0]], "source": {"run": "b"}});
    let edits = cells(subspace, json!([])).concat();
    let Op::Project { basis, source: Some(Source::Run { positions, .. }) } = &edits[0].op else {
        panic!("{edits:?}")
    };
    assert_eq!((basis[1], &positions[..]), (1.0, &[1][..]));
}

#[test]
fn a_norm_is_of_whole_rows_or_heads() {
    let add = |dims: Value| json!({"site": "mlp_out", "layers": 1, "op": "add", "norm_match": true, "dims": dims, "source": {"run": "b"}});
    let found = problems("patch", &body(add(json!([0, 2])), json!([])), &grouped());
    assert_eq!(found, ["/interventions/0/norm_match conflict"]);
    assert_eq!(
        problems("patch", &body(add(json!(null)), json!(["dims"])), &grouped()),
        ["/interventions/0/norm_match conflict"]
    );
    assert_eq!(problems("patch", &body(add(json!(null)), json!([])), &grouped()), [""; 0]);
}
