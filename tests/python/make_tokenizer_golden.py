"""Makes tests/golden/tokenizers.json: tokens, offsets and continuations of random texts by tokenizers of every kind, and where
transformers puts a BOS.

    pip install transformers tokenizers
    python tests/python/make_tokenizer_golden.py

The short form of check_tokens.py, which compares the program itself, with more texts and with real vocabularies.
"""

import itertools
import json
import os
import pathlib
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import tokenizers
import transformers
from tokenizers import processors
from token_cases import added, bos, described, made, pairs, texts
from transformers import AutoTokenizer, PreTrainedTokenizerFast

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokenizers.json"
TEXTS, PAIRS = 28, 48
FLAGS = [None, True, False]
CLASSES = ["PreTrainedTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer"]


def bos_policies(tokenizer):
    """Whether a text gets a BOS, for every post-processor, class and setting of the flags."""
    posts = {
        "none": None,
        "byte_level": processors.ByteLevel(trim_offsets=False),
        "template": bos(),
        "sequence": processors.Sequence([processors.ByteLevel(trim_offsets=False), bos()]),
    }
    found = []
    for (post, processor), name, add_bos, add_eos in itertools.product(posts.items(), CLASSES, FLAGS, FLAGS):
        for stated in ["<s>", None]:
            config = {"tokenizer_class": name, "bos_token": stated, "eos_token": "</s>"}
            config |= {k: v for k, v in [("add_bos_token", add_bos), ("add_eos_token", add_eos)] if v is not None}
            with tempfile.TemporaryDirectory() as folder:
                description = described(tokenizer)
                description["post_processor"] = json.loads(processor.__getstate__()) if processor else None
                pathlib.Path(folder, "tokenizer.json").write_text(json.dumps(description))
                pathlib.Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
                pathlib.Path(folder, "config.json").write_text(json.dumps({"model_type": "llama"}))
                ids = AutoTokenizer.from_pretrained(folder)("The")["input_ids"]
            assert 2 not in ids, "an EOS"
            found.append([post, name, add_bos, add_eos, stated, ids[0] == 1])
    return {name: json.loads(p.__getstate__()) if p else None for name, p in posts.items()}, found


def main():
    kinds = made()
    prompts, continued = texts(TEXTS), pairs(PAIRS)
    named, found = {}, []
    for name, tokenizer in kinds.items():
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        description = described(tokenizer)
        model = description.pop("model")
        # Kinds with the same vocabulary share it.
        key = next((key for key, other in named.items() if other == model), name)
        named[key] = model
        cases = []
        for prompt in prompts:
            encoded = fast(prompt, return_offsets_mapping=True)
            library = tokenizer.encode(prompt)
            assert (encoded["input_ids"], encoded["offset_mapping"]) == (library.ids, library.offsets)
            cases.append([library.ids, [end for pair in library.offsets for end in pair]])
        more = [added(tokenizer, *pair) for pair in continued]
        found.append({"name": name, "model": key, "rest": description, "cases": cases, "added": more})
        print(name, tokenizer.get_vocab_size(), sum(a is None for a in more), "of", len(more), "change the prompt")
    posts, policies = bos_policies(kinds["gpt2"])
    print(len(policies), "settings of BOS, of which", sum(p[-1] for p in policies), "put one")
    source = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    golden = {"source": source, "texts": prompts, "pairs": continued, "models": named, "tokenizers": found}
    golden |= {"post_processors": posts, "policies": policies}
    dump = lambda value: json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    lines = [f"{dump(k)}:{dump(v)}" for k, v in golden.items()]
    GOLDEN.write_text("{" + ",\n".join(lines).replace('{"name"', '\n{"name"') + "}\n")


if __name__ == "__main__":
    main()
