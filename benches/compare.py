"""mediant against PyTorch on the same causal trace, on the same cores, in one run.

    python benches/compare.py --mediant target/release/mediant [--rounds 3] [--tokens-32] [--all]
    python benches/compare.py --mediant target/release/mediant --heads

`--heads` compares two other sweeps instead: every head of every layer at the last position, and ROME's window of 10
(`sweeps.py`). Without it:

The work: SmolLM2-135M in f32, one noise sample added to the embeddings of the whole prompt, the clean hidden state
restored at every layer x position (30 x 12 = 360 cells for the pun prompt), P(target) at the last position.

Who does it:
  one forward per cell     transformers with hooks, a fresh forward for every cell (a sample of layers, extrapolated
                           to all of them and marked "est.", unless --all)
  batched                  transformers with hooks, several layers' cells in one batch, unembedding at the last
                           position only; the fastest group size is found first and used in every round
  resumed at layer l + 1   batched by layer, each batch started from the corrupted run's states after layer l
  branching prototype      the exact minimum in plain torch: only rows that a patch can change are computed
  nnsight, one per cell    as notebooks do it, if nnsight is installed (a sample of layers, extrapolated)
  mediant                  `mediant bench --json`, a process of its own on the same cores, its own trace timings

Rounds interleave everyone (A B C .. A B C ..), so a slow spell of the machine falls on all; medians are compared.
Needed work counts the matrix products that the branching forward cannot avoid; its rate is that work over the time,
for everyone, so the column also says what the others' repeated work costs them.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "python"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mediant", type=pathlib.Path, help="release binary of mediant; left out: PyTorch alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--all", action="store_true", help="time every layer where a sample is extrapolated otherwise")
    parser.add_argument(
        "--tokens-32", action="store_true", help="also mediant on 32 tokens, branching and full recompute"
    )
    parser.add_argument("--heads", action="store_true", help="a head sweep and a window-10 trace instead of the trace")
    parser.add_argument("--layers", type=int, help="with --heads: time PyTorch on so many layers and extrapolate")
    parser.add_argument("--json", type=pathlib.Path, help="also write all measurements here")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.layers is not None and not (options.heads and options.layers >= 1):
        parser.error("--layers goes with --heads and must be at least 1")
    return options


# Before torch starts its threads: everyone, the child process too, gets the same cores and as many threads.
OPTIONS = arguments()
CORES = sorted(os.sched_getaffinity(0))[: OPTIONS.threads]
os.sched_setaffinity(0, CORES)
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = str(OPTIONS.threads)

import reference as ref  # noqa: E402  (exits with a clear message where torch is missing)
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import traces  # noqa: E402
from interventions import Edit, forward  # noqa: E402

torch.set_num_threads(OPTIONS.threads)

TARGET, NOISE_STD, SEED = " current", 0.1, 0
PROMPT_32 = (
    "Why do electricians make good swimmers? Because they know the current, and because after many long years of "
    "work with wires they are never afraid of the cold water"
)
SAMPLE_LAYERS = [3, 10, 17, 24]
GROUPS = [1, 2, 5, 10, 30]


class Task:
    """The trace's inputs: model, tokens, noise `[t, d]`, clean `[layers, t, d]` and corrupted runs."""

    def __init__(self, prompt: str):
        self.model, self.prompt = ref.smollm2(), prompt
        self.tokens, self.target = ref.encode(prompt), ref.encode(TARGET)[0]
        self.t, self.layers = len(self.tokens), self.model.config.num_hidden_layers
        hidden = self.model.config.hidden_size
        self.noise = traces.legacy_noise(SEED, 1, self.t, hidden, NOISE_STD)[0]
        self.corrupt = Edit("embed", 0, list(range(self.t)), "add", self.noise)
        sites = [("resid_post", k) for k in range(self.layers)]
        clean = forward(self.model, self.tokens, capture=sites)[1]
        self.clean = torch.stack([clean[s] for s in sites])

    def prob(self, logits):
        return logits.softmax(-1)[:, self.target]

    def restore(self, layer, row=0):
        """The edits of a layer's cells, one batch row each from `row` on."""
        return [
            Edit("resid_post", layer, [p], "replace", self.clean[layer, p : p + 1], row=row + p) for p in range(self.t)
        ]


