"""Writes what transformers makes of the rotary embeddings of random configurations, and logits of tiny models with each scaling.

    python tests/python/make_rope_golden.py tests/golden                      # rope.json and tiny_rope.json
    python tests/python/make_rope_golden.py OUT --configs 2000 --seed 7       # the same test in full:
    MEDIANT_ROPE_GOLDEN=OUT/rope.json cargo test --lib of_random_configurations

A configuration is a whole `config.json` in one of the forms that are in use: `rope_parameters`, or `rope_scaling` beside a
`rope_theta`, or both tables. The numbers are the module's own after a forward pass over a prompt of each length.
"""

import argparse
import json
import pathlib
import random

import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

import reference as ref
from make_golden import digits, document, last_logits, ref_tokens

CLASSES = {
    "llama": (transformers.LlamaConfig, LlamaRotaryEmbedding),
    "mistral": (transformers.MistralConfig, MistralRotaryEmbedding),
    "qwen2": (transformers.Qwen2Config, Qwen2RotaryEmbedding),
    "qwen3": (transformers.Qwen3Config, Qwen3RotaryEmbedding),
}
KINDS = ["default", "linear", "dynamic", "yarn", "llama3"]


def maybe(rng: random.Random, chance: float, value):
    return value if rng.random() < chance else None


def scaling(rng: random.Random, kind: str, positions: int) -> dict:
    """The keys of one kind, those that may be left out at random."""
    factor = rng.choice([1.0, 1.5, 2, 2.0, 4.0, 8.0, 32.0, round(rng.uniform(1, 40), 3)])
    original = rng.choice([positions, max(16, int(positions / factor)), max(16, positions // 8)])
    if kind == "default":
        return {}
    if kind in ("linear", "dynamic"):
        return {"factor": factor}
    if kind == "llama3":
        low = rng.choice([1.0, 1, round(rng.uniform(0.5, 2), 2)])
        high = low + rng.choice([3.0, round(rng.uniform(0.5, 6), 2)])
        return {"factor": factor, "low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": original}
    optional = {
        "original_max_position_embeddings": maybe(rng, 0.8, original),
        "attention_factor": maybe(rng, 0.3, round(rng.uniform(0.5, 2), 4)),
        "beta_fast": maybe(rng, 0.4, rng.choice([32, 32.0, 0, 48.5, 8])),
        "beta_slow": maybe(rng, 0.4, rng.choice([1, 1.0, 0, 2.5, 0.25])),
        "mscale": maybe(rng, 0.4, rng.choice([1.0, 0.707, 0, 2])),
        "mscale_all_dim": maybe(rng, 0.4, rng.choice([1.0, 0.5, 0, 0.707])),
        "truncate": maybe(rng, 0.4, rng.random() < 0.5),
    }
    stated = {key: value for key, value in optional.items() if value is not None}
    return {"factor": maybe(rng, 0.95, factor), **stated}


def configuration(rng: random.Random) -> dict:
    family = rng.choice(list(CLASSES))
    heads = rng.choice([1, 2, 4])
    dim = rng.choice([4, 8, 16, 32, 64, 80, 96, 128])
    positions = rng.choice([64, 100, 512, 2048, 4096, 8192, 32768, 131072])
    theta = rng.choice([10_000.0, 10_000, 500_000.0, 1_000_000.0, round(10 ** rng.uniform(2, 7), 1)])
    config = {
        "model_type": family,
        "vocab_size": 64,
        "hidden_size": heads * dim,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": positions,
        "sliding_window": None,
    }
    if family == "qwen3" or rng.random() < 0.3:
        config["head_dim"] = dim
    kind = rng.choice(KINDS)
    table = scaling(rng, kind, positions)
    form = rng.choice(["parameters", "scaling", "scaling, theta inside", "both"])
    name = {"type": kind} if form.startswith("scaling") and rng.random() < 0.5 else {"rope_type": kind}
    if kind in ("yarn", "llama3") and rng.random() < 0.15:
        # At the top level it counts instead of the one in the table.
        original = table.pop("original_max_position_embeddings", positions)
        config["original_max_position_embeddings"] = original
    if form == "parameters":
        config["rope_parameters"] = {**name, **table, "rope_theta": theta}
    elif form == "scaling":
        config |= {"rope_theta": theta, "rope_scaling": {**name, **table} if kind != "default" else None}
    elif form == "scaling, theta inside":
        config["rope_scaling"] = {**name, **table, "rope_theta": theta}
    else:
        # As a model card tells to add it to what transformers 5 wrote; without a base in it, 10000 counts.
        inside = {"rope_theta": theta} if rng.random() < 0.5 else {}
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta if inside else 10_000.0}
        config["rope_scaling"] = {**name, **table, **inside}
    return config


def frequencies(config: dict) -> dict:
    """The module's numbers for prompts of some lengths, each in a module of its own."""
    config_class, module = CLASSES[config["model_type"]]
    positions = config["max_position_embeddings"]
    lengths = [positions // 2, positions, positions + 1, positions + positions // 2, 3 * positions]

    def of(length: int):
        rope = module(config_class.from_dict(json.loads(json.dumps(config))))
        rope(torch.zeros(1), torch.tensor([[length - 1]]))
        return [float(f"{x:.9g}") for x in rope.inv_freq.tolist()], float(rope.attention_scaling)

    found = [of(n) for n in lengths]
    if all(f == found[0] for f in found):
        lengths, found = lengths[:1], found[:1]
    return {
        "config": config,
        "attention_factor": found[0][1],
        "prompts": [{"length": n, "inverse_frequencies": f} for n, (f, _) in zip(lengths, found, strict=True)],
    }


# ---------------------------------------------------------------------------------------------- logits

POSITIONS = 24
LENGTHS = [5, POSITIONS, POSITIONS + 1, 40, 71]
SCALED = [
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "dynamic", "factor": 3.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": POSITIONS},
    {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 20,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "beta_fast": 8.0,
        "beta_slow": 0.5,
        "truncate": False,
    },
]


def logits(base: dict, table: dict) -> dict:
    parameters = {**table, "rope_theta": base["rope_parameters"]["rope_theta"]}
    ref.FAMILIES["scaled"] = base | {"max_position_embeddings": POSITIONS, "rope_parameters": parameters}

    def one(length: int) -> dict:
        # A model of its own: what dynamic scaling does depends on what was computed before.
        tokens = ref_tokens(f"rope {table['rope_type']} {length}", length)
        z = last_logits(ref.tiny("scaled"), tokens)
        chosen = range(7, base["vocab_size"], 64)
        return {"tokens": tokens, "logits": {str(i): digits(z[i].item()) for i in chosen}, "lse": digits(z.logsumexp(-1).item())}

    return {"rope": table, "runs": [one(n) for n in LENGTHS]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--configs", type=int, default=48)
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    cases = [frequencies(configuration(rng)) for _ in range(options.configs)]
    header = {"what": "rotary embeddings by transformers", "transformers": transformers.__version__, "seed": options.seed}
    (options.folder / "rope.json").write_text(document(header, cases=cases))
    base = ref.FAMILIES["llama"]
    header = {"family": "llama", "dtype": "f64 forward of f32 weights", "read": "last position", "config": base}
    header["max_position_embeddings"] = POSITIONS
    (options.folder / "tiny_rope.json").write_text(document(header, cases=[logits(base, table) for table in SCALED]))


if __name__ == "__main__":
    main()
