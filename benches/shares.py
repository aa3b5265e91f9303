"""Who gets how much of a server that many use at once. Five measurements, each of a server of its own on this machine:

    python benches/shares.py --mediant target/release/mediant light    # runs of 29 owners beside the 10,000-cell sweep of one
    python benches/shares.py --mediant target/release/mediant floor    # a sweep beside clients without pause
    python benches/shares.py --mediant target/release/mediant equal    # 30 owners with equal sweeps: Jain's index of what they get
    python benches/shares.py --mediant target/release/mediant small    # a small sweep beside its owner's long one
    python benches/shares.py --mediant target/release/mediant waits    # what refused clients are told, against what comes true

`light` also says how much is useful: the sweep's rate beside the others in parts of its rate alone, and the share of the time in
which theirs was computed. Each is compared with the same server without the others, so a slow machine changes little.
Standard library only.
"""

import argparse
import json
import random
import threading
import time

from operations import Client, Server, all_at_once

NOTHING_FOUND = {"MEDIANT__CACHE__SHARE": "off"}


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def sweep(cases, samples=2, seed=0):
    words = random.Random(seed).sample(range(1000, 9999), cases)
    rows = [{"prompt": f"The tower number {word} stands in the city of", "subject": "tower", "target": " P"} for word in words]
    return {"dataset": {"inline": rows}, "corrupt": {"samples": samples}, "arms": ["hidden", "mlp", "attn"],
            "filters": {"expect_top1": False}, "async": True}


class Job:
    def __init__(self, server, token, body):
        self.client = Client(server, token)
        status, text = self.client.ask("POST", "/v1/sweep", body)
        assert status == 202, text
        self.path = f"/v1/jobs/{json.loads(text)['id']}"

    def view(self):
        return json.loads(self.client.ask("GET", self.path)[1])

    def done(self):
        return self.view()["progress"]["done"]

    def until(self, holds):
        while not holds(view := self.view()):
            assert view["state"] in ("queued", "running", "succeeded"), view
            time.sleep(0.02)
        return view

    def cancel(self):
        self.client.ask("DELETE", self.path)


def rate(job, seconds):
    """Units a second, once it has begun."""
    job.until(lambda view: view["progress"]["done"] > 1)
    began, before = time.monotonic(), job.done()
    time.sleep(seconds)
    return (job.done() - before) / (time.monotonic() - began)


def runs(server, tokens, seconds, pause, length=12):
    """Times and computed seconds of clients who each send clean runs."""
    times, computed, lock = [], [0.0], threading.Lock()

    def one(number, token):
        client, chance, end = Client(server, token), random.Random(number), time.monotonic() + seconds
        time.sleep(chance.random() * pause)
        while (began := time.monotonic()) < end:
            status, text = client.ask("POST", "/v1/run", {"tokens": [chance.randrange(200) for _ in range(length)]})
            took = time.monotonic() - began
            assert status == 200, text
            with lock:
                times.append(took)
                computed[0] += json.loads(text)["usage"]["seconds"]
            time.sleep(max(0.0, pause - took))

    all_at_once([lambda number=number, token=token: one(number, token) for number, token in enumerate(tokens)])
    return times, computed[0]


def light(args):
    server = Server(args, keys=30, MEDIANT__JOBS__UNIT_S="0.5", **NOTHING_FOUND)
    heavy, others = server.tokens[1], [server.tokens[0], *server.tokens[2:]]
    job = Job(server, heavy, sweep(args.cases))
    alone = rate(job, args.seconds)
    job.cancel()
    quiet, _ = runs(server, others, args.seconds, args.pause)
    job = Job(server, heavy, sweep(args.cases, seed=1))
    job.until(lambda view: view["progress"]["done"] > 1)
    measured = {}
    thread = threading.Thread(target=lambda: measured.update(rate=rate(job, args.seconds)))
    thread.start()
    beside, computed = runs(server, others, args.seconds, args.pause)
    thread.join()
    job.cancel()
    p95 = [quantile(times, 0.95) for times in (quiet, beside)]
    print(f"29 light owners: p95 {1e3 * p95[0]:.0f} ms alone ({len(quiet)} runs), {1e3 * p95[1]:.0f} ms beside a sweep ({len(beside)}); "
          f"2 x alone + 0.1 s is {2e3 * p95[0] + 100:.0f} ms")
    kept, theirs = measured["rate"] / alone, computed / args.seconds
    print(f"the sweep kept {kept:.2f} of its rate, the others' runs took {theirs:.2f} of the time: useful {kept + theirs:.2f}")
    server.end()


