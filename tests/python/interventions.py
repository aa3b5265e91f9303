"""Interventions on transformers' modules by hooks: every site read or written, every operation, in plain PyTorch.

SITES, as `[t, width]` of one run (T: positions of the run, e: head dimension, d: hidden):

    embed resid_pre resid_mid resid_post attn_out mlp_out   d
    attn_norm mlp_norm                                          d          outputs of the block's two norms
    q                                                       heads x e  as they come out of their projections
    k v                                                     kv heads x e
    q_norm k_norm                                           as q, k    after the norm of each head (Qwen3 alone)
    q_rope k_rope                                           as q, k    after RoPE
    scores                                                  heads x T  scaled q k^T before softmax, 0 at later keys
    pattern                                                 heads x T  after softmax, 0 at later keys
    z                                                       heads x e  input of o_proj
    head_out                                                heads x d  z_h W_O,h; read only
    mlp_pre                                                 mlp width  GPT-2: up projection with bias
    mlp_gate mlp_up                                         mlp width  of a gated MLP: outputs of the two projections
    mlp_act                                                 mlp width  silu(mlp_gate) * mlp_up; GPT-2: gelu_new(mlp_pre)
    final_norm                                              d          output of the last norm, no layer
    logits                                                  vocabulary read only, no layer

Models without RoPE (GPT-2) have q_rope = q and k_rope = k; their learned positions are added after `embed`.

Row p of `scores` and `pattern` holds the query at p; what is written there at keys after p is without effect, and a
written pattern is not normalised again.

An `Edit` writes some positions (all columns, one head's, or some `dims`). Edits at one address apply in list order.
"""

import contextlib
from dataclasses import dataclass

import torch
from transformers import AttentionInterface

import anatomy

RESIDUAL = ["embed", "resid_pre", "resid_mid", "resid_post", "attn_norm", "mlp_norm", "attn_out", "mlp_out", "final_norm"]
HEAD_NORMS = ["q_norm", "k_norm"]
COMMON_HEAD_SITES = ["q", "k", "v", "q_rope", "k_rope", "scores", "pattern", "z"]
HEAD_SITES = [*COMMON_HEAD_SITES, *HEAD_NORMS]
PRE_ACTIVATION = ["mlp_pre", "mlp_gate", "mlp_up"]
NEURONS = ["mlp_act", *PRE_ACTIVATION]
READABLE = ["head_out", "logits"]
SITES = [*RESIDUAL, *HEAD_SITES, "mlp_act", *READABLE, *PRE_ACTIVATION]
EDITABLE = [site for site in SITES if site not in READABLE]
NO_LAYER = ["embed", "final_norm", "logits"]
KV_SITES = ["k", "v", "k_rope", "k_norm"]
IN_ATTENTION = ["q_rope", "k_rope", "scores", "pattern"]


def head_width(model, site: str, count: int) -> int:
    """Columns of one head at a site, for a run of `count` positions."""
    if site == "head_out":
        return model.config.hidden_size
    return count if site in ("scores", "pattern") else anatomy.head_dim(model)


def site_heads(model, site: str) -> int | None:
    """How many heads a site has; None where it has none."""
    if site in KV_SITES:
        return anatomy.kv_heads(model)
    return model.config.num_attention_heads if site in (*HEAD_SITES, "head_out") else None


def site_width(model, site: str, count: int) -> int:
    """Columns of a site, for a run of `count` positions."""
    if heads := site_heads(model, site):
        return heads * head_width(model, site, count)
    if site in NEURONS:
        return anatomy.matrix(anatomy.block(model, 0).down).shape[1]
    return model.config.vocab_size if site == "logits" else model.config.hidden_size


def exists(model, site: str) -> bool:
    """Whether a model has a site."""
    block = anatomy.block(model, 0)
    if site in PRE_ACTIVATION:
        return site in block.pre
    return site not in HEAD_NORMS or block.head_norm(site) is not None


def addresses(model) -> list[tuple[str, int]]:
    """Every (site, layer) of a model; layer 0 where the site has none."""
    layers = range(anatomy.layers(model))
    return [(s, k) for s in SITES if exists(model, s) for k in (layers if s not in NO_LAYER else [0])]


