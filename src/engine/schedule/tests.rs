//! A simulated device under the schedule: it computes a batch in the time of its work, or of reading the weights if that is
//! longer. Times are in microseconds, and so is work.

use std::collections::BTreeMap;

use super::super::backlog::{Left, ahead};
use super::*;

/// Reading the weights, and what a batch takes beside.
const FLOOR: u64 = 22_600;
const FIXED: u64 = 2_000;
/// A run of 60 tokens.
const RUN: u64 = 5_600;
const QUANTUM: u64 = 100_000;
const SECOND: u64 = 1_000_000;

/// A request. Small ones are not cut.
#[derive(Debug, Clone)]
struct Request {
    owner: String,
    lane: Lane,
    weight: Weight,
    work: u64,
    came: u64,
    left: u64,
    ended: Option<u64>,
}

/// Pseudo-random numbers.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A client that asks again some time after each answer.
struct Client {
    owner: String,
    /// The work of its next request.
    asks: fn(&mut Chance) -> u64,
    /// Most time that it thinks.
    thinks: u64,
}

#[derive(Default)]
struct Simulation {
    schedule: Schedule,
    now: u64,
    requests: Vec<Request>,
}

impl Simulation {
    fn ask(&mut self, owner: &str, lane: Lane, work: u64, came: u64) {
        self.ask_with(Weight::default(), owner, lane, work, came);
    }

    fn ask_with(&mut self, weight: Weight, owner: &str, lane: Lane, work: u64, came: u64) {
        let asker = Asker { weight, ..Asker::of(&Owner::stored(owner).into(), lane) };
        self.schedule.push(self.requests.len() as Id, &asker, work);
        self.requests.push(Request {
            owner: owner.into(),
            lane,
            weight,
            work,
            came,
            left: work,
            ended: None,
        });
    }

    /// Runs until `end`. `arrivals`: (time, owner, work) of sweeps, in order.
    fn run(&mut self, end: u64, arrivals: &[(u64, &str, u64)], clients: &[Client]) {
        let mut chance = Chance(7);
        let mut due: Vec<(u64, usize)> = (0..clients.len()).map(|i| (chance.below(SECOND / 10), i)).collect();
        let mut asked_by: BTreeMap<usize, usize> = BTreeMap::new();
        let mut arrivals = arrivals.iter().peekable();
        let mut now = self.now;
        while now < end {
            while let Some((came, owner, work)) = arrivals.next_if(|(at, ..)| *at <= now) {
                self.ask(owner, Lane::Sweep, *work, *came);
            }
            due.sort_unstable();
            while due.first().is_some_and(|(at, _)| *at <= now) {
                let (came, client) = due.remove(0);
                asked_by.insert(self.requests.len(), client);
                let work = (clients[client].asks)(&mut chance);
                self.ask(&clients[client].owner, Lane::Interactive, work, came);
            }
            let (requests, mut taken) = (&mut self.requests, Vec::new());
            let mut total = 0;
            self.schedule.take(QUANTUM, 0, |id, room| {
                let request = &mut requests[id as usize];
                let piece = request.left.min(room);
                // Small ones are whole, and what is cut is not cut into slivers.
                if !taken.is_empty() && piece < request.left && piece < QUANTUM / 4 {
                    return None;
                }
                request.left -= piece;
                total += piece;
                taken.push(id);
                Some(Cut { work: piece, left: request.left })
            });
            if taken.is_empty() {
                let next =
                    due.first().map(|(at, _)| *at).into_iter().chain(arrivals.peek().map(|next| next.0));
                now = next.min().unwrap_or(end);
                continue;
            }
            now += FIXED + total.max(FLOOR);
            for id in taken.into_iter().map(|id| id as usize) {
                let request = &mut self.requests[id];
                if request.left > 0 {
                    continue;
                }
                request.ended = Some(now);
                if let Some(client) = asked_by.get(&id) {
                    due.push((now + chance.below(clients[*client].thinks + 1), *client));
                }
            }
        }
        self.now = now;
    }

    /// Waits of the small requests, sorted.
    fn waits(&self) -> Vec<u64> {
        let small = self.requests.iter().filter(|r| r.lane == Lane::Interactive && r.work < 30_000);
        let mut waits: Vec<u64> = small.filter_map(|r| Some(r.ended? - r.came)).collect();
        waits.sort_unstable();
        waits
    }

    /// Work done for an owner.
    fn done(&self, owner: &str) -> u64 {
        self.requests.iter().filter(|r| r.owner == owner).map(|r| r.work - r.left).sum()
    }
}

