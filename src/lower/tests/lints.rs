//! Every lint that needs no results: a request that raises it and one that doesn't.

use serde_json::{Value, json};

use crate::lower;
use crate::lower::lint::{Lints, Severity};
use crate::lower::testing::Fake;
use crate::spec::problem::Problems;

/// Code, pointer, a request that raises it, one that doesn't.
type Case = (&'static str, &'static str, Request, Request);
/// An endpoint and a body.
type Request = (&'static str, Value);

fn lints(endpoint: &str, body: &Value) -> Result<Lints, Problems> {
    let facts = Fake { adds_bos: body["runs"]["bos"].is_object(), ..Fake::default() };
    match endpoint {
        "run" => lower::lower::<crate::spec::run::RunSpec>(body, &facts).map(|l| l.layout.common.lints),
        "patch" => {
            lower::lower::<crate::spec::patch::PatchSpec>(body, &facts).map(|l| l.layout.case.common.lints)
        }
        _ => lower::lower::<crate::spec::trace::TraceSpec>(body, &facts).map(|l| l.layout.case.common.lints),
    }
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A run without lints, but for `more`.
fn run(more: Value) -> Request {
    ("run", with(json!({"prompt": "The Eiffel Tower is", "target": " Paris"}), more))
}

/// A patch without lints, but for `more`.
fn patch(more: Value) -> Request {
    let body = json!({
        "runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river Tower is"}}, "base": "a",
        "interventions": [{"site": "mlp_out", "layers": 1, "positions": [1], "source": {"run": "b"}}],
        "target": " Paris"});
    ("patch", with(body, more))
}

/// One intervention that copies run `b`.
fn copying(more: Value) -> Value {
    let intervention = json!({"site": "mlp_out", "layers": 1, "positions": [1], "source": {"run": "b"}});
    json!({"interventions": [with(intervention, more)]})
}

/// A trace without lints, but for `more`.
fn trace(more: Value) -> Request {
    let body = json!({
        "prompt": "The Eiffel Tower is", "subject": "Eiffel", "target": " Paris",
        "arms": {"mlp": {"site": "mlp_out", "window": 4}}});
    ("trace", with(body, more))
}

/// A trace of a prompt that begins with BOS.
fn trace_after_bos(corrupt: Value) -> Request {
    let body = json!({
        "runs": {"bos": {"prompt": "The Eiffel Tower is"}}, "target": " Paris",
        "arms": {"mlp": {"site": "mlp_out"}}, "corrupt": corrupt});
    ("trace", body)
}

#[test]
fn the_requests_that_the_others_are_compared_with_raise_nothing() {
    for (endpoint, body) in [run(json!({})), patch(json!({})), trace(json!({}))] {
        assert_eq!(lints(endpoint, &body).unwrap(), Lints::default(), "{endpoint}");
    }
}

