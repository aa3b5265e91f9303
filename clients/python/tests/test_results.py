"""Results are the server's own numbers, whichever way they are asked for."""

from __future__ import annotations

import asyncio
import io
import threading
import warnings

import httpx
import mediant
import numpy as np
import pandas as pd
import pytest

BODY = {"prompt": "hello world today", "subject": "world", "target": " x"}
CASES = [BODY | {"id": "a"}, {"prompt": "big world now", "subject": "world", "target": " y", "id": "b"}]
SWEEP = {"dataset": {"inline": CASES}, "corrupt": {"samples": 2}, "filters": {"expect_top1": False}}
# A call of the client, and the request that it stands for.
CALLS = {
    "run": ((), {"prompts": {"a": "hello", "b": "NA null"}, "target": " x"}, {"runs": {"a": {"prompt": "hello"}, "b": {"prompt": "NA null"}}, "target": " x"}),
    "patch": (("hello world", "hello there", " x"), {}, {"base": "hello world", "source": "hello there", "target": " x"}),
    "trace": (("hello world today", "world", " x"), {"arms": ["hidden", "mlp"], "samples": 3}, BODY | {"arms": ["hidden", "mlp"], "corrupt": {"samples": 3}}),
    "sweep": ((CASES,), {"samples": 2, "keep_wrong": True}, SWEEP),
}
pytestmark = pytest.mark.filterwarnings("ignore::mediant.LintWarning")


def call(lab: mediant.Client, kind: str) -> mediant.Result:
    arguments, fields, _ = CALLS[kind]
    return getattr(lab, kind)(*arguments, **fields)


def server_file(url: str, kind: str, format: str) -> bytes:
    answer = httpx.post(f"{url}/v1/{kind}", params={"format": format}, json=CALLS[kind][2], timeout=120)
    return answer.raise_for_status().content


@pytest.mark.parametrize("kind", CALLS)
def test_df_is_the_servers_csv(lab: mediant.Client, url: str, kind: str) -> None:
    # From 3.1 on pandas reads every number exactly, and to ask for it is deprecated.
    exact = {"float_precision": "round_trip"} if pd.__version__.startswith(("2.", "3.0.")) else {}
    table = pd.read_csv(io.BytesIO(server_file(url, kind, "csv")), keep_default_na=False, na_values=[""], **exact)
    result = call(lab, kind)
    # Exactly: the text of each number is read as Python reads it.
    pd.testing.assert_frame_equal(result.df, table, check_exact=True)
    column = "effect" if "effect" in table else "mean" if "mean" in table else "value"
    np.testing.assert_array_equal(result.df[column], [float(row[column] or "nan") for row in result.rows])
    assert len(result.rows) == len(table) > 0
    assert len(result.top(3)) > 0


@pytest.mark.parametrize("kind", CALLS)
def test_arrays_are_the_servers_npz(lab: mediant.Client, url: str, kind: str) -> None:
    held = np.load(io.BytesIO(server_file(url, kind, "npz")))
    result = call(lab, kind)
    assert set(result.arrays) == set(held.files)
    for name in held.files:
        if name != "metadata":  # it has the id of the result
            np.testing.assert_array_equal(result.arrays[name], held[name], err_msg=name)


def test_array_by_metric_and_arm(lab: mediant.Client) -> None:
    trace = call(lab, "trace")
    assert trace.arms == ["hidden", "mlp"]
    for arm in trace.arms:
        for of in ("effect", "value"):
            told = trace.document["arms"][arm][of + "s"]["logprob:target"]["mean"]
            np.testing.assert_array_equal(trace.array("logprob:target", arm=arm, of=of), np.array(told, dtype=float))
    patch = call(lab, "patch")
    np.testing.assert_array_equal(patch.array(), np.array(patch["effects"]["prob:target"], dtype=float))
    with pytest.raises(mediant.MediantError, match="mlp/prob:target/effect_mean"):
        trace.array("prob:nothing")
    sweep = call(lab, "sweep")
    assert sweep.arms == ["hidden"]
    assert sweep.array().ndim == 2
    assert len(sweep.table("cases")) == 2


