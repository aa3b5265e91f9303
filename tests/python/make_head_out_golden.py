"""Writes tests/golden/head_out_gpt2.json: what heads of other layers wrote, put in the place of heads of a tiny GPT-2, in f64.

    python tests/python/make_head_out_golden.py

Each request of `/v1/patch` has a cell; its logits are those of a forward in which the attention output of the written layer is
changed by a hook: plus what the source's heads wrote there (z through that layer's projection, without its bias), minus what
the written heads wrote. So the written layer's bias stays, and no other layer's comes.
"""

import json
import pathlib

import anatomy
import reference as ref
import torch
from interventions import forward, head_out

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "head_out_gpt2.json"
TARGETS = [1, 17, 142, 280, 495]
A, B = [17, 301, 5, 44, 209, 498], [400, 12, 5, 230, 61, 340]
LAST = len(A) - 1
# Written layer, layer that is read, run that is read, heads (None: all), positions.
CASES = [
    (0, 2, "b", [0], [LAST]),
    (0, 2, "b", None, [LAST]),
    (3, 1, "b", [2, 3], [1, 2, LAST]),
    (2, 0, "a", None, list(range(len(A)))),
    (1, 3, "a", [1], [0, 3]),
    (2, 2, "b", [1, 2], [4, LAST]),
]


def logits(model, written: int, read: int, run: str, heads, positions) -> torch.Tensor:
    count = model.config.num_attention_heads
    outs = {}
    for name, tokens in (("a", A), ("b", B)):
        acts = forward(model, tokens, capture=[("z", layer) for layer in range(anatomy.layers(model))])[1]
        outs[name] = {
            layer: head_out(model, layer, z).view(len(tokens), count, -1) for (_, layer), z in acts.items()
        }
    chosen = heads if heads is not None else list(range(count))
    change = (outs[run][read] - outs["a"][written])[:, chosen].sum(1)

    def hook(_module, _args, output):
        output = output.clone()
        output[:, positions] += change[positions]
        return output

    handle = anatomy.block(model, written).o.register_forward_hook(hook)
    try:
        return forward(model, A)[0][0]
    finally:
        handle.remove()


def main():
    model = ref.tiny("gpt2")
    assert all(anatomy.block(model, layer).o.bias.abs().max() > 0.1 for layer in range(anatomy.layers(model)))
    cases = []
    for written, read, run, heads, positions in CASES:
        z = logits(model, written, read, run, heads, positions)
        source = {"run": run, "layer": read, "positions": positions}
        edit = {"site": "head_out", "layers": [written], "positions": positions, "op": "replace", "source": source}
        if heads is not None:
            edit["heads"] = heads
        targets = {f"t{t}": t for t in TARGETS}
        body = {
            "runs": {"a": {"tokens": A}, "b": {"tokens": B}},
            "base": "a",
            "interventions": [edit],
            "sweep": [],
            "targets": targets,
            "metrics": [f"logit:{name}" for name in targets],
            "controls": ["self_patch"],
            "allow_trivial": True,
        }
        kept = {"logits": [[round(z[t].item(), 7) for t in TARGETS]], "lse": [round(z.logsumexp(-1).item(), 7)]}
        cases.append({"model": 0, "body": body, **kept})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = json.dumps({"made_by": "tests/python/make_head_out_golden.py", "targets": TARGETS, "models": [ref.FAMILIES["gpt2"]]})
    GOLDEN.write_text(f'{head[:-1]}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
