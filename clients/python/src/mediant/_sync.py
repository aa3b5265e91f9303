"""The client that blocks. Made from _async.py by scripts/generate_sync.py."""

from __future__ import annotations

import os
import ssl
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

import httpx
import numpy as np
import numpy.typing as npt

from . import errors, results, types
from ._core import Call, Core, Event, Events, Listen, Lost, Pause, Request, Step, dataset_of, generate_body, nest, run_body, sweep_body

T = TypeVar("T")
VERSION = "0.1.0"
HERE = os.path.dirname(__file__)


class Client:
    """A mediant server. Arguments that a method does not name are fields of the request and passed as they are.

    `patience` is how many seconds calls go on when the server is away or too busy. A job that is waited for shows how far it is, in a
    terminal and in a notebook: `progress=False` never does, `progress=True` always; a function hears every event instead.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience: float = 60.0,
        timeout: float = 600.0,
        progress: bool | Callable[[Event], None] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        key = key or os.environ.get("MEDIANT_KEY")
        headers = {"user-agent": f"mediant-python/{VERSION}"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        base = url or os.environ.get("MEDIANT_SERVER", "http://127.0.0.1:8080")
        # The certificate of who vouches for the server's, where that is nobody whom this machine knows.
        authority = os.environ.get("MEDIANT_CA_CERT")
        verify = ssl.create_default_context(cafile=authority) if authority else True
        self._http = httpx.Client(base_url=base, headers=headers, timeout=httpx.Timeout(timeout, connect=10.0), transport=transport, verify=verify)
        self._core = Core(patience, progress)
        self._said: set[tuple[str, str, str]] = set()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._http.base_url}>"

    # -- what generators ask for ---------------------------------------------------------------------------------------

    def _do(self, step: Step) -> httpx.Response | Lost | None:
        try:
            if isinstance(step, Request):
                sent = {"json": step.json} if step.json is not None else {"content": step.content}
                return self._http.request(step.method, step.path, params=step.params, headers=step.headers, **cast("Any", sent))
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                return None
            return self._listen(step)
        except httpx.TransportError as error:
            return Lost(error)

    def _listen(self, step: Listen) -> httpx.Response | None:
        headers = {"Last-Event-ID": str(step.after), "accept": "text/event-stream", "accept-encoding": "identity"}
        method = "GET" if step.json is None else "POST"
        # The server sends a sign of life every few seconds.
        with self._http.stream(method, step.path, headers=headers, json=step.json, timeout=httpx.Timeout(60.0)) as answer:
            if answer.status_code >= 400:
                answer.read()
                return answer
            events = Events()
            for line in answer.iter_lines():
                event = events.line(line)
                if event is not None:
                    step.heard(event)
        return None

    def _call(self, call: Call[T]) -> T:
        try:
            step = next(call)
            while True:
                step = call.send(self._do(step))
        except StopIteration as end:
            return cast("T", end.value)
        finally:
            call.close()

    # -- experiments ---------------------------------------------------------------------------------------------------

    def run(self, prompts: str | Mapping[str, Any] | None = None, *, lens: bool | Mapping[str, Any] = False, **fields: Any) -> results.Run:
        """Runs one prompt, or several by name: metrics, top tokens, with `lens=True` the logit lens."""
        return cast("results.Run", self._experiment("run", run_body(prompts, lens, fields)))

    def lens(self, prompt: str, *, layers: Any = None, positions: Any = "all", topk: int | None = None, **fields: Any) -> results.Lens:
        """The logit lens of one prompt."""
        wanted = {name: value for name, value in (("layers", layers), ("positions", positions), ("topk", topk)) if value is not None}
        return (self.run(prompt, lens=wanted, **fields)).lens()

    def patch(self, base: Any = None, source: Any = None, target: Any = None, **fields: Any) -> results.Patch:
        """Puts states of `source` into `base`: in short the last position's, layer by layer."""
        return cast("results.Patch", self._experiment("patch", nest({"base": base, "source": source, "target": target, **fields})))

    def trace(self, prompt: str | None = None, subject: Any = None, target: Any = None, **fields: Any) -> results.Trace:
        """Breaks the answer by noise on the subject, and puts clean states back one at a time; with `cases=` for many prompts."""
        return cast("results.Trace", self._experiment("trace", nest({"prompt": prompt, "subject": subject, "target": target, **fields})))

    def sweep(self, cases: Any = None, **fields: Any) -> results.Sweep:
        """A grid over cases (a list, a data frame, the id of a stored set), averaged. `keep_wrong=True` keeps cases that the model answers otherwise."""
        return cast("results.Sweep", self._experiment("sweep", sweep_body(cases, fields)))

    def generate(self, prompt: str | Sequence[Mapping[str, Any]] | None = None, *, heard: Callable[[Event], None] | None = None, **fields: Any) -> results.Texts:
        """Continues a prompt, or answers a list of messages; `interventions=` or `branches=` say what is written into the model.

        `temperature=`, `top_p=`, `top_k=`, `min_p=` and `seed=` stand for fields of `sampling`. `heard` gets events as the texts grow.
        """
        document = self._remarked(self._core.generate(generate_body(prompt, fields), heard))
        return results.Texts(document)

    def plan(self, kind: str, *arguments: Any, **fields: Any) -> types.PlanResponse:
        """A dry run: what `run`, `patch`, `trace`, `sweep` or `generate` with these arguments would do and cost."""
        return self._call(self._core.json("POST", "/v1/plan", {kind: body_of(kind, arguments, fields)}))

    def tokenize(self, prompt: str | None = None, **fields: Any) -> types.TokenizeResponse:
        """A prompt's tokens and spans."""
        return self._remarked(self._core.json("POST", "/v1/tokenize", nest({"prompt": prompt, **fields})))

    def align(self, a: Any = None, b: Any = None, **fields: Any) -> types.AlignResponse:
        """The diff of two prompts and the map of positions that follows from it."""
        return self._remarked(self._core.json("POST", "/v1/align", nest({"a": a, "b": b, **fields})))

    def models(self) -> types.Models:
        """The models served."""
        return self._call(self._core.json("GET", "/v1/models"))

    def version(self) -> types.Release:
        """The server's version."""
        return self._call(self._core.json("GET", "/v1/version"))

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def submit(self, kind: str, *arguments: Any, idempotency_key: str | None = None, **fields: Any) -> Job:
        """Hands `run`, `patch`, `trace` or `sweep` in as a job and does not wait. One key is one job, however often it is sent."""
        view = self._call(self._core.submit(kind, body_of(kind, arguments, fields), idempotency_key))
        return Job(self, view)

    def job(self, id: str) -> Job:
        """A job by its id."""
        return Job(self, self._call(self._core.view(id)))

    def jobs(self, **filters: Any) -> list[Job]:
        """The latest jobs; `state=`, `kind=`, `limit=`, `before=` choose among them."""
        found: types.JobList = self._call(self._core.json("GET", "/v1/jobs", params=filters))
        return [Job(self, view) for view in found["jobs"]]

    def _experiment(self, kind: str, body: Mapping[str, Any]) -> results.Result[Any]:
        view = self._call(self._core.submit(kind, body))
        return Job(self, view).result()

    def _result(self, view: types.JobView, partial: bool) -> results.Result[Any]:
        parameters = {"partial": "true"} if partial else {}
        path = f"/v1/jobs/{view['id']}/result"
        document: dict[str, Any] = self._call(self._core.json("GET", path, params=parameters))
        files = self._files(path, parameters)
        found = results.KINDS[view["kind"]](view["id"], document, self._fetch(), files, str(self._http.base_url))
        self._remark(document)
        return found

    def _files(self, path: str, parameters: Mapping[str, Any]) -> dict[str, bytes]:
        return {}

    def _fetch(self) -> results.Fetch | None:
        return lambda path, parameters: self._call(self._core.bytes(path, parameters))

    def file(self, result: results.Result[Any], format: str, **parameters: Any) -> bytes:
        """A result as a file: `csv`, `npz`, `safetensors`; of a sweep also `jsonl` and `parquet`, with `table=`."""
        return self._call(self._core.bytes(f"/v1/jobs/{result.job}/result", {"format": format, **parameters}))

    def picture(self, result: results.Result[Any], format: str = "svg", **parameters: Any) -> bytes:
        """The server's own picture of a result, `svg` or `png`."""
        return self._call(self._core.bytes(f"/v1/jobs/{result.job}/plot", {"format": format, **parameters}))

    # -- activations and data sets -------------------------------------------------------------------------------------

    def capture(self, prompt: str, site: types.Site, *, layers: Any = "all", positions: Any = "all", dtype: str | None = None, **fields: Any) -> results.Activation:
        """Activations of one prompt as NumPy; the server keeps them, so that requests can name them as a source."""
        wanted = nest({"site": site, "layers": layers, "positions": positions, "dtype": dtype, "as": "handle"})
        ran = self._experiment("run", run_body(prompt, False, {**fields, "capture": [wanted]}))
        (run,) = ran.document["runs"].values()
        return self._held(run["captures"][0])

    def upload(self, array: npt.ArrayLike, site: types.Site, *, layers: Any = None, positions: Any = None, **fields: Any) -> results.Activation:
        """Stores `[width]`, `[layers, width]` or `[layers, positions, width]`, in f32 unless the array is float16."""
        numbers = np.asarray(array)
        parameters = {"site": site, "layers": listed(layers), "positions": listed(positions), **fields}
        parameters = {name: value for name, value in parameters.items() if value is not None}
        headers = {"content-type": "application/octet-stream"}
        request = Request("POST", "/v1/activations", parameters, content=results.safetensors(numbers), headers=headers, again=False)
        document: types.Activation = (self._call(self._core.send(request))).json()
        return results.Activation(document, {"values": numbers})

    def mean(self, site: types.Site, cases: Any, *, minus: Any = None, layers: Any = None, positions: Any = None, **fields: Any) -> results.Activation:
        """The mean of a site over prompts, which the server computes and keeps; with `minus`, a difference of means.

        Prompts are texts, cases as `sweep` takes them, or a stored set. The result may be a source; `activation(id)` has its numbers.
        """
        of = {"dataset": dataset_of(cases), "minus": None if minus is None else dataset_of(minus), "positions": positions}
        body = nest({"site": site, "layers": layers, "mean_of": {name: value for name, value in of.items() if value is not None}, **fields})
        return results.Activation(self._call(self._core.json("POST", "/v1/activations", body)))

    def activation(self, id: str, **selection: Any) -> results.Activation:
        """A stored set with its numbers; `layers=`, `positions=`, `heads=`, `reduce=`, `cosine=` choose or reduce them."""
        document: types.Activation = self._call(self._core.json("GET", f"/v1/activations/{id}"))
        return self._held(document, {name: listed(value) for name, value in selection.items()})

    def _held(self, document: Mapping[str, Any], selection: Mapping[str, Any] | None = None) -> results.Activation:
        found = results.Activation(document)
        file = self._call(self._core.bytes(f"/v1/activations/{found.id}", {"format": "npz", **(selection or {})}))
        return results.Activation(document, results.arrays(file))

    def activations(self, **page: Any) -> types.ActivationList:
        """What is stored."""
        return self._call(self._core.json("GET", "/v1/activations", params=page))

    def forget(self, id: str) -> None:
        """Deletes stored activations or a stored data set by its id."""
        kind = "datasets" if id.startswith("ds_") else "activations"
        self._call(self._core.json("DELETE", f"/v1/{kind}/{id}"))

    def dataset(self, cases: Any, name: str | None = None) -> types.DatasetView:
        """Stores cases; equal ones are stored once. `sweep` takes what this gives."""
        body = sweep_body(cases, {})["dataset"]["inline"]
        return self._call(self._core.json("POST", "/v1/datasets", body, {"name": name} if name else {}))

    def datasets(self) -> list[types.DatasetView]:
        """The stored data sets, without their cases."""
        found: types.DatasetList = self._call(self._core.json("GET", "/v1/datasets"))
        return found["datasets"]

    def cases(self, id: str) -> list[types.CaseForm]:
        """The cases of a stored data set."""
        import json

        held = self._call(self._core.bytes(f"/v1/datasets/{id}", {}))
        return [json.loads(line) for line in held.decode().splitlines() if line]

    # -- remarks -------------------------------------------------------------------------------------------------------

    def _remarked(self, call: Call[Any]) -> Any:
        document = self._call(call)
        self._remark(document)
        return document

    def _remark(self, document: Mapping[str, Any]) -> None:
        """Each remark once for each client, at the user's line; and that the server is of another version."""
        level, frame = 2, sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        while frame.f_back is not None and frame.f_code.co_filename.startswith(HERE):
            level, frame = level + 1, frame.f_back
        for lint in cast("Sequence[types.Lint]", document["lints"]):
            mark = (lint["code"], lint["where"], lint["detail"])
            if mark not in self._said:
                self._said.add(mark)
                warnings.warn(errors.LintWarning(lint), stacklevel=level)
        server = document.get("provenance", {}).get("server", VERSION)
        if server != VERSION and ("version", "", server) not in self._said:
            self._said.add(("version", "", server))
            wheel = f"{str(self._http.base_url).rstrip('/')}/clients/mediant-{server}-py3-none-any.whl"
            warnings.warn(f"the server is mediant {server} and this client {VERSION}: pip install {wheel}", stacklevel=level)


