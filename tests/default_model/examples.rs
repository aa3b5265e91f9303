//! The committed examples: each is a request that the default model accepts.

use std::path::Path;

use mediant::capacity::Share;
use mediant::owner::Owner;
use mediant::service::Refusal;
use mediant::spec::activation::UploadSpec;
use mediant::spec::align::AlignSpec;
use mediant::spec::problem::Problems;
use mediant::spec::run::RunSpec;
use serde_json::{Value, json};

use crate::support::{answered, service};

/// The endpoint and the body of each example. A file's name begins with its endpoint.
pub(crate) fn examples() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/examples");
    let mut found: Vec<(String, Value)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, standing(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The request without what an earlier one gave: cells of a sweep become plain layers and heads, as they do before such a request is
/// read, and a handle of activations a vector.
fn standing(mut body: Value) -> Value {
    match &mut body {
        Value::Object(map) => {
            if map.remove("cells").is_some() {
                map.extend([("layers".to_owned(), json!([3, 20])), ("heads".to_owned(), json!([4]))]);
            }
            if map.get("activation") == Some(&json!("ACTIVATION")) {
                return json!({"vector": vec![0.5; 576]});
            }
            map.values_mut().for_each(|value| *value = standing(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = standing(item.take())),
        _ => {}
    }
    body
}

#[tokio::test]
async fn every_example_is_a_request_that_is_let_in() {
    let examples = examples();
    assert!(examples.len() >= 10);
    for (name, body) in examples {
        let result = match name.split('-').next().unwrap() {
            "tokenize" => {
                service().tokenize(body).await.map(|tokens| json!({"allowed": !tokens.ids.is_empty()}))
            }
            // Numbers are checked, but not stored.
            "activations" => {
                let mut out = Problems::default();
                let spec = UploadSpec::read(&body, &mut out);
                let spec = out.or(spec).unwrap_or_else(|p| panic!("{name}: {p:#?}"));
                if spec.mean_of.is_some() {
                    let stored = service().upload(spec, &Share::unbounded(Owner::local())).await;
                    stored.map(|_| json!({"allowed": true}))
                } else {
                    let draft = mediant::lower::upload(spec, &service().served_to(&Owner::local()));
                    draft.map(|draft| json!({"allowed": !draft.values.is_empty()})).map_err(Refusal::from)
                }
            }
            "align" => service().answer::<AlignSpec>(body).await.map(|pair| {
                let contrast = pair.contrast.is_some_and(|contrast| contrast.differs == Some(true));
                json!({"allowed": contrast, "cost": pair.usage})
            }),
            "plan" => service().plan(body).await.map(|plan| json!(plan)),
            kind => service().plan(json!({kind: body})).await.map(|plan| json!(plan)),
        };
        match result {
            Ok(plan) => {
                assert_eq!(plan["allowed"], true, "{name}");
                println!("{name}: about {} s", plan["cost"]["seconds"]);
            }
            Err(Refusal::Invalid(problems)) => panic!("{name}: {problems:#?}"),
            Err(other) => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_shortest_examples_give_what_their_prompts_promise() {
    for (name, body) in examples() {
        if name == "run-short" {
            let answer = answered(service().answer::<RunSpec>(body).await);
            assert_eq!(
                answer["runs"]["run"]["topk"][0]["text"], " Paris",
                "{}",
                answer["runs"]["run"]["topk"]
            );
        }
    }
}
