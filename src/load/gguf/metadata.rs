//! A GGUF's metadata to [`ModelConfig`] and tokenizer parts.

use std::path::Path;

use candle_core::Tensor;
use candle_core::quantized::gguf_file::{Content, Value};

use crate::load::LoadError;
use crate::model::architecture::{Family, NormKind, PositionShape};
use crate::model::config::ModelConfig;
use crate::model::rope::{LinearScaling, Llama3Scaling, Rope, RopeScaling, YarnScaling};
use crate::tokens::{GgufVocabulary, SpecialTokens};

const FILE: &str = "the GGUF's metadata";

/// Shape of the model. llama.cpp's keys are the same for all families (Mistral too is written as llama).
/// `factors`: the tensor `rope_freqs.weight`, `[head_dim / 2]`, if the file has it.
pub(super) fn config(content: &Content, factors: Option<Tensor>) -> Result<ModelConfig, LoadError> {
    let arch = text(content, "general.architecture")?;
    let Some(family) = Family::of_gguf(arch) else {
        let why = format!("understood are {}", Family::list_of_gguf());
        return Err(not_understood("general.architecture", &arch, &why));
    };
    let key = |name: &str| format!("{arch}.{name}");
    let experts = key("expert_count");
    if let Some(n) = optional_integer(content, &experts)?.filter(|&n| n > 0) {
        return Err(not_understood(&experts, &n, "mixtures of experts are not supported"));
    }
    let size = |name: &str| integer(content, &key(name)).map(|n| n as usize);
    let optional_size =
        |name: &str| Ok::<_, LoadError>(optional_integer(content, &key(name))?.map(|n| n as usize));
    let (hidden_size, num_heads) = (size("embedding_length")?, size("attention.head_count")?);
    let head_dim = match optional_size("attention.key_length")? {
        Some(n) => n,
        None if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) => {
            let why = "attention.key_length is left out and attention.head_count does not divide it";
            return Err(not_understood(&key("embedding_length"), &hidden_size, why));
        }
        None => hidden_size / num_heads,
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(n) = optional_size(name)?.filter(|&n| n != head_dim) {
            return Err(not_understood(&key(name), &n, "it must be the head's own dimension"));
        }
    }
    let eps = match family.norm {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    let stated_positions = size("context_length")?;
    let scaling = scaling(content, arch, stated_positions)?;
    let (positions, max_positions) = if family.rotary {
        let rope = Rope { theta: float(content, &key("rope.freq_base"))?, scaling };
        (PositionShape::Rope(rope), rope.longest(stated_positions))
    } else if scaling.is_some() {
        let why = "the model has no rotary embedding to be scaled";
        return Err(not_understood(&key("rope.scaling.type"), &"(present)", why));
    } else {
        (PositionShape::Learned, stated_positions)
    };
    let mut config = ModelConfig {
        family,
        vocab_size: strings(content, "tokenizer.ggml.tokens")?.len(),
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        num_layers: size("block_count")?,
        num_heads,
        // llama.cpp writes it only if it differs.
        num_kv_heads: optional_size("attention.head_count_kv")?.unwrap_or(num_heads),
        head_dim,
        max_positions,
        sliding_window: optional_size("attention.sliding_window")?.filter(|&n| n > 0),
        tie_word_embeddings: !content.tensor_infos.contains_key("output.weight"),
        block: family.block(float(content, &key(eps))?, positions),
    };
    config.check().map_err(|fault| not_understood(fault.key, &fault.got, fault.why))?;
    if let (Some(factors), PositionShape::Rope(rope)) = (factors, &mut config.block.positions) {
        let factors = factors.to_vec1::<f32>().map_err(|e| damaged(&format!("rope_freqs.weight: {e}")))?;
        if rope.scaling.is_some() {
            return Err(not_understood(
                "rope_freqs.weight",
                &"(present)",
                "the metadata states a scaling as well",
            ));
        }
        rope.scaling = Some(RopeScaling::Llama3(llama3(*rope, head_dim, &factors)?));
    }
    Ok(config)
}

