"""Corrupted runs of the default model, one number a sample: the golden values of every method of corruption.

The counter-based generator is written out here a second time: streams and numbers are part of what is served.
"""

import numpy as np
import torch

import reference as ref
from interventions import Edit, forward
from traces import subject_sigma

# Streams of the corruptions, as the documentation of `NoiseKey::stream` has them.
GAUSSIAN, CHI_SQUARE, MULTIVARIATE, UNIFORM = 0, 2**32 - 2, 2**32 - 3, 2**32 - 1


def unit_pairs(n: int, stream: int, sample: int, position: int, seed: int):
    """Philox 4x32-10 (Salmon et al. 2011) over blocks 0 to n - 1: two doubles in [0, 1) of each."""
    low = np.uint64(0xFFFFFFFF)
    block = np.arange(n, dtype=np.uint64)
    c = [block] + [np.full_like(block, word) for word in (position, sample, stream)]
    k = [seed % 2**32, seed >> 32]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), b & low, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    high = [word >> np.uint64(s) for word, s in zip(c, (5, 6, 5, 6))]
    unit = lambda a, b: (a.astype(float) * 2**26 + b.astype(float)) / 2**53
    return unit(high[0], high[1]), unit(high[2], high[3])


def normal(n: int, *key) -> np.ndarray:
    """Box and Muller's transform."""
    u, v = unit_pairs((n + 1) // 2, *key)
    radius, angle = np.sqrt(-2 * np.log(1 - u)), 2 * np.pi * v
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()[:n]


def uniform(n: int, *key) -> np.ndarray:
    return 2 * np.stack(unit_pairs((n + 1) // 2, *key), 1).ravel()[:n] - 1


def rows(corrupt: dict, table: np.ndarray, sigma: float, positions: list[int]) -> np.ndarray:
    """Noise `[samples, positions, hidden]` in f64."""
    seed, samples, d = corrupt["seed"], corrupt["samples"], table.shape[1]
    method, shape = corrupt["method"], (samples, len(positions), d)
    if corrupt["rng"] == "numpy_legacy":
        rng = np.random.RandomState(seed)
        return sigma * (rng.randn(*shape) if method == "gaussian" else rng.uniform(-1, 1, shape))
    out, vocabulary = np.empty(shape), len(table)
    mean = table.mean(0)
    for s in range(samples):
        for i, p in enumerate(positions):
            key = (s, p, seed)
            if method == "gaussian":
                out[s, i] = sigma * normal(d, GAUSSIAN, *key)
            elif method == "uniform":
                out[s, i] = sigma * uniform(d, UNIFORM, *key)
            elif method == "student_t":
                df = corrupt["df"]
                chi_square = (normal(df, CHI_SQUARE, *key) ** 2).sum()
                out[s, i] = sigma * np.sqrt((df - 2) / chi_square) * normal(d, GAUSSIAN, *key)
            else:
                # The covariance of E's rows is (E - mean)^T (E - mean) / (V - 1).
                g = normal(vocabulary, MULTIVARIATE, *key)
                out[s, i] = corrupt["k"] * ((table - mean).T @ g) / np.sqrt(vocabulary - 1)
    return out + (mean if method == "multivariate" and corrupt["mode"] == "replace" else 0)


def noise(method: str, mode: str, rng: str = "philox", **own) -> dict:
    return {"method": method, "mode": mode, "rng": rng, "seed": 3, "samples": 3, **own}


CASES = [
    noise("gaussian", "add"),
    noise("gaussian", "replace", "numpy_legacy"),
    noise("uniform", "add", "numpy_legacy"),
    noise("uniform", "replace"),
    noise("student_t", "add", df=4),
    noise("multivariate", "add", k=0.5),
    noise("multivariate", "replace", k=1.0),
]


def corrupted_prob(model, corrupt: dict, prompt: str, subject: str, target: int) -> tuple[list[float], float]:
    """P(target) of every sample, and the sigma of the noise."""
    tokens = ref.encode(prompt)
    span = ref.span_of(prompt, subject)
    sigma = 3 * subject_sigma(model, tokens, span)
    positions = list(range(*span))
    table = model.model.embed_tokens.weight.detach().double().numpy()
    drawn = torch.from_numpy(rows(corrupt, table, sigma, positions)).float()
    op = "add" if corrupt["mode"] == "add" else "replace"
    logits = [forward(model, tokens, [Edit("embed", 0, positions, op, sample)])[0][0] for sample in drawn]
    return [z.double().softmax(-1)[target].item() for z in logits], sigma
