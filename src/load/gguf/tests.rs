use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};

use super::*;
use crate::load::LoadError;
use crate::model::rope::{LinearScaling, RopeScaling, YarnScaling};

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
        write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
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
    let theta = config.rope().unwrap().theta;
    assert_eq!((config.block.norm.eps.to_bits(), theta), (1e-5f64.to_bits(), 100_000.0));
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
        (made().set("llama.rope.scaling.type", text("longrope")), "llama.rope.scaling.type"),
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
    let Some(RopeScaling::Llama3(scaling)) = gguf.unwrap().config().unwrap().rope().unwrap().scaling else {
        panic!("it is Llama 3's")
    };
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
    assert!(golden.len() >= 17);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quants.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let differ = golden.iter().filter(|(name, digest)| {
        let values: Vec<f32> =
            read(&gguf.file, &gguf.header, name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        crate::load::digest::of_bytes(&bytes) != **digest
    });
    assert_eq!(differ.collect::<Vec<_>>(), []);
    // Rows alone are those of the whole.
    for name in golden.keys() {
        let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let whole = flat(read(&gguf.file, &gguf.header, name).unwrap());
        let rows = flat(read_rows(&gguf.file, &gguf.header, name, &(1..3), 256).unwrap());
        assert_eq!(rows, whole[256..3 * 256], "{name}");
    }
}

#[test]
fn stated_scaling_is_that_of_transformers() {
    let text = |s: &str| Value::String(s.to_owned());
    let of = |made: Made| {
        let (_dir, gguf) = made.open();
        let config = gguf.unwrap().config().unwrap();
        (config.rope().unwrap().scaling, config.max_positions)
    };
    let linear = made()
        .set("llama.rope.scaling.type", text("linear"))
        .set("llama.rope.scaling.factor", Value::F32(2.0));
    assert_eq!(of(linear), (Some(RopeScaling::Linear(LinearScaling { factor: 2.0 })), 256));
    let yarn = || {
        made()
            .set("llama.rope.scaling.type", text("yarn"))
            .set("llama.rope.scaling.factor", Value::F32(4.0))
            .set("llama.rope.scaling.original_context_length", Value::U32(64))
    };
    let expected = YarnScaling {
        factor: 4.0,
        original_max_positions: 64,
        attention_factor: 0.1 * 4f64.ln() + 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
    };
    assert_eq!(of(yarn()), (Some(RopeScaling::Yarn(expected)), 256));
    assert_eq!(of(made().set("llama.rope.scaling.type", text("none"))), (None, 128));
    let lacks = made().set("llama.rope.scaling.type", text("yarn"));
    assert!(lacks.fault().contains("does not state llama.rope.scaling.factor"), "{}", lacks.fault());
    let other = yarn().set("llama.rope.scaling.yarn_ext_factor", Value::F32(0.5));
    assert!(other.fault().contains("yarn_ext_factor"), "{}", other.fault());
    let old = made().set("llama.rope.scale_linear", Value::F32(4.0));
    assert!(old.fault().contains("scale_linear"), "{}", old.fault());
}

#[test]
fn a_part_of_several_files_says_which_and_how_to_join_them() {
    let part = made().set("split.no", Value::U16(1)).set("split.count", Value::U16(3));
    let error = part.open().1.err().unwrap().to_string();
    assert!(error.contains("is part 2 of 3; join the parts"), "{error}");
    assert!(made().set("split.count", Value::U16(1)).open().1.is_ok());
}

