//! The examples of the API's design.

use serde_json::{Value, json};

use crate::lower;
use crate::lower::testing::{Fake, id};
use crate::spec::dtype::Dtype;
use crate::spec::kind::{Kind, split};
use crate::spec::patch::Control;

const PUN: &str = "Why do electricians make good swimmers? Because they know the";
const LITERAL: &str = "The wires carry high voltage electrical";

fn big() -> Fake {
    let mut fake = Fake::default();
    // The fake tokenizer spells most words; the examples' prompts are longer here.
    fake.config.max_positions = 512;
    fake
}

#[test]
fn two_clean_runs_with_the_lens_parse() {
    let mut body = json!({
        "model": "fake",
        "runs": {"pun": {"prompt": PUN}, "literal": {"prompt": LITERAL}},
        "targets": {"current": [" current"], "water": [" tide", " waves", " water"]},
        "metrics": ["prob:current", "logprob:current", "rank:current", "logit_diff:current-water"],
        "read": {"topk": 10, "logit_lens": {"layers": "all", "positions": "all", "topk": 1},
                 "capture": [{"site": "resid_post", "layers": "all", "positions": "all", "as": "handle"}]}});
    // The fake tokenizer spells " tide" and " waves", which both begin with a space.
    body["targets"]["water"] = json!([" tide", " water"]);
    let lowered = lower::lower::<crate::spec::run::RunSpec>(&body, &big()).unwrap();
    assert_eq!(lowered.plan.runs.len(), 2);
    assert_eq!(lowered.plan.captures.len(), 2 * 4);
    assert!(lowered.layout.captures.iter().all(|key| key.handle == Some(Dtype::F32)));
    // A lens readout of every layer and position, after the runs' own.
    let [pun, literal] = &lowered.layout.lenses[..] else { panic!("a lens per run") };
    assert_eq!((pun.first, literal.first), (2, 2 + 4 * pun.positions.len()));
    let second = lowered.plan.readouts[pun.first + pun.positions.len()];
    assert_eq!((second.lens, second.position), (Some(1), 0));
    assert_eq!((lowered.plan.scoring.topk, lowered.plan.scoring.entropy), (10, true));
    assert_eq!(lowered.plan.scoring.targets, [id(" current"), u32::from(b' '), id(" water")]);
}

#[test]
fn a_patch_over_all_layers_with_its_controls_parses() {
    let mut body = json!({
        "model": "fake",
        "runs": {"pun": {"prompt": PUN}, "literal": {"prompt": LITERAL}},
        "base": "literal",
        "interventions": [{"site": "resid_post", "layers": "all", "positions": "last", "op": "replace",
                           "source": {"run": "pun", "positions": "last"}}],
        "sweep": ["layers"],
        "targets": {"current": [" current"]},
        "metrics": ["prob:current", "kl:pun", "kl:literal", "top1_flip"],
        "normalise": {"zero": "literal", "one": "pun"},
        "controls": ["self_patch", "random_position"]});
    let lowered = lower::lower::<crate::spec::patch::PatchSpec>(&body, &big()).unwrap();
    let grid = &lowered.layout.arm().grid;
    assert_eq!(grid.cells(), 4);
    let controls: Vec<(Control, usize)> =
        grid.controls.iter().map(|(kind, cells)| (*kind, cells.len())).collect();
    assert_eq!(controls, [(Control::SelfPatch, 4), (Control::RandomPosition, 4)]);
    assert_eq!(lowered.plan.scoring.kl_refs, [0, 1]);
    // Without `sweep` the same layers are patched jointly.
    body["sweep"] = json!([]);
    let joint = lower::lower::<crate::spec::patch::PatchSpec>(&body, &big()).unwrap();
    assert_eq!(joint.layout.arm().grid.cells(), 1);
    let cell = joint.plan.readouts[joint.layout.arm().grid.readouts[0]].run;
    assert_eq!(joint.plan.run(cell).edits.len(), 4);
}

