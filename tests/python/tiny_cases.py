"""Intervention cases on the tiny models, as JSON-ready dicts.

    {"name", "base": tokens, "source": tokens | null, "edits": [edit, ..]}
    edit: {"site", "layer" (null at embed), "positions": [written ..], "source_positions": [read ..] | null,
           "head": null | h, "op": "replace" | "add" | "scale" | "zero", "coef", "vector": null | name}

An edit reads the source run (same site and layer, `source_positions`) or, where `vector` names one, the rows
`uniform(name, positions * width)` of the weight formula. `add` writes x + coef * rows, `scale` x * coef. The source run
has no edits. Edits at one address apply in order.

The other sites and operations, in a form of their own: `site_cases.py`.
"""

import torch

from interventions import Edit
from reference import uniform
from traces import window

LAYERS, HEADS = 4, 4
SITES = ["embed", "resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"]

BASE = [17, 301, 5, 44, 209, 498, 3, 77, 150]
SAME_LENGTH = [400, 12, 5, 230, 209, 61, 3, 340, 88]
SHORTER = [91, 260, 33, 7, 412]
LONGER = [6, 149, 388, 210, 55, 18, 499, 301, 122, 47, 260, 9]
LAST = len(BASE) - 1


def edit(site, layer, positions, op, source_positions=None, head=None, coef=1.0, vector=None) -> dict:
    return {
        "site": site,
        "layer": None if site == "embed" else layer,
        "positions": positions,
        "source_positions": source_positions,
        "head": head,
        "op": op,
        "coef": coef,
        "vector": vector,
    }


def edit_of(e: dict, acts: dict, width: int, head_dim: int) -> Edit:
    """The hook form of a JSON edit; `acts` are the source run's activations by (site, layer)."""
    layer, head = e["layer"] or 0, e["head"]
    columns = slice(None) if head is None else slice(head * head_dim, (head + 1) * head_dim)
    rows = None
    if e["vector"] is not None:
        columns_written = width if head is None else head_dim
        count = len(e["positions"])
        rows = torch.from_numpy(uniform(e["vector"], count * columns_written)).view(count, columns_written)
    elif e["source_positions"] is not None:
        rows = acts[e["site"], layer][e["source_positions"], columns]
    return Edit(e["site"], layer, e["positions"], e["op"], rows, e["coef"], head)


def case(name, edits, source=None, base=BASE) -> dict:
    return {"name": name, "base": base, "source": source, "edits": edits}


def op_edit(site, layer, positions, op, label, head=None) -> dict:
    """An edit by name of what it does, with arguments that make a visible difference."""
    match op:
        case "replace_run":
            return edit(site, layer, positions, "replace", positions, head)
        case "add_run":
            return edit(site, layer, positions, "add", positions, head, coef=-0.75)
        case "replace_vector":
            return edit(site, layer, positions, "replace", head=head, vector=label)
        case "add_vector":
            return edit(site, layer, positions, "add", head=head, coef=1.5, vector=label)
        case "scale":
            return edit(site, layer, positions, "scale", head=head, coef=-1.5)
        case "zero":
            return edit(site, layer, positions, "zero", head=head, coef=0.0)
    raise ValueError(op)


OPS = ["replace_run", "add_run", "replace_vector", "add_vector", "scale", "zero"]


def single(site, layer, positions, op, head=None) -> dict:
    label = f"{op} {site}" + ("" if site == "embed" else f" {layer}") + ("" if head is None else f" head {head}")
    label += f" at {positions}"
    source = SAME_LENGTH if op.endswith("_run") else None
    return case(label, [op_edit(site, layer, positions, op, label, head)], source)


def every_site_and_op() -> list[dict]:
    """Every site and op: an inner position, the last one, several with the first; first, inner and last layers."""
    places = [(1, [LAST]), (0, [3]), (3, [0, 5, LAST])]
    return [
        single(site, layer, p, op)
        for site in SITES
        for op in OPS
        for layer, p in (places if op in ("replace_run", "add_vector", "zero") else places[:2])
    ]


def heads() -> list[dict]:
    return [single("z", (h + i) % LAYERS, [4, LAST], op, h) for h in range(HEADS) for i, op in enumerate(OPS)]


def position_maps() -> list[dict]:
    """Source runs of another length: last to last, and a map that permutes and repeats."""
    cases = []
    for i, site in enumerate(SITES):
        layer = i % LAYERS
        at = site if site == "embed" else f"{site} {layer}"
        shorter = edit(site, layer, [LAST], "replace", [len(SHORTER) - 1])
        longer = edit(site, layer, [7, 2, 5], "replace", [11, 0, 11])
        cases += [
            case(f"shorter source, last to last, {at}", [shorter], SHORTER),
            case(f"longer source, permuting map, {at}", [longer], LONGER),
        ]
    head = edit("z", 2, [6, 8], "add", [4, 1], head=3, coef=2.0)
    return [*cases, case("shorter source, map, one head added", [head], SHORTER)]


