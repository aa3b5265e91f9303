//! What is found instead of being computed.

use super::super::found::{Counts, Found};
use super::super::growth::Follower;
use super::*;
use crate::config::Sharing;
use crate::owner::Owner;

fn found(share: Sharing, bytes: u64, verify: f64) -> Found {
    Found::new(&crate::config::Cache { share, bytes, age_s: 3600.0, verify })
}

fn of(owner: &str, lane: Lane) -> Asker {
    Asker::of(&Owner::stored(owner).into(), lane)
}

/// Asks for a plan; what it was charged goes to `told`.
fn ask(
    found: &Found,
    engine: &Engine,
    plan: &Plan,
    asker: Asker,
    told: &mpsc::Sender<u64>,
) -> tokio::task::JoinHandle<Result<PlanOutput, EngineError>> {
    let (found, engine, work, told) = (found.clone(), engine.clone(), prepared(engine, plan), told.clone());
    let key = found.key(&engine, plan, "a model", &asker.owner);
    let charge: Charge = Box::new(move |usage| {
        let _ = told.send(usage.row_layers);
    });
    tokio::spawn(async move {
        found.get(&engine, key, work, Errand::new(asker, Turn::New, charge), &Follower::patient()).await
    })
}

fn counts(found: &Found) -> (u64, u64) {
    let Counts { kept, joined, .. } = found.counts();
    (kept, joined)
}

#[tokio::test]
async fn what_was_computed_is_found_by_its_owner_alone_and_is_not_charged() {
    for share in [Sharing::Owner, Sharing::All, Sharing::Off] {
        let (engine, batches) = engine(None, 4);
        let found = found(share, 1 << 20, 0.0);
        let (told, charged) = mpsc::channel();
        let answer = async |owner: &str, plan: &Plan| {
            ask(&found, &engine, plan, of(owner, Lane::Interactive), &told).await.unwrap().unwrap()
        };
        let first = answer("ann", &runs(1, 1)).await;
        let again = answer("ann", &runs(1, 1)).await;
        let bobs = answer("bob", &runs(1, 1)).await;
        let other = answer("ann", &runs(1, 2)).await;
        assert!(!first.usage.cached && !other.usage.cached && first.scores == again.scores);
        assert_eq!((again.usage.cached, bobs.usage.cached), (share != Sharing::Off, share == Sharing::All));
        assert_eq!((again.usage.rows, again.usage.row_layers), (first.usage.rows, first.usage.row_layers));
        if again.usage.cached {
            assert_eq!(again.usage.seconds.to_bits(), 0.0_f64.to_bits());
        }
        let computed = match share {
            Sharing::Owner => 3,
            Sharing::All => 2,
            Sharing::Off => 4,
        };
        assert_eq!(batches.load(Ordering::SeqCst), computed, "{share:?}");
        assert_eq!(charged.try_iter().collect::<Vec<_>>(), vec![4; computed]);
        assert_eq!(counts(&found), (4 - computed as u64, 0));
    }
}

#[tokio::test]
async fn two_at_once_are_computed_once_for_the_first_who_may_leave_and_never_when_all_have() {
    let (leave, gate) = mpsc::channel();
    let (engine, batches) = engine(Some(gate), 4);
    let found = found(Sharing::Owner, 1 << 20, 0.0);
    let (told, charged) = mpsc::channel();
    let asked = || ask(&found, &engine, &runs(4, 1), of("ann", Lane::Interactive), &told);
    let first = asked();
    while batches.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let (second, third) = (asked(), asked());
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    (0..2).for_each(|_| leave.send(()).unwrap());
    let (second, third) = (second.await.unwrap().unwrap(), third.await.unwrap().unwrap());
    assert_eq!((second.scores.len(), second.scores.clone()), (4, third.scores));
    assert!(second.usage.cached && third.usage.cached);
    assert_eq!((counts(&found), batches.load(Ordering::SeqCst)), ((0, 2), 2));
    assert_eq!(charged.try_iter().collect::<Vec<_>>(), [16], "by the first");

    // All leave: of four pieces one is computed, which was under way.
    let both = [0, 1].map(|_| ask(&found, &engine, &runs(8, 2), of("ann", Lane::Interactive), &told));
    while batches.load(Ordering::SeqCst) < 3 {
        tokio::task::yield_now().await;
    }
    for one in both {
        one.abort();
        assert!(one.await.unwrap_err().is_cancelled());
    }
    (0..4).for_each(|_| leave.send(()).unwrap());
    let after =
        ask(&found, &engine, &runs(1, 3), of("ann", Lane::Interactive), &told).await.unwrap().unwrap();
    assert_eq!((after.scores.len(), batches.load(Ordering::SeqCst)), (1, 4));
    assert_eq!(found.counts().bytes > 0, charged.try_iter().count() == 2);
}

