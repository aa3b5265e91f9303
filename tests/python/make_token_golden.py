"""Makes tests/golden/tokens.json and tests/golden/weights.json from the default model's GGUF.

    pip install torch transformers gguf numpy
    python tests/python/make_token_golden.py PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf

tokens.json: ids, strings and character offsets by transformers of texts that are hard to tokenise. The reference tokenizer is
the GGUF's vocabulary and merges with SmolLM2's pre-tokenizer (digits one by one, then byte-level) in a
PreTrainedTokenizerFast; ids and offsets are as transformers gives them. transformers' own GGUF route is compared with it, and where
they differ the route's ids are written down as well ("gguf_route"): it has no digits rule, which matters only for numerals
other than 0 to 9, because the vocabulary has no token of several digits.

weights.json: SHA-256 of the little-endian f32 bytes of dequantised tensors (gguf.quants, NumPy), Q and K in the row order of
Hugging Face.
"""

import hashlib
import json
import os
import pathlib
import re
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import AutoTokenizer, PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = pathlib.Path(sys.argv[1])

TEXTS = [
    # The seed's prompts and targets.
    "Why do electricians make good swimmers? Because they know the",
    "The wires carry high voltage electrical",
    "The river has a strong water",
    "Why did the banker break up with his girlfriend? He lost",
    "What did the ocean say to the beach? Nothing, it just",
    "Why don't scientists trust atoms? Because they make up",
    "What do you call a fake noodle? An",
    "Time flies like an arrow. Fruit flies like a",
    " current",
    " interest",
    " waved",
    " everything",
    " imp",
    " banana",
    "The Eiffel Tower is in the city of",
    # Digits.
    "1234567890",
    "in 1984, 3.14159 and -273.15°C",
    "٣٤٥ ½ Ⅷ ² 第12章",
    "v1.2.3-rc4 0x1F",
    # Spaces.
    "",
    " ",
    "   three   spaces   ",
    "\t\ttabs\tand  spaces \n",
    "line\r\nline\r\n\r\n  end",
    "\u00a0no-break\u2003em\u200bzero",
    # Letters.
    "naïve café Ångström œuvre straße",
    "e\u0301 vs é, a\u0308\u0323 combined",
    "東京は日本の首都です。",
    "Привет, мир!",
    "שלום עולם مرحبا بالعالم",
    "नमस्ते दुनिया",
    "안녕하세요",
    "𝒽𝑒𝓁𝓁𝑜 𐍈",
    # Emoji: split over tokens, joined, with modifiers, flags.
    "🙂",
    "👩‍👩‍👧‍👦 family",
    "👍🏽🇫🇷 ok",
    # Special tokens written out.
    "<|im_start|>user\nhi<|im_end|>\n",
    "a<|endoftext|>b <|im_end|> c",
    "<repo_name>x<|not_a_token|>",
    # Contractions, punctuation, code.
    "It's we'll they've I'm he'd DON'T ’s",
    "wait... what?!?! -- (yes) [no] {maybe}",
    "x=3;\tfor(int i=0;i<10;i++){ a[i]+=x; }",
    "def f(x):\n    return {'a': [1, 2], \"b\": x**2}  # ok",
    "https://example.org/a?b=c&d=%20",
    "\u0000control\u0007\u007f",
    # Bytes that the vocabulary has no token for: 0x04, and 0xf1 of U+40000. They are dropped.
    "a\u0004b שלום \U00040000 c",
]

# HF name -> GGUF name, heads if llama.cpp permuted the rows.
WEIGHTS = {
    "model.embed_tokens.weight": ("token_embd.weight", None),
    "model.norm.weight": ("output_norm.weight", None),
    "model.layers.0.input_layernorm.weight": ("blk.0.attn_norm.weight", None),
    "model.layers.0.self_attn.q_proj.weight": ("blk.0.attn_q.weight", 9),
    "model.layers.0.self_attn.k_proj.weight": ("blk.0.attn_k.weight", 3),
    "model.layers.0.self_attn.v_proj.weight": ("blk.0.attn_v.weight", None),
    "model.layers.0.self_attn.o_proj.weight": ("blk.0.attn_output.weight", None),
    "model.layers.0.mlp.gate_proj.weight": ("blk.0.ffn_gate.weight", None),
    "model.layers.0.mlp.up_proj.weight": ("blk.0.ffn_up.weight", None),
    "model.layers.0.mlp.down_proj.weight": ("blk.0.ffn_down.weight", None),
    "model.layers.29.self_attn.q_proj.weight": ("blk.29.attn_q.weight", 9),
    "model.layers.29.self_attn.k_proj.weight": ("blk.29.attn_k.weight", 3),
    "model.layers.29.mlp.down_proj.weight": ("blk.29.ffn_down.weight", None),
}


def reference_tokenizer(fields):
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": t} | added for i, t in enumerate(tokens) if types[i] == 3],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"].contents(),
        },
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(description, file)
        file.flush()
        return PreTrainedTokenizerFast(tokenizer_file=file.name, bos_token="<|im_start|>", eos_token="<|im_end|>")


def main():
    reader = GGUFReader(PATH)
    source = {"gguf_sha256": hashlib.sha256(PATH.read_bytes()).hexdigest(), "transformers": transformers.__version__}
    tokenizer = reference_tokenizer(reader.fields)
    route = AutoTokenizer.from_pretrained(PATH.parent, gguf_file=PATH.name)
    cases, differ = [], []
    for text in TEXTS:
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        case = {
            "text": text,
            "lossless": tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text,
            "ids": ids,
            "offsets": encoded["offset_mapping"],
            "strings": [tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids],
        }
        other = route(text)["input_ids"]
        if other != ids:
            case["gguf_route"] = other
            differ.append(text)
        cases.append(case)
    print(f"{len(cases)} texts; transformers' GGUF route differs on {len(differ)}:", *map(repr, differ), sep="\n  ")
    # The only difference allowed is the digits rule.
    assert all(re.search(r"\d|[½Ⅷ²]", text) for text in differ), "differs for another reason than digits"
    golden = ROOT / "tests" / "golden"
    golden.mkdir(parents=True, exist_ok=True)
    assert sum(not case["lossless"] for case in cases) == 1
    text = json.dumps({"source": source, "cases": cases}, ensure_ascii=True)
    (golden / "tokens.json").write_text(text.replace('{"text"', '\n{"text"') + "\n")

    stored = {t.name: t for t in reader.tensors}
    weights = {}
    for name, (gguf_name, heads) in WEIGHTS.items():
        tensor = stored[gguf_name]
        w = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype="<f4")
        if heads:
            w = w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        digest = hashlib.sha256(np.ascontiguousarray(w).tobytes()).hexdigest()
        weights[name] = {"stored": tensor.tensor_type.name, "shape": list(w.shape), "sha256": digest}
    (golden / "weights.json").write_text(json.dumps({"source": source, "tensors": weights}, indent=1) + "\n")
    print(f"{len(weights)} tensors of types", {t["stored"] for t in weights.values()})


if __name__ == "__main__":
    main()
