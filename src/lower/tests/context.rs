//! Targets and replacements as they are after the prompt that they come after.

use serde_json::{Value, json};

use super::problems;
use crate::effect::measure::value;
use crate::lower;
use crate::lower::layout::Common;
use crate::lower::sweep::Part;
use crate::lower::testing::Fake;
use crate::plan::output::PlanOutput;
use crate::plan::sequences::Expansion;
use crate::plan::{Plan, Score};
use crate::result::common::tokenize;

/// What the vocabulary of `llama2` calls some of its tokens.
const PARIS: u32 = 335;
const P: u32 = 287;
const SPACE: u32 = 259;

fn run(body: &Value) -> (Common, Plan) {
    let lowered = lower::lower::<crate::spec::run::RunSpec>(body, &Fake::reading("llama2"))
        .unwrap_or_else(|p| panic!("{p:#?}"));
    (lowered.layout.common, lowered.plan)
}

fn lints(common: &Common) -> Vec<&'static str> {
    common.lints.0.iter().map(|lint| lint.code).collect()
}

#[test]
fn a_target_is_the_tokens_that_it_adds_to_the_prompt_whatever_the_tokenizer() {
    // Prompt, target, its tokens, lints. By itself each would begin with `▁`.
    let cases: [(&str, &str, &[u32], &[&str]); 6] = [
        ("The Tower is in the city of", " Paris", &[PARIS], &[]),
        ("The city of", "Paris", &[P, 264, 325, 265], &["MULTI_TOKEN_TARGET", "NO_LEADING_SPACE"]),
        ("He said \"", "the", &[261, 315], &["MULTI_TOKEN_TARGET"]),
        ("1+1=", "2", &[277], &[]),
        ("is\n", "1", &[272], &[]),
        ("北京是", "中国", &[231], &["MULTI_TOKEN_TARGET"]),
    ];
    for (prompt, target, ids, expected) in cases {
        for kind in ["llama2", "metaspace_first"] {
            let body = json!({"prompt": prompt, "target": target});
            let lowered = lower::lower::<crate::spec::run::RunSpec>(&body, &Fake::reading(kind)).unwrap();
            let common = &lowered.layout.common;
            let found = &common.targets.sets.get("target").unwrap()[0];
            assert!(found.tokens.starts_with(ids), "{kind} {prompt:?} {target:?}: {:?}", found.tokens);
            assert_ne!(found.id, SPACE);
            assert_eq!(lints(common), expected, "{kind} {prompt:?} {target:?}: {:#?}", common.lints);
            let whole = lower::lower::<crate::spec::run::RunSpec>(
                &json!({"prompt": format!("{prompt}{target}")}),
                &Fake::reading(kind),
            )
            .unwrap();
            let own = &common.runs.0[0].1.0.ids;
            let expected: &[u32] = &whole.layout.common.runs.0[0].1.0.ids;
            assert_eq!([&own[..], &found.tokens].concat(), expected, "{kind} {prompt:?} {target:?}");
        }
    }
}

#[test]
fn a_target_that_changes_the_prompts_tokens_is_scored_after_them_and_remarked_on() {
    let (common, _) = run(&json!({"prompt": "The city is ", "target": "Paris", "target_scoring": "joint"}));
    assert_eq!(common.targets.sets.get("target").unwrap()[0].tokens, [P, 264, 325, 265]);
    assert_eq!(lints(&common), ["PROMPT_ENDS_IN_SPACE", "TARGET_CHANGES_PROMPT"]);
    let detail = &common.lints.0[1].detail;
    let expected = r#"the prompt ends in [" "], but with "Paris" behind it in [" Paris"]; scored is ["P", "a", "ri", "s"] after the prompt's own tokens"#;
    assert_eq!(detail, expected);
}

#[test]
fn what_is_read_before_the_end_has_targets_after_that_place() {
    let body = |at: i64| json!({"prompt": "1+1=2 is", "target": "1", "read": {"at": at}});
    let (common, _) = run(&body(2));
    assert_eq!(common.runs.0[0].1.0.context(), "1+");
    assert_eq!((common.targets.sets.get("target").unwrap()[0].id, lints(&common)), (272, vec![]));
    assert_eq!(lints(&run(&body(-1)).0), ["NO_LEADING_SPACE"]);
}

