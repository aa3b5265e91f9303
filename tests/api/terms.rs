//! How much owners and keys may ask for: requests on their way, a day's work, jobs, weights.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt;
use mediant::http::{Kind, router};
use mediant::keys::{Scope, Wanted};
use mediant::owner::{Owner, Terms, Weight};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::keys::{Client, ask, sweep, wanted};
use crate::schema::check_response;
use crate::support::{all_scopes, tiny, tiny_with, with_keys};

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_has_so_many_requests_on_their_way_whatever_the_key() {
    let (state, keys) = with_keys(tiny_with(&[("limits.owner_requests", "1")])).await;
    let router = router(state.clone());
    let (alice, second) =
        (Client::new(&router, &keys, "alice").await, Client::new(&router, &keys, "alice").await);
    let bob = Client::new(&router, &keys, "bob").await;
    // A body that does not end.
    let stalled = Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request = Request::post("/v1/run").header("authorization", &alice.bearer).body(stalled).unwrap();
    let held = tokio::spawn(router.clone().oneshot(request));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let tokenize = async |client: &Client| {
        let request = Request::post("/v1/tokenize").header("authorization", &client.bearer);
        let request = request.body(Body::from("{\"prompt\":\"Hi\"}")).unwrap();
        router.clone().oneshot(request).await.unwrap()
    };
    let refused = tokenize(&second).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let told = refused.into_body().collect().await.unwrap().to_bytes();
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["errors"][0]["code"], "owner_requests");
    assert_eq!(told["type"], format!("urn:mediant:problem:{}", Kind::Overloaded.slug()));
    assert_eq!(tokenize(&bob).await.status(), 200);
    let me = Request::get("/v1/me").header("authorization", &second.bearer).body(Body::empty()).unwrap();
    assert_eq!(router.clone().oneshot(me).await.unwrap().status(), 200, "reading is not counted");
    held.abort();
    let _ = held.await;
    assert_eq!(tokenize(&second).await.status(), 200, "who has left is not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_computed_is_counted_by_owner_and_a_days_limit_holds() {
    let (state, keys) = with_keys(tiny_with(&[("limits.owner_row_layers_day", "1")])).await;
    let router = router(state.clone());
    let (alice, second) =
        (Client::new(&router, &keys, "alice").await, Client::new(&router, &keys, "alice").await);
    let (bob, run) = (Client::new(&router, &keys, "bob").await, json!({"prompt": "Rome is in"}));
    assert_eq!(alice.get("/v1/me").await.json()["today"]["row_layers"], 0);
    let answer = alice.made("/v1/run", &run).await;
    let me = second.get("/v1/me").await.json();
    check_response("get", "/v1/me", "200", &me);
    let today = &me["today"];
    assert_eq!(today["row_layers"], answer["usage"]["row_layers"]);
    assert!(today["row_layers"].as_u64().unwrap() > 1, "{me}");
    assert_eq!((&today["requests"], &today["row_layers_limit"]), (&json!(1), &json!(1)));
    for (path, body) in [("/v1/run", &run), ("/v1/sweep", &sweep())] {
        let refused = second.post(path, body).await;
        assert_eq!(refused.status, 429, "{path}: {}", refused.text());
        assert_eq!(refused.json()["errors"][0]["code"], "daily_limit");
        let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=86_400).contains(&wait));
    }
    assert_eq!(second.post("/v1/tokenize", &run).await.status, 200, "what computes nothing is let in");
    let answer = bob.made("/v1/run", &run).await;
    let service = state.service.get().unwrap();
    service.ledger.settle(&state.jobs.get().unwrap().store).await.unwrap();
    let usage = bob.get("/v1/admin/usage").await.json();
    check_response("get", "/v1/admin/usage", "200", &usage);
    let rows = usage["owners"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["owner"].as_str().unwrap()).collect::<Vec<_>>(), ["alice", "bob"]);
    assert_eq!(rows[1]["row_layers"], answer["usage"]["row_layers"]);
    let same = bob.get(&format!("/v1/admin/usage?day={}", usage["day"].as_str().unwrap())).await.json();
    assert_eq!(same, usage);
    assert_eq!(bob.get("/v1/admin/usage?day=2020-02-29").await.json()["owners"], json!([]));
    for day in ["2026-02-30", "today", ""] {
        let refused = bob.get(&format!("/v1/admin/usage?day={day}")).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["errors"][0]["pointer"]), (422, &json!("?day")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_owners_have_weights_and_limits_of_their_own() {
    let (state, keys) = with_keys(tiny()).await;
    let router = router(state.clone());
    let root = Client::new(&router, &keys, "root").await;
    let all: Vec<&str> = Scope::ALL.iter().map(|(name, _)| *name).collect();
    let make = async |owner: &str, terms: Value| {
        let mut body = json!({"owner": owner, "scopes": all});
        body.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        let made = root.made("/v1/admin/keys", &body).await;
        check_response("post", "/v1/admin/keys", "201", &made);
        let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
        (Client { router: router.clone(), bearer }, made)
    };
    let limits = json!({"requests": 1, "jobs": 1, "row_layers_day": 1});
    let (tight, made) = make("ann", json!({"weight": 2.5, "limits": limits})).await;
    let (free, _) = make("ann", json!({})).await;
    assert_eq!((&made["weight"], &made["limits"]), (&json!(2.5), &limits));
    let me = tight.get("/v1/me").await.json();
    check_response("get", "/v1/me", "200", &me);
    assert_eq!((&me["weight"], &me["key"]["limits"]["jobs"]), (&json!(2.5), &json!(1)));
    assert_eq!(me["limits"], json!({"requests": 16, "jobs": 1000, "row_layers_day": null}));
    assert_eq!(free.get("/v1/me").await.json()["weight"], 1.0);

    // A key's day is over, its owner's other key goes on.
    let run = json!({"prompt": "Rome is in"});
    let cost = tight.made("/v1/run", &run).await["usage"]["row_layers"].as_u64().unwrap();
    let refused = tight.post("/v1/run", &run).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["errors"][0]["code"]),
        (429, &json!("key_daily_limit"))
    );
    free.made("/v1/run", &json!({"prompt": "Paris is in"})).await;
    let today = &tight.get("/v1/me").await.json()["today"];
    assert_eq!(today["key"]["row_layers"], cost);
    assert!(today["row_layers"].as_u64().unwrap() > cost, "{today}");

    // The owner's own terms come before the server's, and hold for all keys.
    let put = async |body: &Value| {
        ask(&router, Some(&root.bearer), &Method::PUT, "/v1/admin/owners/ann", body).await
    };
    let set =
        put(&json!({"weight": 0.5, "limits": {"row_layers_day": cost, "jobs": 2, "requests": 3}})).await;
    assert_eq!(set.status, 200, "{}", set.text());
    check_response("put", "/v1/admin/owners/{owner}", "200", &set.json());
    let listed = root.get("/v1/admin/owners").await.json();
    check_response("get", "/v1/admin/owners", "200", &listed);
    assert_eq!(listed["owners"], json!([set.json()]));
    let me = free.get("/v1/me").await.json();
    assert_eq!(
        (&me["weight"], &me["limits"]["requests"], &me["limits"]["jobs"]),
        (&json!(0.5), &json!(3), &json!(2))
    );
    assert_eq!(me["in_use"]["jobs"]["queued_limit"], 2);
    assert_eq!(tight.get("/v1/me").await.json()["weight"], 2.5, "the key's own comes first");
    let refused = free.post("/v1/run", &run).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["errors"][0]["code"]), (429, &json!("daily_limit")));

    // Jobs that wait: one of this key, two of the owner. None is computed here.
    put(&json!({"limits": {"jobs": 2}})).await;
    let (one_job, _) = make("ann", json!({"weight": 4, "limits": {"jobs": 1}})).await;
    let first = one_job.later("/v1/run", &run, "first").await;
    assert_eq!(first.status, 202, "{}", first.text());
    assert_eq!(one_job.later("/v1/run", &run, "second").await.status, 429);
    assert_eq!(free.later("/v1/run", &run, "third").await.status, 202);
    assert_eq!(free.later("/v1/run", &run, "fourth").await.status, 429);
    let id = mediant::store::job::JobId::parse(first.json()["id"].as_str().unwrap()).unwrap();
    let job = state.jobs.get().unwrap().store.job(id).await.unwrap().unwrap();
    assert_eq!((job.weight, job.key.is_some()), (400, true), "a job keeps what it was asked for with");

    // An empty object takes the owner's terms back.
    assert_eq!(put(&json!({})).await.status, 200);
    assert_eq!(root.get("/v1/admin/owners").await.json()["owners"], json!([]));
    for (body, pointer) in [
        (json!({"weight": 0}), "/weight"),
        (json!({"weight": 101}), "/weight"),
        (json!({"weight": "2"}), "/weight"),
        (json!({"limits": {"requests": 0}}), "/limits/requests"),
        (json!({"limits": {"jobs": -1}}), "/limits/jobs"),
        (json!({"limits": {"row_layers_day": u64::MAX}}), "/limits/row_layers_day"),
        (json!({"limits": {"rows": 1}}), "/limits/rows"),
        (json!({"limit": {}}), "/limit"),
    ] {
        let refused = put(&body).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["errors"][0]["pointer"]),
            (422, &json!(pointer)),
            "{body}"
        );
        let mut key = json!({"owner": "ann"});
        key.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        assert_eq!(root.post("/v1/admin/keys", &key).await.json()["errors"][0]["pointer"], pointer, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_so_many_requests_on_their_way_and_its_owner_more() {
    let (state, keys) = with_keys(tiny()).await;
    let router = router(state.clone());
    let owner = Owner::parse("ann").unwrap();
    let terms = Terms { requests: Some(1), weight: Weight::of(2.0), ..Terms::default() };
    let (_, token) = keys.create(Wanted { terms, ..wanted(&all_scopes(), None) }).await.unwrap();
    let tight = Client { router: router.clone(), bearer: format!("Bearer {}", token.expose()) };
    let free = Client::new(&router, &keys, "alice").await;
    let hold = |client: &Client| {
        let stalled = Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let request = Request::post("/v1/run").header("authorization", &client.bearer).body(stalled).unwrap();
        tokio::spawn(router.clone().oneshot(request))
    };
    let held = hold(&tight);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let hi = json!({"prompt": "Hi"});
    let refused = tight.post("/v1/tokenize", &hi).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["errors"][0]["code"]),
        (429, &json!("key_requests"))
    );
    assert_eq!(free.post("/v1/tokenize", &hi).await.status, 200);
    // Two of the owner's.
    keys.set_owner(&Owner::parse("alice").unwrap(), Terms { requests: Some(2), ..Terms::default() })
        .await
        .unwrap();
    let second = hold(&free);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = free.post("/v1/tokenize", &hi).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["errors"][0]["code"]),
        (429, &json!("owner_requests"))
    );
    keys.set_owner(&owner, Terms { requests: Some(1), ..Terms::default() }).await.unwrap();
    assert_eq!(free.post("/v1/tokenize", &hi).await.status, 429, "that was somebody else");
    held.abort();
    second.abort();
    let _ = (held.await, second.await);
    assert_eq!(tight.post("/v1/tokenize", &hi).await.status, 200);
}
