//! Which pieces a batch is formed of, and what it is held back for. Times are made up.

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::row_budget::Room;
use super::super::work::{Answer, Lift, Ticket};
use super::*;
use crate::load::{Preset, dummy};
use crate::owner::Owner;
use crate::plan::Plan;
use crate::plan::pack::{Mode, Packing};

const LAYERS: u32 = 4;
/// Row-layers of a batch's quantum.
const QUANTUM: u64 = 1000;

/// A device that computes a quantum's work in the seconds of a quantum.
fn budget() -> RowBudget {
    let shape = dummy::config(Preset::Tiny);
    let room = Room::host(&shape, 1 << 30);
    RowBudget::new(&shape, room).with_turns(1.0, 0.5).calibrated(QUANTUM, 0, 1.0)
}

/// Requests, and who hears of them.
#[derive(Default)]
struct Waiting {
    queue: Queue,
    answers: Vec<UnboundedReceiver<Answer>>,
}

impl Waiting {
    /// Prompts of so many tokens, each read at its end.
    fn ask(&mut self, owner: &str, lane: Lane, prompts: usize, tokens: u32, now: Instant) {
        let mut plan = Plan::default();
        for _ in 0..prompts {
            let root = plan.root((0..tokens).collect());
            plan.read(root, tokens - 1);
        }
        let packing = Packing::new(&plan, LAYERS, 100_000, Mode::Branching).unwrap();
        let (reply, answers) = unbounded_channel();
        self.answers.push(answers);
        let work = Work {
            part: packing.whole(),
            left: packing.size().row_layers,
            packing: Arc::new(packing),
            asker: Asker { owner: Owner::stored(owner), lane },
            ticket: Ticket { suspect: false, queued: Duration::ZERO, lift: Lift::default(), reply },
        };
        self.queue.push(work, false, now);
    }

    /// Short requests of owners of their own, a quarter of a quantum each.
    fn short(&mut self, lane: Lane, n: usize, now: Instant) {
        for i in 0..n {
            self.ask(&format!("short {i}"), lane, 1, 60, now);
        }
    }

    /// Prompts in each piece of the next batch.
    fn form(&mut self, now: Instant) -> Vec<usize> {
        self.queue.form(&budget(), true, now).iter().map(|piece| piece.part.len()).collect()
    }

    fn held(&self, now: Instant) -> Option<Duration> {
        self.queue.held_until(&budget(), now).map(|until| until - now)
    }
}

/// Those who end with a batch would only wait for another one.
#[test]
fn whole_short_requests_fill_a_batch_to_two_and_a_half_quanta() {
    let now = Instant::now();
    let mut waiting = Waiting::default();
    waiting.short(Lane::Interactive, 20, now);
    let first = waiting.form(now).len();
    // 60 tokens through four layers, and a readout.
    assert!((9..=10).contains(&first), "{first} of 20 requests of a quarter quantum");
    assert_eq!(first + waiting.form(now).len(), 20 - waiting.queue.works.len());
}

#[test]
fn what_does_not_end_with_a_batch_gets_its_quantum() {
    let now = Instant::now();
    // Of long ones a piece is cut, as long as a quantum has room for it.
    let mut long = Waiting::default();
    long.ask("a", Lane::Interactive, 40, 60, now);
    long.ask("b", Lane::Interactive, 40, 60, now);
    let pieces = long.form(now);
    assert!(matches!(pieces[..], [3..=4]), "{pieces:?} prompts of a quarter quantum");
    // Whole ones come beside it, beyond its quantum.
    let mut beside = Waiting::default();
    beside.ask("long", Lane::Interactive, 40, 60, now);
    beside.short(Lane::Interactive, 20, now);
    let pieces = beside.form(now);
    assert!(
        (9..=10).contains(&pieces.iter().sum::<usize>()) && pieces.iter().all(|prompts| *prompts <= 4),
        "{pieces:?}"
    );
    // Nobody waits for parts of jobs.
    let mut sweeps = Waiting::default();
    sweeps.short(Lane::Sweep, 20, now);
    let pieces = sweeps.form(now).len();
    assert!((3..=4).contains(&pieces), "{pieces} of 20 parts of a quarter quantum");
}

#[test]
fn a_batch_is_held_back_for_a_quarter_of_the_last_one_and_five_milliseconds_at_most() {
    let now = Instant::now();
    for (took, held) in [(400, 5_000), (20, 5_000), (12, 3_000), (1, 250)] {
        let mut waiting = Waiting::default();
        waiting.short(Lane::Interactive, 2, now);
        assert_eq!(waiting.form(now).len(), 2);
        waiting.queue.answered(Duration::from_millis(took), now);
        assert_eq!(waiting.held(now), Some(Duration::from_micros(held)), "after {took} ms");
    }
}

#[test]
fn it_is_held_back_until_as_many_came_as_were_answered() {
    let now = Instant::now();
    let mut waiting = Waiting::default();
    assert_eq!(waiting.held(now), None, "nobody was answered");
    waiting.short(Lane::Interactive, 3, now);
    waiting.form(now);
    waiting.queue.answered(Duration::from_millis(100), now);
    for left in (0..3).rev() {
        assert!(waiting.held(now).is_some());
        waiting.short(Lane::Interactive, 1, now);
        assert_eq!(waiting.held(now).is_some(), left > 0, "{left} have not asked again");
    }
    // One client by itself need not wait for anybody.
    let mut one = Waiting::default();
    one.short(Lane::Interactive, 1, now);
    one.form(now);
    one.queue.answered(Duration::from_millis(100), now);
    one.short(Lane::Interactive, 1, now);
    assert_eq!(one.held(now), None);
    // Nor is there room for more where what waits fills the batch.
    let mut full = Waiting::default();
    full.short(Lane::Interactive, 3, now);
    full.form(now);
    full.ask("long", Lane::Sweep, 40, 60, now);
    full.queue.answered(Duration::from_millis(100), now);
    assert_eq!(full.held(now), None);
}