/// Scaling that the metadata states. llama.cpp's own is that of `transformers` by other names; what it takes where a number is left
/// out is taken here too.
fn scaling(content: &Content, arch: &str, positions: usize) -> Result<Option<RopeScaling>, LoadError> {
    let key = |name: &str| format!("{arch}.rope.scaling.{name}");
    let number = |name: &str| {
        let key = key(name);
        content.metadata.contains_key(&key).then(|| float(content, &key)).transpose()
    };
    let kind = match content.metadata.get(&key("type")) {
        Some(_) => text(content, &key("type"))?,
        None => "none",
    };
    // Written by old converters in place of the type and its factor.
    let old = format!("{arch}.rope.scale_linear");
    if content.metadata.contains_key(&old) {
        return Err(not_understood(
            &old,
            &"(present)",
            "convert the checkpoint again, with rope.scaling.type",
        ));
    }
    match kind {
        "none" => Ok(None),
        "linear" => Ok(Some(RopeScaling::Linear(LinearScaling { factor: float(content, &key("factor"))? }))),
        "yarn" => {
            for (name, usual) in [("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
                if let Some(got) = number(name)?.filter(|got| got.to_bits() != f64::to_bits(usual)) {
                    return Err(not_understood(
                        &key(name),
                        &got,
                        "only YaRN with its usual constant is supported",
                    ));
                }
            }
            let factor = float(content, &key("factor"))?;
            let original = optional_integer(content, &key("original_context_length"))?;
            let more = number("yarn_attn_factor")?.or(number("attn_factor")?).unwrap_or(1.0);
            Ok(Some(RopeScaling::Yarn(YarnScaling {
                factor,
                original_max_positions: original.map_or(positions, |n| n as usize),
                attention_factor: more * YarnScaling::default_attention_factor(factor, None),
                beta_fast: number("yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: number("yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
            })))
        }
        other => {
            let why = "understood are none, linear, yarn and Llama 3's rope_freqs";
            Err(not_understood(&key("type"), &other, why))
        }
    }
}

/// An error if the file is a part of several.
pub(super) fn whole(content: &Content, path: &Path) -> Result<(), LoadError> {
    let of = optional_integer(content, "split.count")?.unwrap_or(1);
    if of <= 1 {
        return Ok(());
    }
    let part = optional_integer(content, "split.no")?.unwrap_or(0) + 1;
    Err(LoadError::Split { file: path.display().to_string(), part, of })
}

/// What is read, but may not be what was meant.
pub(super) fn warnings(content: &Content) -> Vec<String> {
    let pre = match content.metadata.get("tokenizer.ggml.pre") {
        Some(Value::String(pre)) if pre == "default" => pre,
        _ => return Vec::new(),
    };
    vec![format!(
        "tokenizer.ggml.pre is {pre:?}: the file does not say how text is cut before BPE, and GPT-2's way is taken. If the \
         model was made with another, its tokens are wrong: convert the checkpoint again, or use its safetensors"
    )]
}

/// Llama 3's scaling, found again from the frequency divisors that llama.cpp stores in its place.
///
/// All released checkpoints (Llama 3.1 to 3.3) have the same two bends and original length; only the factor differs, and it is
/// the largest divisor. The divisors that follow must equal the file's.
fn llama3(rope: Rope, head_dim: usize, factors: &[f32]) -> Result<Llama3Scaling, LoadError> {
    let factor = factors.iter().copied().fold(1.0, f32::max);
    let scaling = Llama3Scaling {
        factor: f64::from(factor),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };
    let base = rope.inverse_frequencies(head_dim, 1);
    let scaled = Rope { scaling: Some(RopeScaling::Llama3(scaling)), ..rope };
    let scaled = scaled.inverse_frequencies(head_dim, 1);
    let same = factors.len() == base.len()
        && (base.iter().zip(&scaled).zip(factors))
            .all(|((b, s), &f)| (b / s - f64::from(f)).abs() < 1e-4 * b / s);
    if same {
        Ok(scaling)
    } else {
        Err(not_understood(
            "rope_freqs.weight",
            &format!("{factors:?}"),
            "it is not the scaling of Llama 3.1 and later",
        ))
    }
}

/// Parts of the tokenizer.
pub(super) fn vocabulary(content: &Content) -> Result<GgufVocabulary, LoadError> {
    let flag = |name: &str| match content.metadata.get(name) {
        None => Ok(None),
        Some(Value::Bool(b)) => Ok(Some(*b)),
        Some(other) => Err(not_understood(name, &format!("{other:?}"), "it must be true or false")),
    };
    let add_bos = flag("tokenizer.ggml.add_bos_token")?;
    let appends = flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let model = text(content, "tokenizer.ggml.model")?.to_owned();
    // Only byte-level BPE names how it cuts; the other kinds are refused by their name.
    let pre = if model == "gpt2" { text(content, "tokenizer.ggml.pre")?.to_owned() } else { String::new() };
    let merges = if model == "gpt2" { strings(content, "tokenizer.ggml.merges")? } else { Vec::new() };
    let tokens = strings(content, "tokenizer.ggml.tokens")?;
    let types = match content.metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Array(types)) => types
            .iter()
            .map(|t| to_integer(t).ok_or_else(|| damaged("tokenizer.ggml.token_type holds no integer")))
            .collect::<Result<Vec<i64>, LoadError>>()?,
        _ => return Err(missing("tokenizer.ggml.token_type")),
    };
    if types.len() != tokens.len() {
        return Err(damaged(&format!("{} tokens but {} token types", tokens.len(), types.len())));
    }
    let bos = optional_integer(content, "tokenizer.ggml.bos_token_id")?.map(|n| n as u32);
    let owned = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<String>>();
    Ok(GgufVocabulary {
        tokens: owned(tokens),
        merges: owned(merges),
        model,
        pre,
        types,
        bos,
        add_bos,
        add_eos: appends,
    })
}

