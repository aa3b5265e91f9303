//! Remarks that need results and nothing else.

use serde_json::json;

use crate::effect::cells::{ArmHead, CaseHead, CaseRun};
use crate::effect::flips::SignFlips;
use crate::effect::lints::below_noise_floor;
use crate::effect::stats::Estimate;
use crate::effect::sweep_lints::{of_count, of_runs, out_of_reach};
use crate::lower::lint::{Lints, Severity};
use crate::spec::problem::Problems;
use crate::spec::sweep::SweepSpec;

#[test]
fn effects_below_the_noise_floor_are_told_but_for_exact_nulls() {
    let found = |effects: &[Option<f64>], floor: f64| {
        let mut lints = Lints::default();
        below_noise_floor("/arms/mlp", "prob:x", effects, &[false, false, true], floor, &mut lints);
        lints.0.into_iter().map(|lint| (lint.code, lint.severity, lint.detail)).collect::<Vec<_>>()
    };
    assert_eq!(found(&[Some(0.5), Some(-0.25), Some(0.0)], 0.125), []);
    assert_eq!(
        found(&[Some(0.5), Some(-0.25), Some(0.0)], 0.25),
        [],
        "an effect at the floor is none below it"
    );
    assert_eq!(
        found(&[Some(0.0), Some(0.0), Some(0.0)], 0.0),
        [],
        "identical runs that agree leave no floor"
    );
    let code = "EFFECT_BELOW_NOISE_FLOOR";
    let one = found(&[Some(0.5), Some(-0.25), Some(0.0)], 0.375);
    assert_eq!((one[0].0, one[0].1), (code, Severity::Info));
    assert_eq!(one[0].2, "prob:x: 1 of 2 effects are below the noise floor of 3.8e-1");
    let all = found(&[Some(0.5), None, Some(0.0)], 1.0);
    assert_eq!((all[0].0, all[0].1), (code, Severity::Warning), "what is not finite is in no count");
}

fn counted(all: usize, dropped: usize) -> Vec<(&'static str, String)> {
    let names: Vec<String> = (0..dropped).map(|i| format!("c{i}")).collect();
    let mut lints = Lints::default();
    of_count("/dataset", all, names.iter().map(|id| (id.as_str(), vec!["expect_top1"])), &mut lints);
    lints.0.into_iter().map(|lint| (lint.code, lint.detail)).collect()
}

#[test]
fn dropped_cases_are_named_and_few_cases_are_remarked() {
    let codes = |all, dropped| counted(all, dropped).iter().map(|(code, _)| *code).collect::<Vec<_>>();
    assert_eq!(codes(40, 0), [""; 0]);
    assert_eq!(codes(24, 3), ["CASES_DROPPED"]);
    assert_eq!(counted(24, 1)[0].1, "1 of 24 case is left out by the filters: \"c0\" (expect_top1)");
    let many = &counted(24, 8)[0].1;
    assert!(many.ends_with("\"c4\" (expect_top1) and 3 more"), "{many}");
    assert_eq!(codes(6, 6), ["NO_CASE_KEPT"]);
    assert_eq!([codes(1, 0), codes(4, 0), codes(6, 0)], [["SMALL_N"]; 3].map(Vec::from));
    assert!(counted(1, 0)[0].1.contains("over its samples") && counted(6, 0)[0].1.contains("ci_t"));
}

#[test]
fn p_values_out_of_reach_are_remarked() {
    let codes = |cases, patterns| {
        let smallest_p = 1.0 / f64::from(patterns);
        let mut lints = Lints::default();
        let test = SignFlips { cases, patterns: u64::from(patterns), exact: true, smallest_p };
        out_of_reach(&test, &mut lints);
        lints.0.into_iter().map(|lint| lint.detail).collect::<Vec<_>>()
    };
    assert_eq!(codes(4, 8_u32), ["with 4 cases the smallest p-value there can be is 0.125"]);
    assert_eq!(codes(6, 32), [""; 0]);
}

fn case(i: usize, answers: bool, [clean, corrupted]: [f64; 2]) -> CaseHead {
    let mean = |x: f64| Estimate { mean: Some(x), se: None };
    let run = |name: &str, prob: f64, top1: &str| CaseRun {
        name: name.to_owned(),
        tokens: vec![],
        top1: Some(top1.to_owned()),
        values: vec![mean(prob.ln())],
        not_finite: 0,
    };
    CaseHead {
        id: format!("c{i}"),
        group: None,
        kept: true,
        dropped: vec![],
        answers: Some(answers),
        runs: vec![run("clean", clean, " the"), run("corrupted", corrupted, " a")],
        subject: None,
        total_effect: vec![vec![mean(clean.ln() - corrupted.ln())]],
    }
}

/// Codes and details of a sweep by log-probability, whose arm has these runs.
fn of_sweep(cases: &[CaseHead], [base, reference]: [&str; 2]) -> Vec<(&'static str, String)> {
    let body = json!({
        "dataset": {"inline": [{"prompt": "a b", "subject": "a", "target": "c"}]}, "corrupt": {"samples": 2},
        "metrics": ["logprob:target"], "filters": {"expect_top1": false},
    });
    let mut out = Problems::default();
    let spec = SweepSpec::read(&body, &mut out).unwrap_or_else(|| panic!("{out:?}"));
    let arm = ArmHead {
        name: "mlp".to_owned(),
        axes: vec![],
        sites: vec![],
        base: base.to_owned(),
        reference: Some(reference.to_owned()),
    };
    let mut lints = Lints::default();
    of_runs(&spec, &[arm], cases, &mut lints);
    lints.0.into_iter().map(|lint| (lint.code, lint.detail)).collect()
}

#[test]
fn a_sweep_says_what_a_trace_of_the_same_prompts_does() {
    let denoising = ["corrupted", "clean"];
    let codes =
        |cases: &[CaseHead], arm| of_sweep(cases, arm).iter().map(|(code, _)| *code).collect::<Vec<_>>();
    let well = || [case(0, true, [0.5, 0.1]), case(1, true, [0.4, 0.2])];
    assert_eq!(codes(&well(), denoising), [""; 0]);
    let mut one = well();
    one[1] = case(1, false, [0.3, 0.4]);
    let said = of_sweep(&one, denoising);
    assert_eq!(
        said.iter().map(|(code, _)| *code).collect::<Vec<_>>(),
        ["TARGET_NOT_TOP1", "CORRUPTION_HELPS"]
    );
    assert!(
        said[0].1.contains("in 1 of 2 cases") && said[0].1.contains("\"c1\" it is \" the\""),
        "{}",
        said[0].1
    );
    assert!(said[1].1.contains("1 of 2 cases; case \"c1\": prob:target 3.000e-1 clean"), "{}", said[1].1);
    assert_eq!(codes(&[case(0, true, [0.5, 0.49])], denoising), ["WEAK_CORRUPTION"]);
    assert_eq!(codes(&[case(0, true, [0.5, 1e-5])], denoising), ["SATURATED_CORRUPTION"]);
    // What was dropped is not looked at.
    one[1].kept = false;
    assert_eq!(codes(&one, denoising), [""; 0]);
    // Between two prompts of which the second has less of the target.
    let mut between = case(0, true, [0.5, 0.1]);
    between.total_effect[0][0].mean = Some(-1.5);
    assert_eq!(codes(&[between.clone()], ["literal", "pun"]), ["DAMAGE_LOOKS_LIKE_SUCCESS"]);
    assert_eq!(codes(&[between], ["clean", "corrupted"]), [""; 0], "noising is meant to damage");
}
