//! The websocket, and requests that are refused.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{
    Message, Socket, block, block_of, envelope, fetch, form, post, serving, tensors, unpacked,
};
use crate::server;

#[test]
fn a_client_that_waits_is_told_what_becomes_of_its_job() {
    let server = serving(&[]);
    let mut socket = Socket::open(server.address, "/subscribe");
    let body = form(&envelope(&socket.session).to_string(), &block("printed"));
    let (status, received) = post(server.address, "/request", &body);
    assert_eq!((status, &received["status"]), (200, &json!("RECEIVED")), "{received}");
    let mut told = Vec::new();
    let result = loop {
        match socket.next() {
            Message::Text(status) => {
                assert_eq!(status["id"], received["id"]);
                assert_ne!(status["status"], "ERROR", "{status}\n{}", server.log());
                told.push((status["status"].as_str().unwrap().to_owned(), status["description"].clone()));
            }
            Message::Binary(bytes) => break bytes,
        }
    };
    assert!(told.contains(&("RUNNING".to_owned(), json!(""))), "{told:?}");
    let line = told.iter().find(|(status, _)| status == "LOG").unwrap();
    assert_eq!(line.1.as_str().unwrap().trim_end(), "shape (1, 17, 64)");
    // An archive of the status, with the result's bytes in its pickle as they are.
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&result)).unwrap();
    let mut pickle = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_name("status/data.pkl").unwrap(), &mut pickle).unwrap();
    let data =
        pickle.windows(4).position(|four| four == [0x28, 0xb5, 0x2f, 0xfd]).expect("zstd's first bytes");
    let packed = &pickle[data..pickle.len() - 2];
    assert_eq!(tensors(&unpacked(packed)).len(), 1);
    for name in ["COMPLETED", "meta", "forwards", "engine_seconds"] {
        assert!(pickle.windows(name.len()).any(|window| window == name.as_bytes()), "{name}");
    }
}

#[test]
fn a_large_result_is_fetched_by_who_has_its_whole_address() {
    let server = serving(&[]);
    let mut socket = Socket::open(server.address, "/subscribe");
    let block = block_of("import torch\nx = torch.randn(1_500_000).save()\n");
    assert_eq!(
        post(server.address, "/request", &form(&envelope(&socket.session).to_string(), &block)).0,
        200
    );
    let told = loop {
        match socket.next() {
            Message::Text(told) if told["status"] == "COMPLETED" => break told,
            Message::Text(told) => assert_ne!(told["status"], "ERROR", "{told}"),
            Message::Binary(bytes) => panic!("{} bytes at once", bytes.len()),
        }
    };
    let address = told["data"].as_str().unwrap();
    let (path, token) = address[address.find("/result/").unwrap()..].split_once("?token=").unwrap();
    for wrong in
        [path.to_owned(), format!("{path}?token="), format!("{path}?token={}", "0".repeat(token.len()))]
    {
        let status = server::get(server.address, &wrong).status;
        assert!((400..=404).contains(&status), "{wrong}: {status}");
    }
    assert_eq!(tensors(&fetch(&server, &told))[0].len(), 1_500_000);
    // Nobody needs it twice.
    assert_eq!(server::get(server.address, &format!("{path}?token={token}")).status, 404);
}

#[test]
fn a_job_whose_client_is_gone_is_cancelled_and_its_processes_end() {
    let server = serving(&[]);
    let socket = Socket::open(server.address, "/subscribe");
    let body = form(&envelope(&socket.session).to_string(), &block("endless"));
    assert_eq!(post(server.address, "/request", &body).0, 200);
    std::thread::sleep(Duration::from_millis(500));
    drop(socket);
    let left = Instant::now();
    server::until("the cancellation", || server.log().contains("its client is gone"), || server.log());
    assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());
}

#[test]
fn what_is_not_served_is_refused_with_what_is() {
    let server = serving(&[("REMOTE__REQUEST_BYTES", "20000")]);
    let refused = |change: &dyn Fn(&mut Value), status: u16, said: &str| {
        let mut envelope = envelope("");
        change(&mut envelope);
        let (got, answer) = post(server.address, "/request", &form(&envelope.to_string(), &block("printed")));
        assert_eq!(got, status, "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains(said), "{answer}");
    };
    let key = |class: &str, of: Value| json!(format!("{class}:{of}"));
    const CLASS: &str = "nnsight.modeling.transformers.TransformersModel";
    refused(
        &|e| e["model_key"] = key(CLASS, json!({"repo_id": "gpt2", "revision": null})),
        422,
        "served is \"dummy-tiny\"",
    );
    refused(
        &|e| e["model_key"] = key("nnsight.modeling.vllm.vllm.VLLM", json!({"repo_id": "dummy-tiny"})),
        422,
        "VLLM",
    );
    refused(
        &|e| e["model_key"] = key(CLASS, json!({"repo_id": "dummy-tiny", "revision": "v2"})),
        422,
        "revision",
    );
    refused(&|e| e["model_key"] = json!("x"), 422, "no model key");
    refused(&|e| e["env"]["peft"] = json!("an/adapter"), 422, "adapters");
    refused(&|e| e["session_id"] = json!("nobody"), 422, "not open");
    refused(&|e| drop(e.as_object_mut().unwrap().remove("model_key")), 422, "no envelope");
    let (status, answer) =
        post(server.address, "/request", &form(&envelope("").to_string(), &vec![7; 20_001]));
    assert_eq!((status, &answer["limit_bytes"]), (413, &json!(20_000)), "{answer}");
    assert_eq!(post(server.address, "/request", b"no form").0, 400);
    assert_eq!(server::get(server.address, "/response/nobody").status, 404);
    assert_eq!(server::get(server.address, "/result/nobody?token=x").status, 404);
    // Whatever is no block fails alone, and says so.
    let id = crate::client::submit(&server, "/request", b"no block");
    let told = crate::client::poll(&server, &id);
    assert_eq!(told["status"], "ERROR");
    assert!(told["meta"].is_object() && !told["description"].as_str().unwrap().is_empty(), "{told}");
}

#[test]
fn a_server_that_runs_no_blocks_says_why() {
    for (settings, said) in [
        (&[("REMOTE__SOURCE", "off")][..], "remote.source"),
        (&[("REMOTE__SOURCE", "sandbox"), ("REMOTE__PYTHON", "no-such-python")][..], "no-such-python"),
    ] {
        let server = server::Server::start("", settings);
        let mut status = Value::Null;
        server::until(
            "the reason",
            || {
                status = server::get(server.address, "/status").body;
                status["server"]["reason"] != "the sandbox is being checked"
            },
            || server.log(),
        );
        assert_eq!(status["server"]["blocks"], false);
        assert!(status["server"]["reason"].as_str().unwrap().contains(said), "{status}");
        let (code, answer) = post(server.address, "/request", &form(&envelope("").to_string(), b""));
        assert_eq!(code, 503);
        assert!(answer["detail"].as_str().unwrap().contains(said), "{answer}");
        server::until("its warning", || server.log().contains("is not served"), || server.log());
    }
}
