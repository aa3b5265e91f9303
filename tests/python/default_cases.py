"""Cases on the default model, in the form of `site_cases.py`: each site, each operation, a path."""

from interventions import KV_SITES, NO_LAYER, RESIDUAL
from site_cases import case, edit, source

DEFAULT_RUNS = {
    "base": "The Eiffel Tower is in the city of",
    "other": "The Colosseum is in the city of",
    "third": "The wires carry high voltage electrical",
}
SUBJECT = [1, 2, 3]
LAYER, LAYERS, HEADS, KV_HEADS = 19, 30, 9, 3
SENDER, RECEIVER = (19, 1), (21, 6)  # (layer, head)


def default_cases(counts: dict[str, int]) -> list[dict]:
    """`counts`: positions of each run. The last position goes to the last; patterns and scores need a run of the base's
    length, which "other" is."""
    if counts["other"] != counts["base"]:
        raise SystemExit(f"the run `other` needs the base's length: {counts}")
    last = [counts["base"] - 1]

    def read(run, positions=None, **more):
        return source(run, [counts[run] - 1] if positions is None else positions, **more)

    def replaced(site, head=None):
        where = site if site in NO_LAYER else f"{site} {LAYER}"
        name = where + ("" if head is None else f" head {head}") + " from other"
        # Keys, values and embeddings of the last position, the same word in both runs, carry little.
        at = [*SUBJECT, *last] if site in (*KV_SITES, "embed") else last
        return case(name, edit(site, LAYER, at, "replace", sources=[read("other", at)], head=head))

    def one(name, site, op, layer=LAYER, positions=None, **more):
        return case(name, edit(site, layer, positions or last, op, **more))

    other = [read("other")]
    basis = ["first direction", "second direction"]
    sites = [
        *(replaced(site) for site in RESIDUAL),
        replaced("mlp_act"),
        *(replaced(site, h) for site in ("q", "q_rope", "z") for h in (0, 4, HEADS - 1)),
        *(replaced(site, h) for site in KV_SITES for h in range(KV_HEADS)),
        *(replaced(site, h) for site in ("scores", "pattern") for h in (0, 4)),
        replaced("q"),
        replaced("z"),
        replaced("pattern"),
    ]
    ops = [
        one("add", "resid_mid", "add", sources=other, coef=0.5),
        one("add, norm matched", "resid_mid", "add", sources=other, coef=2.0, norm_match=True),
        one("add a vector, norm matched", "resid_post", "add", vector="steer", coef=4.0, norm_match=True),
        one("replace by a vector", "mlp_out", "replace", vector="set"),
        one("scale", "attn_out", "scale", coef=-2.0),
        one("zero a head", "z", "zero", head=2),
        one("mean of two runs", "resid_mid", "mean", sources=[*other, read("third")]),
        one("project_out", "resid_mid", "project_out", basis=basis),
        one("subspace", "resid_post", "subspace", sources=other, basis=basis),
        one("dims of mlp_act", "mlp_act", "replace", sources=other, dims=[0, 5, 700, 1535]),
        one("dims of resid_post", "resid_post", "zero", dims=list(range(100, 164))),
        one("another layer", "resid_mid", "replace", sources=[read("other", layer=10)]),
        one("another site", "mlp_out", "replace", sources=[read("other", site="attn_out")]),
        one("another head", "z", "replace", sources=[read("base", head=1)], head=7),
        one("another position", "v", "replace", positions=[3], sources=[read("other", [2])]),
        case(
            "freeze",
            edit("resid_post", 8, last, "replace", sources=other),
            *(edit("mlp_out", k, last, "freeze", sources=[read("base", last)]) for k in range(9, LAYERS)),
        ),
    ]

    def hold(site, layer, head=None):
        return edit(site, layer, last, "freeze", sources=[read("base", last)], head=head)

    sender, receiver = SENDER, RECEIVER
    send = edit("z", sender[0], last, "replace", sources=other, head=sender[1])
    rest = [hold("z", sender[0], h) for h in range(HEADS) if h != sender[1]] + [hold("mlp_out", sender[0])]

    def path(upto):
        return [send, *rest, *(hold(site, k) for k in range(sender[0] + 1, upto) for site in ("z", "mlp_out"))]

    run = {"name": "path", "of": "base", "edits": path(receiver[0])}
    received = edit("q", receiver[0], last, "replace", sources=[read("path", last)], head=receiver[1])
    return [
        *sites,
        *ops,
        case(f"direct path of head {sender}", *path(LAYERS)),
        case(f"path from head {sender} to q of head {receiver}", received, runs=[run]),
    ]
