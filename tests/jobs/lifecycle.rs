//! A job from its submission to its end.

use mediant::store::job::{Committed, Cost, Phase, State};
use mediant::store::{Filter, GivenBack, Page};

use crate::support::{
    AHEAD, Db, FREE, MODEL, OWNER, bytes, claim, commit, done, events, finished, job, nothing_to_claim,
    submit, told, work_off,
};

both! {
    async fn a_job_is_there_with_all_it_was_submitted_with(db: Db) {
        let store = db.open().await;
        let new = job([2, 3, 1]);
        let submitted = store.submit(new.clone(), FREE).await.unwrap();
        assert!(!submitted.replayed);
        let read = store.job(new.id).await.unwrap().unwrap();
        assert_eq!(read, submitted.job);
        assert_eq!((read.state, read.units, read.units_done), (State::Queued, [2, 3, 1], 0));
        assert_eq!((&read.request, &read.cut), (&new.request, &new.cut));
        assert_eq!((read.kind, read.priority, read.estimate_s), (new.kind, new.priority, new.estimate_s));
        assert_eq!(told(&store, new.id).await, [r#"state {"state":"queued"}"#]);
    }

    async fn phases_follow_each_other_and_the_last_unit_ends_the_job(db: Db) {
        let store = db.open().await;
        let id = submit(&store, job([2, 3, 1])).await;
        let (a, b) = (claim(&store).await, claim(&store).await);
        assert_eq!((a.seq, a.phase, b.seq, b.phase), (0, Phase::Baselines, 1, Phase::Baselines));
        assert_eq!(a.job.request, job([0, 0, 1]).request);
        nothing_to_claim(&store).await;
        assert_eq!(commit(&store, &b).await, Committed::Counted { units_done: 1 });
        nothing_to_claim(&store).await;
        assert_eq!(commit(&store, &a).await, Committed::Counted { units_done: 2 });
        let cells = [claim(&store).await, claim(&store).await, claim(&store).await];
        assert!(cells.iter().all(|cell| cell.phase == Phase::Cells));
        nothing_to_claim(&store).await;
        for cell in cells.iter().rev() {
            commit(&store, cell).await;
        }
        let last = claim(&store).await;
        assert_eq!((last.seq, last.phase, last.attempt), (5, Phase::Finish, 1));
        assert_eq!(store.commit(&last, finished()).await.unwrap(), Committed::Counted { units_done: 6 });
        let ended = store.job(id).await.unwrap().unwrap();
        assert_eq!(ended.state, State::Succeeded);
        assert_eq!(ended.expires_ms, ended.finished_ms.map(|at| at + 3_600_000));
        let cost = Cost { rows: 50, row_layers: 100, seconds: 2.5, peak_bytes: 1004 };
        assert_eq!((ended.cost, ended.retries, ended.units_done), (cost, 0, 6));
        let outputs: Vec<_> = (0..5).map(|seq| (seq, bytes(seq))).collect();
        assert_eq!(store.outputs(id).await.unwrap(), outputs);
        assert_eq!(store.outputs_from(id, 3, 1).await.unwrap(), [(3, bytes(3))]);
        assert_eq!(store.output(id, 4).await.unwrap(), Some(bytes(4)));
        assert_eq!(store.files(id).await.unwrap(), ["json"]);
        assert_eq!(store.file(id, "json").await.unwrap().unwrap(), b"{}");
        assert_eq!(store.file(id, "csv").await.unwrap(), None);
        nothing_to_claim(&store).await;
    }

    async fn events_are_numbered_and_replayed_from_any(db: Db) {
        let store = db.open().await;
        let id = submit(&store, job([0, 1, 1])).await;
        work_off(&store).await;
        store.event(id, "partial", r#"{"mean":1}"#).await.unwrap();
        let all = events(&store, id).await;
        assert_eq!(all.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        let words = [
            r#"state {"state":"queued"}"#,
            r#"state {"state":"running"}"#,
            r#"progress {"units_done":1,"units_total":2}"#,
            r#"progress {"units_done":2,"units_total":2}"#,
            r#"state {"state":"succeeded"}"#,
            r#"partial {"mean":1}"#,
        ];
        assert_eq!(told(&store, id).await, words);
        assert_eq!(store.events(id, 4, 1).await.unwrap(), all[4..5]);
        assert_eq!(store.events(id, 6, 10).await.unwrap(), []);
    }

    async fn a_commit_said_twice_counts_once(db: Db) {
        let store = db.open().await;
        let id = submit(&store, job([0, 2, 1])).await;
        let unit = claim(&store).await;
        assert_eq!(commit(&store, &unit).await, Committed::Counted { units_done: 1 });
        assert_eq!(commit(&store, &unit).await, Committed::Counted { units_done: 1 });
        assert_eq!(store.job(id).await.unwrap().unwrap().cost.rows, 10);
        assert_eq!(store.fail(&unit, "late", true).await.unwrap(), GivenBack::Stale);
    }

    async fn a_cancelled_job_keeps_what_it_has_and_takes_no_more(db: Db) {
        let store = db.open().await;
        let id = submit(&store, job([0, 4, 1])).await;
        let (kept, late) = (claim(&store).await, claim(&store).await);
        commit(&store, &kept).await;
        assert_eq!(store.cancel("mallory", id).await.unwrap(), None);
        assert_eq!(store.ended(&[id]).await.unwrap(), []);
        let cancelled = store.cancel(OWNER, id).await.unwrap().unwrap();
        assert_eq!(cancelled.state, State::Cancelled);
        assert_eq!(store.cancel(OWNER, id).await.unwrap().unwrap(), cancelled);
        assert_eq!(store.ended(&[id]).await.unwrap(), [id]);
        nothing_to_claim(&store).await;
        assert_eq!(store.commit(&late, done(late.seq)).await.unwrap(), Committed::Stale);
        assert_eq!(store.release(&late).await.unwrap(), GivenBack::Stale);
        assert_eq!(store.fail(&late, "late", true).await.unwrap(), GivenBack::Stale);
        assert_eq!(store.outputs(id).await.unwrap(), [(0, bytes(0))]);
        assert!(store.put_files(id, &finished().files).await.unwrap());
        assert_eq!(store.files(id).await.unwrap(), ["json"]);
        assert_eq!(told(&store, id).await.last().unwrap(), r#"state {"state":"cancelled"}"#);
        assert_eq!(store.job(id).await.unwrap().unwrap().cost.rows, 10);
    }

    async fn jobs_are_listed_by_owner_newest_first_and_filtered(db: Db) {
        let store = db.open().await;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(submit(&store, job([0, 1, 0])).await);
        }
        let mut other = job([0, 1, 0]);
        other.owner = "bob".to_owned();
        submit(&store, other).await;
        store.cancel(OWNER, ids[1]).await.unwrap();
        let page = |limit, before| Page { limit, before };
        let list = async |filter, page| -> Vec<_> {
            store.jobs(OWNER, filter, page).await.unwrap().into_iter().map(|job| job.id).collect()
        };
        assert_eq!(list(Filter::default(), page(2, None)).await, [ids[4], ids[3]]);
        assert_eq!(list(Filter::default(), page(9, Some(ids[3]))).await, [ids[2], ids[1], ids[0]]);
        let state = Filter { state: Some(State::Cancelled), kind: None };
        assert_eq!(list(state, page(9, None)).await, [ids[1]]);
        let kind = Filter { state: None, kind: Some(mediant::spec::kind::Kind::Run) };
        assert_eq!(list(kind, page(9, None)).await, []);
    }

    async fn an_expired_job_stays_without_its_results(db: Db) {
        let store = db.open().await;
        let mut new = job([0, 1, 1]);
        new.keep_s = 0;
        let id = submit(&store, new).await;
        let kept = submit(&store, job([0, 1, 1])).await;
        assert_eq!(store.expire().await.unwrap(), 0);
        work_off(&store).await;
        assert_eq!(store.expire().await.unwrap(), 1);
        assert_eq!(store.expire().await.unwrap(), 0);
        assert_eq!(store.job(id).await.unwrap().unwrap().state, State::Expired);
        assert_eq!(store.outputs(id).await.unwrap(), []);
        assert_eq!(store.files(id).await.unwrap(), Vec::<String>::new());
        assert_eq!(told(&store, id).await, [r#"state {"state":"expired"}"#]);
        assert_eq!(store.event(id, "partial", "{}").await.unwrap(), None);
        assert!(!store.put_files(id, &finished().files).await.unwrap());
        assert_eq!(store.job(kept).await.unwrap().unwrap().state, State::Succeeded);
        assert!(store.delete(OWNER, kept).await.unwrap());
        assert_eq!(store.job(kept).await.unwrap(), None);
    }

    async fn only_a_job_that_has_ended_can_be_deleted(db: Db) {
        let store = db.open().await;
        let id = submit(&store, job([0, 1, 1])).await;
        assert!(!store.delete(OWNER, id).await.unwrap());
        store.cancel(OWNER, id).await.unwrap();
        assert!(!store.delete("mallory", id).await.unwrap());
        assert!(store.delete(OWNER, id).await.unwrap());
        assert_eq!(store.job(id).await.unwrap(), None);
        assert_eq!(told(&store, id).await, Vec::<String>::new());
    }

    async fn units_of_other_models_are_left_alone(db: Db) {
        let store = db.open().await;
        submit(&store, job([0, 1, 1])).await;
        assert!(store.claim("another", AHEAD).await.unwrap().is_none());
        assert!(store.claim(MODEL, AHEAD).await.unwrap().is_some());
    }
}
