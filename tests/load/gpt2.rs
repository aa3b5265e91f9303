//! GPT-2 checkpoints as the hub and llama.cpp have them: opened, and computed with the logits of transformers.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::{Value as Meta, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use mediant::engine::Model;
use mediant::engine::ranks::start;
use mediant::load::{Checkpoint, LoadError, ModelRef, expected_tensors, open};
use mediant::plan::Plan;
use mediant::plan::pack::{Mode, Packing};
use mediant::spec::device::Device as Computing;
use mediant::spec::dtype::Dtype;
use serde_json::{Value, json};

use crate::made;
use crate::parts;
use crate::tiny_tensors::numbers;

fn golden() -> Value {
    let path = format!("{}/tests/golden/tiny_gpt2.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Linear layers, which transformers stores `[in, out]`.
fn is_linear(name: &str) -> bool {
    [".c_attn.weight", ".c_proj.weight", ".c_fc.weight"].iter().any(|ending| name.ends_with(ending))
}

/// The golden's tensors as transformers stores them, and their bits are those that it had.
fn stored(golden: &Value) -> HashMap<String, Tensor> {
    let tensors = golden["tensors"].as_array().unwrap().iter().map(|tensor| {
        let name = tensor["name"].as_str().unwrap();
        let mut shape: Vec<usize> =
            tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let linear = is_linear(name);
        if linear {
            shape.reverse();
        }
        let made = Tensor::from_vec(numbers(name, &shape), shape, &Device::Cpu).unwrap();
        let made = if linear { made.t().unwrap().contiguous().unwrap() } else { made };
        let flat = made.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let bytes: Vec<u8> = flat.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(made::sha256(&bytes), tensor["sha256"].as_str().unwrap(), "{name}");
        (name.to_owned(), made)
    });
    tensors.collect()
}

fn folder(dir: &Path, config: &Value, tensors: &HashMap<String, Tensor>) -> Result<Checkpoint, LoadError> {
    made::write(&dir.join("model"), config, tensors, 1);
    open(&ModelRef::Folder(dir.join("model")), &made::options(dir))
}

/// What llama.cpp's converter makes of the checkpoint: linear layers `[out, in]`, the embedding not repeated.
fn gguf(dir: &Path, tensors: &HashMap<String, Tensor>) -> Result<Checkpoint, LoadError> {
    let named = |name: &str| {
        let outside = [("transformer.wte", "token_embd"), ("transformer.wpe", "position_embd")];
        let outside = outside.into_iter().chain([("transformer.ln_f", "output_norm")]);
        let (stem, kind) = name.rsplit_once('.').unwrap();
        if let Some((_, llama_cpp)) = outside.into_iter().find(|(own, _)| *own == stem) {
            return format!("{llama_cpp}.{kind}");
        }
        let (layer, part) = stem.strip_prefix("transformer.h.").unwrap().split_once('.').unwrap();
        let part = match part {
            "ln_1" => "attn_norm",
            "attn.c_attn" => "attn_qkv",
            "attn.c_proj" => "attn_output",
            "ln_2" => "ffn_norm",
            "mlp.c_fc" => "ffn_up",
            "mlp.c_proj" => "ffn_down",
            other => panic!("{other}"),
        };
        format!("blk.{layer}.{part}.{kind}")
    };
    let made = |(name, tensor): (&String, &Tensor)| {
        let tensor = if is_linear(name) { tensor.t().unwrap().contiguous().unwrap() } else { tensor.clone() };
        (named(name), QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
    };
    let tensors: Vec<(String, QTensor)> = tensors.iter().map(made).collect();
    let text = |s: &str| Meta::String(s.to_owned());
    let mut words: Vec<String> = byte_words();
    words.extend((words.len()..511).map(|id| format!("[PAD{id}]")));
    words.push("<|endoftext|>".to_owned());
    let kinds = (0..512).map(|id| Meta::I32(if id == 511 { 3 } else { 1 })).collect();
    let metadata = [
        ("general.architecture", text("gpt2")),
        ("gpt2.block_count", Meta::U32(4)),
        ("gpt2.context_length", Meta::U32(256)),
        ("gpt2.embedding_length", Meta::U32(64)),
        ("gpt2.feed_forward_length", Meta::U32(256)),
        ("gpt2.attention.head_count", Meta::U32(4)),
        ("gpt2.attention.layer_norm_epsilon", Meta::F32(1e-5)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", Meta::Array(words.into_iter().map(Meta::String).collect())),
        ("tokenizer.ggml.token_type", Meta::Array(kinds)),
        ("tokenizer.ggml.merges", Meta::Array(vec![text("a b")])),
        ("tokenizer.ggml.bos_token_id", Meta::U32(511)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(511)),
    ];
    let metadata: Vec<(&str, &Meta)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let path = dir.join("gpt2.gguf");
    write(&mut File::create(&path).unwrap(), &metadata, &tensors).unwrap();
    open(&ModelRef::Gguf(path), &made::options(dir))
}

/// The 256 characters that stand for bytes, and "ab".
fn byte_words() -> Vec<String> {
    let mut alphabet: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    alphabet.into_iter().map(String::from).chain(["ab".to_owned()]).collect()
}

/// Opened, every tensor has the numbers of the formula `[out, in]`, and ranks compute transformers' logits.
fn check(checkpoint: &Checkpoint, golden: &Value) {
    assert_eq!(checkpoint.config.family.name, "gpt2");
    for (name, shape) in expected_tensors(&checkpoint.config) {
        let tensor = checkpoint.tensors.tensor(&name).unwrap();
        assert_eq!(tensor.dims(), shape, "{name}");
        let expected: Vec<u32> = numbers(&name, &shape).into_iter().map(f32::to_bits).collect();
        assert_eq!(made::bits(&tensor), expected, "{name}");
    }
    let mut plan = Plan::default();
    plan.scoring.targets = (0..512).collect();
    let runs = golden["runs"].as_array().unwrap();
    for run in runs {
        let tokens: Vec<u32> =
            run["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        let last = tokens.len() as u32 - 1;
        let root = plan.root(tokens.into());
        plan.read(root, last);
    }
    for world in [1, 2, 4] {
        parts::check(checkpoint, world, &parts::all_names(checkpoint));
        let config = mediant::config::load(None, std::iter::empty(), &[]).unwrap().config;
        let engine =
            mediant::config::Engine { devices: vec![Computing::Cpu; world], threads: 1, ..config.engine };
        let ranks = start(&engine, Dtype::F32, &checkpoint.config, &checkpoint.tensors, |_| ()).unwrap();
        let mut group = ranks.group;
        let chunk = Packing::new(&plan, 4, 1000, Mode::Branching).unwrap().chunk(0);
        let output = group.forward(&chunk.batch.into()).unwrap();
        assert_eq!(chunk.readouts.len(), runs.len());
        for (readout, row) in chunk.readouts {
            let expected = runs[readout]["logits"].as_array().unwrap();
            for (logit, expected) in output.scores[row].logits.iter().zip(expected) {
                let difference = (f64::from(*logit) - expected.as_f64().unwrap()).abs();
                assert!(difference < 1e-4, "{world} ranks, run {readout}: {logit}, not {expected}");
            }
        }
    }
}

#[test]
fn a_folder_of_transformers_gives_its_logits_on_any_number_of_ranks() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = folder(dir.path(), &golden["config"], &stored(&golden)).unwrap();
    check(&checkpoint, &golden);
}

#[test]
fn so_does_the_hubs_form_without_the_prefix_and_with_its_causal_masks() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let bare = |name: String| name.strip_prefix("transformer.").unwrap().to_owned();
    let mut tensors: HashMap<String, Tensor> =
        stored(&golden).into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
    for layer in 0..4 {
        let mask = Tensor::ones((1, 1, 256, 256), DType::U8, &Device::Cpu).unwrap();
        tensors.insert(format!("h.{layer}.attn.bias"), mask);
        let masked = Tensor::new(-1e4f32, &Device::Cpu).unwrap();
        tensors.insert(format!("h.{layer}.attn.masked_bias"), masked);
    }
    check(&folder(dir.path(), &golden["config"], &tensors).unwrap(), &golden);
    // What is no mask is still not left out.
    tensors.insert("h.0.attn.c_attn.scale".to_owned(), Tensor::new(1f32, &Device::Cpu).unwrap());
    let error = folder(dir.path(), &golden["config"], &tensors).unwrap_err().to_string();
    assert!(error.contains("transformer.h.0.attn.c_attn.scale that a gpt2 model"), "{error}");
}

#[test]
fn so_does_a_gguf_of_llama_cpp() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = gguf(dir.path(), &stored(&golden)).unwrap();
    assert!(checkpoint.config.tie_word_embeddings);
    check(&checkpoint, &golden);
    let (bos, adds_bos) = checkpoint.tokenizer.bos();
    assert_eq!((bos, adds_bos), (Some(511), false), "GPT-2 adds no BOS by itself");
    assert_eq!(*checkpoint.tokenizer.encode("<|endoftext|>ab", None).unwrap().ids, [511, 256]);
}

#[test]
fn a_gpt2_with_a_wrong_or_a_missing_tensor_names_it_with_both_shapes_as_stored() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let fault = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut tensors = stored(&golden);
        change(&mut tensors);
        folder(dir.path(), &golden["config"], &tensors).unwrap_err().to_string()
    };
    let turned = Tensor::zeros((192, 64), DType::F32, &Device::Cpu).unwrap();
    let name = "transformer.h.1.attn.c_attn.weight";
    let error = fault(&|t| drop(t.insert(name.to_owned(), turned.clone())));
    assert_eq!(error, format!("tensor {name} has shape [192, 64], but the configuration asks for [64, 192]"));
    let error = fault(&|t| drop(t.remove("transformer.wpe.weight")));
    assert!(error.contains("transformer.wpe.weight of shape [256, 64] is not in"), "{error}");
    let error = fault(&|t| drop(t.remove("transformer.h.3.mlp.c_fc.bias")));
    assert!(error.contains("transformer.h.3.mlp.c_fc.bias of shape [256] is not in"), "{error}");
}

#[test]
fn the_bos_of_its_class_is_there_on_request_where_the_files_name_none() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let tensors = stored(&golden);
    let without = folder(dir.path(), &golden["config"], &tensors).unwrap();
    assert_eq!(without.tokenizer.bos(), (None, false), "its vocabulary has no such token");
    let mut words: Value = serde_json::from_str(&made::tokenizer()).unwrap();
    words["model"]["vocab"]["<|endoftext|>"] = json!(256);
    let special = json!({"id": 256, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
                         "rstrip": false, "normalized": false, "special": true});
    words["added_tokens"] = json!([special]);
    std::fs::write(dir.path().join("model/tokenizer.json"), words.to_string()).unwrap();
    let with = open(&ModelRef::Folder(dir.path().join("model")), &made::options(dir.path())).unwrap();
    assert_eq!(with.tokenizer.bos(), (Some(256), false));
    assert_eq!(with.tokenizer.encode("a", None).unwrap().ids.len(), 1);
    assert_eq!(with.tokenizer.encode("a", Some(true)).unwrap().ids[0], 256);
}
