//! The engine around a model that does nothing but what each test needs.

mod found;
mod queue;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::row_budget::Room;
use super::*;
use crate::kernels::OutOfMemory;
use crate::model::architecture::{LLAMA, PositionShape};
use crate::model::rope::Rope;
use crate::plan::batch::ForwardBatch;
use crate::plan::output::{BatchOutput, Lost, Missing, RowWritten};
use crate::plan::pack::Space;
use crate::plan::{Address, Edit, EditGroup, Op, Plan, RunId, Score};
use crate::spec::site::Site;

/// Counts batches, waits for leave if there is a gate, panics on token 13, has no room for more than so many rows.
struct Fake {
    batches: Arc<AtomicUsize>,
    room: usize,
    gate: Option<mpsc::Receiver<()>>,
}

impl Model for Fake {
    fn forward(&mut self, batch: &Arc<ForwardBatch>) -> Result<BatchOutput, ModelError> {
        self.batches.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.recv().unwrap();
        }
        assert!(!batch.tokens.contains(&13), "an unlucky token");
        if batch.peak_rows > self.room {
            return Err(OutOfMemory { bytes: 1 }.into());
        }
        let score = Score { top: vec![(0, 0.0)], ..Score::default() };
        Ok(BatchOutput {
            scores: vec![score; batch.readout.rows.len()],
            captures: vec![],
            written: vec![RowWritten { elements: 8, ..RowWritten::default() }; batch.edited],
            drawn: vec![],
        })
    }
}

fn config() -> crate::model::config::ModelConfig {
    crate::model::config::ModelConfig {
        family: &LLAMA,
        vocab_size: 16,
        hidden_size: 8,
        intermediate_size: 16,
        num_layers: 2,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 4,
        max_positions: 64,
        sliding_window: None,
        tie_word_embeddings: true,
        block: LLAMA.block(1e-5, PositionShape::Rope(Rope::plain(1e4))),
    }
}

/// An engine whose chunks hold 4 rows.
fn engine(gate: Option<mpsc::Receiver<()>>, limit: usize) -> (Engine, Arc<AtomicUsize>) {
    engine_with(gate, limit, 4, usize::MAX)
}

fn engine_with(
    gate: Option<mpsc::Receiver<()>>,
    limit: usize,
    rows: usize,
    room: usize,
) -> (Engine, Arc<AtomicUsize>) {
    let batches = Arc::new(AtomicUsize::new(0));
    let mut budget = RowBudget::new(&config(), Room::host(&config(), 1 << 20));
    budget.rows = rows;
    let fake = Fake { batches: Arc::clone(&batches), gate, room };
    let ready = Ready { budget, numerics: Numerics::of(Dtype::F32, &[]), devices: Vec::new() };
    (Engine::start(Computing { model: Box::new(fake), ready }, 2, limit).unwrap(), batches)
}

fn free() -> Errand {
    for_charge(Box::new(|_| {}))
}

fn for_charge(charge: Charge) -> Errand {
    let asker = Asker::of(&Owner::local().into(), Lane::Interactive);
    Errand::new(asker, Turn::New, charge)
}

/// So many runs of two tokens, two to a chunk.
fn runs(n: u32, token: u32) -> Plan {
    let mut plan = Plan::default();
    for _ in 0..n {
        let root = plan.root(Arc::from([token, token]));
        plan.read(root, 1);
    }
    plan
}

fn prepared(engine: &Engine, plan: &Plan) -> Prepared {
    engine.prepare(plan, Mode::Branching).unwrap()
}

#[tokio::test]
async fn a_panic_fails_its_own_request_and_no_other() {
    let (engine, batches) = engine(None, 4);
    let bad = engine.execute(prepared(&engine, &runs(1, 13)), free()).await.unwrap();
    let crash = Lost::EngineCrash;
    assert_eq!((bad.lost, bad.scores[0].missing), (Some(crash), Some(Missing::Lost(crash))));
    let good = engine.execute(prepared(&engine, &runs(5, 1)), free()).await.unwrap();
    assert_eq!((good.scores.len(), engine.health()), (5, Health::Ready));
    assert_eq!(batches.load(Ordering::SeqCst), 1 + 3);
}

