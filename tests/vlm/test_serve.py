"""nano-VL behind transformers' own OpenAI-compatible server, asked directly and through the fault-injecting proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from artiagent.checkpoints import checkpoint_ref, locate
from artiagent.config import BenchmarkSet, EvaluationSection, VlmSection
from artiagent.evaluation.runners import served_ref
from artiagent.evaluation.stage import predict
from artiagent.instruction import prompts
from artiagent.nano.scenes import render_scene
from artiagent.records import Prediction
from artiagent.store import read_rows
from artiagent.vlm.prompt import question
from artiagent.vlm.protocol import Request
from tests.vlm.calls import backend
from tests.vlm.fault_proxy import FaultProxy
from tests.vlm.servers import ServerThread, free_port

FOLDER = "data/weights/nano-vl"
ASKED = (
    (prompts.DESCRIBE_IMAGE, "Describe the image.", False),
    (prompts.LOCATE_PART, "Locate the dog's tail as a JSON list of boxes.", False),
    (prompts.BINARY, "Does this image contain visual artifacts?", True),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of ``transformers serve`` on nano-VL, in a process of its own."""
    port, log = free_port(), tmp_path_factory.mktemp("serve") / "log"
    command = [Path(sys.executable).with_name("transformers"), "serve", locate(FOLDER)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=out, env=environment)
    try:
        import artiagent.vlm.local  # noqa: F401  (takes as long as the server's start)

        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(1200):
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def requests(scenes: int) -> list[Request]:
    drawn = [render_scene(seed).image for seed in range(scenes)]
    return [
        Request("caption", question(name, text), (image,), str(number), yes_no=yes_no)
        for number, image in enumerate(drawn)
        for name, text, yes_no in ASKED
    ]


def test_served_answers_are_those_of_the_model_in_process(served: str) -> None:
    from artiagent.vlm.local import LocalVlm

    asked = requests(4)
    vlm = backend(served, model=str(locate(FOLDER)), max_tokens=96, image_side=128, timeout=60.0)
    answers = list(vlm.ask(asked))
    local = LocalVlm(locate(FOLDER), device="cpu", threads=1)
    expected = local.generate([r.images[0] for r in asked], [r.prompt.text for r in asked], max_new_tokens=96)
    assert [answer.text for answer in answers] == expected and len(set(expected)) > 4
    assert not any(answer.error for answer in answers)
    chances = local.yes_no([r.images[0] for r in asked if r.yes_no], [r.prompt.text for r in asked if r.yes_no])
    assert [a.text == "Yes" for a, r in zip(answers, asked, strict=True) if r.yes_no] == [p >= 0.5 for p in chances]
    assert all(answer.probability is None for answer in answers)  # this server gives no log probabilities
    assert vlm.space(128, 128).to_model((8, 8, 64, 64)) == local.space(128, 128).to_model((8, 8, 64, 64))
    assert all(answer.tokens_in > 64 and answer.tokens_out > 0 for answer in answers)
    assert vlm.name == "nano-vl"


def test_a_real_server_behind_faults_gives_the_same_answers(served: str, tmp_path: Path) -> None:
    asked = requests(6)
    fields = {"model": str(locate(FOLDER)), "max_tokens": 96, "image_side": 128, "attempts": 8}
    kinds = ("429", "429 after seconds", "500", "truncated", "no json", "reset")
    with ServerThread(FaultProxy(served, 0.3, seed=5, kinds=kinds)) as proxy:
        spoilt = backend(proxy.url, tmp_path, timeout=60.0, **fields)
        answers = [answer.text for answer in spoilt.ask(asked)]
        log = proxy.handler.log
    assert len([fault for _, fault in log if fault == "good"]) == len({content for content, _ in log})
    assert len(log) > len(asked) and spoilt.spent()["failed"] == 0
    direct = backend(served, None, timeout=60.0, **fields)
    assert answers == [answer.text for answer in direct.ask(asked)]
    resumed = backend("http://127.0.0.1:1/v1", tmp_path, **fields)  # nobody is there; everything is known
    assert answers == [answer.text for answer in resumed.ask(asked)]


def test_a_name_the_server_does_not_have_is_told(served: str) -> None:
    vlm = backend(served, model="Qwen/Qwen2.5-VL-7B-Instruct", concurrency=2)
    (answer,) = vlm.ask(requests(1)[:1])
    assert answer.error.startswith("http 400: Server is pinned to") and "Qwen2.5-VL-7B" in answer.error


def test_a_benchmark_asked_over_the_server_has_the_answers_of_the_model_in_process(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path))
    benchmark = BenchmarkSet(name="drawn", path="data/artibench-nano/drawn.parquet")
    vlm = VlmSection(backend="openai", base_url=served, image_side=128, max_tokens=96, concurrency=2)
    section = EvaluationSection(limit=4, max_box_tokens=96, threads=1, device="cpu", vlm=vlm)
    model = served_ref(section, f"openai:{locate(FOLDER)}")
    asked, local = (
        {row.key: row.record for row in read_rows(ref, Prediction)}
        for ref in (
            predict(section, model, [benchmark], tmp_path / "served", "m"),
            predict(section, checkpoint_ref("m", FOLDER), [benchmark], tmp_path / "local", "m"),
        )
    )
    assert asked.keys() == local.keys() and len(asked) == 4
    for key, row in asked.items():
        same = {"model_sha256": local[key].model_sha256, "score": local[key].score}
        assert row.score is None and row.model_copy(update=same) == local[key]