# ---------------------------------------------------------------------------------------------- PyTorch's ways
# Each takes the task and the layers to trace and gives P(target) `[layers, t]`.


def one_per_cell(task, layers):
    out = torch.zeros(len(layers), task.t)
    for i, layer in enumerate(layers):
        for p in range(task.t):
            edit = Edit("resid_post", layer, [p], "replace", task.clean[layer, p : p + 1])
            out[i, p] = task.prob(forward(task.model, task.tokens, [task.corrupt, edit])[0])
    return out


def batched(task, layers, group):
    out = []
    position = torch.arange(task.t)
    for start in range(0, len(layers), group):
        chunk = layers[start : start + group]
        hooks = [task.model.model.embed_tokens.register_forward_hook(lambda m, a, o: o + task.noise)]
        for j, layer in enumerate(chunk):

            def patch(_m, _a, o, j=j, layer=layer):
                o[j * task.t + position, position] = task.clean[layer]

            hooks.append(task.model.model.layers[layer].register_forward_hook(patch))
        ids = torch.tensor([task.tokens]).expand(len(chunk) * task.t, task.t)
        logits = task.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        for hook in hooks:
            hook.remove()
        out.append(task.prob(logits).view(len(chunk), task.t))
    return torch.cat(out)


def resumed(task, layers):
    inner = task.model.model
    sites = [("resid_post", k) for k in layers]
    corrupted = forward(task.model, task.tokens, [task.corrupt], sites)[1]
    positions = torch.arange(task.t)
    angles = inner.rotary_emb(task.clean[:1], positions[None])
    out = []
    for layer in layers:
        h = corrupted["resid_post", layer].repeat(task.t, 1, 1)
        h[positions, positions] = task.clean[layer]
        for block in inner.layers[layer + 1 :]:
            h = block(h, attention_mask=None, position_ids=positions[None], position_embeddings=angles, use_cache=False)
        out.append(task.prob(task.model.lm_head(inner.norm(h[:, -1]))))
    return torch.stack(out)


