"""The wheel that the server writes: pip takes it, and it is what a build of the package gives."""

from __future__ import annotations

import email
import email.message
import os
import pathlib
import subprocess
import sys
import zipfile

import httpx
import mediant
from packaging.requirements import Requirement

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
NAME = "mediant-0.1.0-py3-none-any.whl"


def pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PIP_CONFIG_FILE": os.devnull})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pip_installs_it_by_its_address_and_by_the_index(url: str, tmp_path: pathlib.Path) -> None:
    # What it needs is there already.
    pip("install", "--no-deps", "--target", str(tmp_path / "address"), f"{url}/clients/{NAME}")
    pip("install", "--no-deps", "--target", str(tmp_path / "index"), "--index-url", f"{url}/clients/", "mediant")
    for place in ("address", "index"):
        code = "import mediant, sys; print(mediant.__file__); print(mediant.Client(sys.argv[1]).version()['name'])"
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / place)}
        done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, env=environment, cwd=tmp_path)
        file, name = done.stdout.split()
        assert file.startswith(str(tmp_path / place)) and name == "mediant", done.stderr


def test_it_is_what_a_build_gives(url: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / NAME).write_bytes(httpx.get(f"{url}/clients/{NAME}").content)
    pip("wheel", "--no-deps", "--wheel-dir", str(tmp_path / "built"), str(PACKAGE))
    served, built = zipfile.ZipFile(tmp_path / NAME), zipfile.ZipFile(tmp_path / "built" / NAME)
    assert served.testzip() is None
    assert set(served.namelist()) == set(built.namelist())
    info = "mediant-0.1.0.dist-info/"
    for file in served.namelist():
        if not file.startswith(info):
            assert served.read(file) == built.read(file), file
    ours, theirs = (email.message_from_bytes(wheel.read(f"{info}METADATA")) for wheel in (served, built))
    for field in ("Name", "Version", "Summary", "Requires-Python", "Description-Content-Type"):
        assert ours[field] == theirs[field], field
    assert set(ours.get_all("Provides-Extra")) == set(theirs.get_all("Provides-Extra"))
    for extra in ("", *ours.get_all("Provides-Extra")):
        assert needed(ours, extra) == needed(theirs, extra) and needed(ours, extra), extra
    assert ours.get_payload() == theirs.get_payload()
    assert set(mediant.__all__) <= set(dir(mediant))


def needed(metadata: email.message.Message, extra: str) -> set[tuple[str, str, str]]:
    """What a package with an extra needs; extras that name others of their own are followed."""
    found: set[tuple[str, str, str]] = set()
    for text in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            if requirement.name == metadata["Name"]:
                found.update(*(needed(metadata, other) for other in requirement.extras))
            else:
                found.add((requirement.name, str(sorted(requirement.extras)), str(requirement.specifier)))
    return found
