"""PyTorch's ways of a head sweep and of a windowed trace, for `compare.py --heads`.

Head sweep: z of one head at the last position, replaced by that of another prompt's last position; every layer x head.
Window: ROME's trace of mlp_out, noise on the whole prompt, the clean values restored at one position in the 10 layers
around each centre; every layer x position.

Each way takes the layers to do and gives P(target) `[layers, heads or positions]`.
"""

import copy
import statistics
import time

import torch
from transformers import DynamicCache

import reference as ref
import traces
from interventions import Edit, forward

SOURCE = "The river has a strong water"
WIDTH = 10
GROUPS = [1, 2, 5, 10, 30]


def prob(task, logits):
    return logits.softmax(-1)[:, task.target]


class HeadSweep:
    """Every layer x head of z at the last position."""

    title = "Head sweep: z, {layers} layers x {across} heads at the last position"
    section = "head_sweep"

    def __init__(self, task):
        self.task, model = task, task.model
        self.across, self.e = model.config.num_attention_heads, model.model.layers[0].self_attn.head_dim
        sites = [("z", k) for k in range(task.layers)]
        source = forward(model, ref.encode(SOURCE), capture=sites)[1]
        self.source = torch.stack([source[s][-1].view(self.across, self.e) for s in sites])
        prefix = torch.tensor([task.tokens[:-1]])
        self.cache = model(input_ids=prefix, use_cache=True, past_key_values=DynamicCache()).past_key_values

    def one_per_cell(self, layers):
        out = torch.zeros(len(layers), self.across)
        for i, layer in enumerate(layers):
            for h in range(self.across):
                rows = self.source[layer, h][None]
                edit = Edit("z", layer, [self.task.t - 1], "replace", rows, head=h)
                out[i, h] = prob(self.task, forward(self.task.model, self.task.tokens, [edit])[0])
        return out

    def hooks(self, chunk):
        """Hooks that write row `j * heads + h` of the batch for the chunk's layer j and head h."""
        heads = torch.arange(self.across)
        columns = (heads * self.e)[:, None] + torch.arange(self.e)
        handles = []
        for j, layer in enumerate(chunk):

            def patch(_m, args, j=j, layer=layer):
                args[0][(j * self.across + heads)[:, None], -1, columns] = self.source[layer]

            o_proj = self.task.model.model.layers[layer].self_attn.o_proj
            handles.append(o_proj.register_forward_pre_hook(patch))
        return handles

    def batched(self, layers, group, cached=False):
        """Several layers' cells in one batch; `cached`: keys and values of all but the last position are reused."""
        tokens, out = self.task.tokens[-1:] if cached else self.task.tokens, []
        for start in range(0, len(layers), group):
            chunk = layers[start : start + group]
            rows = len(chunk) * self.across
            options = {"use_cache": False}
            if cached:
                cache = copy.deepcopy(self.cache)
                cache.batch_repeat_interleave(rows)
                options = {"use_cache": True, "past_key_values": cache}
            handles = self.hooks(chunk)
            ids = torch.tensor([tokens]).expand(rows, len(tokens))
            logits = self.task.model(input_ids=ids, logits_to_keep=1, **options).logits[:, -1]
            for handle in handles:
                handle.remove()
            out.append(prob(self.task, logits).view(len(chunk), self.across))
        return torch.cat(out)

    def ways(self):
        return {
            "PyTorch hooks, batched": self.batched,
            "PyTorch hooks, batched, prefix cached": lambda layers, group: self.batched(layers, group, cached=True),
        }


class WindowTrace:
    """ROME's trace of mlp_out in windows, every layer x position."""

    title = f"Window-{WIDTH} trace of mlp_out, {{layers}} layers x {{across}} positions"
    section = "window"

    def __init__(self, task):
        self.task, self.across = task, task.t
        sites = [("mlp_out", k) for k in range(task.layers)]
        clean = forward(task.model, task.tokens, capture=sites)[1]
        self.clean = torch.stack([clean[s] for s in sites])

    def one_per_cell(self, layers):
        task = self.task
        rows = [
            traces.trace(
                task.model, task.tokens, task.target, task.noise[None], list(range(task.t)), "mlp", WIDTH, [k], False
            )
            for k in layers
        ]
        return torch.cat([torch.from_numpy(r[0]) for r in rows]).float()

    def batched(self, layers, group):
        task, out = self.task, []
        position = torch.arange(task.t)
        for start in range(0, len(layers), group):
            chunk = layers[start : start + group]
            windows = [traces.window(centre, WIDTH, task.layers) for centre in chunk]
            handles = [task.model.model.embed_tokens.register_forward_hook(lambda m, a, o: o + task.noise)]
            for layer in range(task.layers):
                inside = [j for j, w in enumerate(windows) if layer in w]

                def patch(_m, _a, o, layer=layer, inside=inside):
                    for j in inside:
                        o[j * task.t + position, position] = self.clean[layer]

                if inside:
                    handles.append(task.model.model.layers[layer].mlp.register_forward_hook(patch))
            ids = torch.tensor([task.tokens]).expand(len(chunk) * task.t, task.t)
            logits = task.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
            for handle in handles:
                handle.remove()
            out.append(prob(task, logits).view(len(chunk), task.t))
        return torch.cat(out)

    def ways(self):
        return {"PyTorch hooks, batched": self.batched}


