"""Figures of matplotlib. The server's own pictures are `result.picture()`; these are for notebooks that go on drawing."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from . import errors

if TYPE_CHECKING:
    from .results import Lens, Result, Run, Sweep, Texts


Backend: TypeAlias = Literal["matplotlib", "plotly"]


def figure(columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure with axes side by side."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise errors.Missing("figures need matplotlib: pip install 'mediant[plot]'; the server draws too: result.picture()") from error
    # pyplot gives notebooks what they show; without a screen it falls back by itself.
    import matplotlib.pyplot as plt

    fig: Figure = plt.figure(figsize=(width * columns, height), layout="constrained")
    drawn: Any = fig.subplots(1, columns, squeeze=False, sharey=True)
    plt.close(fig)
    return fig, list(drawn[0])


def shown(token: str) -> str:
    """A token whose spaces can be seen."""
    # A dollar sign would begin a formula.
    return token.replace(" ", "␣").replace("\n", "↵").replace("$", r"\$")


@dataclass
class Maps:
    """What a figure of maps draws."""

    title: str
    arms: dict[str, Any]
    layers: dict[str, Any]
    # Names of the columns.
    raw: list[str]
    size: float

    @property
    def flat(self) -> bool:
        """Whether there are layers only."""
        return all(values.ndim == 1 for values in self.arms.values())


def held_maps(result: Result[Any], metric: str | None, of: str) -> Maps:
    """The maps of a result, on one symmetric scale."""
    metric = metric or result.metrics[0]
    arms = {arm: result.array(metric, arm or None, of) for arm in result.arms or [""]}
    for values in arms.values():
        if values.ndim not in (1, 2):
            raise errors.MediantError(f"a map of {values.ndim} axes cannot be drawn; see .array and .picture()")
    size = max((float(np.nanmax(np.abs(a), initial=0.0)) for a in arms.values()), default=0.0) or 1.0
    layers = {arm: result.arrays[f"{arm}/layers" if arm else "layers"] if has_layers(result, arm) else None for arm in arms}
    return Maps(f"{of} on {metric}", arms, layers, positions(result), size)


def maps(result: Result[Any], metric: str | None, of: str = "effect", cmap: str = "RdBu_r") -> Any:
    """A map of each arm on one symmetric scale; lines where there are layers only."""
    held = held_maps(result, metric, of)
    fig, axes = figure(1 if held.flat else len(held.arms), 4.5, 4.5)
    labels = [shown(text) for text in held.raw]
    image = None
    for (arm, values), axis in zip(held.arms.items(), axes * len(held.arms) if held.flat else axes, strict=True):
        layers = held.layers[arm]
        if values.ndim == 1:
            axis.plot(np.arange(values.size) if layers is None else layers, values, marker=".", label=arm or None)
            axis.axhline(0, color="gray", lw=0.8)
            axis.set_xlabel("layer")
            axis.set_ylabel(held.title)
            if arm:
                axis.legend()
            continue
        image = axis.imshow(values, origin="lower", aspect="auto", cmap=cmap, vmin=-held.size, vmax=held.size, interpolation="nearest")
        axis.set_title(arm)
        if layers is not None:
            axis.set_yticks(range(len(layers)), [str(layer) for layer in layers]) if len(layers) <= 12 else None
        if len(labels) == values.shape[1]:
            axis.set_xticks(range(len(labels)), labels, rotation=90)
        axis.set_ylabel("layer")
    if image is not None:
        fig.colorbar(image, ax=axes, label=held.title)
    return fig


def has_layers(result: Result[Any], arm: str) -> bool:
    """Whether the map's layers are told."""
    return (f"{arm}/layers" if arm else "layers") in result.arrays


def positions(result: Result[Any]) -> list[str]:
    """Names of the columns of a map: tokens, or token classes."""
    held = result.arrays
    texts = held.get("token_texts", held.get("runs/base/token_texts"))
    at = held.get("positions", held.get(f"{next(iter(result.arms), '')}/positions"))
    if texts is not None and at is not None:
        return [str(texts[int(i)]) for i in at]
    return [str(text) for text in texts] if texts is not None else []


def tokens(run: Run, n: int = 10) -> Any:
    """Bars of the most probable tokens of each run."""
    runs: dict[str, Any] = {name: held for name, held in run.document["runs"].items()}
    fig, axes = figure(len(runs), 3.5, 0.3 * n + 1)
    for axis, (name, held) in zip(axes, runs.items(), strict=True):
        best: list[Any] = (held["topk"] or [])[:n]
        # Rank and not token: two tokens may look alike.
        axis.barh(range(len(best)), [token["prob"] for token in best])
        for rank, token in enumerate(best):
            axis.text(token["prob"], rank, " " + shown(token["text"]), va="center")
        axis.set_title(name)
        axis.set_xlabel("probability")
        axis.set_xlim(0, 1.25 * max((token["prob"] for token in best), default=1))
    axes[0].set_yticks(range(n), [str(rank + 1) for rank in range(n)])
    axes[0].invert_yaxis()
    return fig