@pytest.mark.parametrize("kind", CALLS)
def test_plot_and_save(lab: mediant.Client, tmp_path, kind: str) -> None:
    result = call(lab, kind)
    picture = tmp_path / "own.png"
    result.plot().savefig(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert result.save(tmp_path / "x.csv").read_bytes() == result.file("csv")
    assert np.load(result.save(tmp_path / "x.npz")).files
    assert '"request"' in result.save(tmp_path / "x.json").read_text()
    if kind != "run":
        assert b"<svg" in result.save(tmp_path / "x.svg").read_bytes()


@pytest.mark.parametrize("kind", CALLS)
def test_plotly_draws_the_same_numbers(lab: mediant.Client, kind: str) -> None:
    result = call(lab, kind)
    figure = result.plot(backend="plotly")
    assert figure.to_json()
    first = figure.data[0]
    if kind == "trace":
        np.testing.assert_array_equal(first.z, result.array(arm="hidden"))
        # Two tokens of one text are two columns.
        assert len(set(first.x)) == result.array(arm="hidden").shape[1] > len(set(figure.layout.xaxis.ticktext))
    elif kind == "run":
        assert list(first.x) == [token["prob"] for token in result["runs"]["a"]["topk"]][:10]
    elif kind == "patch":
        np.testing.assert_array_equal(first.y, result.array())
    else:
        known = {float(value) for value in result.df["mean"]}
        assert {float(value) for line in figure.data for value in line.y} <= known
    if kind == "run":
        ran = lab.run("hello", lens=True)
        np.testing.assert_array_equal(ran.lens().plot(backend="plotly").data[0].z[0][0], ran["runs"]["run"]["logit_lens"]["topk"][0][0][0]["prob"])
    with pytest.raises(mediant.MediantError, match="plotly"):
        result.plot(backend="gnuplot")


def test_cells_say_what_the_server_says(lab: mediant.Client) -> None:
    trace = lab.trace("hello world today", "world", " x", samples=3, arms=["hidden", "mlp"], cells=[{"arm": "mlp", "layer": 1, "position": -1}], topk=2)
    (cell,) = trace["cells"]
    table = trace.cells
    assert list(table["id"]) == [token["id"] for token in cell["tokens"]]
    np.testing.assert_array_equal(table["value"], [token["prob"]["mean"] for token in cell["tokens"]])
    np.testing.assert_array_equal(table["corrupted"], [token["corrupted"]["mean"] for token in cell["tokens"]])
    np.testing.assert_array_equal(trace.arrays["cells/prob"][0], table["value"])
    # The rows of metrics are those of a trace that names no cell.
    plain = lab.trace("hello world today", "world", " x", samples=3, arms=["hidden", "mlp"])
    assert [{name: row[name] for name in plain.rows[0]} for row in trace.rows if not row["id"]] == plain.rows
    with pytest.raises(mediant.MediantError, match="names no cells"):
        _ = plain.cells


def test_link_leads_to_the_job_on_the_page(lab: mediant.Client, url: str) -> None:
    result = call(lab, "run")
    assert result.link == f"{url}/#/jobs/{result.job}"


@pytest.mark.parametrize("kind", CALLS)
def test_async_equals_sync(lab: mediant.Client, url: str, kind: str) -> None:
    async def ask():
        async with mediant.AsyncClient(url) as client:
            arguments, fields, _ = CALLS[kind]
            result = await getattr(client, kind)(*arguments, **fields)
            if kind != "run":
                assert b"<svg" in await client.picture(result)
            assert await client.file(result, "csv") == result.file("csv")
            return result

    awaited, blocking = asyncio.run(ask()), call(lab, kind)
    assert type(awaited) is type(blocking)
    pd.testing.assert_frame_equal(awaited.df, blocking.df, check_exact=True)
    for name, array in blocking.arrays.items():
        if name != "metadata":
            np.testing.assert_array_equal(awaited.arrays[name], array)
    with pytest.raises(mediant.MediantError, match="await"):
        awaited.file("safetensors")


def test_two_clients_at_once(lab: mediant.Client, url: str) -> None:
    alone = {kind: call(lab, kind).df for kind in CALLS}
    found: dict[tuple[int, str], pd.DataFrame] = {}

    def work(number: int) -> None:
        with mediant.Client(url) as client:
            for kind in CALLS:
                found[number, kind] = call(client, kind).df

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 2 * len(CALLS)
    for (_, kind), table in found.items():
        pd.testing.assert_frame_equal(table, alone[kind], check_exact=True)


def test_lens(lab: mediant.Client, tmp_path) -> None:
    lens = lab.lens("hello", layers=[0, 2], topk=3, target=" x")
    assert lens.array().shape == (2, 6)
    assert lens.array("prob:target").shape == (2, 6)
    assert len(lens.df) == 2 * 6 * 3
    assert (lens.top().groupby(["layer", "position"]).size() == 1).all()
    lens.plot().savefig(tmp_path / "lens.png")
    assert len(pd.read_csv(lens.save(tmp_path / "lens.csv"))) == len(lens.df)


STEERED = {"branches": {"plain": [], "other": [{"site": "resid_post", "layers": 1, "positions": {"steps": "all"}, "op": "scale", "factor": 2}]}}


def test_texts(lab: mediant.Client, url: str, tmp_path) -> None:
    fields = {**STEERED, "max_tokens": 4, "samples": 2, "temperature": 1.0, "seed": 3}
    texts = lab.generate("hello", **fields)
    assert texts.document["request"]["sampling"] == {"temperature": 1.0, "seed": 3}
    assert list(texts.texts) == ["plain", "other"] and len(texts.texts["plain"]) == 2
    assert texts.text == texts.texts["plain"][0]
    assert len(texts.df) == 4 and (texts.df["tokens"] > 0).all() and (texts.df["mean_logprob"] < 0).all()
    assert len(pd.read_csv(texts.save(tmp_path / "texts.csv"))) == 4
    texts.plot().savefig(tmp_path / "texts.png")
    heard: list[mediant.Event] = []
    streamed = lab.generate("hello", heard=heard.append, **fields)
    assert streamed.texts == texts.texts
    pieces = [event.data for event in heard if event.name == "token"]
    grown = "".join(piece["text"] for piece in pieces if piece["branch"] == "other" and piece["sample"] == 1)
    assert grown == texts.texts["other"][1]
    assert [heard[0].name, heard[-1].name] == ["start", "result"]
    assert lab.plan("generate", "hello", max_tokens=4)["allowed"]

    async def ask():
        async with mediant.AsyncClient(url) as client:
            return await client.generate("hello", **fields), await client.generate("hello", heard=heard.append, **fields)

    for awaited in asyncio.run(ask()):
        assert awaited.texts == texts.texts
    for more in ({}, {"heard": heard.append}):
        with pytest.raises(mediant.InvalidRequest, match=r"max_tokens= .*\n.*fix: "):
            lab.generate("hello", max_tokens=-1, **more)


def test_activations(lab: mediant.Client) -> None:
    held = lab.capture("hello", "resid_post", layers=[1, 3])
    assert held.array.shape == (2, 6, 64)
    again = lab.activation(held.id, positions=[0, 5])
    np.testing.assert_array_equal(again.array, held.array[:, [0, 5]])
    stored = lab.upload(held.array[:, 5], "resid_post", layers=[1, 3], name="mine")
    np.testing.assert_array_equal(lab.activation(stored.id).array[:, 0], held.array[:, 5])
    write = {"site": "resid_post", "layers": [1], "positions": "last"}
    base = {"base": {"prompt": "there"}}
    steered = lab.patch("base", runs=base, target=" x", interventions=[write | {"op": "replace", "source": stored}])
    assert np.isfinite(steered.array("prob:target", of="value")).all()
    assert stored.id in {one["id"] for one in lab.activations()["activations"]}
    lab.forget(stored.id)
    with pytest.raises(mediant.NotFound):
        lab.activation(stored.id)


def test_means_are_sources(lab: mediant.Client) -> None:
    mean = lab.mean("resid_post", ["hello", "there"], layers=[1], positions="last")
    each = [lab.capture(prompt, "resid_post", layers=[1], positions="last").array for prompt in ("hello", "there")]
    np.testing.assert_allclose(lab.activation(mean.id).array, np.mean(each, axis=0), atol=1e-5)
    apart = lab.mean("resid_post", ["hello"], minus=["there"], layers=[1], positions="last")
    np.testing.assert_allclose(lab.activation(apart.id).array, each[0] - each[1], atol=1e-5)
    write = {"site": "resid_post", "layers": 1, "positions": "last", "op": "mean", "source": mean}
    assert np.isfinite(lab.patch("base", runs={"base": {"prompt": "hello"}}, target=" x", interventions=[write]).array("prob:target"))


def test_data_sets(lab: mediant.Client, tmp_path) -> None:
    view = lab.dataset(CASES, name="two")
    assert lab.dataset(pd.DataFrame(CASES))["id"] == view["id"]
    assert [case["id"] for case in lab.cases(view["id"])] == ["a", "b"]
    assert view["id"] in {one["id"] for one in lab.datasets()}
    stored = lab.sweep(view, samples=2, keep_wrong=True)
    pd.testing.assert_frame_equal(stored.df, call(lab, "sweep").df, check_exact=True)
    pd.DataFrame(CASES).to_csv(tmp_path / "cases.csv", index=False)
    assert mediant.read_cases(tmp_path / "cases.csv") == CASES
    lab.forget(view["id"])


def test_small_calls(lab: mediant.Client) -> None:
    assert lab.tokenize("hello")["ids"][1:] == list(b"hello")
    assert lab.align("hello world", "hello there")["model"] == "dummy:tiny"
    assert lab.plan("trace", "hello world today", "world", " x")["allowed"]
    assert lab.plan("sweep", CASES, samples=2, keep_wrong=True)["cost"]["rows"] > 0
    assert lab.version()["name"] == "mediant"
    assert lab.models()["models"]


def test_notebooks_show_a_picture_and_the_remarks(lab: mediant.Client) -> None:
    shown = call(lab, "trace")._repr_html_()
    assert "<svg" in shown and "SMALL_N" in shown and "<script" not in shown


def test_another_version_of_the_server_is_said_once() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"lints": [], "provenance": {"server": "9.9.9"}, "branches": {}})

    lab = mediant.Client("http://x:1", transport=httpx.MockTransport(answer))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lab.generate("a")
        lab.generate("a")
    assert [str(one.message) for one in said] == ["the server is mediant 9.9.9 and this client 0.1.0: pip install http://x:1/clients/mediant-9.9.9-py3-none-any.whl"]
    assert said[0].filename == __file__


def test_lints_warn_once_at_the_users_line(url: str) -> None:
    with mediant.Client(url) as lab, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trace = lab.trace(**BODY)
        first = len(said)
        lab.trace(**BODY)
    assert first == len(said) == len(trace.lints) > 0
    assert {w.category for w in said} == {mediant.LintWarning}
    assert {w.filename for w in said} == {__file__}
    with mediant.Client(url) as lab, warnings.catch_warnings():
        warnings.simplefilter("error", mediant.LintWarning)
        with pytest.raises(mediant.LintWarning, match="Fix:"):
            lab.trace(**BODY)
