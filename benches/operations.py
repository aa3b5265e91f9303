"""A server as a class and its mistakes see it. Three measurements, each of a server of its own on this machine:

    python benches/operations.py --mediant target/release/mediant class   [--clients 30]     # the notebook's requests, replayed
    python benches/operations.py --mediant target/release/mediant health  [--clients 900]    # /healthz beside a full engine
    python benches/operations.py --mediant target/release/mediant soak    [--minutes 10]     # memory under mixed load

`class`: one client sends all `*-seed-*` requests of openapi/examples; then, to a fresh server with `cache.share = "all"`, 30 owners
send the same, each in an order of its own. Compared are times and row-layers. A third server, with the cache as it is by default,
shows that no owner finds another's answers.
`health`: so many clients hold connections and send runs without pause; a process of its own asks /healthz on one connection.
`soak`: good requests, bad bodies, clients that leave in the middle, jobs that are cancelled, wrong keys; the server's resident
memory every five seconds, and every 5xx.
Standard library only.
"""

import argparse
import atexit
import json
import multiprocessing
import os
import pathlib
import random
import resource
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import http.client

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Server:
    def __init__(self, args, keys=0, **settings):
        self.folder = tempfile.TemporaryDirectory()
        self.env = dict(os.environ, MEDIANT__TELEMETRY__FILTER="warn,mediant=info", **settings)
        self.args, self.tokens = args, []
        for owner in range(keys):
            command = [args.mediant, "key", "create", "--data-dir", self.folder.name, "--owner", f"owner-{owner}"]
            scopes = "admin,run,sweep,upload,remote" if owner == 0 else "run,sweep,upload"
            made = subprocess.run([*command, "--scopes", scopes], capture_output=True, text=True, check=True, env=self.env)
            self.tokens.append(made.stdout.strip())
        if keys:
            self.env["MEDIANT__AUTH__KEYS"] = "on"
        self.log = open(pathlib.Path(self.folder.name) / "log", "w+")
        command = [args.mediant, "serve", "--model", args.model, "--listen", "127.0.0.1:0", "--data-dir", self.folder.name]
        self.process = subprocess.Popen(command, stderr=self.log, env=self.env)
        atexit.register(self.process.kill)
        while "listening on http://" not in (log := self.said()):
            time.sleep(0.05)
            assert self.process.poll() is None, log
        self.port = int(log.split("listening on http://127.0.0.1:")[1].split()[0])
        while Client(self).ask("GET", "/readyz")[0] != 200:
            time.sleep(0.1)

    def said(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def resident(self):
        """MiB of the server's process, and of its engine's."""
        sizes = []
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, parent = int(stat.parent.name), int(stat.read_text().rsplit(") ", 1)[1].split()[1])
                if pid == self.process.pid or parent == self.process.pid:
                    pages = int((stat.parent / "statm").read_text().split()[1])
                    sizes.append((pid != self.process.pid, pages * resource.getpagesize() / 2**20))
            except (FileNotFoundError, ProcessLookupError):
                continue
        sizes.sort()
        return sizes[0][1], sum(size for _, size in sizes[1:])

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.folder.cleanup()
        return status


class Client:
    def __init__(self, server, token=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=900)
        self.headers = {"content-type": "application/json"}
        if token:
            self.headers["authorization"] = f"Bearer {token}"

    def ask(self, method, path, body=None, **headers):
        body = body if body is None or isinstance(body, bytes) else json.dumps(body)
        try:
            self.connection.request(method, path, body, self.headers | headers)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (http.client.HTTPException, OSError):
            self.connection.close()
            self.connection.request(method, path, body, self.headers | headers)
            answer = self.connection.getresponse()
            return answer.status, answer.read()

    def good(self, method, path, body=None):
        """Asks again when it is told to wait; jobs are waited for."""
        while True:
            status, text = self.ask(method, path, body)
            if status == 429:
                time.sleep(0.2)
            elif status == 202:
                return self.result(json.loads(text)["id"])
            elif status == 422:
                return {}  # not for this model: `dummy:tiny` has a token a byte
            else:
                assert status == 200, (path, status, text[:500])
                return json.loads(text)

    def result(self, job):
        while (view := json.loads(self.ask("GET", f"/v1/jobs/{job}")[1]))["state"] in ("queued", "running"):
            time.sleep(0.1)
        assert view["state"] == "succeeded", view
        return json.loads(self.ask("GET", f"/v1/jobs/{job}/result")[1])


def all_at_once(functions):
    threads = [threading.Thread(target=function) for function in functions]
    began = time.monotonic()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return time.monotonic() - began


def computed(server):
    status, text = Client(server, server.tokens[0]).ask("GET", "/metrics")
    assert status == 200
    lines = [line.split() for line in text.decode().splitlines() if not line.startswith("#")]
    return {line[0]: float(line[1]) for line in lines if len(line) == 2}


def seeds():
    files = sorted((ROOT / "openapi" / "examples").glob("*-seed-*.json"))
    return [("/v1/" + file.stem.split("-")[0], json.loads(file.read_text())) for file in files]


def replay(server, clients, seed=1):
    """Seconds and row-layers of all clients, and how many of their answers were found, by owner."""
    requests, cached = seeds(), []

    def one(number):
        order = requests[:]
        if clients > 1:
            random.Random(seed + number).shuffle(order)
        client = Client(server, server.tokens[number])
        cached.append(sum(bool(client.good("POST", *request).get("usage", {}).get("cached")) for request in order))

    seconds = all_at_once([lambda number=number: one(number) for number in range(clients)])
    return seconds, computed(server)["mediant_row_layers_total"], cached


def class_replayed(args):
    print(f"{len(seeds())} requests a client")
    results = {}
    for name, clients in [("one client", 1), ("a class, shared", args.clients)]:
        # What is computed again to see whether its bits are still the same (a hundredth of what is found) would be counted.
        server = Server(args, keys=clients, MEDIANT__CACHE__SHARE="all", MEDIANT__CACHE__VERIFY="0")
        before = computed(server)["mediant_row_layers_total"]
        seconds, row_layers, cached = replay(server, clients)
        results[name] = seconds, row_layers - before
        print(f"{name}: {seconds:.1f} s, {(row_layers - before) / 1e6:.2f} million row-layers", flush=True)
        server.end()
    (alone, its), (together, theirs) = results.values()
    print(f"{args.clients} clients: {together / alone:.2f} x the time, {theirs / its:.3f} x the row-layers of one")
    server = Server(args, keys=2)
    first = replay_one(server, server.tokens[0])
    second = replay_one(server, server.tokens[1])
    again = replay_one(server, server.tokens[1])
    server.end()
    print(f"by default: {first} of the first owner's answers were found, {second} of the second's, {again} when the second asks again")


def replay_one(server, token):
    client = Client(server, token)
    runs = [request for request in seeds() if request[0] != "/v1/sweep"]
    return sum(bool(client.good("POST", *request).get("usage", {}).get("cached")) for request in runs)


def health_times(port, seconds, told):
    connection, times = http.client.HTTPConnection("127.0.0.1", port, timeout=30), []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        times.append(1000 * (time.monotonic() - began))
        time.sleep(0.01)
    told.put(times)


def health(args):
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    server = Server(args, MEDIANT__HTTP__MAX_CONNECTIONS="2048", MEDIANT__HTTP__CONNECTIONS_PER_ADDRESS="2048")
    told, stop, answers = multiprocessing.Queue(), threading.Event(), []
    for name, clients in [("no other client", 0), (f"{args.clients} clients", args.clients)]:
        open_sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(max(0, clients - 64))]
        stop.clear()

        def busy(number):
            # A prompt of its own each time, so that nothing is found again.
            client, chance = Client(server), random.Random(number)
            while not stop.is_set():
                tokens = [chance.randrange(200) for _ in range(400)]
                answers.append(client.ask("POST", "/v1/run", {"tokens": tokens}, **{"cache-control": "no-store"})[0])

        threads = [threading.Thread(target=busy, args=(number,)) for number in range(min(64, clients))]
        [thread.start() for thread in threads]
        before = computed_open(server)
        process = multiprocessing.Process(target=health_times, args=(server.port, args.seconds, told))
        process.start()
        times = sorted(told.get())
        after = computed_open(server)
        stop.set()
        [thread.join() for thread in threads]
        [connection.close() for connection in open_sockets]
        share = (after["mediant_engine_busy_seconds_total"] - before["mediant_engine_busy_seconds_total"]) / args.seconds
        at = lambda q: times[min(len(times) - 1, int(q * len(times)))]
        print(f"{name}: /healthz {len(times)} times, p50 {at(0.5):.1f}, p99 {at(0.99):.1f}, most {times[-1]:.1f} ms; "
              f"engine busy {100 * share:.0f} %, {len(answers)} answers, {sum(s >= 500 for s in answers)} of them 5xx", flush=True)
    server.end()