#[test]
fn a_type_of_tensors_that_is_not_read_is_named() {
    for (number, name) in [(16_u32, "IQ2_XXS"), (21, "IQ3_S"), (40, "NVFP4"), (999, "number 999")] {
        let (dir, _) = made().open();
        let path = dir.path().join("m.gguf");
        let mut bytes = std::fs::read(&path).unwrap();
        let tensor = b"blk.0.ffn_up.weight";
        let at = bytes.windows(tensor.len()).position(|window| window == tensor).unwrap() + tensor.len();
        let dimensions = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let at = at + 4 + 8 * dimensions;
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = Gguf::open(&path).err().unwrap().to_string();
        assert!(
            error.contains(&format!("has tensors of type {name}, which is not read; read are F32")),
            "{error}"
        );
        assert!(!error.contains('\n') && !error.contains("damaged"), "{error}");
    }
}

#[test]
fn a_vocabulary_that_is_cut_no_one_knows_how_is_warned_of() {
    let warned = |pre: &str| {
        let (_dir, gguf) = made().set("tokenizer.ggml.pre", Value::String(pre.to_owned())).open();
        gguf.unwrap().warnings()
    };
    assert!(warned("smollm").is_empty());
    let [warning] = &warned("default")[..] else { panic!("one warning") };
    assert!(warning.contains("GPT-2's way is taken"), "{warning}");
}

#[test]
fn headers_of_numbers_that_make_no_sense_are_damaged_in_words() {
    let aligned = made().set("general.alignment", Value::U32(0)).open().1.err().unwrap().to_string();
    assert!(aligned.contains("is damaged"), "{aligned}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let header = |counts: [u64; 2], rest: &[u8]| {
        let counts: Vec<u8> = counts.into_iter().flat_map(u64::to_le_bytes).collect();
        std::fs::write(&path, [b"GGUF", &3_u32.to_le_bytes()[..], &counts, rest].concat()).unwrap();
        Gguf::open(&path).err().unwrap().to_string()
    };
    for (counts, rest) in [
        ([u64::MAX, 0], vec![]),
        ([0, u64::MAX], vec![]),
        // A key as long as the largest number, and an array of arrays of arrays ...
        ([0, 1], u64::MAX.to_le_bytes().to_vec()),
        (
            [0, 1],
            [&[1, 0, 0, 0, 0, 0, 0, 0, b'k'][..], &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0].repeat(1000)]
                .concat(),
        ),
    ] {
        let error = header(counts, &rest);
        assert!(error.contains("is damaged"), "{error}");
    }
    // A file that is all numbers takes no more memory than its header may.
    let file = std::fs::File::create(&path).unwrap();
    let mut start = [b"GGUF", &3_u32.to_le_bytes()[..], &[0; 8], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    start.extend([1, 0, 0, 0, 0, 0, 0, 0, b'k', 9, 0, 0, 0, 0, 0, 0, 0]);
    start.extend((1_u64 << 30).to_le_bytes());
    std::fs::write(&path, start).unwrap();
    file.set_len(2 << 30).unwrap();
    let error = Gguf::open(&path).err().unwrap().to_string();
    assert!(error.contains("is damaged"), "{error}");
}

#[test]
fn tensors_that_the_file_has_no_room_for_are_errors_in_words() {
    let (dir, gguf) = made().open();
    let gguf = gguf.unwrap();
    let config = gguf.config().unwrap();
    let source = gguf.tensors(&config).unwrap();
    let path = dir.path().join("m.gguf");
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(source.part("model.embed_tokens.weight", 0..1, 0..32).is_ok());
    std::fs::File::options().write(true).open(&path).unwrap().set_len(length - 4000).unwrap();
    let error = source.part("model.embed_tokens.weight", 0..1, 0..32).err().unwrap().to_string();
    assert!(error.contains("changed since it was opened"), "{error}");
    // Opened after it was cut.
    let source = Gguf::open(&path).unwrap().tensors(&config).unwrap();
    let cut = (["o_proj", "v_proj", "k_proj"].iter())
        .find_map(|part| source.tensor(&format!("model.layers.0.self_attn.{part}.weight")).err());
    let cut = cut.or_else(|| source.tensor("model.layers.0.mlp.down_proj.weight").err());
    assert!(cut.is_some_and(|error| error.to_string().contains("remaining")));
}
