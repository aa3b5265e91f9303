//! Checkpoint folders: whole ones open with the bits that were written, broken ones say what is broken.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use mediant::load::{Checkpoint, LoadError, ModelRef, open};
use serde_json::json;

use crate::made;

fn opened(dir: &Path) -> Result<Checkpoint, LoadError> {
    open(&ModelRef::Folder(dir.join("model")), &made::options(dir))
}

#[test]
fn one_file_and_shards_give_the_bits_that_were_written() {
    let tensors = made::tensors();
    for shards in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        made::write(&dir.path().join("model"), &made::config(), &tensors, shards);
        let checkpoint = opened(dir.path()).unwrap();
        assert_eq!((checkpoint.name.as_str(), checkpoint.config.num_kv_heads), ("model", 2));
        for (name, tensor) in &tensors {
            let read = checkpoint.tensors.tensor(name).unwrap();
            assert_eq!((read.dims(), made::bits(&read)), (tensor.dims(), made::bits(tensor)), "{name}");
        }
        let again = opened(dir.path()).unwrap();
        assert_eq!(again.fingerprint, checkpoint.fingerprint);
        assert_eq!(checkpoint.fingerprint.weights_sha256.len(), 64);
    }
}

#[test]
fn sixteen_bit_weights_stay_sixteen_bit() {
    for dtype in [DType::BF16, DType::F16] {
        let dir = tempfile::tempdir().unwrap();
        let narrow = made::tensors().into_iter().map(|(n, t)| (n, t.to_dtype(dtype).unwrap())).collect();
        made::write(&dir.path().join("model"), &made::config(), &narrow, 1);
        let read = opened(dir.path()).unwrap().tensors.tensor("model.norm.weight").unwrap();
        assert_eq!((read.dtype(), made::bits(&read)), (dtype, made::bits(&narrow["model.norm.weight"])));
    }
}

#[test]
fn the_fingerprint_changes_with_one_bit_of_a_weight_and_with_the_tokenizers_policy() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    made::write(&folder, &made::config(), &made::tensors(), 1);
    let before = opened(dir.path()).unwrap().fingerprint;
    let file = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let after = opened(dir.path()).unwrap().fingerprint;
    assert_ne!(before.weights_sha256, after.weights_sha256);
    assert_eq!(before.tokenizer_sha256, after.tokenizer_sha256);
    std::fs::write(folder.join("tokenizer_config.json"), r#"{"add_bos_token": false}"#).unwrap();
    assert_ne!(opened(dir.path()).unwrap().fingerprint.tokenizer_sha256, after.tokenizer_sha256);
}

#[test]
fn broken_checkpoints_name_the_tensor_and_both_shapes() {
    const Q: &str = "model.layers.2.self_attn.q_proj.weight";
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let fault = |change: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let dir = tempfile::tempdir().unwrap();
        let mut tensors = made::tensors();
        change(&mut tensors);
        made::write(&dir.path().join("model"), &made::config(), &tensors, 1);
        opened(dir.path()).unwrap_err().to_string()
    };
    let missing = fault(&|t| drop(t.remove(Q)));
    assert!(missing.contains(&format!("tensor {Q} of shape [64, 64] is not in")), "{missing}");
    let shape = fault(&|t| drop(t.insert(Q.into(), zeros(&[64, 32], DType::F32))));
    assert_eq!(shape, format!("tensor {Q} has shape [64, 32], but the configuration asks for [64, 64]"));
    let dtype = fault(&|t| drop(t.insert(Q.into(), zeros(&[64, 64], DType::U8))));
    assert!(dtype.contains(&format!("tensor {Q} has dtype U8; understood are F32, F16, BF16")), "{dtype}");
    let unused = fault(&|t| drop(t.insert(Q.replace("weight", "bias"), zeros(&[64], DType::F32))));
    assert!(
        unused.contains("q_proj.bias that a llama model with this configuration does not use"),
        "{unused}"
    );
    let head = fault(&|t| drop(t.remove("lm_head.weight")));
    assert!(head.contains("tensor lm_head.weight of shape [512, 64] is not in"), "{head}");
}

#[test]
fn tied_embeddings_need_no_unembedding() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = made::config();
    config["tie_word_embeddings"] = json!(true);
    let mut tensors = made::tensors();
    tensors.remove("lm_head.weight");
    made::write(&dir.path().join("model"), &config, &tensors, 2);
    let checkpoint = opened(dir.path()).unwrap();
    assert!(checkpoint.config.tie_word_embeddings);
    assert!(matches!(checkpoint.tensors.tensor("lm_head.weight"), Err(LoadError::MissingTensor { .. })));
}

#[test]
fn folders_that_are_no_checkpoint_say_what_they_lack() {
    let fault = |prepare: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        made::write(&folder, &made::config(), &made::tensors(), 2);
        prepare(&folder);
        opened(dir.path()).unwrap_err().to_string()
    };
    let remove = |folder: &Path, name: &str| std::fs::remove_file(folder.join(name)).unwrap();
    assert!(fault(&|f| std::fs::remove_dir_all(f).unwrap()).contains("there is no such folder"));
    assert!(fault(&|f| remove(f, "config.json")).contains("it has no config.json"));
    let gguf = fault(&|f| {
        remove(f, "config.json");
        std::fs::write(f.join("m.gguf"), "").unwrap();
    });
    assert!(gguf.contains("m.gguf: give that path"), "{gguf}");
    assert!(fault(&|f| remove(f, "tokenizer.json")).contains("tokenizer.json"));
    assert!(fault(&|f| remove(f, "model-00002-of-00002.safetensors")).contains("model-00002-of-00002"));
    assert!(fault(&|f| remove(f, "model.safetensors.index.json")).contains("neither model.safetensors nor"));
    let outside = r#"{"weight_map": {"a": "../secret.safetensors"}}"#;
    let outside = fault(&|f| std::fs::write(f.join("model.safetensors.index.json"), outside).unwrap());
    assert!(outside.contains("which is no file name"), "{outside}");
    let cut = fault(&|f| std::fs::write(f.join("model-00001-of-00002.safetensors"), "cut").unwrap());
    assert!(cut.contains("damaged"), "{cut}");
    let small = fault(&|f| {
        let mut config = made::config();
        config["vocab_size"] = json!(100);
        std::fs::write(f.join("config.json"), config.to_string()).unwrap();
    });
    assert!(small.contains("[512, 64]") && small.contains("[100, 64]"), "{small}");
}
