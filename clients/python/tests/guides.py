"""The code of the guides: what is in each fence, and how it is run."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pathlib
import re
import subprocess
from dataclasses import dataclass
from typing import Any

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Languages whose fences are run, or say why not.
CODE = ("python", "console", "curl", "json", "page")
ADDRESS = re.compile(r"(localhost|127\.0\.0\.1):8080")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


@dataclass
class Fence:
    page: str
    line: int
    language: str
    how: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[pathlib.Path]:
    """What people read and the server shows."""
    return [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "clients/python/README.md", ROOT / "openapi/examples/README.md"]


def fences(page: pathlib.Path) -> list[Fence]:
    """The fences of a page in order."""
    name, text = str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")
    found: list[Fence] = []
    for match in re.finditer(r"(?ms)^```([^\n]*)\n(.*?)^```$", text):
        language, _, how = match[1].strip().partition(" ")
        found.append(Fence(name, text.count("\n", 0, match.start()) + 1, language, how, match[2]))
    return found


def complaint(fence: Fence) -> str | None:
    """What is wrong with a fence that says neither how it is run nor why it is not."""
    if fence.language == "output":
        return None if fence.how in ("", "of=python", "of=console") else "is of no language"
    if fence.language not in CODE:
        return None if fence.language == "text" else "must name its language: python, console, curl, json, page, or text"
    wanted = {"json": r"post=/v1/\w+", "python": "run", "page": "run"}.get(fence.language, "run|fails")
    if re.fullmatch(rf'{wanted}|norun="[^"]{{4,}}"', fence.how):
        return None
    return "must say run (json: post=/v1/…), or norun=\"why\""


class Runner:
    """Runs the fences of one page, whose Python shares its names."""

    def __init__(self, url: str, folder: pathlib.Path, program: str) -> None:
        self.url, self.folder = url, folder
        self.names: dict[str, Any] = {"__name__": "guide"}
        self.said: dict[str, str] = {}
        bin = folder / "bin"
        bin.mkdir()
        (bin / "mediant").symlink_to(program)
        for shared in ("openapi", "clients"):
            (folder / shared).symlink_to(ROOT / shared)
        # An answer of 400 or more is a failure, and progress is not of interest.
        (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
        self.environment = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "MEDIANT_SERVER": url, "NO_COLOR": "1", "CURL_HOME": str(folder)}

    def run(self, fence: Fence) -> None:
        # Links of the lab page are opened by tests/page.
        if fence.how.startswith("norun") or fence.language == "page":
            return
        text = ADDRESS.sub(self.url.removeprefix("http://"), fence.text)
        if fence.language == "python":
            self.said["python"] = self.said["last"] = self.python(text, str(fence))
        elif fence.language in ("console", "curl"):
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=self.environment, capture_output=True, text=True)
            assert (done.returncode != 0) == (fence.how == "fails"), f"{fence} ended with {done.returncode}:\n{done.stderr}"
            self.said["console"] = self.said["last"] = done.stdout
        elif fence.language == "json":
            answer = httpx.post(self.url + fence.how.removeprefix("post="), content=text, headers={"content-type": "application/json"}, timeout=300)
            assert answer.status_code < 300, f"{fence}: {answer.text}"
        elif fence.language == "output":
            of = fence.how.removeprefix("of=") or "last"
            assert same(fence.text, self.said[of]), f"{fence}: said\n{self.said[of]}"

    def python(self, text: str, place: str) -> str:
        """What it prints, and as in a notebook the value of a last expression."""
        tree = ast.parse(text, place)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.chdir(self.folder) if hasattr(contextlib, "chdir") else inside(self.folder):
            exec(compile(tree, place, "exec"), self.names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), place, "eval"), self.names)
                if value is not None:
                    print(value)
        return out.getvalue()


@contextlib.contextmanager
def inside(folder: pathlib.Path):  # Python 3.10 has no contextlib.chdir
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def same(expected: str, said: str) -> bool:
    """Whether texts agree: numbers within a thousandth, `…` for anything, spaces as they come."""
    text, shape, at = " ".join(expected.split()), "", 0
    for match in re.finditer(f"{NUMBER.pattern}|…", text):
        shape += re.escape(text[at : match.start()]) + (".*?" if match[0] == "…" else f"({NUMBER.pattern})")
        at = match.end()
    shape += re.escape(text[at:])
    found = re.fullmatch(shape, " ".join(said.split()))
    if found is None:
        return False
    numbers = [float(text) for text in NUMBER.findall(text)]
    return all(abs(a - float(b)) <= 1e-3 * max(1.0, abs(a)) for a, b in zip(numbers, found.groups(), strict=True))
