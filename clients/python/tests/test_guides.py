"""Every piece of code in the guides is run against the default model, or says why not."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Iterator

import matplotlib
import mediant
import pytest
from conftest import serving
from guides import Fence, Runner, complaint, fences, pages, same


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving("smollm2-135m", tmp_path_factory.mktemp("guides")) as url:
        yield url


def test_every_fence_is_run_or_says_why_not() -> None:
    found = [fence for page in pages() for fence in fences(page)]
    assert not [f"{fence} {complaint(fence)}" for fence in found if complaint(fence)]
    assert sum(fence.how == "run" or fence.how.startswith("post=") for fence in found) > 30


@pytest.mark.parametrize("page", [page for page in pages() if any(fence.how and not fence.how.startswith("norun") for fence in fences(page))], ids=lambda page: page.stem)
def test_the_code_runs(served: str, page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    matplotlib.use("Agg")
    runner = Runner(served, tmp_path, os.path.abspath(os.environ["MEDIANT_BIN"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mediant.LintWarning)
        for fence in fences(page):
            runner.run(fence)


def test_what_the_runner_would_miss() -> None:
    assert same("a 0.656\n…\n", "a  0.6561\nmore\nlines") and not same("a 0.656", "a 0.666") and not same("a 1 …", "b 1 x")
    for language, how in [("", ""), ("python", ""), ("json", "run"), ("bash", "run"), ("console", 'norun=""')]:
        assert complaint(Fence("x", 1, language, how, "")), (language, how)


def test_code_that_fails_is_a_failure(tmp_path: pathlib.Path) -> None:
    runner = Runner("http://127.0.0.1:9", tmp_path, "/nowhere")
    with pytest.raises(ZeroDivisionError):
        runner.run(Fence("x", 1, "python", "run", "1 / 0"))
    with pytest.raises(AssertionError, match="ended with"):
        runner.run(Fence("x", 1, "console", "run", "false | cat"))
    runner.run(Fence("x", 1, "python", "run", "1 + 1"))
    with pytest.raises(AssertionError, match="said"):
        runner.run(Fence("x", 1, "output", "", "3"))