#[tokio::test]
async fn more_requests_than_the_limit_are_refused_at_once_and_the_others_finish() {
    let (leave, gate) = mpsc::channel();
    let (engine, _) = engine(Some(gate), 2);
    let plan = runs(1, 1);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (engine, work) = (engine.clone(), prepared(&engine, &plan));
            tokio::spawn(async move { engine.execute(work, free()).await })
        })
        .collect();
    while engine.admission.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let refused = engine.execute(prepared(&engine, &plan), free()).await;
    assert!(matches!(
        refused,
        Err(EngineError::Overloaded { limit: 2, queue: Queue { place: 3, owners: 1, .. } })
    ));
    leave.send(()).unwrap();
    leave.send(()).unwrap();
    for request in waiting {
        assert_eq!(request.await.unwrap().unwrap().scores.len(), 1);
    }
}

#[tokio::test]
async fn a_client_that_leaves_costs_no_further_chunk() {
    let (leave, gate) = mpsc::channel();
    let (engine, batches) = engine(Some(gate), 4);
    let work = prepared(&engine, &runs(20, 1));
    assert_eq!(engine.prepare(&runs(20, 1), Mode::Branching).unwrap().packing.len(), 10);
    let request = tokio::spawn({
        let engine = engine.clone();
        async move { engine.execute(work, free()).await }
    });
    while batches.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    for _ in 0..10 {
        leave.send(()).unwrap();
    }
    let after = engine.execute(prepared(&engine, &runs(1, 1)), free()).await.unwrap();
    assert_eq!(after.scores.len(), 1);
    assert_eq!(batches.load(Ordering::SeqCst), 2, "the chunk in hand, and the next request's");
}

#[tokio::test]
async fn all_of_a_plan_is_charged_once_and_of_a_client_that_leaves_what_was_computed() {
    let (leave, gate) = mpsc::channel();
    let (engine, batches) = engine(Some(gate), 4);
    let (told, charged) = mpsc::channel();
    let ask = |plan: &Plan| {
        let (engine, work, told) = (engine.clone(), prepared(&engine, plan), told.clone());
        let charge: Charge = Box::new(move |usage| told.send((usage.rows, usage.row_layers)).unwrap());
        tokio::spawn(async move { engine.execute(work, for_charge(charge)).await })
    };
    (0..10).for_each(|_| leave.send(()).unwrap());
    let whole = ask(&runs(20, 1)).await.unwrap().unwrap().usage;
    assert_eq!(charged.try_recv(), Ok((whole.rows, whole.row_layers)));
    assert_eq!((whole.rows, whole.row_layers), (40, 80));
    // Two of ten pieces.
    let before = batches.load(Ordering::SeqCst);
    (0..2).for_each(|_| leave.send(()).unwrap());
    let request = ask(&runs(20, 1));
    while batches.load(Ordering::SeqCst) < before + 3 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    assert_eq!(charged.try_recv(), Ok((8, 16)));
    assert!(charged.try_recv().is_err());
    leave.send(()).unwrap();
}

#[tokio::test]
async fn a_run_larger_than_the_budget_is_an_error_before_any_work() {
    let (engine, batches) = engine(None, 4);
    let mut plan = Plan::default();
    let root = plan.root(Arc::from([1, 2, 3, 4, 5]));
    plan.read(root, 4);
    let refused = engine.prepare(&plan, Mode::Branching);
    assert!(matches!(refused, Err(PackError::OverBudget { rows: 5, budget: 4 })));
    assert_eq!(batches.load(Ordering::SeqCst), 0);
}

/// The readouts that are lost, and why.
fn lost(output: &PlanOutput) -> Vec<(usize, Lost)> {
    let lost = |i: usize| match output.scores[i].missing {
        Some(Missing::Lost(lost)) => Some((i, lost)),
        _ => None,
    };
    (0..output.scores.len()).filter_map(lost).collect()
}