/// The special tokens that the metadata names, and the chat templates by name. What makes no sense is passed over: no prompt but a
/// conversation needs them.
pub(super) fn chat(content: &Content, vocabulary: &GgufVocabulary) -> (SpecialTokens, Vec<(String, String)>) {
    let id = |name: &str| {
        let id = optional_integer(content, &format!("tokenizer.ggml.{name}_token_id")).ok()??;
        u32::try_from(id).ok().filter(|id| (*id as usize) < vocabulary.tokens.len())
    };
    let names =
        [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")];
    let text = |(key, name): (&str, &str)| {
        Some((name.to_owned(), vocabulary.tokens.get(id(key)? as usize)?.clone()))
    };
    let texts = names.into_iter().filter_map(text).collect();
    let mut ends: Vec<u32> = ["eos", "eot", "eom"].into_iter().filter_map(id).collect();
    ends.dedup();
    let default = text_of(content, "tokenizer.chat_template").map(|text| ("default".to_owned(), text));
    let names = strings(content, "tokenizer.chat_templates").unwrap_or_default();
    let named =
        |name: &str| Some((name.to_owned(), text_of(content, &format!("tokenizer.chat_template.{name}"))?));
    let templates = default.into_iter().chain(names.into_iter().filter_map(named)).collect();
    (SpecialTokens { texts, ends }, templates)
}

fn text_of(content: &Content, key: &str) -> Option<String> {
    text(content, key).ok().map(str::to_owned)
}

fn missing(key: &str) -> LoadError {
    LoadError::MissingKey { file: FILE.to_owned(), key: key.to_owned(), hint: "" }
}

fn damaged(why: &str) -> LoadError {
    LoadError::Damaged { file: FILE.to_owned(), why: why.to_owned() }
}

fn not_understood(key: &str, got: &dyn std::fmt::Display, why: &str) -> LoadError {
    LoadError::NotUnderstood {
        file: FILE.to_owned(),
        key: key.to_owned(),
        got: got.to_string(),
        why: why.to_owned(),
    }
}

fn text<'a>(content: &'a Content, key: &str) -> Result<&'a str, LoadError> {
    match content.metadata.get(key) {
        Some(Value::String(s)) => Ok(s),
        Some(other) => Err(not_understood(key, &format!("{other:?}"), "it must be a string")),
        None => Err(missing(key)),
    }
}

fn strings<'a>(content: &'a Content, key: &str) -> Result<Vec<&'a str>, LoadError> {
    let Some(Value::Array(values)) = content.metadata.get(key) else { return Err(missing(key)) };
    let string = |v: &'a Value| match v {
        Value::String(s) => Ok(s.as_str()),
        _ => Err(damaged(&format!("{key} holds something that is no string"))),
    };
    values.iter().map(string).collect()
}

fn to_integer(value: &Value) -> Option<i64> {
    match *value {
        Value::U8(v) => Some(v.into()),
        Value::I8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::I16(v) => Some(v.into()),
        Value::U32(v) => Some(v.into()),
        Value::I32(v) => Some(v.into()),
        Value::U64(v) => v.try_into().ok(),
        Value::I64(v) => Some(v),
        _ => None,
    }
}

fn optional_integer(content: &Content, key: &str) -> Result<Option<u64>, LoadError> {
    let Some(value) = content.metadata.get(key) else { return Ok(None) };
    match to_integer(value).and_then(|n| u64::try_from(n).ok()) {
        Some(n) => Ok(Some(n)),
        None => Err(not_understood(key, &format!("{value:?}"), "it must be one whole number for all layers")),
    }
}

fn integer(content: &Content, key: &str) -> Result<u64, LoadError> {
    optional_integer(content, key)?.ok_or_else(|| missing(key))
}

/// A number stored in f32 as the decimal that was meant: 1e-5, not 9.99999974e-6, as `config.json` has it.
fn float(content: &Content, key: &str) -> Result<f64, LoadError> {
    match content.metadata.get(key) {
        Some(Value::F32(v)) => Ok(v.to_string().parse().expect("BUG: a printed float parses")),
        Some(Value::F64(v)) => Ok(*v),
        Some(other) => Err(not_understood(key, &format!("{other:?}"), "it must be a number")),
        None => Err(missing(key)),
    }
}
