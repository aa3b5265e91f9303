use serde_json::json;

use super::*;
use crate::model::architecture::{Biases, LLAMA, NormKind, PositionShape};
use crate::model::rope::{DynamicScaling, LinearScaling, Llama3Scaling, Rope, RopeScaling, YarnScaling};

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "max_position_embeddings": 131_072, "hidden_act": "silu",
        "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": false,
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        }
    })
}

/// The base with keys replaced; a key set to the string "absent" is removed.
fn with(base: Value, changes: Value) -> Result<ModelConfig, LoadError> {
    let (Value::Object(mut base), Value::Object(changes)) = (base, changes) else { panic!("objects") };
    for (key, value) in changes {
        if value == "absent" {
            base.remove(&key);
        } else {
            base.insert(key, value);
        }
    }
    parse(&serde_json::to_vec(&base).unwrap())
}

fn message(base: Value, changes: Value) -> String {
    with(base, changes).unwrap_err().to_string()
}

#[test]
fn llama_3_1_is_read_in_full() {
    let config = with(llama(), json!({})).unwrap();
    let llama3 = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };
    let rope = Rope { theta: 500_000.0, scaling: Some(RopeScaling::Llama3(llama3)) };
    assert_eq!(
        config,
        ModelConfig {
            family: &LLAMA,
            vocab_size: 128_256,
            hidden_size: 4096,
            intermediate_size: 14336,
            num_layers: 32,
            num_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            max_positions: 131_072,
            sliding_window: None,
            tie_word_embeddings: false,
            block: LLAMA.block(1e-5, PositionShape::Rope(rope)),
        }
    );
}

#[test]
fn rope_is_read_from_the_top_level_and_from_rope_parameters() {
    let nested = json!({"rope_theta": "absent", "rope_scaling": "absent",
                        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}});
    let rope = |changes: Value| *with(llama(), changes).unwrap().rope().unwrap();
    assert_eq!(rope(nested), Rope::plain(100_000.0));
    let bare = json!({"rope_theta": "absent", "rope_scaling": null, "rope_parameters": {"rope_theta": 7.0}});
    assert_eq!(rope(bare), Rope::plain(7.0));
    assert_eq!(rope(json!({"rope_scaling": null})).scaling, None);
    let old = json!({"rope_scaling": {"type": "default"}});
    assert_eq!(rope(old).scaling, None);
}

#[test]
fn rope_that_is_not_stated_or_not_understood_is_an_error() {
    assert!(message(llama(), json!({"rope_theta": "absent"})).contains("does not state rope_theta"));
    for kind in ["longrope", "su", "proportional", "mrope"] {
        for key in ["rope_type", "type"] {
            let text = message(llama(), json!({"rope_scaling": {key: kind, "factor": 2.0}}));
            assert!(text.contains(&format!("rope_scaling.{key}")) && text.contains(kind), "{text}");
        }
    }
    let unfinished = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}});
    assert!(message(llama(), unfinished).contains("rope_scaling.low_freq_factor"));
    for kind in ["linear", "dynamic", "yarn"] {
        let text = message(llama(), json!({"rope_scaling": {"rope_type": kind}}));
        assert!(text.contains("does not state rope_scaling.factor"), "{text}");
    }
    assert!(message(llama(), json!({"rope_scaling": {"factor": 2.0}})).contains("rope_type = (absent)"));
    assert!(message(llama(), json!({"partial_rotary_factor": 0.5})).contains("partial_rotary_factor"));
    let inside =
        json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}});
    assert!(message(llama(), inside).contains("rope_scaling.partial_rotary_factor"));
}