def seconds(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def spread(count: int, layers: int) -> list[int]:
    """`count` layers spread evenly over all of them."""
    return sorted({round((i + 0.5) * layers / count - 0.5) for i in range(count)})


def peers(sweep, layers: list[int], sample: list[int]) -> dict:
    """Name -> (work, layers it covers), each batched way at the batch that is fastest in a trial."""
    out = {"PyTorch hooks, one forward per cell": (lambda: sweep.one_per_cell(sample), sample)}
    for name, way in sweep.ways().items():
        trial = {}
        for group in (g for g in GROUPS if g <= len(layers)):
            some = layers[: max(group, min(5, len(layers)))]
            runs = [seconds(lambda group=group, some=some, way=way: way(some, group))[0] for _ in range(2)]
            trial[group] = min(runs) / len(some)
        best = min(trial, key=trial.get)
        out[f"{name} ({best * sweep.across} rows)"] = (lambda way=way, best=best: way(layers, best), layers)
    return out


def run(task, rounds: int, mediant, only: int | None) -> dict:
    """Measures both sweeps, PyTorch's ways and mediant interleaved, prints a table each; gives all that was measured.
    `mediant()` gives a report of `mediant bench --json`, or is None; `only` layers are timed and extrapolated."""
    layers = list(range(task.layers)) if only is None else spread(only, task.layers)
    sweeps = [HeadSweep(task), WindowTrace(task)]
    works = [peers(s, layers, spread(min(4, len(layers)), task.layers) if only is None else layers) for s in sweeps]
    times = [{name: [] for name in w} for w in works]
    values: list[dict] = [{} for _ in sweeps]
    reports = []
    for work in works:
        for do, _ in work.values():
            do()  # warm-up
    for _ in range(rounds):
        for work, took, found in zip(works, times, values, strict=True):
            for name, (do, covered) in work.items():
                s, result = seconds(do)
                took[name].append(s * task.layers / len(covered))
                found[name] = (covered, result)
        if mediant:
            reports.append(mediant())
            for sweep, took, found in zip(sweeps, times, values, strict=True):
                add_report(sweep, took, found, reports[-1])
    for sweep, took, found in zip(sweeps, times, values, strict=True):
        print(f"\n# {sweep.title.format(layers=task.layers, across=sweep.across)}, f32\n")
        table(sweep, took, found, task.layers * sweep.across, task.layers)
    return {"sweeps": {s.section: t for s, t in zip(sweeps, times, strict=True)}, "mediant": reports}


def add_report(sweep, took: dict, found: dict, report: dict):
    """mediant's own timings and values of a sweep, after a look at whether it did the same work."""
    section = report.get(sweep.section)
    if section is None:
        raise SystemExit(f"mediant's report has no section {sweep.section!r}: it is older than this comparison")
    cells = sweep.task.layers * sweep.across
    if section["cells"] != cells:
        raise SystemExit(f"mediant did {section['cells']} cells of {sweep.section}, PyTorch {cells}: not comparable")
    for mode, name in (("branching_s", "mediant, branching"), ("full_recompute_s", "mediant, full recompute")):
        runs = section.get(mode)
        if runs:
            took.setdefault(name, []).append(statistics.median(runs) if isinstance(runs, list) else runs)
    ours = torch.tensor(section["values"]).view(sweep.task.layers, sweep.across)
    found["mediant, branching"] = (list(range(sweep.task.layers)), ours)


def table(sweep, times: dict, values: dict, cells: int, layers: int):
    """A way a row, slowest first; differences are relative, from one forward per cell where both did a layer."""
    ours = statistics.median(times["mediant, branching"]) if "mediant, branching" in times else None
    covered, truth = values["PyTorch hooks, one forward per cell"]
    print("| way | seconds (median) | min to max | cells/s | mediant is faster by | P(target) differs by at most |")
    print("|---|---|---|---|---|---|")
    for name, runs in sorted(times.items(), key=lambda item: -statistics.median(item[1])):
        s = statistics.median(runs)
        estimated, differs = "", "-"
        if name in values:
            its, result = values[name]
            estimated = " est." if len(its) < layers else ""
            shared = [k for k in covered if k in its]
            a, b = truth[[covered.index(k) for k in shared]], result[[its.index(k) for k in shared]]
            differs = f"{((a - b).abs() / a).max().item():.2g}"
        ratio = f"{s / ours:.2f}x" if ours else "-"
        print(
            f"| {name} | {s:.3f}{estimated} | {min(runs):.3f} to {max(runs):.3f} | {cells / s:.0f} | {ratio} | {differs} |"
        )
