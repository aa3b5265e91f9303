"""All calls, without any I/O.

Each call is a generator. It yields what is to be done (a request, an event stream to read, a pause) and is sent what came
of it. `_async.py` has the loop that does it; `_sync.py` is made
from it. So the two clients cannot differ.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

import httpx

from . import bars, errors, types
from ._events import Event

T = TypeVar("T")
OVER = ("succeeded", "failed", "cancelled")
LONGEST_PAUSE = 10.0


@dataclass
class Request:
    """One request."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    # Whether it may be sent again when it is not known what became of it.
    again: bool = True


@dataclass
class Listen:
    """An event stream to read; `heard` gets each event. With a body, the answer to that request is the stream."""

    path: str
    after: int
    heard: Callable[[Event], None]
    json: Any = None


@dataclass
class Pause:
    """Seconds to wait."""

    seconds: float


@dataclass
class Lost:
    """No answer came."""

    error: httpx.TransportError


Step: TypeAlias = "Request | Listen | Pause"
Call: TypeAlias = Generator[Step, Any, T]


class Events:
    """Reads server-sent events from lines."""

    def __init__(self) -> None:
        self.id: int | None = None
        self.name = "message"
        self.data: list[str] = []

    def line(self, line: str) -> Event | None:
        """The event that this line ends, if it ends one."""
        import json

        if not line:
            event = Event(self.id, self.name, json.loads("\n".join(self.data))) if self.data else None
            self.__init__()
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id" and value.isdigit():
            self.id = int(value)
        elif name == "event":
            self.name = value
        elif name == "data":
            self.data.append(value)
        return None


