"""The real nnsight 0.8.1 against a server: every case of `make_remote_golden.py`, and a notebook from first to last cell.

    mediant serve --model dummy:tiny --listen 127.0.0.1:8080
    HF_ENDPOINT=http://127.0.0.1:8080 HF_HOME=$(mktemp -d) python remote_clients.py cases
    mediant serve --listen 127.0.0.1:8081
    HF_ENDPOINT=http://127.0.0.1:8081 HF_HOME=$(mktemp -d) python remote_clients.py notebook FILE smollm2-135m
    HF_ENDPOINT=http://127.0.0.1:8081 HF_HOME=$(mktemp -d) python remote_clients.py seeded FILE smollm2-135m FOLDER

Of the notebook (as text, cells after `In [None]:`) nothing is changed but the host, the model's name, `!pip` lines and the four
numbers of layers that a model of 30 layers lacks. It prints what failed, and how long a job takes at the client. `seeded` puts
`torch.manual_seed` before each draw of noise, runs the cells against the server and then on the same weights in this process
(FOLDER: the model for transformers, in f32), and compares every number that they leave.
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
    eager = nnsight.LanguageModel("dummy-tiny", attn_implementation="eager")
    took, failed = [], []
    timed(took)
    for name, run in made.CASES.items():
        try:
            values = run(eager if name in made.EAGER else model, {"remote": True})
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


def run_cells(file, change):
    """Runs a notebook's cells as `change` makes them; the names that they leave, and how many cells there were."""
    import matplotlib

    matplotlib.use("Agg")
    CONFIG.API.HOST, CONFIG.API.APIKEY = f"{HOST}/legacy", os.environ.get("NDIF_API_KEY", "none")
    text = pathlib.Path(file).read_text()
    cells = re.findall(r"In \[None\]:\n(.*?)(?=\n## |\n### |\nIn \[None\]:|\Z)", text, re.S)
    scope = {"__name__": "__main__"}
    for at, cell in enumerate(cells):
        cell = change(re.sub(r"^!pip.*$", "", cell.strip("\n"), flags=re.M))
        file = f"<cell {at} of {id(scope)}>"
        linecache.cache[file] = (len(cell), None, cell.splitlines(True), file)
        exec(compile(cell, file, "exec"), scope)
    return scope, len(cells)


def named(cell, name):
    return cell.replace("meta-llama/Meta-Llama-3-70B", name).replace("[16, 32, 48, 64]", "[6, 12, 18, 24]")


def notebook(file, name):
    took = []
    timed(took)
    began = time.time()
    _, cells = run_cells(file, lambda cell: named(cell, name))
    print(f"{cells} cells in {time.time() - began:.1f} s, no error")
    report(took)
    return True


def numbers(value, path, found):
    """All numbers in a value, by where they are."""
    import numpy
    import torch

    if isinstance(value, (torch.Tensor, numpy.ndarray)):
        found[path] = torch.as_tensor(value).detach().double().flatten().tolist()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found[path] = [float(value)]
    elif isinstance(value, dict):
        for key, member in value.items():
            numbers(member, f"{path}[{key!r}]", found)
    elif isinstance(value, (list, tuple)):
        for at, member in enumerate(value):
            numbers(member, f"{path}[{at}]", found)
    return found


def seeded(file, name, folder):
    import torch

    seed = lambda cell: re.sub(r"^( *)(noise = torch\.randn)", r"\1torch.manual_seed(7)\n\1\2", cell, flags=re.M)  # noqa: E731
    there, cells = run_cells(file, lambda cell: seed(named(cell, name)))
    # As this nnsight has it in one process: a layer's output is no tuple, and what was saved is the tensor itself.
    torch.Tensor.value = property(lambda self: self)
    torch.set_grad_enabled(False)

    def local(cell):
        cell = seed(named(cell, folder)).replace("REMOTE = True", "REMOTE = False")
        cell = re.sub(r"(layers\[\w+\]\.output)\[0\]", r"\1", cell)
        return re.sub(r"device_map=\S+?([,)])", r"dispatch=True\1", cell)

    here, _ = run_cells(file, local)
    off, compared = [], 0
    for key in sorted(here):
        if key.startswith("_") or key not in there or not isinstance(here[key], (int, float, list, tuple, dict, torch.Tensor)):
            continue
        mine, theirs = numbers(here[key], key, {}), numbers(there[key], key, {})
        if mine.keys() != theirs.keys():
            off.append((float("inf"), f"{key}: other members"))
            continue
        for path, wanted in mine.items():
            scale = max(1.0, max(map(abs, wanted), default=0.0))
            compared += len(wanted)
            off.append((max((abs(a - b) / scale for a, b in zip(wanted, theirs[path])), default=0.0), path))
    off.sort(reverse=True)
    print(f"{cells} cells twice: {compared} numbers, the furthest {off[0][0]:.1e} off ({off[0][1]})")
    return off[0][0] <= 1e-4


if __name__ == "__main__":
    which = {"cases": cases, "notebook": notebook, "seeded": seeded}[sys.argv[1]]
    sys.exit(0 if which(*sys.argv[2:]) else 1)
