"""Tokenizers of every kind and random texts in many scripts, for make_tokenizer_golden.py and check_tokens.py.

The tokenizers are small: their parts are those of well-known checkpoints, their vocabularies are learned here from a few sentences.
"""

import collections
import json
import math
import random
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CORPUS = (
    "The Eiffel Tower is in the city of Paris, and the Louvre is in Paris too. The tower and the river are in the city. "
    "He said that the water is strong. Why do they know the answer? Because the current is strong: 1 2 3 10 12 100 1984 2024. "
    "La capitale de la France est la ville de Paris. L'été, le café est là. préférer naïve œuvre Straße Ångström "
    "Привет, мир! Москва это столица России. שלום עולם مرحبا بالعالم नमस्ते दुनिया Xin chào Việt Nam tiếng Việt "
    "東京は日本の首都です。 北京是中国的首都。 안녕하세요 서울은 한국의 수도입니다. 12月31日 ١٢٣ "
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace("{1,3}", "")
SPECIAL = ["<unk>", "<s>", "</s>"]


def learned(words, merges):
    """Byte-pair merges of words (tuples of symbols with counts), the most frequent pair first, ties by the pair itself."""
    words, found = dict(words), []
    for _ in range(merges):
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        pair = max(pairs, key=lambda p: (pairs[p], p))
        found.append(pair)
        merged = collections.Counter()
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                joined = word[i : i + 2] == pair
                out.append("".join(word[i : i + 2]) if joined else word[i])
                i += 2 if joined else 1
            merged[tuple(out)] += count
        words = merged
    return found


def byte_level_model(merges=260, **options):
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = collections.Counter(tuple(word) for word, _ in cut.pre_tokenize_str(unicodedata.normalize("NFC", CORPUS)))
    found = learned(words, merges)
    pieces = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in found]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return models.BPE(vocab=vocab, merges=found, **options)


def sentencepiece_model(merges=260):
    """As Llama 2's: pieces with `▁` for a space, bytes for what has no piece, blanks in pieces of their own."""
    words = collections.Counter(tuple("▁" + word) for word in CORPUS.split())
    found = learned(words, merges) + [("▁", "▁"), ("▁▁", "▁▁")]
    letters = [c for c, n in collections.Counter(CORPUS).most_common() if n > 1 and c != " "]
    pieces = SPECIAL + [f"<0x{b:02X}>" for b in range(256)] + ["▁"] + letters
    known = set(pieces)
    kept = []
    for pair in found:
        if all(part in known for part in pair):
            known.add("".join(pair))
            pieces.append("".join(pair))
            kept.append(pair)
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return models.BPE(vocab=vocab, merges=kept, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def unigram_model(byte_fallback):
    counts = collections.Counter()
    for word in unicodedata.normalize("NFKC", CORPUS).split():
        word = "▁" + word
        for i in range(len(word)):
            for j in range(i + 1, min(len(word), i + 8) + 1):
                counts[word[i:j]] += 1
    kept = [(p, n) for p, n in counts.most_common() if n > 1 or len(p) == 1][:420]
    total = sum(n for _, n in kept)
    pieces = [(piece, 0.0) for piece in SPECIAL]
    if byte_fallback:
        pieces += [(f"<0x{b:02X}>", -20.0) for b in range(256)]
    pieces += [(piece, round(math.log(n / total) + 0.3 * len(piece), 3)) for piece, n in sorted(kept)]
    return models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback)


def bos(single="<s> $A"):
    return processors.TemplateProcessing(single=single, pair="<s> $A $B", special_tokens=[("<s>", 1)])


def cut_by(expression, prefix=False):
    split = pre_tokenizers.Split(Regex(expression), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)])


def fallback(strip=True):
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if strip else []))


