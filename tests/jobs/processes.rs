//! Several servers on one PostgreSQL, and what is left of one that ends.

use std::time::Duration;

use mediant::store::Store;
use mediant::store::job::{Committed, State};

use crate::support::{Db, OWNER, claim, commit, done, job, nothing_to_claim, run, submit, work_off};

const SHORT: Duration = Duration::from_millis(300);

/// A test of two servers.
fn two<F: Future<Output = ()>>(test: impl FnOnce(Store, Store) -> F) {
    if let Some(db) = Db::postgres() {
        run(db, async |db| {
            let (a, b) = (db.open().await, db.open().await);
            test(a, b).await;
        });
    }
}

#[test]
fn a_job_cancelled_on_one_server_stops_on_the_other() {
    two(async |a, b| {
        let id = submit(&a, job([0, 4, 1])).await;
        let unit = claim(&a).await;
        assert_eq!(a.ended(&[id]).await.unwrap(), []);
        b.cancel(OWNER, id).await.unwrap().unwrap();
        assert_eq!(a.ended(&[id]).await.unwrap(), [id]);
        assert_eq!(commit(&a, &unit).await, Committed::Stale);
        nothing_to_claim(&a).await;
    });
}

#[test]
fn units_of_a_server_that_is_gone_are_taken_over_when_its_lease_is_over() {
    two(async |a, b| {
        let id = submit(&a, job([0, 3, 1])).await;
        a.heartbeat(SHORT).await.unwrap();
        let held = [claim(&a).await, claim(&a).await, claim(&a).await];
        commit(&a, &held[0]).await;
        assert_eq!(b.recover().await.unwrap(), 0, "it lives");
        nothing_to_claim(&b).await;
        tokio::time::sleep(SHORT).await;
        assert_eq!(b.recover().await.unwrap(), 2);
        assert_eq!(b.recover().await.unwrap(), 0);
        let taken = claim(&b).await;
        assert_eq!((taken.seq, taken.attempt), (1, 2));
        // It was only asleep.
        a.heartbeat(Duration::from_secs(30)).await.unwrap();
        assert_eq!(commit(&a, &held[1]).await, Committed::Stale, "another has it");
        assert_eq!(commit(&a, &held[2]).await, Committed::Stale, "it waits for anybody");
        assert_eq!(commit(&b, &taken).await, Committed::Counted { units_done: 2 });
        assert_eq!(work_off(&a).await, 2);
        let ended = b.job(id).await.unwrap().unwrap();
        assert_eq!((ended.state, ended.retries, ended.cost.rows), (State::Succeeded, 2, 30));
    });
}

#[test]
fn a_server_whose_lease_is_over_keeps_what_nobody_has_taken() {
    two(async |a, b| {
        submit(&a, job([0, 1, 1])).await;
        a.heartbeat(SHORT).await.unwrap();
        let unit = claim(&a).await;
        tokio::time::sleep(2 * SHORT).await;
        a.heartbeat(Duration::from_secs(30)).await.unwrap();
        assert_eq!(b.recover().await.unwrap(), 0);
        assert_eq!(commit(&a, &unit).await, Committed::Counted { units_done: 1 });
    });
}

#[test]
fn a_unit_that_ends_every_server_fails_its_job() {
    two(async |a, b| {
        let id = submit(&a, job([0, 2, 1])).await;
        let mut lost = 0;
        while b.job(id).await.unwrap().unwrap().state != State::Failed {
            assert!(lost < 100);
            let unit = claim(&a).await;
            assert_eq!(unit.seq, 0);
            a.heartbeat(Duration::ZERO).await.unwrap();
            b.recover().await.unwrap();
            lost += 1;
        }
        assert!(lost > 10, "{lost}: a server that is killed often is not the unit's fault");
    });
}

#[test]
fn one_key_is_one_job_on_two_servers() {
    two(async |a, b| {
        let mut asking = tokio::task::JoinSet::new();
        for i in 0..40 {
            let store = if i % 2 == 0 { a.clone() } else { b.clone() };
            asking.spawn(async move {
                let mut new = job([0, 5, 1]);
                new.idempotency = Some(("key".to_owned(), "sha".to_owned()));
                store.submit(new, crate::support::FREE).await.unwrap()
            });
        }
        let answers = asking.join_all().await;
        assert!(answers.iter().all(|answer| answer.job.id == answers[0].job.id));
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    });
}

#[test]
fn cancelling_and_committing_at_once_ends_in_order() {
    two(async |a, b| {
        for _ in 0..20 {
            let id = submit(&a, job([0, 8, 1])).await;
            let mut units = Vec::new();
            for _ in 0..8 {
                units.push(claim(&a).await);
            }
            let mut racing = tokio::task::JoinSet::new();
            for unit in units {
                let store = a.clone();
                racing.spawn(async move { store.commit(&unit, done(unit.seq)).await.unwrap() });
            }
            let cancelled = b.cancel(OWNER, id).await.unwrap().unwrap();
            let counted =
                racing.join_all().await.iter().filter(|c| matches!(c, Committed::Counted { .. })).count();
            assert_eq!(counted, a.outputs(id).await.unwrap().len());
            assert_eq!(counted as u32, cancelled.units_done);
            assert_eq!(cancelled.state, State::Cancelled);
        }
    });
}
