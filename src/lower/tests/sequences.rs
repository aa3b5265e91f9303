//! Targets of several tokens.

use serde_json::{Value, json};

use super::problems;
use crate::lower;
use crate::lower::measure::{Member, Reads};
use crate::lower::testing::{Fake, id};

const PROMPT: &str = "The Eiffel Tower is in";

fn ids(words: &[&str]) -> Vec<u32> {
    words.iter().map(|word| id(word)).collect()
}

#[test]
fn texts_of_several_tokens_are_sequences_and_single_tokens_stay_targets() {
    let body = |scoring: &str| {
        json!({"prompt": PROMPT, "targets": {"x": [" the city", " Paris"], "y": [" the city of", " the city"]},
               "metrics": ["prob:x", "logit_diff:x-y"], "target_scoring": scoring})
    };
    let lowered = lower::lower::<crate::spec::run::RunSpec>(&body("joint"), &Fake::default()).unwrap();
    let scoring = &lowered.plan.scoring;
    assert_eq!(scoring.targets, ids(&[" the", " Paris"]));
    let sequences: Vec<&[u32]> = scoring.sequences.iter().map(|s| &**s).collect();
    assert_eq!(sequences, [ids(&[" the", " city"]), ids(&[" the", " city", " of"])]);
    let common = &lowered.layout.common;
    let x = [Member::Sequence { index: 0, per: 1 }, Member::Token(1)];
    assert_eq!(common.measures[0].reads, [Reads::Set(x.to_vec())]);
    let y = [Member::Sequence { index: 1, per: 1 }, Member::Sequence { index: 0, per: 1 }];
    assert_eq!(common.measures[1].reads, [Reads::Difference(x.to_vec(), y.to_vec())]);
    assert_eq!(common.targets.sets.get("y").unwrap()[0].text, " the city of");
    let mean = lower::lower::<crate::spec::run::RunSpec>(&body("mean_logprob"), &Fake::default()).unwrap();
    let x = [Member::Sequence { index: 0, per: 2 }, Member::Token(1)];
    assert_eq!(mean.layout.common.measures[0].reads, [Reads::Set(x.to_vec())]);
    // By the first token alone, words that begin alike are one.
    let first = lower::lower::<crate::spec::run::RunSpec>(&body("first_token"), &Fake::default()).unwrap();
    assert!(first.plan.scoring.sequences.is_empty());
    assert_eq!(first.layout.common.measures[0].reads, [Reads::Set(vec![Member::Token(0), Member::Token(1)])]);
    assert_eq!(first.layout.common.targets.sets.get("y").unwrap().len(), 1);
    assert_eq!(first.layout.common.targets.sets.get("y").unwrap()[0].text, " the");
}

#[test]
fn positions_mean_the_prompt_whatever_follows_it() {
    let trace = |scoring: &str| {
        let body = json!({"prompt": PROMPT, "subject": "Eiffel", "target": " the city of", "positions": "all",
                          "corrupt": {"samples": 5}, "target_scoring": scoring});
        lower::lower::<crate::spec::trace::TraceSpec>(&body, &Fake::default()).unwrap()
    };
    let (joint, first) = (trace("joint"), trace("first_token"));
    assert_eq!(
        joint.layout.case.arms.get("hidden").unwrap().grid.axes,
        first.layout.case.arms.get("hidden").unwrap().grid.axes
    );
    assert_eq!(joint.plan.readouts, first.plan.readouts);
    assert!(joint.plan.runs.iter().all(|run| run.tokens.len() == 5));
    // No answer is its source's by construction: the target's own rows see the layers below.
    assert!(joint.layout.case.arms.get("hidden").unwrap().grid.trivial.iter().all(Option::is_none));
    assert!(first.layout.case.arms.get("hidden").unwrap().grid.trivial.iter().any(Option::is_some));
}

fn joint(more: Value) -> Value {
    let mut body = json!({"prompt": PROMPT, "target": " the city", "target_scoring": "joint"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn what_a_text_does_not_have_is_refused() {
    for (more, expected) in [
        (json!({}), vec![]),
        (json!({"metrics": ["rank:target"]}), vec!["/metrics/0 not_supported"]),
        (json!({"metrics": ["prob:target", "logit:target"]}), vec!["/metrics/1 not_supported"]),
        (json!({"metrics": ["rank:target", "logit:target"], "target": " Paris"}), vec![]),
        (json!({"metrics": ["rank:target"], "target_scoring": "first_token"}), vec![]),
        (json!({"read": {"at": 2}}), vec!["/read/at conflict"]),
        (json!({"read": {"at": {"run": 2}}}), vec!["/read/at/run conflict"]),
        (json!({"read": {"at": 4}}), vec![]),
        (json!({"read": {"at": 2}, "target_scoring": "first_token"}), vec![]),
        (json!({"target_scoring": "both"}), vec!["/target_scoring unknown_value"]),
        (json!({"target_scoring": 1}), vec!["/target_scoring wrong_type"]),
    ] {
        assert_eq!(problems("run", &joint(more.clone()), &Fake::default()), expected, "{more}");
    }
}

#[test]
fn what_follows_the_prompts_counts_in_every_limit() {
    let mut facts = Fake::default();
    facts.config.max_positions = 6;
    assert_eq!(problems("run", &joint(json!({})), &facts), [""; 0]);
    let longer = joint(json!({"target": " the city of"}));
    assert_eq!(problems("run", &longer, &facts), ["/prompt limit_exceeded"]);

    let mut facts = Fake::default();
    facts.limits.runs = 2;
    let targets = |texts: Value| joint(json!({"target": texts}));
    assert_eq!(problems("run", &targets(json!([" the city", " a city"])), &facts), [""; 0]);
    let three = targets(json!([" the city", " a city", " is city"]));
    assert_eq!(problems("run", &three, &facts), ["/target_scoring limit_exceeded"]);
    facts.limits.target_tokens = 3;
    assert_eq!(problems("run", &targets(json!(" the city of")), &facts), [""; 0]);
    let four = targets(json!(" the city of a"));
    assert_eq!(problems("run", &four, &facts), ["/target_scoring limit_exceeded"]);

    // 4 layers x 5 positions x 5 samples, once for each continuation.
    let trace = |texts: Value| {
        joint(json!({"target": texts, "subject": "Eiffel", "corrupt": {"samples": 5}, "read": {"topk": 1}}))
    };
    let mut facts = Fake::default();
    facts.limits.cells = 199;
    assert_eq!(problems("trace", &trace(json!([" the city", " the river"])), &facts), [""; 0]);
    let two = trace(json!([" the city", " a city"]));
    assert_eq!(problems("trace", &two, &facts), ["/arms limit_exceeded"]);
    facts.limits.cells = 200;
    assert_eq!(problems("trace", &two, &facts), [""; 0]);
    // 106 readouts, each with two continuations of one token; 2 + 4 target tokens and a top token.
    facts.limits.score_elements = 106 * 3 * 7;
    assert_eq!(problems("trace", &two, &facts), [""; 0]);
    facts.limits.score_elements -= 1;
    assert_eq!(problems("trace", &two, &facts), ["/read/topk limit_exceeded"]);
}
