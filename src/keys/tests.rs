//! Keys over a store in a folder of its own.

use super::*;
use crate::store::Settings;

struct Here {
    keys: Keys,
    store: Store,
    _folder: tempfile::TempDir,
}

async fn here() -> Here {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { data_dir: folder.path().join("data"), url: String::new() };
    let store = Store::open(&settings).await.unwrap();
    Here { keys: Keys::open(store.clone()).await.unwrap(), store, _folder: folder }
}

fn wanted(owner: &str, ttl_s: Option<u64>) -> Wanted {
    let scopes = [Scope::Run, Scope::Sweep].into_iter().collect();
    Wanted {
        owner: Owner::parse(owner).unwrap(),
        name: "of this test".to_owned(),
        scopes,
        ttl_s,
        terms: Terms::default(),
    }
}

#[tokio::test]
async fn a_key_is_found_by_its_token_alone_and_only_a_hash_is_stored() {
    let here = here().await;
    assert!(here.keys.is_empty());
    let (alice, token) = here.keys.create(wanted("alice", None)).await.unwrap();
    let (bob, other) = here.keys.create(wanted("bob", Some(60))).await.unwrap();
    assert!(!here.keys.is_empty());
    assert_eq!(here.keys.identify(&token).unwrap().owner, alice.owner);
    assert_eq!(here.keys.identify(&other).unwrap().id, bob.id);
    assert_eq!(here.keys.identify(&Token::new().unwrap()), Err(Unfit::Unknown));
    let (_, stored) = here.store.keys().await.unwrap();
    assert_eq!(stored[0].sha256, token.sha256());
    let shown = format!("{stored:?} {:?} {:?}", here.keys, NewKey::of(&alice, &token));
    assert!(!shown.contains(token.expose()) && !shown.contains(&token.expose()[4..40]));
    assert_eq!(alice.id.to_string().parse(), Ok(alice.id));
}

#[tokio::test]
async fn revoked_and_expired_keys_give_no_access_and_what_was_ended_stays_so() {
    let here = here().await;
    let (key, token) = here.keys.create(wanted("alice", None)).await.unwrap();
    let (short, soon) = here.keys.create(wanted("alice", Some(1))).await.unwrap();
    assert!(here.keys.identify(&soon).is_ok());
    let revoked = here.keys.revoke(key.id).await.unwrap().unwrap();
    assert_eq!((revoked.standing(), here.keys.identify(&token)), (Standing::Revoked, Err(Unfit::Revoked)));
    let again = here.keys.revoke(key.id).await.unwrap().unwrap();
    assert_eq!(again.revoked_ms, revoked.revoked_ms);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(here.keys.identify(&soon), Err(Unfit::Expired));
    assert!(matches!(here.keys.rotate(short.id, 10).await, Err(RotateError::Ended(_))));
    assert!(matches!(here.keys.rotate(key.id, 10).await, Err(RotateError::Ended(_))));
    assert_eq!(here.keys.list().await.unwrap().len(), 2, "nothing was made");
    let nobody = KeyId(Uuid::now_v7());
    assert!(here.keys.revoke(nobody).await.unwrap().is_none());
    assert!(matches!(here.keys.rotate(nobody, 10).await, Err(RotateError::Unknown(_))));
}

#[tokio::test]
async fn a_rotated_key_overlaps_with_the_new_one_for_the_grace_period() {
    let here = here().await;
    let (old, token) = here.keys.create(wanted("alice", Some(1000))).await.unwrap();
    let (new, other) = here.keys.rotate(old.id, 1).await.unwrap();
    assert_eq!(
        (&new.owner, &new.name, new.scopes, new.follows),
        (&old.owner, &old.name, old.scopes, Some(old.id))
    );
    assert_eq!(new.expires_ms.unwrap() - new.created_ms, 1_000_000, "as long as the old one");
    assert!(here.keys.identify(&token).is_ok() && here.keys.identify(&other).is_ok());
    assert!(matches!(here.keys.rotate(old.id, 1).await, Err(RotateError::Replaced(_, by)) if by == new.id));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(here.keys.identify(&token), Err(Unfit::Expired));
    assert!(here.keys.identify(&other).is_ok());
    // A grace period never makes a life longer.
    let (brief, _) = here.keys.create(wanted("bob", Some(5))).await.unwrap();
    here.keys.rotate(brief.id, MOST_GRACE_S).await.unwrap();
    assert_eq!(here.keys.get(brief.id).await.unwrap().unwrap().expires_ms, brief.expires_ms);
    // Without one the old key ends at once.
    let (last, token) = here.keys.create(wanted("eve", None)).await.unwrap();
    let (next, _) = here.keys.rotate(last.id, 0).await.unwrap();
    assert_eq!((here.keys.identify(&token), next.expires_ms), (Err(Unfit::Expired), None));
}

#[tokio::test]
async fn the_last_use_is_stored_now_and_then_and_listed_at_once() {
    let here = here().await;
    let (key, token) = here.keys.create(wanted("alice", None)).await.unwrap();
    let used = async || here.keys.get(key.id).await.unwrap().unwrap().used_ms;
    assert_eq!(used().await, None);
    here.keys.identify(&token).unwrap();
    let at = used().await.unwrap();
    assert_eq!(here.store.keys().await.unwrap().1[0].used_ms, None);
    here.keys.tell_use().await;
    assert_eq!(here.store.keys().await.unwrap().1[0].used_ms, Some(at));
    assert_eq!(used().await, Some(at));
}

#[tokio::test]
async fn ten_thousand_random_tokens_cost_no_statement_nor_does_a_good_one() {
    let here = here().await;
    let (_, token) = here.keys.create(wanted("alice", None)).await.unwrap();
    // Any statement from here on is an error.
    here.store.close().await.unwrap();
    assert!(here.store.keys().await.is_err() && here.keys.look().await.is_err());
    for _ in 0..10_000 {
        assert_eq!(here.keys.identify(&Token::new().unwrap()), Err(Unfit::Unknown));
    }
    assert!(here.keys.identify(&token).is_ok(), "a store that is away locks nobody out");
}

#[tokio::test]
async fn what_another_server_changes_is_seen() {
    let here = here().await;
    let other = Keys::open(here.store.clone()).await.unwrap();
    let (key, token) = other.create(wanted("alice", None)).await.unwrap();
    assert_eq!(here.keys.identify(&token), Err(Unfit::Unknown));
    here.keys.look().await.unwrap();
    assert!(here.keys.identify(&token).is_ok());
    let keeper = here.keys.keep();
    other.revoke(key.id).await.unwrap();
    let began = std::time::Instant::now();
    while here.keys.identify(&token).is_ok() {
        assert!(began.elapsed() < 2 * LOOK + Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(here.keys.identify(&token), Err(Unfit::Revoked));
    keeper.abort();
}
