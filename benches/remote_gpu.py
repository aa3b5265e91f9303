"""nnsight's `remote=True` against a server on a GPU, timed beside nnsight in one process on the same GPU.

    python benches/remote_gpu.py target/release/mediant [--model dummy:llama-3-8b] [--jobs 30] [--notebook FILE]

Needs nnsight 0.8.1, a transformers that it works with (5.17 to 5.22 do) and torch with CUDA; no network: the configuration and the tokenizer
come from the server itself. It starts the server, asks for three kinds of traces, and ends it; then the same traces run in this process
on a model of the same shape (the weights of a dummy model are made up on either side, so only times can be compared, not numbers).
With `--notebook` (as text, see `tests/python/remote_clients.py`) the notebook runs against the server from first to last cell before that.

Of a remote job it says what the client sees, and what the server says of it (`meta`): computing, and everything beside that. A job in one
process has neither a wire nor a sandbox: the difference is what those cost.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
PROMPT = "Why do electricians make good swimmers? Because they know the"


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


def shown(name, values):
    print(f"  {name:34} median {statistics.median(values):8.2f} ms, best {min(values):8.2f}, 95 % {quantile(values, 0.95):8.2f}", flush=True)


def kinds(model, layers, width, place):
    """The traces that are timed: each takes what says where it runs. No two jobs are alike: an answer would be found again."""
    import nnsight
    import torch

    def made(i):
        return f"{i}. {PROMPT}", torch.randn(1, 12, width, **place)

    def trivial(i, how):
        prompt, _ = made(i)
        with model.trace(prompt, **how):
            logits = model.lm_head.output[:, -1].save()
        return logits

    def patch(i, how):
        prompt, state = made(i)
        with model.trace(prompt, **how):
            model.model.layers[i % layers].output[:, -1, :] = state[:, -1, :]
            logits = model.lm_head.output[:, -1].save()
        return logits

    def thirty(i, how):
        prompt, state = made(i)
        with model.trace(**how) as tracer:
            outs = nnsight.save([])
            for layer in range(min(30, layers)):
                with tracer.invoke(prompt):
                    model.model.layers[layer].output[:, -1, :] = state[:, -1, :]
                    outs.append(model.lm_head.output[:, -1])
        return outs

    return {"read the last position's logits": (trivial, 1), "patch one position": (patch, 1), "30 patches of one prompt": (thirty, 6)}


def timed(run, how, jobs, after=lambda: None):
    times = []
    for i in range(jobs + 2):
        began = time.perf_counter()
        run(i, how)
        after()
        if i >= 2:
            times.append(1e3 * (time.perf_counter() - began))
    return times


def serve(args, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = open(folder / "server.log", "w")
    command = [args.mediant, "serve", "--model", args.model, "--listen", f"127.0.0.1:{port}", "--data-dir", str(folder / "data")]
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    status = {}
    while not status.get("server", {}).get("blocks"):
        if server.poll() is not None:
            sys.exit((folder / "server.log").read_text()[-3000:])
        try:
            status = json.load(urllib.request.urlopen(f"{address}/status"))
        except OSError:
            pass
        reason = status.get("server", {}).get("reason")
        if reason and "checked" not in reason:
            server.send_signal(signal.SIGTERM)
            sys.exit(f"no blocks are run here: {reason}")
        time.sleep(0.3)
    return server, address, next(iter(status["deployments"]))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("mediant", help="the program")
    options.add_argument("--model", default="dummy:llama-3-8b")
    options.add_argument("--jobs", type=int, default=30)
    options.add_argument("--notebook", help="a notebook as text, to be run against the server")
    options.add_argument("--device", default="cuda", help="where nnsight itself computes")
    args = options.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    server, address, name = serve(args, folder)
    # Before the hub's client is imported.
    os.environ.update(HF_ENDPOINT=address, HF_HOME=str(folder / "hub"), HF_HUB_DISABLE_TELEMETRY="1")
    try:
        if args.notebook:
            clients = HERE.parent / "tests" / "python" / "remote_clients.py"
            subprocess.run([sys.executable, str(clients), "notebook", args.notebook, name], check=True)
        import nnsight
        import torch
        from nnsight import CONFIG
        from nnsight.intervention.backends.remote import RemoteBackend
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        CONFIG.API.HOST, CONFIG.API.APIKEY, CONFIG.APP.REMOTE_LOGGING = address, os.environ.get("NDIF_API_KEY", "none"), False
        metas, request = [], RemoteBackend.request

        def noted(self, *given):
            try:
                return request(self, *given)
            finally:
                metas.append(self.meta or {})

        RemoteBackend.request = noted
        config, tokenizer = AutoConfig.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        layers, width = config.num_hidden_layers, config.hidden_size
        for what, (run, fewer) in kinds(nnsight.LanguageModel(name), layers, width, {}).items():
            metas.clear()
            print(f"\n{what}, remote")
            shown("at the client", timed(run, {"remote": True}, max(3, args.jobs // fewer)))
            own = metas[2:]
            engine = [1e3 * (m["engine_seconds"] + m["engine_queue_seconds"]) for m in own]
            shown("server: computing", engine)
            shown("server: all beside that", [1e3 * m["seconds"] - e for m, e in zip(own, engine)])
            shown("server: a program beside that", [1e3 * m["program_seconds"] / m["forwards"] for m in own])
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    # The server gave the GPU back.
    torch.manual_seed(0)
    with torch.device(args.device):
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    local = nnsight.LanguageModel(made, tokenizer=tokenizer)
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    place = {"device": args.device, "dtype": torch.bfloat16}
    with torch.inference_mode():
        for what, (run, fewer) in kinds(local, layers, width, place).items():
            print(f"\n{what}, nnsight in one process")
            shown("all", timed(run, {}, max(3, args.jobs // fewer), wait))


if __name__ == "__main__":
    main()
