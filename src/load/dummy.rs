//! Dummy models: real shapes, seeded random weights, made when asked for.
//!
//! Every value is a pure function of (seed, tensor name, index), so any slice can be made alone and on any machine: only
//! integer arithmetic, one exact conversion and one rounding.

use std::ops::Range;

use candle_core::{Device, Tensor};
use half::bf16;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{LoadError, Preset, TensorSource};
use crate::kernels::upload::{Content, Made, Piece};
use crate::model::architecture::{GPT2, LLAMA, PositionShape, Role, TensorKind};
use crate::model::config::ModelConfig;
use crate::model::rope::Rope;

/// Part of the fingerprint; changes with the values.
pub(super) const RECIPE: &str = "splitmix64-irwinhall4-v1";

/// Shape of a preset: those of the released checkpoints, but for the tiny ones.
pub fn config(preset: Preset) -> ModelConfig {
    let rope = |theta| LLAMA.block(1e-5, PositionShape::Rope(Rope::plain(theta)));
    let llama3 = ModelConfig {
        family: &LLAMA,
        vocab_size: 128_256,
        hidden_size: 4096,
        intermediate_size: 14_336,
        num_layers: 32,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 128,
        max_positions: 8192,
        sliding_window: None,
        tie_word_embeddings: false,
        block: rope(500_000.0),
    };
    let gpt2 = |vocab_size, hidden_size, num_layers, head_dim| ModelConfig {
        family: &GPT2,
        vocab_size,
        hidden_size,
        intermediate_size: 4 * hidden_size,
        num_layers,
        num_heads: hidden_size / head_dim,
        num_kv_heads: hidden_size / head_dim,
        head_dim,
        max_positions: 1024,
        sliding_window: None,
        tie_word_embeddings: true,
        block: GPT2.block(1e-5, PositionShape::Learned),
    };
    match preset {
        Preset::Llama3_8b => llama3,
        Preset::Llama3_70b => ModelConfig {
            hidden_size: 8192,
            intermediate_size: 28_672,
            num_layers: 80,
            num_heads: 64,
            ..llama3
        },
        Preset::Tiny => ModelConfig {
            vocab_size: 512,
            hidden_size: 64,
            intermediate_size: 160,
            num_layers: 4,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 16,
            max_positions: 2048,
            block: rope(10_000.0),
            ..llama3
        },
        Preset::Gpt2Tiny => gpt2(512, 64, 4, 16),
        Preset::Gpt2 => gpt2(50_257, 768, 12, 64),
        Preset::Gpt2Xl => gpt2(50_257, 1600, 48, 64),
    }
}

/// The values of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// `[out, in]`, or `[width]`.
    pub shape: Vec<usize>,
    /// All of it as one piece.
    made: Made,
}

impl Recipe {
    /// How a tensor of the model is made, `bf16`: rounded to it; `None` if the model has no such tensor.
    ///
    /// Linear layers are scaled by `1 / sqrt(in)`, those that write to the residual stream by another `1 / sqrt(2 layers)`
    /// (GPT-2's initialisation), so that activations keep their size through any depth. Embeddings have unit size and the
    /// unembedding twice the usual one, so that attention and predictions are not uniform; where they are one matrix, it has
    /// the latter's.
    pub fn of(config: &ModelConfig, seed: u64, name: &str, bf16: bool) -> Option<Self> {
        let tensor = config.tensors().into_iter().find(|tensor| tensor.name == name)?;
        let shape = tensor.shape;
        let fan_in = (*shape.last()? as f32).sqrt();
        let (mean, std) = match (tensor.role, tensor.kind) {
            (_, TensorKind::Bias) => (0.0, 0.1),
            (Role::Embedding, _) if !config.tie_word_embeddings => (0.0, 1.0),
            (Role::Embedding | Role::Unembedding, _) => (0.0, 2.0 / fan_in),
            (Role::AttentionNorm | Role::MlpNorm | Role::FinalNorm | Role::QueryNorm | Role::KeyNorm, _) => {
                (1.0, 0.1)
            }
            (Role::AttentionOutput | Role::Down, _) => {
                (0.0, 1.0 / (fan_in * (2.0 * config.num_layers as f32).sqrt()))
            }
            _ => (0.0, 1.0 / fan_in),
        };
        let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
        let key = digest[..8].iter().fold(0, |key, &byte| key << 8 | u64::from(byte));
        let width = shape.get(1).copied().unwrap_or(1);
        Some(Self { shape, made: Made { key, mean, std, bf16, first_row: 0, first_column: 0, width } })
    }

    /// Values of a row-major index range, in parallel.
    pub fn slice(&self, range: Range<usize>) -> Vec<f32> {
        range.into_par_iter().with_min_len(1 << 14).map(|i| self.made.value(i as u64)).collect()
    }