/// How long a refused request is told to wait is how long it would have waited, had it been let in.
#[test]
fn what_is_told_of_the_wait_is_within_a_factor_of_two_of_it() {
    let mut chance = Chance(3);
    let mut wrong = Vec::new();
    for _ in 0..1000 {
        let mut full = Simulation::default();
        let owners = 1 + chance.below(30);
        for owner in 0..owners {
            for _ in 0..=chance.below(8) {
                let (weight, work) = (weights(&mut chance), 4 * light(&mut chance));
                full.ask_with(weight, &format!("owner {owner}"), Lane::Interactive, work, 0);
            }
        }
        let heavy = chance.below(3) == 0;
        if heavy {
            full.ask("heavy", Lane::Sweep, 1000 * SECOND, 0);
        }
        let clients: Vec<Client> = (0..chance.below(4))
            .map(|i| Client { owner: format!("client {i}"), asks: |_| RUN, thinks: SECOND })
            .collect();
        let now = chance.below(SECOND);
        full.run(now, &[], &clients);
        // As many are on their way as may be: this one is refused.
        let (owner, work) = (format!("owner {}", chance.below(owners + 3)), 2 * light(&mut chance));
        let weight = weights(&mut chance);
        let mut left = Left::new();
        for request in full.requests.iter().filter(|r| r.left > 0 && r.lane == Lane::Interactive) {
            left.entry(Owner::stored(&request.owner)).or_default().push((request.left, request.weight));
        }
        let slower = if heavy { 10.0 / 9.0 } else { 1.0 };
        let told = slower * ahead(&left, &Owner::stored(&owner), work, weight).work;
        let (id, came) = (full.requests.len(), full.now.max(now));
        full.ask_with(weight, &owner, Lane::Interactive, work, came);
        while full.requests[id].ended.is_none() {
            full.run(full.now + SECOND, &[], &[]);
        }
        let took = full.requests[id].ended.unwrap() - came;
        // Whole seconds are told.
        let (told, took) =
            ((told / SECOND as f64).ceil().max(1.0), (took as f64 / SECOND as f64).ceil().max(1.0));
        if told > 2.0 * took || took > 2.0 * told {
            wrong.push((told, took));
        }
    }
    assert!(wrong.len() <= 50, "{} of 1000: {:?}", wrong.len(), &wrong[..20]);
}

/// Of most requests one, of some more or less.
fn weights(chance: &mut Chance) -> Weight {
    Weight::of([1.0, 1.0, 1.0, 0.5, 2.0, 4.0][chance.below(6) as usize]).unwrap()
}

#[test]
fn who_has_twice_the_weight_has_twice_as_much_done() {
    let mut simulation = Simulation::default();
    let two = Weight::of(2.0).unwrap();
    simulation.ask_with(two, "two", Lane::Sweep, 1000 * SECOND, 0);
    for one in 0..9 {
        simulation.ask(&format!("one {one}"), Lane::Sweep, 1000 * SECOND, 0);
    }
    // Of an owner with two keys, each piece counts by the weight of its own.
    simulation.ask_with(two, "both", Lane::Sweep, 8 * SECOND, 0);
    simulation.ask("both", Lane::Sweep, 1000 * SECOND, 0);
    simulation.run(120 * SECOND, &[], &[]);
    let share = simulation.done("two") as f64 / simulation.done("one 0") as f64;
    assert!((1.95..2.05).contains(&share), "{share}");
    let both = simulation.done("both") as f64 / simulation.done("one 0") as f64;
    assert!((1.05..1.95).contains(&both), "{both}");
}

fn of_hundred(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Jain's index: 1 where all have the same.
fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|x| *x as f64).sum();
    sum * sum / (shares.len() as f64 * shares.iter().map(|x| (*x as f64).powi(2)).sum::<f64>())
}

/// Mostly small runs, and one trace in fifty.
fn light(chance: &mut Chance) -> u64 {
    match chance.below(50) {
        0 => [295_000, 590_000, 885_000][chance.below(3) as usize],
        _ => [1_700, 3_400, RUN, RUN, 8_400][chance.below(5) as usize],
    }
}

fn lights() -> Vec<Client> {
    (0..29).map(|i| Client { owner: format!("light {i}"), asks: light, thinks: 2 * SECOND }).collect()
}

#[test]
fn light_owners_beside_a_heavy_one_wait_little_longer_than_without_it() {
    let mut alone = Simulation::default();
    alone.run(60 * SECOND, &[], &lights());
    let mut beside = Simulation::default();
    beside.run(60 * SECOND, &[(0, "heavy", 1000 * SECOND)], &lights());
    let (without, with) = (of_hundred(&alone.waits(), 95), of_hundred(&beside.waits(), 95));
    assert!(with <= 2 * without + SECOND / 10, "{with} us beside the heavy one, {without} us without it");
    assert!(beside.done("heavy") > 20 * SECOND, "{}", beside.done("heavy"));
}

#[test]
fn equal_heavy_owners_get_equal_shares() {
    let names: Vec<String> = (0..30).map(|i| format!("heavy {i}")).collect();
    let sweeps: Vec<_> =
        names.iter().enumerate().map(|(i, name)| (i as u64, name.as_str(), 1000 * SECOND)).collect();
    let mut all = Simulation::default();
    all.run(60 * SECOND, &sweeps, &[]);
    let shares: Vec<u64> = names.iter().map(|name| all.done(name)).collect();
    assert!(jain(&shares) >= 0.98, "{} {shares:?}", jain(&shares));
    // Many requests are no larger share than one.
    let mut uneven = Simulation::default();
    let many = std::iter::repeat_n((0, "many", 20 * SECOND), 40);
    let sweeps: Vec<_> = [(0, "one", 30 * SECOND)].into_iter().chain(many).collect();
    uneven.run(20 * SECOND, &sweeps, &[]);
    let shares = [uneven.done("one"), uneven.done("many")];
    assert!(jain(&shares) >= 0.98, "{shares:?}");
}

