"""Requests of the real nnsight 0.8.1 client, and what nnsight itself computes for them, for `tests/remote`.

Needs nnsight 0.8.1, transformers 5.22.2 and torch, and a server of `dummy:tiny` for configuration and tokenizer:

    mediant serve --model dummy:tiny --listen 127.0.0.1:8080
    cd tests/python && HF_ENDPOINT=http://127.0.0.1:8080 HF_HOME=$(mktemp -d) python make_remote_golden.py

Writes one packed request for each case below to `tests/golden/remote`, and the values that nnsight saves when it runs the same
block on the same weights in PyTorch. A case is a function that opens traces with `how` and gives what it saved; it is called
twice, to be sent and to be run.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file

import nnsight
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

OUT = pathlib.Path("../golden/remote")
P = "The Eiffel Tower"
Q = "The wires carry"
SHORT = "Rome"
torch.manual_seed(0)
VECTOR = torch.randn(64)
STATE = torch.randn(1, 17, 64)
CASES = {}
#: Cases that nnsight runs in another way: it takes the bodies of invokes turn by turn, here they run one after the other.
RUN = {}


def case(function):
    CASES[function.__name__] = function
    return function


def run_as(name):
    return lambda function: RUN.setdefault(name, function)


# --- reads at every served path


@case
def read_layers(model, how):
    with model.trace(P, **how):
        hs = nnsight.save([layer.output for layer in model.model.layers])
    return {f"layer{i}": h for i, h in enumerate(hs)}


@case
def read_embed_and_input(model, how):
    with model.trace(P, **how):
        a = model.model.embed_tokens.output.save()
        b = model.model.layers[0].input.save()
        c = model.model.layers[2].input.save()
    return dict(a=a, b=b, c=c)


@case
def read_attention(model, how):
    with model.trace(P, **how):
        block = model.model.layers[1]
        a = block.input_layernorm.input.save()
        b = block.input_layernorm.output.save()
        c = block.self_attn.input.save()
        q = block.self_attn.q_proj.output.save()
        k = block.self_attn.k_proj.output.save()
        v = block.self_attn.v_proj.output.save()
        z = block.self_attn.o_proj.input.save()
        o = block.self_attn.o_proj.output.save()
        s = block.self_attn.output[0].save()
    return dict(a=a, b=b, c=c, q=q, k=k, v=v, z=z, o=o, s=s)


@case
def read_mlp(model, how):
    with model.trace(P, **how):
        block = model.model.layers[2]
        a = block.post_attention_layernorm.input.save()
        b = block.post_attention_layernorm.output.save()
        c = block.mlp.input.save()
        g = block.mlp.gate_proj.output.save()
        u = block.mlp.up_proj.output.save()
        d = block.mlp.down_proj.input.save()
        e = block.mlp.down_proj.output.save()
        f = block.mlp.output.save()
    return dict(a=a, b=b, c=c, g=g, u=u, d=d, e=e, f=f)


@case
def read_end(model, how):
    with model.trace(P, **how):
        a = model.model.norm.output.save()
        b = model.lm_head.output[:, -1].save()
        c = model.output.logits[0, 3].save()
    return dict(a=a, b=b, c=c)


@case
def read_slices(model, how):
    with model.trace(P, **how):
        h = model.model.layers[1].output
        a = h[:, -1, :].save()
        b = h[0, 2:9:3, 5:7].save()
        c = h[..., 0].save()
        d = h[:, [0, -1]].save()
        e = h.transpose(1, 2)[0, 3].save()
    return dict(a=a, b=b, c=c, d=d, e=e)


# --- writes


@case
def write_in_place(model, how):
    with model.trace(P, **how):
        model.model.layers[1].output[:, 3, :] = STATE[:, 3, :]
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def write_replaced(model, how):
    with model.trace(P, **how):
        model.model.layers[1].output = STATE
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def write_added(model, how):
    with model.trace(P, **how):
        model.model.layers[2].output[:] += VECTOR
        a = model.model.layers[3].output.save()
    return dict(a=a)


@case
def write_noise(model, how):
    with model.trace(P, **how):
        e = model.model.embed_tokens.output
        torch.manual_seed(5)
        noise = torch.randn_like(e) * 0.1
        e[:] = e + noise
        model.model.layers[2].output[:, 4, :] = STATE[:, 4, :]
        out = model.lm_head.output.save()
    return dict(out=out)


@case
def write_scaled(model, how):
    with model.trace(P, **how):
        model.model.layers[0].mlp.output[:] *= 0.5
        model.model.layers[1].mlp.output = model.model.layers[1].mlp.output * 2
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def write_zero(model, how):
    with model.trace(P, **how):
        model.model.layers[0].mlp.gate_proj.output[:, 1] = 0
        model.model.layers[1].self_attn.o_proj.output[:, 2:5] = 0
        model.model.layers[2].mlp.down_proj.input[:, -1, :80] = 0.0
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def write_tuple(model, how):
    with model.trace(P, **how):
        model.model.layers[1].self_attn.output[0][:, -1] = VECTOR
        out = model.model.layers[1].output.save()
    return dict(out=out)


@case
def write_heads(model, how):
    with model.trace(P, **how):
        z = model.model.layers[1].self_attn.o_proj.input
        z.view(1, 17, 4, 16)[:, :, 2] = 0
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def write_query(model, how):
    with model.trace(P, **how):
        model.model.layers[2].self_attn.q_proj.output[:, -1, 16:32] = 1.5
        model.model.layers[2].self_attn.v_proj.output[:, 0] = 0
        out = model.model.layers[2].output.save()
    return dict(out=out)


@case
def write_norm(model, how):
    with model.trace(P, **how):
        model.model.layers[1].input_layernorm.output[:, 1:3] *= -1
        model.model.norm.output[:, -1] = model.model.norm.output[:, -1] * 3
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def write_back(model, how):
    with model.trace(P, **how):
        h = model.model.layers[1].output
        model.model.layers[1].output = h.clone()
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def write_dependent(model, how):
    with model.trace(P, **how):
        h = model.model.layers[1].output
        h[:] = h / h.norm(dim=-1, keepdim=True)
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def write_projection(model, how):
    r = VECTOR / VECTOR.norm()
    with model.trace(P, **how):
        for layer in model.model.layers:
            h = layer.output
            layer.output = h - (h @ r)[..., None] * r
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def write_masked(model, how):
    with model.trace(P, **how):
        h = model.model.layers[1].output
        h[:, :, h[0, -1] > 0] = 0
        out = model.model.layers[2].output.save()
    return dict(out=out)


# --- several prompts


@case
def invokes_cross(model, how):
    with model.trace(**how) as tracer:
        with tracer.invoke(P):
            a = model.model.layers[1].output[:, -1]
        with tracer.invoke(Q):
            model.model.layers[1].output[:, -1] = a
            out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@run_as("invokes_cross")
def _cross(model, how):
    with model.trace(P, **how):
        a = model.model.layers[1].output[:, -1].save()
    with model.trace(Q, **how):
        model.model.layers[1].output[:, -1] = a
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def invokes_of_one_prompt(model, how):
    with model.trace(**how) as tracer:
        outs = nnsight.save([])
        for i in range(6):
            with tracer.invoke(P):
                model.model.layers[i % 4].output[:, i] = STATE[:, i]
                outs.append(model.lm_head.output[:, -1])
    return {f"out{i}": out for i, out in enumerate(outs)}


@case
def invokes_of_lengths(model, how):
    with model.trace(**how) as tracer:
        with tracer.invoke(P):
            a = model.model.layers[2].output[:, -1].save()
        with tracer.invoke(SHORT):
            b = model.model.layers[2].output[:, -1].save()
        with tracer.invoke():
            c = model.lm_head.output[:, -1].save()
    return dict(a=a, b=b, c=c)


@case
def batch(model, how):
    with model.trace([P, SHORT], **how):
        model.model.layers[1].output[:, -1] += VECTOR
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def token_ids(model, how):
    with model.trace(torch.tensor([[256, 84, 104, 101]]), **how):
        out = model.lm_head.output[0].save()
    return dict(out=out)


@case
def barrier(model, how):
    with model.trace(**how) as tracer:
        meet = tracer.barrier(2)
        with tracer.invoke(P):
            a = model.model.layers[0].output[:, -1]
            meet()
        with tracer.invoke(Q):
            meet()
            model.model.layers[1].output[:, -1] = a
            out = model.lm_head.output[:, -1].save()
    return dict(out=out)


# --- sessions


@case
def session(model, how):
    with model.session(**how):
        with model.trace(P):
            a = model.model.layers[2].output
        with model.trace(P):
            model.model.layers[1].output[:] = a
            out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def session_loop(model, how):
    with model.session(**how):
        outs = nnsight.save([])
        for i in range(3):
            with model.trace(P):
                model.model.layers[i].output[:, -1] = 0
                outs.append(model.lm_head.output[:, -1])
    return {f"out{i}": out for i, out in enumerate(outs)}


# --- Python


def twice(x, by=2.0):
    return torch.tanh(x) * by


def composed(x):
    return twice(x) + VECTOR


class Direction:
    def __init__(self, vector):
        self.vector = vector / vector.norm()

    def project(self, x):
        return (x @ self.vector)[..., None] * self.vector


# its `__repr__` would bring a path of this machine with it
@dataclasses.dataclass(repr=False)
class Setting:
    layer: int
    scale: float = 2.0


@case
def functions(model, how):
    halve = lambda x: x / 2  # noqa: E731
    with model.trace(P, **how):
        out = composed(halve(model.model.layers[1].output)).save()
    return dict(out=out)


@case
def classes(model, how):
    direction, setting = Direction(VECTOR), Setting(2)
    with model.trace(P, **how):
        h = model.model.layers[setting.layer].output
        part = direction.project(h).save()
        h[:] = h - part * setting.scale
        out = model.lm_head.output[:, -1].save()
    return dict(part=part, out=out)


@case
def conditions(model, how):
    with model.trace(P, **how):
        h = model.model.layers[1].output
        if h.norm() > 1:
            model.model.layers[2].output[:, -1] = VECTOR
        else:
            model.model.layers[2].output[:, -1] = -VECTOR
        n = h[0, -1].sum().item()
        out = model.lm_head.output[:, -1].save()
        scaled = (VECTOR * (1.0 if n > 0 else -1.0)).save()
    return dict(out=out, scaled=scaled)


@case
def dictionary(model, how):
    states = {i: STATE + i for i in range(4)}
    with model.trace(P, **how):
        for i, layer in enumerate(model.model.layers):
            layer.output[:, i] = states[i][:, i]
        out = model.lm_head.output[:, -1].save()
    return dict(out=out)


@case
def comprehension(model, how):
    with model.trace(P, **how):
        norms = torch.stack([layer.output.norm(dim=-1) for layer in model.model.layers]).save()
    return dict(norms=norms)


@case
def lens(model, how):
    with model.trace(P, **how):
        probs = F.softmax(model.lm_head.output[0, -1], dim=-1)
        top = probs.topk(5)
        values = top.values.save()
        entropy = (-(probs * probs.log()).sum()).save()
    return dict(values=values, entropy=entropy)


@case
def statistics(model, how):
    with model.trace(P, **how):
        h = model.model.layers[1].output
        mean, var = h.mean(dim=1).save(), h.var(dim=-1).save()
        cos = F.cosine_similarity(h[:, 1:], h[:, :-1], dim=-1).save()
        split = torch.cat(h.split(32, dim=-1)[::-1], dim=-1).save()
        order = h[0, -1].sort(descending=True).values.save()
    return dict(mean=mean, var=var, cos=cos, split=split, order=order)


@case
def rearranged(model, how):
    with model.trace(P, **how):
        z = rearrange(model.model.layers[1].self_attn.o_proj.input, "b s (h d) -> b h s d", h=4)
        out = (z @ z.transpose(-1, -2) / math.sqrt(16)).save()
    return dict(out=out)


@case
def numbers(model, how):
    array = np.linspace(-1, 1, 64, dtype=np.float32)
    with model.trace(P, **how):
        h = model.model.layers[1].output
        out = (h[0, -1] * torch.from_numpy(array)).save()
    return dict(out=out)


@case
def stopped(model, how):
    with model.trace(P, **how) as tracer:
        h = model.model.layers[0].output.save()
        tracer.stop()
    return dict(h=h)


@case
def losses(model, how):
    with model.trace(P, **how):
        logits = model.lm_head.output[0, :-1]
        targets = torch.tensor(list(b"The Eiffel Tower"))
        loss = F.cross_entropy(logits, targets, reduction="none").save()
        diff = (logits[:, 65] - logits[:, 66]).save()
    return dict(loss=loss, diff=diff)


@case
def printed(model, how):
    with model.trace(P, **how):
        h = model.model.layers[0].output
        print("shape", tuple(h.shape))
        out = h[0, 0].save()
    return dict(out=out)


@case
def containers(model, how):
    kept = {}
    with model.trace(P, **how):
        for i, layer in enumerate(model.model.layers):
            kept[i] = layer.output[:, -1].save()
    return {f"layer{i}": h for i, h in kept.items()}


# --- without values: for the wire and for kills


def legacy(model, how):
    with model.trace(P, **how):
        h = model.model.layers[1].output[0][:, :, :].save()
    return h


def endless(model, how):
    with model.trace(P, **how):
        while True:
            pass


# --- last, so that the others keep their lines

#: Cases whose model gives attention weights, as `attn_implementation="eager"` has it.
EAGER = {"read_weights"}


@case
def read_activated(model, how):
    with model.trace(P, **how):
        mlp = model.model.layers[2].mlp
        g = mlp.gate_proj.output.save()
        a = mlp.act_fn.output.save()
        u = mlp.up_proj.output[:, -1].save()
        d = (mlp.down_proj.input - mlp.down_proj.input * 0).save()
    return dict(g=g, a=a, u=u, d=d)


@case
def read_weights(model, how):
    with model.trace(P, **how):
        first = model.model.layers[0].self_attn.output[1].save()
        model.model.layers[1].self_attn.q_proj.output[:, -1] *= 2
        out, weights = model.model.layers[1].self_attn.output
        head = weights[:, 1].save()
        out[:, -1] = 0
        last = weights[0, :, -1].save()
        logits = model.lm_head.output[:, -1].save()
    return dict(first=first, head=head, last=last, logits=logits)


class Sent(Backend):
    """Writes the request down instead of sending it."""

    def __init__(self, path):
        self.path = path

    def __call__(self, tracer=None):
        self.path.write_bytes(RequestModel.serialize(tracer, True))


def weights(config):
    """The values of `dummy:tiny`, by the recipe of `src/load/dummy.rs`."""
    with torch.device("meta"):
        from transformers import LlamaForCausalLM

        shapes = {name: tuple(p.shape) for name, p in LlamaForCausalLM(config).named_parameters()}
    made = {}
    for name, shape in shapes.items():
        fan_in = np.float32(np.sqrt(np.float32(shape[-1])))
        mean, std = np.float32(0), np.float32(1) / fan_in
        if name.endswith("embed_tokens.weight"):
            std = np.float32(1)
        elif name.endswith("lm_head.weight"):
            std = np.float32(2) / fan_in
        elif "norm" in name:
            mean, std = np.float32(1), np.float32(0.1)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            std = np.float32(1) / (fan_in * np.sqrt(np.float32(2 * config.num_hidden_layers)))
        digest = hashlib.sha256((0).to_bytes(8, "little") + name.encode()).digest()
        key = np.uint64(int.from_bytes(digest[:8], "big"))
        with np.errstate(over="ignore"):
            z = key + (np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
        part = lambda shift: ((z >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)  # noqa: E731
        unit = (part(0) + part(16) + part(32) + part(48) - 131070).astype(np.float32) * np.float32(1 / 37837.227)
        made[name] = torch.from_numpy((mean + np.float32(std) * unit).reshape(shape))
    return made


def main():
    from transformers import LlamaForCausalLM

    client = nnsight.LanguageModel("dummy-tiny")
    network = LlamaForCausalLM(client.config).float().eval()
    network.load_state_dict(weights(client.config))
    client.tokenizer.pad_token = client.tokenizer.pad_token or "<s>"
    client.tokenizer.padding_side = "left"
    local = nnsight.LanguageModel(network, tokenizer=client.tokenizer)
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    golden, failed = {}, []
    for name, run in CASES.items():
        network.set_attn_implementation("eager" if name in EAGER else "sdpa")
        try:
            with torch.no_grad():
                values = RUN.get(name, run)(local, {})
        except Exception as error:  # noqa: BLE001
            failed.append(f"{name}: {type(error).__name__}: {str(error)[-300:]}")
            continue
        for at, (saved, value) in enumerate(values.items()):
            golden[f"{name}/{at:02}_{saved}"] = torch.as_tensor(value).detach().float().contiguous().clone()
        path = OUT / f"{name}.block"
        try:
            run(client, {"backend": Sent(path)})
        except (NameError, UnboundLocalError):
            pass
        assert path.exists(), name
    for run in (legacy, endless):
        try:
            run(client, {"backend": Sent(OUT / f"{run.__name__}.block")})
        except NameError:
            pass
    save_file(golden, OUT / "values.safetensors")
    # A file that is the same when it is made again.
    print(len(CASES), "cases;", sum(f.stat().st_size for f in OUT.iterdir()), "bytes")
    print(json.dumps(failed, indent=1))


if __name__ == "__main__":
    # Requests say which file their block is from: a name, wherever this file lies.
    name = pathlib.Path(__file__).name
    if __file__ == name:
        main()
    else:
        os.chdir(pathlib.Path(__file__).parent)
        __file__ = name
        exec(compile(pathlib.Path(name).read_text(), name, "exec"))
