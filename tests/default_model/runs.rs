//! Clean runs: probabilities, ranks and the most probable tokens.

use mediant::spec::run::RunSpec;
use serde_json::json;

use crate::support::{Worst, answered, golden, ids, number, service};

#[tokio::test]
async fn clean_runs_agree_with_pytorch_on_probability_rank_and_most_probable_tokens() {
    let golden = golden("smollm2_runs");
    let cases = golden["runs"].as_array().unwrap();
    // All prompts in one request, as a user compares them; then each alone.
    let mut body = json!({"runs": {}, "targets": {}, "metrics": [], "read": {"topk": 10}});
    for (i, case) in cases.iter().enumerate() {
        body["runs"][format!("r{i}")] = case["prompt"].clone();
        body["targets"][format!("t{i}")] = case["target"].clone();
        for metric in ["prob", "logit", "logprob", "rank", "top1"] {
            body["metrics"].as_array_mut().unwrap().push(json!(format!("{metric}:t{i}")));
        }
    }
    let together = answered(service().answer::<RunSpec>(body).await);
    let (mut probabilities, mut logits) = (Worst::probabilities(), Worst::logits());
    for (i, case) in cases.iter().enumerate() {
        let prompt = case["prompt"].as_str().unwrap();
        let body = json!({"prompt": prompt, "target": case["target"], "metrics": ["prob:target"]});
        let alone = answered(service().answer::<RunSpec>(body).await);
        let run = &together["runs"][format!("r{i}")];
        let metric = |name: &str| number(&run["metrics"][format!("{name}:t{i}")]);
        assert_eq!(
            alone["runs"]["run"]["metrics"]["prob:target"],
            metric("prob"),
            "{prompt}: alone and together"
        );
        assert_eq!(alone["runs"]["run"]["topk"], run["topk"], "{prompt}: alone and together");

        let tokens: Vec<u64> =
            run["tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect();
        assert_eq!(tokens, ids(&case["tokens"]), "{prompt}");
        assert_eq!(together["targets"][format!("t{i}")][0]["id"], case["target_id"], "{prompt}");
        assert_eq!(metric("rank"), number(&case["rank"]), "{prompt}");
        let answered = case["top"][0][0] == case["target_id"];
        assert_eq!(metric("top1"), f64::from(u8::from(answered)), "{prompt}");
        probabilities.see(metric("prob"), number(&case["prob"]), prompt);
        logits.see(metric("logit"), number(&case["logit"]), prompt);
        let logprob = number(&case["logit"]) - number(&case["log_sum_exp"]);
        logits.see(metric("logprob"), logprob, prompt);
        let top = case["top"].as_array().unwrap();
        assert_eq!(top.len(), run["topk"].as_array().unwrap().len());
        for (rank, (token, expected)) in run["topk"].as_array().unwrap().iter().zip(top).enumerate() {
            let at = format!("{prompt} #{}", rank + 1);
            assert_eq!((&token["id"], number(&token["rank"])), (&expected[0], rank as f64 + 1.0), "{at}");
            logits.see(number(&token["logit"]), number(&expected[1]), &at);
            probabilities.see(number(&token["prob"]), number(&expected[2]), &at);
        }
    }
    probabilities.tell("P of clean runs", 100);
    logits.tell("logits of clean runs", 100);
}

#[tokio::test]
async fn differences_of_probability_and_of_logits_agree_with_pytorch() {
    let golden = golden("smollm2_runs");
    let (mut probabilities, mut logits) = (Worst::probabilities(), Worst::logits());
    for case in golden["runs"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let top = case["top"].as_array().unwrap();
        // The most probable token by itself, and the sets of the next three and the last six.
        let parts = [("one", &top[..1]), ("three", &top[1..4]), ("six", &top[4..])];
        let sets = parts.map(|(name, part)| {
            (name.to_owned(), part.iter().map(|token| token[0].clone()).collect::<serde_json::Value>())
        });
        let pairs = [(0, 1), (0, 2), (2, 1)];
        let metrics: Vec<String> = ["prob_diff", "logit_diff"]
            .iter()
            .flat_map(|kind| pairs.map(|(a, b)| format!("{kind}:{}-{}", parts[a].0, parts[b].0)))
            .collect();
        let targets: serde_json::Map<_, _> = sets.into_iter().collect();
        let body = json!({"prompt": prompt, "targets": targets, "metrics": metrics});
        let found = answered(service().answer::<RunSpec>(body).await);
        let sum =
            |part: usize, of: fn(&serde_json::Value) -> f64| -> f64 { parts[part].1.iter().map(of).sum() };
        for (a, b) in pairs {
            let value = |kind: &str| {
                number(&found["runs"]["run"]["metrics"][format!("{kind}:{}-{}", parts[a].0, parts[b].0)])
            };
            let prob = |token: &serde_json::Value| number(&token[2]);
            let exp = |token: &serde_json::Value| number(&token[1]).exp();
            probabilities.see(value("prob_diff"), sum(a, prob) - sum(b, prob), prompt);
            logits.see(value("logit_diff"), sum(a, exp).ln() - sum(b, exp).ln(), prompt);
        }
    }
    probabilities.tell("differences of P of clean runs", 12);
    logits.tell("differences of logits of clean runs", 12);
}
