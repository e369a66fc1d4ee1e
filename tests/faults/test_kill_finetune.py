"""SIGKILL while fine-tuning: in both stages, between them, while a checkpoint is written, and at the export.

Every process is killed by SIGKILL at a moment that the test chooses, and the next goes on. What comes out is what an
undisturbed run makes: every step of the curve once, the same weights; no step is repeated that a checkpoint holds.
"""

from __future__ import annotations

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from artiagent.config import SftSection, SftStage
from artiagent.learning.stages import last_checkpoint
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.sealed import seal

STEPS, SAVE = 5, 2
STAGES = (
    SftStage(name="language", train_vision=False, max_steps=STEPS, learning_rate=1e-3),
    SftStage(name="vision", train_vision=True, max_steps=STEPS, learning_rate=1e-3),
)
SECTION = SftSection(
    stages=STAGES, loss="tokens+margin", batch_pairs=4, lora_rank=4, threads=1, device="cpu", autocast="none",
    save_steps=SAVE,
)  # fmt: skip
# where each process dies, and the steps (0 to 4) that it takes until then
LIVES = (
    ("step language 3", [0, 1, 2]),
    ("checkpoint 4", [2, 3]),  # half of checkpoint 4 is written
    ("between", [2, 3, 4]),
    ("step vision 3", [0, 1, 2]),
    ("export", [2, 3, 4]),
    ("never", []),
)


def live(moment: str, log: Path, *given: Any) -> None:
    """Fine-tune in this process until ``moment``."""
    from artiagent.learning import sft
    from artiagent.learning.paired import PairedTrainer

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    step, save, train = PairedTrainer.training_step, PairedTrainer._save_optimizer_and_scheduler, sft.train_stage

    def training_step(self: Any, *args: Any, **named: Any) -> Any:
        now = self.state.global_step
        if moment == f"step {Path(self.args.output_dir).parent.name.split('-')[1]} {now}":
            die()
        with log.open("a") as file:
            print(moment, now, sep=";", file=file)
        return step(self, *args, **named)

    def save_half(self: Any, folder: str) -> None:
        if moment == f"checkpoint {self.state.global_step}":
            die()
        save(self, folder)

    def train_stage(*args: Any) -> None:
        train(*args)
        if moment == "between":
            die()

    PairedTrainer.training_step, PairedTrainer._save_optimizer_and_scheduler = training_step, save_half
    sft.train_stage = train_stage
    if moment == "export":
        sft.seal_export = lambda *_: die()
    sft.finetune(*given)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_again_and_again_it_ends_as_an_undisturbed_run(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path, method: str
) -> None:
    from artiagent.learning.sft import finetune

    section, log = SECTION.model_copy(update={"method": method}), tmp_path / "steps"
    whole = finetune(section, conversations, tiny_vlm, tmp_path / "whole")
    context = get_context("forkserver")
    context.set_forkserver_preload(["artiagent.learning.sft"])
    for moment, _ in LIVES:
        given = (moment, log, section, conversations, tiny_vlm, tmp_path / "killed")
        process = context.Process(target=live, args=given)
        process.start()
        process.join()
        assert process.exitcode == (0 if moment == "never" else -signal.SIGKILL), moment
        assert (tmp_path / "killed" / "finetune.json").is_file() == (moment == "never")
    taken = [line.split(";") for line in log.read_text().splitlines()]
    assert [(moment, [int(step) for said, step in taken if said == moment]) for moment, _ in LIVES] == list(LIVES)
    found, expected = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("killed", "whole"))
    for stage in STAGES:
        losses = [point["step"] for point in found if point["stage"] == stage.name and "loss" in point]
        assert losses == list(range(1, STEPS + 1))
    assert len(found) == len(expected)
    for point, other in zip(found, expected, strict=True):
        assert point == pytest.approx(other, abs=1e-4)
    again = load_file(tmp_path / "killed" / "model.safetensors")
    for name, value in load_file(Path(whole.uri) / "model.safetensors").items():
        assert torch.allclose(value, again[name], atol=1e-6), name
    assert not (tmp_path / "killed" / "stages").exists()


def test_a_checkpoint_that_lacks_a_byte_is_not_trusted(tmp_path: Path) -> None:
    for step in (50, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(100))
        (folder / "optimizer.pt").write_bytes(bytes(200))
        seal(folder)
    newest, older = tmp_path / "checkpoint-100", tmp_path / "checkpoint-50"
    assert last_checkpoint(tmp_path) == newest
    with (newest / "optimizer.pt").open("r+b") as file:
        file.truncate(199)
    assert last_checkpoint(tmp_path) == older and not newest.exists()
    (older / "model.safetensors").unlink()
    assert last_checkpoint(tmp_path) is None and not list(tmp_path.iterdir())
