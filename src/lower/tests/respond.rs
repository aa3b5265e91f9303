//! Scores made by hand to responses.

use serde_json::{Value, json};

use super::trace;
use crate::lower;
use crate::lower::layout::Lowered;
use crate::lower::testing::{Fake, id};
use crate::plan::Score;
use crate::plan::output::{EditStats, PlanOutput};
use crate::result::common::{Envelope, Provenance};
use crate::result::respond::{Computed, Respond};
use crate::spec::problem::Problems;

/// A score whose target tokens have these probabilities, and whose most probable token is `top`.
pub(super) fn score(probabilities: &[f64], top: &str) -> Score {
    Score {
        log_sum_exp: 0.0,
        logits: probabilities.iter().map(|p| p.ln() as f32).collect(),
        ranks: (2..).take(probabilities.len()).collect(),
        top: vec![(id(top), 0.5_f32.ln())],
        kl: Vec::new(),
        ..Score::default()
    }
}

pub(super) fn output(scores: Vec<Score>) -> PlanOutput {
    let written = EditStats { cells: 3, elements: 24, max_abs_delta: 1.5, cancelled: 0 };
    PlanOutput { scores, receipts: [written; 3], ..PlanOutput::default() }
}

pub(super) fn envelope() -> Envelope {
    Envelope { id: "x_1".to_owned(), model: "fake".to_owned(), provenance: Provenance::default() }
}

/// The answer to what a plan gave, every readout being its own run's.
pub(super) fn answered<L: Respond>(
    lowered: &Lowered<L>,
    output: PlanOutput,
) -> Result<L::Response, Problems> {
    let resolved = lowered.plan.readouts.iter().map(|readout| readout.run).collect();
    lowered.layout.respond(&Computed { output, resolved, again: None }, &Fake::default(), envelope())
}

/// Equal up to f32 rounding of the logits, as numbers may be.
pub(super) fn near(found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| near(a, b));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
        _ => assert_eq!(found, expected),
    }
}