#[test]
fn an_owner_that_was_away_has_earned_nothing_and_waits_no_longer_than_two_batches() {
    let mut late = Simulation::default();
    late.run(40 * SECOND, &[(0, "first", 1000 * SECOND), (20 * SECOND, "second", 1000 * SECOND)], &[]);
    let (first, second) = (late.done("first"), late.done("second"));
    assert!(first.abs_diff(second + 20 * SECOND) < SECOND, "{first} {second}");
    let newcomer = Client { owner: "newcomer".into(), asks: |_| RUN, thinks: SECOND };
    let mut busy = Simulation::default();
    let sweeps: Vec<String> = (0..20).map(|i| format!("heavy {i}")).collect();
    let sweeps: Vec<_> = sweeps.iter().map(|name| (0, name.as_str(), 1000 * SECOND)).collect();
    busy.run(30 * SECOND, &sweeps, &[newcomer]);
    let longest = *busy.waits().last().unwrap();
    assert!(longest <= 2 * (QUANTUM + FIXED), "{longest} us");
}

#[test]
fn a_small_sweep_does_not_wait_for_its_owners_long_one_which_ends_all_the_same() {
    let mut sweeps = Simulation::default();
    sweeps.run(60 * SECOND, &[(0, "a", 15_500_000), (SECOND, "a", 400_000)], &[]);
    let took = |i: usize| sweeps.requests[i].ended.unwrap() - sweeps.requests[i].came;
    assert!(took(1) < SECOND, "{} us", took(1));
    // A stream of small ones that would fill the device by itself does not hold it up for ever.
    let mut starved = Simulation::default();
    let stream = (0..600).map(|i| (i * SECOND / 10, "a", 150_000));
    let sweeps: Vec<_> = [(0, "a", 5 * SECOND)].into_iter().chain(stream).collect();
    starved.run(60 * SECOND, &sweeps, &[]);
    assert!(starved.requests[0].ended.is_some(), "{:?}", starved.requests[0]);
}

#[test]
fn sweeps_keep_a_share_beside_clients_who_would_take_it_all() {
    let clients: Vec<_> =
        (0..60).map(|i| Client { owner: format!("client {i}"), asks: |_| RUN, thinks: 0 }).collect();
    let mut full = Simulation::default();
    full.run(60 * SECOND, &[(0, "heavy", 1000 * SECOND)], &clients);
    assert!(full.done("heavy") as f64 >= 0.08 * 60.0 * SECOND as f64, "{}", full.done("heavy"));
}

#[test]
fn every_request_ends_and_clocks_never_fall() {
    let mut chance = Chance(1);
    for _ in 0..200 {
        let mut schedule = Schedule::default();
        let mut left: BTreeMap<Id, (Asker, u64)> = BTreeMap::new();
        let mut lowest = [0; 2];
        for id in 0..chance.below(40) {
            let lane = [Lane::Interactive, Lane::Sweep][chance.below(2) as usize];
            let asker = Asker::of(&Owner::stored(&chance.below(4).to_string()).into(), lane);
            let work = 1 + chance.below(500);
            schedule.push(id, &asker, work);
            left.insert(id, (asker, work));
            if chance.below(10) == 0 {
                let (asker, _) = left.remove(&id).unwrap();
                schedule.remove(id, &asker);
            }
            if chance.below(3) == 0 {
                step(&mut schedule, &mut left, &mut lowest);
            }
        }
        let total: u64 = left.values().map(|(_, work)| work).sum();
        assert_eq!(schedule.left(), total);
        for _ in 0..=total / 50 + 40 {
            step(&mut schedule, &mut left, &mut lowest);
        }
        assert!(left.is_empty() && schedule.left() == 0, "{left:?}");
    }
}

/// One batch of 100, pieces of at most 60.
fn step(schedule: &mut Schedule, left: &mut BTreeMap<Id, (Asker, u64)>, lowest: &mut [u64; 2]) {
    let before = schedule.left();
    let mut taken = 0;
    schedule.take(100, 0, |id, room| {
        let (_, work) = left.get_mut(&id)?;
        let piece = (*work).min(60).min(room);
        *work -= piece;
        taken += piece;
        Some(Cut { work: piece, left: *work })
    });
    left.retain(|_, (_, work)| *work > 0);
    assert_eq!(schedule.left(), before - taken);
    assert!(taken > 0 || before == 0, "nothing is taken of {before}");
    for (lowest, line) in lowest.iter_mut().zip([&schedule.interactive, &schedule.sweeps]) {
        assert!(line.lowest() >= *lowest);
        *lowest = line.lowest();
    }
}
