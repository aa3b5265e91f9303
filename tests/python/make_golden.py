"""Writes the golden values that mediant is tested against. Deterministic on one machine;
the causal traces take a few minutes on two quiet cores.

    python tests/python/make_golden.py tests/golden [--check] [--only NAME]

`--check` also compares f32 with f64, cells run one at a time with batched ones, the hooks with their definitions, and
the dequantised weights with transformers' own GGUF loader, and prints the differences.

Default model: f32 forward, probabilities and divergences in f64 from its f32 logits. Tiny models: f64 forward.
Numbers carry 9 or 10 significant digits.
"""

import argparse
import functools
import hashlib
import json
import pathlib

import numpy as np
import torch

import anatomy
import reference as ref
import traces
from corruptions import CASES as CORRUPTIONS, corrupted_prob
from interventions import Edit, forward
from tiny_cases import edit_of, llama_cases, family_cases

PROMPTS = [  # the seed notebook's, in its order, then one where the small default model is confident
    (ref.PUN, " current"),
    ("The wires carry high voltage electrical", " current"),
    ("Why did the banker break up with his girlfriend? He lost", " interest"),
    ("What did the ocean say to the beach? Nothing, it just", " waved"),
    ("Why don't scientists trust atoms? Because they make up", " everything"),
    ("The river has a strong water", " current"),
    ("Why did the banker break up? He lost", " interest"),
    ("What do you call a fake noodle? An", " imp"),
    ("Time flies like an arrow. Fruit flies like a", " banana"),
    (ref.EIFFEL, " Paris"),
]
LITERAL, RIVER = PROMPTS[1][0], PROMPTS[5][0]


def digits(x, n: int = 10):
    """Numbers cut to n significant digits, keeping nesting."""
    if isinstance(x, (torch.Tensor, np.ndarray)):
        x = x.tolist()
    if isinstance(x, list):
        return [digits(v, n) for v in x]
    return float(f"{x:.{n}g}")


def lines(items) -> str:
    """A JSON array with one item a line: compact, and a change shows as a line."""
    return "[\n" + ",\n".join(json.dumps(i, separators=(",", ":")) for i in items) + "\n]"


