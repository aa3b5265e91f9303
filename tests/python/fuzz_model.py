"""A Llama or Qwen written out in plain PyTorch, with every site in the open, and requests of `/v1/patch` on it.

Nothing here is mediant's or transformers': the forward is the textbook's, the requests are read as the API documents
them. `fuzz.py` makes random requests and compares.

Activations are `{(site, layer): [t, width]}`, per-head sites `[t, heads * width of a head]`; layer 0 at `embed` and
`final_norm`. A write is a function of what stands at a site, `[t, width]`, to what stands there afterwards.
"""

import math

import numpy as np
import torch

from reference import formula_weight

NO_LAYER = ("embed", "final_norm")
RESIDUAL = ("embed", "resid_pre", "resid_mid", "resid_post")
WIDE = (*RESIDUAL, "attn_norm", "mlp_norm", "attn_out", "mlp_out", "final_norm")
QUERY_HEADS = ("q", "q_norm", "q_rope", "scores", "pattern", "z", "head_out")
KEY_HEADS = ("k", "k_norm", "v", "k_rope")
# Of models with head norms.
HEAD_NORMS = ("q_norm", "k_norm")
# In the order of computation, as `/v1/capabilities` lists them.
SITES = (
    "embed", "resid_pre", "attn_norm", "k", "k_norm", "v", "k_rope", "q", "q_norm", "q_rope", "scores", "pattern", "z",
    "head_out", "attn_out", "resid_mid", "mlp_norm", "mlp_act", "mlp_out", "resid_post", "final_norm",
)  # fmt: skip

# Sites by their number in streams of noise, `stream` in `/v1/capabilities`: later sites came last.
NUMBERED = [*(site for site in SITES if site not in HEAD_NORMS), "logits", "k_norm", "q_norm"]


