"""Writes `tests/golden/texts.json`: what transformers' own `generate` writes greedily on the default model (with its cache), and what
PyTorch writes with hooks and without any cache: every step is one whole forward over prompt and text.

    python tests/python/make_text_golden.py
"""

import json
import pathlib

import torch
from reference import encode, smollm2, uniform

TOKENS = 64
EDITED_TOKENS = 16
PROMPTS = [
    "The Eiffel Tower is in the city of",
    "Once upon a time there was a little",
    "The capital of Japan is",
    "def fibonacci(n):\n",
    "Water boils at a temperature of",
    "My favourite recipe begins with",
    "The first president of the United States was",
    "In the beginning God created",
    "The weather today is",
    "A good teacher is somebody who",
    "2 + 2 = 4, 3 + 3 =",
    "Dear Sir or Madam,",
    "The quick brown fox",
    "Photosynthesis is the process by which",
    "She opened the old wooden box and found",
    "The three states of matter are",
    "To be or not to be,",
    "Albert Einstein was born in",
    "The best way to learn a language is",
    "Roses are red, violets are",
]
LAYER = 14
# Positions of the prompt and steps that are written, coefficient by step.
CASES = [
    {"name": "add at every step", "op": "add", "prompt": [], "coefs": [6.0] * EDITED_TOKENS},
    {"name": "add from step 1 on", "op": "add", "prompt": [], "coefs": [None] + [6.0] * (EDITED_TOKENS - 1)},
    {"name": "a linear schedule", "op": "add", "prompt": [], "coefs": [8.0 * (1 - i / 8) if i < 8 else None for i in range(EDITED_TOKENS)]},
    {"name": "add in the prompt", "op": "add", "prompt": [2, 4], "coefs": [None] * EDITED_TOKENS},
    {"name": "replace in the prompt and at two steps", "op": "replace", "prompt": [3], "coefs": [None, None, 1.0, 1.0] + [None] * (EDITED_TOKENS - 4)},
    {"name": "clamp at every step", "op": "clamp", "prompt": [], "coefs": [1.0] * EDITED_TOKENS},
    {"name": "project out everywhere", "op": "project_out", "prompt": "all", "coefs": [1.0] * EDITED_TOKENS},
]


def rounded(x: float) -> float:
    return float(f"{x:.9g}")


def told(logits: torch.Tensor) -> tuple[int, float, float]:
    """The most probable token, its log-probability, and how far its logit is above the next."""
    best = torch.topk(logits, 2)
    logprob = torch.log_softmax(logits.double(), -1)[best.indices[0]]
    return int(best.indices[0]), rounded(float(logprob)), rounded(float(best.values[0] - best.values[1]))


def greedy(model, prompt: str) -> dict:
    ids = encode(prompt)
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
        max_new_tokens=TOKENS, eos_token_id=None, pad_token_id=0, return_dict_in_generate=True, output_logits=True,
    )
    steps = [told(logits[0]) for logits in out.logits]
    assert [step[0] for step in steps] == out.sequences[0, len(ids):].tolist()
    return {"prompt": prompt, "tokens": ids, "steps": steps}


def edited(model, prompt: str, case: dict, vector: torch.Tensor) -> dict:
    ids = encode(prompt)
    length, steps = len(ids), []
    for step in range(EDITED_TOKENS):
        positions = list(range(length)) if case["prompt"] == "all" else list(case["prompt"])
        write = {position: 1.0 if case["op"] != "add" else 6.0 for position in positions}
        for i, coef in enumerate(case["coefs"][: step + 1]):
            if coef is not None:
                write[length - 1 + i] = coef

        def hook(_module, _inputs, output, write=write):
            x = output[0] if isinstance(output, tuple) else output
            for position, coef in write.items():
                row = x[0, position]
                if case["op"] == "add":
                    row += coef * vector
                elif case["op"] == "replace":
                    row[:] = vector * 20
                elif case["op"] == "clamp":
                    unit = vector / vector.norm()
                    row += ((row @ unit).clamp(8.0, 12.0) - row @ unit) * unit
                else:
                    unit = vector / vector.norm()
                    row -= (row @ unit) * unit
            return output

        handle = model.model.layers[LAYER].register_forward_hook(hook)
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        handle.remove()
        steps.append(told(logits))
        ids.append(steps[-1][0])
    return {"prompt": prompt, "case": case, "steps": steps}


def main():
    torch.manual_seed(0)
    model = smollm2()
    vector = torch.from_numpy(uniform("steer", model.config.hidden_size)).float()
    with torch.no_grad():
        plain = [greedy(model, prompt) for prompt in PROMPTS]
        cases = [edited(model, prompt, case, vector) for case in CASES for prompt in PROMPTS[:2]]
    path = pathlib.Path(__file__).parents[1] / "golden" / "texts.json"
    path.write_text(json.dumps({"layer": LAYER, "plain": plain, "edited": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