#[tokio::test]
async fn of_a_chunk_that_fails_only_the_guilty_run_is_lost_and_few_batches_are_spent() {
    let (engine, batches) = engine_with(None, 4, 200, usize::MAX);
    let mut plan = runs(100, 1);
    plan.runs[70].tokens = Arc::from([13, 1]);
    let output = engine.execute(prepared(&engine, &plan), free()).await.unwrap();
    assert_eq!(lost(&output), [(70, Lost::EngineCrash)]);
    assert_eq!((output.lost, output.usage.halved), (Some(Lost::EngineCrash), 0));
    // The whole; then two halves at each of seven sizes.
    let spent = batches.load(Ordering::SeqCst);
    assert!(spent <= 1 + 2 * 7, "{spent} batches");
}

#[tokio::test]
async fn what_reads_a_guilty_run_is_lost_with_it_and_is_not_tried() {
    let (engine, batches) = engine_with(None, 4, 200, usize::MAX);
    let mut plan = runs(2, 1);
    plan.runs[1].tokens = Arc::from([13, 1]);
    let at = Address { layer: 1, site: Site::ResidPost };
    for i in 0..40 {
        let edit = Edit::new(at, vec![1], Op::Scale(i as f32), EditGroup::Patch);
        let branch = plan.branch(RunId(i % 2), vec![edit]);
        plan.read(branch, 1);
    }
    let output = engine.execute(prepared(&engine, &plan), free()).await.unwrap();
    let odd: Vec<_> = (0..42).filter(|i| i % 2 == 1).map(|i| (i, Lost::EngineCrash)).collect();
    assert_eq!(lost(&output), odd);
    // The whole, each of the two roots, and what reads the good one, which is just a half.
    assert_eq!(batches.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn guilt_without_end_is_not_searched_without_end() {
    let (engine, batches) = engine_with(None, 4, 2000, usize::MAX);
    let output = engine.execute(prepared(&engine, &runs(1000, 13)), free()).await.unwrap();
    assert_eq!(lost(&output).len(), 1000);
    let spent = batches.load(Ordering::SeqCst);
    assert!(spent < 50, "{spent} deaths");
}

#[tokio::test]
async fn a_chunk_without_room_is_halved_until_it_fits_and_what_never_fits_is_lost() {
    let (engine, _) = engine_with(None, 4, 100, 7);
    let mut plan = runs(10, 1);
    let long = plan.root(Arc::from([1; 8]));
    plan.read(long, 7);
    let output = engine.execute(prepared(&engine, &plan), free()).await.unwrap();
    assert_eq!(lost(&output), [(10, Lost::OutOfMemory)]);
    assert!(output.usage.halved >= 2, "{:?}", output.usage);
}

#[tokio::test]
async fn a_request_waits_for_others_and_never_for_its_own_parts() {
    let (engine, _) = engine(None, 8);
    let alone = engine.execute(prepared(&engine, &runs(20, 1)), free()).await.unwrap();
    assert_eq!((alone.usage.shared_with, alone.usage.queue_seconds.to_bits()), (0, 0.0_f64.to_bits()));
    // The first one's batch is held up, and with it the second one.
    let (leave, gate) = mpsc::channel();
    let (engine, batches) = engine_with(Some(gate), 8, 4, usize::MAX);
    let ask = |n| {
        let (engine, work) = (engine.clone(), prepared(&engine, &runs(n, 1)));
        tokio::spawn(async move { engine.execute(work, free()).await.unwrap().usage })
    };
    let first = ask(2);
    while batches.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let second = ask(4);
    tokio::time::sleep(std::time::Duration::from_millis(60)).await;
    (0..3).for_each(|_| leave.send(()).unwrap());
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(first.queue_seconds.to_bits(), 0.0_f64.to_bits());
    assert!(second.queue_seconds > 0.04 && second.queue_seconds <= first.seconds, "{second:?} {first:?}");
    assert_eq!(batches.load(Ordering::SeqCst), 1 + 2);
}

#[tokio::test]
async fn what_a_shared_run_wrote_is_counted_once_whatever_the_number_of_parts() {
    let at = Address { layer: 0, site: Site::ResidPost };
    let edit = |position, group| Edit::new(at, vec![position], Op::Scale(2.0), group);
    let mut plan = runs(1, 1);
    let corrupted =
        plan.branch(RunId(0), vec![edit(0, EditGroup::Corruption), edit(1, EditGroup::Corruption)]);
    plan.read(corrupted, 1);
    for factor in 0..10 {
        let patch =
            Edit::new(Address { layer: 1, ..at }, vec![1], Op::Scale(factor as f32), EditGroup::Patch);
        let cell = plan.branch(corrupted, vec![patch]);
        plan.read(cell, 1);
    }
    let (mut found, mut costs) = (Vec::new(), Vec::new());
    for rows in [5, 6, 8, 100] {
        let (engine, batches) = engine_with(None, 4, rows, usize::MAX);
        let output = engine.execute(prepared(&engine, &plan), free()).await.unwrap();
        found.push(batches.load(Ordering::SeqCst));
        costs.push((output.usage.rows, output.usage.row_layers));
        let cells = |group| output.receipt(group).cells;
        assert_eq!((cells(EditGroup::Corruption), cells(EditGroup::Patch)), (2, 10), "{rows} rows");
        assert_eq!(output.receipt(EditGroup::Corruption).elements, 16);
    }
    assert!(found[0] > found[1] && found[1] > found[2] && found[3] == 1, "{found:?}");
    // Two rows of the root in two layers and of the corrupted run in one, and one of each cell, which are edited after the last.
    assert_eq!(costs, [(14, 6); 4], "what is charged does not tell how it was cut");
}

/// Asks for all of these plans while a batch is being computed, so that they are there when the next one is formed.
async fn together(plans: Vec<Plan>) -> (Vec<PlanOutput>, usize) {
    let (leave, gate) = mpsc::channel();
    let (engine, batches) = engine_with(Some(gate), 100, 1000, usize::MAX);
    let ask = |plan: &Plan| {
        let (engine, work) = (engine.clone(), prepared(&engine, plan));
        tokio::spawn(async move { engine.execute(work, free()).await.unwrap() })
    };
    let first = ask(&runs(1, 1));
    while batches.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let asked: Vec<_> = plans.iter().map(ask).collect();
    while engine.admission.available_permits() > 100 - plans.len() - 1 {
        tokio::task::yield_now().await;
    }
    (0..100).for_each(|_| leave.send(()).unwrap());
    first.await.unwrap();
    let mut outputs = Vec::new();
    for asked in asked {
        outputs.push(asked.await.unwrap());
    }
    (outputs, batches.load(Ordering::SeqCst) - 1)
}

#[tokio::test]
async fn what_waits_is_computed_together_and_shares_the_time() {
    let plans: Vec<Plan> = (1..5).map(|n| runs(n, 1)).collect();
    let (outputs, batches) = together(plans).await;
    assert_eq!(batches, 1);
    for (n, output) in (1..5).zip(&outputs) {
        let usage = output.usage;
        assert_eq!((output.scores.len(), usage.rows, usage.row_layers), (n as usize, 2 * n, 2 * 2 * n));
        assert_eq!(usage.shared_with, 3);
    }
    let seconds = |i: usize| outputs[i].usage.seconds;
    assert!((seconds(3) - 4.0 * seconds(0)).abs() < 1e-9, "{:?}", outputs[3].usage);
}

#[tokio::test]
async fn who_kills_a_batch_is_found_among_others_who_get_their_answers() {
    let plans: Vec<Plan> = (0..32).map(|i| runs(2, if i == 20 { 13 } else { 1 })).collect();
    let (outputs, batches) = together(plans).await;
    for (i, output) in outputs.iter().enumerate() {
        let guilty = if i == 20 { vec![(0, Lost::EngineCrash), (1, Lost::EngineCrash)] } else { vec![] };
        assert_eq!(lost(output), guilty, "request {i}");
        assert_eq!(output.usage.halved, 0);
    }
    // All together, each alone, and the halves of the guilty one.
    assert_eq!(batches, 1 + 32 + 2);
}

#[tokio::test]
async fn plans_that_hold_scores_with_other_keys_are_computed_apart() {
    let with_pattern = |length: u32| {
        let mut plan = Plan::default();
        let root = plan.root((1..=length).collect());
        plan.read(root, length - 1);
        let at = Address { layer: 0, site: Site::Pattern };
        plan.captures.push(crate::plan::Capture { run: root, at, positions: vec![0] });
        plan
    };
    let (outputs, batches) =
        together(vec![with_pattern(3), with_pattern(5), with_pattern(3), runs(1, 1)]).await;
    assert_eq!((outputs.len(), batches), (4, 3));
}
