//! Who may ask for what: every route for every kind of key, and nothing of one owner for another.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, header};
use http_body_util::BodyExt;
use mediant::http::router;
use mediant::jobs::runner::Runner;
use mediant::keys::{Keys, Scope, Token, Wanted};
use mediant::owner::{Owner, Terms};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::schema::{check_response, documented};
use crate::support::{Reply, Server, all_scopes, limits, tiny, token, with_keys};

/// The routes and what each asks for, written down apart from the server's own table: no key, any key, one of these scopes.
const ROUTES: &[(&str, &[&str])] = &[
    (
        "open",
        &[
            "GET /healthz",
            "GET /readyz",
            "GET /v1/version",
            "GET /v1/openapi.json",
            "GET /ping",
            "GET /connected",
        ],
    ),
    ("token", &["GET /result/{id}"]),
    (
        "remote",
        &["GET /subscribe", "POST /request", "GET /response/{id}", "GET /status", "GET /env", "GET /whoami"],
    ),
    (
        "key",
        &[
            "GET /v1/me",
            "GET /v1/status",
            "GET /v1/models",
            "GET /v1/models/{id}",
            "GET /v1/capabilities",
            "GET /v1/results/{id}",
            "GET /v1/lints",
            "GET /v1/examples",
            "POST /v1/tokenize",
            "POST /v1/plan",
            "GET /v1/jobs",
            "GET /v1/jobs/{id}",
            "GET /v1/jobs/{id}/result",
            "GET /v1/jobs/{id}/plot",
            "GET /v1/jobs/{id}/events",
            "GET /v1/datasets",
            "GET /v1/datasets/{id}",
            "GET /v1/activations",
            "GET /v1/activations/{id}",
        ],
    ),
    (
        "run",
        &[
            "POST /v1/align",
            "POST /v1/run",
            "POST /v1/lens",
            "POST /v1/surprisal",
            "POST /v1/patch",
            "POST /v1/trace",
            "POST /v1/generate",
            "POST /v1/completions",
            "POST /v1/chat/completions",
        ],
    ),
    ("sweep", &["POST /v1/sweep"]),
    ("run, sweep", &["DELETE /v1/jobs/{id}"]),
    ("upload", &["POST /v1/datasets", "DELETE /v1/datasets/{id}", "POST /v1/activations"]),
    ("run, upload", &["DELETE /v1/activations/{id}"]),
    (
        "admin",
        &[
            "GET /metrics",
            "GET /v1/admin/keys",
            "POST /v1/admin/keys",
            "DELETE /v1/admin/keys/{id}",
            "POST /v1/admin/keys/{id}/rotate",
            "GET /v1/admin/usage",
            "GET /v1/admin/owners",
            "PUT /v1/admin/owners/{owner}",
        ],
    ),
];

fn routes() -> impl Iterator<Item = (&'static str, Method, &'static str)> {
    ROUTES.iter().flat_map(|(need, routes)| {
        routes.iter().map(move |route| {
            let (method, path) = route.split_once(' ').unwrap();
            (*need, method.parse().unwrap(), path)
        })
    })
}

