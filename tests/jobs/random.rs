//! Random histories against a model in memory: what is claimed, what counts, and what is left after every kill.

use std::collections::{BTreeMap, BTreeSet};

use mediant::store::job::{Claim, Committed, JobId, Phase, Priority, State};
use mediant::store::{GivenBack, Store, turn};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRng, TestRunner};

use crate::support::{Db, MODEL, bytes, done, job, submit};

#[derive(Debug, Clone)]
enum Step {
    Submit {
        owner: usize,
        priority: Priority,
        units: [u32; 3],
    },
    Claim,
    /// Of the claims ever made the one at this share of them, held or not.
    Commit(usize),
    Release(usize),
    Fail(usize, bool),
    Cancel(usize),
    Kill,
}

const OWNERS: [&str; 3] = ["a", "b", "c"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let priority =
        prop_oneof![4 => Just(Priority::Normal), 1 => Just(Priority::High), 1 => Just(Priority::Low)];
    let units = (0_u32..3, 0_u32..6, 0_u32..2)
        .prop_filter_map("no units", |(a, b, c)| (a + b + c > 0).then_some([a, b, c]));
    let any = 0_usize..1_000_000;
    let step = prop_oneof![
        4 => (0..OWNERS.len(), priority, units)
            .prop_map(|(owner, priority, units)| Step::Submit { owner, priority, units }),
        20 => Just(Step::Claim),
        16 => any.clone().prop_map(Step::Commit),
        4 => any.clone().prop_map(Step::Release),
        4 => (any.clone(), prop::bool::weighted(0.9)).prop_map(|(at, retry)| Step::Fail(at, retry)),
        1 => any.prop_map(Step::Cancel),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 150)
}

/// What the store should know of a job.
#[derive(Debug)]
struct Modelled {
    owner: &'static str,
    priority: Priority,
    units: [u32; 3],
    state: State,
    next: u32,
    done: BTreeSet<u32>,
    /// Given back; true if it waits for a while.
    waiting: BTreeMap<u32, bool>,
    held: BTreeSet<u32>,
    /// Failures and losses.
    tries: BTreeMap<u32, (u32, u32)>,
    retries: u32,
}

impl Modelled {
    fn total(&self) -> u32 {
        self.units.iter().sum()
    }

    /// The end of the first phase that is not done.
    fn open(&self) -> u32 {
        let ends = [self.units[0], self.units[0] + self.units[1], self.total()];
        ends.into_iter().find(|end| (self.done.len() as u32) < *end).unwrap_or_else(|| self.total())
    }

    /// The unit that is next if none of those that wait for a while has come round.
    fn next(&self) -> Option<u32> {
        let given_back = self.waiting.iter().find(|(_, later)| !**later).map(|(seq, _)| *seq);
        given_back.or((self.next < self.open()).then_some(self.next)).filter(|_| !self.state.is_over())
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.waiting.clear();
        self.held.clear();
    }
}

/// Units of one job at work, at most.
const AHEAD: u32 = 3;

struct History<'a> {
    db: &'a Db,
    /// `None` between a kill and the next start.
    store: Option<Store>,
    jobs: BTreeMap<JobId, Modelled>,
    claims: Vec<Claim>,
    /// Places in `claims` of those that are still worth something.
    alive: BTreeMap<(JobId, u32), usize>,
    /// Work claimed for owners, as their turns count it.
    clocks: BTreeMap<&'static str, i64>,
    /// Units claimed since the last start.
    claimed: usize,
}

impl Modelled {
    fn is_open(&self) -> bool {
        !self.state.is_over()
    }
}