def document(header: dict, **arrays) -> str:
    """A JSON object: header fields, then arrays of one item a line."""
    parts = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in header.items()]
    parts += [f"{json.dumps(k)}: {lines(v)}" for k, v in arrays.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def first_token(text: str) -> int:
    return ref.encode(text)[0]


def kl(p_logits, q_logits) -> float:
    """KL(p || q) in nats, f64."""
    p, q = p_logits.double().log_softmax(-1), q_logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum().item()


def target_scores(logits, target: int) -> dict:
    """Logit, probability and rank (1 = most probable, ties to the lower id) of a token."""
    z = logits.double()
    above = (z > z[target]).sum() + (z[:target] == z[target]).sum()
    return {
        "logit": digits(z[target].item()),
        "prob": digits(z.softmax(-1)[target].item()),
        "rank": above.item() + 1,
    }


# ---------------------------------------------------------------------------------------------- default model


def smollm2_runs(model) -> str:
    def run(prompt, target):
        tokens, target_id = ref.encode(prompt), first_token(target)
        z = forward(model, tokens)[0][0]
        p = z.double().softmax(-1)
        top = [[i, digits(z[i].item()), digits(p[i].item())] for i in z.topk(10).indices.tolist()]
        return {
            "prompt": prompt,
            "tokens": tokens,
            "target": target,
            "target_id": target_id,
            **target_scores(z, target_id),
            "log_sum_exp": digits(z.double().logsumexp(-1).item()),
            "top": top,
        }

    header = {"model": "smollm2-135m", "dtype": "f32", "read": "last position", "top": "[id, logit, prob]"}
    return document(header, runs=[run(*p) for p in PROMPTS])


def smollm2_weights() -> str:
    tensors = [
        {"name": name, "shape": list(w.shape), "sha256": hashlib.sha256(w.astype("<f4").tobytes()).hexdigest()}
        for name, w in sorted(ref.smollm2_weights())
    ]
    header = {
        "model": "smollm2-135m",
        "what": "dequantised tensors under Hugging Face names and row order; SHA-256 of the little-endian f32 bytes",
    }
    return document(header, tensors=tensors)


def smollm2_patch(model) -> str:
    def sweep(source, base):
        site, layers, target = "resid_post", anatomy.layers(model), first_token(" current")
        z_source, acts = forward(model, ref.encode(source), capture=[(site, k) for k in range(layers)])
        tokens = ref.encode(base)
        z_base = forward(model, tokens)[0]

        def cell(layer):
            edit = Edit(site, layer, [len(tokens) - 1], "replace", acts[site, layer][-1:])
            z = forward(model, tokens, [edit])[0][0]
            return {
                "layer": layer,
                **target_scores(z, target),
                "kl_source": digits(kl(z_source[0], z)),
                "kl_base": digits(kl(z_base[0], z)),
            }

        return {
            "source": source,
            "base": base,
            "target_id": target,
            "source_scores": target_scores(z_source[0], target),
            "base_scores": target_scores(z_base[0], target),
            "layers": [cell(k) for k in range(layers)],
        }

    header = {
        "model": "smollm2-135m",
        "dtype": "f32",
        "edit": "resid_post of one layer, last position, replaced by the source run's at its last position",
        "kl_source": "KL(source || patched) in nats, f64",
        "kl_base": "KL(base || patched) in nats, f64",
    }
    return document(header, sweeps=[sweep(ref.PUN, LITERAL), sweep(ref.PUN, RIVER), sweep(RIVER, ref.PUN)])


def trace_setup(model, prompt: str, target: str, seed: int, samples: int, subject: str | None, k, std):
    """Tokens, target id, noised positions, sigma, noise `[samples, positions, d]`."""
    tokens = ref.encode(prompt)
    span = ref.span_of(prompt, subject) if subject else (0, len(tokens))
    sigma = traces.subject_sigma(model, tokens, span)
    std = std if k is None else k * sigma
    noised = list(range(*span))
    noise = traces.legacy_noise(seed, samples, len(noised), model.config.hidden_size, std)
    return tokens, first_token(target), noised, sigma, std, noise


TRACES = {
    "eiffel": (
        dict(prompt=ref.EIFFEL, target=" Paris", seed=1, samples=2, subject="Eiffel Tower", k=3.0, std=None),
        [("hidden", 1), ("mlp", 10), ("attn", 10)],
    ),
    "pun": (
        dict(prompt=ref.PUN, target=" current", seed=0, samples=1, subject=None, k=None, std=0.1),
        [("hidden", 1)],
    ),
}


def smollm2_trace(model) -> str:
    def one(spec, arms):
        tokens, target, noised, sigma, std, noise = trace_setup(model, **spec)
        clean = forward(model, tokens)[0].double().softmax(-1)[0, target].item()
        corrupted = [
            forward(model, tokens, [Edit("embed", 0, noised, "add", rows)])[0].double().softmax(-1)[0, target].item()
            for rows in noise
        ]
        return {
            **spec,
            "tokens": tokens,
            "target_id": target,
            "noised_positions": noised,
            "sigma": sigma,
            "noise_std": std,
            "clean_prob": digits(clean),
            "corrupted_prob": digits(corrupted),
            "arms": [
                {
                    "arm": arm,
                    "site": traces.ARM_SITES[arm],
                    "window": width,
                    "prob": digits(traces.trace(model, tokens, target, noise, noised, arm, width), 9),
                }
                for arm, width in arms
            ],
        }

    header = {
        "model": "smollm2-135m",
        "dtype": "f32",
        "noise": "RandomState(seed).randn(samples, noised positions, hidden) in f64, times noise_std, rounded to f32, "
        "added to the embeddings in f32; the same noise in all cells",
        "sigma": "unbiased standard deviation of all elements of the noised positions' embeddings, f64",
        "prob": "[sample][layer][position]: P(target) with the clean activation restored there",
    }
    return document(header, traces=[one(*t) for t in TRACES.values()])


def smollm2_corruption(model) -> str:
    def one(corrupt):
        subject = "Eiffel Tower"
        prob, sigma = corrupted_prob(model, corrupt, ref.EIFFEL, subject, first_token(" Paris"))
        given = {} if corrupt["method"] == "multivariate" else {"sigma": {"k": 3, "of": "subjects"}}
        return {"prompt": ref.EIFFEL, "subject": subject, "corrupt": corrupt | given, "sigma": sigma, "prob": digits(prob)}

    header = {"model": "smollm2-135m", "dtype": "f32", "prob": "P(\" Paris\") of each sample of the corrupted run"}
    return document(header, cases=[one(corrupt) for corrupt in CORRUPTIONS])


# ---------------------------------------------------------------------------------------------- tiny models


def last_logits(model, tokens, edits=()):
    return forward(model, tokens, edits)[0][0]


def run_case(model, case: dict) -> dict:
    """The case with what it gives: eight logits spread over the vocabulary, log-sum-exp and argmax over all of it."""
    acts = {}
    if case["source"] is not None:
        addresses = [(e["site"], e["layer"] or 0) for e in case["edits"]]
        acts = forward(model, case["source"], capture=addresses)[1]
    head_dim = anatomy.head_dim(model)
    widths = {"z": model.config.num_attention_heads * head_dim}
    edits = [edit_of(e, acts, widths.get(e["site"], model.config.hidden_size), head_dim) for e in case["edits"]]
    z = last_logits(model, case["base"], edits)
    chosen = range(7, model.config.vocab_size, 64)
    return case | {
        "logits": {str(i): digits(z[i].item()) for i in chosen},
        "lse": digits(z.logsumexp(-1).item()),
        "argmax": z.argmax().item(),
    }


def tiny_golden(family: str) -> str:
    model = ref.tiny(family)
    sequences = [ref_tokens(f"{family} run", n) for n in (1, 5, 17)]
    runs = [{"tokens": t, "logits": digits(last_logits(model, t), 9)} for t in sequences]
    weights = [
        {"name": n, "shape": list(w.shape), "sha256": hashlib.sha256(w.astype("<f4").tobytes()).hexdigest()}
        for n, w in ref.tiny_weights(family).items()
    ]
    cases = llama_cases() if family == "llama" else family_cases(family)
    header = {
        "family": family,
        "dtype": "f64 forward of f32 weights",
        "read": "last position",
        "weights": "by the formula in tests/python/reference.py",
        "vectors": 'rows [positions, width] of an edit: coefficient times uniform("name", positions * width)',
        "config": ref.FAMILIES[family],
    }
    return document(header, tensors=weights, runs=runs, cases=[run_case(model, c) for c in cases])


def ref_tokens(name: str, count: int) -> list[int]:
    """Token ids below 512 from the weight formula."""
    return [int(v) for v in (ref.uniform(name, count) + 1) * 256]


# ---------------------------------------------------------------------------------------------- generators


def philox4x32(counter, key, rounds: int = 10):
    """Philox 4x32 of Salmon et al. 2011 (Random123), words in order."""
    c, k = list(counter), list(key)
    for _ in range(rounds):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


# Known answers of Random123's own test file (kat_vectors).
PHILOX_KAT = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numpy_noise() -> str:
    def draw(seed, shape):
        values = np.random.RandomState(seed).randn(*shape).ravel()
        return {
            "seed": seed,
            "shape": list(shape),
            "first": values[:16].tolist(),  # shortest digits that round-trip: bit-exact
            "last": values[-4:].tolist(),
            "sha256": hashlib.sha256(values.astype("<f8").tobytes()).hexdigest(),
        }

    shapes = [(1, 1, 1), (1, 1, 7), (1, 3, 5), (2, 3, 576), (10, 3, 64), (1, 12, 576)]
    draws = [draw(seed, shape) for seed in (0, 1, 42, 2**32 - 1) for shape in shapes]
    known = []
    for counter, key, out in PHILOX_KAT:
        words = [[int(w, 16) for w in text.split()] for text in (counter, key, out)]
        if philox4x32(*words[:2]) != words[2]:
            raise SystemExit(f"Philox known answer does not hold: {counter} {key}")
        known.append({"counter": counter, "key": key, "out": out})
    header = {"what": "RandomState(seed).randn(*shape), row-major; SHA-256 of the little-endian f64 bytes"}
    return document(header, draws=draws, philox4x32_10=known)


# ---------------------------------------------------------------------------------------------- main


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="also check the reference against itself")
    parser.add_argument("--only", help="write this file alone, a name without .json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    model = functools.cache(ref.smollm2)
    writers = {
        "numpy_noise": numpy_noise,
        **{f"tiny_{f}": (lambda f=f: tiny_golden(f)) for f in ref.FAMILIES},
        "smollm2_weights": smollm2_weights,
        "smollm2_runs": lambda: smollm2_runs(model()),
        "smollm2_patch": lambda: smollm2_patch(model()),
        "smollm2_trace": lambda: smollm2_trace(model()),
        "smollm2_corruption": lambda: smollm2_corruption(model()),
    }
    for name, write in writers.items():
        if options.only in (None, name):
            path = options.folder / f"{name}.json"
            path.write_text(write())
            print(f"{path}  {path.stat().st_size / 1024:.0f} KiB", flush=True)
    if options.check:
        from check_reference import check

        check(model(), options.folder)


if __name__ == "__main__":
    main()
