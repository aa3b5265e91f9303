//! Experiments as events: what is told, that a client whose connection was cut goes on, and that nothing is computed for nobody.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, header};
use mediant::engine::Activity;
use mediant::http::{AppState, router};
use serde_json::{Value, json};

use crate::support::{
    Server, all_is_free, all_scopes, get, limits, ok, post_accepting, send, tiny_with, token, with_keys,
};

const EVENTS: &str = "text/event-stream";

/// A trace that takes seconds in pieces of a tenth.
fn long() -> Value {
    json!({"prompt": "The Eiffel Tower is in the city of Paris, and the Colosseum in that of", "subject": "Eiffel Tower",
           "target": "P", "arms": ["hidden", "mlp"], "corrupt": {"samples": 20}})
}

/// A server of its own, whose pieces are short.
fn server() -> AppState {
    tiny_with(&[("engine.quantum_s", "0.02"), ("engine.threads", "1"), ("cache.share", "off")])
}

/// An event: its id, its name and its data.
type Event = (String, String, Value);

/// The events in a text, the last of which may be cut.
fn events(text: &str) -> Vec<Event> {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    let blocks = whole.split("\n\n").map(|block| block.trim_start_matches(|c: char| c != 'i' && c != 'e'));
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
    };
    let read = |block: &str| {
        let data = field(block, "data: ");
        (!data.is_empty())
            .then(|| (field(block, "id: "), field(block, "event: "), serde_json::from_str(&data).unwrap()))
    };
    blocks.filter_map(read).collect()
}

fn activity(state: &AppState) -> Activity {
    state.service.get().unwrap().engine.activity()
}

async fn again(state: &AppState, body: &Value, last: &str) -> crate::support::Reply {
    let request = Request::post("/v1/trace").header(header::ACCEPT, EVENTS).header("last-event-id", last);
    send(state, request.body(Body::from(body.to_string())).unwrap()).await
}

