"""What is generated is up to date, and the notebook runs."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
from conftest import serving

HERE = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("script", ["generate_types", "generate_sync"])
def test_generated_files_are_up_to_date(script: str) -> None:
    subprocess.run([sys.executable, str(HERE / "scripts" / f"{script}.py"), "--check"], check=True)


def test_numpy_and_httpx_are_enough() -> None:
    loaded = "import mediant, sys; print(sorted({'pandas', 'matplotlib', 'typing_extensions'} & set(sys.modules)))"
    code = f"import httpx, numpy, sys; before = set(sys.modules)\n{loaded.replace('set(sys.modules)', '(set(sys.modules) - before)')}"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_the_notebook_on_the_default_model(tmp_path: pathlib.Path) -> None:
    notebook = HERE / "examples" / "notebook.py"
    assert len(notebook.read_text().splitlines()) <= 40
    with serving("smollm2-135m", tmp_path) as url:
        done = subprocess.run([sys.executable, str(notebook)], env=os.environ | {"MEDIANT_SERVER": url}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The examples of the repository say what the model makes of this pun: P(" current") is small after the pun.
    assert "'pun': 0.000" in done.stdout
    assert "LintWarning: TARGET_NOT_TOP1" in done.stderr
    for name in ("lens", "patch", "trace", "averages"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