/// An answer of a router, read to its end.
async fn answer(router: &Router, request: Request<Body>) -> Reply {
    let (head, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes().to_vec();
    Reply { status: head.status, headers: head.headers, bytes }
}

/// A request with a header `Authorization`, if one is given.
pub(crate) async fn ask(
    router: &Router,
    authorization: Option<&str>,
    method: &Method,
    path: &str,
    body: &Value,
) -> Reply {
    let mut request = Request::builder().method(method.clone()).uri(path);
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    let body = if *method == Method::POST || *method == Method::PUT {
        request = request.header(header::CONTENT_TYPE, "application/json");
        Body::from(body.to_string())
    } else {
        Body::empty()
    };
    answer(router, request.body(body).unwrap()).await
}

/// Somebody with a key.
pub(crate) struct Client {
    pub(crate) router: Router,
    pub(crate) bearer: String,
}

impl Client {
    pub(crate) async fn new(router: &Router, keys: &Keys, owner: &str) -> Self {
        Self { router: router.clone(), bearer: format!("Bearer {}", token(keys, owner, &all_scopes()).await) }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        ask(&self.router, Some(&self.bearer), &Method::GET, path, &Value::Null).await
    }

    async fn delete(&self, path: &str) -> Reply {
        ask(&self.router, Some(&self.bearer), &Method::DELETE, path, &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        ask(&self.router, Some(&self.bearer), &Method::POST, path, body).await
    }

    pub(crate) async fn made(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        assert!(reply.status.is_success(), "{path}: {}", reply.text());
        reply.json()
    }

    /// A request that becomes a job.
    pub(crate) async fn later(&self, path: &str, body: &Value, key: &str) -> Reply {
        let request = Request::post(path)
            .header(header::AUTHORIZATION, &self.bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .header("prefer", "respond-async")
            .header("idempotency-key", key);
        answer(&self.router, request.body(Body::from(body.to_string())).unwrap()).await
    }

    async fn until(&self, job: &str, wanted: &str) -> Value {
        let began = Instant::now();
        loop {
            let view = self.get(&format!("/v1/jobs/{job}")).await.json();
            if view["state"] == wanted {
                return view;
            }
            assert!(began.elapsed() < Duration::from_mins(1), "never {wanted}: {view}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn wanted(scopes: &[Scope], ttl_s: Option<u64>) -> Wanted {
    let owner = Owner::parse("alice").unwrap();
    Wanted {
        owner,
        name: String::new(),
        scopes: scopes.iter().copied().collect(),
        ttl_s,
        terms: Terms::default(),
    }
}

pub(crate) fn sweep() -> Value {
    json!({"dataset": {"inline": [{"prompt": "Rome is in", "subject": "Rome", "target": "I"}]},
           "corrupt": {"samples": 2}, "arms": ["hidden"], "filters": {"expect_top1": false}})
}

#[test]
fn the_document_says_of_every_route_what_it_asks_for() {
    let document: Value = serde_json::from_str(&mediant::http::openapi()).unwrap();
    let scheme = &document["components"]["securitySchemes"]["key"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
    assert_eq!(document["security"], json!([{"key": []}]));
    let mut found = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase();
            let route = routes().find(|(_, m, p)| m.as_str() == method && p == path);
            let (need, ..) = route.unwrap_or_else(|| panic!("{method} {path} is in no list of this test"));
            found += 1;
            let answers = &operation["responses"];
            if matches!(need, "open" | "token") {
                assert_eq!(operation["security"], json!([]), "{method} {path}");
                continue;
            }
            assert!(operation["security"].is_null(), "{method} {path} has what holds for all");
            for status in ["401", "403", "429"] {
                assert!(answers[status].is_object(), "{method} {path} {status}");
            }
            let scope = answers["403"]["description"].as_str().unwrap();
            let said =
                scope.split("needs the scope ").nth(1).map(|scope| scope.trim_start_matches("one of "));
            assert_eq!(said, (need != "key").then_some(need), "{method} {path}");
            assert_eq!(path.contains('{'), answers["404"].is_object(), "{method} {path}");
        }
    }
    assert_eq!(found, routes().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_in_who_has_what_it_asks_for_and_nobody_else() {
    let (state, keys) = with_keys(tiny()).await;
    let router = router(state.clone());
    let bearer = |token: &Token| Some(format!("Bearer {}", token.expose()));
    let (revoked, ended) = keys.create(wanted(&all_scopes(), None)).await.unwrap();
    keys.revoke(revoked.id).await.unwrap();
    let (_, expired) = keys.create(wanted(&all_scopes(), Some(1))).await.unwrap();
    let (replaced, old) = keys.create(wanted(&all_scopes(), None)).await.unwrap();
    let (_, new) = keys.rotate(replaced.id, 0).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let unknown = Token::new().unwrap();
    let mangled = unknown.expose().replacen('_', "-", 1);
    let good = bearer(&new).unwrap();
    // Who is not let in, and why.
    let strangers = [
        (None, "missing_key", "Bearer realm=\"mediant\""),
        (Some("Bearer".to_owned()), "bad_authorization", "invalid_request"),
        (Some(format!("Basic {}", new.expose())), "bad_authorization", "invalid_request"),
        (Some(format!("Bearer {mangled}")), "malformed_key", "invalid_token"),
        (Some("Bearer ".to_owned() + &"x".repeat(4000)), "malformed_key", "invalid_token"),
        (Some(format!("{good} ") + new.expose()), "malformed_key", "invalid_token"),
        (bearer(&unknown), "unknown_key", "invalid_token"),
        (bearer(&ended), "revoked_key", "invalid_token"),
        (bearer(&expired), "expired_key", "invalid_token"),
        (bearer(&old), "expired_key", "invalid_token"),
    ];
    let mut of_scope = vec![("none", Vec::new())];
    of_scope.extend(Scope::ALL.iter().map(|(name, scope)| (*name, vec![*scope])));
    of_scope.push(("all", all_scopes()));
    let mut roles = Vec::new();
    for (name, scopes) in of_scope {
        roles.push((name, bearer(&keys.create(wanted(&scopes, None)).await.unwrap().1)));
    }
    // Who fetches a result shows no key, but the token in its address.
    for (need, method, template) in routes().filter(|(need, ..)| *need != "token") {
        let path = template.replace("{id}", "nothing-of-that-name").replace("{owner}", "Nobody");
        let here = format!("{method} {path}");
        let of = template.to_owned();
        for (authorization, code, challenge) in &strangers {
            let reply = ask(&router, authorization.as_deref(), &method, &path, &json!({})).await;
            if need == "open" {
                assert_eq!(reply.status, 200, "{here}: {}", reply.text());
                continue;
            }
            assert_eq!(reply.status, 401, "{here} {code}: {}", reply.text());
            let told = reply.json();
            assert_eq!(told["errors"][0]["code"], *code, "{here}");
            assert!(!told["errors"][0]["fix"].as_str().unwrap().is_empty());
            let said = reply.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
            assert!(said.starts_with("Bearer realm=\"mediant\"") && said.contains(challenge), "{said}");
            check_response(&method.as_str().to_lowercase(), &of, "401", &told);
            let shown = format!("{} {:?}", reply.text(), reply.headers);
            for token in [&new, &unknown, &ended, &expired, &old] {
                assert!(!shown.contains(&token.expose()[4..40]), "{shown}");
            }
        }
        for (role, authorization) in &roles {
            let reply = ask(&router, authorization.as_deref(), &method, &path, &json!({})).await;
            let may = matches!(need, "open" | "key")
                || *role == "all"
                || need.split(", ").any(|scope| scope == *role);
            if may {
                assert!(!matches!(reply.status.as_u16(), 401 | 403), "{here} {role}: {}", reply.text());
                assert!(
                    documented(method.as_str(), template, reply.status.as_u16()),
                    "{here} {}",
                    reply.status
                );
            } else {
                assert_eq!(reply.status, 403, "{here} {role}: {}", reply.text());
                let told = reply.json();
                assert_eq!(told["errors"][0]["code"], "missing_scope");
                assert_eq!(told["scopes"], json!(need.split(", ").collect::<Vec<_>>()), "{here}");
                let said = reply.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
                assert!(said.ends_with(&format!("scope=\"{}\"", need.replace(", ", " "))), "{said}");
                check_response(&method.as_str().to_lowercase(), &of, "403", &told);
            }
            if method == Method::GET {
                let head = ask(&router, authorization.as_deref(), &Method::HEAD, &path, &Value::Null).await;
                assert_eq!(head.status, reply.status, "HEAD {path} {role}");
                assert!(head.bytes.is_empty());
            }
        }
    }
    // The scheme's name is written as one likes, and several headers are none.
    let reply =
        ask(&router, Some(&good.replace("Bearer", "bEARER")), &Method::GET, "/v1/me", &Value::Null).await;
    assert_eq!(reply.status, 200);
    let twice = Request::get("/v1/me").header("authorization", &good).header("authorization", &good);
    let reply = answer(&router, twice.body(Body::empty()).unwrap()).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["errors"][0]["code"]),
        (401, &json!("bad_authorization"))
    );
    for (method, path, status) in [(Method::PUT, "/v1/run", 405), (Method::GET, "/v1/nothing", 404)] {
        assert_eq!(
            ask(&router, None, &method, path, &Value::Null).await.status,
            status,
            "no work lies there"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_others_there_is_nothing() {
    let (state, keys) = with_keys(tiny()).await;
    let router = router(state.clone());
    let runner = Runner::start(state.jobs.get().unwrap());
    let alice = Client::new(&router, &keys, "alice").await;
    let bob = Client::new(&router, &keys, "bob").await;
    let id = |value: &Value| value.as_str().unwrap().to_owned();
    let cases = json!([{"prompt": "Rome is in", "subject": "Rome", "target": "I"}]);
    let set = id(&alice.made("/v1/datasets", &cases).await["id"]);
    let capture = json!({"site": "mlp_out", "layers": [1], "positions": 1, "as": "handle"});
    let run = json!({"prompt": "Rome is in", "read": {"capture": [capture]}});
    let run = alice.made("/v1/run", &run).await;
    let activation = id(&run["runs"]["run"]["captures"][0]["activation"]);
    let key = "the same for both";
    let job = id(&alice.later("/v1/sweep", &sweep(), key).await.json()["id"]);
    alice.until(&job, "succeeded").await;
    let long = id(&alice.later("/v1/sweep", &sweep(), "another").await.json()["id"]);

    // A name that stands for nothing gets the same words.
    let nothing = |id: &str| {
        let (kind, rest) = id.split_once('_').unwrap();
        format!("{kind}_{}", rest.chars().rev().collect::<String>())
    };
    let same = |mine: &Reply, none: &Reply, id: &str| {
        let told = |reply: &Reply| {
            let mut told = reply.json();
            told["instance"] = Value::Null;
            told.to_string()
        };
        assert_eq!(mine.status, none.status);
        assert_eq!(told(mine), told(none).replace(&nothing(id), id));
    };
    for (path, id) in [
        ("/v1/datasets/{id}", &set),
        ("/v1/activations/{id}", &activation),
        ("/v1/activations/{id}?format=npz", &activation),
        ("/v1/activations/{id}?reduce=norm", &activation),
        ("/v1/jobs/{id}", &job),
        ("/v1/jobs/{id}/result", &job),
        ("/v1/jobs/{id}/result?format=csv&table=cells", &job),
        ("/v1/jobs/{id}/result?partial=true", &long),
        ("/v1/jobs/{id}/plot", &job),
        ("/v1/jobs/{id}/events", &job),
        ("/v1/jobs/{id}/events?after=1", &long),
    ] {
        let there = path.replace("{id}", id);
        assert!(alice.get(&there).await.status.is_success(), "{there}");
        let (mine, none) = (bob.get(&there).await, bob.get(&path.replace("{id}", &nothing(id))).await);
        assert_eq!(mine.status, 404, "{there}: {}", mine.text());
        same(&mine, &none, id);
        if !path.contains('?')
            && !path.ends_with("result")
            && !path.ends_with("plot")
            && !path.ends_with("events")
        {
            let none = bob.delete(&path.replace("{id}", &nothing(id))).await;
            let mine = bob.delete(&there).await;
            assert_eq!(mine.status, 404, "{there}: {}", mine.text());
            same(&mine, &none, id);
            assert!(alice.get(&there).await.status.is_success(), "it is there still");
        }
    }
    assert_eq!(bob.delete(&format!("/v1/jobs/{long}")).await.status, 404);
    alice.until(&long, "succeeded").await;

    // Nor in lists, whatever page is asked for.
    for (path, list) in [
        ("/v1/jobs".to_owned(), "jobs"),
        (format!("/v1/jobs?before={}", nothing(&long).replace(|c: char| c.is_ascii_hexdigit(), "f")), "jobs"),
        ("/v1/datasets".to_owned(), "datasets"),
        ("/v1/activations".to_owned(), "activations"),
        (format!("/v1/activations?after={activation}"), "activations"),
    ] {
        let reply = bob.get(&path).await;
        if reply.status == 200 {
            assert_eq!(reply.json()[list], json!([]), "{path}");
        } else {
            assert!(reply.status.is_client_error(), "{path}: {}", reply.text());
        }
    }
    assert_eq!(alice.get("/v1/jobs").await.json()["jobs"].as_array().unwrap().len(), 2);
    let me = bob.get("/v1/me").await.json();
    check_response("get", "/v1/me", "200", &me);
    assert_eq!((&me["owner"], &me["in_use"]["datasets"]["count"]), (&json!("bob"), &json!(0)));
    assert_eq!(alice.get("/v1/me").await.json()["in_use"]["datasets"]["count"], 1);

    // Nor in what requests name.
    let own = json!({"prompt": "Rome is in", "read": {"capture": [capture]}});
    let own = bob.made("/v1/run", &own).await;
    let own = id(&own["runs"]["run"]["captures"][0]["activation"]);
    let cosine = |of: &str| format!("/v1/activations/{own}?cosine={of}");
    same(&bob.get(&cosine(&activation)).await, &bob.get(&cosine(&nothing(&activation))).await, &activation);
    let named = |activation: &str, set: &str, job: &str| {
        let source =
            json!({"site": "mlp_out", "layers": [1], "positions": 1, "source": {"activation": activation}});
        let cells =
            json!([{"site": "mlp_out", "positions": 1, "cells": {"of": job, "k": 1}, "source": "zero"}]);
        let of_job = json!({"dataset": {"inline": cases}, "arms": {"x": cells}, "sweep": []});
        [
            ("/v1/patch", json!({"prompt": "Rome is in", "target": "I", "interventions": [source]})),
            ("/v1/sweep", json!({"dataset": {"id": set}, "corrupt": {"samples": 2}, "arms": ["hidden"]})),
            ("/v1/sweep", of_job.clone()),
            ("/v1/plan", json!({"sweep": of_job})),
            (
                "/v1/plan",
                json!({"sweep": {"dataset": {"id": set}, "corrupt": {"samples": 2}, "arms": ["hidden"]}}),
            ),
            ("/v1/activations", json!({"site": "mlp_out", "mean_of": {"dataset": {"id": set}}})),
        ]
    };
    let of_alice = named(&activation, &set, &job);
    let of_nobody = named(&nothing(&activation), &nothing(&set), &nothing(&job));
    for ((path, body), (_, none)) in of_alice.iter().zip(&of_nobody) {
        let (mine, none) = (bob.post(path, body).await, bob.post(path, none).await);
        assert_eq!(mine.status, 422, "{path} {body}: {}", mine.text());
        let told = |reply: &Reply| reply.json()["errors"].to_string();
        let mut expected = told(&none);
        for id in [&activation, &set, &job] {
            expected = expected.replace(&nothing(id), id);
        }
        assert_eq!(told(&mine), expected, "{path}");
    }

    // The same idempotency key is another job, also for another request.
    let mut other = sweep();
    other["corrupt"]["samples"] = json!(3);
    let reply = bob.later("/v1/sweep", &other, key).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    assert!(!reply.headers.contains_key("idempotent-replayed"));
    assert_ne!(id(&reply.json()["id"]), job);
    let again = alice.later("/v1/sweep", &sweep(), key).await;
    assert_eq!(
        (id(&again.json()["id"]), again.headers["idempotent-replayed"].to_str().unwrap()),
        (job, "true")
    );
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_when_its_key_ends_and_belongs_to_the_owner() {
    let (state, keys) = with_keys(tiny()).await;
    let router = router(state.clone());
    let (key, token) = keys.create(wanted(&all_scopes(), None)).await.unwrap();
    let alice = Client { router: router.clone(), bearer: format!("Bearer {}", token.expose()) };
    let job = alice.later("/v1/sweep", &sweep(), "once").await.json()["id"].as_str().unwrap().to_owned();
    // A stream that is open when the key ends.
    let events = Request::get(format!("/v1/jobs/{job}/events")).header("authorization", &alice.bearer);
    let events = router.clone().oneshot(events.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(events.status(), 200);
    keys.revoke(key.id).await.unwrap().unwrap();
    let refused = alice.get(&format!("/v1/jobs/{job}")).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["errors"][0]["code"]), (401, &json!("revoked_key")));
    let runner = Runner::start(state.jobs.get().unwrap());
    let told =
        tokio::time::timeout(Duration::from_mins(1), events.into_body().collect()).await.unwrap().unwrap();
    let told = String::from_utf8(told.to_bytes().to_vec()).unwrap();
    assert!(told.contains("\"succeeded\""), "{told}");
    let again = Client::new(&router, &keys, "alice").await;
    again.until(&job, "succeeded").await;
    assert_eq!(again.get(&format!("/v1/jobs/{job}/result")).await.status, 200);
    // Sent again with the owner's other key it is the same job.
    let same = again.later("/v1/sweep", &sweep(), "once").await;
    assert_eq!(same.json()["id"], json!(job));
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_replaced_and_ended_over_http() {
    let (state, keys) = with_keys(tiny()).await;
    let router = router(state.clone());
    let admin = Client {
        router: router.clone(),
        bearer: format!("Bearer {}", token(&keys, "ann", &[Scope::Admin]).await),
    };
    let body = json!({"owner": "alice", "scopes": ["run", "upload"], "name": "notebook", "ttl_s": 3600});
    let reply = admin.post("/v1/admin/keys", &body).await;
    assert_eq!(
        (reply.status.as_u16(), reply.headers[header::CACHE_CONTROL].to_str().unwrap()),
        (201, "no-store")
    );
    let made = reply.json();
    check_response("post", "/v1/admin/keys", "201", &made);
    let alice =
        Client { router: router.clone(), bearer: format!("Bearer {}", made["token"].as_str().unwrap()) };
    let me = alice.get("/v1/me").await.json();
    assert_eq!((&me["key"]["id"], &me["scopes"]), (&made["id"], &json!(["run", "upload"])));
    assert_eq!(
        alice.made("/v1/tokenize", &json!({"prompt": "Hi"})).await["tokens"].as_array().unwrap().len(),
        3
    );
    let path = format!("/v1/admin/keys/{}", made["id"].as_str().unwrap());
    let next = admin.made(&format!("{path}/rotate"), &json!({"grace_s": 60})).await;
    check_response("post", "/v1/admin/keys/{id}/rotate", "201", &next);
    assert_eq!((&next["follows"], &next["owner"]), (&made["id"], &json!("alice")));
    assert_eq!(admin.post(&format!("{path}/rotate"), &json!({})).await.status, 422, "it has been replaced");
    let ended = admin.delete(&path).await.json();
    assert_eq!(ended["standing"], "revoked");
    assert_eq!(alice.get("/v1/me").await.status, 401);
    let list = admin.get("/v1/admin/keys").await;
    check_response("get", "/v1/admin/keys", "200", &list.json());
    assert_eq!(list.json()["keys"].as_array().unwrap().len(), 3);
    assert!(!list.text().contains("mdt_"), "no token is listed");
    for (body, pointer) in [
        (json!({"scopes": ["run"]}), "/owner"),
        (json!({"owner": "local"}), "/owner"),
        (json!({"owner": "A B"}), "/owner"),
        (json!({"owner": "a", "scopes": ["fly"]}), "/scopes/0"),
        (json!({"owner": "a", "scopes": "run"}), "/scopes"),
        (json!({"owner": "a", "name": "x".repeat(129)}), "/name"),
        (json!({"owner": "a", "ttl_s": 0}), "/ttl_s"),
        (json!({"owner": "a", "ttl_s": 1_000_000_000_000_u64}), "/ttl_s"),
        (json!({"owner": "a", "expires": "90d"}), "/expires"),
    ] {
        let reply = admin.post("/v1/admin/keys", &body).await;
        assert_eq!(reply.status, 422, "{body}: {}", reply.text());
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{}", reply.text());
    }
    let grace = admin.post(&format!("{path}/rotate"), &json!({"grace_s": 604_801})).await;
    assert_eq!(grace.json()["errors"][0]["pointer"], "/grace_s", "{}", grace.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_body_is_read_before_it_is_known_who_asks() {
    let (state, keys) = with_keys(tiny()).await;
    let router = router(state.clone());
    let good = token(&keys, "alice", &[Scope::Upload]).await;
    let free = state.capacity.free();
    let server = Server::start(router, limits()).await;
    for (authorization, status) in
        [(String::new(), "401"), (format!("authorization: Bearer {good}\r\n"), "403")]
    {
        let mut stream = server.connect();
        let head = format!(
            "POST /v1/run HTTP/1.1\r\nhost: x\r\n{authorization}expect: 100-continue\r\ncontent-length: 900000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // No byte of the body is sent.
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(String::from_utf8_lossy(&start), format!("HTTP/1.1 {status}"));
        assert!(stream.opened.elapsed() < Duration::from_secs(2), "{:?}", stream.opened.elapsed());
    }
    assert_eq!(state.capacity.free(), free);
    // Who may go on is told to send it.
    let mut stream = server.connect();
    let head = format!(
        "POST /v1/datasets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {good}\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(String::from_utf8_lossy(&start), "HTTP/1.1 100");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_wrong_keys_again_and_again_waits_and_who_has_a_good_one_does_not() {
    let (state, keys) = with_keys(tiny()).await;
    let router = router(state.clone());
    let good = token(&keys, "alice", &[]).await;
    let server = Server::start(router, limits()).await;
    let client = reqwest::Client::new();
    let url = format!("http://{}/v1/me", server.address);
    let ask = async |token: &str| client.get(&url).bearer_auth(token).send().await.unwrap();
    let mut refused = 0;
    for n in 0..80 {
        let wrong =
            if n % 2 == 0 { Token::new().unwrap().expose().to_owned() } else { "mdt_wrong".to_owned() };
        let reply = ask(&wrong).await;
        if reply.status() == 401 {
            continue;
        }
        assert_eq!(reply.status(), 429);
        assert!(reply.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        let told: Value = serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap();
        assert_eq!(told["errors"][0]["code"], "failed_keys");
        refused += 1;
    }
    assert!((1..=30).contains(&refused), "{refused}");
    assert_eq!(ask(&good).await.status(), 200, "from the same address");
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401, "to show none is no failure");
}