#[test]
fn scalings_are_read_with_transformers_defaults() {
    let of = |table: Value| {
        let config = with(llama(), json!({"max_position_embeddings": 4096, "rope_scaling": table})).unwrap();
        (config.rope().unwrap().scaling.unwrap(), config.max_positions)
    };
    let linear = RopeScaling::Linear(LinearScaling { factor: 4.0 });
    assert_eq!(of(json!({"type": "linear", "factor": 4})), (linear, 16_384));
    let dynamic = RopeScaling::Dynamic(DynamicScaling { factor: 2.0, original_max_positions: 4096 });
    // It takes the length at the top level, whatever is stated as the original one.
    assert_eq!(
        of(json!({"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 99})),
        (dynamic, 8192)
    );
    let yarn = YarnScaling {
        factor: 4.0,
        original_max_positions: 4096,
        attention_factor: 0.1 * 4f64.ln() + 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
    };
    assert_eq!(of(json!({"type": "yarn", "factor": 4.0})), (RopeScaling::Yarn(yarn), 16_384));
    let shorter = YarnScaling { original_max_positions: 1024, ..yarn };
    let given = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024});
    assert_eq!(of(given), (RopeScaling::Yarn(shorter), 4096));
    let all = json!({"rope_type": "yarn", "factor": null, "original_max_position_embeddings": 1024,
                     "attention_factor": 1, "beta_fast": 16, "beta_slow": 2, "truncate": null});
    let expected =
        YarnScaling { attention_factor: 1.0, beta_fast: 16.0, beta_slow: 2.0, truncate: false, ..shorter };
    assert_eq!(of(all), (RopeScaling::Yarn(expected), 4096));
}

#[test]
fn one_of_two_tables_is_never_left_unread() {
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
    let both = |parameters: Value, scaling: Value, theta: Value| json!({"rope_theta": theta, "rope_parameters": parameters, "rope_scaling": scaling});
    let absent = || json!("absent");
    let plain = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
    // A model card's table beside what transformers 5 wrote.
    let added = *with(llama(), both(plain(10_000.0), yarn.clone(), absent())).unwrap().rope().unwrap();
    assert!(matches!(added.scaling, Some(RopeScaling::Yarn(_))));
    assert_eq!(added.theta.to_bits(), 10_000_f64.to_bits());
    let added = *with(llama(), both(plain(1e6), yarn.clone(), json!(1e6))).unwrap().rope().unwrap();
    assert_eq!(added.theta.to_bits(), 1e6_f64.to_bits());
    // The base of rope_parameters would be lost.
    let lost = message(llama(), both(plain(1e6), yarn.clone(), absent()));
    assert!(
        lost.contains("rope_parameters.rope_theta = 1000000") && lost.contains("would be 10000"),
        "{lost}"
    );
    let other = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4});
    let two = message(llama(), both(other, yarn.clone(), absent()));
    assert!(two.contains("rope_parameters") && two.contains("keep one of them"), "{two}");
    let mut same = yarn.clone();
    same["rope_theta"] = json!(1e4);
    assert!(with(llama(), both(same, yarn.clone(), absent())).is_ok());
    // Nothing is added by what is empty.
    let empty = *with(llama(), both(json!({}), json!({}), json!(5e5))).unwrap().rope().unwrap();
    assert_eq!(empty, Rope::plain(5e5));
    for (change, key) in [
        (
            json!({"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2.0}}),
            "rope_scaling.type",
        ),
        (json!({"rope_scaling": {"type": "yarn", "factor": 2.0, "rope_theta": 1.5}}), "rope_theta"),
        (
            json!({"original_max_position_embeddings": 10, "rope_scaling": yarn}),
            "rope_scaling.original_max_position_embeddings",
        ),
    ] {
        let text = message(llama(), change);
        assert!(text.contains(key) && text.contains("another one"), "{text}");
    }
}

#[test]
fn scalings_of_numbers_that_make_none_are_refused_by_name() {
    let yarn = |change: Value| {
        let mut table = json!({"rope_type": "yarn", "factor": 4.0});
        table.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"rope_scaling": table})
    };
    let cases = [
        (json!({"rope_scaling": {"type": "linear", "factor": 0.0}}), "factor"),
        (json!({"rope_scaling": {"type": "linear", "factor": "2"}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "dynamic", "factor": -1.0}}), "factor"),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 2}), "head_dim"),
        (json!({"rope_scaling": {"type": "linear", "factor": 1e300}}), "max_position_embeddings"),
        (yarn(json!({"attention_factor": 0.0})), "attention_factor"),
        (yarn(json!({"beta_fast": -1.0})), "beta_fast"),
        (yarn(json!({"original_max_position_embeddings": 0})), "original_max_position_embeddings"),
        (yarn(json!({"rope_theta": 500_000.0, "truncate": 1})), "truncate"),
        (json!({"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 2.0}}), "rope_theta"),
    ];
    for (change, key) in cases {
        let text = message(llama(), change.clone());
        assert!(text.contains(key), "{change}: {text}");
    }
}

/// `tests/golden/rope.json`, or another file of `tests/python/make_rope_golden.py` that `MEDIANT_ROPE_GOLDEN` names.
#[test]
fn frequencies_of_random_configurations_are_those_of_transformers() {
    let path = std::env::var("MEDIANT_ROPE_GOLDEN")
        .unwrap_or_else(|_| format!("{}/tests/golden/rope.json", env!("CARGO_MANIFEST_DIR")));
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 40);
    let (mut worst, mut prompts, mut scaled) = (0.0_f64, 0, [0; 5]);
    for case in cases {
        let config = &case["config"];
        let read = parse(config.to_string().as_bytes()).unwrap_or_else(|error| panic!("{config}: {error}"));
        let kind = match read.rope().unwrap().scaling {
            None => 0,
            Some(RopeScaling::Llama3(_)) => 1,
            Some(RopeScaling::Linear(_)) => 2,
            Some(RopeScaling::Dynamic(_)) => 3,
            Some(RopeScaling::Yarn(_)) => 4,
        };
        scaled[kind] += 1;
        let factor = case["attention_factor"].as_f64().unwrap();
        assert!((read.rope().unwrap().attention_factor() / factor - 1.0).abs() < 1e-12, "{config}");
        for prompt in case["prompts"].as_array().unwrap() {
            let length = prompt["length"].as_u64().unwrap() as usize;
            let ours = read.rope().unwrap().inverse_frequencies(read.head_dim, length);
            let theirs = prompt["inverse_frequencies"].as_array().unwrap();
            assert_eq!(ours.len(), theirs.len(), "{config}");
            for (ours, theirs) in ours.iter().zip(theirs) {
                // They compute powers in f32.
                let difference = (ours / theirs.as_f64().unwrap() - 1.0).abs();
                worst = worst.max(difference);
                assert!(difference < 4e-6, "{config}, {length} tokens: {ours}, not {theirs}");
            }
            prompts += 1;
        }
    }
    assert!(scaled.iter().all(|n| *n > 2), "of every kind: {scaled:?}");
    eprintln!("{} configurations, {prompts} prompts, worst relative difference {worst:.1e}", cases.len());
}