/// Scores of a plan in which token `id` has the logit `-id`, as the engine would give them.
fn scores(plan: &Plan) -> Vec<Score> {
    let (expanded, fold) = Expansion::new(plan).parts();
    let score = |_| Score {
        logits: expanded.scoring.targets.iter().map(|id| -(*id as f32)).collect(),
        ranks: expanded.scoring.targets.clone(),
        top: vec![(0, 0.0)],
        ..Score::default()
    };
    fold.output(PlanOutput {
        scores: (0..expanded.readouts.len()).map(score).collect(),
        ..PlanOutput::default()
    })
    .scores
}

/// Prompts after which "the" has other tokens: one ends in a sign, the others are empty but for their BOS.
fn two(more: Value) -> Value {
    let mut body = json!({"runs": {"sign": {"prompt": "1+1="}, "bos": {"tokens": [1]}, "again": {"tokens": [1]}},
                          "targets": {"x": ["the"], "y": [7]}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Tokens of "the" after each.
const AFTER_SIGN: [u32; 2] = [261, 315];
const AFTER_BOS: [u32; 1] = [316];

#[test]
fn every_run_is_scored_by_what_a_target_adds_to_its_own_prompt() {
    let (common, plan) = run(&two(json!({"metrics": ["logit:x", "logit_diff:x-y"]})));
    let set = common.targets.sets.get("x").unwrap();
    assert_eq!(set[0].tokens, AFTER_SIGN);
    let after: Vec<(&str, &[u32])> = set[0].after.iter().map(|(run, ids)| (run, &ids[..])).collect();
    assert_eq!(after, [("bos", &AFTER_BOS[..]), ("again", &AFTER_BOS[..])]);
    assert!(common.targets.sets.get("y").unwrap()[0].after.is_empty());
    assert!(lints(&common).contains(&"TARGET_TOKENS_DIFFER"));
    let scores = scores(&plan);
    for ((name, (_, readout)), id) in common.runs.iter().zip([261.0, 316.0, 316.0]) {
        let read = |metric: usize| value(&common.measures[metric], &scores[*readout], None).unwrap();
        assert_eq!((read(0), read(1)), (-id, 7.0 - id), "{name}");
    }
}

#[test]
fn cells_are_scored_as_the_run_that_they_patch() {
    for (scoring, base, source) in [
        ("first_token", "sign", "bos"),
        ("first_token", "bos", "sign"),
        ("joint", "sign", "bos"),
        ("joint", "bos", "sign"),
    ] {
        let body = two(json!({"base": base, "target_scoring": scoring, "metrics": ["logprob:x"],
                              "controls": ["self_patch"],
                              "interventions": [{"site": "mlp_out", "layers": 0, "positions": [0],
                                                 "source": {"run": source}}]}));
        let lowered = lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::reading("llama2"))
            .unwrap_or_else(|p| panic!("{p:#?}"));
        let (layout, scores) = (&lowered.layout, scores(&lowered.plan));
        let scored: &[u32] = match (scoring, base) {
            ("joint", "sign") => &AFTER_SIGN,
            (_, "sign") => &AFTER_SIGN[..1],
            _ => &AFTER_BOS,
        };
        let expected: f64 = scored.iter().map(|id| -f64::from(*id)).sum();
        for readout in
            [layout.arm().base[0], layout.arm().grid.readouts[0], layout.arm().grid.controls[0].1[0]]
        {
            let found = value(&layout.case.common.measures[0], &scores[readout], None);
            assert_eq!(found, Some(expected), "{base} {scoring}");
        }
    }
}

#[test]
fn each_case_of_a_sweep_has_its_own_context() {
    let body = json!({"dataset": {"inline": [
            {"prompt": "The Tower is in the city of", "subject": "Tower", "target": " Paris", "foil": " France"},
            {"prompt": "1+1=", "subject": "1+", "target": "2", "foil": "1"}]},
        "corrupt": {"samples": 2}});
    let facts = Fake::reading("llama2");
    let sweep = lower::sweep::sweep(&std::sync::Arc::new(body), &facts).unwrap_or_else(|p| panic!("{p:#?}"));
    let ids = |case: usize, name: &str| {
        let lowered = sweep.case(case, Part::Whole, &facts).unwrap();
        lowered.layout.common.targets.sets.get(name).unwrap()[0].tokens.clone()
    };
    assert_eq!(ids(0, "target"), [PARIS]);
    assert_eq!((ids(1, "target"), ids(1, "foil")), (vec![277], vec![272]));
}

#[test]
fn a_replacement_is_the_tokens_that_it_adds_to_the_prompt_before_it() {
    let body = |prompt: &str, subject: &str, with: &str| {
        json!({"prompt": prompt, "subject": subject, "target": " Paris",
               "corrupt": {"method": "replace_tokens", "with": with}})
    };
    let facts = Fake::reading("llama2");
    let replaced = |prompt: &str, subject: &str, with: &str| {
        let lowered = lower::lower::<crate::spec::trace::TraceSpec>(&body(prompt, subject, with), &facts)
            .unwrap_or_else(|p| panic!("{p:#?}"));
        let layout = lowered.layout;
        let tokens: String = layout.case.replaced[0].tokens.iter().map(|token| token.text.as_str()).collect();
        (
            tokens,
            layout.case.common.lints.has("NO_LEADING_SPACE"),
            layout.case.common.lints.has("REPLACEMENT_CHANGES_PROMPT"),
        )
    };
    // One token for one, not `▁` and more.
    assert_eq!(
        replaced("the river is in the city of", "river", " Louvre").0,
        "<s> the Louvre is in the city of"
    );
    // The first word's token begins with a space that is no part of the prompt.
    assert_eq!(replaced("The river is", "The", "the"), ("<s> the river is".to_owned(), false, false));
    assert_eq!(replaced("1+1=", "+", "-"), ("<s> 1-1=".to_owned(), false, false));
    // What is behind it goes with it: no prompt has these tokens.
    assert!(replaced("1+i is", "+", "r").2);
    let found =
        lower::lower::<crate::spec::trace::TraceSpec>(&body("the river is", "river", "Louvre"), &facts)
            .unwrap_err();
    assert_eq!((&*found.0[0].pointer, found.0[0].code), ("/corrupt/with", "length_mismatch"));
    assert!(found.0[0].fix.starts_with("begin the text with a space"), "{found:#?}");
}

#[test]
fn tokenize_tells_what_a_continuation_adds() {
    let facts = Fake::reading("llama2");
    let ask = |body: Value| tokenize(&body, &facts).unwrap_or_else(|p| panic!("{p:#?}"));
    let quiet = ask(json!({"prompt": "the city of", "continuation": " Paris"}));
    let added = quiet.continuation.unwrap();
    assert_eq!(
        (added.ids, added.texts, added.changes_prompt),
        (vec![PARIS], vec![" Paris".to_owned()], false)
    );
    assert_eq!(quiet.lints, []);
    let loud = ask(json!({"prompt": "<s>the city of ", "continuation": "Paris", "spans": {"x": "it"}}));
    assert!(loud.continuation.unwrap().changes_prompt);
    let found: Vec<String> =
        loud.lints.iter().map(|lint| format!("{} {}", lint.code, lint.pointer)).collect();
    let expected = [
        "DOUBLE_BOS /prompt",
        "PROMPT_ENDS_IN_SPACE /prompt",
        "SPAN_CUTS_TOKEN /spans/x",
        "TARGET_CHANGES_PROMPT /continuation",
    ];
    assert_eq!(found, expected);
    assert_eq!(
        problems("tokenize", &json!({"prompt": "a", "continuation": 3}), &facts),
        ["/continuation wrong_type"]
    );
    let ids = ask(json!({"tokens": [1, 316, 345, 439], "continuation": " Paris"}));
    assert_eq!(ids.continuation.unwrap().ids, [PARIS], "after the text that ids stand for");
}

#[test]
fn more_text_than_can_be_tokenised_for_targets_is_refused() {
    let long = "the city ".repeat(4000);
    let prompt = |i: usize| (format!("r{i}"), json!({"prompt": format!("{long}{i}")}));
    let mut facts = Fake::reading("llama2");
    facts.limits.prompt_bytes = 1 << 30;
    facts.limits.prompt_tokens = 1 << 20;
    facts.config.max_positions = 1 << 20;
    let runs: serde_json::Map<String, Value> = (0..3).map(prompt).collect();
    let targets: Vec<String> = (0..250).map(|i| format!(" {i}")).collect();
    let body = json!({"runs": runs, "targets": {"x": targets}});
    assert_eq!(problems("run", &body, &facts), ["/targets/x limit_exceeded"]);
}
