//! Keys as they are stored, on both databases.

use mediant::keys::{Keys, RotateError, Scope, Standing, Unfit, Wanted};
use mediant::owner::{Owner, Terms, Weight};
use mediant::store::{KeyUsage, OwnerUsage};

use crate::support::{Db, OWNER, job, submit};

fn wanted(ttl_s: Option<u64>) -> Wanted {
    let scopes = [Scope::Upload, Scope::Run].into_iter().collect();
    Wanted {
        owner: Owner::parse(OWNER).unwrap(),
        name: "a \u{1f511}".to_owned(),
        scopes,
        ttl_s,
        terms: Terms::default(),
    }
}

both! {
    async fn keys_outlive_the_process_and_end_when_they_should(db: Db) {
        let store = db.open().await;
        let keys = Keys::open(store.clone()).await.unwrap();
        let (kept, token) = keys.create(wanted(Some(3600))).await.unwrap();
        let (gone, ended) = keys.create(wanted(None)).await.unwrap();
        keys.revoke(gone.id).await.unwrap().unwrap();
        let (next, other) = keys.rotate(kept.id, 600).await.unwrap();
        assert!(matches!(keys.rotate(gone.id, 600).await, Err(RotateError::Ended(_))));
        keys.identify(&token).unwrap();
        keys.tell_use().await;
        let before = keys.list().await.unwrap();
        drop(keys);
        let store = db.kill(store).await;
        let keys = Keys::open(store).await.unwrap();
        assert_eq!(keys.list().await.unwrap(), before);
        assert_eq!(before.len(), 3);
        assert_eq!(before[0].standing(), Standing::Active);
        assert!(before[0].expires_ms < kept.expires_ms && before[0].used_ms.is_some());
        assert_eq!((before[2].follows, &before[2].name, before[2].scopes), (Some(kept.id), &kept.name, kept.scopes));
        assert_eq!(keys.identify(&token).unwrap().id, kept.id);
        assert_eq!(keys.identify(&other).unwrap().id, next.id);
        assert_eq!(keys.identify(&ended), Err(Unfit::Revoked));
    }

    async fn two_servers_of_one_database_see_each_others_changes(db: Db) {
        if !db.is_postgres() {
            // There is one server then.
            return;
        }
        let here = Keys::open(db.open().await).await.unwrap();
        let there = Keys::open(db.open().await).await.unwrap();
        let (key, token) = here.create(wanted(None)).await.unwrap();
        there.look().await.unwrap();
        assert_eq!(there.identify(&token).unwrap().id, key.id);
        there.revoke(key.id).await.unwrap().unwrap();
        assert!(here.identify(&token).is_ok());
        here.look().await.unwrap();
        assert_eq!(here.identify(&token), Err(Unfit::Revoked));
    }

    async fn terms_of_keys_and_owners_outlive_the_process(db: Db) {
        let store = db.open().await;
        let keys = Keys::open(store.clone()).await.unwrap();
        let of_key = Terms { weight: Weight::of(2.0), requests: Some(3), ..Terms::default() };
        let (key, token) = keys.create(Wanted { terms: of_key, ..wanted(None) }).await.unwrap();
        let owner = Owner::parse(OWNER).unwrap();
        let of_owner = Terms { weight: Weight::of(0.5), requests: None, jobs: Some(7), row_layers_day: Some(1 << 60) };
        keys.set_owner(&owner, of_owner).await.unwrap();
        drop(keys);
        let store = db.kill(store).await;
        let keys = Keys::open(store).await.unwrap();
        assert_eq!(keys.owners().await.unwrap(), [(owner.clone(), of_owner)]);
        let known = keys.identify(&token).unwrap();
        assert_eq!((known.terms, known.owner_terms, known.weight().number()), (of_key, of_owner, 2.0));
        let (next, _) = keys.rotate(key.id, 0).await.unwrap();
        assert_eq!((next.terms, next.owner_terms), (of_key, of_owner));
        keys.set_owner(&owner, Terms::default()).await.unwrap();
        assert_eq!(keys.owners().await.unwrap(), []);
        assert_eq!(keys.list().await.unwrap()[0].owner_terms, Terms::default());
    }

    async fn what_an_owner_has_is_counted_and_nobody_elses(db: Db) {
        let store = db.open().await;
        assert_eq!(store.in_use(OWNER).await.unwrap(), mediant::store::InUse::default());
        submit(&store, job([0, 1, 1])).await;
        let mut other = job([0, 1, 1]);
        other.owner = "bob".to_owned();
        submit(&store, other).await;
        store.put_dataset(OWNER, None, 1, "{}").await.unwrap();
        store.put_dataset("bob", None, 1, "{\"a\":1}").await.unwrap();
        let used = store.in_use(OWNER).await.unwrap();
        assert_eq!((used.queued, used.running, used.datasets, used.dataset_bytes), (1, 0, 1, 2));
    }

    async fn what_owners_use_adds_up_by_day(db: Db) {
        let store = db.open().await;
        let used = |owner: &str, day, row_layers| OwnerUsage { owner: owner.to_owned(), day, requests: 1, row_layers, seconds: 0.5 };
        let of_key = |day| KeyUsage { key: uuid::Uuid::from_u128(7), day, requests: 1, row_layers: 5, seconds: 0.5 };
        store.add_usage(&[], &[]).await.unwrap();
        store.add_usage(&[used("bob", 20_000, 5), used(OWNER, 20_000, 1 << 52)], &[of_key(20_000)]).await.unwrap();
        store.add_usage(&[used("bob", 20_000, 6), used("bob", 20_001, 7)], &[of_key(20_000), of_key(20_001)]).await.unwrap();
        let store = db.kill(store).await;
        let mut bob = used("bob", 20_000, 11);
        (bob.requests, bob.seconds) = (2, 1.0);
        let mut day = vec![used(OWNER, 20_000, 1 << 52), bob];
        day.sort_by(|a, b| a.owner.cmp(&b.owner));
        assert_eq!(store.usage(20_000).await.unwrap(), day);
        assert_eq!(store.usage(20_001).await.unwrap(), [used("bob", 20_001, 7)]);
        assert_eq!(store.usage(1).await.unwrap(), []);
        let twice = KeyUsage { requests: 2, row_layers: 10, seconds: 1.0, ..of_key(20_000) };
        assert_eq!(store.key_usage(20_000).await.unwrap(), [twice]);
        assert_eq!(store.key_usage(20_001).await.unwrap(), [of_key(20_001)]);
    }
}
