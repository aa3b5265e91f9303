"""Causal traces (Meng et al. 2022): windows, NumPy's noise, restored cells, severed sublayers."""

import numpy as np
import torch

import anatomy
from interventions import Edit, forward


def window(centre: int, width: int, layers: int) -> range:
    """The layers restored together around `centre` (ROME's `trace_important_window`)."""
    return range(max(0, centre - width // 2), min(layers, centre - (-width // 2)))


def subject_sigma(model, tokens, span) -> float:
    """Standard deviation (unbiased, f64) over all elements of the span's embeddings."""
    return anatomy.parts(model).embed(torch.tensor(tokens[slice(*span)])).double().std().item()


def legacy_noise(seed: int, samples: int, positions: int, width: int, std: float, draw: int = 0) -> torch.Tensor:
    """`[samples, positions, width]` f32: NumPy's legacy generator in f64, times std in f64, then rounded. `draw` counts
    the same-sized draws made from the generator before."""
    generator = np.random.RandomState(seed)
    draws = [generator.randn(samples, positions, width) for _ in range(draw + 1)]
    return torch.from_numpy((draws[-1] * std).astype(np.float32))


ARM_SITES = {"hidden": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}


def trace(model, tokens, target: int, noise, noised: list[int], arm: str, width: int, centres=None, batched=True):
    """P(target) `[samples, centres, positions]` of runs with `noise[sample]` added to the embeddings at `noised` and
    the clean run's activation restored at one position, in the layers of the window around each centre (all layers)."""
    site, layers = ARM_SITES[arm], anatomy.layers(model)
    centres = range(layers) if centres is None else centres
    _, clean = forward(model, tokens, capture=[(site, layer) for layer in range(layers)])
    count = len(tokens)

    def cell(layer, position, row):
        return [
            Edit(site, k, [position], "replace", clean[site, k][[position]], row=row)
            for k in window(layer, width, layers)
        ]

    out = np.zeros((len(noise), len(centres), count))
    for s, rows in enumerate(noise):
        corrupt = Edit("embed", 0, noised, "add", rows)
        for i, layer in enumerate(centres):
            if batched:
                edits = [e for p in range(count) for e in cell(layer, p, p)]
                logits, _ = forward(model, tokens, [corrupt, *edits], batch=count)
            else:
                runs = [forward(model, tokens, [corrupt, *cell(layer, p, None)])[0] for p in range(count)]
                logits = torch.cat(runs)
            out[s, i] = logits.double().softmax(-1)[:, target].numpy()
    return out


def severed(model, tokens, target: int, noise, noised: list[int], site: str, frozen=None, every_layer=False):
    """P(target) `[samples, layers, positions]` with the clean `resid_post` restored at one (layer, position), while
    `site` (mlp_out or attn_out) of all LATER layers is held, at that same position, at the corrupted run's values.

    ROME's `trace_with_repatch` and `trace_important_states_3` (github.com/kmeng01/rome, experiments/causal_trace.py at
    1758655, notebooks/causal_trace_frozen_mlp_attn.ipynb at 4793540): a first pass with noise alone gives the values, the second restores
    and freezes. ROME freezes every layer at the token, not the later ones alone. With one noise for both passes that
    is the same: up to the restored state the run is the corrupted run. But ROME draws twice from one generator, so
    that its passes differ in noise, and the layers before the restored state matter: `frozen` is the first pass's
    noise, `every_layer` freezes all."""
    layers, count = anatomy.layers(model), len(tokens)
    _, clean = forward(model, tokens, capture=[("resid_post", k) for k in range(layers)])
    out = np.zeros((len(noise), layers, count))
    for s, rows in enumerate(noise):
        first = rows if frozen is None else frozen[s]
        first_pass = [Edit("embed", 0, noised, "add", first)]
        _, held = forward(model, tokens, first_pass, [(site, k) for k in range(layers)])
        for layer in range(layers):
            edits = [Edit("embed", 0, noised, "add", rows)]
            for p in range(count):
                edits.append(Edit("resid_post", layer, [p], "replace", clean["resid_post", layer][[p]], row=p))
                for k in range(0 if every_layer else layer + 1, layers):
                    edits.append(Edit(site, k, [p], "freeze", held[site, k][[p]], row=p))
            logits, _ = forward(model, tokens, edits, batch=count)
            out[s, layer] = logits.double().softmax(-1)[:, target].numpy()
    return out
