"""Intervention cases at every site and with every operation, as JSON-ready dicts, run by `site_runner.py`.

A file names its runs once: `"runs": {name: tokens}`, of which `base` is the one that cases edit. A case:

    {"name", "runs"?: [derived run, ..], "edits": [edit, ..]}      + what the edited base gives
    derived run: {"name", "of": name of an earlier run, "edits": [edit, ..]}: that run's tokens under edits; a source

    edit, fields left out where they do not apply:
      "site"       as in interventions.py
      "layer"      left out at embed and final_norm
      "positions"  written, in the edited run
      "head"       the one head written (at k, v, k_rope a key-value head); left out: all columns
      "dims"       the columns written, increasing; left out: all
      "op"         replace | freeze | mean | add | scale | clamp | zero | project_out | subspace
      "coef"       of add (x + coef source) and scale (coef x); left out: 1
      "along"      name of a vector uniform(name, columns): of scale and clamp, which then write only the part along it
      "min", "max" of clamp: bounds of that part, in units of x; one may be left out
      "norm_match" true: after add, each written row (the head's slice where a head is named) is rescaled to the L2 norm
                   that it had before
      "sources"    [{"run", "site", "layer", "positions", "head"}, ..]: rows of runs; site, layer and head left out:
                   the edit's own; one position a written one. `mean` averages the list row by row; all else has one
      "vector"     name: the rows uniform(name, positions * columns) of the weight formula, `[positions, columns]`;
                   columns: those written (a head's, the dims, or all of the site)
      "basis"      names: vectors uniform(name, columns), any whose span is P of project_out (x - P x) and subspace
                   (x + P (source - x)); not orthonormal as given

Sources with `dims` are read at the same columns. Edits of one address apply in list order; sources are read after the
edits of their own run, and never feel those of the edited one.
"""

from interventions import COMMON_HEAD_SITES, HEAD_NORMS, IN_ATTENTION, KV_SITES, NEURONS, NO_LAYER, RESIDUAL
from tiny_cases import BASE, HEADS, LAST, LAYERS, LONGER, SAME_LENGTH, SHORTER

RUNS = {"base": BASE, "same": SAME_LENGTH, "shorter": SHORTER, "longer": LONGER}
KV_HEADS = 2
EVERYWHERE = list(range(len(BASE)))
NEW_SITES = ["attn_norm", "mlp_norm", "q", "k", "v", "q_rope", "k_rope", "scores", "pattern", "mlp_act", "final_norm"]
OLD_SITES = ["embed", "resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"]


def edit(site, layer, positions, op, **more) -> dict:
    """A JSON edit; arguments that are None are left out."""
    layer = None if site in NO_LAYER else layer
    fields = {"site": site, "layer": layer, "positions": positions, **more, "op": op}
    return {k: v for k, v in fields.items() if v is not None}


def source(run, positions, site=None, layer=None, head=None) -> dict:
    fields = {"run": run, "site": site, "layer": layer, "positions": positions, "head": head}
    return {k: v for k, v in fields.items() if v is not None}


def case(name, *edits, runs=None) -> dict:
    return {"name": name, **({"runs": runs} if runs else {}), "edits": list(edits)}


# ---------------------------------------------------------------------------------------------- single edits


