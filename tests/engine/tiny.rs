//! Small models whose weights both sides compute by the formula of `tests/python/reference.py`.

use candle_core::{Device, Tensor};
use mediant::kernels::Kernels;
use mediant::kernels::cpu::{Cpu, Dtype};
use mediant::model::config::{Llama3Scaling, ModelConfig, Rope};
use mediant::model::decoder::Decoder;
use mediant::model::weights::load_cpu;
use mediant::plan::output::EditStats;
use mediant::plan::pack::{Mode, Packing};
use mediant::plan::{Plan, Score};
use serde_json::Value;

pub(crate) use crate::uniform::uniform;

/// A tensor of the tiny models.
pub(crate) fn weight(name: &str, shape: &[usize]) -> Tensor {
    let scale: fn(f32) -> f32 = if name == "model.embed_tokens.weight" {
        |u| u
    } else if name.ends_with("norm.weight") {
        |u| 1.0 + u / 4.0
    } else if name.rsplit('.').next() == Some("bias") || name == "lm_head.weight" {
        |u| u / 2.0
    } else {
        |u| u / 4.0
    };
    let numbers: Vec<f32> = uniform(name, shape.iter().product()).into_iter().map(scale).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// The configuration and the shapes of all tensors, as a golden file states them.
pub(crate) fn config(golden: &Value) -> ModelConfig {
    let c = &golden["config"];
    let size = |key: &str| c[key].as_u64().unwrap() as usize;
    let theta = c["rope_theta"].as_f64().or(c["rope_parameters"]["rope_theta"].as_f64()).unwrap();
    let scaling = &c["rope_scaling"];
    let model_type = c["model_type"].as_str().unwrap();
    ModelConfig {
        architecture: model_type.into(),
        vocab_size: size("vocab_size"),
        hidden_size: size("hidden_size"),
        intermediate_size: size("intermediate_size"),
        num_layers: size("num_hidden_layers"),
        num_heads: size("num_attention_heads"),
        num_kv_heads: size("num_key_value_heads"),
        head_dim: size("head_dim"),
        rms_norm_eps: c["rms_norm_eps"].as_f64().unwrap(),
        rope: Rope {
            theta,
            llama3: scaling["factor"].as_f64().map(|factor| Llama3Scaling {
                factor,
                low_freq_factor: scaling["low_freq_factor"].as_f64().unwrap(),
                high_freq_factor: scaling["high_freq_factor"].as_f64().unwrap(),
                original_max_positions: scaling["original_max_position_embeddings"].as_u64().unwrap()
                    as usize,
            }),
        },
        max_positions: size("max_position_embeddings"),
        sliding_window: None,
        tie_word_embeddings: c["tie_word_embeddings"].as_bool().unwrap(),
        qkv_bias: model_type == "qwen2",
        qk_norm: model_type == "qwen3",
    }
}

/// Reads a golden file.
pub(crate) fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A decoder for a golden's family.
pub(crate) fn decoder(golden: &Value, threads: usize, dtype: Dtype) -> (Decoder<Cpu>, ModelConfig) {
    let config = config(golden);
    let shapes: std::collections::HashMap<&str, Vec<usize>> = golden["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| {
            let shape = t["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            (t["name"].as_str().unwrap(), shape)
        })
        .collect();
    let cpu = Cpu::new(threads, dtype).unwrap();
    let tensor = |name: &str| Ok::<_, candle_core::Error>(weight(name, &shapes[name]));
    let weights = load_cpu(&cpu, &config, tensor, |_| ()).unwrap();
    (Decoder::new(cpu, &config, weights), config)
}

/// The llama family's decoder in f32.
pub(crate) fn llama() -> (Decoder<Cpu>, u32) {
    let (decoder, config) = decoder(&golden("tiny_llama"), 2, Dtype::F32);
    (decoder, config.num_layers as u32)
}

/// Results of a plan.
pub(crate) struct Outcome {
    pub(crate) scores: Vec<Score>,
    pub(crate) captures: Vec<Vec<f32>>,
    pub(crate) written: [EditStats; 3],
    pub(crate) row_layers: u64,
}

/// Computes a plan on this thread.
pub(crate) fn run<K: Kernels>(
    decoder: &mut Decoder<K>,
    layers: u32,
    plan: &Plan,
    budget: usize,
    mode: Mode,
) -> Outcome {
    let packing = Packing::new(plan, layers, budget, mode).unwrap();
    let mut scores = vec![None; plan.readouts.len()];
    let mut outcome = Outcome {
        scores: Vec::new(),
        captures: vec![Vec::new(); plan.captures.len()],
        written: [EditStats::default(); 3],
        row_layers: 0,
    };
    for index in 0..packing.len() {
        let chunk = packing.chunk(index);
        assert!(chunk.batch.peak_rows <= budget);
        let output = decoder.forward(&chunk.batch);
        for (readout, row) in chunk.readouts {
            assert!(scores[readout].replace(output.scores[row].clone()).is_none());
        }
        for (capture, numbers) in output.captures {
            outcome.captures[capture] = numbers;
        }
        for (total, written) in outcome.written.iter_mut().zip(output.written) {
            *total = total.and(written);
        }
        outcome.row_layers += chunk.batch.row_layers;
    }
    outcome.scores = scores.into_iter().map(Option::unwrap).collect();
    outcome
}
