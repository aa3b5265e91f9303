//! Every experiment over HTTP on the tiny model: shapes, identities, costs.

use mediant::http::AppState;
use serde_json::{Value, json};

use crate::schema::check_response;
use crate::support::{ok, post, tiny};

const LAYERS: usize = 4;
/// 18 tokens: BOS and 17 bytes.
const PROMPT: &str = "The Tower is tall";
/// Tokens of "Tower" in it.
const SUBJECT: [usize; 2] = [5, 10];
const LEN: usize = 18;

fn run_short() -> Value {
    json!({"prompt": PROMPT, "target": "P"})
}

fn run_long() -> Value {
    json!({
        "runs": {"a": {"prompt": PROMPT, "spans": {"subject": "Tower"}}, "b": {"tokens": [256, 84, 104]}, "c": "wires"},
        "targets": {"x": ["P", 300], "y": [7]},
        "metrics": ["prob:x", "logprob:x", "logit:y", "logit_diff:x-y", "rank:y", "kl:b"],
        "read": {"at": {"a": 3, "b": "last"}, "topk": 4,
                 "capture": [{"site": "z", "layers": [0, 2], "positions": [0, -1]}, {"site": "embed", "positions": "all"}]},
        "strict": false})
}

fn patch_short() -> Value {
    json!({"base": "The river is deep", "source": PROMPT, "target": "P"})
}

fn patch_long() -> Value {
    json!({
        "runs": {"a": PROMPT, "b": {"prompt": "The river is deep"}},
        "base": "b",
        "interventions": [{"site": "z", "layers": "all", "positions": "all", "heads": "all",
                           "source": {"run": "a"}}],
        "sweep": ["layers", "heads"],
        "targets": {"x": "P", "y": ["Q"]}, "metrics": ["prob:x", "kl:a", "top1_flip", "logit_diff:x-y"],
        "normalise": {"zero": "b", "one": "a"}, "controls": ["self_patch"], "read": {"topk": 2}})
}

fn patch_joint() -> Value {
    json!({
        "runs": {"a": PROMPT, "b": "The river is deep"}, "base": "b", "target": "P",
        "interventions": [
            {"site": "resid_mid", "layers": [1, 2], "positions": {"range": [0, 4]}, "source": {"run": "a"}},
            {"site": "mlp_out", "layers": 0, "positions": {"map": [[0, 5], [3, 2]]}, "op": "add", "coef": -0.5,
             "source": {"run": "a"}},
            {"site": "attn_out", "layers": 3, "op": "scale", "factor": 0}]})
}

fn trace_short() -> Value {
    json!({"prompt": PROMPT, "subject": "Tower", "target": "P"})
}

fn trace_long() -> Value {
    json!({
        "runs": {"clean": {"prompt": PROMPT, "spans": {"subject": "Tower"}}},
        "corrupt": {"method": "gaussian", "positions": {"span": "subject"}, "sigma": {"k": 3, "of": "subjects"},
                    "samples": 3, "seed": 7, "rng": "numpy_legacy"},
        "arms": {"hidden": {"site": "resid_post", "window": 1}, "mlp": {"site": "mlp_out", "window": 3},
                 "attn": {"site": "attn_out", "window": 3}, "heads": {"site": "z", "heads": [1, 3]}},
        "layers": "all", "positions": "all", "base": "corrupted",
        "targets": {"ans": ["P"]}, "metrics": ["prob:ans", "logit:ans", "kl:clean"],
        "expect_top1": "ans", "on_unexpected": "warn", "controls": ["self_patch"],
        "keep": {"per_sample": true}, "plot": ["svg", "png"]})
}

