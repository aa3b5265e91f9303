"""What calls give: the server's document, its table as a data frame, its arrays, a figure."""

from __future__ import annotations

import csv
import io
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from . import errors, plots, types

if TYPE_CHECKING:
    import pandas as pd

D = TypeVar("D", bound=Mapping[str, Any])
Array = npt.NDArray[Any]
Fetch = Callable[[str, Mapping[str, Any]], bytes]


def file_key(what: str, parameters: Mapping[str, Any]) -> str:
    """By what a result remembers a file."""
    return what + json.dumps(parameters, sort_keys=True)


def pandas() -> Any:
    """The package, or an error that says how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise errors.Missing("data frames need pandas: pip install 'mediant[pandas]'; `.rows` is the same table without it") from error
    return pandas


def frame(table: bytes) -> pd.DataFrame:
    """The server's CSV as a data frame. A token such as `NA` or `null` stays text; only an empty cell is missing."""
    package = pandas()
    # From 3.1 on numbers are always read exactly, and to ask for it is deprecated.
    old = tuple(int(part) for part in package.__version__.split(".")[:2]) < (3, 1)
    exact = {"float_precision": "round_trip"} if old else {}
    return package.read_csv(io.BytesIO(table), keep_default_na=False, na_values=[""], **exact)


def arrays(file: bytes) -> dict[str, Array]:
    """The arrays of an npz file."""
    with np.load(io.BytesIO(file), allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


class Result(Generic[D]):
    """A result. It belongs to a job, whose files the server keeps for a while; each is fetched once, when it is asked for."""

    def __init__(self, job: str, document: D, fetch: Fetch | None, files: Mapping[str, bytes] | None = None, server: str = "") -> None:
        self.job = job
        # Where the lab page shows it.
        self.link = f"{server.rstrip('/')}/#/jobs/{job}"
        self.document: D = document
        self._fetch = fetch
        self._files: dict[str, bytes] = dict(files or {})
        self._arrays: dict[str, Array] | None = None

    def __getitem__(self, name: str) -> Any:
        return self.document[name]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.document['model']}, {self.job}: {', '.join(lint['code'] for lint in self.lints) or 'no lints'}>"

    @property
    def lints(self) -> list[types.Lint]:
        """The server's remarks."""
        return self.document["lints"]

    @property
    def request(self) -> dict[str, Any]:
        """The request in its long form."""
        return self.document["request"]

    def file(self, format: str, **parameters: Any) -> bytes:
        """The result as a file: `csv`, `npz`, `safetensors`; of a sweep also `jsonl` and `parquet`, with `table=`."""
        parameters = {"format": format, **parameters}
        return self._get("result", parameters)

    def picture(self, format: str = "svg", **parameters: Any) -> bytes:
        """The server's own picture, `svg` or `png`. Its parameters (`metric=`, `kind=`, …) are passed as they are."""
        return self._get("plot", {"format": format, **parameters})

    def _get(self, what: str, parameters: Mapping[str, Any]) -> bytes:
        key = file_key(what, parameters)
        if key not in self._files:
            if self._fetch is None:
                raise errors.MediantError(f"an async result holds csv and npz only: await client.file(result, {parameters}) or client.picture(…)")
            self._files[key] = self._fetch(f"/v1/jobs/{self.job}/{what}", parameters)
        return self._files[key]

    @property
    def rows(self) -> list[dict[str, str]]:
        """The server's table without pandas: a dict of texts for each row."""
        return list(csv.DictReader(io.StringIO(self.file("csv").decode())))

    @property
    def df(self) -> pd.DataFrame:
        """The server's table (its CSV) as a data frame."""
        return frame(self.file("csv"))

    @property
    def arrays(self) -> dict[str, Array]:
        """All arrays of the result by the names that the server's npz file has."""
        if self._arrays is None:
            self._arrays = arrays(self.file("npz"))
        return self._arrays

    @property
    def metrics(self) -> list[str]:
        """The metrics in order."""
        return list(self.request.get("metrics") or [])

    @property
    def arms(self) -> list[str]:
        """Names of the arms; none where a result has none."""
        # A sweep's file has its averages beside columns of every cell.
        averaged = "averages/" if any(name.startswith("averages/") for name in self.arrays) else ""
        found = (re.fullmatch(f"{averaged}([^/]+)/exact_null", name) for name in self.arrays)
        return [match[1] for match in found if match]

    def array(self, metric: str | None = None, arm: str | None = None, of: str = "effect") -> Array:
        """One quantity as an array, its axes those of the map: of a trace layers x positions.

        `of` is `effect`, `value`, `recovery`, `effect_se`, … (`normalised` of a patch); `metric` and `arm` are the first ones
        if left out. A full name of `arrays` is taken too. What is undefined is NaN.
        """
        if metric in self.arrays:
            return self.arrays[metric]
        if metric is None:
            if not self.metrics:
                raise errors.MediantError("the request names no metric; give target= or metrics=")
            metric = self.metrics[0]
        if arm is None:
            arm = next(iter(self.arms), "")
        mean = "mean" if of == "effect" else of
        names = [f"{arm}/{metric}/{of}_mean", f"{arm}/{metric}/{of}", f"averages/{arm}/{metric}/{mean}", f"{of}s/{metric}", f"{of}/{metric}", f"{arm}/{metric}"]
        for name in names:
            if name in self.arrays:
                return self.arrays[name]
        raise errors.MediantError(f"no array for metric={metric!r}, arm={arm!r}, of={of!r}; arrays has {', '.join(self.arrays)}")

    def top(self, n: int = 10, metric: str | None = None) -> pd.DataFrame:
        """The `n` strongest rows of one metric (the first if left out), whatever their sign; without columns that are empty."""
        table: Any = self.df
        column = "effect" if "effect" in table else "mean"
        rows: Any = table[table["metric"] == (metric or self.metrics[0])]
        return rows.sort_values(column, key=abs, ascending=False, kind="stable").head(n).reset_index(drop=True).dropna(axis="columns", how="all")

    def plot(self, metric: str | None = None, *, backend: plots.Backend = "matplotlib", **options: Any) -> Any:
        """A figure of matplotlib, or with `backend="plotly"` of plotly."""
        return plots.drawn_by(backend).maps(self, metric, **options)

    def save(self, path: str | pathlib.Path, **parameters: Any) -> pathlib.Path:
        """Writes the result as its suffix says: .json, .csv, .npz, .safetensors, .parquet, .jsonl; .svg and .png as the server draws them."""
        path = pathlib.Path(path)
        format = path.suffix[1:]
        if format == "json":
            path.write_text(json.dumps(self.document, ensure_ascii=False), encoding="utf-8")
        else:
            path.write_bytes(self.picture(format, **parameters) if format in ("svg", "png") else self.file(format, **parameters))
        return path

    def _repr_html_(self) -> str:
        from html import escape

        said = "".join(f"<li><b>{escape(lint['code'])}</b> {escape(lint['detail'])}. {escape(lint['fix'])}</li>" for lint in self.lints)
        try:
            # Static: it stays in notebooks that are exported. Some results have no picture.
            drawn = "" if self._fetch is None else self.picture().decode()
        except errors.MediantError:
            drawn = ""
        return f"<p>{escape(repr(self))}</p>{drawn}<ul>{said}</ul>"


