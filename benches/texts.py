"""Thousands of requests for text, some of which are left in the middle: every answer is the one that the same request had before, and at
the end all places of keys are free.

    python benches/texts.py --mediant target/release/mediant [--requests 10000] [--clients 16] [--model dummy:tiny] [--kills 0]

Requests are of 48 kinds: one to three branches, one to three samples, drawn or greedy, compared with a branch or not. Three of ten are
streams that are left after a random number of bytes. `--kills` engines are killed on the way (Linux). Standard library only.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

LEFT = 0.3


def body(kind: int) -> dict:
    """A request; the same for the same kind."""
    dice = random.Random(kind)
    write = {"site": "resid_post", "layers": 1, "positions": {"steps": "all"}, "op": "scale"}
    branches = {f"b{i}": [{**write, "factor": 1 + 0.2 * i}] if i else [] for i in range(dice.randint(1, 3))}
    request = {"prompt": dice.choice(["A lake", "The river is deep", "x"]), "branches": branches, "max_tokens": dice.randint(1, 24)}
    if dice.random() < 0.6:
        request |= {"sampling": {"temperature": 1.0, "seed": kind}, "samples": dice.randint(1, 3)}
    if len(branches) > 1 and dice.random() < 0.5:
        request["compare_with"] = "b0"
    return request


class Server:
    def __init__(self, program: str, model: str):
        self.folder = tempfile.TemporaryDirectory()
        command = [program, "serve", "--model", model, "--listen", "127.0.0.1:0", "--data-dir", self.folder.name]
        environment = {**os.environ, "MEDIANT__CACHE__SHARE": "off"}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "listening on http://" in line:
                host, port = line.split("http://")[1].split()[0].rsplit(":", 1)
                self.address = (host, int(port))
                break
        else:
            sys.exit("the server ended before it listened")
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
        while not self.is_ready():
            time.sleep(0.1)

    def is_ready(self) -> bool:
        try:
            self.call("/readyz")
            return True
        except OSError:
            return False

    def call(self, path: str, request=None):
        data = None if request is None else json.dumps(request).encode()
        url = "http://{}:{}{}".format(*self.address, path)
        return json.load(urllib.request.urlopen(urllib.request.Request(url, data, {"content-type": "application/json"}), timeout=120))

    def leave(self, request: dict, after: int):
        """Asks for a stream and goes after so many bytes of it."""
        data = json.dumps(request).encode()
        head = f"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\naccept: text/event-stream\r\ncontent-length: {len(data)}\r\n\r\n"
        with socket.create_connection(self.address, timeout=120) as connection:
            connection.sendall(head.encode() + data)
            while after > 0 and (piece := connection.recv(after)):
                after -= len(piece)

    def places(self) -> tuple[int, int]:
        """Places for keys that are free, and all."""
        lane = next(lane for lane in self.call("/v1/status")["operations"]["lanes"] if lane["lane"] == "steps")
        return lane["key_slots_free"], lane["key_slots"]

    def kill_engine(self):
        for entry in pathlib.Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except (OSError, ValueError, IndexError):
                continue
            if parent == str(self.process.pid) and b"engine" in command:
                os.kill(int(entry.name), signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mediant", default="target/release/mediant")
    parser.add_argument("--model", default="dummy:tiny")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--kills", type=int, default=0)
    args = parser.parse_args()
    server = Server(args.mediant, args.model)
    expected = {kind: server.call("/v1/generate", body(kind))["branches"] for kind in range(48)}
    todo, lock = list(range(args.requests)), threading.Lock()
    answered, left, other, errors = [], [], [], []

    def client(seed: int):
        dice = random.Random(1000 + seed)
        while True:
            with lock:
                if not todo:
                    return
                todo.pop()
            kind = dice.randrange(48)
            try:
                if dice.random() < LEFT:
                    server.leave(body(kind), dice.randint(0, 4000))
                    left.append(kind)
                else:
                    (answered if server.call("/v1/generate", body(kind))["branches"] == expected[kind] else other).append(kind)
            except OSError as error:
                errors.append(repr(error))

    begun = time.monotonic()
    clients = [threading.Thread(target=client, args=[seed]) for seed in range(args.clients)]
    for thread in clients:
        thread.start()
    for kill in range(args.kills):
        while len(todo) > args.requests * (args.kills - kill) / (args.kills + 1):
            time.sleep(0.01)
        server.kill_engine()
    for thread in clients:
        thread.join()
    took = time.monotonic() - begun
    until = time.monotonic() + 10
    while server.places()[0] < server.places()[1] and time.monotonic() < until:
        time.sleep(0.1)
    free, total = server.places()
    restarts = server.call("/v1/status")["operations"]["engine"]["restarts"]
    server.process.terminate()
    server.process.wait()
    print(f"{len(answered)} answered as before, {len(left)} left, {len(other)} answered otherwise, {len(errors)} errors in {took:.0f} s")
    print(f"{restarts} engines were killed; {free} of {total} places are free")
    if other or errors or free != total or restarts != args.kills:
        sys.exit(f"not as it must be: {errors[:3]}")


if __name__ == "__main__":
    main()
