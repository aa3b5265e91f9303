"""Interventions on transformers' modules by hooks: every site read or written, every operation, in plain PyTorch.

SITES, as `[t, width]` of one run (T: positions of the run, e: head dimension, d: hidden):

    embed resid_pre resid_mid resid_post attn_out mlp_out   d
    attn_in mlp_in                                          d          outputs of the block's two RMSNorms
    q                                                       heads x e  what RoPE gets (Qwen3: after the head norm)
    k v                                                     kv heads x e
    q_rope k_rope                                           as q, k    after RoPE
    scores                                                  heads x T  scaled q k^T before softmax, 0 at later keys
    pattern                                                 heads x T  after softmax, 0 at later keys
    z                                                       heads x e  input of o_proj
    head_out                                                heads x d  z_h W_O,h; read only
    mlp_act                                                 mlp width  silu(gate) * up
    final_norm                                              d          output of the last RMSNorm, no layer
    logits                                                  vocabulary read only, no layer

Row p of `scores` and `pattern` holds the query at p; what is written there at keys after p is without effect, and a
written pattern is not normalised again.

An `Edit` writes some positions (all columns, one head's, or some `dims`). Edits at one address apply in list order.
"""

import contextlib
from dataclasses import dataclass

import torch
from transformers import AttentionInterface

RESIDUAL = ["embed", "resid_pre", "resid_mid", "resid_post", "attn_in", "mlp_in", "attn_out", "mlp_out", "final_norm"]
HEAD_SITES = ["q", "k", "v", "q_rope", "k_rope", "scores", "pattern", "z"]
EDITABLE = [*RESIDUAL, *HEAD_SITES, "mlp_act"]
SITES = [*EDITABLE, "head_out", "logits"]
NO_LAYER = ["embed", "final_norm", "logits"]
KV_SITES = ["k", "v", "k_rope"]
IN_ATTENTION = ["q_rope", "k_rope", "scores", "pattern"]


def head_width(model, site: str, count: int) -> int:
    """Columns of one head at a site, for a run of `count` positions."""
    if site == "head_out":
        return model.config.hidden_size
    return count if site in ("scores", "pattern") else model.model.layers[0].self_attn.head_dim


def site_heads(model, site: str) -> int | None:
    """How many heads a site has; None where it has none."""
    if site in KV_SITES:
        return model.config.num_key_value_heads
    return model.config.num_attention_heads if site in (*HEAD_SITES, "head_out") else None


def site_width(model, site: str, count: int) -> int:
    """Columns of a site, for a run of `count` positions."""
    if heads := site_heads(model, site):
        return heads * head_width(model, site, count)
    widths = {"mlp_act": model.config.intermediate_size, "logits": model.config.vocab_size}
    return widths.get(site, model.config.hidden_size)


def addresses(model) -> list[tuple[str, int]]:
    """Every (site, layer) of a model; layer 0 where the site has none."""
    layers = range(len(model.model.layers))
    return [(s, k) for s in SITES for k in (layers if s not in NO_LAYER else [0])]


@dataclass
class Edit:
    """One write. `source` holds `[positions, columns written]` rows.

    replace | freeze | mean   source (of another run; of a run to be held at; the mean of several runs)
    add                       x + coef source; with `norm_match` each written row is rescaled to its norm before
    scale | zero              coef x; 0
    project_out               x - P x, P onto the span of the rows of `basis` `[vectors, columns written]`
    subspace                  x + P (source - x)
    """

    site: str
    layer: int
    positions: list[int]
    op: str
    source: torch.Tensor | None = None
    coef: float = 1.0
    head: int | None = None
    row: int | None = None  # batch row written; None: all
    dims: list[int] | None = None
    norm_match: bool = False
    basis: torch.Tensor | None = None

    def written(self, old: torch.Tensor) -> torch.Tensor:
        """What stands there afterwards, `[batch, positions, columns written]` like `old`."""
        source = None if self.source is None else self.source.to(old.dtype)
        match self.op:
            case "zero":
                return torch.zeros_like(old)
            case "scale":
                return old * self.coef
            case "replace" | "freeze" | "mean":
                return source.expand_as(old)
            case "add":
                new = old + self.coef * source
                if self.norm_match:
                    before, after = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (old, new))
                    new = new * (before / after)
                return new
            case "project_out":
                return old - self.projected(old)
            case "subspace":
                return old + self.projected(source - old)
        raise ValueError(f"unknown op {self.op}")

    def projected(self, x: torch.Tensor) -> torch.Tensor:
        """x projected onto the span of the basis, whose rows need not be orthogonal."""
        q = torch.linalg.qr(self.basis.double().T)[0].to(x.dtype)
        return x @ q @ q.T

    def apply(self, x: torch.Tensor, width: int):
        """Writes into x, `[batch, t, heads * width]`, in place."""
        columns = slice(None) if self.head is None else slice(self.head * width, (self.head + 1) * width)
        if self.dims is not None:
            columns = self.dims
        rows = x if self.row is None else x[self.row : self.row + 1]
        block = rows[:, self.positions]
        block[..., columns] = self.written(block[..., columns])
        rows[:, self.positions] = block