impl History<'_> {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Submit { owner, priority, units } => {
                let mut new = job(units);
                new.owner = OWNERS[owner].to_owned();
                new.priority = priority;
                self.join(OWNERS[owner]);
                let id = submit(self.store(), new).await;
                let modelled = Modelled {
                    owner: OWNERS[owner],
                    priority,
                    units,
                    state: State::Queued,
                    next: 0,
                    done: BTreeSet::new(),
                    waiting: BTreeMap::new(),
                    held: BTreeSet::new(),
                    tries: BTreeMap::new(),
                    retries: 0,
                };
                self.jobs.insert(id, modelled);
            }
            Step::Claim => {
                self.claim().await;
            }
            Step::Commit(at) => self.commit(at).await,
            Step::Release(at) => self.release(at).await,
            Step::Fail(at, retry) => self.fail(at, retry).await,
            Step::Cancel(at) => {
                let Some(id) = self.jobs.keys().nth(at % self.jobs.len().max(1)).copied() else { return };
                let modelled = self.jobs.get_mut(&id).unwrap();
                if !modelled.state.is_over() {
                    modelled.end(State::Cancelled);
                }
                let (owner, state) = (modelled.owner, modelled.state);
                self.alive.retain(|(job, _), _| *job != id);
                let cancelled = self.store().cancel(owner, id).await.unwrap().unwrap();
                assert_eq!(cancelled.state, state);
            }
            Step::Kill => self.kill().await,
        }
    }

    /// An owner is about to have work: without any, it is at the lowest clock of those who have some.
    fn join(&mut self, owner: &'static str) {
        let open = || self.jobs.values().filter(|job| job.is_open());
        if open().any(|job| job.owner == owner) {
            return;
        }
        let lowest = open().map(|job| self.clocks[job.owner]).min();
        let from = lowest.or(self.clocks.values().max().copied()).unwrap_or(0);
        let clock = self.clocks.entry(owner).or_default();
        *clock = from.max(*clock);
    }

    async fn claim(&mut self) -> bool {
        let oldest = self.claimed % 4 == 3;
        let order = |(id, job): &(&JobId, &Modelled)| {
            let left = if oldest { 0 } else { job.total() - job.done.len() as u32 };
            (std::cmp::Reverse(job.priority), self.clocks[job.owner], left, **id)
        };
        let there_is = |job: &Modelled| job.next().is_some() && job.held.len() < AHEAD as usize;
        let first = self.jobs.iter().filter(|(_, job)| there_is(job)).min_by_key(order);
        let expected = first.map(|(id, job)| (*id, job.next().unwrap()));
        let Some(claim) = self.store().claim(MODEL, AHEAD).await.unwrap() else {
            assert_eq!(expected, None, "there is something to claim");
            return false;
        };
        let got = (claim.job.id, claim.seq);
        self.claimed += 1;
        *self.clocks.get_mut(claim.job.owner.as_str()).unwrap() += turn(&claim.job);
        let modelled = self.jobs.get_mut(&got.0).unwrap();
        let came_round = modelled.waiting.remove(&got.1).unwrap_or(false);
        // A unit that came round may also have made its job the first.
        let any_later = came_round || modelled.waiting.values().any(|later| *later);
        assert!(Some(got) == expected || any_later, "{got:?}, not {expected:?}");
        assert!(!modelled.state.is_over() && !modelled.done.contains(&got.1) && modelled.held.insert(got.1));
        assert!(got.1 < modelled.open(), "its phase is not open");
        let (failures, losses) = modelled.tries.get(&got.1).copied().unwrap_or_default();
        assert_eq!(u32::from(claim.attempt), failures + losses + 1);
        assert_eq!(claim.job.state, State::Running);
        assert!(claim.phase != Phase::Finish || got.1 >= modelled.units[0] + modelled.units[1]);
        modelled.next = modelled.next.max(got.1 + 1);
        modelled.state = State::Running;
        self.alive.insert(got, self.claims.len());
        self.claims.push(claim);
        true
    }

    /// A claim, and whether it is still worth something.
    fn chosen(&self, at: usize) -> Option<(Claim, bool)> {
        let at = at.checked_rem(self.claims.len())?;
        let claim = self.claims[at].clone();
        let alive = self.alive.get(&(claim.job.id, claim.seq)) == Some(&at);
        Some((claim, alive))
    }

    async fn commit(&mut self, at: usize) {
        let Some((claim, alive)) = self.chosen(at) else { return };
        let committed = self.store().commit(&claim, done(claim.seq)).await.unwrap();
        let modelled = self.jobs.get_mut(&claim.job.id).unwrap();
        if !alive {
            // Of the claim that did the unit it is said again, of any other it is worthless; nothing changes either way.
            let said = matches!(committed, Committed::Counted { .. });
            assert!(!said || modelled.done.contains(&claim.seq), "{claim:?}");
            return;
        }
        self.alive.remove(&(claim.job.id, claim.seq));
        modelled.held.remove(&claim.seq);
        assert!(modelled.done.insert(claim.seq));
        let units_done = modelled.done.len() as u32;
        assert_eq!(committed, Committed::Counted { units_done });
        if units_done == modelled.total() {
            modelled.end(State::Succeeded);
        }
    }

    async fn release(&mut self, at: usize) {
        let Some((claim, alive)) = self.chosen(at) else { return };
        let released = self.store().release(&claim).await.unwrap();
        assert_eq!(released, if alive { GivenBack::Waits } else { GivenBack::Stale });
        if alive {
            self.alive.remove(&(claim.job.id, claim.seq));
            let modelled = self.jobs.get_mut(&claim.job.id).unwrap();
            modelled.held.remove(&claim.seq);
            modelled.waiting.insert(claim.seq, false);
        }
    }

    async fn fail(&mut self, at: usize, retry: bool) {
        let Some((claim, alive)) = self.chosen(at) else { return };
        let failed = self.store().fail(&claim, "why", retry).await.unwrap();
        if !alive {
            assert_eq!(failed, GivenBack::Stale);
            return;
        }
        let id = claim.job.id;
        let modelled = self.jobs.get_mut(&id).unwrap();
        let (failures, _) = modelled.tries.entry(claim.seq).or_default();
        *failures += 1;
        if retry && *failures < 3 {
            assert_eq!(failed, GivenBack::Waits);
            self.alive.remove(&(id, claim.seq));
            modelled.held.remove(&claim.seq);
            modelled.waiting.insert(claim.seq, true);
            modelled.retries += 1;
        } else {
            assert_eq!(failed, GivenBack::JobFailed);
            modelled.end(State::Failed);
            self.alive.retain(|(job, _), _| *job != id);
        }
    }

    async fn kill(&mut self) {
        let killed = self.store.take().unwrap();
        self.store = Some(self.db.kill(killed).await);
        self.claimed = 0;
        self.alive.clear();
        for modelled in self.jobs.values_mut() {
            for seq in std::mem::take(&mut modelled.held) {
                modelled.waiting.insert(seq, false);
                modelled.tries.entry(seq).or_default().1 += 1;
                modelled.retries += 1;
            }
            if !self.db.is_postgres() {
                modelled.waiting.values_mut().for_each(|later| *later = false);
            }
        }
        self.compare().await;
    }

    async fn compare(&self) {
        for (id, modelled) in &self.jobs {
            let job = self.store().job(*id).await.unwrap().unwrap();
            let done = modelled.done.len() as u32;
            assert_eq!((job.state, job.units_done, job.retries), (modelled.state, done, modelled.retries));
            assert_eq!(job.cost.rows, u64::from(done) * 10);
            let last = modelled.units[0] + modelled.units[1];
            let outputs: Vec<_> = modelled.done.range(..last).map(|seq| (*seq, bytes(*seq))).collect();
            assert_eq!(self.store().outputs(*id).await.unwrap(), outputs);
            let events = self.store().events(*id, 0, 1000).await.unwrap();
            assert!((1..).zip(&events).all(|(seq, event)| event.seq == seq));
            assert_eq!(events.iter().filter(|event| event.kind == "progress").count() as u32, done);
            let states = events.iter().filter(|event| event.kind == "state").count();
            let started = usize::from(job.started_ms.is_some());
            assert_eq!(states, 1 + started + usize::from(job.state.is_over()));
        }
    }
}

fn histories(count: usize, db: impl Fn() -> Option<Db>) {
    // The same on every machine; another seed is another test.
    let rng = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for _ in 0..count {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let Some(db) = db() else { return };
        crate::support::run(db, async |db| {
            let store = Some(db.open().await);
            let jobs = BTreeMap::new();
            let (claims, alive, clocks) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
            let mut history = History { db: &db, store, jobs, claims, alive, clocks, claimed: 0 };
            for step in &steps {
                history.step(step).await;
            }
            // All that is left is done.
            history.kill().await;
            while history.jobs.values().any(|job| !job.state.is_over()) {
                if history.claim().await {
                    history.commit(history.claims.len() - 1).await;
                } else {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
            history.compare().await;
        });
    }
}

#[test]
fn any_history_ends_as_the_model_says_on_sqlite() {
    histories(30, || Some(Db::sqlite()));
}

#[test]
fn any_history_ends_as_the_model_says_on_postgres() {
    histories(6, Db::postgres);
}
