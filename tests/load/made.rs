//! Small checkpoints on disk.

#![allow(dead_code, reason = "several binaries of tests share it, and none uses all of it")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use mediant::load::{LoadOptions, ModelRef, expected_tensors, open};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Options that touch nothing outside `dir`.
pub(crate) fn options(dir: &Path) -> LoadOptions {
    let mut options = LoadOptions { cache_dir: dir.join("cache"), ..LoadOptions::default() };
    options.hub.cache_dir = Some(dir.join("hub"));
    options
}

/// `config.json` of the tiny dummy.
pub(crate) fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "hidden_size": 64,
        "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048, "hidden_act": "silu",
    })
}

/// All tensors of the tiny dummy.
pub(crate) fn tensors() -> HashMap<String, Tensor> {
    let dummy = open(&"dummy:tiny".parse::<ModelRef>().unwrap(), &LoadOptions::default()).unwrap();
    let names = expected_tensors(&dummy.config).into_iter().map(|(name, _)| name);
    names.map(|name| (name.clone(), dummy.tensors.tensor(&name).unwrap())).collect()
}

/// A byte-level `tokenizer.json` without merges.
pub(crate) fn tokenizer() -> String {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab = alphabet.iter().zip(0u32..).map(|(c, id)| (c.to_string(), id));
    let bpe = BPE::builder()
        .vocab_and_merges(vocab.collect::<tokenizers::models::bpe::Vocab>(), vec![])
        .build()
        .unwrap();
    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.to_string(false).unwrap()
}

/// Writes a checkpoint; `shards`: in how many files.
pub(crate) fn write(folder: &Path, config: &Value, tensors: &HashMap<String, Tensor>, shards: usize) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer()).unwrap();
    if shards == 1 {
        candle_core::safetensors::save(tensors, folder.join("model.safetensors")).unwrap();
        return;
    }
    let mut names: Vec<_> = tensors.keys().cloned().collect();
    names.sort();
    let mut map = serde_json::Map::new();
    for shard in 0..shards {
        let file = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let here = names.iter().skip(shard).step_by(shards);
        let part: HashMap<_, _> = here.map(|n| (n.clone(), tensors[n].clone())).collect();
        candle_core::safetensors::save(&part, folder.join(&file)).unwrap();
        map.extend(part.into_keys().map(|name| (name, file.clone().into())));
    }
    let index = json!({"metadata": {}, "weight_map": map});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// Bits of a tensor, whatever its dtype (f32, bf16, f16 all fit f32).
pub(crate) fn bits(tensor: &Tensor) -> Vec<u32> {
    let wide = tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap();
    wide.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
