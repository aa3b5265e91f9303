//! Random requests, and the logits that an independent forward in PyTorch gives them (`tests/python/fuzz.py`).

use mediant::kernels::cpu::Dtype;
use mediant::lower;
use mediant::plan::Score;
use mediant::plan::pack::Mode;
use mediant::spec::patch::Control;
use serde_json::Value;

use crate::facts::TinyFacts;
use crate::site_cases::{indices, list};
use crate::tiny::{config, golden, ranks, run};

/// Of `1 + |logit|`.
const TOLERANCE: f64 = 2e-5;

/// Scores of the cells of a request, of its self-patches and of its base.
struct Answer {
    cells: Vec<Score>,
    itself: Vec<Score>,
    base: Score,
}

fn answer(body: &Value, model: &Value, world: usize, mode: Mode) -> Answer {
    let (mut model, config) = ranks(model, world, Dtype::F32);
    let (facts, layers) = (TinyFacts::new(&config), config.num_layers as u32);
    let lowered = lower::lower::<mediant::spec::patch::PatchSpec>(body, &facts)
        .unwrap_or_else(|problems| panic!("{problems:#?}\n{body}"));
    let (mut plan, layout) = (lowered.plan, lowered.layout);
    if let Some(first) = &lowered.prelude {
        plan.fill(&run(&mut model, layers, first, 100_000, mode).captures);
    }
    let scores = run(&mut model, layers, &plan, 100_000, mode).scores;
    let of = |readouts: &[usize]| readouts.iter().map(|readout| scores[*readout].clone()).collect();
    Answer {
        cells: of(&layout.arm().grid.readouts),
        itself: of(layout.arm().grid.control(Control::SelfPatch)),
        base: scores[layout.arm().base[0]].clone(),
    }
}

/// Whether two scores are the same bits, whatever was written.
fn same(a: &Score, b: &Score) -> bool {
    (&a.logits, a.log_sum_exp) == (&b.logits, b.log_sum_exp)
}

#[test]
fn random_requests_agree_with_an_independent_forward() {
    check("fuzz");
}

#[test]
fn what_heads_of_other_layers_wrote_comes_without_their_layers_bias() {
    check("head_out_gpt2");
}

fn check(name: &str) {
    let golden = golden(name);
    let models = list(&golden["models"]);
    let mut worst = (0.0_f64, 0);
    for (i, case) in list(&golden["cases"]).iter().enumerate() {
        let model = &serde_json::json!({"config": models[case["model"].as_u64().unwrap() as usize]});
        let body = &case["body"];
        let whole = answer(body, model, 1, Mode::Branching);
        assert_eq!(whole.cells.len(), list(&case["logits"]).len(), "request {i}");
        for ((got, logits), lse) in whole.cells.iter().zip(list(&case["logits"])).zip(list(&case["lse"])) {
            let got = got.logits.iter().map(|x| f64::from(*x)).chain([got.log_sum_exp]);
            for (got, expected) in got.zip(list(logits).iter().chain([lse])) {
                let expected = expected.as_f64().unwrap();
                let off = (got - expected).abs() / (1.0 + expected.abs());
                worst = if off > worst.0 { (off, i) } else { worst };
                assert!(off < TOLERANCE, "request {i}: {got}, expected {expected}\n{body}");
            }
        }
        assert!(whole.itself.iter().all(|score| same(score, &whole.base)), "request {i}: {body}");
        let full = answer(body, model, 1, Mode::FullRecompute);
        assert!(whole.cells.iter().zip(&full.cells).all(|(a, b)| same(a, b)), "request {i}: {body}");
        if !config(model).num_heads.is_multiple_of(2) {
            continue;
        }
        let ranks = answer(body, model, 2, Mode::Branching);
        assert!(ranks.itself.iter().all(|score| same(score, &ranks.base)), "request {i}: {body}");
        for (one, two) in whole.cells.iter().zip(&ranks.cells) {
            let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4 * (1.0 + a.abs());
            assert!(one.logits.iter().zip(&two.logits).all(near), "request {i}: {body}");
        }
    }
    eprintln!("worst difference {:.1e} of 1 + |logit| (request {})", worst.0, worst.1);
    assert_eq!(indices(&golden["targets"]).len(), list(&list(&golden["cases"])[0]["logits"][0]).len());
}
