"""How a server shares its model: clients without pause, each answer's time, against one client alone.

    python benches/clients.py --url http://127.0.0.1:8080 [--clients 1 2 8 32] [--tokens 16 60] [--heads 8] [--seconds 4]

Each client is a process with a connection of its own, since threads of one Python would wait for one another. It sends clean runs of its own random tokens, so that no answer can be
found again. Beside it: the share of the time that the engine computes, its batches a second, and millions of row-layers that it
does while it computes. With `--heads N`, N clients send sweeps over
all heads of a 16-token prompt, again and again, and their rates are compared. The server has to run already (keys off, or MEDIANT_KEY).
Standard library only.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import random
import time
import urllib.parse


class Client:
    def __init__(self, url, seed):
        self.url = urllib.parse.urlsplit(url)
        self.random = random.Random(seed)
        self.connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=600)
        self.headers = {"content-type": "application/json", "cache-control": "no-store"}
        if key := os.environ.get("MEDIANT_KEY"):
            self.headers["authorization"] = f"Bearer {key}"
        self.vocabulary = self.answer("GET", "/v1/models")["models"][0]["config"]["vocab_size"]

    def answer(self, method, path, body=None):
        while True:
            self.connection.request(method, path, json.dumps(body) if body else None, self.headers)
            answer = self.connection.getresponse()
            text = answer.read()
            if answer.status in (429, 503):
                time.sleep(0.05)
                continue
            if answer.status != 200:
                print(f"{path} answered {answer.status}: {text.decode()}", flush=True)
                os._exit(1)  # the other clients wait for this one
            return json.loads(text)

    def post(self, path, body):
        return self.answer("POST", path, body)

    def metrics(self):
        self.connection.close()  # between two readings it may be idle for longer than the server keeps it
        self.connection.request("GET", "/metrics", headers=self.headers)
        lines = self.connection.getresponse().read().decode().splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if line[0] != "#" and len(line.split()) == 2}

    def tokens(self, n):
        return [self.random.randrange(self.vocabulary) for _ in range(n)]

    def run(self, n):
        self.post("/v1/run", {"tokens": self.tokens(n)})

    def heads(self, n):
        base, source = self.tokens(n), self.tokens(n)
        edit = {"site": "z", "layers": "all", "positions": "last", "heads": "all", "op": "replace"}
        edit["source"] = {"run": "source", "positions": "last"}
        self.post("/v1/patch", {
            "runs": {"base": {"tokens": base}, "source": {"tokens": source}},
            "base": "base", "interventions": [edit], "sweep": ["layers", "heads"],
            "targets": {"a": [400]}, "metrics": ["logprob:a"],
        })


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


def measure(url, clients, seconds, ask):
    """Answers a second, and each client's times, of `clients` that ask without pause for `seconds`."""
    ready, answers = multiprocessing.Barrier(clients + 1), multiprocessing.Queue()

    def work(i):
        client = Client(url, f"{clients} {i} {time.time_ns()}")
        ask(client)
        ready.wait()
        end, mine = time.perf_counter() + seconds, []
        while (start := time.perf_counter()) < end:
            ask(client)
            mine.append(time.perf_counter() - start)
        answers.put((mine, time.perf_counter()))

    watch = Client(url, "watch")
    processes = [multiprocessing.Process(target=work, args=(i,), daemon=True) for i in range(clients)]
    for process in processes:
        process.start()
    ready.wait()
    start, before = time.perf_counter(), watch.metrics()
    times, ends = zip(*(answers.get() for _ in processes))
    after, took = watch.metrics(), time.perf_counter() - start
    did = {name: after[name] - before[name] for name in after if name in before}
    every = [t for mine in times for t in mine]
    return {
        "engine_busy": did["mediant_engine_busy_seconds_total"] / took,
        "batches_per_second": did["mediant_batches_total"] / took,
        "row_layers_per_busy_second": did["mediant_row_layers_total"] / did["mediant_engine_busy_seconds_total"],
        "clients": clients,
        "per_second": len(every) / (max(ends) - start),
        "p50_ms": 1e3 * quantile(every, 0.5),
        "p99_ms": 1e3 * quantile(every, 0.99),
        "fewest": min(map(len, times)),
        "most": max(map(len, times)),
    }


def show(name, rows):
    alone = rows[0]
    print(f"\n{name}\n{'clients':>8}{'per s':>9}{'x one':>7}{'p50 ms':>9}{'p99 ms':>9}{'p99 x one':>11}{'busy':>6}{'batch/s':>9}{'M rl/s':>8}  answers of a client")
    for row in rows:
        times, tail = row["per_second"] / alone["per_second"], row["p99_ms"] / alone["p50_ms"]
        print(f"{row['clients']:>8}{row['per_second']:>9.1f}{times:>7.2f}{row['p50_ms']:>9.1f}{row['p99_ms']:>9.1f}{tail:>11.1f}"
              f"{row['engine_busy']:>6.2f}{row['batches_per_second']:>9.1f}{row['row_layers_per_busy_second'] / 1e6:>8.2f}"
              f"  {row['fewest']} to {row['most']}", flush=True)


def main():
    multiprocessing.set_start_method("fork")
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--url", default="http://127.0.0.1:8080")
    options.add_argument("--clients", type=int, nargs="+", default=[1, 2, 8, 32])
    options.add_argument("--tokens", type=int, nargs="+", default=[16, 60])
    options.add_argument("--heads", type=int, default=8, help="clients with sweeps of heads; 0: none")
    options.add_argument("--seconds", type=float, default=4)
    options.add_argument("--json", help="file for the numbers")
    args = options.parse_args()
    report = {}
    for n in args.tokens:
        name = f"clean runs of {n} tokens"
        report[name] = [measure(args.url, c, args.seconds, lambda client, n=n: client.run(n)) for c in args.clients]
        show(name, report[name])
    if args.heads:
        name = "sweeps over all heads, 16 tokens"
        report[name] = [measure(args.url, c, 3 * args.seconds, lambda client: client.heads(16)) for c in (1, args.heads)]
        show(name, report[name])
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
