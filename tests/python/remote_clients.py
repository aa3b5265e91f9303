"""The real nnsight 0.8.1 against a server: every case of `make_remote_golden.py`, and a notebook from first to last cell.

    mediant serve --model dummy:tiny --listen 127.0.0.1:8080
    HF_ENDPOINT=http://127.0.0.1:8080 HF_HOME=$(mktemp -d) python remote_clients.py cases
    mediant serve --listen 127.0.0.1:8081
    HF_ENDPOINT=http://127.0.0.1:8081 HF_HOME=$(mktemp -d) python remote_clients.py notebook FILE smollm2-135m

Of the notebook (as text, cells after `In [None]:`) nothing is changed but the host, the model's name, `!pip` lines and the four
numbers of layers that a model of 30 layers lacks. It prints what failed, and how long a job takes at the client.
"""

import linecache
import os
import pathlib
import re
import statistics
import sys
import time

import nnsight
from nnsight import CONFIG

HOST = os.environ["HF_ENDPOINT"]
CONFIG.APP.REMOTE_LOGGING = False


def timed(took):
    """Notes how long each job takes."""
    from nnsight.intervention.backends.remote import RemoteBackend

    request = RemoteBackend.request

    def measured(self, *args):
        began = time.perf_counter()
        try:
            return request(self, *args)
        finally:
            took.append((time.perf_counter() - began, self.meta or {}))

    RemoteBackend.request = measured


def report(took):
    milliseconds = sorted(1000 * seconds for seconds, _ in took)
    forwards = [meta.get("forwards") for _, meta in took]
    outside = [1000 * meta["block_seconds"] for _, meta in took if "block_seconds" in meta]
    print(
        f"{len(took)} jobs, median {statistics.median(milliseconds):.1f} ms at the client, of it outside of forward passes in the "
        f"server {statistics.median(outside):.1f} ms (95 %: {sorted(outside)[int(0.95 * len(outside))]:.1f}); "
        f"forward passes a job: {sorted(set(forwards))}"
    )


def cases():
    import torch
    from safetensors.torch import load_file

    import make_remote_golden as made

    CONFIG.API.HOST = HOST
    golden = load_file(pathlib.Path(made.__file__).parent / made.OUT / "values.safetensors")
    model = nnsight.LanguageModel("dummy-tiny")
    took, failed = [], []
    timed(took)
    for name, run in made.CASES.items():
        try:
            values = run(model, {"remote": True})
        except Exception as error:  # noqa: BLE001
            failed.append(f"{name}: {type(error).__name__}: {error}")
            continue
        for at, (saved, value) in enumerate(values.items()):
            wanted = golden[f"{name}/{at:02}_{saved}"]
            got = torch.as_tensor(value).float()
            off = (got - wanted).abs().max().item() if got.shape == wanted.shape else float("nan")
            if not off <= 1e-4 * max(1.0, wanted.abs().max().item()):
                failed.append(f"{name} {saved}: {off:.2e} off, {tuple(got.shape)} {tuple(wanted.shape)}")
    # Nobody waits, and it is asked after.
    with model.trace("The Eiffel Tower", remote=True, blocking=False) as tracer:
        out = model.lm_head.output[:, -1].save()
    backend = tracer.backend
    while (result := backend()) is None:
        time.sleep(0.05)
    if not torch.allclose(result["out"], golden["read_end/01_b"], atol=1e-4):
        failed.append("blocking=False: other numbers")
    print("\n".join(failed) or "all as nnsight computes itself")
    report(took)
    return not failed


def notebook(file, name):
    import matplotlib

    matplotlib.use("Agg")
    CONFIG.API.HOST, CONFIG.API.APIKEY = f"{HOST}/legacy", os.environ.get("NDIF_API_KEY", "none")
    text = pathlib.Path(file).read_text()
    cells = re.findall(r"In \[None\]:\n(.*?)(?=\n## |\n### |\nIn \[None\]:|\Z)", text, re.S)
    took, scope = [], {"__name__": "__main__"}
    timed(took)
    began = time.time()
    for at, cell in enumerate(cells):
        cell = re.sub(r"^!pip.*$", "", cell.strip("\n"), flags=re.M)
        cell = cell.replace("meta-llama/Meta-Llama-3-70B", name).replace("[16, 32, 48, 64]", "[6, 12, 18, 24]")
        file = f"<cell {at}>"
        linecache.cache[file] = (len(cell), None, cell.splitlines(True), file)
        exec(compile(cell, file, "exec"), scope)
    print(f"{len(cells)} cells in {time.time() - began:.1f} s, no error")
    report(took)
    return True


if __name__ == "__main__":
    which = {"cases": cases, "notebook": notebook}[sys.argv[1]]
    sys.exit(0 if which(*sys.argv[2:]) else 1)
