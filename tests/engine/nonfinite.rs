//! Numbers that are none: a row that is not finite has no score, on every device and number of ranks alike, and rows that do not
//! see it keep their bits.

use std::sync::Arc;

use mediant::kernels::cpu::Dtype;
use mediant::plan::output::Missing;
use mediant::plan::pack::Mode;
use mediant::plan::{Address, Edit, EditGroup, Op, Plan, Score, Source};
use mediant::spec::site::Site;

use crate::tiny::{WORLDS, golden, ranks, run, sites_of};

const TOKENS: [u32; 7] = [17, 301, 5, 44, 209, 498, 3];
const LAYERS: u32 = 4;
/// Where runs are broken.
const BROKEN: u32 = 3;
/// Before it, there, and after it.
const READ: [u32; 3] = [1, BROKEN, 6];

fn each() -> impl Iterator<Item = (Dtype, usize)> {
    [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().flat_map(|dtype| WORLDS.map(|world| (dtype, world)))
}

fn edit(layer: u32, site: Site, op: Op) -> Edit {
    Edit::new(Address { layer, site }, vec![BROKEN], op, EditGroup::Patch)
}

/// A clean run, a root that carries the edit itself, and a branch of the clean run, each read at every place of [`READ`].
fn plan(edit: &Edit) -> Plan {
    let mut plan = Plan::default();
    let clean = plan.root(Arc::from(TOKENS));
    let root = plan.root(Arc::from(TOKENS));
    plan.runs[root.0 as usize].edits.push(edit.clone());
    let branch = plan.branch(clean, vec![edit.clone()]);
    for run in [clean, root, branch] {
        for position in READ {
            plan.read(run, position);
        }
    }
    plan.scoring.targets = vec![7, 300, 511];
    plan.scoring.topk = 3;
    plan.scoring.entropy = true;
    plan
}

/// That the edited runs have no score from where they are broken on, and before it those of the clean run.
fn check(scores: &[Score], at: &str) {
    let (clean, edited) = scores.split_at(READ.len());
    assert!(clean.iter().all(|score| score.missing.is_none()), "{at}");
    let missing = Score { missing: Some(Missing::NotFinite), ..Score::default() };
    for run in edited.chunks(READ.len()) {
        assert_eq!(run[0], clean[0], "{at}: a row that sees nothing of it");
        assert_eq!((&run[1], &run[2]), (&missing, &missing), "{at}");
    }
}

#[test]
fn a_number_that_is_not_finite_takes_the_score_of_every_row_that_sees_it_and_of_no_other() {
    for (dtype, world) in each() {
        let (mut model, config) = ranks(&golden("tiny_llama"), world, dtype);
        let mut compute = |edit: &Edit, at: &str| {
            let plan = plan(edit);
            for mode in [Mode::Branching, Mode::FullRecompute] {
                let outcome = run(&mut model, LAYERS, &plan, 100_000, mode);
                check(&outcome.scores, &format!("{at} in {dtype:?} on {world}, {mode:?}"));
                let written = outcome.written[EditGroup::Patch.index()];
                assert_eq!(written.cells, 2, "{at}");
                if at.contains("NaN") {
                    assert!(!written.max_abs_delta.is_finite(), "{at}: {written:?}");
                }
            }
        };
        for site in sites_of(&config).into_iter().filter(|site| site.is_editable() && *site != Site::HeadOut)
        {
            let layer = match site {
                Site::Embed => 0,
                // After the last attention nothing that comes later sees it.
                Site::FinalNorm | Site::Logits => continue,
                _ => 1,
            };
            compute(&edit(layer, site, Op::Scale(f32::NAN)), &format!("{site} times NaN"));
        }
        // A residual stream that is finite in f32 and bf16, and whose squares are not.
        let rows = |x: f32| Op::Replace(Source::Constant(vec![x; 64].into()));
        for site in [Site::ResidPre, Site::ResidMid, Site::ResidPost] {
            compute(&edit(1, site, rows(1e20)), &format!("{site} of 1e20"));
        }
        compute(&edit(0, Site::Embed, rows(1e30)), "embed of 1e30");
        compute(&edit(1, Site::MlpAct, Op::Scale(3e38)), "mlp_act times 3e38");
    }
}

#[test]
fn rows_are_finite_up_to_where_their_squares_overflow() {
    let (mut model, _) = ranks(&golden("tiny_llama"), 1, Dtype::F32);
    let mut missing = |x: f32| {
        let rows = Op::Replace(Source::Constant(vec![x; 64].into()));
        let plan = plan(&edit(3, Site::ResidPost, rows));
        run(&mut model, LAYERS, &plan, 100_000, Mode::Branching).scores[READ.len() + 1].missing
    };
    // 64 squares of 2.3e18 are 3.39e38, just below what f32 holds.
    assert_eq!((missing(1e15), missing(2.3e18)), (None, None));
    assert_eq!((missing(2.4e18), missing(1e30)), (Some(Missing::NotFinite), Some(Missing::NotFinite)));
}

#[test]
fn a_row_that_cannot_keep_its_norm_is_counted_once_however_many_ranks_hold_it() {
    for (dtype, world) in each() {
        let (mut model, _) = ranks(&golden("tiny_llama"), world, dtype);
        let mut cancelled = |site: Site, coef: f32| {
            let mut plan = Plan::default();
            let clean = plan.root(Arc::from(TOKENS));
            let positions = vec![2, 4];
            let source = Source::Run { run: clean, positions: positions.clone() };
            let op = Op::Add { source, coef, norm_match: true };
            let patched = Edit::new(Address { layer: 1, site }, positions, op, EditGroup::Patch);
            let patched = plan.branch(clean, vec![patched]);
            plan.read(patched, 6);
            let outcome = run(&mut model, LAYERS, &plan, 100_000, Mode::Branching);
            assert!(outcome.scores[0].missing.is_none());
            outcome.written[EditGroup::Patch.index()].cancelled
        };
        for site in [Site::MlpOut, Site::ResidPost, Site::Z, Site::MlpAct] {
            assert_eq!((cancelled(site, -1.0), cancelled(site, -0.5)), (2, 0), "{site} {dtype:?} on {world}");
        }
    }
}

#[test]
fn a_batch_without_numbers_leaves_the_model_as_it_was() {
    for (dtype, world) in each() {
        let (mut model, _) = ranks(&golden("tiny_llama"), world, dtype);
        let mut clean = Plan::default();
        let root = clean.root(Arc::from(TOKENS));
        clean.read(root, 6);
        clean.scoring.topk = 5;
        let before = run(&mut model, LAYERS, &clean, 100_000, Mode::Branching).scores;
        let broken = plan(&edit(0, Site::Embed, Op::Scale(f32::NAN)));
        run(&mut model, LAYERS, &broken, 100_000, Mode::Branching);
        let after = run(&mut model, LAYERS, &clean, 100_000, Mode::Branching).scores;
        assert_eq!(before, after, "{dtype:?} on {world}");
    }
}
