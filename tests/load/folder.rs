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
fn a_head_that_is_not_the_embedding_is_used_whatever_the_configuration_says_of_ties() {
    let mut config = made::config();
    config["tie_word_embeddings"] = json!(true);
    let open = |tensors: &std::collections::HashMap<String, Tensor>| {
        let dir = tempfile::tempdir().unwrap();
        made::write(&dir.path().join("model"), &config, tensors, 2);
        let checkpoint = opened(dir.path()).unwrap();
        (dir, checkpoint)
    };
    let tensors = made::tensors();
    let (_dir, own) = open(&tensors);
    assert!(!own.config.tie_word_embeddings);
    let head = own.tensors.tensor("lm_head.weight").unwrap();
    assert_eq!(made::bits(&head), made::bits(&tensors["lm_head.weight"]));
    assert!(own.warnings[0].contains("lm_head.weight is there and differs"), "{:?}", own.warnings);
    // The same numbers twice are one matrix.
    let mut same = tensors.clone();
    same.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    let (_dir, twice) = open(&same);
    assert!(twice.config.tie_word_embeddings && twice.warnings.is_empty());
    // Stored under the other name, it is both as well.
    let mut head_alone = same.clone();
    head_alone.remove("model.embed_tokens.weight");
    let (_dir, other) = open(&head_alone);
    assert!(other.config.tie_word_embeddings && other.warnings.is_empty());
    let embedding = other.tensors.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(made::bits(&embedding), made::bits(&tensors["model.embed_tokens.weight"]));
}

#[test]
fn of_two_sets_of_weights_the_one_that_transformers_reads_is_read_and_this_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    let tensors = made::tensors();
    let older = tensors.iter().map(|(n, t)| (n.clone(), t.affine(1.0, 0.5).unwrap())).collect();
    made::write(&folder, &made::config(), &older, 2);
    made::write(&folder, &made::config(), &tensors, 1);
    let checkpoint = opened(dir.path()).unwrap();
    let read = checkpoint.tensors.tensor("model.norm.weight").unwrap();
    assert_eq!(made::bits(&read), made::bits(&tensors["model.norm.weight"]));
    let [warning] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
    assert!(warning.contains("model.safetensors is read") && warning.contains("index.json"), "{warning}");
    // An index that names just this file says the same.
    let index = json!({"weight_map": {"model.norm.weight": "model.safetensors"}});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(opened(dir.path()).unwrap().warnings.is_empty());
}

#[test]
fn stored_frequencies_that_are_not_the_configurations_are_warned_of() {
    let with = |factor: f32| {
        let dir = tempfile::tempdir().unwrap();
        let mut tensors = made::tensors();
        let frequencies: Vec<f32> = (0..8).map(|i| 10_000_f32.powf(-i as f32 / 8.0) * factor).collect();
        for layer in 0..4 {
            let tensor =
                Tensor::new(frequencies.as_slice(), &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
            tensors.insert(format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq"), tensor);
        }
        made::write(&dir.path().join("model"), &made::config(), &tensors, 1);
        opened(dir.path()).unwrap().warnings
    };
    assert!(with(1.0).is_empty());
    assert!(with(0.25)[0].contains("layers.0.self_attn.rotary_emb.inv_freq is not what config.json says"));
}

#[test]
fn a_tensor_in_two_files_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    made::write(&folder, &made::config(), &made::tensors(), 2);
    let one = std::collections::HashMap::from([(
        "model.norm.weight".to_owned(),
        made::tensors()["model.norm.weight"].clone(),
    )]);
    candle_core::safetensors::save(&one, folder.join("more.safetensors")).unwrap();
    let path = folder.join("model.safetensors.index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    index["weight_map"]["model.norm.weight"] = json!("more.safetensors");
    std::fs::write(&path, index.to_string()).unwrap();
    let error = opened(dir.path()).unwrap_err().to_string();
    assert!(error.contains("model.norm.weight is also in"), "{error}");
}

#[test]
fn a_token_beyond_the_embedding_shuts_out_the_prompts_that_have_it_and_not_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    let write = |change: &dyn Fn(&mut serde_json::Value)| {
        made::write(&folder, &made::config(), &made::tensors(), 1);
        let mut tokenizer: serde_json::Value = serde_json::from_str(&made::tokenizer()).unwrap();
        for id in 256..512 {
            tokenizer["model"]["vocab"][format!("<{id}>")] = json!(id);
        }
        change(&mut tokenizer);
        std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        opened(dir.path())
    };
    let pad = json!({"id": 512, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false,
                     "normalized": false, "special": true});
    let added = write(&|t| t["added_tokens"] = json!([pad])).unwrap();
    assert!(added.warnings[0].contains("\"[PAD]\" (512)"), "{:?}", added.warnings);
    let tokenizer = &added.tokenizer;
    assert_eq!(tokenizer.encode("a b", None).unwrap().ids.len(), 3);
    let message = "token \"[PAD]\" (512) has no embedding: the model has 512";
    assert_eq!(tokenizer.encode("a[PAD]", None).unwrap_err().to_string(), message);
    assert_eq!(tokenizer.continuation("", "[PAD]").unwrap_err().to_string(), message);
    assert!(tokenizer.describe(&[3, 512]).unwrap_err().to_string().contains("outside the vocabulary of 512"));
    assert_eq!(tokenizer.text(512), "[PAD]");
    // A vocabulary that is not the model's is no such thing.
    let own = write(&|t| t["model"]["vocab"]["much"] = json!(512)).unwrap_err().to_string();
    assert!(own.contains("has 513 ids but the model only 512 embeddings"), "{own}");
}

#[test]
fn a_model_is_called_by_the_name_that_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let blob = dir.path().join("blobs/5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8");
    made::write(&blob, &made::config(), &made::tensors(), 1);
    let name =
        |path: &Path| open(&ModelRef::Folder(path.to_owned()), &made::options(dir.path())).unwrap().name;
    let link = dir.path().join("tiny-llama");
    std::os::unix::fs::symlink(&blob, &link).unwrap();
    assert_eq!(name(&link), "tiny-llama");
    assert_eq!(name(&link.join(".")), "tiny-llama");
    assert_eq!(name(&blob.join("../../tiny-llama/")), "tiny-llama");
    let snapshot = dir.path().join("models--org--tiny--x/snapshots/abc123");
    std::fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&blob, &snapshot).unwrap();
    assert_eq!(name(&snapshot), "org/tiny--x");
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

#[test]
fn further_chat_templates_have_the_names_of_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    made::write(&folder, &made::config(), &made::tensors(), 1);
    std::fs::write(folder.join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let before = opened(dir.path()).unwrap();
    assert_eq!(before.tokenizer.chat().unwrap().names(), ["default"]);
    let further = folder.join("additional_chat_templates");
    std::fs::create_dir(&further).unwrap();
    for (file, text) in [("tool_use.jinja", "tools"), ("rag.jinja", "documents"), ("README.md", "{% if")] {
        std::fs::write(further.join(file), text).unwrap();
    }
    let after = opened(dir.path()).unwrap();
    assert_eq!(after.tokenizer.chat().unwrap().names(), ["default", "rag", "tool_use"]);
    assert_ne!(before.fingerprint.tokenizer_sha256, after.fingerprint.tokenizer_sha256);
}
