use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};

use super::*;
use crate::load::LoadError;

/// A llama of 2 heads of dimension 8 (1 key head), width 32, 1 layer, byte vocabulary of 3.
struct Made {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, QTensor)>,
}

fn numbers(rows: usize, columns: usize) -> Tensor {
    Tensor::arange(0f32, (rows * columns) as f32, &Device::Cpu).unwrap().reshape((rows, columns)).unwrap()
}

fn made() -> Made {
    let u = |n: u32| Value::U32(n);
    let array = |items: &[&str]| Value::Array(items.iter().map(|s| Value::String((*s).to_owned())).collect());
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", u(1)),
        ("llama.context_length", u(128)),
        ("llama.embedding_length", u(32)),
        ("llama.feed_forward_length", u(64)),
        ("llama.attention.head_count", u(2)),
        ("llama.attention.head_count_kv", u(1)),
        ("llama.attention.key_length", u(8)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(100_000.0)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", array(&["a", "b", "ab"])),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); 3])),
        ("tokenizer.ggml.merges", array(&["a b"])),
    ];
    let shapes = [
        ("token_embd", 3, 32),
        ("blk.0.attn_q", 16, 32),
        ("blk.0.attn_k", 8, 32),
        ("blk.0.attn_v", 8, 32),
        ("blk.0.attn_output", 32, 16),
        ("blk.0.ffn_gate", 64, 32),
        ("blk.0.ffn_up", 64, 32),
        ("blk.0.ffn_down", 32, 64),
    ];
    let f32s = |t: &Tensor| QTensor::quantize(t, GgmlDType::F32).unwrap();
    let mut tensors: Vec<_> =
        shapes.iter().map(|&(n, r, c)| (format!("{n}.weight"), f32s(&numbers(r, c)))).collect();
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        tensors.push((format!("{name}.weight"), f32s(&numbers(1, 32).flatten_all().unwrap())));
    }
    Made { metadata: metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(), tensors }
}

impl Made {
    fn set(mut self, key: &str, value: Value) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    fn open(&self) -> (tempfile::TempDir, Result<Gguf, LoadError>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let metadata: Vec<_> = self.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<_> = self.tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
        write(&mut File::create(&path).unwrap(), &metadata, &tensors).unwrap();
        let gguf = Gguf::open(&path);
        (dir, gguf)
    }

    fn fault(&self) -> String {
        let (_dir, gguf) = self.open();
        let gguf = gguf.unwrap();
        let config = match gguf.config() {
            Err(error) => return error.to_string(),
            Ok(config) => config,
        };
        gguf.tensors(&config).err().expect("it should be refused").to_string()
    }
}

#[test]
fn metadata_gives_the_configuration_with_the_decimals_that_were_meant() {
    let (_dir, gguf) = made().open();
    let gguf = gguf.unwrap();
    let config = gguf.config().unwrap();
    assert_eq!((config.rms_norm_eps.to_bits(), config.rope.theta), (1e-5f64.to_bits(), 100_000.0));
    assert_eq!((config.head_dim, config.num_heads, config.num_kv_heads, config.vocab_size), (8, 2, 1, 3));
    assert!(config.tie_word_embeddings);
    let vocabulary = gguf.vocabulary().unwrap();
    assert_eq!((vocabulary.tokens.len(), vocabulary.merges.as_slice()), (3, &["a b".to_owned()][..]));
}