def joint() -> list[dict]:
    """Several edits at once: their order at one address, several sites of a block, several layers."""
    scale = edit("resid_post", 1, [4], "scale", coef=0.5)
    add = edit("resid_post", 1, [4], "add", vector="joint add", coef=2.0)
    attn = edit("attn_out", 2, [3, 8], "replace", [3, 8])
    mlp = edit("mlp_out", 2, [3, 8], "replace", [3, 8])
    swap = edit("resid_mid", 0, [1, 2], "replace", [2, 1])
    head0, head3 = (edit("z", 1, [6], "zero", head=h, coef=0.0) for h in (0, 3))
    noise = edit("embed", 0, [1, 2, 3], "add", vector="joint noise", coef=0.8)
    return [
        case("scale then add at one address", [scale, add]),
        case("add then scale at one address", [add, scale]),
        case(
            "replace then add at one address",
            [edit("mlp_out", 0, [5], "replace", [5]), edit("mlp_out", 0, [5], "add", vector="after", coef=1.0)],
            SAME_LENGTH,
        ),
        case(
            "overlapping positions at one address",
            [edit("resid_pre", 2, [2, 3], "scale", coef=3.0), edit("resid_pre", 2, [3, 4], "zero", coef=0.0)],
        ),
        case("both sublayers of a block", [attn, mlp], SAME_LENGTH),
        case("both sublayers of a block, listed late first", [mlp, attn], SAME_LENGTH),
        case("two positions swapped with the run itself", [swap], BASE),
        case("two heads off", [head0, head3]),
        case("a head off under a replaced output", [head0, edit("attn_out", 1, [6], "replace", [6])], SAME_LENGTH),
        case("every site of a block", [edit(s, 1, [4], "scale", coef=0.9) for s in SITES if s != "embed"]),
        case(
            "resid_post then resid_pre of the next block",
            [edit("resid_post", 0, [7], "scale", coef=2.0), edit("resid_pre", 1, [7], "add", vector="next", coef=1.0)],
        ),
        case("noise, then a head in the last block", [noise, edit("z", 3, [LAST], "replace", [LAST], head=1)], BASE),
        case("all layers at the last position", [edit("mlp_out", k, [LAST], "zero", coef=0.0) for k in range(LAYERS)]),
        case(
            "the whole residual of a layer",
            [edit("resid_post", 1, list(range(len(BASE))), "replace", list(range(len(BASE))))],
            SAME_LENGTH,
        ),
    ]


def windows() -> list[dict]:
    """ROME's windows of restored sublayer outputs, all centres, widths odd, even and wider than the edges."""
    return [
        case(
            f"window {width} around {centre}, {site}",
            [edit(site, k, [p], "replace", [p]) for k in window(centre, width, LAYERS)],
            SAME_LENGTH,
        )
        for site, p in (("mlp_out", 5), ("attn_out", LAST))
        for width in (2, 3)
        for centre in range(LAYERS)
    ]


def restores() -> list[dict]:
    """Cells of a causal trace: noise on the embeddings, one clean state restored."""
    noise = edit("embed", 0, [1, 2, 3], "add", vector="subject noise", coef=1.5)
    cells = [(0, 0), (0, 2), (1, 3), (2, 4), (2, LAST), (3, 5), (3, LAST)]
    restored = [
        case(f"noise, clean resid_post {k} at {p}", [noise, edit("resid_post", k, [p], "replace", [p])], BASE)
        for k, p in cells
    ]
    return [case("noise alone", [noise]), *restored]


def llama_cases() -> list[dict]:
    return [*every_site_and_op(), *heads(), *position_maps(), *joint(), *windows(), *restores()]


def family_cases(family: str) -> list[dict]:
    """A few that touch what is special to a family: head widths, biases, rotary scaling at later positions."""
    return [
        single("embed", 0, [3], "add_vector"),
        single("resid_pre", 2, [1, LAST], "replace_run"),
        single("z", 1, [4], "replace_run"),
        *(single("z", h, [2, LAST], "add_vector", h) for h in range(HEADS)),
        single("attn_out", 0, [5], "zero"),
        single("resid_mid", 3, [LAST], "replace_vector"),
        single("mlp_out", 1, [0, 6], "scale"),
        case(f"longer source, {family}", [edit("resid_post", 1, [7, 2], "replace", [11, 0])], LONGER),
    ]
