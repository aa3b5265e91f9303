"""Holds the hooks of `interventions.py` to what follows from the model's equations, on tiny models in f64 and, where
sizes matter, on the default model; prints the differences, a failed one ends the program.

    python tests/python/check_sites.py
"""

import torch

import anatomy
import reference as ref
import traces
from check_reference import report, worst
from default_cases import DEFAULT_RUNS, default_cases
from interventions import (
    EDITABLE,
    NO_LAYER,
    Edit,
    addresses,
    direct_bias,
    direct_logits,
    exists,
    forward,
    head_width,
    lens,
    site_heads,
)
from make_golden import first_token, kl
from make_site_golden import ANSWERS, SEVERED, severed_setup
from site_cases import (
    BASE,
    EVERYWHERE,
    HEADS,
    LAST,
    LAYERS,
    RUNS,
    SAME_LENGTH,
    bias_cases,
    gpt2_site_cases,
    llama_site_cases,
    paths,
    projection_cases,
)
from site_runner import Runner

LIMIT = 2e-6  # f64, but for transformers' norms, which round to f32 inside


class Pair:
    """A model with a base and a source run, all captured."""

    def __init__(self, model, base=BASE, source=SAME_LENGTH):
        self.model, self.tokens = model, base
        self.z, self.base = forward(model, base, capture=addresses(model))
        self.source = forward(model, source, capture=addresses(model))[1]

    def patched(self, *edits, capture=()):
        """Logits with each (site, layer, positions, head) replaced from the source run, and captures."""
        hooks = []
        for site, layer, positions, head in edits:
            width = head_width(self.model, site, len(self.tokens))
            columns = slice(None) if head is None else slice(head * width, (head + 1) * width)
            rows = self.source[site, layer][positions][:, columns]
            hooks.append(Edit(site, layer, positions, "replace", rows, head=head))
        return forward(self.model, self.tokens, hooks, capture)


