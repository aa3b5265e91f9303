"""Where a transformers model keeps its parts, by family: all that hooks and checks need to know of it.

Llama, Mistral, Qwen2 and Qwen3 name their modules alike. GPT-2 makes q, k and v in one product (`c_attn`), stores its
linear layers `[in, out]` (`Conv1D`), has biases everywhere, LayerNorms, learned positions and no gate.
"""

from dataclasses import dataclass

import torch


@dataclass
class Parts:
    """A model outside its blocks. `positions` is None where positions are rotations."""

    embed: torch.nn.Module
    positions: torch.nn.Module | None
    blocks: torch.nn.ModuleList
    norm: torch.nn.Module
    head: torch.nn.Module


@dataclass
class Block:
    """One block. `qkv`: the module whose output holds q, k or v, and which columns of it. `pre`:
    the modules whose outputs the MLP's activation gets, by site."""

    whole: torch.nn.Module
    attn_norm: torch.nn.Module
    attn: torch.nn.Module
    qkv: dict[str, tuple[torch.nn.Module, slice]]
    o: torch.nn.Module
    mlp_norm: torch.nn.Module
    mlp: torch.nn.Module
    pre: dict[str, torch.nn.Module]
    down: torch.nn.Module

    def head_norm(self, site: str):
        """Qwen3's norm of each head, whose output is the site q_norm or k_norm."""
        return getattr(self.attn, site, None)

    def neurons(self, x):
        """What the down projection gets."""
        return self.activated({site: module(x) for site, module in self.pre.items()})

    def activated(self, pre: dict):
        """What the down projection gets, of what the activation gets."""
        if "mlp_pre" in pre:
            return self.mlp.act(pre["mlp_pre"])
        return pre["mlp_gate"] * torch.sigmoid(pre["mlp_gate"]) * pre["mlp_up"]


def parts(model) -> Parts:
    if hasattr(model, "transformer"):
        inner = model.transformer
        return Parts(inner.wte, inner.wpe, inner.h, inner.ln_f, model.lm_head)
    inner = model.model
    return Parts(inner.embed_tokens, None, inner.layers, inner.norm, model.lm_head)


def layers(model) -> int:
    return len(parts(model).blocks)


def block(model, layer: int) -> Block:
    whole = parts(model).blocks[layer]
    if hasattr(whole, "ln_1"):
        attn, d = whole.attn, whole.attn.split_size
        qkv = {site: (attn.c_attn, slice(i * d, (i + 1) * d)) for i, site in enumerate("qkv")}
        pre = {"mlp_pre": whole.mlp.c_fc}
        return Block(whole, whole.ln_1, attn, qkv, attn.c_proj, whole.ln_2, whole.mlp, pre, whole.mlp.c_proj)
    attn = whole.self_attn
    qkv = {site: (getattr(attn, f"{site}_proj"), slice(None)) for site in "qkv"}
    norms = (whole.input_layernorm, whole.post_attention_layernorm)
    pre = {"mlp_gate": whole.mlp.gate_proj, "mlp_up": whole.mlp.up_proj}
    return Block(whole, norms[0], attn, qkv, attn.o_proj, norms[1], whole.mlp, pre, whole.mlp.down_proj)


def head_dim(model) -> int:
    return block(model, 0).attn.head_dim


def kv_heads(model) -> int:
    return getattr(model.config, "num_key_value_heads", model.config.num_attention_heads)


def matrix(linear) -> torch.Tensor:
    """A linear layer's weight, `[out, in]`."""
    return linear.weight if isinstance(linear, torch.nn.Linear) else linear.weight.T


def norm_of_parts(norm, rows: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """What each of `rows` `[n, d]`, summands of `whole` `[d]`, adds to `norm(whole)`, but for its bias: the norm is linear
    once its scale is held."""
    if isinstance(norm, torch.nn.LayerNorm):
        scale = (whole.var(unbiased=False) + norm.eps).rsqrt()
        rows = rows - rows.mean(-1, keepdim=True)
    else:
        scale = (whole.pow(2).mean() + norm.variance_epsilon).rsqrt()
    return rows * scale * norm.weight
