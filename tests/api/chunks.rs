//! A request gives the same answer however it is cut into batches, down to what it says was written and how long it waited.

use std::collections::BTreeSet;

use mediant::http::AppState;
use serde_json::{Value, json};

use crate::support::{ok, tiny_with};

/// Bytes of a row of the tiny model's activations.
const ROW: u64 = 2912;

/// Servers whose batches hold fewer and fewer rows.
fn servers() -> Vec<AppState> {
    let rows = [8192_u64, 2600, 2000, 1600, 1300, 1100, 950, 850, 770, 680, 600, 520, 450, 400, 330, 260];
    let server = |rows: u64| {
        // Cut by rows alone, whatever the speed of this machine.
        tiny_with(&[("engine.row_budget_bytes", &(rows * ROW).to_string()), ("engine.quantum_s", "60")])
    };
    rows.map(server).into()
}

/// The answers of all servers, and in how many batches they were computed. A request alone waits for nobody and shares with
/// nobody, and what it is charged is what its plan says.
async fn answers(servers: &[AppState], path: &str, body: &Value) -> (Vec<Value>, BTreeSet<u64>) {
    let (mut answers, mut chunks) = (Vec::new(), BTreeSet::new());
    for server in servers {
        let batches = || server.service.get().unwrap().engine.activity().batches;
        let before = batches();
        let mut answer = ok(server, path, body).await;
        chunks.insert(batches() - before);
        let usage = answer["usage"].as_object_mut().unwrap();
        assert_eq!((&usage["queue_seconds"], &usage["shared_with"]), (&json!(0.0), &json!(0)), "{usage:?}");
        // Memory is that of this server's batches.
        usage.retain(|field, _| ["rows", "row_layers"].contains(&&field[..]));
        answer.as_object_mut().unwrap().remove("id");
        answers.push(answer);
    }
    (answers, chunks)
}

fn same(answers: &[Value], chunks: &BTreeSet<u64>) {
    assert!((1..=7).all(|n| chunks.contains(&n)), "too few cuts to tell: {chunks:?}");
    for answer in &answers[1..] {
        assert_eq!(answer["receipt"], answers[0]["receipt"]);
        assert_eq!(*answer, answers[0]);
    }
}

#[tokio::test]
async fn traces_and_patches_are_the_same_however_they_are_cut() {
    let servers = servers();
    let trace = json!({"prompt": "The Tower in a town", "subject": "Tower", "target": "P",
        "arms": {"hidden": {"site": "resid_post"}, "mlp": {"site": "mlp_out", "window": 2}}, "layers": [0, 2], "corrupt": {"samples": 2},
        "metrics": ["prob:target", "logit:target", "rank:target", "kl:clean", "delta_norm"],
        "controls": ["self_patch"], "keep": {"per_sample": true}, "derive": ["leaves_base", "reaches_source", "argmax"]});
    let (found, chunks) = answers(&servers, "/v1/trace", &trace).await;
    same(&found, &chunks);
    // Noise on five tokens, twice.
    assert_eq!(found[0]["receipt"]["corruption"]["cells"], 10);

    // Runs with edits of their own, which every batch computes as far as its cells see them: a base, and a source that is read
    // behind its own readout too.
    let runs = json!({"a": {"prompt": "The Tower stands in a town"},
        "base": {"from": "a", "interventions": [
            {"site": "mlp_out", "layers": [0, 2], "positions": [3, 9], "op": "scale", "factor": 0.5},
            {"site": "resid_pre", "layers": 3, "positions": "all", "op": "scale", "factor": 1.5}]},
        "source": {"from": "a", "interventions": [
            {"site": "mlp_out", "layers": [1], "positions": [5], "op": "zero"},
            {"site": "attn_out", "layers": [3], "positions": "all", "op": "scale", "factor": 0.25},
            {"site": "mlp_out", "layers": [3], "positions": [20, 24], "op": "add", "coef": -1, "norm_match": true,
             "source": {"run": "a", "positions": [20, 24]}}]}});
    let patch = json!({"runs": runs, "base": "base", "targets": {"t": ["P"]},
        "metrics": ["prob:t", "logit:t", "kl:source", "delta_norm"], "controls": ["self_patch"],
        "interventions": [{"site": "resid_post", "layers": "all", "positions": "all", "source": {"run": "source"}}],
        "sweep": ["layers", "positions"], "allow_trivial": true});
    let (found, chunks) = answers(&servers, "/v1/patch", &patch).await;
    for answer in &found[1..] {
        assert_eq!(answer["receipt"], found[0]["receipt"]);
        assert_eq!(answer["baselines"], found[0]["baselines"], "what a run's own edits changed, too");
        assert_eq!(*answer, found[0]);
    }
    assert!(chunks.len() >= 4, "{chunks:?}");
}
