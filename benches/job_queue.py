"""The job queue: what it costs beside the computation, and how a sweep scales over processes that share a PostgreSQL.

    python benches/job_queue.py --mediant target/release/mediant [--processes 1 2 4] [--cores 1]

Overhead: one sweep of the default model on a server with SQLite, wall time from submission to result against the seconds
of computation that the job reports. Scaling: the same sweep on N servers, each bound to `--cores` cores of its own as far as there are
any (the output says if not), on a PostgreSQL of ours (initdb and postgres on the PATH or in /usr/lib/postgresql).
Standard library only.
"""

import argparse
import glob
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

PROMPTS = [
    ("The Eiffel Tower is in the city of", "Eiffel Tower", " Paris"),
    ("The Colosseum is in the city of", "Colosseum", " Rome"),
    ("Big Ben is in the city of", "Big Ben", " London"),
    ("The Brandenburg Gate is in the city of", "Brandenburg Gate", " Berlin"),
    ("The Kremlin is in the city of", "Kremlin", " Moscow"),
    ("The Acropolis is in the city of", "Acropolis", " Athens"),
]


def sweep(cases, samples):
    cases = [PROMPTS[i % len(PROMPTS)] for i in range(cases)]
    inline = [{"id": str(i), "prompt": p, "subject": s, "target": t} for i, (p, s, t) in enumerate(cases)]
    return {
        "dataset": {"inline": inline},
        "corrupt": {"samples": samples},
        "arms": ["mlp", "attn"],
        "filters": {"expect_top1": False},
        "async": True,
    }


def call(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return answer.read()


class Server:
    def __init__(self, args, folder, cores, settings=()):
        env = {**os.environ, "MEDIANT__ENGINE__THREADS": str(len(cores)), **dict(settings)}
        command = ["taskset", "-c", ",".join(map(str, cores)), args.mediant, "serve", "--listen", "127.0.0.1:0"]
        command += ["--data-dir", folder, "--model", args.model]
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "listening on http://" in line:
                self.url = "http://" + line.split("http://")[1].split()[0]
                break
        log = open(pathlib.Path(folder) / "log", "w")
        self.tail = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=log)
        while True:
            try:
                call(self.url, "/readyz")
                break
            except OSError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.1)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def finished(url, body):
    began = time.perf_counter()
    job = json.loads(call(url, "/v1/sweep", body))["links"]["job"]
    taken = time.perf_counter() - began
    while True:
        view = json.loads(call(url, job))
        if view["state"] not in ("queued", "running"):
            break
        time.sleep(0.02)
    wall = time.perf_counter() - began
    assert view["state"] == "succeeded", view
    result = call(url, job + "/result")
    return wall, taken, view, hashlib.sha256(result).hexdigest()


def postgres(folder):
    places = os.environ["PATH"].split(":") + sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    programs = next(p for p in places if os.path.exists(f"{p}/initdb") and os.path.exists(f"{p}/postgres"))
    user = dict(user="nobody", group="nogroup") if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, **user)
    data = f"{folder}/data"
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **user)
    subprocess.run([f"{programs}/initdb", "-U", "postgres", "-A", "trust", "-D", data], check=True, **quiet)
    command = [f"{programs}/postgres", "-D", data, "-c", "listen_addresses=", "-k", folder]
    process = subprocess.Popen(command, **quiet)
    time.sleep(3)
    return process, f"postgres://postgres@localhost/postgres?host={folder}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mediant", default="target/release/mediant")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--cores", type=int, default=1, help="cores of each process")
    args = parser.parse_args()
    body = sweep(args.cases, args.samples)
    there = sorted(os.sched_getaffinity(0))

    with tempfile.TemporaryDirectory() as folder:
        server = Server(args, folder, there)
        finished(server.url, sweep(1, 1))
        wall, taken, view, alone = finished(server.url, body)
        seconds = view["cost"]["seconds"]
        units = view["progress"]["total"]
        print(f"SQLite, {len(there)} cores: {view['progress']['cells']} cells x {args.samples} samples in {units} units: "
              f"{wall:.2f} s, computing {seconds:.2f} s, beside it {100 * (wall / seconds - 1):.1f} % "
              f"(taken on in {taken:.3f} s)")
        server.stop()

    base = None
    for n in args.processes:
        folder = tempfile.mkdtemp(prefix="mq", dir="/tmp")
        os.chmod(folder, 0o755)
        database, url = postgres(folder)
        servers = []
        try:
            for i in range(n):
                cores = [there[(i * args.cores + j) % len(there)] for j in range(args.cores)]
                servers.append(Server(args, tempfile.mkdtemp(), cores, [("MEDIANT__STORE__URL", url)]))
            wall, _, view, digest = finished(servers[0].url, body)
        finally:
            for server in servers:
                server.stop()
            database.terminate()
            database.wait()
            shutil.rmtree(folder, ignore_errors=True)
        base = base or wall
        own = n * args.cores <= len(there)
        same = "the same bytes" if digest == alone else "OTHER BYTES"
        print(f"PostgreSQL, {n} processes of {args.cores} core{'' if own else ' (shared: too few cores)'}: {wall:.2f} s, "
              f"{base / wall:.2f} x, {same} as on SQLite")
        if digest != alone:
            sys.exit(1)


main()
