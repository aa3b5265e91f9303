//! What is acknowledged, and how often.

use mediant::store::job::State;
use mediant::store::{Limits, StoreError};

use crate::support::{AHEAD, Db, FREE, OWNER, bytes, claim, commit, done, events, job, submit, work_off};

both! {
    async fn what_was_acknowledged_is_there_after_the_process_ended(db: Db) {
        let store = db.open().await;
        let id = submit(&store, job([1, 2, 1])).await;
        commit(&store, &claim(&store).await).await;
        let before = (store.job(id).await.unwrap(), events(&store, id).await);
        // As when the process is killed: nothing is given back or closed.
        let mut abandoned = claim(&store).await;
        let store = db.kill(store).await;
        let mut after = (store.job(id).await.unwrap(), events(&store, id).await);
        after.0.as_mut().unwrap().retries = 0;
        assert_eq!(before, after);
        assert_eq!(store.outputs(id).await.unwrap(), [(0, bytes(0))]);
        assert_eq!(commit(&store, &abandoned).await, mediant::store::job::Committed::Stale);
        abandoned = claim(&store).await;
        assert_eq!((abandoned.seq, abandoned.attempt), (1, 2), "what it held is claimed at once");
        commit(&store, &abandoned).await;
        assert_eq!(work_off(&store).await, 2);
        let job = store.job(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.retries), (State::Succeeded, 1));
    }

    async fn a_closed_store_gives_back_what_it_held(db: Db) {
        let store = db.open().await;
        submit(&store, job([0, 2, 1])).await;
        claim(&store).await;
        store.close().await.unwrap();
        assert!(matches!(store.claim("x", AHEAD).await, Err(StoreError::Unavailable { .. })));
        drop(store);
        let store = db.open().await;
        let unit = claim(&store).await;
        assert_eq!((unit.seq, unit.attempt), (0, 1), "and that was no try");
    }

    async fn one_key_is_one_job_however_many_ask_at_once(db: Db) {
        let store = db.open().await;
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let store = store.clone();
            asking.spawn(async move {
                let mut new = job([0, 5, 1]);
                new.idempotency = Some(("key".to_owned(), "sha".to_owned()));
                store.submit(new, FREE).await.unwrap()
            });
        }
        let answers = asking.join_all().await;
        let id = answers[0].job.id;
        assert!(answers.iter().all(|answer| answer.job.id == id));
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
        assert!(answers.iter().all(|answer| answer.job.request == job([0, 0, 1]).request));
    }

    async fn a_key_with_another_request_is_refused_and_names_its_job(db: Db) {
        let store = db.open().await;
        let with = |sha: &str, owner: &str| {
            let mut new = job([0, 5, 1]);
            new.owner = owner.to_owned();
            new.idempotency = Some(("key".to_owned(), sha.to_owned()));
            new
        };
        let id = submit(&store, with("one", OWNER)).await;
        let refused = store.submit(with("two", OWNER), FREE).await;
        assert_eq!(refused, Err(StoreError::IdempotencyMismatch { job: id }));
        assert!(!store.submit(with("two", "bob"), FREE).await.unwrap().replayed, "keys are an owner's");
        store.cancel(OWNER, id).await.unwrap();
        let again = store.submit(with("one", OWNER), FREE).await.unwrap();
        assert_eq!((again.replayed, again.job.state), (true, State::Cancelled));
    }

    async fn an_owner_has_only_so_many_jobs_waiting(db: Db) {
        let store = db.open().await;
        let limits = Limits { queued_per_owner: 2, queued_per_key: None };
        let mut keyed = job([0, 2, 1]);
        keyed.idempotency = Some(("key".to_owned(), "sha".to_owned()));
        store.submit(keyed.clone(), limits).await.unwrap();
        store.submit(job([0, 2, 1]), limits).await.unwrap();
        let refused = store.submit(job([0, 2, 1]), limits).await;
        assert_eq!(refused, Err(StoreError::TooManyQueued { limit: 2 }));
        assert!(store.submit(keyed, limits).await.unwrap().replayed, "a replay takes no place");
        let mut bobs = job([0, 2, 1]);
        bobs.owner = "bob".to_owned();
        store.submit(bobs, limits).await.unwrap();
        claim(&store).await;
        store.submit(job([0, 2, 1]), limits).await.unwrap();
    }

    async fn a_hundred_thousand_units_are_stored_at_once(db: Db) {
        let store = db.open().await;
        let begun = std::time::Instant::now();
        submit(&store, job([100, 100_000, 1])).await;
        assert!(begun.elapsed().as_millis() < 1000, "{:?}", begun.elapsed());
        let unit = claim(&store).await;
        assert_eq!(store.commit(&unit, done(0)).await.unwrap(), mediant::store::job::Committed::Counted { units_done: 1 });
    }

    async fn equal_datasets_of_an_owner_are_one(db: Db) {
        let store = db.open().await;
        let text = "{\"prompt\":\"a \\u0000\"}\n{\"prompt\":\"b\"}\n";
        let (first, new) = store.put_dataset(OWNER, Some("puns"), 2, text).await.unwrap();
        assert!(new);
        assert_eq!((first.bytes, first.cases, first.name.as_deref()), (text.len() as u64, 2, Some("puns")));
        assert_eq!(first.id, format!("ds_{}", &first.sha256[..32]));
        let (again, new) = store.put_dataset(OWNER, Some("other"), 2, text).await.unwrap();
        assert_eq!((&again, new), (&first, false));
        let (bobs, new) = store.put_dataset("bob", None, 2, text).await.unwrap();
        assert!(new && bobs.id == first.id && bobs.name.is_none());
        assert_eq!(store.dataset(OWNER, &first.id).await.unwrap().as_ref(), Some(&first));
        assert_eq!(store.dataset_text(OWNER, &first.id).await.unwrap().as_deref(), Some(text));
        assert_eq!(store.dataset_text("eve", &first.id).await.unwrap(), None);
        assert_eq!(store.datasets(OWNER).await.unwrap(), std::slice::from_ref(&first));
        assert!(store.delete_dataset(OWNER, &first.id).await.unwrap());
        assert!(!store.delete_dataset(OWNER, &first.id).await.unwrap());
        assert_eq!(store.datasets("bob").await.unwrap(), [bobs]);
    }

    async fn a_sound_store_passes_its_check(db: Db) {
        let store = db.open().await;
        store.check().await.unwrap();
        store.check().await.unwrap();
    }
}
