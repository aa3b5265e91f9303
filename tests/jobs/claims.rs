//! Who gets which unit, and what becomes of those that were not done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mediant::store::job::{Claim, Committed, JobId, NewJob, Priority, State};
use mediant::store::{GivenBack, Store};

use crate::support::{
    AHEAD, Db, MODEL, bytes, claim, commit, done, job, nothing_to_claim, submit, told, work_off,
};

/// Claims a unit that waits for its next try, and says how long that took.
async fn claim_later(store: &Store) -> (Claim, Duration) {
    let begun = Instant::now();
    loop {
        if let Some(claim) = store.claim(MODEL, AHEAD).await.unwrap() {
            return (claim, begun.elapsed());
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "never");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn owned(store: &Store, owner: &str, priority: Priority) -> JobId {
    let mut new = job([0, 10, 1]);
    new.owner = owner.to_owned();
    new.priority = priority;
    submit(store, new).await
}

/// Works on all there is with this many tasks, each on its store in turn: `job, seq` of every commit that counted.
async fn race(stores: &[Store], tasks: usize) -> Vec<(JobId, u32)> {
    let mut racing = tokio::task::JoinSet::new();
    for i in 0..tasks {
        let store = stores[i % stores.len()].clone();
        racing.spawn(async move {
            let mut counted = Vec::new();
            let mut idle = 0;
            while idle < 20 {
                let Some(claim) = store.claim(MODEL, AHEAD).await.unwrap() else {
                    idle += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                idle = 0;
                match store.commit(&claim, done(claim.seq)).await.unwrap() {
                    Committed::Counted { .. } => counted.push((claim.job.id, claim.seq)),
                    Committed::Stale => panic!("a unit of {claim:?} was taken away"),
                }
            }
            counted
        });
    }
    racing.join_all().await.into_iter().flatten().collect()
}

both! {
    async fn the_highest_priority_comes_first_then_the_oldest(db: Db) {
        let store = db.open().await;
        let low = owned(&store, "a", Priority::Low).await;
        let old = owned(&store, "a", Priority::Normal).await;
        let young = owned(&store, "a", Priority::Normal).await;
        let high = owned(&store, "a", Priority::High).await;
        let places = async || {
            let mut places = Vec::new();
            for id in [high, old, young, low] {
                places.push(store.position(id).await.unwrap());
            }
            places
        };
        assert_eq!(places().await, [Some(0), Some(1), Some(2), Some(3)]);
        for (count, id) in [(10, high), (10, old)] {
            for _ in 0..count {
                let unit = claim(&store).await;
                assert_eq!(unit.job.id, id);
                commit(&store, &unit).await;
            }
            // The last unit, which only opens now.
            commit(&store, &claim(&store).await).await;
        }
        assert_eq!(places().await, [None, None, Some(0), Some(1)]);
    }

    async fn owners_take_turns_whatever_they_have_queued(db: Db) {
        let store = db.open().await;
        for _ in 0..5 {
            owned(&store, "many", Priority::Normal).await;
        }
        let late = owned(&store, "few", Priority::Normal).await;
        let mut held = BTreeMap::<String, u32>::new();
        for i in 1..=8 {
            let unit = claim(&store).await;
            *held.entry(unit.job.owner).or_default() += 1;
            let spread = held.values().max().unwrap() - held.get("few").unwrap_or(&0);
            assert!(spread <= 1, "{held:?} after {i}");
        }
        assert_eq!(held, BTreeMap::from([("few".to_owned(), 4), ("many".to_owned(), 4)]));
        assert_eq!(store.position(late).await.unwrap(), None, "it runs");
    }

    async fn a_small_job_does_not_wait_for_its_owners_long_one_which_ends_all_the_same(db: Db) {
        let store = db.open().await;
        let sized = async |units: u32| submit(&store, job([0, units, 1])).await;
        let long = sized(40).await;
        let at_work = [claim(&store).await, claim(&store).await];
        assert!(at_work.iter().all(|unit| unit.job.id == long));
        let small = sized(5).await;
        assert_eq!(store.position(small).await.unwrap(), Some(0), "before all that is left of the long one");
        let mut order = Vec::new();
        while store.job(small).await.unwrap().unwrap().state != State::Succeeded {
            let unit = claim(&store).await;
            order.push(unit.job.id == small);
            commit(&store, &unit).await;
        }
        assert_eq!(order.iter().filter(|of_small| **of_small).count(), 6);
        assert!(order.len() <= 9, "{order:?}: every fourth is the long one's");
        // One that has as many units as may be at work leaves the next to others.
        let other = sized(100).await;
        let next = store.claim(MODEL, 2).await.unwrap().unwrap();
        assert_eq!(next.job.id, other, "two units of the long one are at work");
        assert!(at_work.iter().all(|unit| unit.job.id == long));
    }

    async fn heavy_owners_get_equal_shares_and_one_that_comes_back_has_earned_nothing(db: Db) {
        let store = db.open().await;
        let start = async |owner: &str, weight: i64| {
            let new = NewJob { owner: owner.to_owned(), weight, ..job([0, 2000, 1]) };
            submit(&store, new).await
        };
        let owners: Vec<String> = (0..10).map(|i| format!("owner-{i}")).collect();
        for owner in &owners {
            start(owner, if owner == "owner-9" { 200 } else { 100 }).await;
        }
        let mut shares = BTreeMap::<String, u32>::new();
        let serve = async |count: u32, shares: &mut BTreeMap<String, u32>| {
            for _ in 0..count {
                let unit = claim(&store).await;
                *shares.entry(unit.job.owner.clone()).or_default() += 1;
                commit(&store, &unit).await;
            }
        };
        serve(55, &mut shares).await;
        assert!(owners[..9].iter().all(|owner| (4..=6).contains(&shares[owner])), "{shares:?}");
        assert!((9..=11).contains(&shares["owner-9"]), "{shares:?}");
        // Whoever comes now begins where the others are.
        start("late", 100).await;
        shares.clear();
        serve(24, &mut shares).await;
        assert!((1..=3).contains(&shares["late"]), "{shares:?}");
    }

    async fn a_released_unit_is_claimed_again_and_was_no_try(db: Db) {
        let store = db.open().await;
        submit(&store, job([0, 3, 1])).await;
        let first = claim(&store).await;
        let second = claim(&store).await;
        assert_eq!(store.release(&first).await.unwrap(), GivenBack::Waits);
        assert_eq!(store.release(&first).await.unwrap(), GivenBack::Stale);
        let again = claim(&store).await;
        assert_eq!((again.seq, again.attempt), (first.seq, 1));
        assert_ne!(again.token, first.token);
        assert_eq!(store.commit(&first, done(first.seq)).await.unwrap(), Committed::Stale);
        commit(&store, &again).await;
        commit(&store, &second).await;
        assert_eq!(work_off(&store).await, 2);
    }

    async fn a_failed_unit_waits_longer_each_time_and_its_job_fails_at_last(db: Db) {
        let store = db.open().await;
        let id = submit(&store, job([0, 3, 1])).await;
        let kept = claim(&store).await;
        commit(&store, &kept).await;
        let unit = claim(&store).await;
        assert_eq!(store.fail(&unit, "first", true).await.unwrap(), GivenBack::Waits);
        // The unit waits, not its job.
        let other = claim(&store).await;
        assert_eq!((other.seq, other.attempt), (2, 1));
        let (unit, waited) = claim_later(&store).await;
        assert_eq!((unit.seq, unit.attempt), (1, 2));
        assert!(waited > Duration::from_millis(300), "{waited:?}");
        store.fail(&unit, "second", true).await.unwrap();
        let (unit, waited) = claim_later(&store).await;
        assert!(waited > Duration::from_millis(800), "{waited:?}");
        assert_eq!(unit.attempt, 3);
        assert_eq!(store.fail(&unit, "third \0", true).await.unwrap(), GivenBack::JobFailed);
        let failed = store.job(id).await.unwrap().unwrap();
        assert_eq!((failed.state, failed.retries), (State::Failed, 2));
        assert_eq!(failed.error.as_deref(), Some("third \u{fffd}"));
        assert_eq!(store.commit(&other, done(other.seq)).await.unwrap(), Committed::Stale);
        assert_eq!(store.outputs(id).await.unwrap(), [(0, bytes(0))]);
        nothing_to_claim(&store).await;
        let last = told(&store, id).await.pop().unwrap();
        assert!(last.starts_with(r#"state {"state":"failed","error":"third"#), "{last}");
    }

    async fn what_cannot_be_tried_again_fails_its_job_at_once(db: Db) {
        let store = db.open().await;
        let id = submit(&store, job([0, 3, 1])).await;
        let unit = claim(&store).await;
        assert_eq!(store.fail(&unit, "no such head", false).await.unwrap(), GivenBack::JobFailed);
        assert_eq!(store.job(id).await.unwrap().unwrap().state, State::Failed);
    }

    async fn of_many_tasks_each_gets_units_of_its_own(db: Db) {
        let stores = if db.is_postgres() {
            vec![db.open().await, db.open().await]
        } else {
            vec![db.open().await]
        };
        let mut expected = BTreeSet::new();
        for _ in 0..4 {
            let id = submit(&stores[0], job([3, 40, 1])).await;
            expected.extend((0..44).map(|seq| (id, seq)));
        }
        let counted = race(&stores, 16).await;
        assert_eq!(counted.len(), expected.len(), "none twice");
        assert_eq!(counted.into_iter().collect::<BTreeSet<_>>(), expected, "none lost");
        for (id, _) in expected.range(..).step_by(44) {
            let job = stores[0].job(*id).await.unwrap().unwrap();
            assert_eq!((job.state, job.units_done, job.cost.rows), (State::Succeeded, 44, 440));
        }
    }

    async fn waiting_tasks_are_woken_by_a_change(db: Db) {
        let store = db.open().await;
        let other = if db.is_postgres() { db.open().await } else { store.clone() };
        let mut changes = other.subscribe();
        // The listener of the second may still be connecting, which it also tells nobody of.
        let mut woken = false;
        for _ in 0..20 {
            changes.mark_unchanged();
            submit(&store, job([0, 1, 0])).await;
            woken = tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.is_ok();
            if woken {
                break;
            }
        }
        assert!(woken);
    }
}