#[tokio::test]
async fn a_client_who_joins_a_part_of_a_job_has_it_computed_before_other_jobs() {
    let (leave, gate) = mpsc::channel();
    let (engine, batches) = engine(Some(gate), 8);
    let found = found(Sharing::All, 1 << 20, 0.0);
    let (told, _charged) = mpsc::channel();
    let first = ask(&found, &engine, &runs(1, 1), of("ann", Lane::Interactive), &told);
    while batches.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // Ann's is the older and the smaller one.
    let long = ask(&found, &engine, &runs(4, 2), of("ann", Lane::Sweep), &told);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let job = ask(&found, &engine, &runs(6, 3), of("ann", Lane::Sweep), &told);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let client = ask(&found, &engine, &runs(6, 3), of("bob", Lane::Interactive), &told);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    (0..4).for_each(|_| leave.send(()).unwrap());
    first.await.unwrap().unwrap();
    assert!(client.await.unwrap().unwrap().usage.cached);
    job.await.unwrap().unwrap();
    assert!(!long.is_finished(), "its turn comes after the client's");
    (0..2).for_each(|_| leave.send(()).unwrap());
    long.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_lost_or_large_is_not_kept_and_what_is_old_is_not_found() {
    let (engine, batches) = engine(None, 4);
    let found_of =
        |bytes, age_s| Found::new(&crate::config::Cache { share: Sharing::Owner, bytes, age_s, verify: 0.0 });
    let (told, _charged) = mpsc::channel();
    for (found, plan) in [
        (found_of(1 << 20, 3600.0), runs(1, 13)),
        (found_of(64, 3600.0), runs(1, 1)),
        (found_of(1 << 20, 0.001), runs(1, 1)),
    ] {
        let before = batches.load(Ordering::SeqCst);
        for _ in 0..2 {
            let asked = ask(&found, &engine, &plan, of("ann", Lane::Interactive), &told);
            assert!(!asked.await.unwrap().unwrap().usage.cached);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(batches.load(Ordering::SeqCst), before + 2);
    }
    assert_eq!(found_of(0, 1.0).counts(), Counts::default());
}

#[tokio::test]
async fn what_is_found_is_computed_again_and_other_bits_are_seen() {
    let (engine, batches) = engine(None, 4);
    let found = found(Sharing::Owner, 1 << 20, 0.5);
    let (told, charged) = mpsc::channel();
    let answer = async || {
        ask(&found, &engine, &runs(1, 1), of("ann", Lane::Interactive), &told).await.unwrap().unwrap()
    };
    let verified = async |n| {
        while found.counts().verified < n {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    answer().await;
    for _ in 0..4 {
        answer().await;
    }
    verified(2).await;
    // Every second one; both perhaps in one batch.
    assert_eq!((found.counts().verified, found.counts().differ), (2, 0));
    assert!((2..=3).contains(&batches.load(Ordering::SeqCst)));
    let right = answer().await;
    found.spoil();
    let wrong = answer().await;
    assert!(wrong.usage.cached && wrong.scores != right.scores);
    verified(3).await;
    assert_eq!((found.counts().differ, found.counts().bytes), (1, 0));
    let computed = answer().await;
    assert!(!computed.usage.cached && computed.scores == right.scores);
    assert_eq!(charged.try_iter().count(), 2, "nobody pays for what is computed to be compared");
}

#[tokio::test]
async fn what_nobody_waits_for_is_left_where_it_is_and_goes_on_when_somebody_comes_back() {
    let (leave, gate) = mpsc::channel();
    let (engine, batches) = engine(Some(gate), 1);
    let found = found(Sharing::Owner, 1 << 20, 0.0);
    for key in [true, false] {
        let before = batches.load(Ordering::SeqCst);
        let plan = runs(12, if key { 1 } else { 2 });
        let (told, charged) = mpsc::channel();
        let follower = Follower::curious();
        let (of_engine, of_found, work) = (engine.clone(), found.clone(), prepared(&engine, &plan));
        let asker = of("ann", Lane::Interactive);
        let key = key.then(|| found.key(&engine, &plan, "a model", &asker.owner)).flatten();
        let charge: Charge = Box::new(move |usage| told.send(usage.row_layers).unwrap());
        let (following, errand) = (follower.clone(), Errand::new(asker, Turn::New, charge));
        let asked =
            tokio::spawn(async move { of_found.get(&of_engine, key, work, errand, &following).await });
        while batches.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        follower.set_here(false);
        while !follower.plan().borrow().as_ref().unwrap().is_left() {
            tokio::task::yield_now().await;
        }
        // Others have the engine, and the place.
        (0..2).for_each(|_| leave.send(()).unwrap());
        while engine.admission.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        engine.execute(prepared(&engine, &runs(1, 3)), free()).await.unwrap();
        assert_eq!((batches.load(Ordering::SeqCst) - before, asked.is_finished()), (2, false));
        let stage = *follower.plan().borrow().as_ref().unwrap().stage().borrow();
        assert_eq!((stage.done, stage.all), (8, 48));
        assert_eq!(follower.plan().borrow().as_ref().unwrap().scored([0, 1, 2]).len(), 2);
        follower.set_here(true);
        (0..5).for_each(|_| leave.send(()).unwrap());
        let output = asked.await.unwrap().unwrap();
        assert_eq!((output.scores.len(), batches.load(Ordering::SeqCst) - before), (12, 7), "each once");
        assert_eq!(charged.recv().unwrap(), 48);
    }
}
