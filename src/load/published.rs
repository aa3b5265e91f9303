//! What clients of a model hub read of a checkpoint: its configuration and its tokenizer, never weights.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{LoadError, file};
use crate::model::config::ModelConfig;
use crate::model::rope::RopeScaling;
use crate::tokens::Tokenizer;

/// Names of files that are given out where a checkpoint has them.
const NAMES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];
/// Bytes of one of them, at most.
const MOST: u64 = 512 << 20;

/// What a checkpoint's files say that is no weight.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Files as they are, by name. None where the checkpoint has none of its own: they are made of what is known.
    files: BTreeMap<&'static str, Arc<[u8]>>,
    /// The token that ends a text, where the metadata names one and no file does.
    eos: Option<u32>,
}

impl Published {
    /// Of a folder in the format of `transformers`.
    pub(super) fn of_folder(folder: &Path) -> Result<Self, LoadError> {
        let there =
            NAMES.into_iter().map(|name| (name, folder.join(name))).filter(|(_, path)| file::is_there(path));
        let read = there.map(|(name, path)| Ok((name, file::read_whole(&path, MOST)?.into())));
        Ok(Self { files: read.collect::<Result<_, LoadError>>()?, eos: None })
    }

    /// Of a checkpoint without such files.
    pub(super) fn made(eos: Option<u32>) -> Self {
        Self { files: BTreeMap::new(), eos }
    }

    /// The files by name, with those that are made.
    pub fn files(&self, config: &ModelConfig, tokenizer: &Tokenizer) -> BTreeMap<&'static str, Arc<[u8]>> {
        if !self.files.is_empty() {
            return self.files.clone();
        }
        let bos = tokenizer.bos().0;
        let text = |value: &Value| Arc::from(format!("{value:#}\n").into_bytes());
        let mut made = BTreeMap::from([
            ("config.json", text(&written(config, bos, self.eos))),
            ("generation_config.json", text(&json!({"bos_token_id": bos, "eos_token_id": self.eos}))),
        ]);
        match tokenizer.written(self.eos) {
            Ok([tokenizer, policy]) => {
                made.extend([("tokenizer.json", tokenizer.into()), ("tokenizer_config.json", policy.into())]);
            }
            Err(error) => tracing::warn!("the model's tokenizer is not given out: {error}"),
        }
        made
    }
}

/// A `config.json` that says what a configuration does.
fn written(config: &ModelConfig, bos: Option<u32>, eos: Option<u32>) -> Value {
    let family = config.family;
    let mut map = Map::new();
    let class = match family.name {
        "gpt2" => "GPT2".to_owned(),
        name => format!("{}{}", name[..1].to_uppercase(), &name[1..]),
    };
    let mut say = |key: &'static str, value: Value| {
        map.insert(family.key(key).to_owned(), value);
    };
    say("architectures", json!([format!("{class}{}", family.class)]));
    say("model_type", json!(family.name));
    say("vocab_size", json!(config.vocab_size));
    say("hidden_size", json!(config.hidden_size));
    say("intermediate_size", json!(config.intermediate_size));
    say("num_hidden_layers", json!(config.num_layers));
    say("num_attention_heads", json!(config.num_heads));
    say("max_position_embeddings", json!(config.max_positions));
    say("rms_norm_eps", json!(config.block.norm.eps));
    say("tie_word_embeddings", json!(config.tie_word_embeddings));
    say("bos_token_id", json!(bos));
    say("eos_token_id", json!(eos));
    if let Some(rope) = config.rope() {
        say("num_key_value_heads", json!(config.num_kv_heads));
        say("head_dim", json!(config.head_dim));
        say("hidden_act", json!("silu"));
        say("rope_theta", json!(rope.theta));
        say("sliding_window", json!(config.sliding_window));
        if config.sliding_window.is_some() {
            say("use_sliding_window", json!(true));
        }
        if let Some(scaling) = &rope.scaling {
            say("rope_scaling", scaled(scaling));
        }
        // The longest sequence is the stated one times the factor, but for scalings that state the one before.
        if let Some(RopeScaling::Linear(linear)) = &rope.scaling
            && linear.factor > 1.0
        {
            say(
                "max_position_embeddings",
                json!((config.max_positions as f64 / linear.factor).round() as usize),
            );
        }
        if let Some(RopeScaling::Dynamic(dynamic)) = &rope.scaling {
            say("max_position_embeddings", json!(dynamic.original_max_positions));
        }
    } else {
        say("activation_function", json!("gelu_new"));
    }
    Value::Object(map)
}

fn scaled(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::Llama3(s) => json!({
            "rope_type": "llama3",
            "factor": s.factor,
            "low_freq_factor": s.low_freq_factor,
            "high_freq_factor": s.high_freq_factor,
            "original_max_position_embeddings": s.original_max_positions,
        }),
        RopeScaling::Linear(s) => json!({"rope_type": "linear", "factor": s.factor}),
        RopeScaling::Dynamic(s) => json!({"rope_type": "dynamic", "factor": s.factor}),
        RopeScaling::Yarn(s) => json!({
            "rope_type": "yarn",
            "factor": s.factor,
            "original_max_position_embeddings": s.original_max_positions,
            "attention_factor": s.attention_factor,
            "beta_fast": s.beta_fast,
            "beta_slow": s.beta_slow,
            "truncate": s.truncate,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Preset, config_json, dummy};
    use crate::model::architecture::{Family, PositionShape};
    use crate::model::rope::{DynamicScaling, LinearScaling, Llama3Scaling, Rope, YarnScaling};

    fn same_when_read(config: &ModelConfig) {
        let text = written(config, Some(1), None).to_string();
        let read = config_json::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(read, *config, "{text}");
    }

    #[test]
    fn a_configuration_that_is_written_is_read_as_itself() {
        for preset in [Preset::Tiny, Preset::Llama3_70b, Preset::Gpt2Tiny, Preset::Gpt2Xl] {
            same_when_read(&dummy::config(preset));
        }
        let tiny = dummy::config(Preset::Tiny);
        let scalings = [
            RopeScaling::Llama3(Llama3Scaling {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 512,
            }),
            RopeScaling::Linear(LinearScaling { factor: 4.0 }),
            RopeScaling::Dynamic(DynamicScaling { factor: 2.0, original_max_positions: 1024 }),
            RopeScaling::Yarn(YarnScaling {
                factor: 4.0,
                original_max_positions: 512,
                attention_factor: 1.25,
                beta_fast: 30.0,
                beta_slow: 2.0,
                truncate: false,
            }),
        ];
        for name in ["llama", "mistral", "qwen2", "qwen3"] {
            let family = Family::named(name).unwrap();
            for scaling in scalings.into_iter().map(Some).chain([None]) {
                let rope = Rope { theta: 12_345.5, scaling };
                let windows = if name == "llama" { &[None][..] } else { &[None, Some(77)] };
                for &sliding_window in windows {
                    let block = family.block(1e-6, PositionShape::Rope(rope));
                    same_when_read(&ModelConfig {
                        family,
                        block,
                        sliding_window,
                        head_dim: 24,
                        ..tiny.clone()
                    });
                }
            }
        }
    }
}
