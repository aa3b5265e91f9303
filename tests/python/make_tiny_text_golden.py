"""Writes `tests/golden/tiny_texts.json`: greedy texts of the tiny models of every family under interventions, by PyTorch with hooks and
without any cache: every step is one whole forward in f64 over prompt and text.

    python tests/python/make_tiny_text_golden.py
"""

import json
import pathlib

import torch

import reference as ref
from interventions import Edit, forward, site_width

PROMPT = [17, 301, 5, 44, 209, 498, 3]
STEPS = 6
# Positions of the prompt that are written, and a coefficient for each step; none: the step is left alone.
CASES = [
    {"name": "plain", "site": "resid_post", "layer": 1, "op": "add", "prompt": [], "coefs": [None] * STEPS},
    {"name": "added at every step", "site": "resid_post", "layer": 1, "op": "add", "prompt": [], "coefs": [2.0] * STEPS},
    {"name": "added from step 1 on", "site": "z", "layer": 2, "op": "add", "prompt": [], "coefs": [None] + [3.0] * (STEPS - 1)},
    {"name": "a schedule", "site": "mlp_out", "layer": 0, "op": "add", "prompt": [], "coefs": [4.0, 3.0, 2.0, 1.0, None, None]},
    {"name": "replaced in the prompt and at steps", "site": "attn_out", "layer": 2, "op": "replace", "prompt": [2], "coefs": [None, 1.0, None, 1.0, None, 1.0]},
    {"name": "projected out everywhere", "site": "resid_mid", "layer": 1, "op": "project_out", "prompt": list(range(len(PROMPT) - 1)), "coefs": [1.0] * STEPS},
    {"name": "clamped", "site": "resid_post", "layer": 2, "op": "clamp", "prompt": [3], "coefs": [1.0] * STEPS, "min": 0.75, "max": 1.25},
    {"name": "a part multiplied", "site": "mlp_norm", "layer": 1, "op": "scale", "prompt": [], "coefs": [-2.5] * STEPS},
]


def edits(model, case: dict, steps: int) -> list[Edit]:
    vector = torch.from_numpy(ref.uniform("text", site_width(model, case["site"], len(PROMPT)))).double()
    written = [(position, 1.0) for position in case["prompt"]]
    written += [(len(PROMPT) - 1 + i, coef) for i, coef in enumerate(case["coefs"][:steps]) if coef is not None]

    def edit(position: int, coef: float) -> Edit:
        at = (case["site"], case["layer"], [position], case["op"])
        match case["op"]:
            case "add" | "replace":
                return Edit(*at, vector[None], coef)
            case "project_out":
                return Edit(*at, basis=vector[None])
            case _:
                return Edit(*at, coef=coef, along=vector, bounds=(case.get("min"), case.get("max")))

    return [edit(position, coef) for position, coef in written]


def text(model, case: dict) -> list:
    tokens, steps = list(PROMPT), []
    for step in range(STEPS):
        logits = forward(model, tokens, edits(model, case, step + 1))[0][0].double()
        best = torch.topk(logits, 2)
        token = int(best.indices[0])
        logprob = float(torch.log_softmax(logits, -1)[token])
        steps.append([token, float(f"{logprob:.9g}"), float(f"{float(best.values[0] - best.values[1]):.9g}")])
        tokens.append(token)
    return steps


def main():
    families = {}
    with torch.no_grad():
        for family in ref.FAMILIES:
            model = ref.tiny(family)
            families[family] = [text(model, case) for case in CASES]
    path = pathlib.Path(__file__).parents[1] / "golden" / "tiny_texts.json"
    path.write_text(json.dumps({"prompt": PROMPT, "cases": CASES, "families": families}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
