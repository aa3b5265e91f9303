//! Every site, operation and source of the default model, as requests: patches with PyTorch hooks on the same weights.

use mediant::spec::patch::PatchSpec;
use mediant::spec::run::RunSpec;
use serde_json::{Map, Value, json};

use crate::site_requests::{Inexpressible, Requests};
use crate::support::{Worst, answered, golden, ids, number, numbers, service};

/// Cases, readouts and components of one model; also for tests of what `read` gives.
pub(crate) const GOLDEN: &str = "smollm2_sites";

/// The golden's prompts by name.
fn prompts(golden: &Value) -> Map<String, Value> {
    let prompts = golden["prompts"].as_object().unwrap().iter();
    prompts.map(|(name, prompt)| (name.clone(), json!({"prompt": prompt}))).collect()
}

/// The base alone, as `POST /v1/run` takes it.
pub(crate) fn base(golden: &Value) -> Value {
    json!({"runs": {"base": {"prompt": golden["prompts"]["base"]}}})
}

fn cases(golden: &Value) -> &[Value] {
    golden["cases"].as_array().unwrap()
}

/// Targets by name, and the metrics that are compared: the probability of the first, the logits of all.
fn measured(golden: &Value, mut body: Value) -> Value {
    let texts = golden["texts"].as_array().unwrap();
    body["metrics"] = json!(["prob:t0", "logprob:t0"]);
    for (i, text) in texts.iter().enumerate() {
        body["targets"][format!("t{i}")] = text.clone();
        body["metrics"].as_array_mut().unwrap().push(json!(format!("logit:t{i}")));
    }
    body
}

/// A case's request. What a source cannot say, its head, is said by reading first and giving a vector.
async fn patch(golden: &Value, case: &Value) -> Value {
    let config = service().served.config();
    let longest = golden["runs"].as_object().unwrap().values().map(|run| ids(run).len()).max().unwrap();
    let requests = Requests { config, runs: prompts(golden), keys: longest };
    match requests.patch(case) {
        Ok(body) => body,
        Err(Inexpressible::AnotherHead) => {
            let edit = &case["edits"][0];
            let source = &edit["sources"][0];
            let capture =
                json!([{"site": edit["site"], "layers": edit["layer"], "positions": source["positions"]}]);
            let read = json!({"runs": {"read": prompts(golden)[source["run"].as_str().unwrap()]},
                              "read": {"capture": capture}});
            let answer = answered(service().answer::<RunSpec>(read).await);
            let row = numbers(&answer["runs"]["read"]["captures"][0]["values"]);
            let part = requests.columns(edit);
            let start = source["head"].as_u64().unwrap() as usize * part;
            let mut body = base(golden);
            body["base"] = json!("base");
            body["interventions"] = json!([{
                "site": edit["site"], "layers": edit["layer"], "heads": edit["head"],
                "positions": edit["positions"], "source": {"vector": row[start..start + part]}}]);
            body
        }
    }
}

/// Compares what the metrics of [`measured`] say with a golden's case.
fn compare(
    golden: &Value,
    case: &Value,
    value: impl Fn(&str) -> f64,
    probabilities: &mut Worst,
    logits: &mut Worst,
) {
    let name = case["name"].as_str().unwrap();
    assert_eq!(golden["ids"][0], golden["target_id"]);
    probabilities.see(value("prob:t0"), number(&case["prob"]), name);
    let logit_of = |i: usize| number(&case["logits"][i]);
    logits.see(value("logprob:t0"), logit_of(0) - number(&case["lse"]), name);
    for i in 0..golden["texts"].as_array().unwrap().len() {
        logits.see(value(&format!("logit:t{i}")), logit_of(i), name);
    }
}