def _tapped_attention(module, query, key, value, _mask, scaling, dropout=0.0, **_):
    """Causal attention written out, with `module.taps` called on what it computes; no mask, so no padding.

    query `[batch, heads, t, e]`, key and value `[batch, kv heads, t, e]`."""

    def tap(site, x):
        if site not in module.taps:
            return x
        b, h, t, w = x.shape
        flat = x.transpose(1, 2).reshape(b, t, h * w).clone()
        module.taps[site](flat)
        return flat.view(b, t, h, w).transpose(1, 2)

    query, key = tap("q_rope", query), tap("k_rope", key)
    key, value = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
    later = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).triu(1)
    scores = tap("scores", (query @ key.transpose(2, 3) * scaling).masked_fill(later, 0))
    pattern = tap("pattern", scores.masked_fill(later, -torch.inf).softmax(-1)).masked_fill(later, 0)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


AttentionInterface.register("tapped", _tapped_attention)


@contextlib.contextmanager
def _tapped(model):
    """The model with `_tapped_attention` and no taps yet."""
    before = model.config._attn_implementation
    model.config._attn_implementation = "tapped"
    for block in model.model.layers:
        block.self_attn.taps = {}
    try:
        yield
    finally:
        model.config._attn_implementation = before
        for block in model.model.layers:
            del block.self_attn.taps


def _register(model, site: str, layer: int, act):
    """Calls `act(x)` with the activation at a site, which `act` may change in place; gives what undoes it."""

    def on_output(_module, _args, output):
        act(output[0] if isinstance(output, tuple) else output)

    def on_heads(_module, _args, output):
        act(output.view(*output.shape[:2], -1))

    def on_input(_module, args, kwargs):
        act(args[0] if args else kwargs["hidden_states"])

    whole = {"embed": model.model.embed_tokens, "final_norm": model.model.norm, "logits": model.lm_head}
    if site in whole:
        return whole[site].register_forward_hook(on_output).remove
    block = model.model.layers[layer]
    attn = block.self_attn
    if site in IN_ATTENTION:
        attn.taps[site] = act
        return lambda: attn.taps.pop(site)
    if site in ("q", "k") and hasattr(attn, f"{site}_norm"):
        return getattr(attn, f"{site}_norm").register_forward_hook(on_heads).remove
    # In place at the norm's input also changes the residual branch: both are one tensor in transformers' block.
    before = {
        "resid_pre": block,
        "z": attn.o_proj,
        "head_out": attn.o_proj,
        "resid_mid": block.post_attention_layernorm,
        "mlp_act": block.mlp.down_proj,
    }
    if site in before:
        return before[site].register_forward_pre_hook(on_input, with_kwargs=True).remove
    after = {
        "attn_in": block.input_layernorm,
        "q": attn.q_proj,
        "k": attn.k_proj,
        "v": attn.v_proj,
        "attn_out": attn.o_proj,
        "mlp_in": block.post_attention_layernorm,
        "mlp_out": block.mlp,
        "resid_post": block,
    }
    return after[site].register_forward_hook(on_output).remove


def head_out(model, layer: int, z: torch.Tensor) -> torch.Tensor:
    """Each head's part of attn_out, `[t, heads * d]`, from z `[t, heads * e]`."""
    heads, d = model.config.num_attention_heads, model.config.hidden_size
    w = model.model.layers[layer].self_attn.o_proj.weight.view(d, heads, -1)
    return torch.einsum("the,dhe->thd", z.view(len(z), heads, -1), w).reshape(len(z), heads * d)


def forward(model, tokens, edits=(), capture=(), batch: int = 1):
    """Runs `tokens` under `edits`; gives the last position's logits `[batch, vocab]` and `{(site, layer): [t, width]}`
    of batch row 0 for the addresses in `capture`, read after the edits there."""
    by_address: dict[tuple[str, int], list[Edit]] = {}
    for edit in edits:
        by_address.setdefault((edit.site, edit.layer), []).append(edit)
    used = list(dict.fromkeys([*by_address, *[a for a in capture if a[0] != "head_out"]]))
    # After the edits of z: hooks of one module run in the order of registration.
    used += [a for a in dict.fromkeys(capture) if a[0] == "head_out"]
    captured = {}

    def actor(address):
        site, layer = address

        def act(x):
            for edit in by_address.get(address, ()):
                edit.apply(x, head_width(model, site, len(tokens)))
            if site == "head_out":
                captured[address] = head_out(model, layer, x[0])
            elif address in capture:
                captured[address] = x[0].clone()

        return act

    keep = 0 if ("logits", 0) in capture else 1
    with contextlib.ExitStack() as stack:
        if any(site in IN_ATTENTION for site, _ in used):
            stack.enter_context(_tapped(model))
        for address in used:
            stack.callback(_register(model, *address, actor(address)))
        ids = torch.tensor([tokens]).expand(batch, len(tokens))
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[:, -1]
    return logits, captured


def lens(model, x: torch.Tensor) -> torch.Tensor:
    """Logit lens: residual rows `[n, d]` through the final norm and the unembedding, `[n, vocab]`."""
    return model.lm_head(model.model.norm(x))


def direct_logits(model, parts: torch.Tensor, final_resid: torch.Tensor, token: int) -> torch.Tensor:
    """Direct logit attribution: what each of `parts` `[n, d]` adds to a token's logit, the final norm's scale held at
    that of `final_resid` `[d]`, of which the parts are summands."""
    norm = model.model.norm
    scale = (final_resid.pow(2).mean() + norm.variance_epsilon).rsqrt()
    return (parts * scale * norm.weight) @ model.lm_head.weight[token]
