"""The figures of `plots` as plotly draws them: they zoom, and say what is under the pointer. Axes are positions, labels are tokens."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import errors, plots

if TYPE_CHECKING:
    from .results import Lens, Result, Run, Sweep, Texts


def figure(columns: int, titles: list[str], **options: Any) -> Any:
    """A figure with axes side by side."""
    try:
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise errors.Missing('figures of plotly need it: pip install \'mediant[plotly]\'; .plot() without backend="plotly" uses matplotlib') from error
    return make_subplots(rows=1, cols=columns, subplot_titles=titles, shared_yaxes=True, **options)


def shown(token: str) -> str:
    """A token whose spaces can be seen, and that is no markup."""
    return token.replace("&", "&amp;").replace("<", "&lt;").replace(" ", "␣").replace("\n", "↵")


def maps(result: Result[Any], metric: str | None, of: str = "effect") -> Any:
    """A map of each arm on one symmetric scale; lines where there are layers only."""
    held = plots.held_maps(result, metric, of)
    drawn = figure(1 if held.flat else len(held.arms), [] if held.flat else [arm or "" for arm in held.arms])
    from plotly import graph_objects as go

    texts = [shown(text) for text in held.raw]
    for column, (arm, values) in enumerate(held.arms.items(), 1):
        layers = held.layers[arm]
        if values.ndim == 1:
            drawn.add_trace(go.Scatter(x=list(range(values.size) if layers is None else layers), y=values, mode="lines+markers", name=arm or held.title))
            drawn.update_layout(xaxis_title="layer", yaxis_title=held.title)
            continue
        rows = list(range(values.shape[0]) if layers is None else layers)
        # A position is a number, so that two tokens of one text stay two columns.
        drawn.add_trace(
            go.Heatmap(
                z=values, x=list(range(values.shape[1])), y=rows, zmin=-held.size, zmax=held.size, colorscale="RdBu_r", showscale=column == 1,
                colorbar={"title": held.title}, customdata=[texts or [""] * values.shape[1]] * len(rows),
                hovertemplate="layer %{y}, position %{x} %{customdata}<br>%{z:.4g}<extra>" + (arm or "") + "</extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
        if len(texts) == values.shape[1]:
            drawn.update_xaxes(tickvals=list(range(len(texts))), ticktext=texts, row=1, col=column)
        drawn.update_yaxes(title="layer" if column == 1 else None, row=1, col=column)
    return drawn


def tokens(run: Run, n: int = 10) -> Any:
    """Bars of the most probable tokens of each run."""
    runs: dict[str, Any] = {name: held.get("topk") or [] for name, held in run.document["runs"].items()}
    drawn = figure(len(runs), list(runs))
    from plotly import graph_objects as go

    for column, best in enumerate(runs.values(), 1):
        best = best[:n]
        bar = go.Bar(
            x=[token["prob"] for token in best], y=[token["rank"] for token in best], text=[shown(token["text"]) for token in best],
            orientation="h", showlegend=False, hovertemplate="%{text}: %{x:.4g}<extra></extra>",
        )  # fmt: skip
        drawn.add_trace(bar, row=1, col=column)
        drawn.update_xaxes(title="probability", row=1, col=column)
    drawn.update_yaxes(autorange="reversed", title="rank", row=1, col=1)
    return drawn


def lens(held: Lens) -> Any:
    """The most probable token of each cell, coloured by its probability."""
    drawn = figure(1, [])
    from plotly import graph_objects as go

    cells = held.document["topk"]
    probs = np.array([[cell[0]["prob"] if cell else np.nan for cell in row] for row in cells], dtype=np.float64)
    best = [[shown(cell[0]["text"]) if cell else "" for cell in row] for row in cells]
    at = [shown(held.tokens[i]["text"]) for i in held.document["positions"]]
    drawn.add_trace(
        go.Heatmap(
            z=probs, x=list(range(len(at))), y=held.document["layers"], text=best, texttemplate="%{text}", colorscale="Blues", zmin=0, zmax=1,
            colorbar={"title": "probability"}, customdata=[at] * len(best), hovertemplate="layer %{y}, after %{customdata}<br>%{text} %{z:.4g}<extra></extra>",
        )
    )  # fmt: skip
    drawn.update_xaxes(tickvals=list(range(len(at))), ticktext=at)
    drawn.update_yaxes(title="layer")
    return drawn


def texts(held: Texts) -> Any:
    """The log-probability of every token, a line for each text."""
    drawn = figure(1, [])
    from plotly import graph_objects as go

    for name, tokens in plots.held_texts(held):
        said = [shown(token["text"]) for token in tokens]
        line = go.Scatter(y=[token.get("logprob") for token in tokens], mode="lines+markers", name=name, text=said, hovertemplate="%{text}: %{y:.4g}<extra></extra>")
        drawn.add_trace(line)
    drawn.update_layout(xaxis_title="step", yaxis_title="log-probability, nats")
    return drawn


def averages(sweep: Sweep, metric: str | None, group: str | None = None) -> Any:
    """Averages along the layers with their confidence intervals, a line for each token class or other key; of all cases, or of one group."""
    arms = plots.held_averages(sweep, metric, group)
    drawn = figure(len(arms), [arm or "" for arm in arms])
    from plotly import colors
    from plotly import graph_objects as go

    palette = colors.qualitative.Safe
    names = list(dict.fromkeys(name for lines in arms.values() for name, _, _ in lines))
    for column, lines in enumerate(arms.values(), 1):
        for name, x, line in lines:
            colour, means = palette[names.index(name) % len(palette)], line["mean"]
            error = {"type": "data", "symmetric": False, "array": line["ci_high"] - means, "arrayminus": means - line["ci_low"]}
            drawn.add_trace(
                go.Scatter(
                    x=list(x), y=means, error_y=error, mode="lines+markers", name=name, legendgroup=name, line_color=colour,
                    showlegend=bool(name) and column == 1,
                ),
                row=1, col=column,
            )  # fmt: skip
    drawn.update_yaxes(title=f"mean effect on {metric or sweep.metrics[0]}", row=1, col=1)
    return drawn