def op_edit(site, layer, positions, op, label, head=None) -> dict:
    """An edit by name of what it does, with arguments that make a visible difference."""

    def write(wire_op, **more):
        return edit(site, layer, positions, wire_op, head=head, **more)

    same = [source("same", positions)]
    # At scores and pattern a mean of runs needs equal lengths.
    other = source("base", positions) if site in IN_ATTENTION[2:] else source("shorter", [2] * len(positions))
    dims = [3, 4, 60, 159] if site in NEURONS else [0, 1, 2, 31, 63]
    match op:
        case "replace_run":
            return write("replace", sources=same)
        case "add_run":
            return write("add", sources=same, coef=-0.75)
        case "replace_vector":
            return write("replace", vector=label)
        case "add_vector":
            return write("add", vector=label, coef=1.5)
        case "add_run_norm_match":
            return write("add", sources=same, coef=2.0, norm_match=True)
        case "add_vector_norm_match":
            return write("add", vector=label, coef=4.0, norm_match=True)
        case "scale":
            return write("scale", coef=-1.5)
        case "zero":
            return write("zero")
        case "mean":
            return write("mean", sources=[*same, other])
        case "project_out":
            return write("project_out", basis=[f"{label} {i}" for i in range(3)])
        case "subspace":
            return write("subspace", sources=same, basis=[f"{label} {i}" for i in range(2)])
        case "freeze":
            return write("freeze", sources=same)
        case "dims_replace":
            return write("replace", sources=same, dims=dims)
        case "dims_zero":
            return write("zero", dims=dims)
        case "dims_add":
            return write("add", vector=label, coef=2.0, dims=dims[:-1])
        case "dims_scale":
            return write("scale", coef=-2.0, dims=list(range(8, 40)))
    raise ValueError(op)


RUN_OPS = ["replace_run", "add_run", "scale", "zero", "mean", "freeze"]
VECTOR_OPS = ["replace_vector", "add_vector", "add_run_norm_match", "add_vector_norm_match", "project_out", "subspace"]
DIM_OPS = ["dims_replace", "dims_zero", "dims_add", "dims_scale"]
# Layers and positions in turn: an inner position, the last, several with the first. In the last layer only what
# reaches the last position shows.
PLACES = [(1, [3]), (0, [LAST]), (3, [0, 5, LAST]), (2, [LAST]), (2, [4, 6])]


def single(site, layer, positions, op, head=None) -> dict:
    label = f"{op} {site}" + ("" if site in NO_LAYER else f" {layer}") + ("" if head is None else f" head {head}")
    label += f" at {positions}"
    return case(label, op_edit(site, layer, positions, op, label, head))


def applicable(site) -> list[str]:
    ops = RUN_OPS if site in ("scores", "pattern") else RUN_OPS + VECTOR_OPS
    return ops + (DIM_OPS if site in (*RESIDUAL, *NEURONS) else [])


def every_site_and_op(sites) -> list[dict]:
    cases = []
    for i, site in enumerate(sites):
        places = [(0, [LAST]), (0, [2, LAST])] if site == "final_norm" else PLACES
        for j, op in enumerate(applicable(site)):
            cases.append(single(site, *places[(i + j) % len(places)], op))
            if op == "replace_run":
                cases.append(single(site, *places[(i + j + 1) % len(places)], op))
    return cases


def new_ops_at_old_sites() -> list[dict]:
    earlier = ("replace_run", "add_run", "replace_vector", "add_vector", "scale", "zero")
    return [
        single(site, *PLACES[(i + j) % len(PLACES)], op)
        for i, site in enumerate(OLD_SITES)
        for j, op in enumerate(o for o in applicable(site) if o not in earlier)
    ]


def heads(sites=COMMON_HEAD_SITES) -> list[dict]:
    """Each head of each head site: one head's columns and no other's."""
    cases = []
    for i, site in enumerate(sites):
        ops = applicable(site)
        for h in range(KV_HEADS if site in KV_SITES else HEADS):
            for j in range(3 if site in KV_SITES else 2):
                op = "replace_run" if j == 0 and site != "z" else ops[(5 * h + 2 * i + 3 * j) % len(ops)]
                cases.append(single(site, (h + i + j) % LAYERS, [4, LAST], op, h))
    return cases


# ---------------------------------------------------------------------------------------------- sources elsewhere


