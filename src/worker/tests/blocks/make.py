"""Makes the payloads beside this file: what nnsight 0.8.1 sends for a traced block, byte for byte.

Run it in this folder with nnsight 0.8.1, transformers 5.22 and torch; a model of three layers is made in a temporary folder.
The tests put other sources in the place of the marked ones, so that a new block needs no client.
"""

import dataclasses
import linecache
import os
import sys
import tempfile

import nnsight
import nnsight.modeling.transformers as transformers
import torch
import zstandard
from nnsight import LanguageModel
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = os.getcwd()

#: Sources of the templates: what the block names is sent along, and the mark is found again by its length.
TEMPLATES = '''
def used(*names): pass
mark = "x"
with model.trace("one two three", backend=Capture("trace")) as tracer:
    used(model, torch, nnsight, tracer, einops_name, numbers, states, helper, Probe, probe, settings, Kind, kind, scaled, half)
    mark = "@MARK@"
with model.trace(backend=Capture("invokes")) as tracer:
    used(model, torch, nnsight, tracer, states, helper)
    mark = "@MARK@"
with model.session(backend=Capture("session")) as session:
    used(model, torch, nnsight, states, measure)
    mark = "@MARK@"
with model.trace(["one two three", "four"], backend=Capture("batch")) as tracer:
    used(model, torch, nnsight, tracer)
    mark = "@MARK@"
with model.trace(torch.tensor([[3, 4, 5]]), backend=Capture("ids")) as tracer:
    used(model, torch, nnsight, tracer)
    mark = "@MARK@"
with model.trace(model.tokenizer(["one two three", "four"], return_tensors="pt", padding=True), backend=Capture("encoding")) as tracer:
    used(model, torch, nnsight, tracer)
    mark = "@MARK@"
with model.generate("one two", max_new_tokens=2, backend=Capture("generate")) as tracer:
    used(model)
    mark = "@MARK@"
with model.edit(inplace=True):
    model.model.layers[0].output[:] = 0
with model.trace("one", backend=Capture("edited")) as tracer:
    used(model)
    mark = "@MARK@"
'''

#: What the client's file has around its blocks.
AROUND = '''
import dataclasses
import enum
import functools
import numpy
einops_name = "einops"
numbers = numpy.arange(4, dtype=numpy.float32)
states = {0: torch.arange(12, dtype=torch.float32).reshape(1, 3, 4), 1: torch.ones(1, 3, 4)}
half = torch.arange(8, dtype=torch.float16)[::2]
def helper(x, factor=2.0):
    """Doubles."""
    return inner(x) * factor
def inner(x):
    return x + offset
offset = 1.0
class Probe:
    """A user's class."""
    made = 0
    def __init__(self, bias):
        self.bias = bias
    def __call__(self, x):
        return self.score(x) + self.bias
    def score(self, x):
        return x.sum(dim=-1)
    @classmethod
    def count(cls):
        return cls.made
    @staticmethod
    def twice(x):
        return x * 2
probe = Probe(0.5)
@dataclasses.dataclass
class Settings:
    layer: int = 1
    names: list = dataclasses.field(default_factory=list)
settings = Settings(2)
class Kind(enum.Enum):
    CLEAN = "clean"
    NOISY = "noisy"
kind = Kind.NOISY
scaled = functools.partial(helper, factor=3.0)
def measure(prompt, layer):
    with model.trace(prompt):
        state = model.model.layers[layer].output
        last = state[:, -1]
    return last
'''


class Capture(Backend):
    """Writes what would be sent."""

    def __init__(self, name):
        self.name = name

    def __call__(self, tracer):
        data = RequestModel.serialize(tracer, False)
        # whose machine it was made on is not to be kept; the length of a text is part of the format
        for module in (sys.modules["__main__"], dataclasses, transformers):
            path = os.path.abspath(module.__file__).encode()
            data = data.replace(path, b"x" * len(path))
        with open(os.path.join(HERE, f"{self.name}.zst"), "wb") as out:
            out.write(zstandard.ZstdCompressor(level=6).compress(data))


def model():
    """A model whose module tree has three layers."""
    words = ["<pad>", "one", "two", "three", "four", "five", "six"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = LlamaConfig(vocab_size=7, hidden_size=4, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2)
    LlamaForCausalLM(config).save_pretrained("tiny")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<pad>", pad_token="<pad>").save_pretrained("tiny")
    return LanguageModel("tiny")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        source = AROUND + TEMPLATES.replace("@MARK@", "@" * 300)
        linecache.cache["notebook.py"] = (len(source), None, source.splitlines(True), "notebook.py")
        names = {"__name__": "__main__", "torch": torch, "nnsight": nnsight, "model": model(), "Capture": Capture}
        exec(compile(source, "notebook.py", "exec"), names)
        os.chdir(HERE)
