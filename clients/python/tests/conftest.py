"""A server for the tests: the program that MEDIANT_BIN names."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import mediant
import pytest


@contextmanager
def serving(model: str, folder: pathlib.Path, *more: str) -> Iterator[str]:
    log = folder / "log"
    command = [os.environ["MEDIANT_BIN"], "serve", "--model", model, "--listen", "127.0.0.1:0", "--data-dir", str(folder / "data"), *more]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and server.poll() is None:
            found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
            if found and ready(found[0]):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"no server: {log.read_text()[-2000:]}")
        yield found[0]
    finally:
        server.terminate()
        server.wait(30)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving("dummy:tiny", tmp_path_factory.mktemp("tiny")) as found:
        yield found


@pytest.fixture
def lab(url: str) -> Iterator[mediant.Client]:
    with mediant.Client(url) as client:
        yield client