def cross() -> list[dict]:
    """Sources at another position, layer, site or head, or several of these."""

    def one(name, to, sources, op="replace", **more):
        site, layer, positions = to
        return case(name, edit(site, layer, positions, op, sources=[sources], **more))

    return [
        *(
            one(f"{site}, permuting map of a longer run", (site, 1, [7, 2, 5]), source("longer", [11, 0, 11]))
            for site in ("attn_norm", "mlp_norm", "q", "k", "v", "q_rope", "k_rope", "mlp_act")
        ),
        one("final_norm, shorter run's last", ("final_norm", 0, [LAST]), source("shorter", [4])),
        *(
            one(f"{site} of another layer", (site, 2, [5, LAST]), source("same", [5, LAST], layer=0))
            for site in ("resid_post", "attn_norm", "q", "v", "z", "mlp_act", "mlp_out")
        ),
        one("pattern of another layer", ("pattern", 1, [4, LAST]), source("same", [4, LAST], layer=3)),
        one("scores of another layer, one head", ("scores", 1, [LAST]), source("base", [LAST], layer=2), head=2),
        one("attn_out from mlp_out", ("attn_out", 1, [6]), source("same", [6], "mlp_out")),
        one("mlp_norm from attn_norm of another layer", ("mlp_norm", 1, [6]), source("longer", [9], "attn_norm", 3)),
        one("resid_post from resid_pre", ("resid_post", 2, [LAST]), source("base", [LAST], "resid_pre", 1)),
        one("final_norm from resid_post", ("final_norm", 0, [LAST]), source("same", [LAST], "resid_post", 3)),
        one("resid_mid from final_norm", ("resid_mid", 0, [3]), source("same", [3], "final_norm")),
        one("embed from resid_post", ("embed", 0, [3]), source("same", [3], "resid_post", 1)),
        one("resid_pre from embed", ("resid_pre", 3, [LAST]), source("same", [1], "embed")),
        one("q from q_rope", ("q", 2, [LAST]), source("same", [LAST], "q_rope")),
        one("k_rope from k", ("k_rope", 0, [1, 2]), source("base", [1, 2], "k")),
        one("v from k", ("v", 1, [4]), source("same", [4], "k")),
        one("z from q", ("z", 1, [4]), source("same", [4], "q")),
        one("z head 3 from z head 1", ("z", 2, [4, LAST]), source("same", [2, 0], head=1), head=3),
        one("q head 0 from k head 1", ("q", 1, [LAST]), source("same", [LAST], "k", head=1), head=0),
        one("v head 1 from z head 2 of another layer", ("v", 2, [5]), source("same", [5], "z", 0, 2), head=1),
        one("attn_out from head_out of one head", ("attn_out", 2, [LAST]), source("same", [LAST], "head_out", head=1)),
        one(
            "head 2's contribution doubled at attn_out",
            ("attn_out", 1, [LAST]),
            source("base", [LAST], "head_out", head=2),
            "add",
        ),
        one("pattern head 0 from head 3", ("pattern", 2, [LAST]), source("base", [LAST], head=3), head=0),
        one("pattern from scores, one head", ("pattern", 2, [3]), source("base", [3], "scores", head=1), head=1),
        one("mlp_act, some neurons at all positions", ("mlp_act", 1, EVERYWHERE), source("same", EVERYWHERE), dims=[9]),
    ]


# ---------------------------------------------------------------------------------------------- several edits


