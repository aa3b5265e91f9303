"""Holds the table of sites in docs/VOCABULARY.md to the tools themselves: TransformerLens, nnsight and pyvene read what
their name in the table says on tiny random models, which must be what stands at the site here; half a minute, beside
the installation.

    python tests/python/check_names.py --venv ~/names-venv     makes the environment, installs the tools, runs there
    python tests/python/check_names.py                         where they are installed

The values of a site come from hooks on transformers (`interventions.py`), to which the goldens hold the server.
TransformerLens runs without processing, as its bridge does by itself. A name that a tool does not have in one family is
reported and is no failure, if the tool has it in another; a name that no family has, or another value, is one.
ROME is no package: its names are those of `causal_trace.py`.
"""

import argparse
import copy
import pathlib
import subprocess
import sys
import tempfile
import venv

TOOLS = ["torch", "transformers", "transformer_lens", "nnsight", "pyvene"]
TOKENS = [3, 17, 5, 44, 9, 21, 60, 7]
LAYER = 1
LIMIT = 2e-5
SIZES = {"vocab_size": 64}


def table() -> list[dict]:
    """Rows of the generated table, by the first word of their column."""
    text = (pathlib.Path(__file__).parents[2] / "docs/VOCABULARY.md").read_text()
    lines = text.split("<!-- sites: generated")[1].split("<!-- end of sites")[0].splitlines()[1:]
    head, _, *rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if line]
    head = [name.split(",")[0] for name in head]
    return [dict(zip(head, row)) for row in rows]


def models() -> dict:
    """Tiny random models, by family."""
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    sizes = {
        **SIZES,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
    }
    torch.manual_seed(7)
    small = {**SIZES, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "attn_implementation": "eager"}
    made = {
        "llama": LlamaForCausalLM(LlamaConfig(**sizes)),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=16)),
        "gpt2": GPT2LMHeadModel(GPT2Config(**small)),
    }
    for model in made.values():
        model.eval()
        with torch.no_grad():
            # Norms that do nothing, and biases of zero, would hide where they stand.
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


class TransformerLens:
    """By hook name; ` x weight` is the norm's weight, and its bias where it has one."""

    column = "TransformerLens"

    def __init__(self, model):
        import torch
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformer_lens.model_bridge import TransformerBridge
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        words = Tokenizer(WordLevel({str(i): i for i in range(SIZES["vocab_size"])}, unk_token="0"))
        special = {"bos_token": "1", "eos_token": "1", "pad_token": "1"}
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            bridge = TransformerBridge.boot_transformers(folder, hf_model=copy.deepcopy(model), tokenizer=tokenizer)
        bridge.cfg.use_attn_result = True
        with torch.no_grad():
            self.logits, self.cache = bridge.run_with_cache(torch.tensor([TOKENS]))
        self.model = model

    def read(self, name, site):
        import anatomy

        if name == "the output":
            return self.logits[0]
        hook, _, weight = name.partition(" x ")
        value = self.cache[hook if site in ("embed", "final_norm") else f"blocks.{LAYER}.{hook}"][0]
        if weight:
            parts, block = anatomy.parts(self.model), anatomy.block(self.model, LAYER)
            norm = {"attn_norm": block.attn_norm, "mlp_norm": block.mlp_norm, "final_norm": parts.norm}[site]
            value = value * norm.weight + (getattr(norm, "bias", None) if hasattr(norm, "bias") else 0)
        if len(value) != len(TOKENS):  # heads first
            value = value.transpose(0, 1)
        return value.flatten(1)


class Nnsight:
    """By module path; Llama's names, so not of GPT-2."""

    column = "nnsight"

    def __init__(self, model):
        from nnsight import NNsight

        if hasattr(model, "transformer"):
            raise LookupError("the names are Llama's")
        self.model = NNsight(copy.deepcopy(model))

    def read(self, name, site):
        import torch

        if name == "attention weights":
            raise LookupError("returned, not named")
        inner = self.model.model
        if site == "logits":
            inner = self.model
        elif site not in ("embed", "final_norm"):
            inner = inner.layers[LAYER]
        path, _, index = name.partition("[")
        with torch.no_grad(), self.model.trace(torch.tensor([TOKENS])):
            for part in path.split("."):
                inner = getattr(inner, part)
            value = (inner[int(index.rstrip("]"))] if index else inner).save()
        value = value[0] if len(value) == 1 else value
        return value.flatten(1)


