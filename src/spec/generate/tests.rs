#![allow(
    clippy::float_cmp,
    clippy::needless_pass_by_value,
    reason = "numbers are compared as they were written"
)]

use serde_json::{Value, json};

use super::*;
use crate::spec::coef::Coef;

fn read(body: Value) -> Result<GenerateSpec, Problems> {
    let mut out = Problems::default();
    let spec = GenerateSpec::read(&body, &mut out);
    out.or(spec)
}

fn wrong(body: Value) -> Vec<(String, String)> {
    let problems = read(body).expect_err("something is wrong").0;
    problems.into_iter().map(|problem| (problem.pointer, problem.code.to_owned())).collect()
}

fn steering(extra: Value) -> Value {
    let mut one = json!({"site": "resid_post", "layers": 14, "positions": {"steps": "all"}, "op": "add",
        "source": {"activation": "act_1"}});
    one.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    one
}

#[test]
fn the_short_form_is_one_plain_greedy_text() {
    let spec = read(json!({"prompt": "The weather today is", "max_tokens": 20})).unwrap();
    assert_eq!((spec.base.as_str(), spec.max_tokens, spec.samples), ("prompt", 20, 1));
    assert_eq!(spec.branches, Named::one("plain", vec![]));
    assert_eq!(spec.sampling.temperature, 0.0);
    assert_eq!(spec.restore("/runs/prompt/prompt"), "/prompt");
}

#[test]
fn the_design_s_example_reads_as_it_stands() {
    let spec = read(json!({
        "runs": {"p": {"messages": [{"role": "user", "content": "Comfort Alice about her dog."}]}, "q": {"prompt": "x"}},
        "base": "p",
        "branches": {
            "plain": [],
            "happy": [steering(json!({"layers": {"from": 10, "to": 16}, "coef": {"from": 4, "to": 0, "over": [0, 20]}}))],
            "patched": [{"site": "resid_post", "layers": 14, "positions": "last", "op": "replace", "source": {"run": "q", "positions": "last"}}]
        },
        "sampling": {"temperature": 0.8, "top_p": 0.95, "seed": 1}, "samples": 4, "max_tokens": 64, "stop": ["\n\n"],
        "compare_with": "plain",
        "read": {"logprobs": 5, "metrics": ["logprob:sad"], "capture": [{"site": "resid_post", "layers": [14], "steps": "all", "as": "handle"}]},
        "targets": {"sad": [" sad"]}
    }))
    .unwrap();
    assert_eq!(spec.branches.names(), ["plain", "happy", "patched"]);
    let happy = &spec.branches.get("happy").unwrap()[0];
    let (prompt, steps) = happy.positions.parts();
    assert!(prompt.is_empty() && steps == [&Steps::ALL]);
    let OpSpec::Add { coef, .. } = &happy.op else { panic!("{happy:?}") };
    let rounded = |x: f64| (x * 1e9).round() / 1e9;
    assert_eq!(
        [0, 5, 19, 20].map(|step| coef.at(step).map(rounded)),
        [Some(4.0), Some(3.0), Some(0.2), None]
    );
    // What is told of the request reads as the request.
    let told = serde_json::to_value(&spec).unwrap();
    assert_eq!(read(told).map(|again| again.branches), Ok(spec.branches));
}

#[test]
fn positions_of_the_prompt_and_steps_go_together() {
    let spec = read(
        json!({"prompt": "a", "interventions": [steering(json!({"positions": ["all", {"steps": {"from": 1}}]}))]}),
    );
    let spec = spec.unwrap();
    let (prompt, steps) = spec.branches.get("edited").unwrap()[0].positions.parts();
    assert_eq!(prompt, [&crate::spec::select::Positions::ALL]);
    assert_eq!(
        steps.iter().map(|s| [s.contains(0), s.contains(1), s.contains(99)]).collect::<Vec<_>>(),
        [[false, true, true]]
    );
    assert_eq!(
        wrong(json!({"prompt": "a", "interventions": [{"site": "resid_post", "op": "zero"}]})),
        [("/interventions/0/positions".to_owned(), "missing_field".to_owned())]
    );
}