#[test]
fn the_trace_with_three_arms_parses() {
    let body = json!({
        "model": "fake",
        "runs": {"clean": {"prompt": PUN, "spans": {"subject": "electricians"}}},
        "corrupt": {"method": "gaussian", "positions": {"span": "subject"}, "sigma": {"k": 3, "of": "subjects"},
                    "samples": 10, "seed": 1},
        "arms": {"hidden": {"site": "resid_post", "window": 1}, "mlp": {"site": "mlp_out", "window": 10},
                 "attn": {"site": "attn_out", "window": 10}},
        "layers": "all", "positions": "all", "base": "corrupted",
        "targets": {"ans": [" current"]}, "metrics": ["prob:ans", "logit:ans"],
        "expect_top1": "ans", "on_unexpected": "warn", "plot": ["svg"]});
    let lowered = lower::lower::<crate::spec::trace::TraceSpec>(&body, &big()).unwrap();
    assert_eq!(lowered.layout.case.arms.names(), ["hidden", "mlp", "attn"]);
    assert_eq!(lowered.layout.case.corrupted.len(), 10);
    assert!(lowered.layout.case.common.lints.has("WINDOW_EXCEEDS_MODEL"), "a window of 10 on 4 layers");
}

#[test]
fn short_forms_echo_their_long_form_and_the_long_form_means_the_same() {
    let facts = Fake::default();
    let run = lower::lower::<crate::spec::run::RunSpec>(
        &json!({"prompt": "The Eiffel Tower is in the city of"}),
        &facts,
    )
    .unwrap();
    let echo = serde_json::to_value(&run.layout.spec).unwrap();
    let expected = json!({"runs": {"run": {"prompt": "The Eiffel Tower is in the city of"}}, "targets": {},
                          "metrics": [], "target_scoring": "first_token",
                          "read": {"at": "last", "topk": 10}, "strict": false, "allow_trivial": false});
    assert_eq!(echo, expected);

    let patch = json!({"base": "The river has a strong water", "source": "Why do electricians know the",
                       "target": " current"});
    let patch = lower::lower::<crate::spec::patch::PatchSpec>(&patch, &facts).unwrap();
    let echo = serde_json::to_value(&patch.layout.spec).unwrap();
    let interventions = json!([{"site": "resid_post", "layers": "all", "positions": "last", "window": 1,
                                "op": "replace", "source": {"run": "source", "positions": "last"}}]);
    assert_eq!(echo["interventions"], interventions);
    assert_eq!(echo["sweep"], json!(["layers"]));
    assert_eq!(echo["metrics"], json!(["prob:target", "logprob:target"]));
    assert_eq!(echo["normalise"], json!({"zero": "base", "one": "source"}));
    let again = lower::lower::<crate::spec::patch::PatchSpec>(&echo, &facts).unwrap();
    assert_eq!(serde_json::to_value(&again.layout.spec).unwrap(), echo);
    assert_eq!(again.layout.case.common.plan_sha256, patch.layout.case.common.plan_sha256);

    let trace = json!({"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris"});
    let trace = lower::lower::<crate::spec::trace::TraceSpec>(&trace, &facts).unwrap();
    let echo = serde_json::to_value(&trace.layout.spec).unwrap();
    assert_eq!(
        echo["runs"],
        json!({"clean": {"prompt": "The Eiffel Tower is in the city of",
                                              "spans": {"subject": "Eiffel Tower"}}})
    );
    let corrupt = json!({"from": "clean", "method": "gaussian", "positions": {"span": "subject", "which": "all"},
                         "sigma": {"k": 3.0, "of": "subjects"}, "mode": "add", "samples": 10, "seed": 1,
                         "rng": "philox", "include_bos": false});
    assert_eq!(echo["corrupt"], corrupt);
    let again = lower::lower::<crate::spec::trace::TraceSpec>(&echo, &facts).unwrap();
    assert_eq!(serde_json::to_value(&again.layout.spec).unwrap(), echo);
}

