//! What a batch is formed of, and whether it is worth waiting for more.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::growth::{Growth, Waiting};
use super::super::queue::Queue as Works;
use super::super::work::{Answer, Lift, Piece, Ticket, Work};
use super::*;
use crate::owner::Weight;

/// The work of a quantum, in row-layers.
const QUANTUM: u64 = 100;

fn budget() -> RowBudget {
    let budget = RowBudget::new(&config(), Room::host(&config(), 1 << 20));
    budget.calibrated(10 * QUANTUM, 0, 1.0).with_turns(0.1, 0.5)
}

/// A queue, and the clients who wait for its answers.
struct Desk {
    queue: Works,
    clients: Vec<(UnboundedReceiver<Answer>, Waiting)>,
    now: Instant,
}

impl Desk {
    fn new() -> Desk {
        Desk { queue: Works::default(), clients: Vec::new(), now: Instant::now() }
    }

    /// A request of so many runs of ten tokens, each of which is 21 row-layers with its readout.
    fn asks(&mut self, owner: &str, lane: Lane, runs: u32) {
        let mut plan = Plan::default();
        for _ in 0..runs {
            let root = plan.root(Arc::from([1; 10]));
            plan.read(root, 9);
        }
        let packing = Arc::new(Packing::new(&plan, 2, budget().space(0, true), Mode::Branching).unwrap());
        let part = packing.whole();
        let (reply, client) = unbounded_channel();
        let growth = Growth::default();
        let waiting = growth.wait_for();
        let ticket = Ticket { suspect: false, queued: Duration::ZERO, lift: Lift::default(), growth, reply };
        let left = budget().space(0, true).work_of(&packing.fitting(&part, &Space::from(usize::MAX)).need);
        assert_eq!(left, 21 * u64::from(runs));
        let asker = Asker { owner: Owner::stored(owner), weight: Weight::default(), lane };
        self.queue.push(Work { packing, part, left, asker, ticket }, true, self.now);
        self.clients.push((client, waiting));
    }

    /// How many runs each piece of the next batch has.
    fn batch(&mut self) -> Vec<usize> {
        let runs = |piece: &Piece| piece.part.len();
        self.queue.form(&budget(), true, self.now).iter().map(runs).collect()
    }

    /// All who were in the last batch are answered.
    fn answers(&mut self) {
        self.queue.answered(Duration::from_millis(60), self.now);
    }

    fn waits_for_more(&self) -> bool {
        self.queue.held_until(&budget(), self.now).is_some()
    }
}

#[test]
fn short_requests_that_end_with_a_batch_fill_three_quanta() {
    let mut desk = Desk::new();
    for i in 0..20 {
        desk.asks(["ada", "ben"][i % 2], Lane::Interactive, 1);
    }
    assert_eq!(desk.batch(), [1; 14], "14 x 21 of 300");
    // Nobody waits for work of jobs: others must not wait for more than a quantum of it.
    let mut desk = Desk::new();
    for i in 0..20 {
        desk.asks(["ada", "ben"][i % 2], Lane::Sweep, 1);
    }
    assert_eq!(desk.batch(), [1; 4], "4 x 21 of 100");
}

#[test]
fn what_does_not_end_with_a_batch_gets_a_quantum() {
    let mut desk = Desk::new();
    desk.asks("ada", Lane::Interactive, 30);
    desk.asks("ben", Lane::Interactive, 30);
    let batch = desk.batch();
    assert_eq!((batch.len(), batch[0]), (1, 4), "a quantum of ada's");
    // Ben's is next, and a short one goes with it.
    desk.asks("eva", Lane::Interactive, 1);
    let mut batch = desk.batch();
    batch.sort_unstable();
    assert_eq!((batch[0], batch.iter().sum::<usize>() <= 11), (1, true), "{batch:?}");
}

#[test]
fn who_was_answered_is_waited_for_until_as_many_have_come() {
    let mut desk = Desk::new();
    for owner in ["ada", "ben", "eva"] {
        desk.asks(owner, Lane::Interactive, 1);
    }
    assert!(!desk.waits_for_more(), "nobody was answered");
    assert_eq!(desk.batch(), [1; 3]);
    desk.answers();
    assert!(desk.waits_for_more());
    desk.asks("ada", Lane::Interactive, 1);
    desk.asks("eva", Lane::Interactive, 1);
    assert!(desk.waits_for_more(), "ben");
    desk.asks("new", Lane::Interactive, 1);
    assert!(!desk.waits_for_more(), "as many have come as were answered");
    // A batch that is formed ends the wait, whoever has come.
    assert_eq!(desk.batch(), [1; 3]);
    desk.answers();
    desk.asks("ada", Lane::Interactive, 1);
    assert_eq!(desk.batch(), [1]);
    assert!(!desk.waits_for_more());
}

#[test]
fn a_batch_that_is_full_and_a_client_alone_wait_for_nobody() {
    let mut desk = Desk::new();
    desk.asks("ada", Lane::Interactive, 1);
    assert_eq!(desk.batch(), [1]);
    desk.answers();
    assert!(!desk.waits_for_more(), "one client has nobody to share a batch with");
    desk.asks("ada", Lane::Interactive, 1);
    desk.asks("ben", Lane::Interactive, 1);
    assert_eq!(desk.batch(), [1, 1]);
    desk.answers();
    // Three quanta wait.
    desk.asks("eva", Lane::Interactive, 15);
    assert!(!desk.waits_for_more());
}

#[test]
fn a_batch_waits_for_a_quarter_of_the_last_and_for_nobody_where_few_come_again() {
    let mut desk = Desk::new();
    let waits = |desk: &Desk| desk.queue.held_until(&budget(), desk.now).map(|until| until - desk.now);
    for (took, wait) in [(60, 15), (400, 20)] {
        desk.asks("ada", Lane::Interactive, 1);
        desk.asks("ben", Lane::Interactive, 1);
        desk.batch();
        desk.queue.answered(Duration::from_millis(took), desk.now);
        assert_eq!(waits(&desk), Some(Duration::from_millis(wait)));
    }
    // They come again, but late.
    let mut waited = 0;
    for _ in 0..8 {
        waited += usize::from(desk.waits_for_more());
        desk.now += Duration::from_secs(1);
        desk.asks("ada", Lane::Interactive, 1);
        desk.asks("ben", Lane::Interactive, 1);
        desk.batch();
        desk.answers();
    }
    assert!((1..=4).contains(&waited), "{waited}");
    assert!(!desk.waits_for_more());
    // And in time again.
    for _ in 0..4 {
        desk.asks("ada", Lane::Interactive, 1);
        desk.asks("ben", Lane::Interactive, 1);
        desk.batch();
        desk.answers();
    }
    assert!(desk.waits_for_more());
}
