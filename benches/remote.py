"""nnsight's `remote=True` against a server: what a job costs, beside a server of nnsight itself, and what many clients get.

    HF_ENDPOINT=http://127.0.0.1:8080 HF_HOME=$(mktemp -d) python benches/remote.py jobs [--jobs 30] [--reference http://127.0.0.1:8399]
    python benches/remote.py clients --url http://127.0.0.1:8080 [--clients 30] [--seconds 300]

`jobs` needs nnsight 0.8.1 and transformers 5.22.2, and a server of the default model. A job patches one position of one layer, as a
notebook does in a loop; then thirty such patches as invokes of one trace. `seconds` and its parts are the server's own (`meta`): what a
job takes outside of forward passes is all but the engine's computing and the wait for it. A reference is a server with the same wire
around nnsight itself; the two take turns.

`clients` needs the standard library only, and a server of `dummy:tiny`. Each client has an address of its own on the loopback (so it
is a party of its own to the queue), a websocket, and one captured request that it hands in again and again; beside them one client
computes sweeps. It says how many jobs each got, what went wrong, and the memory of the server's processes in time.
"""

import argparse
import http.client
import json
import os
import pathlib
import socket
import statistics
import struct
import sys
import threading
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
PROMPT = "Why do electricians make good swimmers? Because they know the"
LAYERS = 30


# ---- one client, the real one


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


