"""What can go wrong, with the field and the fix."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from typing import Any, cast

import httpx

from . import types

HERE = os.path.dirname(__file__)
# Arguments that stand for a field inside a nested object.
SHORT: dict[str, tuple[str, str]] = {
    "samples": ("corrupt", "samples"),
    "seed": ("corrupt", "seed"),
    "topk": ("read", "topk"),
    "at": ("read", "at"),
    "capture": ("read", "capture"),
    "attention": ("read", "attention"),
    "attribution": ("read", "attribution"),
    "by": ("aggregate", "by"),
}


class LintWarning(UserWarning):
    """A remark of the server about an experiment. `warnings.simplefilter("error", mediant.LintWarning)` makes it an error."""

    def __init__(self, lint: Mapping[str, Any]) -> None:
        self.lint = dict(lint)
        self.code: str = lint["code"]
        self.severity: str = lint["severity"]
        super().__init__(f"{self.code} ({self.severity}, {field(lint['where'])}): {lint['detail']}. Fix: {lint['fix']}")


class MediantError(Exception):
    """Anything that a call could not do."""

    retry_after: float | None = None
    errors: list[types.FieldProblem]
    document: dict[str, Any]

    def __init__(self, message: str, document: Mapping[str, Any] | None = None) -> None:
        self.document = dict(document or {})
        self.errors = self.document.get("errors", [])
        super().__init__(message)

    @property
    def status(self) -> int | None:
        """The HTTP status, if there was an answer."""
        return self.document.get("status")

    def _render_traceback_(self) -> list[str]:
        """What notebooks show: the user's line and what is wrong with it, not our frames."""
        frames = [frame for frame in traceback.extract_tb(self.__traceback__) if not frame.filename.startswith(HERE)]
        line = [f"line {frames[-1].lineno}: {frames[-1].line}"] if frames else []
        return [*line, f"{type(self).__name__}: {self}"]


class InvalidRequest(MediantError):
    """The request is wrong; `errors` says for each field what is wrong and what to write."""


class Unauthorized(MediantError):
    """There is no key, or none that may do this; `status` is 401 or 403, and `errors[0]["code"]` says which it is."""


class NotFound(MediantError):
    """There is no such thing, or it has expired."""


class NotReady(MediantError):
    """The result is not there yet."""


class Busy(MediantError):
    """The server has too much to do; `retry_after` says in how many seconds to come back."""


class ServerError(MediantError):
    """The server failed."""


class JobFailed(MediantError):
    """The job failed or was cancelled; `job` is its last state."""

    def __init__(self, message: str, job: types.JobView) -> None:
        super().__init__(message)
        self.job = job


class ConnectionLost(MediantError):
    """The server cannot be reached."""


class Missing(MediantError, ImportError):
    """An optional package is not installed."""


def field(pointer: str) -> str:
    """A JSON pointer as Python writes it: `/corrupt/samples` is `samples=`, `/runs/a/prompt` is `runs["a"]["prompt"]`."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    if not parts:
        return "the request"
    for name, path in SHORT.items():
        if tuple(parts[:2]) == path:
            parts = [name, *parts[2:]]
            break
    head, *rest = parts
    return head + "".join(f"[{part}]" if part.isdigit() else f'["{part}"]' for part in rest) + ("" if rest else "=")


def retry_after(response: httpx.Response) -> float | None:
    """Seconds of `Retry-After`; None if it is missing or a date."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def of(response: httpx.Response) -> MediantError:
    """The error that an answer of 400 or more stands for."""
    document: dict[str, Any]
    try:
        parsed: Any = response.json()
        document = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
    except ValueError:
        document = {}
    status = response.status_code
    document = {"status": status, "title": response.reason_phrase, **document}
    lines = [f"{document['title']} ({status})"]
    problems: list[types.FieldProblem] = document.get("errors") or []
    for problem in problems:
        lines += [f"  {field(problem['pointer'])} {problem['detail']}", f"    fix: {problem['fix']}"]
    if not problems:
        lines.append(f"  {document.get('detail') or response.text[:500]}")
    kind: type[MediantError] = InvalidRequest
    if status in (401, 403):
        kind = Unauthorized
        if status == 401:
            lines.append("    here: Client(key=…), or MEDIANT_KEY in the environment")
    elif status in (404, 410):
        kind = NotFound
    elif status == 409:
        kind = NotReady
    elif status in (429, 503):
        kind = Busy
    elif status >= 500:
        kind = ServerError
    error = kind("\n".join(lines), document)
    error.retry_after = retry_after(response)
    return error
