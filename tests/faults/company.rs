//! Requests beside others: each has the answer that it has alone, down to what it is charged, whoever asks for the others.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::kills::Chance;
use crate::server::{Answer, Server, comparable};

const REQUESTS: usize = 500;
const CLIENTS: usize = 32;

/// Random requests.
impl Chance {
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn prompt(&mut self) -> String {
        let words = ["river", "town", "tall", "deep", "old", "is", "in", "stands", "by"];
        let rest: Vec<&str> = (0..=self.below(4)).map(|_| self.of(&words)).collect();
        format!("The Tower {}", rest.join(" "))
    }

    fn run(&mut self) -> Value {
        let mut body = json!({"prompt": self.prompt(), "targets": {"t": [self.of(&["P", "a", "Q"])], "u": [self.of(&["b", "c"])]},
            "metrics": ["prob:t", self.of(&["logprob:u", "rank:t", "logit:u", "logit_diff:t-u"])],
            "read": {"topk": self.below(6)}});
        match self.below(6) {
            0 => {
                body["read"]["logit_lens"] =
                    json!({"layers": "all", "positions": "last", "topk": 1 + self.below(3)});
            }
            1 => {
                body["read"]["attention"] =
                    json!([{"layers": [self.below(4)], "heads": "all", "positions": "last"}]);
            }
            2 => {
                let site = self.of(&["resid_post", "mlp_out", "z", "q", "attn_out"]);
                body["read"]["capture"] =
                    json!([{"site": site, "layers": [self.below(4)], "positions": "last"}]);
            }
            3 => {
                body["targets"] = json!({"t": ["Pa"], "u": ["Pab", "c"]});
                body["metrics"] = json!(["logprob:t", "logit_diff:t-u"]);
                body["target_scoring"] = json!("joint");
            }
            // A wrong one now and then.
            4 if self.below(4) == 0 => body["metrics"] = json!(["prob:nobody"]),
            _ => {}
        }
        body
    }

    fn patch(&mut self) -> Value {
        let mut edit = match self.below(5) {
            0 => json!({"site": "z", "layers": [self.below(4)], "heads": "all", "positions": "last",
                        "source": {"run": "b", "positions": "last"}}),
            1 => {
                json!({"site": "scores", "op": "knockout", "layers": "all", "positions": "last", "keys": [self.below(3)]})
            }
            2 => {
                json!({"site": "mlp_out", "op": "scale", "factor": 0.5, "layers": "all", "positions": "last"})
            }
            3 => json!({"site": "attn_out", "op": "zero", "layers": "all", "positions": [self.below(5)]}),
            _ => {
                json!({"site": self.of(&["resid_post", "resid_mid", "mlp_out"]), "layers": "all", "positions": [-1 - self.below(2).cast_signed()],
                        "source": {"run": "b"}})
            }
        };
        let by_head = edit.get("heads").is_some();
        if by_head {
            edit["op"] = json!("replace");
        }
        let source = edit.get("source").is_some();
        let mut runs = json!({"a": {"prompt": self.prompt()}});
        if source {
            runs["b"] = json!({"prompt": self.prompt()});
        }
        json!({"runs": runs, "base": "a", "targets": {"t": ["P"]}, "allow_trivial": true,
               "metrics": ["prob:t", self.of(&["logit:t", "kl:a", "delta_norm", "logprob:t"])],
               "interventions": [edit], "sweep": [if by_head { "heads" } else { "layers" }]})
    }

    fn trace(&mut self) -> Value {
        let layers = [self.below(2), 2 + self.below(2)];
        json!({"prompt": self.prompt(), "subject": "Tower", "target": self.of(&["P", "a"]), "layers": layers,
               "corrupt": {"samples": 1 + self.below(2), "seed": self.below(3)},
               "arms": {"one": {"site": self.of(&["resid_post", "mlp_out"]), "positions": {"span": "subject"}}}})
    }

    pub(crate) fn request(&mut self) -> (&'static str, Value) {
        match self.below(20) {
            0..12 => ("/v1/run", self.run()),
            12..18 => ("/v1/patch", self.patch()),
            _ => ("/v1/trace", self.trace()),
        }
    }
}

/// A key of an owner, made in the store of a server that does not run yet.
fn key(folder: &Path, owner: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mediant"));
    command.args(["key", "create", "--owner", owner, "--scopes", "run"]);
    command.env_remove("MEDIANT_SERVER").env_remove("MEDIANT_KEY");
    let made = command.env("MEDIANT__STORE__DATA_DIR", folder.join("data")).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// An answer, whatever it is, without what differs from time to time; and whether it was computed in company.
fn compared(Answer { status, body }: Answer) -> ((u16, Value), bool) {
    assert!(status < 429, "{status} {body}");
    let in_company = body["usage"]["shared_with"].as_u64() > Some(0);
    let mut body = if status == 200 { comparable(body) } else { body };
    if let Some(body) = body.as_object_mut() {
        body.shift_remove("instance");
    }
    ((status, body), in_company)
}

#[test]
fn five_hundred_requests_of_two_owners_by_32_clients_have_the_answers_that_each_has_alone() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ["ann", "bob"].map(|owner| key(folder.path(), owner));
    let settings = [("AUTH__KEYS", "on"), ("LIMITS__OWNER_REQUESTS", "64")];
    let server = Server::start_in(&folder, "", &settings, true);
    let mut chance = Chance(14);
    let requests: Vec<(&str, Value)> = (0..REQUESTS).map(|_| chance.request()).collect();
    let ask = |i: usize, owner: usize| {
        let (path, body) = &requests[i];
        compared(server.post_as(&keys[owner], path, body))
    };
    let alone: Vec<((u16, Value), bool)> = (0..REQUESTS).map(|i| ask(i, i % 2)).collect();
    assert!(alone.iter().all(|(_, in_company)| !in_company));
    let alone: Vec<(u16, Value)> = alone.into_iter().map(|(answer, _)| answer).collect();
    let answered = alone.iter().filter(|(status, _)| *status == 200).count();
    let refused = alone.iter().filter(|(status, _)| *status != 200).map(|(_, body)| &body["detail"]);
    assert!(answered > REQUESTS * 9 / 10, "{:#?}", refused.collect::<Vec<_>>());

    let mut order: Vec<usize> = (0..REQUESTS).collect();
    for i in (1..REQUESTS).rev() {
        order.swap(i, chance.below(i as u64 + 1) as usize);
    }
    let (next, shared) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (next, shared, ask, alone, order, requests) =
                (&next, &shared, &ask, &alone, &order, &requests);
            scope.spawn(move || {
                while let Some(&i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Each client asks for one owner, whoever asked before.
                    let (answer, in_company) = ask(i, client % 2);
                    assert_eq!(answer, alone[i], "{:?}", requests[i]);
                    shared.fetch_add(usize::from(in_company), Ordering::Relaxed);
                }
            });
        }
    });
    let shared = shared.into_inner();
    assert!(shared > REQUESTS / 3, "only {shared} were computed in company");
}