def joint() -> list[dict]:
    def from_same(site, layer, positions, **more):
        return edit(site, layer, positions, "replace", sources=[source("same", positions)], **more)

    scale = edit("q", 1, [4], "scale", coef=0.5)
    add = edit("q", 1, [4], "add", vector="joint q", coef=2.0)
    means = [source("same", [3]), source("longer", [5]), source("shorter", [1])]
    return [
        case("k and q of one layer", from_same("k", 1, [2, 5]), from_same("q", 1, [LAST])),
        case("k and q of one head group", from_same("k", 2, [5], head=1), from_same("q", 2, [5, LAST], head=3)),
        case("q, k and v at all positions", *(from_same(s, 1, EVERYWHERE) for s in ("q", "k", "v"))),
        case("pattern under an earlier resid edit", from_same("resid_pre", 1, [4]), from_same("pattern", 2, [LAST])),
        case(
            "scores then pattern of one layer", from_same("scores", 1, [6]), edit("pattern", 1, [6], "scale", coef=2.0)
        ),
        case(
            "scores of all heads, a pattern's head off",
            from_same("scores", 0, [LAST]),
            edit("pattern", 0, [LAST], "zero", head=1),
        ),
        case(
            "v under a held pattern",
            *(from_same("pattern", k, EVERYWHERE) for k in range(LAYERS)),
            from_same("v", 0, [3]),
        ),
        case("q_rope after q", from_same("q", 1, [4]), edit("q_rope", 1, [4], "scale", coef=1.5)),
        case("scale then add at q", scale, add),
        case("add then scale at q", add, scale),
        case(
            "two disjoint dims",
            edit("mlp_act", 0, [LAST], "zero", dims=[1, 2]),
            from_same("mlp_act", 0, [LAST], dims=[7, 90]),
        ),
        case(
            "overlapping dims",
            edit("resid_mid", 1, [5], "scale", coef=3.0, dims=[1, 2]),
            edit("resid_mid", 1, [5], "zero", dims=[2, 3]),
        ),
        case(
            "a head of z scaled, then all of z",
            edit("z", 1, [6], "scale", coef=2.0, head=2),
            edit("z", 1, [6], "add", vector="all z", norm_match=True),
        ),
        case("attn_norm under a replaced q", from_same("attn_norm", 2, [5]), from_same("q", 2, [5])),
        case(
            "a mean of three runs, then projected",
            edit("resid_post", 1, [3], "mean", sources=means),
            edit("resid_post", 1, [3], "project_out", basis=["away"]),
        ),
        case(
            "project_out of a repeated direction",
            edit("resid_mid", 1, [4], "project_out", basis=["one", "two", "three", "four"]),
            edit("resid_mid", 1, [4], "project_out", basis=["two"]),
        ),
        case(
            "final_norm after everything",
            from_same("mlp_act", 3, [LAST]),
            edit("final_norm", 0, [LAST], "add", vector="at the end", coef=0.5),
        ),
        case(
            "every site of a block", *(edit(s, 1, [4, 6], "scale", coef=0.9) for s in [*OLD_SITES[1:], *NEW_SITES[:-1]])
        ),
        case(
            "noise, mlp_out of two layers frozen at the clean run",
            edit("embed", 0, [1, 2], "add", vector="noise", coef=1.5),
            *(edit("mlp_out", k, EVERYWHERE, "freeze", sources=[source("base", EVERYWHERE)]) for k in (1, 2)),
        ),
    ]


def frozen_but(base: str, sender: tuple[int, int], layers, upto: int, positions) -> list[dict]:
    """All heads of z but the sender and all of mlp_out, from the sender's layer up to layer `upto` exclusive, held at
    a run's values."""
    hold = [source(base, positions)]
    edits = []
    for k in layers:
        if k >= upto:
            continue
        if k == sender[0]:
            others = [h for h in range(HEADS) if h != sender[1]]
            edits += [edit("z", k, positions, "freeze", sources=hold, head=h) for h in others]
        else:
            edits.append(edit("z", k, positions, "freeze", sources=hold))
        edits.append(edit("mlp_out", k, positions, "freeze", sources=hold))
    return edits


def paths() -> list[dict]:
    """Path patching (Wang et al. 2022, Goldowsky-Dill et al. 2023): a sender head's z of the source run, everything
    after it held at the base, read at the logits (the direct path) or at a receiver head's q, k or v, whose value then
    goes alone into the clean base."""

    def send(sender, positions):
        layer, head = sender
        return edit("z", layer, positions, "replace", sources=[source("same", positions)], head=head)

    def direct(sender, positions):
        held = frozen_but("base", sender, range(sender[0], LAYERS), LAYERS, EVERYWHERE)
        return case(f"direct path, head {sender}, at {positions}", send(sender, positions), *held)

    def received(sender, site, receiver, positions):
        layer, head = receiver
        held = frozen_but("base", sender, range(sender[0], layer), layer, EVERYWHERE)
        run = {"name": "path", "of": "base", "edits": [send(sender, EVERYWHERE), *held]}
        write = edit(site, layer, positions, "replace", sources=[source("path", positions)], head=head)
        return case(f"path from head {sender} to {site} of head {receiver}", write, runs=[run])

    return [
        direct((0, 1), [LAST]),
        direct((2, 3), EVERYWHERE),
        direct((3, 0), [LAST]),
        received((0, 1), "q", (2, 3), [LAST]),
        received((1, 2), "q", (2, 0), EVERYWHERE),
        received((0, 0), "k", (3, 1), EVERYWHERE),
        received((1, 3), "v", (3, 0), [2, 3, 4, LAST]),
    ]