def jobs(args):
    import nnsight
    import torch
    from nnsight import CONFIG
    from nnsight.intervention.backends.remote import RemoteBackend

    torch.set_num_threads(1)
    CONFIG.APP.REMOTE_LOGGING, CONFIG.API.APIKEY = False, os.environ.get("NDIF_API_KEY", "none")
    metas, request = [], RemoteBackend.request

    def noted(self, *given):
        try:
            return request(self, *given)
        finally:
            metas.append(self.meta or {})

    RemoteBackend.request = noted
    model = nnsight.LanguageModel(args.model)

    def patch(layer, state):
        with model.trace(PROMPT, remote=True):
            h = model.model.layers[layer].output
            h[:, -1, :] = state[:, -1, :]
            logits = model.lm_head.output[:, -1].save()
        return logits

    def thirty(state):
        with model.trace(remote=True) as tracer:
            outs = nnsight.save([])
            for layer in range(LAYERS):
                with tracer.invoke(PROMPT):
                    model.model.layers[layer].output[:, -1, :] = state[:, -1, :]
                    outs.append(model.lm_head.output[:, -1])
        return torch.stack(list(outs))

    hosts = {"mediant": os.environ["HF_ENDPOINT"]} | ({"reference": args.reference} if args.reference else {})

    def measured(ask, n):
        took, off = {name: [] for name in hosts}, 0.0
        own = []
        for i in range(n + 2):
            state, got = torch.randn(1, 12, 576), {}
            for name, host in hosts.items():
                CONFIG.API.HOST = host
                began = time.perf_counter()
                got[name] = ask(i, state)
                if i >= 2:
                    took[name].append(1e3 * (time.perf_counter() - began))
                    if name == "mediant":
                        own.append(metas[-1])
            if len(got) == 2:
                off = max(off, (got["mediant"] - got["reference"]).abs().max().item())
        return took, off, own

    for what, ask, n in (
        ("one patch", lambda i, state: patch(i % LAYERS, state), args.jobs),
        (f"{LAYERS} invokes of one prompt", lambda _i, state: thirty(state), max(3, args.jobs // 6)),
    ):
        took, off, own = measured(ask, n)
        print(f"\n{what}, {n} times")
        for name, times in took.items():
            print(f"  {name:9} median {statistics.median(times):7.1f} ms, best {min(times):7.1f}, 95 % {quantile(times, 0.95):7.1f}")
        if args.reference:
            ratio = statistics.median(took["mediant"]) / statistics.median(took["reference"])
            print(f"  {ratio:.2f} of the reference; numbers differ by up to {off:.1e}")
        engine = [1e3 * (m["engine_seconds"] + m["engine_queue_seconds"]) for m in own]
        outside = [1e3 * m["seconds"] - e for m, e in zip(own, engine)]
        forwards = [m["forwards"] for m in own]
        for name, values in (
            ("engine", engine),
            ("server outside of forward passes", outside),
            ("of it reading and running the block", [1e3 * m["block_seconds"] for m in own]),
            ("of it a program beside its forward", [1e3 * m["program_seconds"] / m["forwards"] for m in own]),
            ("client and wire", [t - 1e3 * m["seconds"] for t, m in zip(took["mediant"], own)]),
        ):
            print(f"  {name:36} median {statistics.median(values):6.2f} ms, 95 % {quantile(values, 0.95):6.2f}")
        print(f"  forward passes a job: {sorted(set(forwards))}")


# ---- many clients, as far as the wire goes


class Socket:
    """A websocket as nnsight opens it."""

    def __init__(self, host, port, address):
        self.stream = socket.create_connection((host, port), timeout=120, source_address=(address, 0))
        head = f"GET /subscribe HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self.stream.sendall(head.encode())
        self.file = self.stream.makefile("rb")
        while self.file.readline() != b"\r\n":
            pass
        self.session = json.loads(self.next()[1])["session_id"]

    def next(self):
        """The next message: whether it is text, and itself."""
        while True:
            kind, length = self.file.read(2)
            if length == 126:
                (length,) = struct.unpack(">H", self.file.read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.file.read(8))
            body = self.file.read(length)
            if kind in (0x81, 0x82):
                return kind == 0x81, body


class Client:
    """Hands one request in, again and again."""

    def __init__(self, url, address):
        at = urllib.parse.urlsplit(url)
        self.socket = Socket(at.hostname, at.port, address)
        self.to = {"host": at.hostname, "port": at.port, "timeout": 120, "source_address": (address, 0)}
        key = json.dumps({"repo_id": "dummy-tiny", "revision": None, "task": "text-generation"})
        envelope = json.dumps({
            "model_key": f"nnsight.modeling.transformers.TransformersModel:{key}", "session_id": self.socket.session, "compress": True, "env": {},
        })
        block = (HERE.parent / "tests" / "golden" / "remote" / "write_in_place.block").read_bytes()
        parts = ('name="data"', envelope.encode()), ('name="blob"; filename="request"', block)
        self.form = b"".join(
            b"--bound\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts
        ) + b"--bound--\r\n"
        self.times, self.errors = [], []

    def job(self):
        began = time.perf_counter()
        # As nnsight does: a connection of its own for each request.
        connection = http.client.HTTPConnection(**self.to)
        connection.request("POST", "/request", self.form, {"content-type": "multipart/form-data; boundary=bound"})
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        if answer.status != 200:
            self.errors.append(said.get("detail"))
            return
        while True:
            is_text, body = self.socket.next()
            if not is_text:
                break
            status = json.loads(body)
            if status["status"] == "ERROR":
                self.errors.append(status["description"])
                return
        self.times.append(time.perf_counter() - began)


def sweeps(url, over, done):
    """Computes sweeps over all heads until it is over."""
    at = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=600)
    edit = {"site": "z", "layers": "all", "positions": "last", "heads": "all", "op": "replace"}
    edit["source"] = {"run": "source", "positions": "last"}
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    while not over.is_set():
        tokens = [[(7 * i + len(done) + j) % 256 for i in range(16)] for j in range(2)]
        runs = {"base": {"tokens": tokens[0]}, "source": {"tokens": tokens[1]}}
        body = {"runs": runs, "base": "base", "interventions": [edit], "sweep": ["layers", "heads"], "targets": {"a": [40]}, "metrics": ["logprob:a"]}
        connection.request("POST", "/v1/patch", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 429, 503):
            print("sweep:", answer.status, text[:300], flush=True)
            os._exit(1)
        done.append(answer.status == 200)


def resident(pid):
    """Bytes of a process and of all below it."""
    below, total = {}, 0
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                below.setdefault(parent, []).append(int(entry.name))
            except (OSError, ValueError):
                continue
    sizes, todo = {}, [pid]
    while todo:
        one = todo.pop()
        todo.extend(below.get(one, []))
        try:
            command = pathlib.Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0")
            pages = int(pathlib.Path(f"/proc/{one}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        kind = "engine" if b"engine" in command else "worker" if b"worker" in command else "server" if one == pid else "python"
        sizes[kind] = sizes.get(kind, 0) + pages * os.sysconf("SC_PAGE_SIZE")
        total += pages * os.sysconf("SC_PAGE_SIZE")
    return sizes


def clients(args):
    made = [Client(args.url, f"127.0.{1 + i // 200}.{1 + i % 200}") for i in range(args.clients)]
    over, done, memory = threading.Event(), [], []

    def loop(client):
        while not over.is_set():
            client.job()

    threads = [threading.Thread(target=loop, args=(client,)) for client in made]
    threads.append(threading.Thread(target=sweeps, args=(args.url, over, done)))
    began = time.time()
    for thread in threads:
        thread.start()
    while time.time() - began < args.seconds:
        time.sleep(min(args.seconds / 10, max(0.1, began + args.seconds - time.time())))
        if args.pid:
            memory.append(resident(args.pid))
            shown = ", ".join(f"{kind} {size / 2**20:.0f}" for kind, size in sorted(memory[-1].items()))
            print(f"{time.time() - began:5.0f} s: MiB {shown}", flush=True)
    over.set()
    for thread in threads:
        thread.join()
    counts = [len(client.times) for client in made]
    times = [1e3 * t for client in made for t in client.times]
    errors = [error for client in made for error in client.errors]
    mean = statistics.mean(counts)
    print(f"{sum(counts)} jobs of {len(made)} clients in {args.seconds:.0f} s: {min(counts)} to {max(counts)} each, "
          f"{100 * (min(counts) / mean - 1):+.1f} % to {100 * (max(counts) / mean - 1):+.1f} % of the mean; "
          f"median {statistics.median(times):.0f} ms, 95 % {quantile(times, 0.95):.0f} ms; {sum(done)} sweeps beside them")
    print(f"{len(errors)} errors {sorted(set(map(str, errors)))[:5]}")
    return not errors


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = options.add_subparsers(required=True)
    one = which.add_parser("jobs")
    one.add_argument("--model", default="smollm2-135m", help="as GET /status lists it")
    one.add_argument("--jobs", type=int, default=30)
    one.add_argument("--reference", help="address of a server of nnsight itself")
    one.set_defaults(run=jobs)
    many = which.add_parser("clients")
    many.add_argument("--url", default="http://127.0.0.1:8080")
    many.add_argument("--clients", type=int, default=30)
    many.add_argument("--seconds", type=float, default=300)
    many.add_argument("--pid", type=int, help="the server's process, whose memory is watched")
    many.set_defaults(run=clients)
    args = options.parse_args()
    sys.exit(0 if args.run(args) is not False else 1)


if __name__ == "__main__":
    main()
