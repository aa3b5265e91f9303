"""What goes wrong is said with its cure, and a lost connection neither loses nor repeats anything."""

from __future__ import annotations

import asyncio
import builtins
import re
import time

import httpx
import mediant
import pytest
from cutting import Proxy
from mediant import bars

# Two of them take a second or so: long enough to be interrupted.
LONG = [{"prompt": f"{i} word " + "and " * 20, "subject": "word", "target": " x"} for i in range(12)]
TRACE = ("hello world today", "world", " x")
pytestmark = pytest.mark.filterwarnings("ignore::mediant.LintWarning")


def test_an_invalid_request_names_field_and_fix(lab: mediant.Client) -> None:
    with pytest.raises(mediant.InvalidRequest) as caught:
        lab.trace("hello", "zzz", " x", samples="many", promt=1)
    text = str(caught.value)
    assert "samples= expected an integer" in text
    assert 'subject= "zzz" does not occur' in text or "promt= no field" in text
    assert text.count("fix: ") == len(caught.value.errors) > 1
    assert caught.value.status == 422


def test_a_notebook_shows_the_users_line_alone(lab: mediant.Client) -> None:
    with pytest.raises(mediant.InvalidRequest) as caught:
        lab.run("hello", topk="many")
    line, text = caught.value._render_traceback_()
    assert line.endswith('lab.run("hello", topk="many")')
    assert text.startswith("InvalidRequest: ") and "fix: " in text


def test_texts_that_break_off_are_an_error(url: str) -> None:
    proxy = Proxy(url, lambda head, said: said.index(b"event: token") + 8 if b"event: token" in said else None)
    with pytest.raises(mediant.ConnectionLost, match="broke off"):
        mediant.Client(proxy.url).generate("hello", max_tokens=4, heard=lambda event: None)


def test_nothing_of_that_name(lab: mediant.Client) -> None:
    with pytest.raises(mediant.NotFound, match="there is no job"):
        lab.job("job_01a22b65ba9e7344a5104b6dd9f7d49e")
    with pytest.raises(ValueError, match="is no experiment"):
        lab.submit("dance")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "InvalidRequest"), (401, "Unauthorized"), (403, "Unauthorized"), (404, "NotFound"), (409, "NotReady"), (410, "NotFound"), (429, "Busy"), (500, "ServerError"), (503, "Busy")],
)
def test_every_status_has_its_error(status: int, kind: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"title": "T", "status": status, "detail": "what"})

    lab = mediant.Client("http://x", patience=0, transport=httpx.MockTransport(answer))
    with pytest.raises(getattr(mediant, kind), match="what"):
        lab.models()


def test_an_answer_that_is_no_problem_is_shown() -> None:
    lab = mediant.Client("http://x", transport=httpx.MockTransport(lambda request: httpx.Response(502, text="bad gateway of nginx")))
    with pytest.raises(mediant.ServerError, match="of nginx"):
        lab.models()


def test_retry_after_is_honoured_and_patience_ends() -> None:
    asked: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(time.monotonic())
        busy = len(asked) < 3
        return httpx.Response(429 if busy else 200, headers={"retry-after": "1"} if busy else {}, json={"models": []})

    assert mediant.Client("http://x", transport=httpx.MockTransport(answer)).models() == {"models": []}
    assert [round(b - a) for a, b in zip(asked, asked[1:], strict=False)] == [1, 1]
    asked.clear()
    with pytest.raises(mediant.Busy) as caught:
        mediant.Client("http://x", patience=0.5, transport=httpx.MockTransport(answer)).models()
    assert caught.value.retry_after == 1


def test_the_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"name": request.headers.get("authorization")})

    transport = httpx.MockTransport(answer)
    monkeypatch.setenv("MEDIANT_KEY", "from-environment")
    assert mediant.Client("http://x", transport=transport).version()["name"] == "Bearer from-environment"
    assert mediant.Client("http://x", "given", transport=transport).version()["name"] == "Bearer given"


def test_no_server() -> None:
    begun = time.monotonic()
    with pytest.raises(mediant.ConnectionLost, match="no server answers"):
        mediant.Client("http://127.0.0.1:9").models()
    assert time.monotonic() - begun < 5


