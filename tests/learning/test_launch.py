"""Two processes are one with twice the batch; one that dies is named, and all of them end with their caller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from artiagent.config import SftSection, SftStage
from artiagent.learning.launch import POINTS, StageJob, launch
from artiagent.learning.sft import finetune
from artiagent.learning.stages import checkpoint_step, last_checkpoint, resumed
from artiagent.records import CheckpointRef, DatasetRef

STAGES = (SftStage(name="language", train_vision=False, max_steps=4, learning_rate=1e-3),)
SECTION = SftSection(
    stages=STAGES, loss="tokens+margin", batch_pairs=2, lora_rank=4, threads=1, device="cpu", autocast="none",
    save_steps=1,
)  # fmt: skip
TWO = SECTION.model_copy(update={"processes": 2})


@pytest.fixture
def job(conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path) -> StageJob:
    return StageJob(
        section=TWO, number=0, conversations=conversations, base=tiny_vlm, weights=Path(tiny_vlm.uri),
        folder=tmp_path / "stage", cache=tmp_path / "cache",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"method": "lora"}, {"sharding": "fsdp", "loss": "tokens"}])
def test_two_processes_train_as_one_with_twice_the_batch(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path, change: dict
) -> None:
    told: list[dict] = []
    one = SECTION.model_copy(update={**change, "batch_pairs": 4, "sharding": "none"})
    two = TWO.model_copy(update=change)
    finetune(one, conversations, tiny_vlm, tmp_path / "one")
    finetune(two, conversations, tiny_vlm, tmp_path / "two", told.append)
    expected, found = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two"))
    for point, other in zip(found, expected, strict=True):
        assert "loss" not in other or "loss" in point
        for name in point.keys() - {"stage"}:
            assert point[name] == pytest.approx(other[name], rel=2e-3, abs=1e-4), name
    assert [point["step"] for point in told if "loss" in point] == [1, 2, 3, 4]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=2e-3), name


@pytest.mark.slow
def test_they_end_with_their_caller_and_the_next_call_resumes(job: StageJob) -> None:
    code = "import sys; from artiagent.learning.launch import StageJob, launch; "
    code += "launch(StageJob.model_validate_json(sys.argv[1]))"
    longer = job.model_copy(
        update={"section": TWO.model_copy(update={"stages": (STAGES[0].model_copy(update={"max_steps": 500}),)})}
    )
    caller = subprocess.Popen([sys.executable, "-c", code, longer.model_dump_json()], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(job.folder.glob("checkpoints/checkpoint-*/sealed.json")):
        assert caller.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    ranks = psutil.Process(caller.pid).children(recursive=True)
    assert len(ranks) >= 3  # the launcher and two ranks
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    while any(_lives(rank) for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = checkpoint_step(last_checkpoint(job.folder / "checkpoints"))
    stage = STAGES[0].model_copy(update={"max_steps": done + 2})
    launch(resumed(longer.model_copy(update={"section": TWO.model_copy(update={"stages": (stage,)})})))
    points = [json.loads(line) for line in (job.folder / POINTS).read_text().splitlines()]
    assert [point["step"] for point in points if "loss" in point] == [done + 1, done + 2]


def _lives(process: psutil.Process) -> bool:
    """A zombie does not: nobody may be there to reap it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_process_that_fails_is_named_with_its_reason(job: StageJob) -> None:
    with pytest.raises(RuntimeError, match=r"process [01] of 2 failed: ValueError: .*max_length=5.*resume"):
        launch(job.model_copy(update={"section": TWO.model_copy(update={"max_length": 5})}))