#[test]
fn every_lint_is_raised_by_its_cause_and_not_without_it() {
    let two_targets =
        |second: Value| json!({"target": null, "targets": {"x": [" Paris", " Rome"], "y": second}});
    let hidden = |positions: Value| json!({"arms": ["hidden"], "positions": positions});
    let cases: [Case; 26] = [
        (
            "DISCRETE_METRIC_ONLY",
            "/metrics",
            run(json!({"metrics": ["rank:target"]})),
            run(json!({"metrics": ["rank:target", "logprob:target"]})),
        ),
        (
            "DISCRETE_METRIC_ONLY",
            "/metrics",
            patch(json!({"metrics": ["top1_flip", "delta_norm"]})),
            patch(json!({"metrics": ["delta_norm"]})),
        ),
        (
            "PROB_ONLY",
            "/metrics",
            trace(json!({"metrics": ["prob:target"]})),
            trace(json!({"metrics": ["logprob:target"]})),
        ),
        (
            "PROB_ONLY",
            "/metrics",
            patch(json!({"metrics": ["delta_norm", "prob:target"]})),
            patch(json!({"metrics": ["prob:target", "logit:target"]})),
        ),
        (
            "MULTI_TOKEN_TARGET",
            "/target",
            run(json!({"target": " Paris Rome"})),
            run(json!({"target": " Paris Rome", "target_scoring": "joint"})),
        ),
        ("NO_LEADING_SPACE", "/target", run(json!({"target": "a"})), run(json!({"target": "!"}))),
        // Written without spaces.
        (
            "NO_LEADING_SPACE",
            "/target",
            run(json!({"prompt": "1", "target": "2"})),
            run(json!({"prompt": "北京是", "target": "中国"})),
        ),
        (
            "TARGET_CHANGES_PROMPT",
            "/target",
            run(json!({"prompt": "The Eiffel T", "target": "he"})),
            run(json!({"prompt": "The Eiffel T", "target": "a"})),
        ),
        (
            "PROMPT_ENDS_IN_SPACE",
            "/prompt",
            run(json!({"prompt": "The Eiffel Tower is ", "target": " Paris"})),
            run(json!({"prompt": "The Eiffel Tower is\n", "target": " Paris"})),
        ),
        (
            "SPAN_CUTS_TOKEN",
            "/subject",
            trace(json!({"subject": "iffel Tow"})),
            trace(json!({"subject": "Eiffel Tower"})),
        ),
        (
            "FIRST_TOKEN_CORRUPTED",
            "/corrupt/positions",
            trace(json!({"corrupt": {"positions": [0, 1]}})),
            trace(json!({"corrupt": {"positions": [1]}})),
        ),
        (
            "DOUBLE_BOS",
            "/runs/bos/prompt",
            ("run", json!({"runs": {"bos": {"prompt": "<s>The"}}})),
            ("run", json!({"runs": {"bos": {"prompt": "<s>The", "bos": false}}})),
        ),
        (
            "TARGET_SETS_OVERLAP",
            "/targets/y",
            run(two_targets(json!([" Rome"]))),
            run(two_targets(json!([" London"]))),
        ),
        (
            "TARGET_SETS_OVERLAP",
            "/targets/y",
            run(with(two_targets(json!([" Rome London"])), json!({"target_scoring": "joint"}))),
            run(with(two_targets(json!([" London Rome"])), json!({"target_scoring": "joint"}))),
        ),
        (
            "TARGET_SETS_OVERLAP",
            "/target/1",
            run(json!({"target": [" Rome", " Rome London"], "target_scoring": "joint"})),
            run(json!({"target": [" Rome Paris", " Rome London"], "target_scoring": "joint"})),
        ),
        (
            "BOS_CORRUPTED",
            "/corrupt/positions",
            trace_after_bos(json!({"positions": "all", "include_bos": true})),
            trace_after_bos(json!({"positions": "all"})),
        ),
        (
            "SINGLE_NOISE_SAMPLE",
            "/corrupt/samples",
            trace(json!({"corrupt": {"samples": 1}})),
            trace(json!({"corrupt": {"samples": 5}})),
        ),
        (
            "SMALL_N",
            "/corrupt/samples",
            trace(json!({"corrupt": {"samples": 4}})),
            trace(json!({"corrupt": {"samples": 5}})),
        ),
        (
            "SMALL_N",
            "/corrupt/samples",
            trace(json!({"corrupt": {"samples": 2}})),
            trace(json!({"corrupt": {"samples": 1}})),
        ),
        (
            "WINDOW_EXCEEDS_MODEL",
            "/arms/mlp/window",
            trace(json!({"arms": {"mlp": {"site": "mlp_out", "window": 5}}})),
            trace(json!({"arms": {"mlp": {"site": "mlp_out", "window": 4}}})),
        ),
        (
            "WINDOW_EXCEEDS_MODEL",
            "/interventions/0/window",
            patch(copying(json!({"window": 5}))),
            patch(copying(json!({"window": 4}))),
        ),
        (
            "LENGTH_MISMATCH",
            "/interventions/0/positions",
            patch(json!({"runs": {"a": {"prompt": "The Eiffel Tower is"}, "b": {"prompt": "The river"}}})),
            patch(json!({"runs": {"a": {"prompt": "The Eiffel"}, "b": {"prompt": "The river"}}})),
        ),
        (
            "SELF_PATCH",
            "/interventions/0/source",
            patch(copying(json!({"source": {"run": "a"}}))),
            patch(copying(json!({"source": {"run": "b"}}))),
        ),
        ("TRIVIAL_CELL", "/arms/hidden", trace(hidden(json!("all"))), trace(hidden(json!([0, 1, 2])))),
        (
            "TRIVIAL_CELL",
            "/arms/hidden",
            trace(hidden(json!("all"))),
            trace(with(hidden(json!("all")), json!({"target": " Paris Rome", "target_scoring": "joint"}))),
        ),
        (
            "TAUTOLOGICAL_CUT",
            "/interventions",
            patch(with(
                copying(json!({"site": "resid_post", "positions": "all"})),
                json!({"allow_trivial": true}),
            )),
            patch(copying(json!({"site": "resid_post", "positions": [1, 2]}))),
        ),
    ];
    for (code, pointer, (endpoint, raising), (other, quiet)) in cases {
        let found = lints(endpoint, &raising).unwrap_or_else(|p| panic!("{code}: {p:#?}"));
        let places: Vec<&str> =
            found.0.iter().filter(|lint| lint.code == code).map(|lint| lint.pointer.as_str()).collect();
        assert_eq!(places, [pointer], "{code}: {found:#?}");
        let found = lints(other, &quiet).unwrap_or_else(|p| panic!("{code}: {p:#?}"));
        assert!(!found.has(code), "{code}: {found:#?}");
    }
}

