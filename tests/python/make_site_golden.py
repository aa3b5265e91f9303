"""Writes the golden values of every site, every operation, severed traces and readouts; about a minute.

    python tests/python/make_site_golden.py tests/golden [--check]

tiny_sites.json           cases (form: site_cases.py) and captures on the tiny Llama, f64 forward
tiny_sites_qwen2.json     the same for projections with biases
tiny_sites_qwen3.json     the same for projections with head norms and a head dimension of their own
tiny_sites_gpt2.json      as tiny_sites.json of a GPT-2, with logit lens and direct attribution
tiny_severed.json         causal traces with severed sublayers, as in ROME, f64 forward
tiny_severed_gpt2.json    the same of a GPT-2
smollm2_sites.json        cases, lens, direct attribution, a two-token target on the default model, f32

`--check` first holds the hooks to facts that follow from the model's equations (`check_sites.py`).
"""

import argparse
import pathlib

import torch

import anatomy
import reference as ref
import traces
from default_cases import DEFAULT_RUNS, default_cases
from interventions import (
    HEAD_SITES,
    NO_LAYER,
    Edit,
    addresses,
    direct_bias,
    direct_logits,
    forward,
    head_width,
    lens,
)
from make_golden import digits, document, first_token
from site_cases import (
    BASE,
    LAST,
    RUNS,
    bias_cases,
    case,
    edit,
    gpt2_site_cases,
    llama_site_cases,
    projection_cases,
    source,
)
from site_runner import Runner

# ---------------------------------------------------------------------------------------------- tiny models

CHOSEN = list(range(7, 512, 43))


def outcome(z: torch.Tensor, chosen) -> dict:
    """Some logits, in the order of `chosen`, and log-sum-exp and argmax over all of them."""
    z = z.double()
    return {
        "logits": digits(z[list(chosen)], 9),
        "lse": digits(z.logsumexp(-1).item()),
        "argmax": z.argmax().item(),
    }


