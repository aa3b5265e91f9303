//! Model folders: a tiny Llama whose files are right, one of which is then the fuzzer's.

use std::fs;
use std::path::Path;

use mediant::load::{
    Checkpoint, LoadError, LoadOptions, ModelRef, check_fits, expected_tensors, open, required_bytes,
};
use mediant::model::architecture::Family;
use mediant::model::config::ModelConfig;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Bytes of weights that are read to the end.
const MOST_WEIGHTS: u64 = 64 << 20;

/// A folder with all files.
pub(crate) fn whole(vocabulary: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let stated = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": 2,
        "intermediate_size": 3, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "head_dim": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    let family = Family::named("llama").unwrap();
    let config = family.config(stated.as_object().unwrap()).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    put("config.json", stated.to_string().as_bytes());
    put("model.safetensors", &weights(&config));
    put("tokenizer.json", TOKENIZER.as_bytes());
    folder
}

/// Four words and their letters.
const TOKENIZER: &str = r#"{"version":"1.0","added_tokens":[{"id":0,"content":"<s>","special":true,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false}],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"<s>":0,"a":1,"b":2,"ab":3,"Ġ":4,"Ġa":5},"merges":["a b","Ġ a"]}}"#;

/// The tensors of a configuration, all zero, as a file.
fn weights(config: &ModelConfig) -> Vec<u8> {
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in expected_tensors(config) {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + at, 0);
    file
}

/// Opens a model as the server does. Digests are not remembered: every input is another file.
pub(crate) fn opened(reference: ModelRef) -> Result<Checkpoint, LoadError> {
    let options = LoadOptions {
        cache_dir: Path::new("/dev/null/none").into(),
        offline: true,
        ..LoadOptions::default()
    };
    open(&reference, &options)
}

/// Reads all weights, piece by piece, as an engine does once it knows that they fit.
pub(crate) fn loaded(checkpoint: &Checkpoint) {
    let needed = required_bytes(&checkpoint.config, 4);
    if check_fits(needed).is_err() || needed > MOST_WEIGHTS {
        return;
    }
    for (name, shape) in expected_tensors(&checkpoint.config) {
        let (rows, columns) = (shape[0], shape.get(1).copied().unwrap_or(1));
        if let Ok(piece) = checkpoint.tensors.part(&name, 0..rows, 0..columns) {
            assert_eq!(piece.to_f32().len(), rows * columns, "{name}");
        }
        let _ = checkpoint.tensors.part(&name, rows / 2..rows, columns / 2..columns);
    }
}
