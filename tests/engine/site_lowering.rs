//! The cases of the site goldens as requests: what `POST /v1/patch` makes of them gives PyTorch's numbers too.

use mediant::kernels::cpu::Dtype;
use mediant::lower;
use mediant::model::config::ModelConfig;
use mediant::plan::Score;
use mediant::plan::pack::Mode;
use mediant::spec::problem::{Problems, code};
use serde_json::{Map, Value, json};

use crate::facts::TinyFacts;
use crate::site_cases::{indices, list};
use crate::site_requests::{Inexpressible, Requests};
use crate::tiny::{config, decoder, golden, run};

/// `scores` and `pattern` are copied from the same layer, or scaled or zeroed: what is added, averaged or brought from
/// elsewhere there would have no meaning over other keys.
const REFUSED: [&str; 10] = [
    "add_run scores 2 at [8]",
    "mean scores 0 at [8]",
    "add_run pattern 2 at [4, 6]",
    "mean pattern 3 at [0, 5, 8]",
    "add_run scores 2 head 0 at [4, 8]",
    "mean scores 1 head 3 at [4, 8]",
    "add_run pattern 1 head 2 at [4, 8]",
    "pattern of another layer",
    "scores of another layer, one head",
    "pattern from scores, one head",
];

/// A source is read at the heads that are written; another head's values are captured first and given as a vector.
const ANOTHER_HEAD: [&str; 6] = [
    "z head 3 from z head 1",
    "q head 0 from k head 1",
    "v head 1 from z head 2 of another layer",
    "attn_out from head_out of one head",
    "head 2's contribution doubled at attn_out",
    "pattern head 0 from head 3",
];

/// What became of a case.
enum Answer {
    Score(Box<Score>),
    /// By design: see [`REFUSED`].
    Refused(Problems),
    /// By design: see [`ANOTHER_HEAD`].
    Inexpressible(Inexpressible),
}

fn requests<'c>(golden: &Value, config: &'c ModelConfig) -> Requests<'c> {
    let runs = golden["runs"].as_object().unwrap();
    let keys = runs.values().map(|tokens| list(tokens).len()).max().unwrap();
    let runs: Map<String, Value> =
        runs.iter().map(|(name, tokens)| (name.clone(), json!({"tokens": tokens}))).collect();
    Requests { config, runs, keys }
}

/// Every case's answer.
fn answers(golden: &Value) -> Vec<Answer> {
    let model = crate::tiny::golden(&format!("tiny_{}", golden["family"].as_str().unwrap()));
    assert_eq!(config(&model), config(golden));
    let (mut decoder, config) = decoder(&model, 2, Dtype::F32);
    let layers = config.num_layers as u32;
    let (facts, requests) = (TinyFacts::new(&config), requests(golden, &config));
    let targets: Map<String, Value> =
        indices(&golden["ids"]).into_iter().map(|id| (format!("t{id}"), json!(id))).collect();
    let answer = |case: &Value| {
        let mut body = match requests.patch(case) {
            Ok(body) => body,
            Err(why) => return Answer::Inexpressible(why),
        };
        body["targets"] = targets.clone().into();
        // Copied at the last position behind the last attention, a state decides the answer.
        body["allow_trivial"] = json!(true);
        let lowered = match lower::lower::<mediant::spec::patch::PatchSpec>(&body, &facts) {
            Ok(lowered) => lowered,
            Err(problems) => return Answer::Refused(problems),
        };
        let mut plan = lowered.plan;
        assert_eq!(plan.scoring.targets, indices(&golden["ids"]));
        if let Some(first) = &lowered.prelude {
            plan.fill(&run(&mut decoder, layers, first, 100_000, Mode::Branching).captures);
        }
        let mut scores = run(&mut decoder, layers, &plan, 100_000, Mode::Branching).scores;
        let [readout] = lowered.layout.arm().grid.readouts[..] else { panic!("{}: one cell", case["name"]) };
        Answer::Score(Box::new(scores.swap_remove(readout)))
    };
    list(&golden["cases"]).iter().map(answer).collect()
}

/// Number of cases computed. Those left out are named: cases that are refused, and those whose source has another head.
fn check(name: &str, [refusable, headless]: [&[&str]; 2]) -> usize {
    let golden = golden(name);
    let mut computed = 0;
    let (mut refused, mut inexpressible) = (Vec::new(), Vec::new());
    let mut worst = 0.0_f64;
    for (case, answer) in list(&golden["cases"]).iter().zip(answers(&golden)) {
        let at = case["name"].as_str().unwrap();
        match answer {
            Answer::Score(score) => {
                computed += 1;
                let expected = list(&case["logits"]).iter().map(|x| x.as_f64().unwrap());
                let got = score.logits.iter().map(|x| f64::from(*x)).chain([score.log_sum_exp]);
                for (got, expected) in got.zip(expected.chain(case["lse"].as_f64())) {
                    worst = worst.max((got - expected).abs());
                    assert!((got - expected).abs() < 1e-4, "{name} {at}: {got}, expected {expected}");
                }
            }
            Answer::Refused(problems) => {
                refused.push(at);
                assert!(
                    problems.0.iter().all(|p| p.code == code::NOT_SUPPORTED),
                    "{name} {at}: {problems:?}"
                );
            }
            Answer::Inexpressible(Inexpressible::AnotherHead) => inexpressible.push(at),
        }
    }
    eprintln!("{name}: {computed} cases, worst difference {worst:.1e}");
    assert_eq!(refused, refusable, "{name}");
    assert_eq!(inexpressible, headless, "{name}");
    computed
}

#[test]
fn requests_for_every_site_operation_and_source_agree_with_transformers() {
    assert_eq!(check("tiny_sites", [&REFUSED, &ANOTHER_HEAD]), 384);
}

#[test]
fn requests_at_biased_and_normed_projections_agree_with_transformers() {
    assert_eq!(check("tiny_sites_qwen2", [&[], &[]]), 17);
    assert_eq!(check("tiny_sites_qwen3", [&[], &[]]), 72);
}

#[test]
fn requests_of_gpt2_agree_with_transformers_at_every_site_but_those_of_rotations_which_it_has_not() {
    let golden = golden("tiny_sites_gpt2");
    let name = |case: &'_ Value| case["name"].as_str().unwrap().to_owned();
    let rotary = |case: &Value| case.to_string().contains("_rope\"");
    let headless: Vec<&str> = ANOTHER_HEAD.to_vec();
    let refused = list(&golden["cases"]).iter();
    let refused = refused.filter(|case| REFUSED.contains(&name(case).as_str()) || rotary(case));
    let refused: Vec<String> = refused.map(name).collect();
    let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
    let rotary = list(&golden["cases"]).iter().filter(|case| rotary(case)).count();
    assert_eq!(refused.len(), REFUSED.len() + rotary);
    let computed = check("tiny_sites_gpt2", [&refused, &headless]);
    assert_eq!(computed + refused.len() + headless.len(), list(&golden["cases"]).len());
}
