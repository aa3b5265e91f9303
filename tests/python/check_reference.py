"""Checks of the reference against itself, printed as numbers; a failed one ends the program."""

import json

import torch

import reference as ref
import traces
from interventions import Edit, forward


def report(what: str, worst: float, limit: float):
    print(f"{what}: max difference {worst:.3g} (limit {limit:g})", flush=True)
    if not worst <= limit:
        raise SystemExit(f"check failed: {what}")


def worst(a, b) -> float:
    return (torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs().max().item()


def hooks_do_what_they_say(model):
    """Each site's edit against the block's equations written out."""
    tokens, at, k = ref.encode(ref.EIFFEL), [3], 4
    block = model.model.layers[k]
    sites = ["resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    _, a = forward(model, tokens, capture=[(s, k) for s in sites] + [("resid_pre", k + 1), ("embed", 0)])
    report("attn_out = o_proj(z)", worst(block.self_attn.o_proj(a["z", k]), a["attn_out", k]), 1e-4)
    report("resid_mid = resid_pre + attn_out", worst(a["resid_pre", k] + a["attn_out", k], a["resid_mid", k]), 0)
    mlp = block.mlp(block.post_attention_layernorm(a["resid_mid", k]))
    report("mlp_out = mlp(norm(resid_mid))", worst(mlp, a["mlp_out", k]), 1e-4)
    report("resid_post = resid_mid + mlp_out", worst(a["resid_mid", k] + a["mlp_out", k], a["resid_post", k]), 0)
    report("resid_post = next resid_pre", worst(a["resid_post", k], a["resid_pre", k + 1]), 0)
    # An edit of resid_mid must reach both the MLP and the residual branch.
    v = torch.from_numpy(ref.uniform("check", 576)).view(1, 576)
    _, b = forward(model, tokens, [Edit("resid_mid", k, at, "replace", v)], [("resid_post", k)])
    want = v + block.mlp(block.post_attention_layernorm(v))
    report("edited resid_mid reaches resid_post", worst(b["resid_post", k][at], want), 1e-4)
    for site in ["embed", *sites]:
        layer = 0 if site == "embed" else k
        edit = Edit(site, layer, [2, 5], "replace", a[site, layer][[2, 5]])
        same = worst(forward(model, tokens, [edit])[0], forward(model, tokens)[0])
        report(f"self-patch at {site}", same, 0)


def f32_against_f64(model, folder):
    double = ref.smollm2(torch.float64)
    logits = prob = 0.0
    for run in json.loads((folder / "smollm2_runs.json").read_text())["runs"]:
        a, b = (forward(m, run["tokens"])[0] for m in (model, double))
        logits = max(logits, worst(a, b))
        prob = max(prob, worst(a.double().softmax(-1), b.softmax(-1)))
    report("default model's logits, f32 against f64", logits, 1e-3)
    report("default model's probabilities, f32 against f64", prob, 2e-5)
    centres = [0, 7, 15, 22, 29]
    for item in json.loads((folder / "smollm2_trace.json").read_text())["traces"]:
        noised = item["noised_positions"]
        rows = traces.legacy_noise(item["seed"], item["samples"], len(noised), 576, item["noise_std"])[:1]
        for arm in item["arms"]:
            args = (item["tokens"], item["target_id"], rows, noised, arm["arm"], arm["window"], centres)
            stored = torch.tensor(arm["prob"], dtype=torch.float64)[:1, centres]
            name = f"trace {item['target']!r} {arm['arm']} window {arm['window']}"
            report(f"{name}, f32 against f64", worst(stored, traces.trace(double, *args)), 2e-5)
            one_by_one = traces.trace(model, *args[:-1], centres[1:3], batched=False)
            report(f"{name}, batched against one cell at a time", worst(stored[:, 1:3], one_by_one), 2e-5)


def tiny_f32_against_f64(folder):
    from make_golden import run_case

    for family in ref.FAMILIES:
        golden, model = json.loads((folder / f"tiny_{family}.json").read_text()), ref.tiny(family, torch.float32)
        runs = max(worst(forward(model, r["tokens"])[0][0], r["logits"]) for r in golden["runs"])
        plain = {tuple(c["base"]): forward(model, c["base"])[0][0] for c in golden["cases"]}
        cases, moved = 0.0, []
        for c in golden["cases"]:
            again = run_case(model, {k: c[k] for k in ("name", "base", "source", "edits")})
            cases = max(cases, *(abs(again["logits"][i] - v) for i, v in c["logits"].items()))
            moved.append(max(abs(plain[tuple(c["base"])][int(i)].item() - v) for i, v in c["logits"].items()))
        report(f"tiny {family}, {len(golden['runs'])} runs, f32 against f64", runs, 1e-4)
        report(f"tiny {family}, {len(golden['cases'])} cases, f32 against f64", cases, 1e-4)
        moved.sort()
        print(f"  the cases move logits by {moved[0]:.3g} .. median {moved[len(moved) // 2]:.3g} .. {moved[-1]:.3g}")


def weights_against_transformers(model):
    """transformers' own GGUF loader, which shares no code with `smollm2_weights`."""
    from transformers import AutoModelForCausalLM

    path = ref.gguf_path()
    other = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).state_dict()
    report(
        "weights against transformers' GGUF loader", max(worst(w, other[n]) for n, w in model.state_dict().items()), 0
    )


def check(model, folder):
    import check_sites

    check_sites.check()
    hooks_do_what_they_say(model)
    tiny_f32_against_f64(folder)
    weights_against_transformers(model)
    f32_against_f64(model, folder)
