//! A chunk computed in parts: the same bits, and each asked for once.

use std::sync::Arc;

use mediant::engine::Model;
use mediant::plan::pack::{Mode, Packing, Part};
use mediant::plan::{Address, Capture, Edit, EditGroup, Op, Plan, Source};
use mediant::spec::site::Site;

use crate::tiny::llama;

/// Two runs, and the second's states put into the first at every layer and position.
fn plan(layers: u32) -> Plan {
    let mut plan = Plan::default();
    let (base, source) = (plan.root(Arc::from([1, 5, 9, 2])), plan.root(Arc::from([1, 7, 3, 8])));
    plan.read(base, 3);
    plan.read(source, 3);
    for layer in 0..layers {
        let at = Address { layer, site: Site::ResidPost };
        for position in 0..4 {
            let replace = Op::Replace(Source::Run { run: source, positions: vec![position] });
            let branch = plan.branch(base, vec![Edit::new(at, vec![position], replace, EditGroup::Patch)]);
            plan.read(branch, 3);
            plan.captures.push(Capture { run: branch, at, positions: vec![3] });
        }
    }
    plan.scoring.topk = 4;
    plan.scoring.kl_refs = vec![0];
    plan
}

#[test]
fn parts_of_a_chunk_give_the_bits_of_the_whole() {
    let (mut decoder, layers) = llama();
    let plan = plan(layers);
    let packing = Packing::new(&plan, layers, 1000, Mode::Branching).unwrap();
    assert_eq!(packing.len(), 1);
    let mut compute = |part: &Part| {
        let chunk = packing.lay_out(part);
        let output = Model::forward(&mut decoder, &Arc::new(chunk.batch)).unwrap();
        let scores = chunk.readouts.into_iter().map(|(readout, row)| (readout, output.scores[row].clone()));
        let mut scores: Vec<_> = scores.collect();
        scores.sort_by_key(|(readout, _)| *readout);
        let mut captures = output.captures;
        captures.sort_by_key(|(capture, _)| *capture);
        (scores, captures)
    };
    let whole = compute(&packing.part(0));
    let mut parts = vec![packing.part(0)];
    while parts.iter().any(|part| part.len() > 1) {
        parts = parts.into_iter().flat_map(Part::halves).filter(|part| !part.is_empty()).collect();
        let (mut scores, mut captures) = (Vec::new(), Vec::new());
        for part in &parts {
            let (some_scores, some_captures) = compute(part);
            let promised = packing.outputs(part);
            assert_eq!(promised.0.len(), some_scores.len());
            assert_eq!(promised.1.len(), some_captures.len());
            scores.extend(some_scores);
            captures.extend(some_captures);
        }
        scores.sort_by_key(|(readout, _)| *readout);
        captures.sort_by_key(|(capture, _)| *capture);
        assert_eq!((scores, captures), whole, "{} parts", parts.len());
    }
}

#[test]
fn runs_that_others_read_are_told_apart_from_these() {
    let plan = plan(2);
    let packing = Packing::new(&plan, 2, 1000, Mode::Branching).unwrap();
    let (shared, others) = packing.read_by_others(packing.part(0));
    assert_eq!((packing.outputs(&shared).0, others.len()), (vec![0, 1], 8));
    let [base, source] = shared.halves();
    let (kept, lost) = packing.without(others, &source);
    assert_eq!((kept.len(), lost.len()), (0, 8));
    let (kept, lost) = packing.without(base, &source);
    assert_eq!((kept.len(), lost.len()), (1, 0));
}

#[test]
fn a_reference_is_read_by_all() {
    let mut plan = plan(2);
    let reference = plan.root(Arc::from([4, 4, 4, 4]));
    plan.scoring.kl_refs = vec![plan.read(reference, 3) as u32];
    let packing = Packing::new(&plan, 2, 1000, Mode::Branching).unwrap();
    let (shared, others) = packing.read_by_others(packing.part(0));
    assert_eq!((shared.len(), others.len()), (3, 8));
    let [others_read, reference] = shared.halves();
    assert_eq!(
        packing.outputs(&reference).0,
        *plan.scoring.kl_refs.iter().map(|r| *r as usize).collect::<Vec<_>>()
    );
    for part in [others_read, others] {
        let all = part.len();
        let (kept, lost) = packing.without(part, &reference);
        assert_eq!((kept.len(), lost.len()), (0, all));
    }
}

#[test]
fn a_chunk_is_bounded_by_the_keys_that_its_runs_see_too() {
    let mut plan = Plan::default();
    let base = plan.root((0..1000).map(|i| i % 100).collect());
    for head in 0..1100 {
        let at = Address { layer: 1, site: Site::Z };
        let edit = Edit::new(at, vec![999], Op::Scale(0.5), EditGroup::Patch);
        let branch =
            plan.branch(base, vec![Edit { columns: Some(head % 4 * 16..(head % 4 + 1) * 16), ..edit }]);
        plan.read(branch, 999);
    }
    let packing = Packing::new(&plan, 2, 8192, Mode::Branching).unwrap();
    let keys = |index| packing.chunk(index).batch.layers[1].attention.keys.len();
    assert_eq!(packing.len(), 2, "2100 rows would fit");
    assert!((0..2).all(|index| keys(index) <= 1 << 20));
}