class Run(Result[types.RunResponse]):
    """What runs gave. `df` has metrics and top tokens of every run, told apart by `kind`."""

    def top(self, n: int = 10, metric: str | None = None) -> pd.DataFrame:
        """The `n` most probable tokens of each run."""
        table: Any = self.df
        rows: Any = table[(table["kind"] == "topk") & (table["rank"] <= n)]
        return cast("pd.DataFrame", rows[["run", "rank", "id", "token", "logprob", "prob"]].reset_index(drop=True))

    def metric(self, metric: str | None = None) -> dict[str, float | None]:
        """One metric of every run."""
        name = metric or self.metrics[0]
        return {run: held["metrics"][name] for run, held in self.document["runs"].items()}

    def lens(self, run: str | None = None) -> Lens:
        """The logit lens of one run (the first if left out)."""
        run = run or next(iter(self.document["runs"]))
        held = self.document["runs"][run].get("logit_lens")
        if held is None:
            raise errors.MediantError("this run has no logit lens; ask for it with lens=True")
        return Lens(run, held, self.document["runs"][run]["tokens"])

    def plot(self, metric: str | None = None, *, backend: plots.Backend = "matplotlib", **options: Any) -> Any:
        """Bars of the most probable tokens of each run."""
        return plots.drawn_by(backend).tokens(self, **options)


class Lens:
    """What the residual stream would predict at each layer and position."""

    def __init__(self, run: str, document: types.LensResult, tokens: list[types.Token]) -> None:
        self.run = run
        self.document = document
        self.tokens = tokens

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each layer, position and rank."""
        found: list[dict[str, Any]] = []
        for layer, of_layer in zip(self.document["layers"], self.document["topk"], strict=True):
            for position, cell in zip(self.document["positions"], of_layer, strict=True):
                for token in cell or ():
                    at = {"layer": layer, "position": position, "at": self.tokens[position]["text"]}
                    found.append({**at, "rank": token["rank"], "id": token["id"], "token": token["text"], "logprob": token["logprob"], "prob": token["prob"]})
        return found

    @property
    def df(self) -> pd.DataFrame:
        """`rows` as a data frame."""
        return pandas().DataFrame(self.rows)

    def array(self, name: str = "entropy") -> Array:
        """`entropy`, or a metric, as layers x positions; what is undefined is NaN."""
        values = self.document["entropy"] if name == "entropy" else self.document["metrics"][name]
        return np.array(values, dtype=np.float64)

    def top(self, n: int = 1) -> pd.DataFrame:
        """The `n` most probable tokens of each cell."""
        table: Any = self.df
        return cast("pd.DataFrame", table[table["rank"] <= n].reset_index(drop=True))

    def plot(self, *, backend: plots.Backend = "matplotlib", **options: Any) -> Any:
        """A grid of the most probable tokens."""
        return plots.drawn_by(backend).lens(self, **options)

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes the lens as .csv or .json."""
        return write(path, self.document, self.rows)


