//! The engine around a model that does nothing but what each test needs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::model::config::Rope;
use crate::model::decoder::BatchOutput;
use crate::plan::batch::ForwardBatch;
use crate::plan::output::Lost;
use crate::plan::{Plan, Score};

/// Counts batches, waits for leave if there is a gate, panics on token 13.
struct Fake {
    batches: Arc<AtomicUsize>,
    gate: Option<mpsc::Receiver<()>>,
}

impl Model for Fake {
    fn forward(&mut self, batch: &Arc<ForwardBatch>) -> Result<BatchOutput, ModelError> {
        self.batches.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.recv().unwrap();
        }
        assert!(!batch.tokens.contains(&13), "an unlucky token");
        let score = Score { top: vec![(0, 0.0)], ..Score::default() };
        Ok(BatchOutput {
            scores: vec![score; batch.readout.rows.len()],
            captures: vec![],
            written: Default::default(),
            changes: vec![0.0; batch.runs],
        })
    }
}

fn config() -> crate::model::config::ModelConfig {
    crate::model::config::ModelConfig {
        architecture: "llama".into(),
        vocab_size: 16,
        hidden_size: 8,
        intermediate_size: 16,
        num_layers: 2,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 4,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 1e4, llama3: None },
        max_positions: 64,
        sliding_window: None,
        tie_word_embeddings: true,
        qkv_bias: false,
        qk_norm: false,
    }
}

/// An engine whose chunks hold 4 rows.
fn engine(gate: Option<mpsc::Receiver<()>>, limit: usize) -> (Engine, Arc<AtomicUsize>) {
    let batches = Arc::new(AtomicUsize::new(0));
    let mut budget = RowBudget::new(&config(), Room::host(&config(), 1 << 20));
    budget.rows = 4;
    let fake = Fake { batches: Arc::clone(&batches), gate };
    let ready = Ready { budget, numerics: Numerics::of(Dtype::F32, &[]), devices: Vec::new() };
    (Engine::start(Computing { model: Box::new(fake), ready }, 2, limit).unwrap(), batches)
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
    let (engine, _) = engine(None, 4);
    let bad = engine.execute(prepared(&engine, &runs(1, 13))).await.unwrap();
    assert_eq!((bad.lost, bad.scores[0].lost), (Some(Lost::EngineCrash), Some(Lost::EngineCrash)));
    let good = engine.execute(prepared(&engine, &runs(5, 1))).await.unwrap();
    assert_eq!((good.scores.len(), good.usage.chunks, engine.health()), (5, 3, Health::Ready));
}

#[tokio::test]
async fn more_requests_than_the_limit_are_refused_at_once_and_the_others_finish() {
    let (leave, gate) = mpsc::channel();
    let (engine, _) = engine(Some(gate), 2);
    let plan = runs(1, 1);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (engine, work) = (engine.clone(), prepared(&engine, &plan));
            tokio::spawn(async move { engine.execute(work).await })
        })
        .collect();
    while engine.admission.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let refused = engine.execute(prepared(&engine, &plan)).await;
    assert!(matches!(refused, Err(EngineError::Overloaded { limit: 2 })));
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
        async move { engine.execute(work).await }
    });
    while batches.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    for _ in 0..10 {
        leave.send(()).unwrap();
    }
    let after = engine.execute(prepared(&engine, &runs(1, 1))).await.unwrap();
    assert_eq!(after.scores.len(), 1);
    assert_eq!(batches.load(Ordering::SeqCst), 2, "the chunk in hand, and the next request's");
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
