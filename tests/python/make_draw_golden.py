"""Makes tests/golden/draws.json: tokens drawn from logits, by a second implementation of `src/model/draw.rs`, and the random numbers of
`src/generate/rng.rs`. Compares the frequencies of every case with its probabilities (chi-square).

    python tests/python/make_draw_golden.py
"""

import json
import math
import pathlib

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "draws.json"
MASK = (1 << 64) - 1


def mixed(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def uniform(seed, sample, step):
    """A number of a seed, a sample and a step, whatever was drawn before."""
    bits = mixed((mixed(seed ^ 0x9E3779B97F4A7C15) + mixed(sample << 32 | step)) & MASK)
    return (bits >> 11) / (1 << 53)


def logits(seed, n):
    state, found = seed, []
    for _ in range(n):
        total = 0.0
        for _ in range(3):
            state = (state * 6364136223846793005 + 1442695040888963407) & MASK
            total += (state >> 40) / (1 << 24)
        x = (total - 1.5) * 64
        # Halves away from zero, as Rust rounds.
        found.append(math.copysign(math.floor(abs(x) + 0.5), x) / 8)
    return found


def distribution(values, temperature, top_k, top_p, min_p, bias):
    """The tokens that are kept, the largest logit first, the weight of each, and the weight of all."""
    divided = [x / (temperature or 1.0) for x in values]
    for token, more in bias:
        divided[token] += more
    order = sorted(range(len(divided)), key=lambda token: (-divided[token], token))
    if temperature == 0:
        return order[:1], {order[0]: 1.0}, 1.0
    weights = {token: math.exp(divided[token] - divided[order[0]]) for token in order}
    total = sum(weights[token] for token in range(len(divided)))
    kept = order[: top_k or None]
    if top_p < 1:
        enough, cumulative, few = top_p * sum(weights[token] for token in kept), 0.0, []
        for token in kept:
            if few and cumulative >= enough:
                break
            few.append(token)
            cumulative += weights[token]
        kept = few
    kept = [token for token in kept if weights[token] >= min_p] or order[:1]
    return kept, weights, total


def draw(kept, weights, u):
    mass = sum(weights[token] for token in kept)
    cumulative = 0.0
    for token in kept:
        cumulative += weights[token]
        if cumulative > u * mass:
            return token
    return kept[-1]


def chi_square(kept, weights, tokens):
    """How far frequencies are from probabilities: chi-square, in its own standard deviations above its mean."""
    assert set(tokens) <= set(kept)
    mass = sum(weights[token] for token in kept)
    expected = {token: weights[token] / mass * len(tokens) for token in kept}
    common = [token for token in kept if expected[token] >= 5]
    cells = [(tokens.count(token), expected[token]) for token in common]
    rest = len(tokens) - sum(e for _, e in cells)
    if rest >= 5:
        cells.append((len(tokens) - sum(n for n, _ in cells), rest))
    if len(cells) < 2:
        return 0.0
    chi = sum((n - e) ** 2 / e for n, e in cells)
    return (chi - (len(cells) - 1)) / math.sqrt(2 * (len(cells) - 1))


def main():
    cases, draws = [], 0
    given = [
        (1.0, 0, 1.0, 0.0, []),
        (0.7, 0, 0.9, 0.0, []),
        (1.0, 20, 1.0, 0.0, []),
        (1.3, 50, 0.8, 0.0, [[3, 2.5], [10, -100.0]]),
        (1.0, 0, 1.0, 0.05, []),
        (2.0, 400, 0.95, 0.01, [[0, 5.0]]),
        (0.0, 0, 1.0, 0.0, [[7, 30.0]]),
        (5.0, 0, 1.0, 0.0, []),
        (1.0, 1, 1.0, 0.0, []),
        (0.8, 0, 0.5, 0.2, []),
    ]
    for number, (temperature, top_k, top_p, min_p, bias) in enumerate(given):
        vocabulary = 2000 if number == 7 else 1200 if number % 2 else 300
        case = {"logits": 11 + number, "vocabulary": vocabulary, "temperature": temperature, "top_k": top_k,
                "top_p": top_p, "min_p": min_p, "bias": bias}
        values = logits(case["logits"], vocabulary)
        kept, weights, total = distribution(values, temperature, top_k, top_p, min_p, bias)
        numbers = [uniform(1, number, step) for step in range(1000)]
        tokens = [draw(kept, weights, u) for u in numbers]
        off = chi_square(kept, weights, tokens)
        assert off < 4, (case, off)
        mass = sum(weights[token] for token in kept) / total
        cases.append(case | {"mass_kept": mass, "u": numbers, "tokens": tokens})
        draws += len(tokens)
    few = [[seed, sample, step, uniform(seed, sample, step)]
           for seed in (0, 1, 2**64 - 1) for sample in (0, 1, 4095) for step in (0, 1, 8191)]
    GOLDEN.write_text(json.dumps({"uniform": few, "cases": cases}) + "\n")
    print(draws, "draws", [round(case["mass_kept"], 4) for case in cases])


main()