#[test]
fn what_may_be_left_out_takes_the_familys_default() {
    let config =
        with(llama(), json!({"num_key_value_heads": "absent", "tie_word_embeddings": "absent"})).unwrap();
    assert_eq!((config.num_kv_heads, config.tie_word_embeddings), (32, false));
    assert_eq!(with(llama(), json!({"head_dim": 64})).unwrap().head_dim, 64);
    for key in
        ["rms_norm_eps", "vocab_size", "intermediate_size", "max_position_embeddings", "num_hidden_layers"]
    {
        assert!(message(llama(), json!({key: "absent"})).contains(key));
    }
}

#[test]
fn qwen2_has_biases_and_a_window_only_if_it_is_used() {
    let qwen2 = json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rope_scaling": null,
                       "sliding_window": 4096, "use_sliding_window": false, "tie_word_embeddings": true});
    let config = with(llama(), qwen2).unwrap();
    assert!(config.tie_word_embeddings && !config.block.head_norms);
    assert_eq!(config.block.bias, Biases { qkv: true, ..Biases::NONE });
    assert_eq!(config.sliding_window, None);
    let used = json!({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": true});
    assert_eq!(with(llama(), used).unwrap().sliding_window, Some(4096));
}

#[test]
fn qwen3_norms_queries_and_must_state_its_head_dim() {
    let qwen3 = json!({"model_type": "qwen3", "head_dim": 128});
    let config = with(llama(), qwen3).unwrap();
    assert!(config.block.head_norms && config.block.bias == Biases::NONE);
    assert!(message(llama(), json!({"model_type": "qwen3"})).contains("head_dim"));
}

#[test]
fn mistral_must_say_whether_it_has_a_window() {
    let mistral = |window: Value| with(llama(), json!({"model_type": "mistral", "sliding_window": window}));
    assert_eq!(mistral(json!(4096)).unwrap().sliding_window, Some(4096));
    assert_eq!(mistral(json!(null)).unwrap().sliding_window, None);
    assert!(mistral(json!("absent")).unwrap_err().to_string().contains("sliding_window"));
}

#[test]
fn settings_that_would_be_ignored_are_refused_by_name() {
    let cases = [
        (json!({"attention_bias": true}), "attention_bias"),
        (json!({"mlp_bias": true}), "mlp_bias"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"model_type": "gemma2"}), "model_type"),
        (json!({"model_type": "absent"}), "model_type"),
        (json!({"architectures": ["LlamaForSequenceClassification"]}), "architectures"),
        (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        (json!({"hidden_size": "wide"}), "hidden_size"),
        (json!({"hidden_size": 4097}), "hidden_size"),
        (json!({"num_key_value_heads": 5}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"head_dim": 65}), "head_dim"),
        (json!({"rope_theta": -1.0}), "rope_theta"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers"),
        // A list of its tensors would take all memory.
        (json!({"num_hidden_layers": 200_000_000}), "num_hidden_layers"),
        (json!({"head_dim": 1 << 27}), "head_dim"),
        (json!({"vocab_size": 1_u64 << 40}), "vocab_size"),
    ];
    for (change, key) in cases {
        let text = message(llama(), change.clone());
        assert!(
            text.contains(key) || (key == "num_attention_heads" && text.contains("hidden_size")),
            "{change}: {text}"
        );
    }
    assert!(matches!(parse(b"[]"), Err(LoadError::Damaged { .. })));
    assert!(matches!(parse(b"{"), Err(LoadError::Damaged { .. })));
}

