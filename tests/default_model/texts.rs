//! Generated text against transformers' `generate` and against PyTorch without a cache (`tests/python/make_text_golden.py`): the same
//! tokens wherever the two best logits are not nearly equal, and the same log-probabilities.

use mediant::capacity::Share;
use mediant::owner::Owner;
use mediant::spec::activation::UploadSpec;
use mediant::spec::problem::Problems;
use serde_json::{Value, json};

use crate::support::{golden, ids, number, service};
use crate::uniform::uniform;

/// Logits nearer than this may be either's: arithmetic differs in its last bits.
const TIE: f64 = 1e-3;

async fn written(body: Value) -> Value {
    let mut generating = service().generate(body).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
    while generating.next().await.unwrap_or_else(|refusal| panic!("{refusal:?}")).is_some() {}
    serde_json::to_value(generating.response().unwrap_or_else(|refusal| panic!("{refusal:?}"))).unwrap()
}

/// Compares a text with its golden up to the first tie that went another way; how many steps that were.
fn compare(text: &Value, expected: &Value, at: &str, worst: &mut f64) -> usize {
    let (tokens, steps) = (text["tokens"].as_array().unwrap(), expected["steps"].as_array().unwrap());
    for (step, (token, expected)) in tokens.iter().zip(steps).enumerate() {
        if token["id"] != expected[0] {
            assert!(number(&expected[2]) < TIE, "{at}: step {step} has {token}, not {expected}");
            return step;
        }
        let error = (number(&token["logprob"]) - number(&expected[1])).abs();
        assert!(error < 1e-4, "{at}: step {step} is off by {error}");
        *worst = worst.max(error);
    }
    assert!(tokens.len() == steps.len() || text["finish"] == "stop", "{at}: {}", text["finish"]);
    tokens.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_texts_are_those_of_transformers() {
    let golden = golden("texts");
    let cases = golden["plain"].as_array().unwrap();
    let bodies = cases.iter().map(|case| json!({"prompt": case["prompt"], "max_tokens": 64}));
    let texts: Vec<_> = bodies.map(|body| tokio::spawn(written(body))).collect();
    let (mut worst, mut steps) = (0.0, 0);
    for (case, text) in cases.iter().zip(texts) {
        let text = text.await.unwrap();
        let prompt: Vec<u64> =
            text["prompt"]["tokens"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect();
        assert_eq!(prompt, ids(&case["tokens"]));
        let own = &text["branches"]["plain"]["samples"][0];
        steps += compare(own, case, case["prompt"].as_str().unwrap(), &mut worst);
    }
    println!("{steps} steps, log-probabilities within {worst:.1e}");
    assert!(steps > 1000, "{steps}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edited_texts_are_those_of_hooks_without_a_cache() {
    let golden = golden("texts");
    let vector = uniform("steer", 576);
    let (layer, mut worst, mut steps) = (&golden["layer"], 0.0, 0);
    for edited in golden["edited"].as_array().unwrap() {
        let case = &edited["case"];
        let coefs = case["coefs"].as_array().unwrap();
        let at = |positions: Value| json!({"site": "resid_post", "layers": layer, "positions": positions});
        let with = |positions: Value, coef: Value| {
            let mut one = at(positions);
            match case["op"].as_str().unwrap() {
                "add" => {
                    one["op"] = json!("add");
                    one["coef"] = coef;
                    one["source"] = json!({"vector": vector});
                }
                "replace" => {
                    one["op"] = json!("replace");
                    let scaled: Vec<f32> = vector.iter().map(|x| x * 20.0).collect();
                    one["source"] = json!({"vector": scaled});
                }
                "clamp" => {
                    one["op"] = json!("clamp");
                    one["along"] = json!(vector);
                    one["min"] = json!(8);
                    one["max"] = json!(12);
                }
                _ => {
                    one["op"] = json!("project_out");
                    one["basis"] = json!([vector]);
                }
            }
            one
        };
        let mut interventions = Vec::new();
        if case["prompt"] == "all" {
            interventions.push(with(json!(["all", {"steps": "all"}]), json!(1)));
        } else {
            if !case["prompt"].as_array().unwrap().is_empty() {
                interventions.push(with(case["prompt"].clone(), json!(6)));
            }
            let written: Vec<usize> = (0..coefs.len()).filter(|i| !coefs[*i].is_null()).collect();
            if let (Some(first), Some(last)) = (written.first(), written.last()) {
                let steps = json!({"steps": {"from": first, "to": last + 1}});
                // A coefficient for every step up to the last, whether it is written or not.
                let by_step: Vec<Value> =
                    coefs[..=*last].iter().map(|c| if c.is_null() { json!(0) } else { c.clone() }).collect();
                interventions.push(with(steps, json!(by_step)));
            }
        }
        let body =
            json!({"prompt": edited["prompt"], "interventions": interventions, "max_tokens": coefs.len()});
        let text = written(body).await;
        let at = format!("{}, {}", edited["prompt"], case["name"]);
        steps += compare(&text["branches"]["edited"]["samples"][0], edited, &at, &mut worst);
    }
    println!("{steps} steps, log-probabilities within {worst:.1e}");
    assert!(steps > 150, "{steps}");
}

/// Rows of the table of `docs/GENERATION.md` under a heading: cells, with single spaces.
fn table(heading: &str) -> Vec<Vec<String>> {
    let path = format!("{}/docs/GENERATION.md", env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(path).unwrap();
    let (_, section) = document.split_once(heading).unwrap();
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    let words = |cell: &str| cell.split_whitespace().collect::<Vec<_>>().join(" ");
    rows.map(|row| row.trim_matches('|').split('|').map(words).collect()).collect()
}

/// The request of the guide under a heading.
fn request(heading: &str) -> Value {
    let path = format!("{}/docs/GENERATION.md", env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(path).unwrap();
    let (_, section) = document.split_once(heading).unwrap();
    let (_, block) = section.split_once("```json").unwrap();
    // What stands behind the language says how the guides' own test sends it.
    let (_, block) = block.split_once('\n').unwrap();
    serde_json::from_str(block.split_once("```").unwrap().0).unwrap()
}

/// The lists of prompts of the guide's Python.
fn prompts(name: &str) -> Vec<String> {
    let path = format!("{}/docs/GENERATION.md", env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(path).unwrap();
    let (_, list) = document.split_once(&format!("\n{name} = ")).unwrap();
    let end = list.find(']').unwrap();
    serde_json::from_str(&list[..=end]).unwrap()
}

fn said(branch: &Value) -> String {
    branch["samples"][0]["text"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_s_direction_has_the_texts_and_costs_that_the_guide_says() {
    let cases = |name: &str| -> Value {
        let cases: Vec<Value> = prompts(name).iter().map(|prompt| json!({"prompt": prompt})).collect();
        json!({"inline": cases})
    };
    let mean = json!({"site": "resid_post", "layers": [14], "mean_of": {"dataset": cases("happy"), "minus": cases("sad")}});
    let mut out = Problems::default();
    let spec = UploadSpec::read(&mean, &mut out);
    let spec = out.or(spec).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let joy = service().upload(spec, &Share::unbounded(Owner::local())).await.unwrap();
    let strengths = [-4, -2, 0, 1, 2, 4];
    let body = json!({
        "prompt": "When I woke up this morning, I felt", "max_tokens": 24,
        "interventions": [{"site": "resid_post", "layers": 14, "positions": {"steps": "all"}, "op": "add",
                           "source": {"activation": joy.id.as_str()}}],
        "sweep": {"coefs": strengths}, "compare_with": "coef=0"});
    let answer = written(body).await;
    let rows = table("## Worked example: a direction");
    assert_eq!(rows.len(), strengths.len());
    for (row, strength) in rows.iter().zip(strengths) {
        let branch = &answer["branches"][format!("coef={strength}")];
        let sample = &branch["samples"][0];
        let tokens = sample["tokens"].as_array().unwrap();
        let own = tokens.iter().map(|token| number(&token["logprob"])).sum::<f64>() / tokens.len() as f64;
        let unsteered = if strength == 0 { own } else { number(&sample["compare"]["mean_logprob"]) };
        assert_eq!(row[0], strength.to_string());
        assert_eq!(row[1], said(branch), "at {strength}");
        for (cell, value) in [(&row[2], own), (&row[3], unsteered)] {
            assert!(
                (cell.parse::<f64>().unwrap() - value).abs() < 0.011,
                "at {strength}: {cell}, not {value}"
            );
        }
    }
    let incoherent = |lint: &Value| {
        lint["code"] == "INCOHERENT" && lint["detail"].as_str().unwrap().starts_with("coef=4:")
    };
    assert!(answer["lints"].as_array().unwrap().iter().any(incoherent), "{}", answer["lints"]);
    service().delete_activation(joy.id.as_str().to_owned(), &Share::unbounded(Owner::local())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_s_patchscope_says_what_the_guide_says() {
    let example = request("## Worked example: a patchscope");
    let rows = table("## Worked example: a patchscope");
    for (column, prompt) in [(2, "William Shakespeare"), (3, "The city of Rome"), (4, "The Eiffel Tower")] {
        let mut body = example.clone();
        body["runs"]["q"] = json!({"prompt": prompt});
        let mut branches = json!({});
        for row in &rows {
            branches[&row[0]] = match (row[0].parse::<u32>(), row[1].parse::<u32>()) {
                (Ok(read), Ok(write)) => {
                    json!([{"site": "resid_post", "layers": write, "positions": "last", "op": "replace",
                                                 "source": {"run": "q", "positions": "last", "layer": read}}])
                }
                _ => json!([]),
            };
        }
        body["branches"] = branches;
        let answer = written(body).await;
        for row in &rows {
            assert_eq!(row[column], said(&answer["branches"][&row[0]]), "{prompt}, {}", row[0]);
        }
    }
}