    /// Rows and columns, to be made where they are needed.
    pub fn part(&self, rows: &Range<usize>, columns: &Range<usize>) -> Piece<'static> {
        let made = Made { first_row: rows.start, first_column: columns.start, ..self.made };
        Piece { rows: rows.len(), columns: columns.len(), content: Content::Made(made) }
    }

    /// The whole tensor on the CPU, in bf16 if its values are, otherwise in f32.
    fn tensor(&self) -> candle_core::Result<Tensor> {
        let count: usize = self.shape.iter().product();
        if self.made.bf16 {
            // Rounded value by value: a table of Llama 3 70B would take 4 GB more in f32.
            let values: Vec<bf16> = (0..count)
                .into_par_iter()
                .with_min_len(1 << 14)
                .map(|i| bf16::from_f32(self.made.value(i as u64)))
                .collect();
            return Tensor::from_vec(values, self.shape.as_slice(), &Device::Cpu);
        }
        Tensor::from_vec(self.slice(0..count), self.shape.as_slice(), &Device::Cpu)
    }
}

/// A dummy model's weights.
pub(super) struct DummySource {
    pub(super) config: ModelConfig,
    pub(super) seed: u64,
    /// Whether values are rounded to bf16, as in the checkpoints that the large presets stand for.
    pub(super) bf16: bool,
}

impl DummySource {
    fn recipe(&self, name: &str) -> Result<Recipe, LoadError> {
        Recipe::of(&self.config, self.seed, name, self.bf16).ok_or_else(|| LoadError::MissingTensor {
            name: name.to_owned(),
            expected: Vec::new(),
            file: "the dummy model".to_owned(),
        })
    }
}

impl TensorSource for DummySource {
    fn tensor(&self, name: &str) -> Result<Tensor, LoadError> {
        let tensor = self.recipe(name)?.tensor();
        tensor.map_err(|e| LoadError::Tensor { name: name.to_owned(), why: e.to_string() })
    }

    fn part(&self, name: &str, rows: Range<usize>, columns: Range<usize>) -> Result<Piece<'_>, LoadError> {
        Ok(self.recipe(name)?.part(&rows, &columns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(seed: u64, name: &str) -> Recipe {
        Recipe::of(&config(Preset::Tiny), seed, name, false).unwrap()
    }

    #[test]
    fn a_slice_made_alone_has_the_bits_of_the_whole() {
        let recipe = tiny(3, "model.layers.2.mlp.up_proj.weight");
        let whole = recipe.slice(0..160 * 64);
        assert_eq!(recipe.slice(1000..3000), whole[1000..3000]);
    }

    #[test]
    fn seed_and_name_change_every_value() {
        let base = tiny(0, "model.layers.0.mlp.up_proj.weight").slice(0..1000);
        for other in
            [tiny(1, "model.layers.0.mlp.up_proj.weight"), tiny(0, "model.layers.0.mlp.gate_proj.weight")]
        {
            let same =
                other.slice(0..1000).iter().zip(&base).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
            assert!(same < 5, "{same}");
        }
    }

    #[test]
    fn values_never_change_between_versions_without_a_new_recipe_name() {
        let first: Vec<u32> =
            tiny(0, "model.norm.weight").slice(0..4).into_iter().map(f32::to_bits).collect();
        // Computed by a separate implementation in NumPy.
        assert_eq!(first, [0x3f7c_3bc4, 0x3f85_dd2b, 0x3f8c_f5a8, 0x3f75_1186]);
    }

    #[test]
    fn values_have_the_stated_mean_and_deviation() {
        let recipe =
            Recipe::of(&config(Preset::Llama3_8b), 0, "model.layers.0.self_attn.q_proj.weight", false)
                .unwrap();
        let values = recipe.slice(0..1_000_000);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 1e-4, "{mean}");
        assert!((var.sqrt() * 64.0 - 1.0).abs() < 3e-3, "{}", var.sqrt() * 64.0);
        let fourth = values.iter().map(|&v| (f64::from(v) - mean).powi(4)).sum::<f64>() / n / (var * var);
        assert!((fourth - 2.7).abs() < 0.02, "Irwin-Hall of four has kurtosis 2.7, not {fourth}");
    }

    #[test]
    fn every_tensor_of_the_tiny_model_has_its_shape() {
        for config in [Preset::Gpt2Tiny, Preset::Tiny].map(config) {
            let source = DummySource { config: config.clone(), seed: 0, bf16: false };
            for tensor in config.tensors() {
                assert_eq!(source.tensor(&tensor.name).unwrap().dims(), tensor.shape);
            }
        }
        let source = DummySource { config: config(Preset::Tiny), seed: 0, bf16: false };
        assert!(matches!(
            source.tensor("model.layers.4.input_layernorm.weight"),
            Err(LoadError::MissingTensor { .. })
        ));
    }
}
