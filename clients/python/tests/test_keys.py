"""A server that needs keys."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import mediant
import pytest
from conftest import serving

Tokens = dict[str, str]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Tokens]]:
    folder = tmp_path_factory.mktemp("guarded")

    def token(owner: str, scopes: str) -> str:
        command = [os.environ["MEDIANT_BIN"], "key", "create", "--owner", owner, "--scopes", scopes, "--data-dir", str(folder / "data")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    tokens = {"alice": token("alice", "run,sweep,upload"), "bob": token("bob", "run,sweep"), "reader": token("alice", "upload")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIANT__AUTH__KEYS", "on")
        with serving("dummy:tiny", folder) as url:
            yield url, tokens


def test_a_key_is_an_argument_or_in_the_environment(guarded: tuple[str, Tokens], monkeypatch: pytest.MonkeyPatch) -> None:
    url, tokens = guarded
    monkeypatch.delenv("MEDIANT_KEY", raising=False)
    with mediant.Client(url, key=tokens["alice"]) as lab:
        assert lab.run("Rome is in", target="I").document["runs"]
    monkeypatch.setenv("MEDIANT_KEY", tokens["alice"])
    with mediant.Client(url) as lab:
        assert lab.run("Rome is in", target="I").document["runs"]


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [(None, 401, "missing_key"), ("mdt_wrong", 401, "malformed_key"), ("reader", 403, "missing_scope")],
)
def test_without_a_key_that_may_the_error_says_what_to_do(
    guarded: tuple[str, Tokens], monkeypatch: pytest.MonkeyPatch, key: str | None, status: int, code: str
) -> None:
    url, tokens = guarded
    monkeypatch.delenv("MEDIANT_KEY", raising=False)
    with mediant.Client(url, key=tokens.get(key or "", key)) as lab, pytest.raises(mediant.Unauthorized) as caught:
        lab.run("Rome is in", target="I")
    error = caught.value
    assert error.status == status
    assert error.errors[0]["code"] == code
    assert "fix: " in str(error)
    assert ("MEDIANT_KEY" in str(error)) == (status == 401)
    assert tokens["reader"] not in str(error)


def test_jobs_belong_to_the_owner(guarded: tuple[str, Tokens]) -> None:
    url, tokens = guarded
    with mediant.Client(url, key=tokens["alice"]) as alice, mediant.Client(url, key=tokens["bob"]) as bob:
        job = alice.submit("run", "Rome is in")
        with pytest.raises(mediant.NotFound):
            bob.job(job.id)
        assert alice.job(job.id).id == job.id
        assert not list(bob.jobs())
