//! Many prompts as one request: what they share, and how their problems and remarks are told.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::lower::facts::{Facts, Limits};
use crate::lower::layout::SigmaUsed;
use crate::lower::sweep::{Part, Sweep, traces};
use crate::lower::testing::{Fake, id};
use crate::plan::{Edit, Op, Plan, RunId, Source};
use crate::spec::cases::CasesSpec;
use crate::spec::corruption::SigmaOf;
use crate::spec::problem::Problems;

fn two(more: Value) -> Value {
    let mut body = json!({"cases": [
        {"prompt": "The Eiffel Tower is", "subject": "Eiffel Tower", "target": " Paris"},
        {"id": "river", "prompt": "The river has a strong current", "subject": "The river", "target": [" water", " current"]},
    ], "layers": [1]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn opened(more: Value) -> (CasesSpec, Sweep) {
    traces(&Arc::new(two(more)), &Fake::default()).unwrap_or_else(|p| panic!("{p:#?}"))
}

fn problems(body: &Value, facts: &Fake) -> Vec<String> {
    let found = traces(&Arc::new(body.clone()), facts).unwrap_err();
    found.0.iter().map(|p| format!("{} {}", p.pointer, p.code)).collect()
}

/// The edits of a run and of those that it comes from, whatever their order within a run.
fn edits(plan: &Plan, run: RunId) -> Vec<String> {
    let mut own: Vec<String> = plan.run(run).edits.iter().map(|edit| show(plan, edit)).collect();
    own.sort_unstable();
    let parent = plan.run(run).parent.map(|parent| edits(plan, parent));
    parent.into_iter().flatten().chain(own).collect()
}

/// An edit whose source is named by what it holds.
fn show(plan: &Plan, edit: &Edit) -> String {
    let op = match &edit.op {
        Op::Replace(Source::Run { run, positions }) => format!("{:?} {positions:?}", edits(plan, *run)),
        op => format!("{op:?}"),
    };
    format!("{:?} {:?} {:?} {op}", edit.at, edit.positions, edit.columns)
}

#[test]
fn a_case_has_the_cells_of_the_trace_that_its_short_form_would_be() {
    let arms = json!({"hidden": {"site": "resid_post"}, "mlp": {"site": "mlp_out", "window": 3, "freeze": ["attn_out", "mlp_out"]},
                      "head": {"site": "head_out", "heads": [1]}, "words": {"site": "embed", "freeze": ["mlp_out"]}});
    for base in ["corrupted", "clean"] {
        let more = json!({"arms": arms, "corrupt": {"samples": 2, "sigma": {"abs": 0.5}}, "base": base});
        let (_, opened) = opened(more.clone());
        for (case, own) in two(more.clone())["cases"].as_array().unwrap().iter().enumerate() {
            let mut body = json!({"layers": [1], "metrics": ["prob:target", "logprob:target"]});
            let fields = body.as_object_mut().unwrap();
            fields.extend(more.as_object().unwrap().clone());
            let fields_of_case = own.as_object().unwrap().clone();
            fields.extend(fields_of_case.into_iter().filter(|(name, _)| name != "id"));
            let expected =
                crate::lower::lower::<crate::spec::trace::TraceSpec>(&body, &Fake::default()).unwrap();
            let found = opened.case(case, Part::Whole, &Fake::default()).unwrap();
            let (single, swept) = (&expected.layout, &found.layout);
            assert_eq!(single.case.arms.names(), swept.arms.names());
            for ((name, one), (_, arm)) in single.case.arms.iter().zip(swept.arms.iter()) {
                assert_eq!(
                    (&one.grid.axes, &one.grid.trivial),
                    (&arm.grid.axes, &arm.grid.trivial),
                    "{name}"
                );
                let cells = one.grid.readouts.iter().zip(&arm.grid.readouts);
                for (a, b) in cells {
                    let (a, b) = (&expected.plan.readouts[*a], &found.plan.readouts[*b]);
                    assert_eq!(a.position, b.position);
                    assert_eq!(edits(&expected.plan, a.run), edits(&found.plan, b.run), "{base} {name}");
                }
            }
            // The unpatched runs alone are those of the whole trace, with the same noise.
            let unpatched = opened.case(case, Part::Baselines, &Fake::default()).unwrap();
            assert_eq!(unpatched.layout.cells(), 0);
            assert_eq!(unpatched.layout.corrupted.len(), 2);
            for (a, b) in single.case.corrupted.iter().zip(&unpatched.layout.corrupted) {
                let (a, b) = (expected.plan.readouts[*a].run, unpatched.plan.readouts[*b].run);
                assert_eq!(edits(&expected.plan, a), edits(&unpatched.plan, b));
                assert_eq!(edits(&unpatched.plan, b).len(), 1);
            }
        }
    }
}

#[test]
fn sigma_is_of_the_subjects_of_all_cases_and_each_case_gets_it() {
    let (_, opened) = opened(json!({"corrupt": {"sigma": {"k": 2}, "samples": 1}}));
    let subjects = [" Eiffel", " Tower", "The", " river"].map(id);
    let numbers: Vec<f64> = Fake::default().embedding(&subjects).into_iter().map(f64::from).collect();
    let n = numbers.len() as f64;
    assert_eq!(n, 32.0);
    let mean = numbers.iter().sum::<f64>() / n;
    let deviation = (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let SigmaUsed { abs, k, of, reference } = opened.shared.sigma.unwrap();
    assert!((reference.unwrap() - deviation).abs() < 1e-12, "{reference:?} {deviation}");
    assert_eq!((k, of, abs), (Some(2.0), Some(SigmaOf::Subjects), 2.0 * reference.unwrap()));
    for case in 0..2 {
        let plan = opened.case(case, Part::Baselines, &Fake::default()).unwrap().plan;
        let alone = json!({"corrupt": {"sigma": {"abs": abs}, "samples": 1}});
        let expected = self::opened(alone).1.case(case, Part::Baselines, &Fake::default()).unwrap().plan;
        assert_eq!(format!("{plan:?}"), format!("{expected:?}"));
    }
    // Of the whole vocabulary it doesn't depend on the cases.
    let vocab = json!({"corrupt": {"sigma": {"k": 2, "of": "vocab"}, "samples": 1}});
    assert_eq!(self::opened(vocab).1.shared.sigma.unwrap().abs, 1.0);
}

#[test]
fn the_echo_has_every_default_and_reads_as_itself() {
    let (spec, _) = opened(json!({}));
    let echo = serde_json::to_value(&spec).unwrap();
    assert_eq!(echo["cases"][0]["id"], "0");
    assert_eq!(echo["filters"], json!({"expect_top1": "target"}));
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
        traces(
            &Arc::new(two(json!({}))),
            &with(Limits { cases: 2, prompt_bytes: 49, resampled: 576_000, ..limits() })
        )
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
    let body = two(json!({"cases": [
        {"id": "a", "prompt": "The river", "subject": "The", "target": " water current"},
        {"id": "b", "prompt": "The city", "subject": "The", "target": " water"},
        {"id": "c", "prompt": "The river", "subject": "The", "target": " voltage current"},
        {"id": "d", "prompt": "The river", "subject": "The", "target": " Paris water"},
    ], "corrupt": {"samples": 1}}));
    let (_, opened) = traces(&Arc::new(body), &Fake::default()).unwrap();
    let mut found = opened.case_table();
    for case in 0..4 {
        found.add_lints(case, opened.case(case, Part::Whole, &Fake::default()).unwrap().layout.common.lints);
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

#[test]
fn what_is_wrong_with_arms_is_told_where_a_trace_writes_them() {
    let wrong = |arm: Value, more: Value| {
        let mut body = two(json!({"arms": {"x": arm}}));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (_, opened) = traces(&Arc::new(body.clone()), &Fake::default()).unwrap();
        let mut found = opened.case_table();
        let problems = opened.case(1, Part::Whole, &Fake::default()).unwrap_err();
        found.add_problems(1, problems);
        found.problems().0.into_iter().map(|p| format!("{} {}", p.pointer, p.code)).collect::<Vec<_>>()
    };
    let site = json!({"site": "z", "heads": [1, 9]});
    assert_eq!(wrong(site, json!({})), ["/arms/x/heads/1 out_of_range"]);
    assert_eq!(wrong(json!({"site": "mlp_out"}), json!({"layers": [1, 9]})), ["/layers/1 out_of_range"]);
    let limits = Limits { cells: 3, ..Limits::default() };
    let (_, opened) = opened(json!({}));
    let found = opened.case(0, Part::Whole, &Fake { limits, ..Fake::default() }).unwrap_err();
    assert_eq!(found.0[0].pointer, "/arms");
    let unknown = two(json!({"corrupt": {"from": "elsewhere"}}));
    assert_eq!(problems(&unknown, &Fake::default()), ["/corrupt/from unknown_name"]);
}

#[test]
fn positions_that_the_request_names_are_told_where_it_names_them() {
    let body = two(json!({"corrupt": {"positions": [1, 99]}}));
    assert_eq!(problems(&body, &Fake::default()), ["/corrupt/positions/1 out_of_range"]);
    let case = json!({"prompt": "The Eiffel Tower is", "subject": [0, 2], "target": " Paris"});
    for (corrupt, expected) in [
        (json!({"positions": [1, 99]}), "/corrupt/positions/1 out_of_range"),
        (json!({"sigma": {"abs": 1}}), "/dataset/inline/0/subject conflict"),
    ] {
        let body = json!({"dataset": {"inline": [case]}, "corrupt": corrupt});
        let found = crate::lower::sweep::sweep(&Arc::new(body), &Fake { adds_bos: true, ..Fake::default() })
            .unwrap_err();
        let found: Vec<_> = found.0.iter().map(|p| format!("{} {}", p.pointer, p.code)).collect();
        assert_eq!(found, [expected]);
    }
}