def captured_rows(model, acts: dict, count: int, positions) -> list[dict]:
    """What stands at every site: the first numbers and the norm of a row, or of a head's part of it."""
    rows = []
    for i, (site, layer) in enumerate(addresses(model)):
        position = positions[i % len(positions)]
        row = acts[site, layer][position]
        at = {"site": site, **({} if site in NO_LAYER else {"layer": layer}), "position": position}
        head = None
        if site in HEAD_SITES or site == "head_out":
            width = head_width(model, site, count)
            head = i % (len(row) // width)
            row = row[head * width : (head + 1) * width]
            row = row[: position + 1] if site in ("scores", "pattern") else row
        at |= {} if head is None else {"head": head}
        rows.append(at | {"first": digits(row[:8], 8), "norm": digits(row.norm().item())})
    return rows


def captures(runner: Runner) -> list[dict]:
    """Every site of a clean run, and of one with edits before, at and after the places read."""
    model = runner.model
    edited = case(
        "captures of an edited run",
        edit("q", 0, [3], "scale", coef=2.0),
        edit("pattern", 1, [4], "replace", sources=[source("same", [4])]),
        edit("z", 2, [LAST], "zero", head=1),
        edit("mlp_act", 2, [3], "zero", dims=[0, 1, 5]),
        edit("final_norm", 0, [LAST], "scale", coef=0.5),
    )
    out = []
    for c in (case("captures of the clean run"), edited):
        acts = runner.run(c, capture=addresses(model))[1]
        out.append(c | {"rows": captured_rows(model, acts, len(BASE), [LAST, 3, 4])})
    return out


def tiny_sites(family: str, cases: list[dict], inside: bool = False) -> str:
    """`inside`: with the logit lens and the attribution of the clean run's answer."""
    runner = Runner(ref.tiny(family), RUNS)
    header = {
        "family": family,
        "dtype": "f64 forward of f32 weights",
        "read": "last position of the run `base`",
        "weights": "by the formula in tests/python/reference.py",
        "form": "tests/python/site_cases.py",
        "config": ref.FAMILIES[family],
        "runs": RUNS,
        "ids": CHOSEN,
        "first": "the first 8 numbers of the row, or of its head's part; of scores and pattern no later key",
    }
    if inside:
        clean, acts = runner.run(case("clean"), addresses(runner.model))
        header["attribution"] = attribution(runner.model, acts, clean, clean.argmax().item())
        header["lens"] = [
            {"layer": k, "logits": digits(lens(runner.model, acts["resid_post", k][-1])[CHOSEN], 9)}
            for k in range(anatomy.layers(runner.model))
        ]
    done = [c | outcome(runner.run(c)[0], CHOSEN) for c in cases]
    return document(header, cases=done, captures=captures(runner))


# ---------------------------------------------------------------------------------------------- severed traces

SEVERED = {"noised": [1, 2, 3], "seed": 1, "samples": 2, "noise_std": 0.25}


def severed_setup(model) -> dict:
    """Arguments of the traces: first and second draw of one generator, of ROME's shape."""
    noised, samples, std = SEVERED["noised"], SEVERED["samples"], SEVERED["noise_std"]
    shape = (SEVERED["seed"], samples, len(noised), model.config.hidden_size, std)
    target = forward(model, BASE)[0][0].argmax().item()
    draws = [traces.legacy_noise(*shape, draw=n) for n in (0, 1)]
    return {"tokens": BASE, "target": target, "noised": noised, "draws": draws}


def tiny_severed(family: str) -> str:
    model = ref.tiny(family)
    s = severed_setup(model)
    args = (model, s["tokens"], s["target"])
    first, second = s["draws"]

    def prob(*noise):
        edits = [Edit("embed", 0, s["noised"], "add", rows) for rows in noise]
        return forward(model, BASE, edits)[0].softmax(-1)[0, s["target"]].item()

    arms = [{"arm": "hidden", "prob": digits(traces.trace(*args, first, s["noised"], "hidden", 1), 9)}]
    for site in ("mlp_out", "attn_out"):
        one_draw = traces.severed(*args, first, s["noised"], site)
        two_draws = traces.severed(*args, second, s["noised"], site, frozen=first, every_layer=True)
        arms.append({"arm": "severed", "site": site, "prob": digits(one_draw, 9)})
        arms.append({"arm": "severed, two draws", "site": site, "prob": digits(two_draws, 9)})
    header = {
        "family": family,
        "dtype": "f64 forward of f32 weights",
        "weights": "by the formula in tests/python/reference.py",
        "config": ref.FAMILIES[family],
        "tokens": BASE,
        "target_id": s["target"],
        **SEVERED,
        "noise": "RandomState(seed).randn(samples, noised positions, hidden) in f64, times noise_std, rounded to f32, "
        "added to the embeddings at the noised positions",
        "hidden": "[sample][layer][position]: P(target) with the clean resid_post restored there",
        "severed": "the same, while the site's values in all later layers at that position are held at those of the "
        "corrupted run (the noise alone): Meng et al. 2022, trace_with_repatch",
        "severed, two draws": "as ROME's code runs: its first pass, whose values are held, has the generator's first "
        "draw, its second pass, which restores, the next draw; held are all layers at the position",
        "clean_prob": digits(prob()),
        "corrupted_prob": [digits(prob(rows)) for rows in first],
        "corrupted_prob_second_draw": [digits(prob(rows)) for rows in second],
    }
    return document(header, arms=arms)


# ---------------------------------------------------------------------------------------------- default model

ANSWERS = [" Paris", " Rome", " London", " the"]
LENS_LAYERS = [0, 6, 12, 18, 24, 29]
PATTERN = {"layer": 19, "head": 4}


def entropy(z: torch.Tensor) -> torch.Tensor:
    """Nats, f64, of rows of logits."""
    logp = z.double().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def lens_grid(model, acts: dict, target: int) -> list[dict]:
    grid = []
    for layer in LENS_LAYERS:
        z = lens(model, acts["resid_post", layer])
        row = {"top1": z.argmax(-1).tolist(), "target_logit": digits(z[:, target])}
        grid.append({"layer": layer, **row, "entropy": digits(entropy(z))})
    return grid


def attribution(model, acts: dict, logits: torch.Tensor, target: int) -> dict:
    """What every component adds to the target's logit at the last position."""
    layers, hidden = range(anatomy.layers(model)), model.config.hidden_size
    last = acts["resid_post", layers[-1]][-1]

    def of(site, k):
        return direct_logits(model, acts[site, k][-1].view(-1, hidden), last, target)

    found = {
        "target_id": target,
        "logit": digits(logits[target].item()),
        "embed": digits(of("embed", 0).item(), 8),
        "attn_out": digits([of("attn_out", k).item() for k in layers], 8),
        "mlp_out": digits([of("mlp_out", k).item() for k in layers], 8),
        "head_out": [digits(of("head_out", k), 8) for k in layers],
    }
    positions = anatomy.parts(model).positions
    if positions is None:
        return found
    # Of a GPT-2: learned positions, and biases that are no component's own.
    count = len(acts["embed", 0])
    biases = torch.stack([anatomy.block(model, k).o.bias for k in layers])
    return found | {
        "positions": digits(direct_logits(model, positions.weight[count - 1 : count], last, target).item(), 8),
        "bias": digits(direct_bias(model, target), 8),
        "attn_bias": digits(direct_logits(model, biases, last, target), 8),
    }


def joint_logprob(runner: Runner, cases, continuation: list[int]) -> list[dict]:
    """log P of a continuation by teacher forcing, token by token, f64 from f32 logits: the base's tokens, then the
    continuation's so far; edits and sources as in the case, at the base's positions."""
    out = []
    for c in cases:
        parts = []
        for n, token in enumerate(continuation):
            # The hooks count positions from the start, and no source is in what follows.
            longer = runner.runs["base"] + continuation[:n]
            hooks = [runner.hook(e, len(longer), runner.acts) for e in c["edits"]]
            z = forward(runner.model, longer, hooks)[0][0]
            parts.append(z.double().log_softmax(-1)[token].item())
        out.append({"name": c["name"], "edits": c["edits"], "logprobs": digits(parts), "joint": digits(sum(parts))})
    return out


def smollm2_sites(model) -> str:
    runner = Runner(model, {name: ref.encode(prompt) for name, prompt in DEFAULT_RUNS.items()})
    tokens, target = runner.runs["base"], first_token(" Paris")
    chosen = [first_token(text) for text in ANSWERS]
    cases = default_cases({name: len(t) for name, t in runner.runs.items()})

    def done(c):
        z = runner.run(c)[0]
        return c | outcome(z, chosen) | {"prob": digits(z.double().softmax(-1)[target].item())}

    clean, acts = runner.run(case("clean"), addresses(model))
    continuation = ref.encode(" Paris,")
    held = [case("clean"), next(c for c in cases if c["name"].startswith("resid_post"))]
    header = {
        "model": "smollm2-135m",
        "dtype": "f32 forward; probabilities and entropies in f64 from its logits",
        "read": "last position of the run `base`",
        "form": "tests/python/site_cases.py",
        "prompts": DEFAULT_RUNS,
        "runs": runner.runs,
        "target_id": target,
        "ids": chosen,
        "texts": ANSWERS,
        "prob": "P(target)",
        "attribution": attribution(model, acts, clean, target),
        "pattern": {
            **PATTERN,
            "position": len(tokens) - 1,
            "row": digits(acts["pattern", PATTERN["layer"]].view(len(tokens), -1, len(tokens))[-1, PATTERN["head"]], 8),
        },
        "notes": {
            "lens": "resid_post of a layer, by position, through the final norm and the unembedding; entropy in nats",
            "attribution": "what a component of the last position's final residual adds to the target's logit, the "
            "final norm's scale held: embed + attn_out by layer + mlp_out by layer = logit; head_out [layer][head] sums "
            "to attn_out over heads",
            "pattern": "row of one head's attention pattern in the clean run, by key position",
            "teacher_forced": "log P of each token of two_tokens given the base and the tokens before it, under the "
            "case's edits, which keep to the base's positions; joint is their sum",
        },
        "two_tokens": {"text": " Paris,", "ids": continuation},
    }
    return document(
        header,
        cases=[done(c) for c in [case("clean"), *cases]],
        lens=lens_grid(model, acts, target),
        teacher_forced=joint_logprob(runner, held, continuation),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="first hold the hooks to what they must satisfy")
    parser.add_argument("--only", help="write this file alone, a name without .json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.check:
        from check_sites import check

        check()
    writers = {
        "tiny_sites": lambda: tiny_sites("llama", llama_site_cases()),
        "tiny_sites_qwen2": lambda: tiny_sites("qwen2", bias_cases()),
        "tiny_sites_qwen3": lambda: tiny_sites("qwen3", projection_cases()),
        "tiny_sites_gpt2": lambda: tiny_sites("gpt2", gpt2_site_cases(), inside=True),
        "tiny_severed": lambda: tiny_severed("llama"),
        "tiny_severed_gpt2": lambda: tiny_severed("gpt2"),
        "smollm2_sites": lambda: smollm2_sites(ref.smollm2()),
    }
    for name, write in writers.items():
        if options.only in (None, name):
            path = options.folder / f"{name}.json"
            path.write_text(write())
            print(f"{path}  {path.stat().st_size / 1024:.0f} KiB", flush=True)


if __name__ == "__main__":
    main()