def computed_open(server):
    text = Client(server).ask("GET", "/metrics")[1].decode()
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {line[0]: float(line[1]) for line in lines if len(line) == 2}


def soak(args):
    # What is kept is full within a minute: else memory grows for as long as it takes to fill 320 MiB, as it is meant to.
    server = Server(args, keys=8, MEDIANT__CACHE__BYTES=str(8 << 20), MEDIANT__RESULTS__BYTES=str(8 << 20))
    stop, statuses, lock = threading.Event(), {}, threading.Lock()

    why = {}

    def count(kind, answer):
        status, text = answer if isinstance(answer, tuple) else (answer, b"")
        with lock:
            statuses[kind, status] = statuses.get((kind, status), 0) + 1
            if isinstance(status, int) and (status == 429 or status >= 500):
                said = json.loads(text)
                reason = status, said["errors"][0]["code"] if "errors" in said else said["detail"]
                why[reason] = why.get(reason, 0) + 1

    def good(client, chance):
        run = {"tokens": [chance.randrange(200) for _ in range(chance.randrange(2, 30))]}
        count("run", client.ask("POST", "/v1/run", run))
        patch = {"base": "The capital of France is", "source": f"The capital of {chance.random()} is", "target": " Paris"}
        count("patch", client.ask("POST", "/v1/patch", patch))

    def bad(client, chance):
        bodies = [b"{", b"[" * 5000, b"\xff\xfe", b'{"prompt":"a","prompt":"b"}', b'{"prompt":' + b'"' + b"x" * 50000 + b'"}',
                  b'{"prompt":"a","interventions":[' + b'{"site":"nowhere"},' * 300 + b"{}]}", b" " * 100000]
        path = chance.choice(["/v1/run", "/v1/trace", "/v1/sweep", "/v1/datasets", "/v1/activations", "/v1/generate"])
        count("bad body", client.ask("POST", path, chance.choice(bodies)))

    def leaver(token, chance):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            body = json.dumps({"prompt": "The Eiffel Tower is in", "subject": "Tower", "target": " Paris", "corrupt": {"samples": 3}})
            head = f"POST /v1/trace HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
            sent = (head + f"content-length: {len(body)}\r\n\r\n{body}").encode()
            connection.sendall(sent[: chance.choice([len(sent), len(sent), len(head), 40])])
            time.sleep(chance.random() * 0.05)
        count("left", 0)

    def jobs(client, chance):
        sweep = {"dataset": {"inline": [{"prompt": f"Rome {chance.randrange(1000)} is in", "subject": "Rome", "target": "I"}]},
                 "corrupt": {"samples": 2}, "arms": ["hidden"], "filters": {"expect_top1": False}}
        status, text = client.ask("POST", "/v1/sweep", sweep, prefer="respond-async")
        count("job", (status, text))
        if status == 202:
            job = json.loads(text)["id"]
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.1)
            count("cancel", client.ask("DELETE", f"/v1/jobs/{job}"))
            client.ask("DELETE", f"/v1/jobs/{job}")

    def texts(client, chance):
        body = {"prompt": f"Once {chance.random()}", "max_tokens": 8}
        count("text", client.ask("POST", "/v1/generate", body))

    def strangers(_, chance):
        stranger = Client(server, "mdt_" + "x" * 43 + "_00000000")
        count("stranger", stranger.ask("POST", "/v1/run", {"prompt": "a"}))
        time.sleep(0.02)

    def worker(number):
        chance, token = random.Random(number), server.tokens[number % len(server.tokens)]
        client = Client(server, token)
        while not stop.is_set():
            kind = chance.choice([good, good, bad, leaver, jobs, texts, strangers])
            try:
                kind(token if kind is leaver else client, chance)
            except OSError as error:
                count("connection", type(error).__name__)

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(args.clients)]
    [thread.start() for thread in threads]
    began, sizes = time.monotonic(), []
    while (now := time.monotonic() - began) < 60 * args.minutes:
        time.sleep(5)
        sizes.append((now, *server.resident()))
    stop.set()
    [thread.join() for thread in threads]
    time.sleep(10)
    after = [Client(server, token).ask("POST", "/v1/run", {"prompt": "after"})[0] for token in server.tokens]
    print(f"ten seconds later: every owner's run answers {sorted(set(after))}, server {server.resident()[0]:.0f} MiB")
    # From the third minute on; before it pools and caches fill.
    steady = [size for size in sizes if size[0] >= min(120, 20 * args.minutes)]
    for name, of in [("server", 1), ("engine", 2)]:
        first = statistics.median(size[of] for size in steady[: max(1, len(steady) // 4)])
        last = statistics.median(size[of] for size in steady[-max(1, len(steady) // 4):])
        most = max(size[of] for size in sizes)
        print(f"{name}: {first:.0f} MiB in the first quarter of the steady time, {last:.0f} in the last, {most:.0f} at most")
    total = {}
    for (kind, status), n in sorted(statuses.items(), key=str):
        total.setdefault(kind, {})[status] = n
    for kind, of in total.items():
        print(f"  {kind}: {of}")
    worse = sum(n for (_, status), n in statuses.items() if isinstance(status, int) and status >= 500)
    for (status, reason), n in sorted(why.items()):
        print(f"  {n} x {status}: {reason}")
    log = server.said()
    for line in [line for line in log.splitlines() if "ERROR" in line or "WARN" in line][:10]:
        print("  log:", line[:300])
    print(f"5xx: {worse}; panics in the log: {log.count('panic')}; ended with status {server.end()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["class", "health", "soak"])
    parser.add_argument("--mediant", required=True)
    parser.add_argument("--model", help="the default model for `class`, dummy:tiny for the others")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    args.model = args.model or ("smollm2-135m" if args.what == "class" else "dummy:tiny")
    args.clients = args.clients or {"class": 30, "health": 900, "soak": 200}[args.what]
    {"class": class_replayed, "health": health, "soak": soak}[args.what](args)


if __name__ == "__main__":
    main()
