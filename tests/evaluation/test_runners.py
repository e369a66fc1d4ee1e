"""Who answers: a model in process and one behind a real server, asked the same questions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from artiagent.config import BenchmarkSet, EvaluationSection, VlmSection
from artiagent.evaluation.runners import SERVED, served_ref
from artiagent.evaluation.stage import predict, score
from artiagent.records import CheckpointRef, Prediction
from artiagent.store import read_rows
from artiagent.vlm.calls import CALLS, account, read_calls
from artiagent.vlm.protocol import VlmUnavailable
from tests.evaluation.conftest import bench_rows
from tests.vlm.fault_proxy import FaultProxy
from tests.vlm.servers import ServerThread, completion, free_port, text_of

NAME = f"{SERVED}org/seer-vl"
BOX = {"boxes": [[16, 16, 48, 48]]}


class Seer:
    """Speaks the API: says yes to every question, points at one box, words one sentence; JSON where it is asked for.

    `bodies` are what was sent, `root` is what it says of the weights.
    """

    def __init__(self, logprobs: bool = False) -> None:
        self.logprobs = logprobs
        self.bodies: list[dict[str, Any]] = []
        self.root = "weights-1"

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            entry = {"id": "org/seer-vl", "root": self.root, "created": time.time_ns(), "owned_by": "us"}
            return web.json_response({"data": [{"id": "other"}, entry]})
        body = await request.json()
        self.bodies.append(body)
        said = answer_in(task_of(body), json_form="response_format" in body)
        payload = completion(said)
        if self.logprobs and "logprobs" in body:
            payload["choices"][0]["logprobs"] = {"content": [logprobs_of(said)]}
        return web.json_response(payload)


def task_of(body: dict[str, Any]) -> str:
    question = text_of(body).splitlines()[-1]
    return {"Does": "detection", "Locate": "localization", "Describe": "explanation"}[question.split()[0]]


def answer_in(task: str, json_form: bool) -> str:
    plain = {"detection": "Yes", "localization": json.dumps(BOX["boxes"]), "explanation": "The dog has an extra ear."}
    objects = {"detection": {"artifacts": True}, "localization": BOX, "explanation": {"explanation": "An extra ear."}}
    return json.dumps(objects[task]) if json_form else plain[task]


def logprobs_of(said: str) -> dict[str, Any]:
    yes, no = ("true", "false") if "{" in said else ("Yes", "No")
    return {"token": yes, "top_logprobs": [{"token": yes, "logprob": -0.1}, {"token": no, "logprob": -2.0}]}


def section_of(url: str, prompts: str = "trained", **vlm: Any) -> EvaluationSection:
    quick = {"backoff": 0.01, "timeout": 5.0, "concurrency": 4, "attempts": 3, "image_side": 128, **vlm}
    asked = VlmSection(backend="openai", base_url=url, **quick)
    return EvaluationSection(prompts=prompts, vlm=asked, resamples=200)


def rows_of(ref: Any) -> dict[str, Prediction]:
    return {row.record.item_id: row.record for row in read_rows(ref, Prediction)}


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("prompts", ["trained", "defined"])
def test_a_served_model_is_asked_read_and_accounted_for(prompts: str, benchmark: BenchmarkSet, tmp_path: Path) -> None:
    with ServerThread(Seer(logprobs=True)) as server:
        section = section_of(server.url, prompts, price_in=1.0)
        model = served_ref(section, NAME)
        ref = predict(section, model, [benchmark], tmp_path / "p", "seer")
        bodies = server.handler.bodies
    rows = rows_of(ref)
    assert len(bodies) == 6 + 6 + 3 == ref.summary["vlm_calls"] and ref.summary["vlm_failed"] == 0
    assert {row.model_sha256 for row in rows.values()} == {model.sha256} and model.name == "seer-vl"
    assert all(row.verdict and row.score == pytest.approx(0.87, abs=0.01) for row in rows.values())
    assert all(row.boxes == ((16, 16, 48, 48),) for row in rows.values())
    assert "extra ear" in rows["item-0"].explanation and "explanation" not in rows["item-1"].status
    tasks = account(read_calls(Path(ref.uri) / CALLS))
    assert {task: row["calls"] for task, row in tasks.items()} == {"detection": 6, "explanation": 3, "localization": 6}
    assert ref.summary["vlm_cost"] == pytest.approx(15 * 100 / 1e6)
    assert all(("response_format" in body) == (prompts == "defined") for body in bodies)
    report = score(section, [benchmark], [ref], tmp_path)
    assert report.scores["seer"]["iou"].value == 1 and report.scores["seer"]["auroc"].value == 0.5


def test_without_log_probabilities_there_is_a_verdict_and_no_auroc(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    with ServerThread(Seer()) as server:
        section = section_of(server.url)
        ref = predict(section, served_ref(section, NAME), [benchmark], tmp_path / "p", "seer")
    assert all(row.verdict is True and row.score is None for row in rows_of(ref).values())
    report = score(section, [benchmark], [ref], tmp_path)
    assert "auroc" not in report.scores["seer"] and report.scores["seer"]["accuracy"].value == 0.5


def test_every_way_to_fail_is_a_status_and_nothing_is_dropped(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    ways = {
        "error": web.Response(status=500), "refused": None, "truncated": None, "no_answer": "",
        "prose": "I see an ear.", "wrong_space": "[[16, 16, 480, 480]]",
    }  # fmt: skip
    order = iter(ways)
    chosen: dict[str, str] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if task_of(body) != "localization":
            return web.json_response(completion(answer_in(task_of(body), json_form=False)))
        picture = body["messages"][0]["content"][0]["image_url"]["url"]
        way = chosen[picture] = chosen.get(picture) or next(order)
        if way == "error":
            return web.Response(status=500)
        if way == "refused":
            return web.json_response(completion(None, refusal="I will not"))
        return web.json_response(completion(ways[way] or "", finish="length" if way == "truncated" else "stop"))

    with ServerThread(handler) as server:
        section = section_of(server.url)
        ref = predict(section, CheckpointRef(name="s", uri=NAME, sha256="s"), [benchmark], tmp_path / "p", "seer")
    found = [row.status["localization"] for row in rows_of(ref).values()]
    assert sorted(found) == sorted(ways) and len(rows_of(ref)) == 6
    assert not any(row.boxes for row in rows_of(ref).values())
    report = score(section, [benchmark], [ref], tmp_path)
    assert {f"localization:{way}": 1 for way in ways}.items() <= report.statuses["seer"].items()
    assert ref.summary["vlm_failed"] == 4  # those that were answered in the wrong form are calls that succeeded


def test_a_killed_served_run_resumes_and_asks_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artiagent.evaluation.runners.ServedRunner.group", 2)
    pq.write_table(pa.Table.from_pylist(bench_rows(8)), tmp_path / "b.parquet")
    benchmark = BenchmarkSet(name="drawn", path=str(tmp_path / "b.parquet"))
    port = free_port()
    with ServerThread(Seer(), port) as server:
        section = section_of(server.url, attempts=2)
        model = served_ref(section, NAME)
        whole = predict(section, model, [benchmark], tmp_path / "whole", "seer")
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path / "another"))  # with an empty cache
    dying = Seer()

    async def dies(request: web.Request) -> web.StreamResponse:
        if len(dying.bodies) >= 9:
            request.transport.abort()
            server.stop_soon()
            return web.Response()
        return await dying(request)

    with ServerThread(dies, port) as server, pytest.raises(VlmUnavailable, match="Finished work is kept"):
        predict(section, model, [benchmark], tmp_path / "p", "seer")
    kept = list((tmp_path / "p" / "chunks").glob("*.parquet"))
    assert kept and not (tmp_path / "p" / "manifest.json").exists()
    with ServerThread(Seer(), port) as server:
        resumed = predict(section, model, [benchmark], tmp_path / "p", "seer")
        assert len(server.handler.bodies) + len(dying.bodies) == 8 + 8 + 4
    assert resumed.digest == whole.digest and resumed.summary["vlm_calls"] == 20


def test_faults_on_the_way_do_not_change_a_prediction(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    kinds = ("429", "429 after seconds", "500", "truncated", "no json", "reset")
    with ServerThread(Seer()) as server, ServerThread(FaultProxy(server.url, 0.3, seed=1, kinds=kinds)) as proxy:
        model = served_ref(section_of(server.url), NAME)
        direct = predict(section_of(server.url, cache=False), model, [benchmark], tmp_path / "direct", "seer")
        spoilt = section_of(proxy.url, attempts=8, cache=False)
        ref = predict(spoilt, model, [benchmark], tmp_path / "spoilt", "seer")
        assert any(fault != "good" for _, fault in proxy.handler.log)
    assert ref.digest == direct.digest


def test_identity_is_name_address_and_what_the_server_says_of_the_weights() -> None:
    with ServerThread(Seer()) as server, ServerThread(Seer()) as other:
        section = section_of(server.url)
        model = served_ref(section, NAME)
        assert served_ref(section, NAME).sha256 == model.sha256  # times are left out
        assert served_ref(section_of(other.url), NAME).sha256 != model.sha256
        assert served_ref(section, f"{SERVED}other").sha256 != model.sha256
        server.handler.root = "weights-2"
        assert served_ref(section, NAME).sha256 != model.sha256


def test_answers_of_other_weights_of_the_same_name_are_not_taken(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    with ServerThread(Seer()) as server:
        section = section_of(server.url)
        predict(section, served_ref(section, NAME), [benchmark], tmp_path / "one", "seer")
        asked = len(server.handler.bodies)
        predict(section, served_ref(section, NAME), [benchmark], tmp_path / "again", "seer")
        assert len(server.handler.bodies) == asked
        server.handler.root = "weights-2"
        renewed = served_ref(section, NAME)
        predict(section, renewed, [benchmark], tmp_path / "two", "seer")
        assert len(server.handler.bodies) == 2 * asked
        with pytest.raises(ValueError, match="holds other predictions"):
            predict(section, renewed, [benchmark], tmp_path / "one", "seer")


def test_nobody_there_a_wrong_key_and_an_unknown_model_are_one_clear_error(
    benchmark: BenchmarkSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = section_of(f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(VlmUnavailable, match=r"evaluation\.vlm\.base_url .* cannot be reached .*start the server"):
        served_ref(nowhere, NAME)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")

    async def refuses(request: web.Request) -> web.StreamResponse:
        said = f"Incorrect key {request.headers['Authorization']}"
        return web.json_response({"error": {"message": said}}, status=401)

    async def knows_another(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            return web.json_response({"data": [{"id": "other"}]})
        return web.json_response({"error": {"message": "The model does not exist"}}, status=404)

    with ServerThread(refuses) as server, pytest.raises(VlmUnavailable, match="key is not accepted") as error:
        served_ref(section_of(server.url), NAME)
    assert "secret" not in str(error.value) and "OPENAI_API_KEY" in str(error.value)
    with ServerThread(knows_another) as server, pytest.raises(VlmUnavailable, match="no model 'org/seer-vl' there"):
        section = section_of(server.url)
        predict(section, served_ref(section, NAME), [benchmark], tmp_path / "p", "seer")
    with pytest.raises(ValueError, match="expected openai:NAME"):
        served_ref(nowhere, SERVED)


@pytest.mark.parametrize("prompts", ["trained", "defined"])
def test_a_local_model_takes_both_kinds_of_prompts(
    prompts: str, benchmark: BenchmarkSet, tiny_vlm: CheckpointRef, tmp_path: Path
) -> None:
    section = EvaluationSection(
        prompts=prompts, batch_size=4, threads=1, device="cpu", max_new_tokens=4, max_box_tokens=4, limit=3
    )
    ref = predict(section, tiny_vlm, [benchmark], tmp_path / "p", "tiny")
    rows = rows_of(ref)
    assert all(0 < row.score < 1 and row.verdict == (row.score >= 0.5) for row in rows.values())
    assert {"localization", "detection"} <= rows["item-1"].status.keys() and not (Path(ref.uri) / CALLS).exists()