fn small(more: Value) -> Value {
    let mut body = json!({"prompt": "The Eiffel Tower is", "subject": "Eiffel", "target": " Paris", "layers": [1],
                          "positions": [1, 3], "metrics": ["prob:target"], "keep": {"per_sample": true},
                          "corrupt": {"sigma": {"abs": 0.5}, "samples": 2, "seed": 7}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The response to `small` with these probabilities of clean, corrupted and cells.
pub(super) fn respond(more: Value, clean: (f64, &str), corrupted: [f64; 2], cells: [f64; 4]) -> Value {
    let lowered = trace(&small(more));
    let mut scores = vec![score(&[clean.0], clean.1)];
    scores.extend(corrupted.iter().chain(&cells).map(|p| score(&[*p], " Rome")));
    let response = answered(&lowered, output(scores));
    serde_json::to_value(response.unwrap()).unwrap()
}

pub(super) fn lint_codes(response: &Value) -> Vec<&str> {
    response["lints"].as_array().unwrap().iter().map(|l| l["code"].as_str().unwrap()).collect()
}

#[test]
fn a_traces_effects_are_paired_by_sample_and_its_recovery_is_a_share_of_the_total_effect() {
    let r = respond(json!({}), (0.8, " Paris"), [0.2, 0.4], [0.5, 0.6, 0.2, 0.4]);
    let key = "prob:target";
    near(&r["baselines"]["clean"][key], &json!(0.8));
    let corrupted = &r["baselines"]["corrupted"][key];
    near(&corrupted["mean"], &json!(0.3));
    near(&corrupted["se"], &json!(0.1));
    near(&corrupted["samples"], &json!([0.2, 0.4]));
    near(&r["total_effect"][key]["mean"], &json!(0.5));
    let arm = &r["arms"]["hidden"];
    assert_eq!(
        arm["axes"],
        json!([{"name": "layer", "values": [1]}, {"name": "position", "values": [1, 3]}])
    );
    near(&arm["values"][key]["mean"], &json!([[0.55, 0.3]]));
    near(&arm["values"][key]["samples"], &json!([[[0.5, 0.6], [0.2, 0.4]]]));
    near(&arm["effects"][key]["mean"], &json!([[0.25, 0.0]]));
    near(&arm["effects"][key]["se"], &json!([[0.05, 0.0]]));
    near(&arm["recovery"][key], &json!([[0.5, 0.0]]));
    assert_eq!((&arm["argmax"][key]["layer"], &arm["argmax"][key]["position"]), (&json!(1), &json!(1)));
    near(&arm["argmax"][key]["effect"], &json!(0.25));
    assert_eq!(arm["masks"], json!({"exact_null": [[false, false]], "trivial": [[false, false]]}));
    let corrupted: Vec<bool> =
        r["tokens"].as_array().unwrap().iter().map(|t| t["corrupted"].as_bool().unwrap()).collect();
    assert_eq!(corrupted, [false, true, false, false]);
    assert_eq!(r["sigma"], json!({"abs": 0.5, "k": null, "of": null, "reference": null}));
    assert_eq!(r["provenance"]["rng"], json!({"algo": "philox", "seed": 7}));
    assert_eq!(r["receipt"]["elements_written"], 24);
    assert_eq!(lint_codes(&r), ["PROB_ONLY", "SMALL_N"]);
    for field in [
        "id",
        "model",
        "request",
        "tokens",
        "baselines",
        "total_effect",
        "sigma",
        "arms",
        "receipt",
        "controls",
        "lints",
        "usage",
        "provenance",
    ] {
        assert!(r.get(field).is_some(), "{field}");
    }
}

#[test]
fn noising_is_measured_from_the_clean_run() {
    let r = respond(json!({"base": "clean"}), (0.8, " Paris"), [0.2, 0.4], [0.5, 0.6, 0.8, 0.8]);
    let arm = &r["arms"]["hidden"];
    near(&arm["effects"]["prob:target"]["mean"], &json!([[-0.25, 0.0]]));
    near(&arm["recovery"]["prob:target"], &json!([[0.5, 0.0]]));
    assert_eq!(arm["argmax"]["prob:target"]["position"], 1);
}

#[test]
fn recovery_is_never_clamped_and_null_with_a_reason_where_there_is_no_total_effect() {
    let r = respond(json!({}), (0.4, " Paris"), [0.2, 0.2], [0.8, 0.8, 0.1, 0.1]);
    near(&r["arms"]["hidden"]["recovery"]["prob:target"], &json!([[3.0, -0.5]]));
    let r = respond(json!({}), (0.2, " Paris"), [0.2, 0.2], [0.8, 0.8, 0.1, 0.1]);
    assert_eq!(r["arms"]["hidden"]["recovery"]["prob:target"], json!([[null, null]]));
    assert_eq!(r["nulls"][0]["where"], "/arms/hidden/recovery/prob:target");
    near(&r["arms"]["hidden"]["effects"]["prob:target"]["mean"], &json!([[0.6, -0.1]]));
    // A logit of minus infinity gives probability 0, one that is no number gives null.
    let r = respond(json!({}), (0.4, " Paris"), [0.2, 0.2], [0.0, 0.0, f64::NAN, 0.1]);
    near(&r["arms"]["hidden"]["values"]["prob:target"]["mean"], &json!([[0.0, null]]));
    near(&r["arms"]["hidden"]["effects"]["prob:target"]["mean"], &json!([[-0.2, null]]));
}

#[test]
fn a_trace_says_when_it_means_little() {
    let codes = |clean: (f64, &str), corrupted: [f64; 2]| {
        let r = respond(json!({"metrics": ["prob:target", "logprob:target"]}), clean, corrupted, [0.1; 4]);
        // Two samples are few in every case.
        let found = lint_codes(&r).into_iter().filter(|code| *code != "SMALL_N");
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(codes((0.8, " Paris"), [0.2, 0.2]), [""; 0]);
    assert_eq!(codes((0.8, " London"), [0.2, 0.2]), ["TARGET_NOT_TOP1"]);
    assert_eq!(codes((0.2, " Paris"), [0.2, 0.3]), ["CORRUPTION_HELPS"]);
    assert_eq!(codes((0.8, " Paris"), [0.79, 0.78]), ["WEAK_CORRUPTION"]);
    assert_eq!(codes((0.8, " Paris"), [1e-5, 1e-4]), ["SATURATED_CORRUPTION"]);
    // Another prompt is meant to have another answer.
    let lowered = trace(&small(json!({"corrupt": {"method": "replace_tokens", "with": " river"}})));
    let scores = [0.8, 1e-5, 0.1, 0.1].map(|p| score(&[p], " Paris"));
    let r = answered(&lowered, output(scores.to_vec())).unwrap();
    assert!(r.lints.iter().all(|l| l.code != "SATURATED_CORRUPTION"), "{:?}", r.lints);
    // The whole map at the last layer: one trivial cell.
    let lowered = trace(&small(json!({"layers": [3]})));
    let scores = vec![score(&[0.5], " Paris"); 7];
    let respond = |output| serde_json::to_value(answered(&lowered, output).unwrap()).unwrap();
    let r = respond(output(scores.clone()));
    assert!(lint_codes(&r).contains(&"TRIVIAL_CELL"));
    assert_eq!(r["arms"]["hidden"]["masks"]["trivial"], json!([[false, true]]));
    let r = respond(PlanOutput { scores, ..PlanOutput::default() });
    assert!(lint_codes(&r).contains(&"ZERO_CELLS_WRITTEN"));
}

#[test]
fn an_unexpected_answer_is_refused_if_asked_for_and_strict_refuses_lints_of_results() {
    let refused = |more: Value| {
        let lowered = trace(&small(more));
        let scores = vec![score(&[0.5], " London"); 7];
        let r = answered(&lowered, output(scores));
        r.err().map(|p| format!("{} {}", p.0[0].pointer, p.0[0].code))
    };
    assert_eq!(refused(json!({"expect_top1": "target"})), None);
    let refuse = json!({"expect_top1": "target", "on_unexpected": "refuse"});
    assert_eq!(refused(refuse).as_deref(), Some("/expect_top1 unexpected_answer"));
    let strict = json!({"strict": true, "expect_top1": "target"});
    assert_eq!(refused(strict).as_deref(), Some("/expect_top1 TARGET_NOT_TOP1"));
}

#[test]
fn cells_whose_readout_is_their_baselines_are_exact_nulls() {
    let lowered = trace(&small(json!({})));
    let mut resolved: Vec<_> = lowered.plan.readouts.iter().map(|readout| readout.run).collect();
    let grid = lowered.layout.case.arms.get("hidden").unwrap();
    // Both samples of the second cell, one of the first.
    for (cell, sample) in [(1, 0), (1, 1), (0, 0)] {
        resolved[grid.grid.cell(cell)[sample]] = resolved[lowered.layout.case.corrupted[sample]];
    }
    assert_eq!(grid.grid.exact_nulls(&resolved, &lowered.layout.case.corrupted), [false, true]);
}

pub(super) fn patch_response(more: Value, control_logit: f32, source_logit: f32) -> Value {
    let mut body = json!({"base": "The Eiffel Tower is", "source": "The river has", "target": " Paris",
                          "metrics": ["logit:target", "top1_flip"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let lowered = lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default()).unwrap();
    let with = |logit: f32, top: &str| Score { logits: vec![logit], ..score(&[1.0], top) };
    // Roots, then of each layer the control, if any, and the cell.
    let mut scores = vec![with(1.0, " Rome"), with(source_logit, " Paris")];
    for (i, (logit, top)) in
        [(1.0, " Rome"), (2.0, " Rome"), (3.0, " Paris"), (5.0, " Paris")].into_iter().enumerate()
    {
        if more.get("controls").is_some() {
            scores.push(with(control_logit, " Rome"));
        }
        scores.push(Score { written: i as f64, ..with(logit, top) });
    }
    let r = answered(&lowered, output(scores));
    serde_json::to_value(r.unwrap()).unwrap()
}

#[test]
fn a_patch_is_compared_with_its_base_and_normalised_between_two_runs() {
    let r = patch_response(json!({}), 0.0, 3.0);
    assert_eq!(r["axes"], json!([{"name": "layer", "values": [0, 1, 2, 3]}]));
    assert_eq!(r["baselines"]["base"]["logit:target"], 1.0);
    assert_eq!(r["baselines"]["source"], json!({"logit:target": 3.0, "top1_flip": 1.0}));
    assert_eq!(r["values"]["logit:target"], json!([1.0, 2.0, 3.0, 5.0]));
    assert_eq!(r["values"]["top1_flip"], json!([0.0, 0.0, 1.0, 1.0]));
    assert_eq!(r["effects"]["logit:target"], json!([0.0, 1.0, 2.0, 4.0]));
    assert_eq!(r["normalised"]["logit:target"], json!([0.0, 0.5, 1.0, 2.0]));
    assert_eq!(r["masks"]["trivial"], json!([false, false, false, true]));
    assert_eq!(r["topk"][3][0]["text"], " Paris");
    near(&r["topk"][3][0]["prob"], &json!(0.5));
    assert_eq!(r["controls"], json!({}));
    assert_eq!(lint_codes(&r), ["TRIVIAL_CELL"]);
    let same = patch_response(json!({}), 0.0, 1.0);
    assert_eq!(lint_codes(&same), ["TRIVIAL_CELL", "NO_CONTRAST"]);
    assert_eq!(same["normalised"]["logit:target"], json!([null, null, null, null]));
    assert_eq!(same["nulls"][0]["where"], "/normalised/logit:target");
}

#[test]
fn the_self_patch_control_shows_its_largest_effect() {
    assert_eq!(
        patch_response(json!({"controls": ["self_patch"]}), 1.0, 3.0)["controls"]["self_patch"]["max_abs_effect"],
        0.0
    );
    assert_eq!(
        patch_response(json!({"controls": ["self_patch"]}), 0.5, 3.0)["controls"]["self_patch"]["max_abs_effect"],
        0.5
    );
    let broken = patch_response(json!({"controls": ["self_patch"]}), f32::NAN, 3.0);
    assert_eq!(broken["controls"]["self_patch"]["max_abs_effect"], Value::Null);
}

#[test]
fn a_joint_patch_has_no_axes_and_plain_numbers() {
    let body = json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}}, "base": "a",
                      "interventions": [{"site": "mlp_out", "op": "zero"}]});
    let lowered = lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default()).unwrap();
    let scores = vec![
        Score { kl: vec![0.0], ..score(&[], " Rome") },
        Score { kl: vec![0.25], ..score(&[], " Paris") },
    ];
    let r = answered(&lowered, output(scores));
    let r = serde_json::to_value(r.unwrap()).unwrap();
    assert_eq!((&r["axes"], &r["values"]), (&json!([]), &json!({"kl:a": 0.25, "top1_flip": 1.0})));
    assert_eq!(r["masks"], json!({"exact_null": false, "trivial": false}));
    assert_eq!(r.get("normalised"), None);
}

#[test]
fn sets_add_their_probabilities_and_take_the_best_rank() {
    let body = json!({"prompt": "The Eiffel Tower is in", "targets": {"x": [" Paris", " Rome"], "y": [" London"]},
                      "metrics": ["prob:x", "logprob:x", "logit:x", "rank:x", "logit_diff:x-y"],
                      "read": {"capture": [{"site": "mlp_out", "layers": [0, 2], "positions": [-1]},
                                           {"site": "embed", "positions": [0, 1]}]}});
    let lowered = lower::lower::<crate::spec::run::RunSpec>(&body, &Fake::default()).unwrap();
    let mut scored = score(&[0.1, 0.2, 0.05], " the");
    scored.log_sum_exp = 2.0_f64.ln();
    let mut output = output(vec![scored]);
    output.captures = vec![vec![1.0; 8], vec![f32::NAN; 8], vec![2.0; 16]];
    let r = answered(&lowered, output).unwrap();
    let r = serde_json::to_value(r).unwrap();
    let m = &r["runs"]["run"]["metrics"];
    near(&m["prob:x"], &json!(0.15));
    near(&m["logprob:x"], &json!(0.15_f64.ln()));
    near(&m["logit:x"], &json!(0.3_f64.ln()));
    near(&m["logit_diff:x-y"], &json!(6.0_f64.ln()));
    assert_eq!(m["rank:x"], 2.0);
    let captures = &r["runs"]["run"]["captures"];
    assert_eq!(
        (&captures[0]["shape"], &captures[0]["axes"]),
        (&json!([2, 1, 8]), &json!(["layer", "position", "dim"]))
    );
    assert_eq!(captures[0]["values"][1][0][7], Value::Null);
    assert_eq!((&captures[0]["positions"], &captures[1]["shape"]), (&json!([4]), &json!([2, 8])));
    assert_eq!(r["targets"]["x"][1], json!({"id": id(" Rome"), "text": " Rome", "tokens": [id(" Rome")]}));
}

#[test]
fn captures_by_handle_are_not_returned_and_tell_what_their_format_cannot_hold() {
    let codes = |dtype: &str, largest: f32| {
        let body = json!({"prompt": "The", "read": {"capture": [
            {"site": "resid_post", "layers": 0, "as": "handle", "dtype": dtype}]}});
        let lowered = lower::lower::<crate::spec::run::RunSpec>(&body, &Fake::default()).unwrap();
        let mut output = output(vec![score(&[], " Rome")]);
        output.captures = vec![vec![largest; 8]];
        let r = answered(&lowered, output).unwrap();
        let r = serde_json::to_value(r).unwrap();
        let capture = &r["runs"]["run"]["captures"][0];
        assert!(capture["values"].is_null() && capture["dtype"] == dtype, "{capture}");
        assert_eq!(capture["shape"], json!([1, 1, 8]));
        lint_codes(&r).contains(&"F16_OVERFLOW")
    };
    assert!(codes("f16", 1e5) && codes("f16", -65520.0));
    assert!(!codes("f16", 65504.0) && !codes("bf16", 1e5) && !codes("f32", 1e5));
}

#[test]
fn runs_that_agree_on_every_target_show_no_contrast() {
    let codes = |more: Value, second: &[f64]| {
        let mut body = json!({"runs": {"a": {"prompt": "The"}, "b": {"prompt": "Why"}},
                              "targets": {"x": [" Paris"], "y": [" Rome"]}, "metrics": ["prob:x"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let lowered = lower::lower::<crate::spec::run::RunSpec>(&body, &Fake::default()).unwrap();
        let output = output(vec![score(&[0.5, 0.2], " Rome"), score(second, " London")]);
        let r = answered(&lowered, output).unwrap();
        let r = serde_json::to_value(r).unwrap();
        lint_codes(&r).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    // A tenth of a nat: factors of up to 1.105.
    assert_eq!(codes(json!({}), &[0.5 * 1.1, 0.2 / 1.1]), ["NO_CONTRAST"]);
    assert_eq!(codes(json!({}), &[0.5 * 1.12, 0.2]), [""; 0]);
    assert_eq!(codes(json!({}), &[0.5, 0.2 / 1.12]), [""; 0], "one target that differs is enough");
    let difference = json!({"metrics": ["logit_diff:x-y"]});
    assert_eq!(codes(difference.clone(), &[0.5 * 1.01, 0.2]), ["NO_CONTRAST"]);
    assert_eq!(codes(difference, &[0.5 * 1.09, 0.2 / 1.09]), [""; 0], "the difference adds both");
}

#[test]
fn a_patch_between_runs_that_agree_on_the_target_shows_no_contrast() {
    let codes = |more: Value, source: f64| {
        let mut body = json!({"base": "The Eiffel Tower is", "source": "The river has", "target": " Paris"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let lowered = lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default()).unwrap();
        let mut scores = vec![score(&[0.5], " Rome"), score(&[source], " Paris")];
        scores.resize(lowered.plan.readouts.len(), score(&[0.7], " Rome"));
        let r = answered(&lowered, output(scores));
        let lints = r.unwrap().lints;
        lints.iter().filter(|l| l.code == "NO_CONTRAST").map(|l| l.pointer.clone()).collect::<Vec<_>>()
    };
    assert_eq!(codes(json!({}), 0.52), ["/normalise"]);
    assert_eq!(codes(json!({}), 0.1), [""; 0]);
    // Without a normalisation every run counts.
    let add = json!({"interventions": [{"site": "mlp_out", "op": "add", "source": {"run": "source"}}]});
    assert_eq!(codes(add.clone(), 0.52), ["/runs"]);
    assert_eq!(codes(add, 0.1), [""; 0]);
}

#[test]
fn runs_that_favour_the_same_token_show_no_contrast() {
    let body = json!({"runs": {"a": {"prompt": "The"}, "b": {"prompt": "Why"}}});
    let lowered = lower::lower::<crate::spec::run::RunSpec>(&body, &Fake::default()).unwrap();
    let codes = |second: &str| {
        let output = output(vec![score(&[], " Rome"), score(&[], second)]);
        let r = answered(&lowered, output).unwrap();
        r.lints.iter().map(|l| l.code).collect::<Vec<_>>()
    };
    assert_eq!(codes(" Rome"), ["NO_CONTRAST"]);
    assert_eq!(codes(" Paris"), [""; 0]);
}

#[test]
fn a_patch_towards_a_run_with_less_of_the_target_says_that_damage_counts_as_success() {
    let damage = |more: Value, source: f32| {
        let r = patch_response(more, 0.0, source);
        lint_codes(&r).contains(&"DAMAGE_LOOKS_LIKE_SUCCESS")
    };
    assert!(damage(json!({}), 0.5));
    assert!(!damage(json!({}), 3.0));
    assert!(!damage(json!({"metrics": ["top1_flip"]}), 0.5), "nothing that damage lowers");
}

#[test]
fn a_control_that_moves_the_metric_as_far_as_the_patch_is_remarked() {
    // Effects of 0, 1, 2 and, by construction, 4; the control's are all the same.
    let said = |control: f32| {
        let r = patch_response(
            json!({"controls": ["random_position"], "metrics": ["logit:target"]}),
            control,
            3.0,
        );
        let lints = r["lints"].as_array().unwrap().clone();
        lints.into_iter().find(|lint| lint["code"] == "CONTROL_AS_LARGE")
    };
    assert_eq!(said(1.5), None);
    let lint = said(2.0).unwrap();
    assert_eq!((&lint["where"], &lint["severity"]), (&json!("/controls"), &json!("warning")));
    let detail = lint["detail"].as_str().unwrap();
    assert!(detail.contains("random_position") && detail.contains("logit:target"), "{detail}");
    assert!(said(-2.0).is_some(), "whatever its sign");
    // Of a trace, by arm.
    let lowered = trace(&small(json!({"controls": ["random_vector"], "positions": [1]})));
    let readouts = lowered.plan.readouts.len();
    let respond = |control: f64| {
        let mut scores = vec![score(&[0.8], " Paris"), score(&[0.2], " Rome"), score(&[0.2], " Rome")];
        let grid = lowered.layout.case.arms.get("hidden").unwrap();
        scores.resize(readouts, score(&[0.5], " Rome"));
        for readout in grid.grid.control(crate::spec::patch::Control::RandomVector) {
            scores[*readout] = score(&[control], " Rome");
        }
        let r = answered(&lowered, output(scores));
        serde_json::to_value(r.unwrap()).unwrap()
    };
    assert!(!lint_codes(&respond(0.3)).contains(&"CONTROL_AS_LARGE"));
    let r = respond(0.5);
    let lints = r["lints"].as_array().unwrap();
    assert!(
        lints.iter().any(|l| l["code"] == "CONTROL_AS_LARGE" && l["where"] == "/arms/hidden"),
        "{lints:?}"
    );
}