/// As the hub has it, cut to what is read.
fn gpt2() -> Value {
    json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "eos_token_id": 50256, "layer_norm_epsilon": 1e-5, "model_type": "gpt2",
        "n_ctx": 1024, "n_embd": 1600, "n_head": 25, "n_layer": 48, "n_positions": 1024, "output_past": true,
        "vocab_size": 50257
    })
}

#[test]
fn gpt2_is_read_by_its_own_keys_and_takes_its_classs_defaults() {
    let config = with(gpt2(), json!({})).unwrap();
    assert_eq!((config.family.name, config.vocab_size, config.max_positions), ("gpt2", 50_257, 1024));
    assert_eq!((config.hidden_size, config.intermediate_size, config.num_layers), (1600, 6400, 48));
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (25, 25, 64));
    assert!(config.tie_word_embeddings && config.sliding_window.is_none() && config.rope().is_none());
    assert_eq!(
        (config.block.norm.kind, config.block.norm.eps.to_bits()),
        (NormKind::Layer, 1e-5f64.to_bits())
    );
    assert_eq!(config.block.bias, Biases::ALL);
    // GPT-2 XL has 1.56e9 parameters.
    assert_eq!(config.parameters() / 1_000_000, 1556);
    let inner = with(gpt2(), json!({"n_inner": 100, "tie_word_embeddings": false})).unwrap();
    assert!(inner.intermediate_size == 100 && !inner.tie_word_embeddings);
    assert_eq!(with(gpt2(), json!({"n_inner": null, "reorder_and_upcast_attn": true})).unwrap(), config);
}

#[test]
fn a_gpt2_that_would_be_computed_otherwise_is_refused_by_its_own_keys() {
    let cases = [
        (json!({"activation_function": "gelu"}), "activation_function"),
        (json!({"activation_function": "relu"}), "activation_function"),
        (json!({"scale_attn_weights": false}), "scale_attn_weights"),
        (json!({"scale_attn_by_inverse_layer_idx": true}), "scale_attn_by_inverse_layer_idx"),
        (json!({"add_cross_attention": true}), "add_cross_attention"),
        (json!({"architectures": ["GPT2ForSequenceClassification"]}), "architectures"),
        (json!({"n_embd": "absent"}), "does not state n_embd"),
        (json!({"n_positions": "absent"}), "does not state n_positions"),
        (json!({"layer_norm_epsilon": "absent"}), "does not state layer_norm_epsilon"),
        (json!({"n_layer": 0}), "n_layer = 0"),
        (json!({"n_head": 0}), "n_embd"),
        (json!({"n_head": 7}), "n_head does not divide it"),
        (json!({"n_positions": "long"}), "n_positions"),
    ];
    for (change, part) in cases {
        let text = message(gpt2(), change.clone());
        assert!(text.contains(part), "{change}: {text}");
    }
    assert!(
        message(llama(), json!({"model_type": "gptj"})).contains("llama, mistral, qwen2, qwen3 and gpt2")
    );
}