def floor(args):
    server = Server(args, keys=9, MEDIANT__JOBS__UNIT_S="0.2", **NOTHING_FOUND)
    job = Job(server, server.tokens[0], sweep(args.cases))
    alone = rate(job, args.seconds)
    thread = threading.Thread(target=runs, args=(server, server.tokens[1:] * 4, 2 * args.seconds + 5, 0.0))
    thread.start()
    time.sleep(2)
    beside = rate(job, 2 * args.seconds)
    thread.join()
    job.cancel()
    print(f"a sweep beside 32 clients without pause keeps {beside / alone:.3f} of its rate")
    server.end()


def equal(args):
    server = Server(args, keys=30, MEDIANT__JOBS__UNIT_S="0.1", **NOTHING_FOUND)
    jobs = [Job(server, token, sweep(args.cases, seed=number)) for number, token in enumerate(server.tokens)]
    time.sleep(2)
    before = [job.done() for job in jobs]
    time.sleep(3 * args.seconds)
    got = [job.done() - was for job, was in zip(jobs, before)]
    jain = sum(got) ** 2 / (len(got) * sum(one * one for one in got))
    print(f"30 equal owners: {min(got)} to {max(got)} units each; Jain {jain:.4f}")
    [job.cancel() for job in jobs]
    server.end()


def small(args):
    server = Server(args, keys=1, **NOTHING_FOUND)
    took = []
    for beside in (False, True):
        long = Job(server, server.tokens[0], sweep(args.cases)) if beside else None
        if long:
            long.until(lambda view: view["progress"]["done"] > 1)
        took.append([])
        for seed in range(5):
            began = time.monotonic()
            Job(server, server.tokens[0], sweep(1, samples=1, seed=seed + 10 * beside)).until(lambda view: view["state"] == "succeeded")
            took[-1].append(time.monotonic() - began)
        if long:
            assert long.view()["state"] == "running"
            long.cancel()
    print("a small sweep takes " + " s, beside its owner's long one ".join("%.2f (at most %.2f)" % (quantile(t, 0.5), max(t)) for t in took) + " s")
    server.end()


def waits(args):
    """Owners who have as many requests on their way as they may ask for one more, again and again, and are refused."""
    server = Server(args, keys=6, MEDIANT__LIMITS__OWNER_REQUESTS="2", MEDIANT__LIMITS__SYNC_LIMIT_S="600", **NOTHING_FOUND)
    stop, lock, ends, told = threading.Event(), threading.Lock(), {}, []

    def works(number, token):
        client, chance = Client(server, token), random.Random(number)
        while not stop.is_set():
            body = {"prompt": f"The tower {chance.random():.4f} is in the city of", "subject": "tower", "target": " P",
                    "corrupt": {"samples": chance.randrange(1, 5)}}
            status, _ = client.ask("POST", "/v1/trace", body)
            if status == 200:
                with lock:
                    ends.setdefault(token, []).append(time.monotonic())

    def asks(number, token):
        client, chance = Client(server, token), random.Random(100 + number)
        while not stop.is_set():
            time.sleep(chance.random() * 0.2)
            status, text = client.ask("POST", "/v1/run", {"prompt": "a"})
            if status == 429 and "queue" in (answer := json.loads(text)):
                with lock:
                    told.append((token, time.monotonic(), answer["queue"]["seconds"], answer["retry_after_s"]))

    threads = [threading.Thread(target=works, args=(10 * copy + number, token)) for number, token in enumerate(server.tokens) for copy in range(2)]
    threads += [threading.Thread(target=asks, args=item) for item in enumerate(server.tokens)]
    [thread.start() for thread in threads]
    while len(told) < args.refusals + 50:
        time.sleep(0.1)
    time.sleep(args.seconds)
    stop.set()
    [thread.join() for thread in threads]
    # Those of the first seconds are told by the speed at start; whole seconds are told, so less than one is as good as one.
    right = ratio = 0
    counted = [one for one in told[50 : args.refusals + 50] if any(end > one[1] for end in ends.get(one[0], []))]
    for token, at, seconds, whole in counted:
        true = min(end for end in ends[token] if end > at) - at
        right += max(true, 1.0) / 2 <= whole <= 2 * max(true, 1.0)
        ratio += true / 2 <= seconds <= 2 * true
    print(f"{len(counted)} refusals: Retry-After within a factor of two of what came true (or of a second) in "
          f"{100 * right / len(counted):.1f} %, the unrounded seconds in {100 * ratio / len(counted):.1f} %")
    server.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measurements = {"light": light, "floor": floor, "equal": equal, "small": small, "waits": waits}
    parser.add_argument("what", choices=measurements)
    parser.add_argument("--mediant", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--pause", type=float, default=3.0, help="between runs of a light owner")
    parser.add_argument("--cases", type=int, default=40, help="of a long sweep; each about 1,000 patched runs of the default model")
    parser.add_argument("--refusals", type=int, default=1000)
    args = parser.parse_args()
    measurements[args.what](args)


if __name__ == "__main__":
    main()