def made():
    """Name -> tokenizer."""
    bytes_, spm = byte_level_model(), sentencepiece_model()
    ignoring = byte_level_model(ignore_merges=True)
    plain, falling = unigram_model(False), unigram_model(True)
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    squeeze = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    quotes = normalizers.Sequence(
        [normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    level = pre_tokenizers.ByteLevel
    trimmed, whole = processors.ByteLevel(trim_offsets=True), processors.ByteLevel(trim_offsets=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(add_prefix_space=False)])
    space = pre_tokenizers.Metaspace
    # normalizer, pre-tokenizer, post-processor, decoder, model
    kinds = {
        "gpt2": (None, level(add_prefix_space=False), None, decoders.ByteLevel(), bytes_),
        "smollm": (None, digits, None, decoders.ByteLevel(), bytes_),
        "llama3": (None, cut_by(LLAMA3), processors.Sequence([whole, bos()]), decoders.ByteLevel(), ignoring),
        "qwen2": (normalizers.NFC(), cut_by(QWEN), whole, decoders.ByteLevel(), bytes_),
        "trimmed": (None, level(add_prefix_space=True), trimmed, decoders.ByteLevel(), bytes_),
        "replacing": (quotes, level(add_prefix_space=False), whole, decoders.ByteLevel(), bytes_),
        "llama2": (prepend, None, bos(), fallback(), spm),
        "metaspace_first": (None, space(prepend_scheme="first", split=False), bos(), fallback(), spm),
        "metaspace_always": (None, space(prepend_scheme="always", split=True), bos(), fallback(), spm),
        "metaspace_never": (None, space(prepend_scheme="never", split=False), None, fallback(False), spm),
        "unigram_nfkc": (squeeze, space(), None, decoders.Metaspace(), plain),
        "unigram_bytes": (normalizers.NFKC(), space(prepend_scheme="first"), bos(), fallback(), falling),
    }
    found = {}
    for name, (normalizer, cut, post, decoder, model) in kinds.items():
        t = Tokenizer(model)
        t.normalizer, t.pre_tokenizer, t.decoder = normalizer, cut, decoder
        if post is not None:
            t.post_processor = post
        t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in SPECIAL])
        found[name] = t
    return found


WORDS = CORPUS.split() + ["it's", "DON'T", "1+1=", "3.14", "-273", "x=3;", "``quoted''", "...", "?!", "▁", "ﬁn", "Ⅷ", "½", "ｶﾅ", "Å"]
EMOJI = ["🙂", "👩‍👩‍👧‍👦", "👍🏽", "🇫🇷", "❤️", "𝒽", "𐍈"]
BLANKS = [" "] * 12 + ["  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2003", "\u200b", "\u200f", ""]
RANGES = [(0x20, 0x7E), (0xA1, 0x24F), (0x300, 0x36F), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x621, 0x652), (0x905, 0x939), (0xE01, 0xE3A)]
RANGES += [(0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2150, 0x218B), (0x3041, 0x30FE), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0xFB00, 0xFB06)]
RANGES += [(0xFF01, 0xFF9D), (0x1F300, 0x1F6FF), (0x1D400, 0x1D7FF)]


def text(draw):
    """A random text."""
    parts = []
    for _ in range(draw.randint(1, 9)):
        kind = draw.random()
        if kind < 0.6:
            part = draw.choice(WORDS)
        elif kind < 0.7:
            part = draw.choice(EMOJI)
        elif kind < 0.75:
            part = draw.choice(SPECIAL)
        elif kind < 0.85:
            part = str(draw.randint(0, 10 ** draw.randint(1, 9)))
        else:
            part = "".join(chr(draw.randint(*draw.choice(RANGES))) for _ in range(draw.randint(1, 6)))
        form = draw.choice([None, None, "NFC", "NFD", "NFKD"])
        parts += [unicodedata.normalize(form, part) if form else part, draw.choice(BLANKS)]
    if draw.random() < 0.7:
        parts.pop()
    return (draw.choice([" ", "\n", "  ", "\u3000"]) if draw.random() < 0.1 else "") + "".join(parts)


def texts(count, seed=0):
    """Random texts without empty ones."""
    draw = random.Random(seed)
    found = []
    while len(found) < count:
        one = text(draw)
        if one.strip() and one.isprintable() or any(c in one for c in "\n\t"):
            found.append(one)
    return found


def pairs(count, seed=1):
    """Random prompts with texts to come after them, many of which begin in the middle of a word."""
    draw = random.Random(seed)
    found = []
    while len(found) < count:
        whole = text(draw)
        if len(whole) < 2:
            continue
        if draw.random() < 0.5:
            at = draw.randint(1, len(whole) - 1)
            found.append((whole[:at], whole[at:]))
        else:
            found.append((whole, draw.choice(["", " ", " "]) + draw.choice(WORDS)))
    return found


def added(tokenizer, prompt, continuation):
    """The ids that a text adds to a prompt; None where it changes the prompt's own."""
    ids = lambda t: tokenizer.encode(t, add_special_tokens=False).ids
    own, joined = ids(prompt), ids(prompt + continuation)
    return joined[len(own) :] if joined[: len(own)] == own else None


def described(tokenizer):
    return json.loads(tokenizer.to_str())