#[test]
fn every_form_of_layers_positions_and_heads_is_understood() {
    let facts = Fake::default();
    let prompt = "The Eiffel Tower is in the city of";
    let cells = |intervention: Value| {
        let body = json!({"runs": {"a": {"prompt": prompt, "spans": {"subject": "Eiffel Tower"}},
                                   "b": {"prompt": "The river has a strong water"}},
                          "base": "a", "interventions": [intervention]});
        let lowered =
            lower::lower::<crate::spec::patch::PatchSpec>(&body, &facts).unwrap_or_else(|p| panic!("{p:#?}"));
        let run = lowered.plan.readouts[lowered.layout.arm().grid.readouts[0]].run;
        let edits = &lowered.plan.run(run).edits;
        let layers: Vec<u32> = edits.iter().map(|e| e.at.layer).collect();
        (layers, edits[0].positions.clone(), edits[0].columns.clone())
    };
    let zero = |field: &str, value: Value| {
        let mut body = json!({"site": "z", "op": "zero", "layers": 1});
        body[field] = value;
        cells(body)
    };
    assert_eq!(zero("layers", json!("all")).0, [0, 1, 2, 3]);
    assert_eq!(zero("layers", json!([2, 0])).0, [0, 2]);
    assert_eq!(zero("layers", json!({"from": 0, "to": 4, "step": 2})).0, [0, 2]);
    assert_eq!(zero("layers", json!({"from": 3})).0, [3]);
    assert_eq!(zero("window", json!(2)).0, [0, 1]);
    assert_eq!(zero("positions", json!("last")).1, [7]);
    assert_eq!(zero("positions", json!(-8)).1, [0]);
    assert_eq!(zero("positions", json!([0, -1])).1, [0, 7]);
    assert_eq!(zero("positions", json!({"range": [1, -5]})).1, [1, 2]);
    assert_eq!(zero("positions", json!({"span": "subject"})).1, [1, 2]);
    assert_eq!(zero("positions", json!({"span": "subject", "which": "last"})).1, [2]);
    assert_eq!(zero("heads", json!(1)).2, Some(4..8));
    assert_eq!(zero("heads", json!([0])).2, Some(0..4));
    assert_eq!(zero("heads", json!("all")).2, None);
    let map = cells(json!({"site": "mlp_out", "layers": 0, "positions": {"map": [[5, 0], [0, 7]]},
                           "source": {"run": "b"}}));
    assert_eq!(map.1, [0, 7]);
}

#[test]
fn a_dry_run_names_one_request() {
    let body = json!({"trace": {"prompt": "a"}});
    assert_eq!(split(body).unwrap().0, Kind::Trace);
    for (bad, expected) in [
        (json!({}), " missing_field"),
        (json!([]), " wrong_type"),
        (json!({"steer": {}}), "/steer unknown_field"),
        (json!({"run": {}, "trace": {}}), "/trace conflict"),
    ] {
        let found = &split(bad).unwrap_err().0[0];
        assert_eq!(format!("{} {}", found.pointer, found.code), expected);
    }
    let inner = lower::lower::<crate::spec::trace::TraceSpec>(&json!({"prompt": "a"}), &Fake::default())
        .unwrap_err()
        .under("/trace");
    assert!(inner.0.iter().all(|p| p.pointer.starts_with("/trace/")), "{inner:?}");
}

#[test]
fn the_schema_writes_words_as_strings_and_metrics_too() {
    use crate::spec::select::{AllWord, Layers};
    use utoipa::PartialSchema;
    let schema =
        |s: utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>| serde_json::to_value(s).unwrap();
    assert_eq!(schema(AllWord::schema())["enum"], json!(["all"]));
    assert_eq!(schema(Layers::schema())["oneOf"].as_array().unwrap().len(), 5);
    let experiment = schema(crate::spec::experiment::Experiment::schema());
    assert_eq!(experiment["properties"]["metrics"]["items"]["type"], "string");
    assert!(experiment["properties"].get("origins").is_none());
}