def test_a_job_is_followed_and_called_off(lab: mediant.Client) -> None:
    job = lab.submit("trace", *TRACE, samples=3)
    heard: list[mediant.Event] = []
    assert job.wait(heard.append).state == "succeeded"
    assert {event.name for event in heard} >= {"state", "progress"}
    assert job.result().df.equals(lab.trace(*TRACE, samples=3).df)
    assert job.id in {one.id for one in lab.jobs(kind="trace")}
    slow = lab.submit("sweep", LONG, samples=10, keep_wrong=True)
    with pytest.raises(mediant.NotReady):
        lab._call(lab._core.json("GET", f"/v1/jobs/{slow.id}/result"))
    slow.cancel()
    with pytest.raises(mediant.JobFailed, match="cancelled") as caught:
        slow.wait()
    assert caught.value.job["state"] == "cancelled"


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_a_job_shows_how_far_it_is(lab: mediant.Client, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], with_tqdm: bool) -> None:
    monkeypatch.setattr(bars, "PATIENCE", 0.0)
    if not with_tqdm:
        monkeypatch.setattr(bars, "tqdm", lambda total, job: None)
    with mediant.Client(url, progress=True) as loud:
        job = loud.submit("sweep", LONG[:2], samples=3, keep_wrong=True)
        job.wait()
    said = capsys.readouterr().err
    total = job.view["progress"]["total"]
    assert job.id in said and f"{total}/{total}" in said if with_tqdm else f"100%, {total} of {total} units" in said, said
    # Nobody looks: nothing is written.
    lab.sweep(LONG[:1], samples=2, keep_wrong=True)
    assert not capsys.readouterr().err


def cut_events(times: int):
    left = [times]

    def cut(head: bytes, said: bytes) -> int | None:
        at = said.find(b"id: 2") if b"/events" in head else -1
        if at < 0 or not left[0]:
            return None
        left[0] -= 1
        return at + 3

    return cut


@pytest.mark.parametrize("awaited", [False, True])
def test_a_cut_in_the_middle_of_events_loses_and_repeats_nothing(url: str, awaited: bool) -> None:
    proxy = Proxy(url, cut_events(1))
    heard: list[mediant.Event] = []

    async def ask():
        async with mediant.AsyncClient(proxy.url, progress=heard.append) as client:
            return await client.sweep(LONG[:2], samples=6, keep_wrong=True)

    result = asyncio.run(ask()) if awaited else mediant.Client(proxy.url, progress=heard.append).sweep(LONG[:2], samples=6, keep_wrong=True)
    assert result["complete"]
    with mediant.Client(url) as direct:
        all_events: list[mediant.Event] = []
        direct.job(result.job).wait(all_events.append)
        assert result.df.equals(direct.job(result.job).result().df)
    streams = [head.lower() for head in proxy.requests if b"/events" in head]
    assert [re.search(rb"last-event-id: (\d+)", head)[1] for head in streams] == [b"0", b"1"]
    # The second event was cut in its middle. It is heard once, and in its place.
    assert [event.id for event in heard] == [event.id for event in all_events]
    assert sum(head.startswith(b"POST") for head in proxy.requests) == 1


def test_a_lost_answer_to_a_submit_computes_nothing_twice(url: str) -> None:
    left = [1]

    def cut(head: bytes, said: bytes) -> int | None:
        if head.startswith(b"POST") and left[0]:
            left[0] -= 1
            return 0
        return None

    proxy = Proxy(url, cut)
    with mediant.Client(url) as direct:
        before = {job.id for job in direct.jobs(limit=100)}
        result = mediant.Client(proxy.url).trace("once and only once", "only", " x")
        assert sum(head.startswith(b"POST") for head in proxy.requests) == 2
        assert {job.id for job in direct.jobs(limit=100)} - before == {result.job}


def test_an_upload_that_may_be_done_is_not_repeated(url: str) -> None:
    proxy = Proxy(url, lambda head, said: 0 if head.startswith(b"POST") else None)
    with pytest.raises(mediant.ConnectionLost, match="may have been done"):
        mediant.Client(proxy.url).upload([0.0] * 64, "resid_post", layers=[0])
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("package", ["pandas", "matplotlib", "plotly"])
def test_a_missing_package_is_named(lab: mediant.Client, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    result = lab.run("hello", target=" x")
    real = builtins.__import__

    def without(name: str, *rest):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(mediant.Missing, match="pip install 'mediant"):
        _ = result.df if package == "pandas" else result.plot(backend=package)
    assert result.rows