#[test]
fn a_sweep_is_a_branch_for_every_combination() {
    let mut one = steering(json!({"layers": null, "coef": null, "source": null}));
    one["coef"] = Value::Null;
    let body = json!({"prompt": "a", "interventions": [one],
        "sweep": {"coefs": [0, 1.5], "layers": {"from": 4, "to": 8, "step": 2}, "vectors": {"joy": {"activation": "act_1"}}}});
    let spec = read(body).unwrap();
    let names = ["joy,layer=4,coef=0", "joy,layer=4,coef=1.5", "joy,layer=6,coef=0", "joy,layer=6,coef=1.5"];
    assert_eq!(spec.branches.names(), names);
    let last = &spec.branches.get(names[3]).unwrap()[0];
    assert_eq!(last.layers, Some(Layers::One(6)));
    assert!(matches!(
        &last.op,
        OpSpec::Add { coef: Coef::Constant(1.5), source: SourceSpec::Activation { .. }, .. }
    ));
    assert_eq!(spec.restore("/branches/joy,layer=6,coef=1.5/0/coef"), "/sweep/coefs/1");
    assert_eq!(
        spec.restore("/branches/joy,layer=6,coef=1.5/0/source/activation"),
        "/sweep/vectors/joy/activation"
    );
    assert_eq!(spec.restore("/branches/joy,layer=6,coef=1.5/0/site"), "/interventions/0/site");
}

#[test]
fn problems_of_a_sweep_are_told_once_where_they_were_written() {
    let mut one = steering(json!({"site": "resid", "coef": null}));
    one["source"] = json!({"vector": "x"});
    let body = json!({"prompt": "a", "interventions": [one], "sweep": {"coefs": [0, 1, 2]}});
    let found = wrong(body);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().any(|(at, _)| at == "/interventions/0/site"), "{found:?}");
    assert!(found.iter().any(|(at, _)| at == "/interventions/0/source/vector"), "{found:?}");
    let swept =
        json!({"prompt": "a", "interventions": [steering(json!({"coef": 3}))], "sweep": {"coefs": [0, 1]}});
    assert_eq!(wrong(swept), [("/interventions/0/coef".to_owned(), "conflict".to_owned())]);
}

#[test]
fn what_would_change_nothing_or_cannot_be_is_refused() {
    let at = |body: Value| wrong(body).into_iter().map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!(at(json!({"prompt": "a", "samples": 2})), ["/samples"]);
    assert_eq!(at(json!({"prompt": "a", "sampling": {"top_p": 0.5}})), ["/sampling/top_p"]);
    assert_eq!(at(json!({"prompt": "a", "sampling": {"temperature": 1, "top_p": 0}})), ["/sampling/top_p"]);
    assert_eq!(at(json!({"prompt": "a", "sampling": {"logit_bias": {"x": 1}}})), ["/sampling/logit_bias/x"]);
    assert_eq!(at(json!({"prompt": "a", "compare_with": "plane"})), ["/compare_with"]);
    assert_eq!(at(json!({"prompt": "a", "read": {"metrics": ["kl:prompt"]}})), ["/read/metrics/0"]);
    assert_eq!(at(json!({"prompt": "a", "max_tokens": 0})), ["/max_tokens"]);
    assert_eq!(
        at(json!({"prompt": "a", "interventions": [steering(json!({"positions": "last", "coef": [1, 2]}))]})),
        ["/interventions/0/coef"]
    );
    assert_eq!(
        at(json!({"prompt": "a", "branches": {"b": [steering(json!({"source": {"branch": "b"}}))]}})),
        ["/branches/b/0/source/branch"]
    );
    assert_eq!(at(json!({"prompt": "a", "messages": [{"role": "user", "content": "x"}]})), ["/prompt"]);
}

#[test]
fn steps_are_for_generated_text_alone() {
    let mut out = Problems::default();
    let body = json!({"runs": {"a": "x"}, "base": "a", "interventions": [steering(json!({"coef": [1, 2]}))]});
    crate::spec::patch::PatchSpec::read(&body, &mut out);
    let found: Vec<&str> = out.0.iter().map(|problem| problem.pointer.as_str()).collect();
    assert_eq!(found, ["/interventions/0/coef", "/interventions/0/positions/steps"], "{out:?}");
    assert!(out.0.iter().all(|problem| problem.fix.contains("/v1/generate")), "{out:?}");
}