def what_is_captured(name: str, model):
    """Each captured activation against the module's own function of another one."""
    pair = Pair(model)
    a = pair.base
    t, e = len(BASE), anatomy.head_dim(model)
    split = lambda x, w: x.view(t, -1, w).transpose(0, 1)  # noqa: E731  ([heads, t, w])
    parts = anatomy.parts(model)
    if parts.positions is None:
        cos, sin = model.model.rotary_emb(a["embed", 0][None], torch.arange(t)[None])
        rotated = lambda x: x * cos + torch.cat((-x[..., e // 2 :], x[..., : e // 2]), -1) * sin  # noqa: E731
    else:
        rotated = lambda x: x  # noqa: E731
    groups = model.config.num_attention_heads // anatomy.kv_heads(model)
    worsts = {}

    def see(what, x, y):
        worsts[what] = max(worsts.get(what, 0.0), worst(x, y))

    if parts.positions is not None:
        added = a["embed", 0] + parts.positions.weight[:t]
        see("resid_pre of the first layer = embed + positions", added, a["resid_pre", 0])
    for k in range(anatomy.layers(model)):
        block = anatomy.block(model, k)
        see("attn_norm = norm(resid_pre)", block.attn_norm(a["resid_pre", k]), a["attn_norm", k])
        see("mlp_norm = norm(resid_mid)", block.mlp_norm(a["resid_mid", k]), a["mlp_norm", k])
        for site, (module, columns) in block.qkv.items():
            see(f"{site} of attn_norm", module(a["attn_norm", k])[..., columns], a[site, k])
        for site in ("q", "k"):
            before = site
            if exists(model, f"{site}_norm"):
                before = f"{site}_norm"
                normed = block.head_norm(before)(a[site, k].view(t, -1, e)).flatten(1)
                see(f"{before} = head norm of {site}", normed, a[before, k])
            see(f"{site}_rope = rotated {before}", rotated(split(a[before, k], e)), split(a[f"{site}_rope", k], e))
        q, keys, v = split(a["q_rope", k], e), split(a["k_rope", k], e), split(a["v", k], e)
        scores, pattern, z = split(a["scores", k], t), split(a["pattern", k], t), split(a["z", k], e)
        for h in range(HEADS):
            product = (q[h] @ keys[h // groups].T / e**0.5).tril()
            see("scores = q k / sqrt(e), none later", product, scores[h])
            see("z = pattern v", pattern[h] @ v[h // groups], z[h])
        later = torch.ones(t, t, dtype=torch.bool).triu(1)
        see("softmax(scores) = pattern", scores.masked_fill(later, -torch.inf).softmax(-1), pattern)
        see("rows of pattern sum to 1", pattern.sum(-1), torch.ones(HEADS, t))
        summed = a["head_out", k].view(t, HEADS, -1).sum(1)
        bias = 0 if block.o.bias is None else block.o.bias
        see("head_out and the bias sum to attn_out", summed + bias, a["attn_out", k])
        see("mlp_act = the neurons of mlp_norm", block.neurons(a["mlp_norm", k]), a["mlp_act", k])
        pre = {site: a[site, k] for site in block.pre}
        see("mlp_act = what the activation makes of what it gets", block.activated(pre), a["mlp_act", k])
        see("mlp_out = down(mlp_act)", block.down(a["mlp_act", k]), a["mlp_out", k])
    see("final_norm = norm(resid_post)", parts.norm(a["resid_post", LAYERS - 1]), a["final_norm", 0])
    see("logits = unembedded final_norm", parts.head(a["final_norm", 0]), a["logits", 0])
    see("logits of the last position", a["logits", 0][-1:], pair.z)
    see("tapped attention and transformers' own", pair.z, forward(model, BASE)[0])
    see("lens of the last layer", lens(model, a["resid_post", LAYERS - 1]), a["logits", 0])
    summands = [a["embed", 0][-1:]] + [a[s, k][-1:] for k in range(LAYERS) for s in ("attn_out", "mlp_out")]
    if parts.positions is not None:
        summands.append(parts.positions.weight[t - 1 : t])
    direct = direct_logits(model, torch.cat(summands), a["resid_post", LAYERS - 1][-1], 99)
    see("direct attributions sum to the logit", direct.sum() + direct_bias(model, 99), pair.z[0, 99])
    for what, difference in worsts.items():
        report(f"{name}: {what}", difference, LIMIT)


def what_edits_do(name: str, model):
    """Replacing what determines an activation is replacing the activation; a self-patch changes nothing."""
    pair, several, k = Pair(model), [2, 5, LAST], 1
    every = lambda *sites: [(s, k, EVERYWHERE, None) for s in sites]  # noqa: E731

    def same(what, left, right, least=1e-3):
        a, b = (pair.patched(*edits)[0] for edits in (left, right))
        report(f"{name}: {what}", worst(a, b), LIMIT)
        moved = worst(a, pair.z)
        if moved < least:
            raise SystemExit(f"check is void, the edit moves logits by {moved}: {what}")

    at = lambda *sites: [(s, k, several, None) for s in sites]  # noqa: E731
    same("z = attn_out", at("z"), at("attn_out"))
    same("all heads of z = z", [("z", k, several, h) for h in range(HEADS)], at("z"))
    same("q, k, v everywhere = attn_norm everywhere", every("q", "k", "v"), every("attn_norm"))
    same("q, k, v at some = attn_norm at some", at("q", "k", "v"), at("attn_norm"))
    same("q = q_rope at the same positions", at("q"), at("q_rope"))
    same("k = k_rope at the same positions", at("k"), at("k_rope"))
    for site in ("q", "k"):
        if exists(model, f"{site}_norm"):
            same(f"{site} = {site}_norm at the same positions", at(site), at(f"{site}_norm"))
    same("q, k everywhere = scores everywhere", every("q", "k"), every("scores"))
    same("scores = pattern", at("scores"), at("pattern"))
    same("pattern and v everywhere = z everywhere", every("pattern", "v"), every("z"))
    same("mlp_act = mlp_out", at("mlp_act"), at("mlp_out"))
    same("what the activation gets = mlp_act", at(*anatomy.block(model, k).pre), at("mlp_act"))
    same("mlp_norm = mlp_out", at("mlp_norm"), at("mlp_out"))
    same("resid_mid = mlp_norm, and the residual branch", at("resid_mid"), [*at("mlp_norm"), *at("resid_mid")])
    end = [("final_norm", 0, [LAST], None)]
    same("final_norm = resid_post of the last layer", end, [("resid_post", LAYERS - 1, [LAST], None)])
    for site in ("q", "z", "scores", "pattern", "k", "v", "q_rope", "k_rope"):
        heads = [(site, k, several, h) for h in range(site_heads(model, site))]
        same(f"all heads of {site} = {site}", heads, at(site))
    for site in (site for site in EDITABLE if exists(model, site)):
        layer = 0 if site in NO_LAYER else k
        rows = pair.base[site, layer][several]
        z, after = forward(model, BASE, [Edit(site, layer, several, "replace", rows)], [(site, layer)])
        report(
            f"{name}: self-patch at {site}",
            max(worst(z, pair.z), worst(after[site, layer], pair.base[site, layer])),
            LIMIT,
        )


def what_operations_do(model):
    """Each operation on what it wrote, at a residual site and at a head."""
    pair, k, at = Pair(model), 2, [1, 4]
    for site, head, width in (("resid_mid", None, 64), ("q", 2, 16)):
        columns = slice(None) if head is None else slice(head * width, (head + 1) * width)
        old = pair.base[site, k][at][:, columns]
        other = pair.source[site, k][at][:, columns]
        basis = torch.stack([torch.from_numpy(ref.uniform(f"check {i}", width)).double() for i in range(3)])

        def written(*ops, site=site, head=head, columns=columns):
            edits = [Edit(site, k, at, op, head=head, **more) for op, more in ops]
            return forward(model, BASE, edits, [(site, k)])[1][site, k]

        project, swap = ("project_out", {"basis": basis}), ("subspace", {"basis": basis, "source": other})
        once, twice, swapped = (written(*o)[at][:, columns] for o in ([project], [project, project], [swap]))
        report(f"{site}: project_out twice is once", worst(once, twice), LIMIT)
        report(f"{site}: project_out leaves nothing along the basis", worst(once @ basis.T, torch.zeros(2, 3)), LIMIT)
        least = torch.linalg.lstsq(basis.T, old.T).solution  # the span's part, by least squares
        report(f"{site}: project_out removes the span's part", worst(old - (basis.T @ least).T, once), LIMIT)
        report(f"{site}: subspace is the source's along the basis", worst(swapped @ basis.T, other @ basis.T), LIMIT)
        back = [swap, ("project_out", {"basis": basis})]
        report(f"{site}: subspace leaves the rest", worst(written(*back)[at][:, columns], once), LIMIT)
        full = ("subspace", {"basis": torch.eye(width), "source": other})
        report(f"{site}: subspace of everything is replace", worst(written(full)[at][:, columns], other), LIMIT)
        matched = written(("add", {"source": other, "coef": 3.0, "norm_match": True}))[at][:, columns]
        report(f"{site}: norm_match keeps norms", worst(matched.norm(dim=-1), old.norm(dim=-1)), LIMIT)
        plain = old + 3 * other
        cosine = torch.cosine_similarity(matched, plain, dim=-1)
        report(f"{site}: norm_match keeps the sum's direction", worst(cosine, torch.ones(2)), LIMIT)
        halves = ("scale", {"coef": 0.5})
        mean = ("mean", {"source": (old + other) / 2})
        steps = ("add", {"source": other, "coef": 0.5})
        report(f"{site}: mean of two is half and half", worst(written(mean), written(halves, steps)), LIMIT)
        rest = written(("zero", {}))
        rest[at] = rest[at].index_fill(1, torch.arange(width * 4)[columns], 7.0) if head is not None else 7.0
        want = pair.base[site, k].clone()
        want[at] = want[at].index_fill(1, torch.arange(width * 4)[columns], 7.0) if head is not None else 7.0
        report(f"{site}: what is not named stays", worst(rest, want), LIMIT)
    zero = Edit("mlp_act", k, at, "zero", dims=[3, 150])
    after = forward(model, BASE, [zero], [("mlp_act", k), ("mlp_out", k)])[1]
    want = pair.base["mlp_act", k].clone()
    for p in at:
        for d in (3, 150):
            want[p, d] = 0
    report("mlp_act: dims are those and no other", worst(after["mlp_act", k], want), LIMIT)
    report(
        "mlp_act: written neurons reach mlp_out",
        worst(after["mlp_out", k], anatomy.block(model, k).down(want)),
        LIMIT,
    )


def paths_are_direct(model):
    """A direct path adds the sender's change of head_out to the last residual, nothing else; a path to q adds it to
    the receiver's resid_pre."""
    runner, pair = Runner(model, RUNS), Pair(model)
    cases = {c["name"]: c for c in paths()}

    def change(layer, head):
        part = lambda acts: acts["head_out", layer].view(len(BASE), HEADS, -1)[:, head]  # noqa: E731
        return part(pair.source) - part(pair.base)

    for (layer, head), at in (((0, 1), [LAST]), ((2, 3), EVERYWHERE), ((3, 0), [LAST])):
        z = runner.run(cases[f"direct path, head {(layer, head)}, at {at}"])[0]
        moved = pair.base["resid_post", LAYERS - 1][-1:] + change(layer, head)[-1:]
        report(f"direct path of head {layer}.{head}", worst(lens(model, moved)[0], z), LIMIT)
    sender, receiver = (1, 2), (2, 0)
    z = runner.run(cases[f"path from head {sender} to q of head {receiver}"])[0]
    block = anatomy.block(model, receiver[0])
    project, columns = block.qkv["q"]
    q = project(block.attn_norm(pair.base["resid_pre", receiver[0]] + change(*sender)))[..., columns]
    edit = Edit("q", receiver[0], EVERYWHERE, "replace", q[:, :16], head=receiver[1])
    report("path to a receiver's q", worst(forward(model, BASE, [edit])[0][0], z), LIMIT)


def severed_as_rome_does(model):
    """The severed trace against ROME's procedure in its own shape: one batch of a clean and the noised runs, two
    passes, every layer at the token frozen, noise drawn inside the passes."""
    s = severed_setup(model)
    first, second = s["draws"]
    args = (model, BASE, s["target"])
    hooks = {"mlp_out": lambda b: b.mlp, "attn_out": lambda b: b.self_attn}
    tensor = lambda out: out[0] if isinstance(out, tuple) else out  # noqa: E731

    def rome(site, layer, token, draws):
        held, generator = {}, iter(draws)
        blocks = model.model.layers
        for first_pass in (True, False):

            def noise(_m, _a, out):
                out[1:, s["noised"]] += next(generator).to(out.dtype)  # noqa: B023

            def freeze(k, out, first_pass=first_pass):
                if first_pass:
                    held[k] = tensor(out).clone()
                else:
                    tensor(out)[1:, token] = held[k][1:, token]

            def restore(_m, _a, out, first_pass=first_pass):
                if not first_pass:
                    tensor(out)[1:, token] = tensor(out)[0, token]

            handles = [model.model.embed_tokens.register_forward_hook(noise)]
            for k, block in enumerate(blocks):
                hook = lambda _m, _a, out, k=k: freeze(k, out)  # noqa: E731
                handles.append(hooks[site](block).register_forward_hook(hook))
            handles.append(blocks[layer].register_forward_hook(restore))
            ids = torch.tensor([BASE]).expand(1 + SEVERED["samples"], len(BASE))
            logits = model(input_ids=ids, use_cache=False).logits[1:, -1]
            for handle in handles:
                handle.remove()
        return logits.softmax(-1)[:, s["target"]]

    for site in hooks:
        one = traces.severed(*args, first, s["noised"], site)
        two = traces.severed(*args, second, s["noised"], site, frozen=first, every_layer=True)
        cells = [(k, p) for k in range(LAYERS) for p in (0, 2, 3, 6, LAST)]
        for what, mine, draws in (("one draw", one, (first, first)), ("two draws", two, (first, second))):
            difference = max(worst(rome(site, k, p, draws), mine[:, k, p]) for k, p in cells)
            report(f"severed {site} against ROME's procedure, {what}", difference, LIMIT)
        plain = traces.trace(*args, first, s["noised"], "hidden", 1)
        print(
            f"  severing {site} moves cells by up to {worst(plain, one):.3g}, the second draw by {worst(one, two):.3g}"
        )


def cases_move_and_agree_in_f32(family: str, cases: list[dict]):
    """Every case changes the logits, and an f32 forward gives them within 1e-4."""
    double, single = Runner(ref.tiny(family), RUNS), Runner(ref.tiny(family, torch.float32), RUNS)
    base = forward(double.model, BASE)[0][0]
    outcomes = [(c["name"], double.run(c)[0], single.run(c)[0]) for c in cases]
    names = {c["name"] for c in cases}
    if len(names) != len(cases):
        raise SystemExit(f"{family}: two cases of one name")
    difference, at = max((worst(a, b), name) for name, a, b in outcomes)
    report(f"{family}: {len(cases)} cases, f32 against f64 ({at})", difference, 1e-4)
    moved = sorted((worst(a, base), kl(base, a), name) for name, a, _ in outcomes)
    for distance, divergence, name in (moved[0], moved[1], moved[2], moved[len(moved) // 2], moved[-1]):
        print(f"  moves logits by {distance:.3g}, KL {divergence:.3g}: {name}")
    if moved[0][0] < 1e-3:
        raise SystemExit(f"{family}: case {moved[0][2]!r} changes nothing")


def default_model():
    """The default model's cases in f32 against f64, and that each moves a logit by more than tests allow for."""
    prompts = {name: ref.encode(prompt) for name, prompt in DEFAULT_RUNS.items()}
    double, single = Runner(ref.smollm2(torch.float64), prompts), Runner(ref.smollm2(), prompts)
    cases = default_cases({name: len(tokens) for name, tokens in prompts.items()})
    chosen = torch.tensor([first_token(text) for text in ANSWERS])
    base, logits, prob, moved = forward(single.model, prompts["base"])[0][0], 0.0, 0.0, []
    for c in cases:
        a, b = double.run(c)[0], single.run(c)[0]
        logits, prob = max(logits, worst(a, b)), max(prob, worst(a.softmax(-1), b.double().softmax(-1)))
        moved.append((worst(b[chosen], base[chosen]), c["name"]))
    report(f"default model, {len(cases)} cases, logits, f32 against f64", logits, 5e-4)
    report(f"default model, {len(cases)} cases, probabilities, f32 against f64", prob, 2e-5)
    distance, name = min(moved)
    print(f"  the least case moves the stored logits by {distance:.3g}: {name}")
    if distance < 1e-2:
        raise SystemExit(f"case {name!r} moves too little to be seen")


def check():
    for family in ("llama", "qwen2", "qwen3", "gpt2"):
        model = ref.tiny(family)
        what_is_captured(family, model)
        what_edits_do(family, model)
    model = ref.tiny("llama")
    what_operations_do(model)
    paths_are_direct(model)
    severed_as_rome_does(model)
    cases_move_and_agree_in_f32("llama", llama_site_cases())
    cases_move_and_agree_in_f32("gpt2", gpt2_site_cases())
    cases_move_and_agree_in_f32("qwen2", bias_cases())
    cases_move_and_agree_in_f32("qwen3", projection_cases())
    default_model()


if __name__ == "__main__":
    check()
