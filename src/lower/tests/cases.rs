//! Many prompts as one request: what they share, and how their problems and remarks are told.

use serde_json::{Value, json};

use crate::lower::cases::{Cases, cases};
use crate::lower::facts::{Facts, Limits};
use crate::lower::testing::{Fake, id};
use crate::plan::{Op, Source};
use crate::spec::cases::CasesSpec;
use crate::spec::problem::Problems;
use crate::spec::trace::TraceSpec;

fn two(more: Value) -> Value {
    let mut body = json!({"cases": [
        {"prompt": "The Eiffel Tower is", "subject": "Eiffel Tower", "target": " Paris"},
        {"id": "river", "prompt": "The river has a strong current", "subject": "The river", "target": [" water", " current"]},
    ], "layers": [1]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn opened(more: Value) -> Cases {
    cases(&two(more), &Fake::default()).unwrap_or_else(|p| panic!("{p:#?}"))
}

fn problems(body: &Value, facts: &Fake) -> Vec<String> {
    let found = cases(body, facts).unwrap_err();
    found.0.iter().map(|p| format!("{} {}", p.pointer, p.code)).collect()
}

#[test]
fn a_case_is_the_trace_that_its_short_form_would_be() {
    let opened =
        opened(json!({"arms": ["hidden", "attn"], "corrupt": {"samples": 2, "sigma": {"abs": 0.5}}}));
    for (case, more) in [
        (0, json!({"prompt": "The Eiffel Tower is", "subject": "Eiffel Tower", "target": " Paris"})),
        (
            1,
            json!({"prompt": "The river has a strong current", "subject": "The river",
                                    "target": [" water", " current"]}),
        ),
    ] {
        let mut body = json!({"layers": [1], "arms": ["hidden", "attn"], "metrics": ["prob:target", "logprob:target"],
                              "corrupt": {"samples": 2, "sigma": {"abs": 0.5}}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut single = TraceSpec::read(&body, &mut Problems::default()).unwrap();
        single.experiment.origins = crate::spec::experiment::Origins::default();
        assert_eq!(opened.spec.trace(case), single);
        let expected = crate::lower::trace(&body, &Fake::default()).unwrap();
        let found = opened.trace(case, &Fake::default()).unwrap();
        assert_eq!(format!("{:?}", found.plan), format!("{:?}", expected.plan));
        assert_eq!(found.layout.common.plan_sha256, expected.layout.common.plan_sha256);
        // The unpatched runs alone are those of the whole trace, with the same noise.
        let unpatched = opened.baseline(case, &Fake::default()).unwrap();
        assert!(unpatched.layout.arms.is_empty());
        assert_eq!(unpatched.layout.corrupted.len(), 2);
        let noise = |plan: &crate::plan::Plan| -> Vec<Vec<f32>> {
            let edits = plan.runs.iter().flat_map(|run| &run.edits);
            let rows = edits.filter_map(|edit| match &edit.op {
                Op::Add { source: Source::Constant(rows), .. } => Some(rows.to_vec()),
                _ => None,
            });
            rows.collect()
        };
        assert_eq!(noise(&unpatched.plan), noise(&expected.plan));
        assert_eq!(noise(&unpatched.plan).len(), 2);
    }
}

#[test]
fn sigma_is_of_the_subjects_of_all_cases_and_each_case_gets_it() {
    let opened = opened(json!({"corrupt": {"sigma": {"k": 2}, "samples": 1}}));
    let subjects = [" Eiffel", " Tower", "The", " river"].map(id);
    let numbers: Vec<f64> = Fake::default().embedding(&subjects).into_iter().map(f64::from).collect();
    let n = numbers.len() as f64;
    assert_eq!(n, 32.0);
    let mean = numbers.iter().sum::<f64>() / n;
    let deviation = (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let sigma = opened.sigma.unwrap();
    assert!((sigma.reference.unwrap() - deviation).abs() < 1e-12, "{sigma:?} {deviation}");
    assert_eq!((sigma.k, sigma.of, sigma.abs), (Some(2.0), Some("subjects"), 2.0 * sigma.reference.unwrap()));
    for case in 0..2 {
        let used = opened.trace(case, &Fake::default()).unwrap().layout.sigma.unwrap();
        assert_eq!(used.abs, sigma.abs);
    }
    // Of the whole vocabulary it doesn't depend on the cases.
    let vocab = json!({"corrupt": {"sigma": {"k": 2, "of": "vocab"}, "samples": 1}});
    assert_eq!(self::opened(vocab).sigma.unwrap().abs, 1.0);
}

#[test]
fn the_echo_has_every_default_and_reads_as_itself() {
    let spec = opened(json!({})).spec;
    let echo = serde_json::to_value(&spec).unwrap();
    assert_eq!(echo["cases"][0]["id"], "0");
    assert_eq!(echo["filters"], json!({"expect_top1": true}));
    assert_eq!(
        echo["aggregate"],
        json!({"by": ["token_class"], "ci": {"resamples": 2000, "seed": 1, "level": 0.95}})
    );
    let arms: Vec<&String> = echo["arms"].as_object().unwrap().keys().collect();
    assert_eq!(arms, ["hidden", "mlp", "attn"]);
    assert_eq!(echo["arms"]["mlp"], json!({"site": "mlp_out", "window": 10}));
    let mut out = Problems::default();
    assert_eq!(CasesSpec::read(&echo, &mut out), Some(spec));
    assert!(out.is_empty(), "{out:?}");
}

#[test]
fn limits_hold_for_all_cases_together() {
    let with = |limits| Fake { limits, ..Fake::default() };
    let limits = Limits::default;
    for (facts, expected) in [
        (with(Limits { cases: 1, ..limits() }), "/cases limit_exceeded"),
        (with(Limits { prompt_bytes: 40, ..limits() }), "/cases/1/prompt limit_exceeded"),
        // 6 classes, 4 layers, 3 arms, 2 metrics, 2 cases, 2000 draws.
        (with(Limits { resampled: 575_999, ..limits() }), "/aggregate/ci/resamples limit_exceeded"),
    ] {
        assert_eq!(problems(&two(json!({})), &facts), [expected]);
    }
    assert!(
        cases(&two(json!({})), &with(Limits { cases: 2, prompt_bytes: 49, resampled: 576_000, ..limits() }))
            .is_ok()
    );
}

#[test]
fn problems_of_readable_cases_are_told_beside_those_that_cannot_be_read() {
    let body = json!({"cases": [
        {"prompt": "The river", "subject": "river"},
        {"prompt": "The river", "subject": "city", "target": " water"},
        {"prompt": "The river", "subject": "river", "target": 9999, "id": "x"},
        {"prompt": "The river", "subject": "river", "target": [" water", 9999], "id": "x"},
    ], "metrics": ["prob:target", "prob:nobody"]});
    let expected = [
        "/cases/0/target missing_field",
        "/cases/3/id duplicate",
        "/cases/1/subject span_absent",
        "/cases/2/target unknown_token",
        "/cases/3/target/1 unknown_token",
    ];
    assert_eq!(problems(&body, &Fake::default()), expected);
}

#[test]
fn what_is_true_of_several_cases_is_said_once() {
    let opened = opened(json!({"cases": [
        {"id": "a", "prompt": "The river", "subject": "The", "target": " water current"},
        {"id": "b", "prompt": "The city", "subject": "The", "target": " water"},
        {"id": "c", "prompt": "The river", "subject": "The", "target": " voltage current"},
        {"id": "d", "prompt": "The river", "subject": "The", "target": " Paris water"},
    ], "corrupt": {"samples": 1}}));
    let mut found = opened.gather();
    for case in 0..4 {
        found.add_lints(case, opened.trace(case, &Fake::default()).unwrap().layout.common.lints);
    }
    let lints = found.lints();
    let of = |code: &str| lints.iter().filter(|lint| lint.code == code).collect::<Vec<_>>();
    let [several] = of("MULTI_TOKEN_TARGET")[..] else { panic!("{lints:?}") };
    assert_eq!(several.pointer, "/cases/0/target");
    assert!(several.detail.ends_with("; and 2 other cases alike"), "{several:?}");
    let [one] = of("SINGLE_NOISE_SAMPLE")[..] else { panic!("{lints:?}") };
    assert_eq!(
        (one.pointer.as_str(), one.detail.as_str()),
        ("/corrupt/samples", "one draw of noise has no error bar")
    );
}