class Model:
    """Weights by the formula of `reference.py`, in f64."""

    def __init__(self, config: dict, dtype=torch.float64):
        self.config, self.dtype = config, dtype
        self.d, self.e = config["hidden_size"], config["head_dim"]
        self.heads, self.kv = config["num_attention_heads"], config["num_key_value_heads"]
        self.layers, self.f = config["num_hidden_layers"], config["intermediate_size"]
        self.eps = config["rms_norm_eps"]
        self.weights = {}

    def w(self, name: str, *shape: int) -> torch.Tensor:
        if name not in self.weights:
            self.weights[name] = torch.from_numpy(formula_weight(name, shape)).to(self.dtype)
        return self.weights[name]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(s for s in SITES if s not in HEAD_NORMS or self.config["model_type"] == "qwen3")

    def site_heads(self, site: str) -> int | None:
        return self.heads if site in QUERY_HEADS else self.kv if site in KEY_HEADS else None

    def part(self, site: str, keys: int) -> int:
        """Columns of a head, or of a site without heads."""
        if site in ("scores", "pattern"):
            return keys
        if self.site_heads(site):
            return self.d if site == "head_out" else self.e
        return self.f if site == "mlp_act" else self.d

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * self.w(name, x.shape[-1])

    def rope(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        t, half = len(x), self.e // 2
        theta = self.config["rope_parameters"]["rope_theta"]
        angles = torch.arange(t, dtype=self.dtype)[:, None] * theta ** (-torch.arange(half, dtype=self.dtype) / half)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        a, b = x.view(t, heads, self.e).split(half, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).reshape(t, heads * self.e)

    def forward(self, tokens: list[int], writes: dict | None = None, keys: int | None = None):
        """Logits `[t, vocabulary]`, and what stands at every site after the writes there. `scores` and `pattern` have
        `keys` columns a head; those of later keys are zero and without effect."""
        writes, acts, t = writes or {}, {}, len(tokens)
        keys = keys or t

        def tap(site, layer, x):
            for write in writes.get((site, layer), ()):
                x = write(x)
            acts[site, layer] = x
            return x

        def heads_of(x, n):
            return x.view(t, n, -1).transpose(0, 1)

        later = torch.ones(t, t, dtype=torch.bool).triu(1)
        qwen2 = self.config["model_type"] == "qwen2"
        x = tap("embed", 0, self.w("model.embed_tokens.weight", self.config["vocab_size"], self.d)[tokens])
        for layer in range(self.layers):
            p = f"model.layers.{layer}"
            x = tap("resid_pre", layer, x)
            h = tap("attn_norm", layer, self.norm(x, f"{p}.input_layernorm.weight"))

            def project(name, n):
                y = h @ self.w(f"{p}.self_attn.{name}_proj.weight", n * self.e, self.d).T
                y = y + self.w(f"{p}.self_attn.{name}_proj.bias", n * self.e) if qwen2 else y
                y = tap(name, layer, y)
                if self.config["model_type"] == "qwen3" and name != "v":
                    y = self.norm(y.view(t, n, self.e), f"{p}.self_attn.{name}_norm.weight").reshape(t, n * self.e)
                    y = tap(f"{name}_norm", layer, y)
                return y

            k, v = project("k", self.kv), project("v", self.kv)
            k = tap("k_rope", layer, self.rope(k, self.kv))
            q = tap("q_rope", layer, self.rope(project("q", self.heads), self.heads))
            group = self.heads // self.kv
            k, v = (heads_of(y, self.kv).repeat_interleave(group, 0) for y in (k, v))
            scores = torch.zeros(self.heads, t, keys, dtype=self.dtype)
            scores[:, :, :t] = (heads_of(q, self.heads) @ k.transpose(1, 2) / math.sqrt(self.e)).masked_fill(later, 0)
            flat = tap("scores", layer, scores.transpose(0, 1).reshape(t, -1))
            pattern = torch.zeros_like(scores)
            seen = flat.view(t, self.heads, keys).transpose(0, 1)[:, :, :t]
            pattern[:, :, :t] = seen.masked_fill(later, -torch.inf).softmax(-1)
            flat = tap("pattern", layer, pattern.transpose(0, 1).reshape(t, -1))
            seen = flat.view(t, self.heads, keys).transpose(0, 1)[:, :, :t].masked_fill(later, 0)
            z = tap("z", layer, (seen @ v).transpose(0, 1).reshape(t, -1))
            o = self.w(f"{p}.self_attn.o_proj.weight", self.d, self.heads * self.e).view(self.d, self.heads, self.e)
            out = torch.einsum("the,dhe->thd", z.view(t, self.heads, self.e), o).reshape(t, -1)
            out = tap("head_out", layer, out)
            x = x + tap("attn_out", layer, out.view(t, self.heads, self.d).sum(1))
            x = tap("resid_mid", layer, x)
            h = tap("mlp_norm", layer, self.norm(x, f"{p}.post_attention_layernorm.weight"))
            gate = h @ self.w(f"{p}.mlp.gate_proj.weight", self.f, self.d).T
            up = h @ self.w(f"{p}.mlp.up_proj.weight", self.f, self.d).T
            act = tap("mlp_act", layer, torch.nn.functional.silu(gate) * up)
            x = x + tap("mlp_out", layer, act @ self.w(f"{p}.mlp.down_proj.weight", self.d, self.f).T)
            x = tap("resid_post", layer, x)
        x = tap("final_norm", 0, self.norm(x, "model.norm.weight"))
        return x @ self.w("lm_head.weight", self.config["vocab_size"], self.d).T, acts


# ------------------------------------------------------------------------------------------------------- requests


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    mask = 0xFFFFFFFF
    for i in range(10):
        if i:
            key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [b >> 32 ^ counter[1] ^ key[0], b & mask, a >> 32 ^ counter[3] ^ key[1], a & mask]
    return counter


def picked(seed: int, n: int) -> int:
    """Which of `n` runs `resample` draws."""
    return philox4x32([0, 0, 0, 2**32 - 4], [seed & 0xFFFFFFFF, seed >> 32])[0] * n >> 32


class Request:
    """A body of `/v1/patch` whose runs are token ids, on a model."""

    def __init__(self, model: Model, body: dict):
        self.model, self.body, self.tokens, self.acts, self.logits = model, body, {}, {}, {}
        prompts = {name: run for name, run in body["runs"].items() if "tokens" in run}
        self.keys = max(len(run["tokens"]) for run in prompts.values())
        # The writes of derived runs, which the runs derived from them inherit.
        self.writes: dict[str, list] = {}
        for name, run in body["runs"].items():
            if "tokens" in run:
                self.tokens[name], self.writes[name] = run["tokens"], []
            else:
                self.tokens[name] = self.tokens[run["from"]]
                self.writes[name] = self.writes[run["from"]] + [self.resolved(run["from"], run["interventions"])]
            self.logits[name], self.acts[name] = self.compute(name, self.writes[name])

    def compute(self, run: str, lists: list):
        merged: dict = {}
        for writes in lists:
            for address, own in writes.items():
                merged.setdefault(address, []).extend(own)
        return self.model.forward(self.tokens[run], merged, self.keys)

    def cells(self) -> list[torch.Tensor]:
        """Logits of every cell at the last position, in row-major order of the swept axes."""
        base, interventions = self.body["base"], self.body["interventions"]
        counts = []
        for axis in self.body.get("sweep", []):
            counts.append(max(len(self.values(base, one, axis)) for one in interventions))
        out = []
        for index in np.ndindex(*counts):
            chosen = interventions
            for axis, i in zip(self.body.get("sweep", []), index, strict=True):
                chosen = [self.choose(base, one, axis, i) for one in chosen]
            out.append(self.compute(base, [*self.writes[base], self.resolved(base, chosen)])[0][-1])
        return out

    def values(self, base: str, one: dict, axis: str) -> list[int]:
        """What an intervention has on an axis."""
        if one.get("op") == "freeze":
            return []
        match axis:
            case "layers":
                return one.get("layers", [])
            case "positions":
                return one["positions"]
            case "heads":
                n = self.model.site_heads(one["site"])
                return one.get("heads", list(range(n)) if n else [])
            case "dims":
                return one.get("keys", one.get("dims", []))
            case "source_layers":
                layer = one.get("source", {}).get("layer", [])
                return layer if isinstance(layer, list) else [layer]

    def choose(self, base: str, one: dict, axis: str, i: int) -> dict:
        """One value of an axis; where there is a single one, or none, it stays."""
        values = self.values(base, one, axis)
        if len(values) < 2:
            return one
        one = {**one, "source": dict(one["source"])} if "source" in one else dict(one)
        match axis:
            case "layers" | "heads":
                one[axis] = [values[i]]
            case "dims":
                one["keys" if "keys" in one else "dims"] = [values[i]]
                if "vector" in one.get("source", {}):
                    one["source"]["vector"] = [one["source"]["vector"][i]]
            case "source_layers":
                one["source"]["layer"] = values[i]
            case "positions":
                if one.get("op") == "noise":
                    one["noise_row"] = (i, len(values))
                if len(one.get("source", {}).get("positions", [])) == len(values):
                    one["source"]["positions"] = [one["source"]["positions"][i]]
                one["positions"] = [values[i]]
        return one

    def resolved(self, base: str, interventions: list[dict]) -> dict:
        """Writes by address: what is frozen first and edges that are cut last, else in the order of the list."""
        order = {"freeze": 0, "knockout": 2}
        writes: dict = {}
        for one in sorted(interventions, key=lambda one: order.get(one.get("op"), 1)):
            if one["site"] in NO_LAYER:
                layers = [0]
            else:
                w = one.get("window", 1)
                around = (range(k - w // 2, k + (w + 1) // 2) for k in one["layers"])
                layers = sorted({k for window in around for k in window if 0 <= k < self.model.layers})
            for layer in layers:
                writes.setdefault((one["site"], layer), []).append(self.write(base, one, layer))
        return writes

    def write(self, base: str, one: dict, layer: int):
        site, positions, op = one["site"], one["positions"], one.get("op", "replace")
        part, n = self.model.part(site, self.keys), self.model.site_heads(site)
        heads, dims = one.get("heads"), one.get("keys", one.get("dims"))
        # Parts that are written as a whole: heads, or the row where no head is named.
        parts = [list(range(h * part, (h + 1) * part)) for h in (heads if heads is not None else range(n or 1))]
        if dims is not None:
            parts = [[columns[i] for i in dims] for columns in parts]
        if heads is None:
            parts = [sum(parts, [])]
        values = self.source(base, one, layer)

        def rewritten(old: torch.Tensor, columns: list[int]) -> torch.Tensor:
            source = None if values is None else values(columns, len(old))
            match op:
                case "zero":
                    return torch.zeros_like(old)
                case "scale":
                    return torch.where(old == -torch.inf, old, old * one["factor"])
                case "add":
                    new = old + one.get("coef", 1.0) * source
                    if one.get("norm_match"):
                        new = new * (old.norm(dim=-1, keepdim=True) / new.norm(dim=-1, keepdim=True))
                    return new
                case "noise":
                    return old + source
                case "project_out" | "subspace":
                    basis = torch.tensor(one["basis"], dtype=torch.float32).to(old.dtype)
                    q = torch.linalg.qr(basis.T)[0]
                    target = torch.zeros_like(old) if op == "project_out" else source
                    return old + (target - old) @ q @ q.T
            return source

        def act(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            if op == "knockout":
                for position in positions:
                    for columns in parts:
                        seen = [c for c in columns if c % part <= position]
                        x[position, seen] = -torch.inf
                return x
            for columns in parts:
                x[torch.tensor(positions)[:, None], torch.tensor(columns)[None]] = rewritten(x[positions][:, columns], columns)
            return x

        return act

    def source(self, base: str, one: dict, layer: int):
        """Of columns, the values that come from elsewhere, `[positions, columns]`."""
        site, positions, op, source = one["site"], one["positions"], one.get("op", "replace"), one.get("source")
        dtype = self.model.dtype

        def rows(run: str, site: str, layer: int, read: list[int]):
            read = read * len(positions) if len(read) == 1 else read
            acts = self.acts[run][site, 0 if site in NO_LAYER else layer][read]
            return lambda columns, n: acts[:, columns]

        if op == "noise":
            width = self.model.part(site, self.keys) * (self.model.site_heads(site) or 1)
            place, of = one.get("noise_row", (None, len(positions)))
            key = one["seed"]
            if site != "embed":
                key = [key, NUMBERED.index(site), 0 if site == "final_norm" else layer]
            noise = np.random.RandomState(key).randn(of, width) * one["sigma"]["abs"]
            noise = torch.from_numpy(noise.astype(np.float32)).to(dtype)
            noise = noise if place is None else noise[place : place + 1]
            return lambda columns, n: noise[:, columns]
        if op == "freeze":
            return rows((source or {"run": base})["run"], site, layer, (source or {}).get("positions", positions))
        if source is None:
            return None
        if "vector" in source:
            vector = torch.tensor(source["vector"], dtype=torch.float32).to(dtype)
            return lambda columns, n: vector.repeat(len(columns) // len(vector)).expand(n, -1)
        read = source.get("positions", positions)
        if "any_of" in source:
            return rows(source["any_of"][picked(one.get("seed", 1), len(source["any_of"]))], site, layer, read)
        if "mean_of" in source:
            each = [rows(run, site, layer, read) for run in source["mean_of"]]
            return lambda columns, n: torch.stack([one(columns, n) for one in each]).mean(0)
        of = source.get("layer", layer)
        return rows(source["run"], source.get("site", site), of[0] if isinstance(of, list) else of, read)
