"""What a server itself takes for a clean run: from the client's side, and by the server's own count (`mediant_host_seconds`).

    python benches/host.py --mediant target/release/mediant [--model dummy:tiny] [--runs 400] [--tokens 16]

One client, one connection, random tokens, nothing found again; once without pause, once every 50 ms, when the processors sleep in between.
`rest` is a run's time at the client without the time that the engine computed (`usage.seconds`); `/healthz`, in turn, is what client,
socket and framework take alone. Beside it: how often the threads of server and engine went to sleep, by request.
Standard library only.
"""

import argparse
import json
import pathlib
import random
import re
import time

from operations import Client, Server, computed_open


def quantiles(values):
    values = sorted(values)
    return " ".join(f"p{percent} {1e3 * values[len(values) * percent // 100]:.2f}" for percent in (10, 50, 90)) + " ms"


def sleeps(server):
    """Voluntary switches of all threads of server and engine."""
    total = 0
    for status in pathlib.Path("/proc").glob("[0-9]*/task/[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        of = {int(found) for found in re.findall(r"\n(?:Tgid|PPid):\t(\d+)", text)}
        if server.process.pid in of:
            total += int(re.search(r"\nvoluntary_ctxt_switches:\t(\d+)", text)[1])
    return total


def measured(ask, count, pause):
    times = []
    for _ in range(count):
        time.sleep(pause)
        began = time.perf_counter()
        answer = ask()
        times.append((time.perf_counter() - began, answer))
    return times


def of_host(server):
    text = computed_open(server)
    return text["mediant_host_seconds_count"], {key: value for key, value in text.items() if key.startswith("mediant_host_seconds_bucket")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mediant", required=True)
    parser.add_argument("--model", default="dummy:tiny")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=16)
    args = parser.parse_args()
    server = Server(args)
    client, chance = Client(server), random.Random(1)

    def run():
        body = {"tokens": [chance.randrange(200) for _ in range(args.tokens)]}
        status, text = client.ask("POST", "/v1/run", body, **{"cache-control": "no-store"})
        assert status == 200, text
        return json.loads(text)["usage"]["seconds"]

    measured(run, 50, 0)
    for pause in (0, 0.05):
        count = args.runs if pause == 0 else args.runs // 4
        idle = measured(lambda: client.ask("GET", "/healthz"), count, pause)
        before, slept = of_host(server), sleeps(server)
        runs = measured(run, count, pause)
        slept, after = sleeps(server) - slept, of_host(server)
        print(f"{'without pause' if pause == 0 else 'every 50 ms'}: /healthz {quantiles([took for took, _ in idle])}; a run {quantiles([took for took, _ in runs])}, "
              f"computed {quantiles([seconds for _, seconds in runs])}, rest {quantiles([took - seconds for took, seconds in runs])}; "
              f"{slept / count:.1f} sleeps of threads a run")
        counted = after[0] - before[0]
        shares = {re.search(r'le="([^"]+)"', key)[1]: (after[1][key] - before[1].get(key, 0)) / counted for key in after[1]}
        print("  the server's own part: " + ", ".join(f"{100 * share:.0f} % up to {1e3 * float(le):g} ms" for le, share in shares.items() if le != "+Inf" and share < 1))
    server.end()


if __name__ == "__main__":
    main()