fn all() -> [(&'static str, Value); 7] {
    [
        ("run", run_short()),
        ("run", run_long()),
        ("patch", patch_short()),
        ("patch", patch_long()),
        ("patch", patch_joint()),
        ("trace", trace_short()),
        ("trace", trace_long()),
    ]
}

/// All of an answer but what differs from call to call.
fn lasting(mut answer: Value) -> Value {
    let map = answer.as_object_mut().unwrap();
    map.shift_remove("id").unwrap();
    map.shift_remove("usage").unwrap();
    answer
}

fn shape(value: &Value) -> Vec<usize> {
    let mut shape = Vec::new();
    let mut at = value;
    while let Some(list) = at.as_array() {
        shape.push(list.len());
        at = &list[0];
    }
    shape
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        Value::Bool(flag) => vec![f64::from(u8::from(*flag))],
        number => vec![number.as_f64().unwrap_or_else(|| panic!("{number} is no number"))],
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

async fn answer(state: &AppState, kind: &str, body: &Value) -> Value {
    ok(state, &format!("/v1/{kind}"), body).await
}

fn common(kind: &str, answer: &Value) {
    assert!(answer["id"].as_str().unwrap().starts_with(&format!("{kind}_")));
    assert!(answer["model"].as_str().unwrap().contains("tiny"));
    assert!(answer["lints"].is_array());
    let provenance = &answer["provenance"];
    for hash in ["model_sha", "tokenizer_sha", "plan_sha256"] {
        let text = provenance[hash].as_str().unwrap();
        assert!(text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}: {text}");
    }
    assert_eq!((&provenance["compute"], &provenance["logits"]), (&json!("f32"), &json!("f32")));
    let usage = &answer["usage"];
    // Other tests may have asked the same.
    assert_eq!(number(&usage["seconds"]) > 0.0, usage["cached"] == false, "{usage}");
    assert!(number(&usage["rows"]) > 0.0);
    assert!(number(&usage["row_layers"]) <= LAYERS as f64 * number(&usage["rows"]));
    assert!(number(&usage["peak_bytes"]) > 0.0);
}

#[tokio::test]
async fn runs_answer_with_tokens_metrics_predictions_and_captures() {
    let state = tiny();
    let short = answer(&state, "run", &run_short()).await;
    common("run", &short);
    let run = &short["runs"]["run"];
    assert_eq!(shape(&run["tokens"]), [LEN]);
    assert_eq!((&run["tokens"][0]["text"], &run["tokens"][1]["text"]), (&json!("<s>"), &json!("T")));
    assert_eq!((&run["tokens"][1]["start"], &run["tokens"][1]["end"]), (&json!(0), &json!(1)));
    assert_eq!(run["read"], LEN - 1);
    let topk = run["topk"].as_array().unwrap();
    assert_eq!(topk.len(), 10);
    assert!(topk.windows(2).all(|pair| number(&pair[0]["logit"]) >= number(&pair[1]["logit"])));
    let (p, log) = (number(&run["metrics"]["prob:target"]), number(&run["metrics"]["logprob:target"]));
    assert!((p.ln() - log).abs() < 1e-9 && p > 0.0 && p < 1.0);

    let long = answer(&state, "run", &run_long()).await;
    common("run", &long);
    let runs = long["runs"].as_object().unwrap();
    assert_eq!(runs.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    let (a, b) = (&runs["a"], &runs["b"]);
    assert_eq!((&a["read"], &b["read"], &runs["c"]["read"]), (&json!(3), &json!(2), &json!(5)));
    assert_eq!(a["spans"]["subject"], json!(SUBJECT));
    assert_eq!(shape(&a["topk"]), [4]);
    assert_eq!(b["metrics"]["kl:b"], 0.0);
    assert!(number(&a["metrics"]["kl:b"]) > 0.0 && number(&a["metrics"]["rank:y"]) >= 1.0);
    let m = |key: &str| number(&a["metrics"][key]);
    // A target's logit minus the log of the sum over all tokens, which any predicted token tells.
    let log_sum_exp = number(&a["topk"][0]["logit"]) - number(&a["topk"][0]["logprob"]);
    assert!((m("logprob:x") - (m("logit_diff:x-y") + m("logit:y") - log_sum_exp)).abs() < 1e-9);
    let [z, embed] = &a["captures"].as_array().unwrap()[..] else { panic!("{a}") };
    assert_eq!((shape(&z["values"]), &z["axes"]), (vec![2, 2, 64], &json!(["layer", "position", "dim"])));
    assert_eq!((shape(&embed["values"]), &embed["layers"]), (vec![LEN, 64], &Value::Null));
    assert_eq!((&z["layers"], &z["positions"]), (&json!([0, 2]), &json!([0, LEN - 1])));
}

#[tokio::test]
async fn patches_answer_with_axes_baselines_values_effects_masks_and_receipt() {
    let state = tiny();
    let short = answer(&state, "patch", &patch_short()).await;
    common("patch", &short);
    assert_eq!(short["axes"], json!([{"name": "layer", "values": [0, 1, 2, 3]}]));
    let (base, source) = (&short["baselines"]["base"], &short["baselines"]["source"]);
    for key in ["prob:target", "logprob:target"] {
        let (values, effects) = (numbers(&short["values"][key]), numbers(&short["effects"][key]));
        let normalised = numbers(&short["normalised"][key]);
        let (zero, one) = (number(&base[key]), number(&source[key]));
        for layer in 0..LAYERS {
            assert_eq!(effects[layer], values[layer] - zero, "{key} {layer}");
            let expected = (values[layer] - zero) / (one - zero);
            assert!((normalised[layer] - expected).abs() < 1e-9, "{key} {layer}");
        }
        // Nothing is read but the last position's last residual stream: the answer is the source's, to the bit.
        assert_eq!(values[LAYERS - 1], one);
    }
    assert_eq!(short["masks"]["trivial"], json!([false, false, false, true]));
    assert_eq!(short["masks"]["exact_null"], json!([false, false, false, false]));
    assert_eq!(
        (&short["receipt"]["cells"], &short["receipt"]["elements_written"]),
        (&json!(4), &json!(4 * 64))
    );
    assert!(number(&short["receipt"]["max_abs_delta"]) > 0.0);
    assert_eq!(short["receipt"]["corruption"]["cells"], 0);
    assert_eq!(shape(&short["topk"]), [LAYERS, 5]);

    let long = answer(&state, "patch", &patch_long()).await;
    common("patch", &long);
    assert_eq!(long["axes"][1], json!({"name": "head", "values": [0, 1, 2, 3]}));
    for part in ["values", "effects", "normalised"] {
        for key in ["prob:x", "kl:a", "logit_diff:x-y"] {
            assert_eq!(shape(&long[part][key]), [LAYERS, 4], "{part} {key}");
        }
    }
    assert!(numbers(&long["values"]["top1_flip"]).iter().all(|flip| *flip == 0.0 || *flip == 1.0));
    assert_eq!(long["controls"]["self_patch"]["max_abs_effect"], 0.0);
    // All positions of a head, of the last layer only the one that is read. A head is 16 numbers wide.
    let cells = 4 * ((LAYERS - 1) * LEN + 1);
    assert_eq!(
        (&long["receipt"]["cells"], &long["receipt"]["elements_written"]),
        (&json!(cells), &json!(cells * 16))
    );
    assert_eq!(long["receipt"]["controls"]["max_abs_delta"], 0.0);
    assert_eq!(long["receipt"]["controls"]["cells"], cells);

    let joint = answer(&state, "patch", &patch_joint()).await;
    common("patch", &joint);
    assert_eq!(joint["axes"], json!([]));
    assert!(joint["values"]["prob:target"].is_f64() && joint["masks"]["trivial"].is_boolean());
    assert_eq!(joint["receipt"]["cells"], 2 * 4 + 2 + 1);
}

#[tokio::test]
async fn traces_answer_with_arms_baselines_effects_masks_and_receipt() {
    let state = tiny();
    let short = answer(&state, "trace", &trace_short()).await;
    common("trace", &short);
    assert_eq!((&short["samples"], &short["subject"]), (&json!(10), &json!(SUBJECT)));
    assert_eq!((&short["sigma"]["k"], &short["sigma"]["of"]), (&json!(3.0), &json!("subjects")));
    assert_eq!(short["provenance"]["rng"], json!({"algo": "philox", "seed": 1}));
    let corrupted: Vec<usize> =
        (0..LEN).filter(|p| short["tokens"][p]["corrupted"].as_bool().unwrap()).collect();
    assert_eq!(corrupted, (SUBJECT[0]..SUBJECT[1]).collect::<Vec<_>>());
    let arms = short["arms"].as_object().unwrap();
    assert_eq!(arms.keys().collect::<Vec<_>>(), ["hidden"]);
    trace_adds_up(&short, 10);
    // Noise on five tokens, ten times.
    assert_eq!(short["receipt"]["corruption"]["cells"], 50);
    // Cells that cannot reach the answer are not computed.
    let nulls = numbers(&short["arms"]["hidden"]["masks"]["exact_null"]).iter().sum::<f64>();
    assert_eq!(number(&short["receipt"]["cells"]), 10.0 * ((LAYERS * LEN) as f64 - nulls));

    let long = answer(&state, "trace", &trace_long()).await;
    common("trace", &long);
    assert_eq!(long["arms"].as_object().unwrap().len(), 4);
    trace_adds_up(&long, 3);
    assert_eq!(long["controls"]["self_patch"]["max_abs_effect"], 0.0);
    assert_eq!(long["receipt"]["controls"]["max_abs_delta"], 0.0);
    assert_eq!(long["arms"]["heads"]["heads"], json!([1, 3]));
    assert!(long["plots"]["svg"].as_str().unwrap().starts_with("<svg"));
    assert!(long["plots"]["png"].as_str().unwrap().starts_with("iVBORw0KGgo"));
    assert_eq!(shape(&long["arms"]["mlp"]["values"]["prob:ans"]["samples"]), [LAYERS, LEN, 3]);
    assert!(
        long["lints"].as_array().unwrap().iter().any(|lint| lint["code"] == "TARGET_NOT_TOP1"),
        "{}",
        long["lints"]
    );
}

/// Means are means of samples, effects differences, recoveries ratios, in every arm and metric.
fn trace_adds_up(answer: &Value, samples: usize) {
    let keys: Vec<&String> = answer["total_effect"].as_object().unwrap().keys().collect();
    for key in keys {
        let clean = number(&answer["baselines"]["clean"][key]);
        let corrupted = &answer["baselines"]["corrupted"][key];
        let each = numbers(&corrupted["samples"]);
        assert_eq!((each.len(), &corrupted["n"]), (samples, &json!(samples)));
        let mean = each.iter().sum::<f64>() / samples as f64;
        assert!((number(&corrupted["mean"]) - mean).abs() < 1e-9);
        let total = number(&answer["total_effect"][key]["mean"]);
        assert!((total - (clean - mean)).abs() < 1e-9, "{key}");
        for (name, arm) in answer["arms"].as_object().unwrap() {
            let at = format!("{name} {key}");
            assert_eq!(arm["axes"][0], json!({"name": "layer", "values": [0, 1, 2, 3]}), "{at}");
            assert_eq!(shape(&arm["axes"][1]["values"]), [LEN], "{at}");
            for mask in ["exact_null", "trivial"] {
                assert_eq!(shape(&arm["masks"][mask]), [LAYERS, LEN], "{at}");
            }
            let (values, effects) = (&arm["values"][key], &arm["effects"][key]);
            for part in
                [&values["mean"], &values["se"], &effects["mean"], &effects["se"], &arm["recovery"][key]]
            {
                assert_eq!(shape(part), [LAYERS, LEN], "{at}");
            }
            let (means, differences) = (numbers(&values["mean"]), numbers(&effects["mean"]));
            for (value, effect) in means.iter().zip(&differences) {
                assert!((value - mean - effect).abs() < 1e-9, "{at}");
            }
            if total.abs() > number(&answer["min_total_effect"]) {
                for (recovery, effect) in numbers(&arm["recovery"][key]).iter().zip(&differences) {
                    assert!((recovery - effect / total).abs() < 1e-9, "{at}");
                }
            }
            let best = &arm["argmax"][key];
            let cell = number(&best["layer"]) as usize * LEN + number(&best["position"]) as usize;
            assert_eq!(number(&best["effect"]), differences[cell], "{at}");
            if let Some(list) = values["samples"].as_array() {
                let kept = numbers(&Value::from(list.clone()));
                for (i, value) in means.iter().enumerate() {
                    let mean = kept[i * samples..(i + 1) * samples].iter().sum::<f64>() / samples as f64;
                    assert!((value - mean).abs() < 1e-9, "{at} {i}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_token_set_scores_as_the_log_sum_of_its_members() {
    let state = tiny();
    let body = json!({"prompt": PROMPT, "targets": {"x": ["P"], "y": [300], "both": ["P", 300]},
                      "metrics": ["prob:x", "prob:y", "prob:both", "logit:x", "logit:y", "logit:both", "rank:x", "rank:y",
                                  "rank:both", "logit_diff:x-both"]});
    let answer = answer(&state, "run", &body).await;
    let m = |key: &str| number(&answer["runs"]["run"]["metrics"][key]);
    assert!((m("prob:both") - m("prob:x") - m("prob:y")).abs() < 1e-12);
    assert!((m("logit:both") - (m("logit:x").exp() + m("logit:y").exp()).ln()).abs() < 1e-9);
    assert!((m("logit_diff:x-both") - (m("logit:x") - m("logit:both"))).abs() < 1e-9);
    assert_eq!(m("rank:both"), m("rank:x").min(m("rank:y")));
}

#[tokio::test]
async fn the_echoed_long_form_gives_the_same_numbers() {
    let state = tiny();
    for (kind, body) in all() {
        let first = answer(&state, kind, &body).await;
        crate::schema::check_request(&format!("/v1/{kind}"), &first["request"]);
        let again = answer(&state, kind, &first["request"]).await;
        assert_eq!(again["request"], first["request"], "{kind} {body}");
        // Pointers of lints and of their cures follow the form that was sent.
        let mut pair = [lasting(first), lasting(again)];
        for answer in &mut pair {
            for lint in answer["lints"].as_array_mut().unwrap() {
                lint["where"] = Value::Null;
                lint["apply"] = Value::Null;
            }
        }
        assert_eq!(pair[0], pair[1], "{kind} {body}");
    }
}

#[tokio::test]
async fn the_same_request_gives_the_same_bytes() {
    let state = tiny();
    for (kind, body) in all() {
        let first = lasting(answer(&state, kind, &body).await).to_string();
        let again = lasting(answer(&state, kind, &body).await).to_string();
        assert_eq!(first, again, "{kind} {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_cell_changes_by_a_bit_beside_other_requests() {
    let state = tiny();
    let alone = lasting(answer(&state, "trace", &trace_long()).await).to_string();
    let others = (0..8).map(|i| {
        let (kind, body) = all()[i % 7].clone();
        let state = state.clone();
        tokio::spawn(async move { lasting(answer(&state, kind, &body).await).to_string() })
    });
    let others: Vec<_> = others.collect();
    let beside = lasting(answer(&state, "trace", &trace_long()).await).to_string();
    assert_eq!(alone, beside);
    for (i, other) in others.into_iter().enumerate() {
        let (kind, body) = &all()[i % 7];
        assert_eq!(
            other.await.unwrap(),
            lasting(answer(&state, kind, body).await).to_string(),
            "{kind} {body}"
        );
    }
}

#[tokio::test]
async fn the_plan_of_a_request_says_what_it_then_costs() {
    let state = tiny();
    for (kind, body) in all() {
        let plan = ok(&state, "/v1/plan", &json!({kind: body})).await;
        let done = answer(&state, kind, &body).await;
        assert_eq!((&plan["kind"], &plan["allowed"]), (&json!(kind), &json!(true)));
        assert_eq!(plan["request"], done["request"]);
        assert_eq!(plan["plan_sha256"], done["provenance"]["plan_sha256"]);
        let planned = plan["lints"].as_array().unwrap();
        assert_eq!(
            &done["lints"].as_array().unwrap()[..planned.len()],
            planned,
            "lints of the plan come first"
        );
        let (cost, usage) = (&plan["cost"], &done["usage"]);
        for count in ["rows", "row_layers", "peak_bytes"] {
            assert_eq!(cost[count], usage[count], "{kind} {count}; {body}");
        }
        assert!(number(&cost["flops"]) > 0.0 && number(&cost["seconds"]) > 0.0);
        // The copy of a run from which the noise floor is read.
        let twin = usize::from(kind != "run");
        let runs = twin
            + match kind {
                "run" => done["runs"].as_object().unwrap().len(),
                "patch" => {
                    let cells: usize = shape(&done["values"][0]).iter().product::<usize>().max(
                        done["axes"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|axis| shape(&axis["values"])[0])
                            .product(),
                    );
                    let copies = if done["controls"]["self_patch"].is_object() { 2 } else { 1 };
                    done["runs"].as_object().unwrap().len() + copies * cells
                }
                _ => {
                    let samples = done["samples"].as_u64().unwrap() as usize;
                    let copies = if done["controls"]["self_patch"].is_object() { 2 } else { 1 };
                    let cells = done["arms"].as_object().unwrap().len() * LAYERS * LEN * copies;
                    1 + samples + samples * cells
                }
            };
        assert_eq!((&plan["runs"], &plan["readouts"]), (&json!(runs), &json!(runs)), "{kind} {body}");
    }
}

#[tokio::test]
async fn patching_a_run_with_its_own_states_changes_nothing_at_any_site() {
    let state = tiny();
    for site in ["embed", "resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"] {
        let sweep = match site {
            "embed" => json!(["positions"]),
            "z" => json!(["layers", "positions", "heads"]),
            _ => json!(["layers", "positions"]),
        };
        let body = json!({
            "runs": {"a": PROMPT, "b": "The river is deep"}, "base": "a", "target": "P",
            "interventions": [{"site": site, "positions": "all", "source": {"run": "b"}}],
            "sweep": sweep, "metrics": ["prob:target", "logit:target", "kl:b", "rank:target"], "controls": ["self_patch"],
            "read": {"topk": 0}});
        let answer = answer(&state, "patch", &body).await;
        assert_eq!(answer["controls"]["self_patch"]["max_abs_effect"], 0.0, "{site}");
        assert_eq!(answer["receipt"]["controls"]["max_abs_delta"], 0.0, "{site}");
        assert_eq!(answer["receipt"]["controls"]["cells"], answer["receipt"]["cells"], "{site}");
        // The patches themselves do change the answer: the control is no accident.
        assert!(numbers(&answer["effects"]["logit:target"]).iter().any(|effect| *effect != 0.0), "{site}");
    }
}

#[tokio::test]
async fn restoring_and_removing_the_decisive_state_gives_the_other_runs_answer() {
    let state = tiny();
    let body = |base: &str| {
        json!({"prompt": PROMPT, "subject": "Tower", "target": "P", "base": base,
               "corrupt": {"samples": 3, "sigma": {"abs": 0.7}}, "keep": {"per_sample": true}})
    };
    let denoising = answer(&state, "trace", &body("corrupted")).await;
    let noising = answer(&state, "trace", &body("clean")).await;
    assert_eq!(denoising["baselines"], noising["baselines"]);
    let key = "prob:target";
    let last =
        |answer: &Value| numbers(&answer["arms"]["hidden"]["values"][key]["samples"][LAYERS - 1][LEN - 1]);
    let clean = number(&denoising["baselines"]["clean"][key]);
    assert_eq!(last(&denoising), [clean; 3]);
    assert_eq!(last(&noising), numbers(&noising["baselines"]["corrupted"][key]["samples"]));
    for answer in [&denoising, &noising] {
        assert_eq!(answer["arms"]["hidden"]["masks"]["trivial"][LAYERS - 1][LEN - 1], true);
        let recovery = number(&answer["arms"]["hidden"]["recovery"][key][LAYERS - 1][LEN - 1]);
        assert!((recovery - 1.0).abs() < 1e-9, "{recovery}");
    }
    // A run that stands in for the clean one: prompts of equal length.
    let swapped = json!({
        "runs": {"clean": PROMPT, "other": "The River is tall"}, "corrupt": {"method": "run", "run": "other"},
        "target": "P", "base": "corrupted"});
    let swapped = answer(&state, "trace", &swapped).await;
    assert_eq!((&swapped["samples"], &swapped["sigma"]), (&json!(1), &Value::Null));
    assert_eq!(swapped["arms"]["hidden"]["values"][key]["mean"][LAYERS - 1][LEN - 1], json!(clean));
    assert_eq!(swapped["arms"]["hidden"]["values"][key]["se"][0][0], Value::Null);
}

#[tokio::test]
async fn the_exact_null_mask_is_what_cannot_reach_the_answer_and_nothing_else() {
    let state = tiny();
    let read = 14;
    let body = json!({"prompt": PROMPT, "subject": "Tower", "target": "P", "corrupt": {"samples": 2}, "read": {"at": read},
                      "arms": ["hidden", "mlp", "attn"], "metrics": ["logit:target"]});
    let answer = answer(&state, "trace", &body).await;
    for (name, arm) in answer["arms"].as_object().unwrap() {
        let window = arm["window"].as_u64().unwrap() as usize;
        let effects = &arm["effects"]["logit:target"]["mean"];
        for layer in 0..LAYERS {
            // The window's first layer is what decides: from there on states can travel.
            let first = layer.saturating_sub(window / 2);
            for position in 0..LEN {
                // Before the subject both runs agree; behind the read position nothing is read; and after the last
                // attention a state moves no more.
                let stuck = first == LAYERS - 1 && position != read;
                let null = position < SUBJECT[0] || position > read || stuck;
                let at = format!("{name} {layer} {position}");
                assert_eq!(arm["masks"]["exact_null"][layer][position], null, "{at}");
                let effect = number(&effects[layer][position]);
                assert!(if null { effect == 0.0 } else { effect != 0.0 }, "{at}: {effect}");
            }
        }
    }
}

#[tokio::test]
async fn noise_is_the_same_for_every_arm_and_grows_with_sigma() {
    let state = tiny();
    let corrupted = async |corrupt: Value| {
        let body = json!({"prompt": PROMPT, "subject": "Tower", "target": "P", "layers": 0, "positions": [5], "corrupt": corrupt,
                          "metrics": ["logit:target", "kl:clean"]});
        let answer = answer(&state, "trace", &body).await;
        (answer["baselines"]["corrupted"].clone(), number(&answer["sigma"]["abs"]))
    };
    let (three, abs) = corrupted(json!({"samples": 4, "seed": 5})).await;
    assert_eq!(
        corrupted(json!({"samples": 4, "seed": 5, "sigma": {"abs": abs}})).await,
        (three.clone(), abs)
    );
    assert_ne!(corrupted(json!({"samples": 4, "seed": 6})).await.0, three);
    assert_ne!(corrupted(json!({"samples": 4, "seed": 5, "rng": "numpy_legacy"})).await.0, three);
    // With the counter-based generator the first samples of many are the samples of few.
    let (more, _) = corrupted(json!({"samples": 6, "seed": 5})).await;
    assert_eq!(
        more["kl:clean"]["samples"].as_array().unwrap()[..4],
        three["kl:clean"]["samples"].as_array().unwrap()[..]
    );
    let (faint, _) = corrupted(json!({"samples": 4, "seed": 5, "sigma": {"abs": abs / 100.0}})).await;
    assert!(number(&faint["kl:clean"]["mean"]) < 0.1 * number(&three["kl:clean"]["mean"]));
    let vocab = corrupted(json!({"samples": 1, "sigma": {"k": 2, "of": "vocab"}})).await.1;
    assert!((vocab - 2.0).abs() < 0.05, "{vocab}");
}

#[tokio::test]
async fn tokenize_answers_with_ids_text_offsets_and_spans() {
    let state = tiny();
    let body = json!({"prompt": "Tür zu", "spans": {"s": "ür", "r": [-2, 8]}});
    let answer = ok(&state, "/v1/tokenize", &body).await;
    assert_eq!(answer["ids"], json!([256, 84, 195, 188, 114, 32, 122, 117]));
    assert_eq!((&answer["has_bos"], &answer["spans"]), (&json!(true), &json!({"s": [2, 5], "r": [6, 8]})));
    let token = &answer["tokens"][4];
    let got = ["start", "end", "byte_start", "byte_end"].map(|key| token[key].as_u64().unwrap());
    assert_eq!((got, &token["text"]), ([2, 3, 3, 4], &json!("r")));
    let plain = ok(&state, "/v1/tokenize", &json!({"prompt": "Tür zu", "bos": false})).await;
    assert_eq!(plain["ids"], json!([84, 195, 188, 114, 32, 122, 117]));
    let ids = ok(&state, "/v1/tokenize", &json!({"tokens": plain["ids"]})).await;
    assert_eq!((&ids["ids"], &ids["has_bos"]), (&plain["ids"], &json!(false)));
    assert_eq!(ids["tokens"], plain["tokens"]);
}

#[tokio::test]
async fn strict_refuses_what_would_only_be_remarked_on() {
    let state = tiny();
    let mut body =
        json!({"prompt": PROMPT, "subject": "Tower", "target": " Paris", "corrupt": {"samples": 1}});
    let lints = answer(&state, "trace", &body).await["lints"].clone();
    let found = |code: &str| lints.as_array().unwrap().iter().find(|lint| lint["code"] == code).cloned();
    assert_eq!(found("MULTI_TOKEN_TARGET").unwrap()["where"], "/target");
    assert_eq!(found("SINGLE_NOISE_SAMPLE").unwrap()["where"], "/corrupt/samples");
    body["strict"] = json!(true);
    let reply = post(&state, "/v1/trace", &body).await;
    assert_eq!(reply.status, 422);
    let errors = reply.json()["errors"].clone();
    let codes: Vec<&str> = errors.as_array().unwrap().iter().map(|e| e["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"MULTI_TOKEN_TARGET") && codes.contains(&"SINGLE_NOISE_SAMPLE"), "{codes:?}");
}

#[tokio::test]
async fn a_joint_target_is_the_product_of_its_tokens_in_runs_patches_and_traces() {
    let state = tiny();
    let next = async |prompt: &str, target: &str| {
        let body = json!({"prompt": prompt, "target": target});
        answer(&state, "run", &body).await["runs"]["run"]["metrics"]["logprob:target"].as_f64().unwrap()
    };
    let by_hand = next(PROMPT, "P").await + next(&format!("{PROMPT}P"), "Q").await;
    let joint = |body: Value| {
        let mut body = body;
        body["targets"] = json!({"pq": ["PQ"], "sets": ["PR", "xyz", "Q"]});
        body["target_scoring"] = json!("joint");
        body["metrics"] = json!(["logprob:pq", "prob:sets", "logit_diff:pq-sets", "kl:a", "delta_norm"]);
        body
    };
    let mut body = joint(json!({"runs": {"a": PROMPT}}));
    body["metrics"] = json!(["logprob:pq", "logit_diff:pq-sets", "logprob:sets"]);
    let clean = answer(&state, "run", &body).await["runs"]["a"]["metrics"].clone();
    assert_eq!(clean["logprob:pq"], by_hand);
    let difference = clean["logprob:pq"].as_f64().unwrap() - clean["logprob:sets"].as_f64().unwrap();
    assert_eq!(clean["logit_diff:pq-sets"], difference);

    let patch = joint(json!({
        "runs": {"a": PROMPT, "b": "The river is deep"}, "base": "a", "controls": ["self_patch"],
        "interventions": [{"site": "resid_post", "positions": [1, 2, -1], "source": {"run": "b", "positions": [1, 2, -1]}}],
        "sweep": ["layers", "positions"]}));
    let patched = answer(&state, "patch", &patch).await;
    assert_eq!(patched["baselines"]["a"]["logprob:pq"], by_hand, "the same bits in other company");
    assert_eq!(patched["controls"]["self_patch"]["max_abs_effect"], 0.0);
    let nulls = patched["masks"]["exact_null"].as_array().unwrap();
    let effects = patched["effects"]["logprob:pq"].as_array().unwrap();
    let cells =
        nulls.iter().zip(effects).flat_map(|(n, e)| n.as_array().unwrap().iter().zip(e.as_array().unwrap()));
    let (null, moved): (Vec<_>, Vec<_>) = cells.partition(|(null, _)| null.as_bool().unwrap());
    assert!(!null.is_empty() && null.iter().all(|(_, effect)| effect.as_f64() == Some(0.0)), "{null:?}");
    assert!(moved.iter().any(|(_, effect)| effect.as_f64() != Some(0.0)));
    // The last layer's read position reaches the answer through its first token alone: no source's answer.
    assert_eq!(nulls[3], json!([true, true, false]));
    assert_eq!(patched["masks"]["trivial"], json!(vec![[false; 3]; 4]));
    assert_ne!(patched["values"]["logprob:pq"][3][2], patched["baselines"]["b"]["logprob:pq"]);

    let mut trace =
        joint(json!({"prompt": PROMPT, "subject": "Tower", "corrupt": {"samples": 2}, "layers": [1, 3]}));
    trace["metrics"] = json!(["logprob:pq", "kl:clean"]);
    let traced = answer(&state, "trace", &trace).await;
    assert_eq!(traced["baselines"]["clean"]["logprob:pq"], by_hand);
    let axes = &traced["arms"]["hidden"]["axes"];
    let positions = axes[1]["values"].as_array().unwrap();
    assert_eq!(positions.len(), traced["tokens"].as_array().unwrap().len(), "the prompt's and no more");
}

#[tokio::test]
async fn captured_scores_of_cut_edges_are_null_because_they_are_cut() {
    let cut = |layers: Value| json!({"site": "scores", "op": "knockout", "layers": layers, "heads": [0], "keys": [0, 1], "positions": [3]});
    let capture = |site: &str| json!({"site": site, "layers": [1, 2], "positions": [3]});
    let body = json!({"runs": {"a": "The Tower", "b": {"from": "a", "interventions": [cut(json!(1))]}},
                      "read": {"capture": [capture("scores"), capture("pattern")]}});
    let reply = post(&tiny(), "/v1/run", &body).await;
    let answer = reply.json();
    assert_eq!(reply.status, 200, "{}", reply.text());
    check_response("post", "/v1/run", "200", &answer);
    let [scores, pattern] = [0, 1].map(|n| answer["runs"]["b"]["captures"][n]["values"].clone());
    for key in 0..10 {
        assert_eq!(scores[0][0][key].is_null(), key < 2, "{scores}");
        assert_eq!(pattern[0][0][key] == 0.0, !(2..4).contains(&key), "{pattern}");
        assert!(!scores[1][0][key].is_null());
    }
    assert_eq!(
        answer["nulls"],
        json!([{"where": "/runs/b/captures/0/values",
                "reason": "cut: 2 of 80 scores are minus infinity, of edges that a knockout cuts"}])
    );
}

#[tokio::test]
async fn a_lens_is_a_clean_run_that_reads_the_logit_lens() {
    let state = tiny();
    let short = json!({"prompt": PROMPT, "target": "P", "layers": [0, 3], "positions": [-2, -1], "topk": 2});
    let lens = ok(&state, "/v1/lens", &short).await;
    check_response("post", "/v1/lens", "200", &lens);
    let read = json!({"topk": 1, "logit_lens": {"layers": [0, 3], "positions": [-2, -1], "topk": 2}});
    let long = json!({"runs": {"run": PROMPT}, "targets": {"target": ["P"]}, "read": read});
    let run = ok(&state, "/v1/run", &long).await;
    assert_eq!((&lens["runs"], &lens["request"]), (&run["runs"], &run["request"]));
    assert!(lens["id"].as_str().unwrap().starts_with("lens"), "{}", lens["id"]);
    let found = &lens["runs"]["run"]["logit_lens"];
    assert_eq!((&found["layers"], found["positions"].as_array().unwrap().len()), (&json!([0, 3]), 2));
    // All of it, where nothing is said.
    let whole = ok(&state, "/v1/lens", &json!({"prompt": PROMPT})).await;
    let found = &whole["runs"]["run"]["logit_lens"];
    assert_eq!(found["layers"].as_array().unwrap().len(), LAYERS);
    assert_eq!(found["positions"].as_array().unwrap().len(), LEN);
    let picture = post(&state, "/v1/lens?format=svg", &short).await;
    assert!(picture.status == 200 && picture.text().starts_with("<svg"), "{}", picture.text());
    let plan = ok(&state, "/v1/plan", &json!({"lens": short})).await;
    assert_eq!((&plan["kind"], &plan["request"]), (&json!("lens"), &lens["request"]));
    for (field, value) in [("layers", json!([9])), ("positions", json!([99])), ("topk", json!(100_000))] {
        let mut body = short.clone();
        body[field] = value;
        let reply = post(&state, "/v1/lens", &body).await;
        assert_eq!(reply.status, 422, "{}", reply.text());
        let pointer = reply.json()["errors"][0]["pointer"].as_str().unwrap().to_owned();
        assert!(pointer.starts_with(&format!("/{field}")), "{field}: {pointer}");
    }
    let unknown = post(&state, "/v1/lens", &json!({"prompt": PROMPT, "top_k": 3})).await;
    assert!(unknown.text().contains("did you mean `topk`?"), "{}", unknown.text());
}

/// Each token is scored where a run that ends before it would score it: with the same bits.
#[tokio::test]
async fn the_surprisal_of_each_token_is_that_of_the_run_before_it() {
    let state = tiny();
    let edit = |factor: f64| json!({"site": "resid_post", "layers": 1, "positions": 4, "op": "scale", "factor": factor});
    let body = json!({
        "runs": {"a": {"prompt": PROMPT, "spans": {"subject": "Tower", "start": [0, 3]}}, "one": {"tokens": [7]},
                 "same": {"from": "a", "interventions": [edit(1.0)]}, "other": {"from": "a", "interventions": [edit(0.0)]}},
        "topk": 2});
    let found = ok(&state, "/v1/surprisal", &body).await;
    check_response("post", "/v1/surprisal", "200", &found);
    let [a, one, same, other] = ["a", "one", "same", "other"].map(|name| &found["runs"][name]);
    let ids: Vec<u64> = a["tokens"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect();
    let scores = a["scores"].as_array().unwrap();
    assert_eq!((ids.len(), scores.len()), (LEN, LEN - 1));
    let mut sums = [0.0, 0.0];
    for (i, score) in scores.iter().enumerate() {
        let metrics = ["logprob:target", "rank:target"];
        let before =
            json!({"tokens": ids[..=i], "target": ids[i + 1], "metrics": metrics, "read": {"topk": 2}});
        let run = ok(&state, "/v1/run", &before).await;
        let run = &run["runs"]["run"];
        assert_eq!(score["logprob"], run["metrics"]["logprob:target"], "{i}");
        assert_eq!(score["rank"].as_f64(), run["metrics"]["rank:target"].as_f64(), "{i}");
        assert_eq!((&score["topk"], &score["position"]), (&run["topk"], &json!(i + 1)));
        let logprob = score["logprob"].as_f64().unwrap();
        assert!((score["surprisal"].as_f64().unwrap() + logprob / 2.0_f64.ln()).abs() < 1e-12);
        assert!(score["entropy"].as_f64().unwrap() > 0.0);
        sums[0] += logprob;
        if (SUBJECT[0]..SUBJECT[1]).contains(&(i + 1)) {
            sums[1] += logprob;
        }
    }
    let near = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-9;
    assert!(near(&a["logprob"], sums[0]) && near(&a["span_logprobs"]["subject"], sums[1]), "{a}");
    assert!(near(&a["perplexity"], (-sums[0] / 17.0).exp()), "{a}");
    // What is before the edited position is as it was, and what an edit leaves as it was, too.
    assert_eq!(same["scores"], a["scores"]);
    assert_eq!(other["scores"].as_array().unwrap()[..4], scores[..4]);
    assert_ne!(other["scores"][4], scores[4]);
    // The first token follows nothing.
    assert_eq!((&one["logprob"], &a["span_logprobs"]["start"]), (&Value::Null, &Value::Null));
    let nulls: Vec<&str> =
        found["nulls"].as_array().unwrap().iter().map(|null| null["where"].as_str().unwrap()).collect();
    for at in ["/runs/one/logprob", "/runs/one/perplexity", "/runs/a/span_logprobs/start"] {
        assert!(nulls.contains(&at), "{at}: {nulls:?}");
    }
}

#[tokio::test]
async fn surprisals_have_every_form_and_are_planned_and_refused_as_others_are() {
    let state = tiny();
    let body = json!({"prompt": PROMPT});
    let csv = post(&state, "/v1/surprisal?format=csv", &body).await.text();
    assert!(csv.starts_with("run,position,token,logprob,surprisal,rank,entropy\n"), "{csv}");
    assert_eq!(csv.lines().count(), LEN);
    let picture = post(&state, "/v1/surprisal?format=svg", &body).await;
    assert!(picture.status == 200 && picture.text().contains("surprisal in bits"), "{}", picture.text());
    let alone = post(&state, "/v1/surprisal?format=svg", &json!({"tokens": [7]})).await;
    assert_eq!(alone.status, 422, "{}", alone.text());
    let found = ok(&state, "/v1/surprisal", &body).await;
    let plan = ok(&state, "/v1/plan", &json!({"surprisal": body})).await;
    assert_eq!((&plan["kind"], &plan["request"]), (&json!("surprisal"), &found["request"]));
    // The long form that it shows is the same request.
    let again = ok(&state, "/v1/surprisal", &found["request"]).await;
    assert_eq!(again["runs"], found["runs"]);
    for (field, value, pointer) in [("topk", json!(100_000), "/topk"), ("target", json!(" x"), "/target")] {
        let mut wrong = body.clone();
        wrong[field] = value;
        let reply = post(&state, "/v1/surprisal", &wrong).await;
        assert_eq!(reply.status, 422, "{}", reply.text());
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{}", reply.text());
    }
}