#[tokio::test]
async fn patches_of_every_site_and_operation_agree_with_pytorch() {
    let golden = golden(GOLDEN);
    let (mut probabilities, mut logits) = (Worst::probabilities(), Worst::logits());
    let [clean, patched @ ..] = cases(&golden) else { panic!("no cases") };
    let answer = answered(service().answer::<RunSpec>(measured(&golden, base(&golden))).await);
    let run = &answer["runs"]["base"];
    let tokens: Vec<u64> =
        run["tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect();
    assert_eq!(tokens, ids(&golden["runs"]["base"]));
    compare(&golden, clean, |metric| number(&run["metrics"][metric]), &mut probabilities, &mut logits);
    let mut moved = 0;
    for case in patched {
        let mut body = measured(&golden, patch(&golden, case).await);
        // The final norm's last row decides the answer: a tautology, asked for as such.
        body["allow_trivial"] = json!(true);
        let answer = answered(service().answer::<PatchSpec>(body).await);
        let single = |metric: &str| match numbers(&answer["values"][metric])[..] {
            [value] => value,
            ref values => panic!("{}: {} values", case["name"], values.len()),
        };
        compare(&golden, case, single, &mut probabilities, &mut logits);
        moved += usize::from((number(&case["prob"]) - number(&clean["prob"])).abs() > 1e-3);
    }
    assert!(moved * 3 > patched.len() * 2, "{moved} of {} cases move P(target)", patched.len());
    probabilities.tell("P of patches at every site", 54);
    logits.tell("logits of patches at every site", 270);
}

#[tokio::test]
async fn a_target_of_two_tokens_has_the_joint_probability_of_teacher_forcing() {
    let golden = golden(GOLDEN);
    let mut logits = Worst::logits();
    let target = |mut body: Value| {
        body["target"] = golden["two_tokens"]["text"].clone();
        body["target_scoring"] = json!("joint");
        body["metrics"] = json!(["logprob:target", "prob:target"]);
        body
    };
    let forced = golden["teacher_forced"].as_array().unwrap();
    assert_eq!(forced.len(), 2);
    let answer = answered(service().answer::<RunSpec>(target(base(&golden))).await);
    assert_eq!(answer["targets"]["target"][0]["tokens"], golden["two_tokens"]["ids"]);
    let run = number(&answer["runs"]["base"]["metrics"]["logprob:target"]);
    logits.see(run, number(&forced[0]["joint"]), "clean");
    let answer = answered(service().answer::<PatchSpec>(target(patch(&golden, &forced[1]).await)).await);
    let baseline = number(&answer["baselines"]["base"]["logprob:target"]);
    logits.see(baseline, number(&forced[0]["joint"]), "the base of the patch");
    let patched = numbers(&answer["values"]["logprob:target"]);
    assert_eq!(patched.len(), 1);
    logits.see(patched[0], number(&forced[1]["joint"]), forced[1]["name"].as_str().unwrap());
    let prob = numbers(&answer["values"]["prob:target"])[0];
    let mut probabilities = Worst::probabilities();
    probabilities.see(prob, number(&forced[1]["joint"]).exp(), "the same as a probability");
    logits.tell("joint log-probabilities", 3);
}

#[tokio::test]
async fn an_attention_pattern_that_is_read_agrees_with_pytorch() {
    let golden = golden(GOLDEN);
    let pattern = &golden["pattern"];
    let mut body = base(&golden);
    let position = pattern["position"].clone();
    body["read"] =
        json!({"capture": [{"site": "pattern", "layers": pattern["layer"], "positions": [position]}]});
    let answer = answered(service().answer::<RunSpec>(body).await);
    let row = numbers(&answer["runs"]["base"]["captures"][0]["values"]);
    let expected = numbers(&pattern["row"]);
    let keys = ids(&golden["runs"]["base"]).len();
    assert_eq!((row.len(), expected.len()), (9 * keys, keys));
    let start = pattern["head"].as_u64().unwrap() as usize * keys;
    let mut weights = Worst::probabilities();
    for (key, (got, expected)) in row[start..start + keys].iter().zip(expected).enumerate() {
        weights.see(*got, expected, &format!("key {key}"));
    }
    weights.tell("attention weights", keys);
}