def along() -> list[dict]:
    """Only the part of a row along a direction is written: multiplied, or held within bounds."""
    sites = ["embed", "attn_norm", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_norm", "mlp_act", "mlp_out", "resid_post", "final_norm"]
    changes = [("scale", {"coef": -2.5}), ("clamp", {"min": 0.75, "max": 0.875}), ("clamp", {"max": -1.5}), ("clamp", {"min": 2.0})]
    cases = []
    for i, site in enumerate(sites):
        layer, positions = (0, [LAST]) if site == "final_norm" else PLACES[i % len(PLACES)]
        for op, more in (changes[i % 4], changes[(i + 1) % 4]):
            label = f"{op} along, {site} {layer} at {positions}, {more}"
            cases.append(case(label, edit(site, layer, positions, op, along=f"along {site}", **more)))
    for i, (site, head) in enumerate((("z", 2), ("q", 3), ("k", 1), ("v", 0))):
        op, more = changes[i]
        label = f"{op} along, {site} head {head}"
        cases.append(case(label, edit(site, i, [4, LAST], op, head=head, along=f"along {site}", **more)))
    return cases


def common_site_cases() -> list[dict]:
    every = [*every_site_and_op(NEW_SITES), *new_ops_at_old_sites(), *heads(), *cross(), *joint(), *paths()]
    return [*every, *along()]


def pre_activation(sites, name: str) -> list[dict]:
    """What the activation of an MLP gets: every operation, and all of it together with what lies around."""
    every = [edit(site, 1, [2, LAST], "replace", sources=[source("longer", [3, 9])]) for site in sites]
    around = [edit("mlp_norm", 1, [LAST], "scale", coef=0.5), edit("mlp_act", 1, [LAST], "scale", coef=1.5, dims=[3, 9])]
    crossed = [
        edit(site, 2, [LAST], "replace", sources=[source("same", [4], other, 1)])
        for site, other in zip(sites, [*sites[1:], "mlp_act"])
    ]
    return [*every_site_and_op(sites), case(name, *around, *every), case(f"{name}, from one another", *crossed)]


def llama_site_cases() -> list[dict]:
    return [*common_site_cases(), *pre_activation(["mlp_gate", "mlp_up"], "gate and up")]


def gpt2_site_cases() -> list[dict]:
    """Of a model without RoPE: a run's own k written to its k_rope is what is there already."""
    rotated = [c for c in common_site_cases() if c["name"] != "k_rope from k"]
    return [*rotated, *pre_activation(["mlp_pre"], "what GELU gets")]


PROJECTED = ["q", "k", "v", "q_rope", "k_rope"]


def projection_cases(sites=(*PROJECTED, *HEAD_NORMS)) -> list[dict]:
    """What head norms, biases and a head dimension of its own change: q, k and v."""
    whole = [
        single(site, *PLACES[(i + j) % len(PLACES)], op)
        for i, site in enumerate(sites)
        for j, op in enumerate(("replace_run", "add_vector_norm_match", "subspace"))
    ]
    return [*whole, *heads(sites), *[c for c in joint() if c["name"].startswith(("k and q", "q, k"))]]


def bias_cases() -> list[dict]:
    """What biases change: q, k and v are read and written with theirs."""
    return [c for c in projection_cases(PROJECTED) if "head" not in c["name"]]
