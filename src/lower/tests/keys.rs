//! Of every field of a request: whether a change gives a plan with another key, or changes nothing that is computed.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::lower;
use crate::lower::request::Request;
use crate::lower::testing::Fake;
use crate::plan::hash::Key;
use crate::spec::Declared;
use crate::spec::experiment::Form;
use crate::spec::patch::PatchSpec;
use crate::spec::run::RunSpec;
use crate::spec::trace::TraceSpec;

/// The keys of a request's plans.
fn keys<R: Form<Request: Request>>(body: &Value) -> Vec<Key> {
    let lowered = lower::lower::<R>(&Arc::new(body.clone()), &Fake::default());
    let lowered = lowered.unwrap_or_else(|problems| panic!("{body}: {problems:#?}"));
    lowered.prelude.iter().chain([&lowered.plan]).map(|plan| plan.key(&[]).unwrap()).collect()
}

/// Changes of a body at a pointer: those that change what is computed, and those that change only what is said of it.
fn check<R: Form<Request: Request> + Declared>(
    body: &Value,
    computed: &[(&str, Value)],
    said: &[(&str, Value)],
) {
    // One model is served, and a run, which patches nothing, has nothing trivial.
    let mut seen = BTreeSet::from(["model", "allow_trivial"].map(str::to_owned));
    let (before, mut all) = (keys::<R>(body), BTreeSet::new());
    assert_eq!(keys::<R>(body), before, "the same request has the same key");
    for (changes, is_computed) in [(computed, true), (said, false)] {
        for (pointer, value) in changes {
            let mut changed = body.clone();
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            let parent = changed.pointer_mut(parent).unwrap();
            match parent.as_array_mut() {
                Some(array) => array[name.parse::<usize>().unwrap()] = value.clone(),
                None => parent[name] = value.clone(),
            }
            let keys = keys::<R>(&changed);
            assert_eq!(keys != before, is_computed, "{pointer}: {value}");
            assert!(!is_computed || all.insert(keys), "{pointer}: {value}: the key of another change");
            seen.insert(pointer.split('/').nth(1).unwrap().to_owned());
        }
    }
    let missing: Vec<_> = R::FIELDS.iter().filter(|field| !seen.contains(**field)).collect();
    assert!(missing.is_empty(), "nothing is said of {missing:?}");
}

#[test]
fn of_a_run() {
    let body = json!({"runs": {"a": "The Eiffel Tower is"}, "targets": {"t": [" Paris"], "u": [" Rome London"]}, "metrics": ["prob:t"],
                      "read": {"topk": 3}});
    check::<RunSpec>(
        &body,
        &[
            ("/runs/a", json!("The Eiffel Tower has")),
            ("/runs/b", json!("The river is")),
            ("/targets/t", json!([" London"])),
            ("/read/topk", json!(4)),
            ("/read/at", json!(1)),
            ("/read/capture", json!([{"site": "z", "layers": [1], "positions": "last"}])),
            ("/read/logit_lens", json!({"layers": [1], "positions": "last"})),
            ("/read/attention", json!([{"layers": [1], "heads": [0], "positions": "last"}])),
            ("/target_scoring", json!("joint")),
        ],
        &[("/metrics", json!(["prob:u"])), ("/strict", json!(false))],
    );
}

#[test]
fn of_a_patch() {
    let source = json!({"run": "b", "positions": "last"});
    let body = json!({"runs": {"a": "The Eiffel Tower is", "b": "The river has"}, "base": "a", "targets": {"t": [" Paris"]},
        "metrics": ["prob:t"], "sweep": ["layers"],
        "interventions": [{"site": "mlp_out", "layers": [0, 2], "positions": "last", "op": "add", "coef": 0.5, "source": source}]});
    check::<PatchSpec>(
        &body,
        &[
            ("/runs/b", json!("The river is")),
            ("/base", json!("b")),
            ("/targets/t", json!([" Rome"])),
            ("/metrics", json!(["kl:a"])),
            ("/read", json!({"topk": 7})),
            ("/sweep", json!([])),
            ("/controls", json!(["self_patch"])),
            ("/interventions/0/site", json!("attn_out")),
            ("/interventions/0/layers", json!([0, 1])),
            ("/interventions/0/positions", json!([1])),
            ("/interventions/0/coef", json!(0.25)),
            ("/interventions/0/norm_match", json!(true)),
            ("/interventions/0/dims", json!([0, 3])),
            ("/interventions/0/source", json!({"run": "b", "positions": [1]})),
        ],
        &[
            ("/normalise", json!({"zero": "a", "one": "b"})),
            ("/derive", json!(["argmax"])),
            ("/strict", json!(true)),
            ("/allow_trivial", json!(true)),
            ("/target_scoring", json!("first_token")),
        ],
    );
}

#[test]
fn of_a_trace() {
    let body = json!({"runs": {"clean": {"prompt": "The Eiffel Tower is", "spans": {"subject": "Eiffel"}}}, "targets": {"t": [" Paris"]},
        "metrics": ["prob:t"], "corrupt": {"from": "clean", "sigma": {"abs": 0.5}, "samples": 2}, "arms": {"one": {"site": "resid_post"}}});
    check::<TraceSpec>(
        &body,
        &[
            ("/runs/clean", json!({"prompt": "The Eiffel Tower has", "spans": {"subject": "Eiffel"}})),
            ("/targets/t", json!([" Rome"])),
            ("/metrics", json!(["kl:clean"])),
            ("/read", json!({"topk": 7})),
            ("/corrupt/sigma", json!({"abs": 0.25})),
            ("/corrupt/samples", json!(3)),
            ("/corrupt/seed", json!(5)),
            ("/corrupt/rng", json!("numpy_legacy")),
            ("/corrupt/positions", json!([2])),
            ("/arms/one", json!({"site": "mlp_out"})),
            ("/arms/two", json!({"site": "attn_out", "window": 2})),
            ("/layers", json!([1])),
            ("/positions", json!([2, 3])),
            ("/base", json!("clean")),
            ("/controls", json!(["self_patch"])),
            ("/cells", json!([{"layer": 1, "position": -1}])),
        ],
        &[
            ("/expect_top1", json!("t")),
            ("/on_unexpected", json!("refuse")),
            ("/derive", json!(["argmax"])),
            ("/keep", json!({"per_sample": true})),
            ("/plot", json!(["svg"])),
            ("/strict", json!(true)),
            ("/allow_trivial", json!(true)),
            ("/target_scoring", json!("first_token")),
        ],
    );
}