#[test]
fn rows_of_q_and_k_go_back_to_halves() {
    let (_dir, gguf) = made().open();
    let gguf = gguf.unwrap();
    let config = gguf.config().unwrap();
    let source = gguf.tensors(&config).unwrap();
    let first = |name: &str| -> Vec<f32> {
        let t = source.tensor(&format!("model.layers.0.self_attn.{name}.weight")).unwrap();
        t.to_vec2::<f32>().unwrap().into_iter().map(|row| row[0] / 32.0).collect()
    };
    let head = [0., 2., 4., 6., 1., 3., 5., 7.];
    assert_eq!(first("k_proj"), head);
    assert_eq!(first("q_proj")[..8], head);
    assert_eq!(first("q_proj")[8..], head.map(|r| r + 8.));
    assert_eq!(first("v_proj"), [0., 1., 2., 3., 4., 5., 6., 7.]);
    assert!(matches!(source.tensor("lm_head.weight"), Err(LoadError::MissingTensor { .. })));
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let text = |s: &str| Value::String(s.to_owned());
    let faults = [
        (made().set("general.architecture", text("gemma")), "general.architecture"),
        (made().set("llama.rope.scaling.type", text("yarn")), "llama.rope.scaling.type"),
        (made().set("llama.expert_count", Value::U32(8)), "llama.expert_count"),
        (made().set("llama.rope.dimension_count", Value::U32(4)), "llama.rope.dimension_count"),
        (made().set("llama.attention.head_count_kv", Value::Array(vec![Value::U32(1)])), "head_count_kv"),
        (made().set("llama.rope.freq_base", Value::U32(1)), "freq_base"),
        (made().set("llama.feed_forward_length", Value::U32(63)), "mlp.gate_proj"),
    ];
    for (made, key) in faults {
        assert!(made.fault().contains(key), "{}", made.fault());
    }
    let mut lacks = made();
    lacks.tensors.retain(|(name, _)| name != "blk.0.attn_v.weight");
    assert_eq!(
        lacks.fault().split(" is not in").next(),
        Some("tensor model.layers.0.self_attn.v_proj.weight of shape [8, 32]")
    );
    let mut extra = made();
    extra
        .tensors
        .push(("blk.0.attn_q.bias".into(), QTensor::quantize(&numbers(1, 16), GgmlDType::F32).unwrap()));
    assert!(extra.fault().contains("self_attn.q_proj.bias"), "{}", extra.fault());
    let mut silent = made();
    silent.metadata.retain(|(key, _)| key != "llama.rope.freq_base");
    assert!(silent.fault().contains("does not state llama.rope.freq_base"), "{}", silent.fault());
}

#[test]
fn llama_3s_frequency_divisors_are_recognised() {
    let base = |n: usize| (0..n).map(|i| 100_000f64.powf(-(2.0 * i as f64) / 8.0));
    let divisors: Vec<f32> = base(4)
        .map(|freq| {
            let wavelength = std::f64::consts::TAU / freq;
            let smooth = ((8192.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / 32.0 + smooth)) as f32
        })
        .collect();
    let with = |divisors: &[f32]| {
        let mut made = made();
        let tensor = Tensor::new(divisors, &Device::Cpu).unwrap();
        made.tensors.push(("rope_freqs.weight".into(), QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
        made
    };
    let (_dir, gguf) = with(&divisors).open();
    let scaling = gguf.unwrap().config().unwrap().rope.llama3.unwrap();
    assert_eq!((scaling.factor, scaling.original_max_positions), (32.0, 8192));
    assert!(with(&[1.0, 2.0, 3.0, 32.0]).fault().contains("rope_freqs.weight"));
}

#[test]
fn a_file_that_is_no_gguf_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, "not a gguf").unwrap();
    assert!(matches!(Gguf::open(&path), Err(LoadError::Damaged { .. })));
}

#[test]
fn every_quantised_type_has_the_bits_of_ggufs_reference() {
    let golden: std::collections::BTreeMap<String, String> =
        serde_json::from_str(include_str!("../../../tests/golden/quants.json")).unwrap();
    assert!(golden.len() >= 12);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quants.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let differ = golden.iter().filter(|(name, digest)| {
        let values: Vec<f32> =
            read(&path, &gguf.content, name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        crate::load::digest::of_bytes(&bytes) != **digest
    });
    assert_eq!(differ.collect::<Vec<_>>(), []);
}