class Core:
    """What both clients share: how long to wait, and whether the server was ever reached."""

    def __init__(self, patience: float, progress: bool | Callable[[Event], None] | None) -> None:
        self.patience = patience
        self.progress = bars.is_watched() if progress is None else progress
        self.reached = False

    def send(self, request: Request) -> Call[httpx.Response]:
        """Sends a request until there is an answer to it, or patience ends."""
        end = time.monotonic() + self.patience
        pause = 0.1
        while True:
            answer: httpx.Response | Lost = yield request
            if isinstance(answer, Lost):
                unsent = isinstance(answer.error, (httpx.ConnectError, httpx.ConnectTimeout))
                if not self.reached and unsent:
                    raise errors.ConnectionLost(f"no server answers: {answer.error}\n    fix: start it, or give Client(url)") from answer.error
                if not (request.again or unsent):
                    what = f"the connection was lost and {request.method} {request.path} may have been done"
                    raise errors.ConnectionLost(f"{what}: {answer.error}") from answer.error
                error: errors.MediantError = errors.ConnectionLost(f"the server cannot be reached: {answer.error}")
                wait = pause
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self.reached = True
                if answer.status_code < 400:
                    return answer
                error = errors.of(answer)
                # 429 and 503 say that nothing was done.
                if not isinstance(error, errors.Busy):
                    raise error
                wait = pause if error.retry_after is None else error.retry_after
                pause = min(pause * 2, LONGEST_PAUSE)
            if time.monotonic() + wait > end:
                raise error
            yield Pause(wait)

    def json(self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Call[Any]:
        """The JSON of an answer."""
        answer = yield from self.send(Request(method, path, params or {}, body))
        return answer.json() if answer.content else None

    def bytes(self, path: str, params: Mapping[str, Any]) -> Call[bytes]:
        """The body of an answer."""
        return (yield from self.send(Request("GET", path, params))).content

    def submit(self, kind: str, body: Mapping[str, Any], key: str | None = None) -> Call[types.JobView]:
        """Hands a request in as a job. With its key, a repeated request is the same job: nothing is computed twice."""
        headers = {"Prefer": "respond-async", "Idempotency-Key": key or str(uuid.uuid4())}
        answer = yield from self.send(Request("POST", f"/v1/{kind}", {}, body, headers=headers))
        return answer.json()

    def view(self, job: str) -> Call[types.JobView]:
        """A job as it is."""
        return (yield from self.json("GET", f"/v1/jobs/{job}"))

    def follow(self, job: str, heard: Callable[[Event], None] | None = None) -> Call[types.JobView]:
        """Reads a job's events until it is over. A stream that is cut is taken up after the last event."""
        after = 0
        pause = 0.1
        bar = bars.Bar(job) if self.progress is True else None
        listeners = (heard, bar, self.progress if callable(self.progress) else None)

        def hear(event: Event) -> None:
            nonlocal after, pause
            if event.id is not None:
                if event.id <= after:
                    return
                after = event.id
            pause = 0.1
            for listener in listeners:
                if listener is not None:
                    listener(event)

        try:
            while True:
                answer: httpx.Response | Lost | None = yield Listen(f"/v1/jobs/{job}/events", after, hear)
                if isinstance(answer, httpx.Response):
                    error = errors.of(answer)
                    if not isinstance(error, errors.Busy):
                        raise error
                    pause = max(pause, error.retry_after or 0)
                # `send` waits while the server is away, and gives up when patience ends.
                view = yield from self.view(job)
                if view["state"] in OVER:
                    return view
                yield Pause(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            if bar is not None:
                bar.close()

    def generate(self, body: Mapping[str, Any], heard: Callable[[Event], None] | None) -> Call[types.GenerateResponse]:
        """Texts. They are no job: with `heard`, events come as they grow, and a stream that breaks off is an error."""
        if heard is None:
            return (yield from self.json("POST", "/v1/generate", body))
        ends: dict[str, dict[str, Any]] = {}

        def hear(event: Event) -> None:
            if event.name in ("result", "error"):
                ends[event.name] = event.data
            heard(event)

        end = time.monotonic() + self.patience
        while True:
            answer: httpx.Response | Lost | None = yield Listen("/v1/generate", 0, hear, body)
            if "result" in ends:
                return cast("types.GenerateResponse", ends["result"])
            if "error" in ends:
                raise errors.of(httpx.Response(ends["error"]["status"], json=ends["error"]))
            if not isinstance(answer, httpx.Response):
                why = answer.error if isinstance(answer, Lost) else "the stream ended early"
                raise errors.ConnectionLost(f"the texts broke off: {why}")
            error = errors.of(answer)
            wait = 1.0 if error.retry_after is None else error.retry_after
            if not isinstance(error, errors.Busy) or time.monotonic() + wait > end:
                raise error
            yield Pause(wait)

    def wait(self, job: str, heard: Callable[[Event], None] | None = None) -> Call[types.JobView]:
        """Follows a job; a failed one is an error."""
        view = yield from self.follow(job, heard)
        if view["state"] != "succeeded":
            why = view.get("error") or "it was cancelled"
            raise errors.JobFailed(f"{job} {view['state']}: {why}\n    what was computed before: job(\"{job}\").result(partial=True)", view)
        return view


def nest(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A body from arguments: those that stand for a nested field are put there, all others are passed as they are."""
    body: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None or name in errors.SHORT:
            continue
        body[name] = plain(value)
    for name, (outer, inner) in errors.SHORT.items():
        value = fields.get(name)
        if value is not None:
            body[outer] = {**body.get(outer, {}), inner: plain(value)}
    if "keep_wrong" in body:
        body["filters"] = {**body.get("filters", {}), "expect_top1": False if body.pop("keep_wrong") else "target"}
    return body


def plain(value: Any) -> Any:
    """Values of NumPy and pandas, tuples and handles as JSON writes them."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in cast("Sequence[Any]", value)]
    if isinstance(value, range):
        return list(value)
    if hasattr(value, "source_form"):
        return value.source_form()
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def run_body(prompts: Any, lens: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of one prompt, or of several by name."""
    body = nest(fields)
    if isinstance(prompts, Mapping):
        named = cast("Mapping[str, Any]", prompts)
        body["runs"] = {name: {"prompt": run} if isinstance(run, str) else plain(run) for name, run in named.items()}
    elif prompts is not None:
        body["prompt"] = prompts
    if lens is not False and lens is not None:
        body["read"] = {**body.get("read", {}), "logit_lens": {} if lens is True else plain(lens)}
    return body


# Arguments of `generate` that are fields of `sampling`.
DRAWN = ("temperature", "top_k", "top_p", "min_p", "seed", "logit_bias")


def generate_body(prompt: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """`prompt` is a text, or a conversation: a list of messages."""
    body = {name: plain(value) for name, value in fields.items() if value is not None and name not in DRAWN}
    drawn = {name: plain(fields[name]) for name in DRAWN if fields.get(name) is not None}
    if drawn:
        body["sampling"] = {**body.get("sampling", {}), **drawn}
    if prompt is not None:
        body["prompt" if isinstance(prompt, str) else "messages"] = plain(prompt)
    return body


def case_list(cases: Any) -> list[dict[str, Any]]:
    """Cases of a list of objects or of a data frame, whose empty cells are left out."""
    if hasattr(cases, "to_dict"):
        cases = cases.to_dict("records")
    rows = cast("Sequence[Mapping[str, Any]]", cases)
    return [{name: plain(value) for name, value in row.items() if value is not None and value == value} for row in rows]


def dataset_of(cases: Any) -> dict[str, Any]:
    """Cases as requests name them: a stored set by its id or view, texts, a list of objects, or a data frame."""
    if isinstance(cases, str):
        return {"id": cases}
    if isinstance(cases, Mapping):
        # What `dataset()` gave, or the field as the server takes it.
        given = cast("Mapping[str, Any]", cases)
        return {"id": given["id"]} if "id" in given else dict(given)
    if isinstance(cases, (list, tuple)):
        texts = cast("Sequence[Any]", cases)
        cases = [{"prompt": case} if isinstance(case, str) else case for case in texts]
    return {"inline": case_list(cases)}


def sweep_body(cases: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """`cases` are a stored set's id or view, a list of objects, or a data frame."""
    body = nest(fields)
    if cases is not None:
        body["dataset"] = dataset_of(cases)
    return body
