"""Times steered generation beside transformers' `generate` with hooks, on this machine's CPU, in turn.

    python benches/generate.py --server target/release/mediant [--rounds 3] [--json]

8 strengths of one vector at layer 14, 64 greedy tokens each, default model in f32. transformers gets its key cache, and is timed in two
ways: a text at a time, as hooks are mostly written, and all 8 in one batch with a strength for each row. Needs what
`tests/python/requirements.txt` names. Greedy tokens must be the same but for ties.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "python"))
from reference import encode, smollm2, uniform  # noqa: E402

LAYER = 14
TOKENS = 64
STRENGTHS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
PROMPT = "Once upon a time there was a little"


class Server:
    """`mediant serve` on a free port of the loopback, with as many threads as torch."""

    def __init__(self, program: str, threads: int):
        self.folder = tempfile.TemporaryDirectory()
        arguments = [program, "serve", "--listen", "127.0.0.1:0", "--data-dir", self.folder.name]
        environment = {"MEDIANT__ENGINE__THREADS": str(threads), "MEDIANT__CACHE__SHARE": "off"}
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
        for line in self.process.stderr:
            if "listening on http://" in line:
                self.address = line.split("http://")[1].split()[0]
                break
        else:
            sys.exit("the server ended before it listened")
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
        while True:
            try:
                self.get("/readyz")
                return
            except OSError:
                time.sleep(0.2)

    def get(self, path: str):
        return json.load(urllib.request.urlopen(f"http://{self.address}{path}"))

    def post(self, path: str, body: dict):
        request = urllib.request.Request(
            f"http://{self.address}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request))

    def stop(self):
        self.process.terminate()
        self.process.wait()


def hooked(model, ids: list[int], vector: torch.Tensor, strengths: list[float]) -> list[list[int]]:
    """Greedy texts, a row for each strength: added to the last position of every forward, the prompt's included."""
    column = torch.tensor(strengths)[:, None] * vector

    def hook(_module, _inputs, output):
        x = output[0] if isinstance(output, tuple) else output
        x[:, -1] += column
        return output

    handle = model.model.layers[LAYER].register_forward_hook(hook)
    try:
        batch = torch.tensor([ids] * len(strengths))
        out = model.generate(
            batch, attention_mask=torch.ones_like(batch), do_sample=False, min_new_tokens=TOKENS, max_new_tokens=TOKENS, pad_token_id=0
        )
    finally:
        handle.remove()
    return out[:, len(ids) :].tolist()


def served(server: Server, vector: list[float]) -> list[list[int]]:
    edit = {"site": "resid_post", "layers": LAYER, "positions": {"steps": "all"}, "op": "add", "source": {"vector": vector}}
    body = {
        "prompt": PROMPT,
        "max_tokens": TOKENS,
        "interventions": [edit],
        "sweep": {"coefs": STRENGTHS},
        # transformers does not let the text end either.
        "sampling": {"logit_bias": {"2": -1e9, "0": -1e9}},
    }
    answer = server.post("/v1/generate", body)
    return [[token["id"] for token in branch["samples"][0]["tokens"]] for branch in answer["branches"].values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", default="target/release/mediant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = smollm2()
    vector = torch.from_numpy(uniform("steer", model.config.hidden_size)).float()
    ids = encode(PROMPT)
    server = Server(args.server, args.threads)
    seconds = {"mediant": [], "transformers, one batch": [], "transformers, one by one": []}
    try:
        with torch.no_grad():
            for _ in range(args.rounds):
                begun = time.perf_counter()
                ours = served(server, vector.tolist())
                seconds["mediant"].append(time.perf_counter() - begun)
                begun = time.perf_counter()
                theirs = hooked(model, ids, vector, STRENGTHS)
                seconds["transformers, one batch"].append(time.perf_counter() - begun)
                begun = time.perf_counter()
                for strength in STRENGTHS:
                    hooked(model, ids, vector, [strength])
                seconds["transformers, one by one"].append(time.perf_counter() - begun)
    finally:
        server.stop()
    best = {name: min(taken) for name, taken in seconds.items()}
    same = [sum(a == b for a, b in zip(mine, other)) for mine, other in zip(ours, theirs)]
    report = {
        "tokens": TOKENS * len(STRENGTHS),
        "seconds": best,
        "ratio": {name: taken / best["mediant"] for name, taken in best.items() if name != "mediant"},
        "equal_tokens_of_64": same,
    }
    if args.json:
        print(json.dumps(report))
        return
    for name, taken in best.items():
        print(f"{name:26} {taken:7.2f} s   {report['tokens'] / taken:7.1f} tokens/s   {taken / best['mediant']:.2f} x")
    print(f"equal tokens of {TOKENS}, by strength: {same}")


if __name__ == "__main__":
    main()