def lens(held: Lens) -> Any:
    """The most probable token of each cell, coloured by its probability."""
    layers, at = held.document["layers"], held.document["positions"]
    cells = held.document["topk"]
    probs = np.array([[cell[0]["prob"] if cell else np.nan for cell in row] for row in cells], dtype=np.float64)
    fig, axes = figure(1, max(4.0, 0.9 * len(at) + 1.5), max(3.0, 0.25 * len(layers) + 1))
    image = axes[0].imshow(probs, origin="lower", aspect="auto", cmap="Blues", vmin=0, vmax=1)
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            if cell:
                axes[0].text(x, y, shown(cell[0]["text"]), ha="center", va="center", size=7, color="white" if probs[y, x] > 0.6 else "black")
    axes[0].set_xticks(range(len(at)), [shown(held.tokens[i]["text"]) for i in at], rotation=90)
    axes[0].set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes[0].set_ylabel("layer")
    fig.colorbar(image, ax=axes, label="probability")
    return fig


def held_texts(held: Texts) -> list[tuple[str, list[Any]]]:
    """Every text with its name and its tokens."""
    found: list[tuple[str, list[Any]]] = []
    for branch, of in held.document["branches"].items():
        for sample, text in enumerate(of["samples"]):
            found.append((f"{branch} {sample}" if len(of["samples"]) > 1 else branch, list(text["tokens"])))
    return found


def texts(held: Texts) -> Any:
    """The log-probability of every token, a line for each text."""
    fig, axes = figure(1, 7, 4)
    for name, tokens in held_texts(held):
        axes[0].plot(np.array([token.get("logprob") for token in tokens], dtype=np.float64), marker=".", label=name)
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("log-probability, nats")
    axes[0].legend(fontsize=7)
    return fig


def held_averages(sweep: Sweep, metric: str | None, group: str | None) -> dict[str | None, list[tuple[str, Any, Any]]]:
    """Of each arm its lines: a name, where the points stand, the rows of the table."""
    metric = metric or sweep.metrics[0]
    table: Any = sweep.df
    table = table[table["metric"] == metric]
    chosen = table["group"].isna() if group is None else table["group"] == group
    if group is not None and not chosen.any():
        raise errors.MediantError(f"no averages of group {group!r}; there are {', '.join(sorted(set(table['group'].dropna())))}")
    table = table[chosen] if chosen.any() else table
    arms: list[Any] = list(dict.fromkeys(table["arm"])) if table["arm"].notna().any() else [None]
    keys = [key for key in ("token_class", "position", "head") if table[key].notna().any()]
    found: dict[str | None, list[tuple[str, Any, Any]]] = {}
    for arm in arms:
        rows = table if arm is None else table[table["arm"] == arm]
        lines = rows.groupby(keys, sort=False, dropna=False) if keys else [((), rows)]
        found[arm] = []
        for key, line in lines:
            name = " ".join(str(part) for part in (key if isinstance(key, tuple) else (key,)))
            x = line["layer"] if table["layer"].notna().any() else range(len(line))
            found[arm].append((name, x, line))
    return found


def averages(sweep: Sweep, metric: str | None, group: str | None = None) -> Any:
    """Averages along the layers with their confidence intervals, a line for each token class or other key; of all cases, or of one group."""
    arms = held_averages(sweep, metric, group)
    fig, axes = figure(len(arms), 4.5, 4)
    for axis, (arm, lines) in zip(axes, arms.items(), strict=True):
        for name, x, line in lines:
            axis.plot(x, line["mean"], marker=".", label=name or None)
            axis.fill_between(x, line["ci_low"].astype(float), line["ci_high"].astype(float), alpha=0.2)
        axis.axhline(0, color="gray", lw=0.8)
        axis.set_title(arm or "")
        axis.set_xlabel("" if any(isinstance(x, range) for _, x, _ in lines) else "layer")
    axes[0].set_ylabel(f"mean effect on {metric or sweep.metrics[0]}")
    if any(name for lines in arms.values() for name, _, _ in lines):
        axes[-1].legend(fontsize=7)
    return fig


def drawn_by(backend: str) -> Any:
    """The module that draws."""
    if backend == "matplotlib":
        return sys.modules[__name__]
    if backend == "plotly":
        from . import plotly_plots

        return plotly_plots
    raise errors.MediantError(f'backend={backend!r} is not known; write "matplotlib" or "plotly"')