class Pyvene:
    """By component."""

    column = "pyvene"

    def __init__(self, model):
        from pyvene.models.intervenable_modelcard import type_to_module_mapping

        if type(model) not in type_to_module_mapping:
            raise LookupError("pyvene does not know the family")
        self.model = copy.deepcopy(model)
        self.known = type_to_module_mapping[type(model)]

    def read(self, name, site):
        import pyvene
        import torch

        name, _, only = name.partition(", ")
        if only == "if not gated" and not hasattr(self.model, "transformer"):
            raise LookupError("without the other factor")
        if name not in self.known:
            raise LookupError("no such component")
        config = {
            "layer": LAYER,
            "component": name,
            "intervention_type": pyvene.CollectIntervention,
            "max_number_of_units": len(TOKENS),
        }
        intervenable = pyvene.IntervenableModel(config, model=copy.deepcopy(self.model))
        places = {"base": [[list(range(len(TOKENS)))]]}
        with torch.no_grad():
            (_, collected), _ = intervenable({"input_ids": torch.tensor([TOKENS])}, unit_locations=places)
        return collected[0][0]


def compare(family: str, model, rows: list[dict], seen: dict) -> int:
    """Every name of every tool on one model; gives how many are wrong."""
    import torch

    from interventions import NO_LAYER, exists, forward

    addresses = {row["site"]: (row["site"], 0 if row["site"] in NO_LAYER else LAYER) for row in rows}
    there = {site: at for site, at in addresses.items() if exists(model, site)}
    with torch.no_grad():
        acts = forward(copy.deepcopy(model), TOKENS, capture=list(there.values()))[1]
    wrong = 0
    for tool in (TransformerLens, Nnsight, Pyvene):
        try:
            reader = tool(model)
        except LookupError as why:
            print(f"{family:6} {tool.column:16} left out: {why}")
            continue
        for row in rows:
            site, name = row["site"], row[tool.column]
            rotary = family != "gpt2" or not site.endswith("_rope")
            if name == "-" or site not in there or not rotary:
                continue
            try:
                value = reader.read(name, site)
            except (LookupError, AttributeError) as why:
                print(f"{family:6} {tool.column:16} {site:10} has no {name} ({type(why).__name__}: {str(why)[:80]})")
                continue
            mine = acts[there[site]]
            if site == "scores":
                kept = torch.ones(len(TOKENS), len(TOKENS), dtype=torch.bool).tril().repeat(1, 4)
                value = value.masked_fill(~kept, 0)
            seen[tool.column, site] = True
            if value.shape != mine.shape:
                said = f"another shape: {tuple(value.shape)}, here {tuple(mine.shape)}"
            else:
                difference = (value - mine).abs().max().item()
                said = f"{difference:.1e}" if difference < LIMIT else f"ANOTHER VALUE, {difference:.1e} away"
            wrong += not said[0].isdigit()
            print(f"{family:6} {tool.column:16} {site:10} {name:34} {said}")
    return wrong


def check() -> None:
    rows, seen = table(), {}
    wrong = sum(compare(family, model, rows, seen) for family, model in models().items())
    tools = (TransformerLens.column, Nnsight.column, Pyvene.column)
    named = [(tool, row["site"]) for tool in tools for row in rows if row[tool] not in ("-", "attention weights")]
    unseen = [key for key in named if key not in seen]
    if wrong or unseen:
        raise SystemExit(f"{wrong} names are of something else; no tool has a name for {unseen}")
    print(f"{len(seen)} names of {len(rows)} sites are right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=pathlib.Path, help="make this environment, install the tools, and run in it")
    options = parser.parse_args()
    if options.venv is None:
        return check()
    python = options.venv / "bin" / "python"
    if not python.exists():
        venv.create(options.venv, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *TOOLS], check=True)
    raise SystemExit(subprocess.run([python, __file__]).returncode)


if __name__ == "__main__":
    main()
