//! Logits against another implementation in the same language: candle-transformers' Llama.

use std::collections::HashMap;

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_transformers::models::llama::{Cache, Config, Llama, Llama3RopeConfig, Llama3RopeType};
use mediant::kernels::cpu::Dtype;
use mediant::model::config::ModelConfig;
use mediant::model::rope::RopeScaling;
use mediant::plan::Plan;
use mediant::plan::pack::Mode;

use crate::tiny::{decoder, golden, numbers, run};

/// Candle's model of the same weights, without a key cache.
fn oracle(family: &str, config: &ModelConfig) -> (Llama, Cache) {
    let golden = golden(family);
    let tensors: HashMap<String, Tensor> = golden["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| {
            let name = tensor["name"].as_str().unwrap();
            let shape: Vec<usize> =
                tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            (name.to_owned(), Tensor::from_vec(numbers(name, &shape), shape, &Device::Cpu).unwrap())
        })
        .collect();
    let rope = config.rope().unwrap();
    let rope_scaling = rope.scaling.map(|scaling| {
        let RopeScaling::Llama3(scaling) = scaling else { panic!("candle knows Llama 3's alone") };
        Llama3RopeConfig {
            factor: scaling.factor as f32,
            low_freq_factor: scaling.low_freq_factor as f32,
            high_freq_factor: scaling.high_freq_factor as f32,
            original_max_position_embeddings: scaling.original_max_positions,
            rope_type: Llama3RopeType::Llama3,
        }
    });
    let theirs = Config {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        vocab_size: config.vocab_size,
        num_hidden_layers: config.num_layers,
        num_attention_heads: config.num_heads,
        num_key_value_heads: config.num_kv_heads,
        use_flash_attn: false,
        rms_norm_eps: config.block.norm.eps,
        rope_theta: rope.theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling,
        max_position_embeddings: config.max_positions,
        tie_word_embeddings: config.tie_word_embeddings,
    };
    let cache = Cache::new(false, DType::F32, &theirs, &Device::Cpu).unwrap();
    let builder = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    (Llama::load(builder, &theirs).unwrap(), cache)
}

fn check(family: &str) {
    let (mut ours, config) = decoder(&golden(family), 2, Dtype::F32);
    assert_eq!(config.head_dim * config.num_heads, config.hidden_size, "candle derives the width of heads");
    let (theirs, mut cache) = oracle(family, &config);
    let layers = config.num_layers as u32;
    let vocabulary = config.vocab_size as u32;
    let lengths = [1_usize, 2, 5, 16, config.max_positions.min(33)];
    let prompts: Vec<Vec<u32>> = lengths
        .iter()
        .map(|length| (0..*length as u32).map(|i| (i * 7919 + *length as u32) % vocabulary).collect())
        .collect();
    // All prompts in one batch, read at their first and last positions.
    let mut plan = Plan::default();
    plan.scoring.targets = (0..vocabulary).collect();
    let mut reads = Vec::new();
    for (i, tokens) in prompts.iter().enumerate() {
        let root = plan.root(tokens.clone().into());
        for position in [0, tokens.len() / 2, tokens.len() - 1] {
            plan.read(root, position as u32);
            reads.push((i, position));
        }
    }
    let scores = run(&mut ours, layers, &plan, 1000, Mode::Branching).scores;
    let mut worst = 0.0_f32;
    for (score, (prompt, position)) in scores.iter().zip(reads) {
        // Causal: a prompt cut after a position predicts there what the whole does.
        let tokens = Tensor::new(&prompts[prompt][..=position], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = theirs.forward(&tokens, 0, &mut cache).unwrap();
        let logits: Vec<f32> = logits.i(0).unwrap().to_vec1().unwrap();
        assert_eq!(logits.len(), score.logits.len());
        for (got, expected) in score.logits.iter().zip(&logits) {
            worst = worst.max((got - expected).abs());
        }
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
        assert!((score.log_sum_exp - (f64::from(largest) + sum.ln())).abs() < 1e-4);
    }
    assert!(worst < 1e-4, "{family}: {worst}");
    eprintln!("{family}: {} readouts of {vocabulary} logits, worst difference {worst:.1e}", scores.len());
}

#[test]
fn llama_agrees_with_candles_own_llama() {
    check("tiny_llama");
}

#[test]
fn llama_3_agrees_with_candles_own_llama() {
    check("tiny_llama3");
}
