"""Random interventions against an independent PyTorch forward (`fuzz_model.py`), f64.

    python tests/python/fuzz.py --mediant target/debug/mediant [--count 500] [--seed 1]
    python tests/python/fuzz.py --golden tests/golden/fuzz.json          # the 50 that `cargo test` computes

The first starts a server for each of `SHAPES` and sends it requests of `/v1/patch`: any site and operation, values from
other runs, layers, positions and sites, several interventions jointly and in any order, derived runs, sweeps. Every
logit of every cell must agree within `TOLERANCE` of its size, every self-patch must be exactly 0. Request `i` depends on
the seed and `i` alone, so `--only i` repeats it.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from fuzz_model import KEY_HEADS, QUERY_HEADS, RESIDUAL, WIDE, Model, Request
from reference import formula_weight, torch

TOLERANCE = 2e-5
TARGETS = [1, 17, 42, 80, 95]
VOCABULARY = 96


def shape(model_type: str, d: int, e: int, heads: int, kv: int, layers: int, f: int) -> dict:
    return {
        "model_type": model_type,
        "vocab_size": VOCABULARY,
        "hidden_size": d,
        "intermediate_size": f,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": e,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5 if model_type == "llama" else 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }


SHAPES = [
    shape("llama", 32, 8, 4, 2, 4, 48),
    shape("llama", 24, 8, 3, 3, 3, 40),
    shape("llama", 32, 16, 4, 1, 2, 24),
    shape("qwen2", 32, 16, 2, 2, 3, 48),
    shape("qwen3", 32, 16, 4, 2, 3, 40),
    shape("llama", 16, 16, 1, 1, 3, 32),
]


class Random(random.Random):
    """Draws requests for one model."""

    def __init__(self, seed: int, index: int):
        super().__init__(f"{seed} {index}")
        self.model = Model(SHAPES[index % len(SHAPES)])

    def chance(self, p: float) -> bool:
        return self.random() < p

    def some(self, n: int, most: int) -> list[int]:
        return self.sample(range(n), self.randint(1, min(n, most)))

    def number(self) -> float:
        return round(self.uniform(-1.5, 1.5), 3)

    def vector(self, width: int) -> list[float]:
        return [round(self.uniform(-1, 1), 3) for _ in range(width)]

    def request(self) -> dict:
        length = self.randint(3, 8)
        lengths = {"a": length, "b": length, "c": self.randint(2, 9)}
        runs = {name: {"tokens": self.choices(range(VOCABULARY), k=n)} for name, n in lengths.items()}
        self.keys = max(lengths.values())
        if self.chance(0.3):
            parent = self.choice(["a", "b"])
            runs["d"] = {"from": parent, "interventions": self.interventions(parent, lengths, [])}
            lengths["d"] = lengths[parent]
        base = self.choice(["a", "a", "d"]) if "d" in runs else "a"
        sweep = []
        if self.chance(0.3):
            axes = ["layers", "positions", "heads", "dims", "source_layers"]
            sweep = self.sample(axes, self.choice([1, 1, 2]))
        interventions = self.interventions(base, lengths, sweep)
        body = {"runs": runs, "base": base, "interventions": interventions, "sweep": sweep}
        body["targets"] = {f"t{i}": i for i in TARGETS}
        body["metrics"] = [f"logit:t{i}" for i in TARGETS]
        return body | {"controls": ["self_patch"], "allow_trivial": True}

    def interventions(self, base: str, lengths: dict, sweep: list[str]) -> list[dict]:
        if sweep:
            one = self.one(base, lengths, sweep)
            while not all(self.has(one, axis) for axis in sweep):
                one = self.one(base, lengths, sweep)
            # Beside it what stays in every cell.
            return self.sample([one, *(self.fixed(base, lengths, sweep) for _ in range(self.choice([0, 1])))], k=None)
        return [self.one(base, lengths, sweep) for _ in range(self.choice([1, 1, 2, 2, 3, 4]))]

    def sample(self, population, k=None):
        return super().sample(population, len(population) if k is None else k)

    def fixed(self, base: str, lengths: dict, sweep: list[str]) -> dict:
        while True:
            one = self.one(base, lengths, [])
            if "dims" in sweep and "dims" not in one and "keys" not in one:
                continue
            single = len(one.get("layers", [0])) == 1 and len(one["positions"]) == 1
            heads = self.model.site_heads(one["site"])
            if single and len(one.get("heads", [0] if heads else [])) < 2 and len(one.get("keys", one.get("dims", [0]))) == 1:
                if not heads or "heads" in one:
                    return one

    def has(self, one: dict, axis: str) -> bool:
        """Whether an axis has anything to enumerate, in a way that request and reference count alike."""
        if one.get("op") == "freeze":
            return False
        match axis:
            case "layers":
                return "layers" in one
            case "heads":
                return "heads" in one
            case "dims":
                kept = one["site"] != "head_out" and not one.get("norm_match") and "basis" not in one
                return kept and ("dims" in one or "keys" in one)
            case "source_layers":
                return isinstance(one.get("source", {}).get("layer"), list)
        return True

    def one(self, base: str, lengths: dict, sweep: list[str]) -> dict:
        site = self.choice(self.model.sites if self.chance(0.6) else ("scores", "scores", "pattern", "z", "head_out", "resid_post"))
        model, length = self.model, lengths[base]
        one = {"site": site}
        if site not in ("embed", "final_norm"):
            one["layers"] = self.some(model.layers, 3)
            if self.chance(0.15):
                one["window"] = self.randint(2, 3)
        one["positions"] = positions = self.some(length, 3)
        if self.chance(0.3):
            one["positions"] = positions = [length - 1]
        heads = model.site_heads(site)
        if heads and self.chance(0.6):
            one["heads"] = self.some(heads, 3)
        one["op"] = op = self.choice(self.operations(site))
        part = model.part(site, self.keys)
        if op == "knockout":
            # The position itself stays, so that none is left without a key.
            one["positions"] = positions = [p for p in positions if p > 0] or [length - 1]
            one["keys"] = self.some(min(positions), 3)
            return one
        whole = op in ("project_out", "subspace", "freeze") or site == "head_out"
        if not whole and self.chance(0.3):
            one["dims"] = self.some(part, 4)
        width = part if "heads" in one or not heads else part * heads
        width = len(one["dims"]) if "dims" in one else width
        if op == "scale":
            one["factor"] = self.number()
        if op == "noise":
            one |= {"sigma": {"abs": 0.3}, "seed": self.randint(0, 99), "rng": "numpy_legacy"}
        if op in ("project_out", "subspace"):
            one["basis"] = [self.vector(width) for _ in range(self.randint(1, 2))]
        if op == "add":
            one["coef"] = self.number()
            if "dims" not in one and self.chance(0.3):
                one["norm_match"] = True
        if op in ("replace", "add", "subspace", "mean", "resample", "freeze"):
            source = self.source(one, lengths, sweep, width)
            if source is not None:
                one["source"] = source
        return one

    def operations(self, site: str) -> list[str]:
        copies = ["replace", "replace", "replace", "resample", "freeze", "scale", "zero"]
        if site == "scores":
            return [*copies, *["knockout"] * 7]
        if site == "pattern":
            return copies
        if site == "head_out":
            return [*copies, "mean"]
        return [*copies, "add", "add", "mean", "noise", "project_out", "subspace"]

    def source(self, one: dict, lengths: dict, sweep: list[str], width: int) -> dict | None:
        site, op, positions = one["site"], one["op"], one["positions"]
        prompts = [run for run in lengths if run != "d"]
        if op == "freeze" and self.chance(0.5):
            return None

        def read(runs: list[str]) -> dict:
            """Positions read: as many as are written, or one for all."""
            least = min(lengths[run] for run in runs)
            if site in ("scores", "pattern"):
                return {"positions": positions}
            if len(positions) <= least and self.chance(0.8):
                return {"positions": self.sample(range(least), len(positions))}
            return {"positions": [self.randrange(least)]}

        fitting = [run for run in lengths if max(positions) < lengths[run]]
        if op == "mean":
            runs = self.sample(prompts, self.randint(1, 3))
            return {"mean_of": runs, **read(runs)}
        if op == "resample":
            runs = self.sample(fitting if site in ("scores", "pattern") else list(lengths), None)
            return {"any_of": runs, **read(runs)}
        if op in ("replace", "add") and site not in ("scores", "pattern", "head_out") and self.chance(0.25):
            return {"vector": self.vector(width)}
        if site in ("scores", "pattern"):
            run = self.choice(fitting)
            return {"run": run, **read([run])}
        elsewhere = "source_layers" in sweep or self.chance(0.5)
        if not elsewhere or op == "freeze":
            run = self.choice(list(lengths))
            return {"run": run, **read([run])}
        run = self.choice(prompts)
        source = {"run": run, **read([run])}
        other = self.choice(self.alike(site)) if self.chance(0.4) else site
        if other != site:
            source["site"] = other
        if other not in ("embed", "final_norm"):
            layers = self.some(self.model.layers, 3) if "source_layers" in sweep else [self.randrange(self.model.layers)]
            source["layer"] = layers if "source_layers" in sweep else layers[0]
        return source

    def alike(self, site: str) -> list[str]:
        """Sites of the same width and heads."""
        if site == "head_out":
            return [site]
        if site in WIDE:
            return list(WIDE)
        for family in (("q", "q_norm", "q_rope", "z"), KEY_HEADS):
            if site in family:
                return [one for one in family if one in self.model.sites]
        return [site]


# ------------------------------------------------------------------------------------------------------- comparing


def expected(index: int, seed: int):
    """A request, and the logits that it should give, `[cells][vocabulary]`."""
    draw = Random(seed, index)
    body = draw.request()
    return body, Request(draw.model, body).cells()


def golden(path: pathlib.Path, count: int, seed: int):
    cases = []
    for index in range(count):
        body, cells = expected(index, seed)
        logits = [[round(z[i].item(), 7) for i in TARGETS] for z in cells]
        lse = [round(z.logsumexp(-1).item(), 7) for z in cells]
        cases.append({"model": index % len(SHAPES), "body": body, "logits": logits, "lse": lse})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = json.dumps({"made_by": "tests/python/fuzz.py", "seed": seed, "targets": TARGETS, "models": SHAPES})
    path.write_text(f'{head[:-1]}, "cases": [\n{lines}\n]}}\n')
    print(f"{path}  {path.stat().st_size / 1024:.0f} KiB")


def save(config: dict, folder: pathlib.Path):
    """A model folder: the formula's weights, and words t0, t1, ... for tokens."""
    import numpy
    from safetensors.numpy import save_file

    model = Model(config, torch.float32)
    model.forward([0])
    weights = {name: numpy.ascontiguousarray(formula_weight(name, tuple(w.shape))) for name, w in model.weights.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {f"t{i}": i for i in range(VOCABULARY)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


class Server:
    def __init__(self, mediant: str, config: dict):
        self.folder = tempfile.TemporaryDirectory()
        path = pathlib.Path(self.folder.name)
        (path / "model").mkdir()
        save(config, path / "model")
        self.log = (path / "log").open("w+")
        command = [mediant, "serve", "--model", str(path / "model"), "--listen", "127.0.0.1:0", "--data-dir", str(path / "data")]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.url = self.wait()

    def wait(self) -> str:
        for _ in range(1200):
            time.sleep(0.1)
            text = pathlib.Path(self.log.name).read_text()
            if self.process.poll() is not None:
                break
            if "http://127" in text:
                url = text[text.index("http://127") :].split()[0].strip('",')
                try:
                    urllib.request.urlopen(f"{url}/readyz")
                    return url
                except urllib.error.URLError:
                    pass
        sys.exit(f"the server did not start: {text}")

    def patch(self, body: dict) -> dict:
        request = urllib.request.Request(f"{self.url}/v1/patch", json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            return json.load(urllib.request.urlopen(request))
        except urllib.error.HTTPError as error:
            return {"refused": error.read().decode()}

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


def flat(values) -> list:
    """Nested lists in row-major order; a single cell is a plain number."""
    return [x for part in values for x in flat(part)] if isinstance(values, list) else [values]


def live(mediant: str, indices: list[int], seed: int) -> int:
    servers: dict[int, Server] = {}
    worst, compared, failed, kinds = (0.0, None), 0, 0, {}
    try:
        for index in indices:
            body, cells = expected(index, seed)
            which = index % len(SHAPES)
            servers[which] = servers.get(which) or Server(mediant, SHAPES[which])
            answer = servers[which].patch(body)
            for one in body["interventions"]:
                kinds[one["site"], one["op"]] = kinds.get((one["site"], one["op"]), 0) + 1
            if "refused" in answer:
                failed += 1
                print(f"request {index} is refused: {answer['refused']}\n  {json.dumps(body)}")
                continue
            if answer["controls"]["self_patch"]["max_abs_effect"] != 0.0:
                failed += 1
                print(f"request {index}: a self-patch is not 0\n  {json.dumps(body)}")
            off = 0.0
            for t in TARGETS:
                data = flat(answer["values"][f"logit:t{t}"])
                assert len(data) == len(cells), f"request {index}: {len(data)} cells, expected {len(cells)}"
                for got, z in zip(data, cells, strict=True):
                    compared += 1
                    want = z[t].item()
                    off = max(off, float("inf") if got is None else abs(got - want) / (1 + abs(want)))
            worst = max(worst, (off, index))
            if not off < TOLERANCE:
                failed += 1
                print(f"request {index}: off by {off:.1e}\n  {json.dumps(body)}")
    finally:
        for server in servers.values():
            server.stop()
    print(f"{len(indices)} requests, {len(kinds)} pairs of site and operation, {compared} logits")
    print(f"worst difference {worst[0]:.1e} of 1 + |logit| (request {worst[1]}), {failed} failed")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mediant", help="the program to try")
    parser.add_argument("--golden", type=pathlib.Path, help="write requests and their logits here")
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="this request alone")
    options = parser.parse_args()
    if options.golden:
        golden(options.golden, options.count or 50, options.seed)
    if options.mediant:
        indices = range(options.count or 500) if options.only is None else [options.only]
        sys.exit(min(live(options.mediant, list(indices), options.seed), 1))


if __name__ == "__main__":
    main()