@dataclass
class Edit:
    """One write. `source` holds `[positions, columns written]` rows.

    replace | freeze | mean   source (of another run; of a run to be held at; the mean of several runs)
    add                       x + coef source; with `norm_match` each written row is rescaled to its norm before
    scale | zero              coef x; 0
    scale along, clamp        x + (y' - y) u with y = x . u; u: `along` `[columns written]` at length 1; y': coef y, or y between
                              `bounds`, either of which may be None
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
    along: torch.Tensor | None = None
    bounds: tuple[float | None, float | None] = (None, None)

    def written(self, old: torch.Tensor) -> torch.Tensor:
        """What stands there afterwards, `[batch, positions, columns written]` like `old`."""
        source = None if self.source is None else self.source.to(old.dtype)
        match self.op:
            case "zero":
                return torch.zeros_like(old)
            case "scale" if self.along is None:
                return old * self.coef
            case "scale" | "clamp":
                unit = (self.along.double() / self.along.double().norm()).to(old.dtype)
                part = (old @ unit).unsqueeze(-1)
                least, most = (torch.tensor(float("inf") * sign if b is None else b) for b, sign in zip(self.bounds, (-1, 1)))
                new = part * self.coef if self.op == "scale" else part.clamp(least.to(part), most.to(part))
                return old + (new - part) * unit
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
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
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
    attentions = [anatomy.block(model, k).attn for k in range(anatomy.layers(model))]
    for attn in attentions:
        attn.taps = {}
    try:
        yield
    finally:
        model.config._attn_implementation = before
        for attn in attentions:
            del attn.taps


def _register(model, site: str, layer: int, act):
    """Calls `act(x)` with the activation at a site, which `act` may change in place; gives what undoes it."""

    def on_output(_module, _args, output):
        act(output[0] if isinstance(output, tuple) else output)

    def on_heads(_module, _args, output):
        act(output.view(*output.shape[:2], -1))

    def on_input(_module, args, kwargs):
        act(args[0] if args else kwargs["hidden_states"])

    parts = anatomy.parts(model)
    whole = {"embed": parts.embed, "final_norm": parts.norm, "logits": parts.head}
    if site in whole:
        return whole[site].register_forward_hook(on_output).remove
    block = anatomy.block(model, layer)
    if site in IN_ATTENTION:
        block.attn.taps[site] = act
        return lambda: block.attn.taps.pop(site)
    if site in HEAD_NORMS:
        return block.head_norm(site).register_forward_hook(on_heads).remove
    if site in block.pre:
        return block.pre[site].register_forward_hook(on_output).remove
    if site in block.qkv:
        module, columns = block.qkv[site]
        return module.register_forward_hook(lambda _module, _args, output: act(output[..., columns])).remove
    # In place at the norm's input also changes the residual branch: both are one tensor in transformers' block.
    before = {
        "resid_pre": block.whole,
        "z": block.o,
        "head_out": block.o,
        "resid_mid": block.mlp_norm,
        "mlp_act": block.down,
    }
    if site in before:
        return before[site].register_forward_pre_hook(on_input, with_kwargs=True).remove
    after = {
        "attn_norm": block.attn_norm,
        "attn_out": block.o,
        "mlp_norm": block.mlp_norm,
        "mlp_out": block.mlp,
        "resid_post": block.whole,
    }
    return after[site].register_forward_hook(on_output).remove


def head_out(model, layer: int, z: torch.Tensor) -> torch.Tensor:
    """Each head's part of attn_out, `[t, heads * d]`, from z `[t, heads * e]`."""
    heads, d = model.config.num_attention_heads, model.config.hidden_size
    w = anatomy.matrix(anatomy.block(model, layer).o).reshape(d, heads, -1)
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
    parts = anatomy.parts(model)
    return parts.head(parts.norm(x))


def direct_logits(model, rows: torch.Tensor, final_resid: torch.Tensor, token: int) -> torch.Tensor:
    """Direct logit attribution: what each of `rows` `[n, d]` adds to a token's logit, the final norm's scale held at
    that of `final_resid` `[d]`, of which the rows are summands."""
    parts = anatomy.parts(model)
    return anatomy.norm_of_parts(parts.norm, rows, final_resid) @ parts.head.weight[token]


def direct_bias(model, token: int) -> float:
    """What the final norm's bias adds to a token's logit."""
    parts = anatomy.parts(model)
    bias = getattr(parts.norm, "bias", None)
    return 0.0 if bias is None else (bias @ parts.head.weight[token]).item()