/// The answer without what is made anew.
fn numbers(mut answer: Value) -> Value {
    for name in ["id", "usage"] {
        answer[name].take();
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_tells_its_cells_as_they_come_and_last_its_answer() {
    let state = server();
    let reply = post_accepting(&state, "/v1/trace", &long(), EVENTS).await;
    assert_eq!((reply.status.as_u16(), reply.media_type()), (200, EVENTS));
    let events = events(&reply.text());
    let (first, last) = (&events[0], &events[events.len() - 1]);
    assert_eq!((first.1.as_str(), last.1.as_str()), ("start", "result"));
    let (start, result) = (&first.2, &last.2);
    assert_eq!(numbers(result.clone()), numbers(ok(&state, "/v1/trace", &long()).await));
    // What is told before is what the answer says.
    for place in ["/id", "/request", "/targets", "/tokens", "/subject", "/samples", "/sigma", "/direction"] {
        assert_eq!(start.pointer(place), result.pointer(place), "{place}");
    }
    for arm in ["hidden", "mlp"] {
        assert_eq!(start["arms"][arm]["axes"], result["arms"][arm]["axes"]);
        assert_eq!(start["arms"][arm]["masks"]["trivial"], result["arms"][arm]["masks"]["trivial"]);
        assert_eq!(start["arms"][arm]["masks"]["exact_null"], result["arms"][arm]["masks"]["exact_null"]);
    }
    let metric = start["metric"].as_str().unwrap();
    let cells: Vec<&Value> = events.iter().filter(|(_, name, _)| name == "cells").map(|(.., d)| d).collect();
    // How many there are depends on how fast the machine is.
    assert!(!cells.is_empty(), "{}", events.len());
    // A cell of all samples is what the answer says of it.
    let (mut partial, mut whole) = (0, 0);
    for (name, arm) in cells.iter().flat_map(|cells| cells["arms"].as_object().unwrap()) {
        let columns = result["arms"][name]["axes"][1]["values"].as_array().unwrap().len();
        for (i, cell) in arm["at"].as_array().unwrap().iter().enumerate() {
            let cell = cell.as_u64().unwrap() as usize;
            if arm["samples"][i] != 20 {
                partial += 1;
                continue;
            }
            whole += 1;
            for (told, answered) in [("effects", "mean"), ("se", "se")] {
                let exact =
                    &result["arms"][name]["effects"][metric][answered][cell / columns][cell % columns];
                assert_eq!(arm[told][i].as_f64().map(|x| x as f32), exact.as_f64().map(|x| x as f32));
            }
        }
    }
    assert!(partial + whole > 0);
    let baselines = &cells[cells.len() - 1]["baselines"];
    assert_eq!(baselines["corrupted"]["mean"], result["baselines"]["corrupted"][metric]["mean"]);
    let done: Vec<u64> = events
        .iter()
        .filter(|(_, name, _)| name == "progress")
        .map(|(.., data)| {
            assert!(data["done"].as_u64() <= data["all"].as_u64());
            data["done"].as_u64().unwrap()
        })
        .collect();
    assert!(done.is_sorted() && !done.is_empty(), "{done:?}");
    let ids: Vec<String> =
        (1..=events.len()).map(|n| format!("{}:{n}", result["id"].as_str().unwrap())).collect();
    assert_eq!(events.iter().map(|(id, ..)| id.clone()).collect::<Vec<_>>(), ids);
    // Runs and patches tell the same way; a metric that is known last has no cells.
    for (path, body) in [
        ("/v1/run", json!({"prompt": "The Tower", "target": "P"})),
        ("/v1/patch", json!({"base": "The Tower", "source": "The river", "target": "P"})),
        ("/v1/patch", json!({"base": "The Tower", "source": "The river", "metrics": ["delta_norm"]})),
        (
            "/v1/trace",
            json!({"cases": [{"prompt": "The Tower", "subject": "Tower", "target": "P"}], "layers": [1]}),
        ),
    ] {
        let told = self::events(&post_accepting(&state, path, &body, EVENTS).await.text());
        assert_eq!(numbers(told[told.len() - 1].2.clone()), numbers(ok(&state, path, &body).await), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_frees_the_engine_loses_nothing_and_computes_nothing_twice() {
    let state = server();
    let before = activity(&state).row_layers;
    let undisturbed = numbers(ok(&state, "/v1/trace", &long()).await);
    let all = activity(&state).row_layers - before;
    let server = Server::start(router(state.clone()), limits()).await;
    let before = activity(&state).row_layers;
    let mut client = server.connect();
    let body = long().to_string();
    let head = format!(
        "POST /v1/trace HTTP/1.1\r\nhost: x\r\naccept: {EVENTS}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all((head + &body).as_bytes()).unwrap();
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while !text.contains("event: cells") {
        let n = client.read(&mut bytes).unwrap();
        assert!(n > 0, "{text}");
        text += &String::from_utf8_lossy(&bytes[..n]);
    }
    drop(client);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (left, requests) = (activity(&state).row_layers, activity(&state).requests);
    // On a fast machine all was computed before the client left.
    assert!(left - before <= all, "{} of {all}", left - before);
    assert_eq!(requests, 0, "its place is free");
    let started = Instant::now();
    ok(&state, "/v1/run", &json!({"prompt": "somebody else"})).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let others = activity(&state).row_layers - left;
    let seen = events(&text);
    let last = &seen[seen.len() - 1].0;
    let rest = events(&again(&state, &long(), last).await.text());
    let all_ids: Vec<&str> = seen.iter().chain(&rest).map(|(id, ..)| id.as_str()).collect();
    let id = rest[rest.len() - 1].2["id"].as_str().unwrap();
    let expected: Vec<String> = (1..=all_ids.len()).map(|n| format!("{id}:{n}")).collect();
    assert_eq!(all_ids, expected);
    assert_eq!(numbers(rest[rest.len() - 1].2.clone()), undisturbed);
    // Unpatched runs are computed with each piece that reads them, so a few pieces more cost a little.
    let computed = activity(&state).row_layers - before - others;
    assert!(computed < all + all / 10, "{computed}, undisturbed {all}");
    // A stream that is over is told again, as is any part of it.
    let whole = events(&again(&state, &long(), &format!("{id}:0")).await.text());
    assert_eq!(whole.len(), all_ids.len());
    assert_eq!(activity(&state).row_layers - before - others, computed);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_their_owners_and_of_one_request_and_are_forgotten() {
    let (state, keys) = with_keys(tiny_with(&[])).await;
    let (ann, bob) = (token(&keys, "ann", &all_scopes()).await, token(&keys, "bob", &all_scopes()).await);
    let ask = async |key: &str, body: &Value, last: &str| {
        let request = Request::post("/v1/run")
            .header(header::ACCEPT, EVENTS)
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .header("last-event-id", last);
        send(&state, request.body(Body::from(body.to_string())).unwrap()).await
    };
    let body = json!({"prompt": "The Tower"});
    let first = events(&ask(&ann, &body, "").await.text());
    let id = first[0].0.clone();
    let again = events(&ask(&ann, &body, &id).await.text());
    assert_eq!((again.len(), &again[..]), (first.len() - 1, &first[1..]));
    let other = ask(&ann, &json!({"prompt": "another"}), &id).await;
    assert_eq!(
        (other.status.as_u16(), &other.json()["errors"][0]["pointer"]),
        (422, &json!("Last-Event-ID"))
    );
    assert_eq!(ask(&ann, &body, &id.replace(":1", ":99")).await.status, 422);
    // To others it is as if it were not there.
    let bobs = events(&ask(&bob, &body, &id).await.text());
    assert_ne!(bobs[0].0, id);
    assert_eq!(bobs[bobs.len() - 1].1, "result");

    let state = tiny_with(&[("results.stream_s", "0.2"), ("results.keep_s", "0.2")]);
    let free = state.capacity.free();
    let first = events(&post_accepting(&state, "/v1/run", &body, EVENTS).await.text());
    all_is_free(&state, free).await;
    let request =
        Request::post("/v1/run").header(header::ACCEPT, EVENTS).header("last-event-id", &first[0].0);
    let anew = events(&send(&state, request.body(Body::from(body.to_string())).unwrap()).await.text());
    assert_eq!(anew[0].1, "start", "it is forgotten, and begins anew");
    assert_ne!(anew[0].0, first[0].0);
    let id = first[first.len() - 1].2["id"].as_str().unwrap();
    assert_eq!(get(&state, &format!("/v1/results/{id}")).await.status, 404);
}

#[tokio::test]
async fn what_does_not_begin_is_refused_as_without_events() {
    let state = tiny_with(&[("limits.row_layers", "500")]);
    for (path, body, status) in [
        ("/v1/run", json!({"promt": "x"}), 422),
        ("/v1/trace", long(), 422),
        ("/v1/run?format=csv", json!({"prompt": "x"}), 422),
        ("/v1/sweep", json!({}), 406),
    ] {
        let reply = post_accepting(&state, path, &body, EVENTS).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert_eq!(reply.media_type(), "application/problem+json");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_kept_for_their_owner_in_every_form_within_a_budget() {
    let (state, keys) = with_keys(tiny_with(&[("results.bytes", "100000")])).await;
    let (ann, bob) = (token(&keys, "ann", &all_scopes()).await, token(&keys, "bob", &all_scopes()).await);
    let send = async |key: &str, request: axum::http::request::Builder, body: &Value| {
        let request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        send(&state, request.body(body).unwrap()).await
    };
    let kept = async |key: &str, id: &Value, query: &str| {
        let path = format!("/v1/results/{}{query}", id.as_str().unwrap());
        send(key, Request::get(path), &Value::Null).await
    };
    let body = json!({"prompt": "The Tower", "subject": "Tower", "target": "P", "layers": [1, 2]});
    let answer = send(&ann, Request::post("/v1/trace"), &body).await.json();
    let id = &answer["id"];
    assert_eq!(kept(&ann, id, "").await.json(), answer);
    let batches = activity(&state).batches;
    for form in ["csv", "jsonl", "parquet", "npz", "safetensors", "svg", "png"] {
        let reply = kept(&ann, id, &format!("?format={form}")).await;
        assert_eq!(reply.status, 200, "{form}: {}", reply.text());
        let direct = send(&ann, Request::post(format!("/v1/trace?format={form}")), &body).await;
        assert_eq!(reply.headers[header::CONTENT_TYPE], direct.headers[header::CONTENT_TYPE]);
        // Files of arrays and columns name the result that they are of.
        if ["csv", "jsonl", "svg", "png"].contains(&form) {
            assert_eq!(reply.bytes, direct.bytes, "{form}");
        } else {
            assert_eq!(reply.bytes.len(), direct.bytes.len(), "{form}");
        }
    }
    assert_eq!(activity(&state).batches, batches, "nothing is computed");
    assert_eq!(kept(&ann, id, "?format=svg&arm=nothing").await.status, 422);
    for (key, id) in [(&bob, id), (&ann, &json!("trace_none"))] {
        assert_eq!(kept(key, id, "").await.status, 404);
    }
    let short = json!({"prompt": "x"});
    let fresh =
        send(&ann, Request::post("/v1/run").header(header::CACHE_CONTROL, "no-store"), &short).await.json();
    assert_eq!(kept(&ann, &fresh["id"], "").await.status, 404);
    let streamed =
        send(&ann, Request::post("/v1/run").header(header::ACCEPT, EVENTS), &json!({"prompt": "x"})).await;
    let told = events(&streamed.text());
    let result = &told[told.len() - 1].2;
    assert_eq!(kept(&ann, &result["id"], "").await.json(), *result);
    // Of many, the first ones go.
    for n in 0..100 {
        let many = json!({"prompt": format!("number {n}"), "read": {"logit_lens": {"layers": "all"}}});
        assert_eq!(send(&ann, Request::post("/v1/run"), &many).await.status, 200);
    }
    assert_eq!(kept(&ann, id, "").await.status, 404);
    let last = send(&ann, Request::post("/v1/run"), &json!({"prompt": "last"})).await.json();
    assert_eq!(kept(&ann, &last["id"], "").await.status, 200);
}
