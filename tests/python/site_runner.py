"""Runs the JSON cases of `site_cases.py` on a transformers model."""

import torch

from interventions import NO_LAYER, Edit, addresses, forward, head_width, site_width
from reference import uniform


class Runner:
    """Cases on one model: the activations of named runs are computed once."""

    def __init__(self, model, runs: dict[str, list[int]]):
        self.model, self.runs, self.acts = model, runs, {}
        for name, tokens in runs.items():
            self.acts[name] = forward(model, tokens, capture=addresses(model))[1]

    def hook(self, e: dict, count: int, acts: dict) -> Edit:
        """The hook form of a JSON edit of a run of `count` positions."""
        site, layer, head, dims = e["site"], e.get("layer", 0), e.get("head"), e.get("dims")

        def row_columns(site, head):
            width = head_width(self.model, site, count)
            return slice(None) if head is None else slice(head * width, (head + 1) * width)

        def read(s):
            site_read = s.get("site", site)
            rows = acts[s["run"]][site_read, 0 if site_read in NO_LAYER else s.get("layer", layer)]
            rows = rows[s["positions"]][:, row_columns(site_read, s.get("head", head))]
            return rows if dims is None else rows[:, dims]

        columns = site_width(self.model, site, count) if head is None else head_width(self.model, site, count)
        columns = columns if dims is None else len(dims)
        rows = basis = None
        if e.get("sources"):
            rows = torch.stack([read(s) for s in e["sources"]]).mean(0)
        elif "vector" in e:
            n = len(e["positions"])
            rows = torch.from_numpy(uniform(e["vector"], n * columns)).view(n, columns)
        if "basis" in e:
            basis = torch.stack([torch.from_numpy(uniform(name, columns)) for name in e["basis"]])
        along = None if "along" not in e else torch.from_numpy(uniform(e["along"], columns))
        bounds = (e.get("min"), e.get("max"))
        options = {"along": along, "bounds": bounds, "head": head, "dims": dims, "norm_match": e.get("norm_match", False), "basis": basis}
        return Edit(site, layer, e["positions"], e["op"], rows, e.get("coef", 1.0), **options)

    def run(self, case: dict, capture=()):
        """Logits of the base under a case's edits `[vocab]`, and captures."""
        runs, acts = dict(self.runs), dict(self.acts)
        for derived in case.get("runs", []):
            tokens = runs[derived["name"]] = runs[derived["of"]]
            hooks = [self.hook(e, len(tokens), acts) for e in derived["edits"]]
            acts[derived["name"]] = forward(self.model, tokens, hooks, addresses(self.model))[1]
        hooks = [self.hook(e, len(runs["base"]), acts) for e in case["edits"]]
        logits, captured = forward(self.model, runs["base"], hooks, capture)
        return logits[0], captured