#[test]
fn strict_refuses_warnings_and_lets_remarks_pass() {
    let strict = |(endpoint, body): Request| {
        let found = lints(endpoint, &with(body, json!({"strict": true})));
        found.err().map(|problems| problems.0.iter().map(|p| p.code).collect::<Vec<_>>())
    };
    assert_eq!(strict(trace(json!({"corrupt": {"samples": 1}}))), Some(vec!["SINGLE_NOISE_SAMPLE"]));
    let remarked = trace(json!({"corrupt": {"samples": 2}, "metrics": ["prob:target"]}));
    let found = lints(remarked.0, &remarked.1).unwrap();
    let severities: Vec<Severity> = found.0.iter().map(|lint| lint.severity).collect();
    assert_eq!(severities, [Severity::Info; 2], "SMALL_N and PROB_ONLY");
    assert_eq!(strict(remarked), None);
}

#[test]
fn a_grid_of_cuts_alone_is_refused_unless_that_is_wanted() {
    let everywhere =
        |layers: Value| copying(json!({"site": "resid_post", "layers": layers, "positions": "all"}));
    let swept = |layers: Value, more: Value| {
        let (endpoint, body) = patch(with(everywhere(layers), json!({"sweep": ["layers"]})));
        lints(endpoint, &with(body, more))
    };
    for layers in [json!([0, 1]), json!("all")] {
        // With all layers the last cell is a cut that needs no attention to be one.
        let refused = swept(layers.clone(), json!({})).unwrap_err().0;
        assert_eq!(refused.len(), 1);
        assert_eq!((&*refused[0].pointer, refused[0].code), ("/interventions", "TAUTOLOGICAL_CUT"));
        assert!(refused[0].fix.contains("allow_trivial"), "{}", refused[0].fix);
        assert!(swept(layers.clone(), json!({"allow_trivial": true})).unwrap().has("TAUTOLOGICAL_CUT"));
        // The rows of a continuation see the layers below as they are.
        let joint = json!({"target": " Paris Rome", "target_scoring": "joint"});
        assert_eq!(swept(layers, joint).unwrap(), Lints::default());
    }
    // The last layer's read position alone is the end of an axis, no cut.
    let last = copying(json!({"site": "resid_post", "layers": 3, "positions": "last"}));
    assert!(lints("patch", &patch(last).1).unwrap().has("TRIVIAL_CELL"));
    // Noise on the last token alone: restoring that token cuts, the others' cells don't.
    let trace = |positions: Value| {
        let body = json!({"prompt": "The Eiffel Tower is", "target": " Paris", "positions": positions,
                          "corrupt": {"positions": "last"}});
        lints("trace", &body)
    };
    assert!(trace(json!("all")).unwrap().has("TAUTOLOGICAL_CUT"));
    let refused = trace(json!("last")).unwrap_err().0;
    assert_eq!((&*refused[0].pointer, refused[0].code), ("/arms/hidden", "TAUTOLOGICAL_CUT"));
}

#[test]
fn an_intervention_that_cannot_be_read_is_no_tautology() {
    let body = json!({"base": "The", "source": "Why", "target": ""});
    let codes = |body: &Value| {
        lints("patch", body).unwrap_err().0.into_iter().map(|p| (p.pointer, p.code)).collect::<Vec<_>>()
    };
    assert_eq!(codes(&body), [("/target".to_owned(), "empty")]);
    let body = json!({"base": "The", "source": "Why", "target": " Paris"});
    assert_eq!(
        codes(&body),
        [("/source".to_owned(), "TAUTOLOGICAL_CUT")],
        "they differ at the last token alone"
    );
}

#[test]
fn a_clean_run_allows_nothing_trivial_since_it_has_no_cells() {
    let (endpoint, body) = run(json!({"allow_trivial": true}));
    let refused = lints(endpoint, &body).unwrap_err().0;
    assert_eq!((&*refused[0].pointer, refused[0].code), ("/allow_trivial", "not_supported"));
}