def write(path: str | pathlib.Path, document: Mapping[str, Any], rows: list[dict[str, Any]]) -> pathlib.Path:
    """Writes what is no job's result, which the server keeps no files of."""
    path = pathlib.Path(path)
    if path.suffix == ".json":
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
    else:
        raise errors.MediantError(f"this is written as .csv or .json, not {path.suffix!r}; a figure: .plot().savefig(…)")
    return path


class Patch(Result[types.PatchResponse]):
    """What a patch gave."""


class Trace(Result[Any]):
    """What a trace gave: a `TraceResponse`, or with `cases` a `CasesResponse`."""

    @property
    def cells(self) -> pd.DataFrame:
        """What the model says with the cells that `cells=` names: tokens with their probability there, in the clean and in the corrupted run."""
        if not self.document.get("cells"):
            raise errors.MediantError('the request names no cells; ask for them with cells=[{"layer": 5, "position": 3}]')
        table: Any = self.df
        return table[table["id"].notna()].dropna(axis="columns", how="all").reset_index(drop=True)


class Sweep(Result[types.SweepOutcome]):
    """What a sweep gave. `df` are its averages; `table` has the others."""

    @property
    def metrics(self) -> list[str]:
        """The metrics in order."""
        return list(self.document["metrics"])

    def table(self, name: str) -> pd.DataFrame:
        """`averages`, `cells`, `cases`, `differences` or `top`."""
        return frame(self.file("csv", table=name))

    def plot(self, metric: str | None = None, *, backend: plots.Backend = "matplotlib", **options: Any) -> Any:
        """Averages along the layers, with their confidence intervals."""
        return plots.drawn_by(backend).averages(self, metric, **options)


class Texts:
    """What the model wrote."""

    def __init__(self, document: types.GenerateResponse) -> None:
        self.document = document

    def __getitem__(self, name: str) -> Any:
        document: Any = self.document
        return document[name]

    def __repr__(self) -> str:
        return f"<Texts of {self.document['model']}: {', '.join(self.texts)}>"

    @property
    def lints(self) -> list[types.Lint]:
        """The server's remarks."""
        return self.document["lints"]

    @property
    def texts(self) -> dict[str, list[str]]:
        """The texts of every branch, without the prompt."""
        return {branch: [text["text"] for text in held["samples"]] for branch, held in self.document["branches"].items()}

    @property
    def text(self) -> str:
        """The only text, or the first of the first branch."""
        return next(iter(self.texts.values()))[0]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each text: its branch, its number, why it ended, and its mean log-probability, in nats a token."""
        found: list[dict[str, Any]] = []
        for branch, held in self.document["branches"].items():
            for sample, text in enumerate(held["samples"]):
                known = [token.get("logprob") for token in text["tokens"]]
                numbers = [value for value in known if value is not None]
                mean = sum(numbers) / len(numbers) if numbers and len(numbers) == len(known) else None
                found.append({"branch": branch, "sample": sample, "text": text["text"], "finish": text["finish"], "tokens": len(known), "mean_logprob": mean})
        return found

    @property
    def df(self) -> pd.DataFrame:
        """`rows` as a data frame."""
        return pandas().DataFrame(self.rows)

    def plot(self, *, backend: plots.Backend = "matplotlib", **options: Any) -> Any:
        """The log-probability of every token, a line for each text."""
        return plots.drawn_by(backend).texts(self, **options)

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes the texts as .csv or .json."""
        return write(path, self.document, self.rows)


class Activation:
    """Activations that the server keeps; wherever a request takes a source, this may be given."""

    def __init__(self, document: Mapping[str, Any], held: Mapping[str, Array] | None = None) -> None:
        self.document = dict(document)
        self.id: str = document.get("id") or document["activation"]
        self._held = held

    def __repr__(self) -> str:
        return f"<Activation {self.id}: {self.document['site']}, {self.document['shape']}>"

    def source_form(self) -> dict[str, str]:
        """How requests name it."""
        return {"activation": self.id}

    @property
    def array(self) -> Array:
        """The numbers, `[layers, positions, width]` as `document["axes"]` says."""
        if self._held is None:
            raise errors.MediantError(f"the numbers were not fetched: client.activation({self.id!r})")
        return self._held["values"]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.array, dtype=dtype)


KINDS: dict[str, type[Result[Any]]] = {"run": Run, "patch": Patch, "trace": Trace, "sweep": Sweep, "generate": Result}


def read_cases(path: str | pathlib.Path) -> list[dict[str, str]]:
    """Cases of a CSV file with the columns prompt, subject, target, …; empty cells are left out."""
    with pathlib.Path(path).open(newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def safetensors(array: Array) -> bytes:
    """One tensor as the file format of safetensors: the length of a header, the header, the numbers."""
    kind, name = ("<f2", "F16") if array.dtype == np.float16 else ("<f4", "F32")
    held = np.ascontiguousarray(array, dtype=kind).tobytes()
    header = json.dumps({"values": {"dtype": name, "shape": array.shape, "data_offsets": [0, len(held)]}}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + held