class Job:
    """A job. It goes on whatever becomes of this program; `client.job(id)` finds it again."""

    def __init__(self, client: Client, view: types.JobView) -> None:
        self._client = client
        self.view = view
        self.id: str = view["id"]

    def __repr__(self) -> str:
        progress = self.view["progress"]
        return f"<{type(self).__name__} {self.id}: {self.view['kind']}, {self.view['state']}, {progress['done']} of {progress['total']}>"

    @property
    def state(self) -> str:
        """Its state when last seen; `refresh` looks again."""
        return self.view["state"]

    def refresh(self) -> Job:
        """Looks at it again."""
        self.view = self._client._call(self._client._core.view(self.id))  # pyright: ignore[reportPrivateUsage]
        return self

    def wait(self, heard: Callable[[Event], None] | None = None) -> Job:
        """Waits until it is over; `heard` gets its events. A cut connection is taken up after the last event."""
        try:
            self.view = self._client._call(self._client._core.wait(self.id, heard))  # pyright: ignore[reportPrivateUsage]
        except KeyboardInterrupt:
            print(f'the job goes on: client.job("{self.id}"); .cancel() cancels it', file=sys.stderr)
            raise
        return self

    def result(self, *, partial: bool = False) -> results.Result[Any]:
        """Waits for its result; with `partial`, what a sweep has found so far."""
        if not partial:
            self.wait()
        return self._client._result(self.view, partial)  # pyright: ignore[reportPrivateUsage]

    def cancel(self, *, purge: bool = False) -> Job:
        """Cancels it; with `purge`, a job that is over is forgotten."""
        call = self._client._core.json("DELETE", f"/v1/jobs/{self.id}", params={"purge": "true"} if purge else {})  # pyright: ignore[reportPrivateUsage]
        self.view = self._client._call(call)  # pyright: ignore[reportPrivateUsage]
        return self


def body_of(kind: str, arguments: Sequence[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The body that the method of this name would send."""
    names = {"run": ("prompts",), "patch": ("base", "source", "target"), "trace": ("prompt", "subject", "target"), "sweep": ("cases",), "generate": ("prompt",)}
    if kind not in names:
        raise ValueError(f"{kind!r} is no experiment; it is one of {', '.join(names)}")
    given = {**dict(zip(names[kind], arguments, strict=False)), **fields}
    if kind == "run":
        return run_body(given.pop("prompts", None), given.pop("lens", False), given)
    if kind == "generate":
        return generate_body(given.pop("prompt", None), given)
    # A trace has `cases` too, as a field of its own.
    return sweep_body(given.pop("cases", None), given) if kind == "sweep" else nest(given)


def listed(value: Any) -> Any:
    """Layers or positions as query parameters write them: `0,4`."""
    if isinstance(value, (list, tuple, range)):
        return ",".join(str(part) for part in cast("Sequence[Any]", value))
    return value
