use serde_json::json;

use super::*;

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
    assert_eq!(
        config,
        ModelConfig {
            architecture: "llama".into(),
            vocab_size: 128_256,
            hidden_size: 4096,
            intermediate_size: 14336,
            num_layers: 32,
            num_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            rms_norm_eps: 1e-5,
            rope: Rope { theta: 500_000.0, llama3: Some(llama3) },
            max_positions: 131_072,
            sliding_window: None,
            tie_word_embeddings: false,
            qkv_bias: false,
            qk_norm: false,
        }
    );
}

#[test]
fn rope_is_read_from_the_top_level_and_from_rope_parameters() {
    let nested = json!({"rope_theta": "absent", "rope_scaling": "absent",
                        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}});
    assert_eq!(with(llama(), nested).unwrap().rope, Rope { theta: 100_000.0, llama3: None });
    let bare = json!({"rope_theta": "absent", "rope_scaling": null, "rope_parameters": {"rope_theta": 7.0}});
    assert_eq!(with(llama(), bare).unwrap().rope, Rope { theta: 7.0, llama3: None });
    assert_eq!(with(llama(), json!({"rope_scaling": null})).unwrap().rope.llama3, None);
    let old = json!({"rope_scaling": {"type": "default"}});
    assert_eq!(with(llama(), old).unwrap().rope.llama3, None);
}

#[test]
fn rope_that_is_not_stated_or_not_understood_is_an_error() {
    assert!(message(llama(), json!({"rope_theta": "absent"})).contains("does not state rope_theta"));
    for kind in ["linear", "dynamic", "yarn", "longrope"] {
        let text = message(llama(), json!({"rope_scaling": {"rope_type": kind, "factor": 2.0}}));
        assert!(text.contains("rope_scaling.rope_type") && text.contains(kind), "{text}");
    }
    let contradiction = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1.0}});
    assert!(message(llama(), contradiction).contains("another one"));
    let unfinished = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}});
    assert!(message(llama(), unfinished).contains("rope_scaling.low_freq_factor"));
    assert!(message(llama(), json!({"rope_scaling": {"factor": 2.0}})).contains("rope_type = (absent)"));
    assert!(message(llama(), json!({"partial_rotary_factor": 0.5})).contains("partial_rotary_factor"));
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
    assert!(config.qkv_bias && !config.qk_norm && config.tie_word_embeddings);
    assert_eq!(config.sliding_window, None);
    let used = json!({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": true});
    assert_eq!(with(llama(), used).unwrap().sliding_window, Some(4096));
}

#[test]
fn qwen3_norms_queries_and_must_state_its_head_dim() {
    let qwen3 = json!({"model_type": "qwen3", "head_dim": 128});
    let config = with(llama(), qwen3).unwrap();
    assert!(config.qk_norm && !config.qkv_bias);
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