def branching(task, layers):
    """Cells (l, p) advance together. At block k the live rows are (l, p, q) with l < k and q >= p; keys and values at
    q' < p are the corrupted run's. The last block computes the last position only."""
    inner, cfg, t = task.model.model, task.model.config, task.t
    heads, kv, e = cfg.num_attention_heads, cfg.num_key_value_heads, cfg.hidden_size // cfg.num_attention_heads
    cos, sin = (a[0, :, None] for a in inner.rotary_emb(task.clean[:1], torch.arange(t)[None]))

    def rotate(x, q):
        return x * cos[q] + torch.cat((-x[..., e // 2 :], x[..., : e // 2]), -1) * sin[q]

    def norm(x, weight):
        return F.rms_norm(x, (x.shape[-1],), weight, cfg.rms_norm_eps)

    def attend(q, k, v, causal):
        """q `[b, tq, heads, e]`, k and v `[b, t, kv, e]`."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True).transpose(1, 2)

    # Rows of one layer's cells: cell p owns positions p..t.
    cell = torch.cat([torch.full((t - p,), p) for p in range(t)])
    query = torch.cat([torch.arange(p, t) for p in range(t)])
    first = torch.tensor([0, *[t - p for p in range(t - 1)]]).cumsum(0)
    last = first + (t - 1 - torch.arange(t))
    all_positions = torch.arange(t)

    h = inner.embed_tokens(torch.tensor(task.tokens)) + task.noise
    live, born = h.new_zeros(0, h.shape[-1]), 0
    for k, block in enumerate(inner.layers):
        a, final = block.self_attn, k == cfg.num_hidden_layers - 1
        x = norm(h, block.input_layernorm.weight)
        q0 = rotate(a.q_proj(x).view(t, heads, e), all_positions)
        k0 = rotate(a.k_proj(x).view(t, kv, e), all_positions)
        v0 = a.v_proj(x).view(t, kv, e)
        mid = h + a.o_proj(attend(q0[None], k0[None], v0[None], True).reshape(t, -1))
        if born:
            runs = torch.arange(born).repeat_interleave(len(cell)) * t + cell.repeat(born)
            qs = query.repeat(born)
            x = norm(live, block.input_layernorm.weight)
            keys, values = (base.expand(born * t, t, kv, e).clone() for base in (k0, v0))
            keys[runs, qs] = rotate(a.k_proj(x).view(-1, kv, e), qs)
            values[runs, qs] = a.v_proj(x).view(-1, kv, e)
            if final:
                ends = (torch.arange(born)[:, None] * len(cell) + last).reshape(-1)
                q = rotate(a.q_proj(x[ends]).view(-1, heads, e), all_positions[-1:])
                z = attend(q[:, None], keys, values, False)[:, 0]
                live = live[ends]
            else:
                padded = x.new_zeros(born * t, t, heads, e)
                padded[runs, qs] = rotate(a.q_proj(x).view(-1, heads, e), qs)
                z = attend(padded, keys, values, True)[runs, qs]
            live = live + a.o_proj(z.reshape(len(live), -1))
            live = live + block.mlp(norm(live, block.post_attention_layernorm.weight))
        h = mid + block.mlp(norm(mid, block.post_attention_layernorm.weight))
        if k in layers:
            new = h[query]
            new[first] = task.clean[k]
            live, born = torch.cat([live, new[last] if final else new]), born + 1
    return task.prob(task.model.lm_head(norm(live, inner.norm.weight))).view(born, t)


def nnsight_per_cell(task, layers):
    model, ids = task.nnsight, torch.tensor([task.tokens])
    out = torch.zeros(len(layers), task.t)
    for i, layer in enumerate(layers):
        for p in range(task.t):
            with model.trace(ids):
                embedded = model.model.embed_tokens.output
                embedded[:] = embedded + task.noise
                model.model.layers[layer].output[:, p, :] = task.clean[layer, p]
                logits = model.lm_head.output.save()
            out[i, p] = task.prob(logits[:, -1])
    return out


def with_nnsight(task) -> bool:
    """Wraps the model for nnsight, if there is one."""
    try:
        from nnsight import LanguageModel
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        return False
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=ref.smollm2_tokenizer(), pad_token="<|im_end|>")
    task.nnsight = LanguageModel(task.model, tokenizer=tokenizer)
    return True


# ---------------------------------------------------------------------------------------------- measuring


def seconds(work) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def needed_flops(task) -> float:
    """Multiply-adds (as two) of the branching forward's matrix products and attention for the full trace."""
    cfg, t = task.model.config, task.t
    d, e = cfg.hidden_size, cfg.hidden_size // cfg.num_attention_heads
    kv = 2 * d * cfg.num_key_value_heads * e
    rest = 2 * d * d + 3 * d * cfg.intermediate_size
    triangle = t * (t + 1) // 2  # live rows of one layer's cells
    pairs = sum((t - p) * (t + p + 1) // 2 for p in range(t))  # (query, key) pairs of the same
    inner = cfg.num_hidden_layers - 1
    born = inner * (inner - 1) // 2  # layers born before block k, summed over all blocks but the last
    rows = born * triangle + 2 * t * inner  # + the clean and the corrupted run
    flops = 2 * rows * (kv + rest) + 4 * d * (born * pairs + 2 * inner * triangle)
    last_rows = inner * t
    flops += 2 * (inner * triangle * kv + last_rows * rest) + 4 * d * last_rows * t
    return flops + 2 * cfg.num_hidden_layers * t * d * cfg.vocab_size


def torch_gemm(rows) -> float:
    """GFLOP/s of `[rows, 576] x [576, 1536]`, best of several."""
    a, b = torch.randn(rows, 576), torch.randn(1536, 576).T
    work = lambda: [a @ b for _ in range(20)]  # noqa: E731
    work()
    return 20 * 2 * rows * 576 * 1536 / min(seconds(work)[0] for _ in range(10)) / 1e9


def mediant_bench(tokens: int, prompt: str, repeat: int) -> dict:
    command = [OPTIONS.mediant, "bench", "--model", "smollm2-135m", "--json", "--prompt", prompt]
    command += ["--tokens", str(tokens), "--repeat", str(repeat)]
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"mediant bench failed with status {done.returncode}: its message is above")
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        sys.exit(f"mediant bench did not print JSON but: {done.stdout[:400]!r}")
    devices = [device["name"] for device in report["ready"]["devices"]]
    if devices != [f"cpu, {OPTIONS.threads} threads"]:
        sys.exit(f"mediant ran on {devices}, PyTorch on {OPTIONS.threads} threads: not comparable")
    return report


def peers(task) -> dict:
    """Name -> (work on all or a sample of the layers, layers it covers)."""
    every, sample = list(range(task.layers)), list(range(task.layers)) if OPTIONS.all else SAMPLE_LAYERS
    trial = {
        g: min(seconds(lambda: batched(task, every[: max(g, 5)], g))[0] / max(g, 5) for _ in range(2)) for g in GROUPS
    }
    best = min(trial, key=trial.get)
    out = {
        "PyTorch hooks, one forward per cell": (lambda: one_per_cell(task, sample), sample),
        f"PyTorch hooks, batched ({best * task.t} rows)": (lambda: batched(task, every, best), every),
        "PyTorch, resumed at layer l + 1": (lambda: resumed(task, every), every),
        "PyTorch, branching prototype": (lambda: branching(task, every), every),
    }
    if with_nnsight(task):
        few = sample if OPTIONS.all else sample[:2]
        out = {"nnsight, one trace per cell": (lambda: nnsight_per_cell(task, few), few)} | out
    return out


def measure(task) -> tuple[dict, dict, list]:
    """Seconds of the full trace by name, one a round; values `[layers, t]` by name; mediant's reports."""
    ways = peers(task)
    times, values, reports = {name: [] for name in ways}, {}, []
    for _, (work, _) in ways.items():
        work()  # warm-up
    for n in range(OPTIONS.rounds):
        for name, (work, layers) in ways.items():
            took, result = seconds(work)
            times[name].append(took * task.layers / len(layers))
            values[name] = (layers, result)
        if OPTIONS.mediant:
            report = mediant_bench(task.t, task.prompt, 3)
            reports.append(report)
            for mode, name in (("branching_s", "mediant, branching"), ("full_recompute_s", "mediant, full recompute")):
                if report["trace"].get(mode):
                    times.setdefault(name, []).append(statistics.median(report["trace"][mode]))
        print(f"round {n + 1} of {OPTIONS.rounds} done", file=sys.stderr, flush=True)
    return times, values, reports


def agreement(task, values: dict, reports: list) -> list[str]:
    """Largest differences from one forward per cell in f32, where both computed a layer."""
    layers, truth = values["PyTorch hooks, one forward per cell"]
    out = []
    if reports:
        report = reports[-1]
        theirs = report.get("values") or report["trace"].get("values")
        if theirs is None:
            out.append("- mediant's report holds no values: not compared")
        else:
            values = values | {"mediant": (list(range(task.layers)), torch.tensor(theirs).view(task.layers, task.t))}
    for name, (covered, result) in values.items():
        shared = [k for k in layers if k in covered]
        a = truth[[layers.index(k) for k in shared]]
        b = result[[covered.index(k) for k in shared]]
        relative = ((a - b).abs() / a).max().item()
        out.append(f"- {name}: {(a - b).abs().max().item():.2g} absolute, {relative:.2g} relative ({b.numel()} cells)")
    return out


# ---------------------------------------------------------------------------------------------- the report


def table(task, times: dict, values: dict, flops: float):
    cells = task.layers * task.t
    sampled = {name for name, (layers, _) in values.items() if len(layers) < task.layers}
    ours = statistics.median(times["mediant, branching"]) if "mediant, branching" in times else None
    print("| way | seconds (median) | min to max | cells/s | mediant is faster by | needed work, GFLOP/s |")
    print("|---|---|---|---|---|---|")
    for name, runs in sorted(times.items(), key=lambda item: -statistics.median(item[1])):
        s = statistics.median(runs)
        estimated = " est." if name in sampled else ""
        ratio = f"{s / ours:.2f}x" if ours else "-"
        print(
            f"| {name} | {s:.3f}{estimated} | {min(runs):.3f} to {max(runs):.3f} | {cells / s:.0f} | {ratio} "
            f"| {flops / s / 1e9:.0f} |"
        )


def thirty_two_tokens():
    tokens = len(ref.encode(PROMPT_32))
    report = mediant_bench(tokens, PROMPT_32, 3)
    fast, full = (statistics.median(report["trace"][m]) for m in ("branching_s", "full_recompute_s"))
    cells = report["trace"]["cells"]
    print(f"\n## {tokens} tokens, {cells} cells\n")
    print(
        f"mediant, branching {fast:.3f} s ({cells / fast:.0f} cells/s); full recompute {full:.3f} s: {full / fast:.2f}x"
    )
    return report


def heads():
    import sweeps

    task = Task(ref.PUN)
    mediant = (lambda: mediant_bench(task.t, task.prompt, 3)) if OPTIONS.mediant else None
    print(
        f"torch {torch.__version__}, {OPTIONS.threads} threads on cores {CORES}, {OPTIONS.rounds} interleaved rounds, ",
        end="",
    )
    print(f"load {os.getloadavg()[0]:.1f}")
    record = sweeps.run(task, OPTIONS.rounds, mediant, OPTIONS.layers)
    if OPTIONS.json:
        OPTIONS.json.write_text(json.dumps(record, indent=1) + "\n")


def main():
    if OPTIONS.heads:
        return heads()
    task = Task(ref.PUN)
    gemm = {rows: torch_gemm(rows) for rows in (12, 144, 1440)}
    times, values, reports = measure(task)
    gemm = {rows: max(rate, torch_gemm(rows)) for rows, rate in gemm.items()}
    flops = needed_flops(task)
    print(f"# Full causal trace, {task.layers} layers x {task.t} positions, f32\n")
    print(
        f"torch {torch.__version__}, {OPTIONS.threads} threads on cores {CORES}, {OPTIONS.rounds} interleaved rounds, ",
        end="",
    )
    print(f"load {os.getloadavg()[0]:.1f}\n")
    table(task, times, values, flops)
    best = max(gemm.values())
    print(f"\nNeeded work {flops / 1e9:.0f} GFLOP: {flops / best / 1e9:.2f} s at torch's best matrix product below.\n")
    print("Matrix product [rows, 576] x [576, 1536], GFLOP/s:\n")
    print(f"- torch: {', '.join(f'{rows} rows {rate:.0f}' for rows, rate in gemm.items())}")
    if reports:
        print(f"- mediant: {json.dumps(reports[-1].get('gemm_gflops'))}")
        print(f"\nmediant also reports clean runs: {json.dumps(reports[-1]['clean_runs'])}")
    print("\nLargest difference of P(target) from one forward per cell:\n")
    print("\n".join(agreement(task, values, reports)))
    long = thirty_two_tokens() if OPTIONS.tokens_32 and OPTIONS.mediant else None
    if OPTIONS.json:
        record = {
            "seconds": times,
            "torch_gemm_gflops": gemm,
            "needed_flops": flops,
            "mediant": reports,
            "tokens_32": long,
        }
        OPTIONS.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
