"""Fine-tuning with TRL and PEFT on a tiny Qwen2.5-VL: what is trained, what is saved, what a kill costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from artiagent.config import SftSection, SftStage
from artiagent.images import decode
from artiagent.instruction.prompts import BINARY, render
from artiagent.learning.family import FAMILIES
from artiagent.learning.paired import PairedTrainer, paired_rows
from artiagent.learning.sft import finetune
from artiagent.records import CheckpointRef, Conversation, DatasetRef
from artiagent.store import DatasetWriter, read_rows
from artiagent.vlm.local import LocalVlm

STAGES = (
    SftStage(name="language", train_vision=False, max_steps=2, learning_rate=1e-3),
    SftStage(name="vision", train_vision=True, max_steps=3, learning_rate=1e-3),
)
is_vision = FAMILIES["Qwen2.5-VL"].is_vision
SECTION = SftSection(
    method="lora", stages=STAGES, loss="tokens+margin", batch_pairs=4, lora_rank=4, threads=1, device="cpu",
    autocast="none", save_steps=1,
)  # fmt: skip


def weights(ref: CheckpointRef) -> dict[str, torch.Tensor]:
    return load_file(Path(ref.uri) / "model.safetensors")


@pytest.fixture(scope="module")
def tuned(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path_factory: pytest.TempPathFactory
) -> CheckpointRef:
    return finetune(SECTION, conversations, tiny_vlm, tmp_path_factory.mktemp("tuned") / "model")


def test_a_full_folder_with_processor_adapter_and_curves(tuned: CheckpointRef, tiny_vlm: CheckpointRef) -> None:
    folder = Path(tuned.uri)
    points = json.loads((folder / "training.json").read_text())
    assert [p["stage"] for p in points] == sorted([p["stage"] for p in points])  # language, then vision
    assert {"loss", "pair_accuracy", "margin_loss"} <= set(points[0])
    assert any("eval_loss" in point for point in points)
    assert tuned.base_sha256 == tiny_vlm.sha256 != tuned.sha256
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt")) and not (folder / "stages").exists()
    for text in folder.rglob("*.json"):
        assert tiny_vlm.uri not in text.read_text(), "a path of this machine in the folder's digest"
    AutoProcessor.from_pretrained(folder)


def test_the_merged_model_is_base_plus_adapter(tuned: CheckpointRef, tiny_vlm: CheckpointRef) -> None:
    merged = AutoModelForImageTextToText.from_pretrained(tuned.uri, dtype=torch.float32)
    base = AutoModelForImageTextToText.from_pretrained(tiny_vlm.uri, dtype=torch.float32)
    again = PeftModel.from_pretrained(base, Path(tuned.uri) / "adapter").merge_and_unload().state_dict()
    for name, value in merged.state_dict().items():
        assert torch.allclose(value, again[name]), name
    changed = {
        name for name, value in weights(tuned).items() if not torch.equal(value, weights(tiny_vlm)[name].float())
    }
    assert any(is_vision(name) for name in changed) and any(not is_vision(name) for name in changed)


def test_frozen_vision_stays_and_projector_learns(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path
) -> None:
    for method in ("lora", "full"):
        section = SECTION.model_copy(update={"stages": STAGES[:1], "method": method})
        before = weights(tiny_vlm)
        after = weights(finetune(section, conversations, tiny_vlm, tmp_path / method))
        changed = {name for name, value in after.items() if not torch.equal(value, before[name].float())}
        assert changed and not any(is_vision(name) for name in changed)
        assert any("merger" in name for name in changed)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_run_resumes_to_the_same_weights(
    conversations: DatasetRef,
    tiny_vlm: CheckpointRef,
    tuned: CheckpointRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    section = SECTION.model_copy(update={"method": method})
    whole = tuned if method == "lora" else finetune(section, conversations, tiny_vlm, tmp_path / "whole")
    step, steps = PairedTrainer.training_step, []

    def dies_in_the_second_stage(self: Any, *given: Any, **named: Any) -> Any:
        steps.append(self.state.global_step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, *given, **named)

    monkeypatch.setattr(PairedTrainer, "training_step", dies_in_the_second_stage)
    with pytest.raises(KeyboardInterrupt):
        finetune(section, conversations, tiny_vlm, tmp_path / "model")
    resumed = finetune(section, conversations, tiny_vlm, tmp_path / "model")
    assert steps == [0, 1, 0, 1, 1, 2], "two steps, one and a kill, then only what was missing"
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(resumed)[name], atol=1e-6), name
    count = len(steps)
    assert finetune(section, conversations, tiny_vlm, tmp_path / "model").sha256 == resumed.sha256
    assert len(steps) == count
    with pytest.raises(ValueError, match="made from other inputs"):
        finetune(section.model_copy(update={"seed": 1}), conversations, tiny_vlm, tmp_path / "model")


def test_a_visible_fault_is_learnt(conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path) -> None:
    """The whole path from records to a better answer: a red square is told from its absence on held-out sources."""
    stages = (SftStage(name="vision", train_vision=True, max_steps=40, learning_rate=5e-3),)
    section = SECTION.model_copy(update={"stages": stages, "method": "full", "save_steps": 1000})
    tuned = finetune(section, conversations, tiny_vlm, tmp_path / "model")
    rows = list(read_rows(conversations, Conversation))
    vlm = LocalVlm(tuned.uri, "cpu", threads=1)
    asked = vlm.yes_no([decode(row.images["image"]) for row in rows], [render(BINARY)] * len(rows))
    faulty = np.array([row.record.faulty for row in rows])
    assert asked[faulty].mean() > asked[~faulty].mean() + 0.2


def test_torn_pairs_and_empty_training_sets_are_refused(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path
) -> None:
    rows = [row for row in read_rows(conversations, Conversation) if row.record.split == "train"]
    for name, kept, message in (("torn", rows[:3], "lack a side"), ("none", [], "no training conversations")):
        writer: DatasetWriter[Conversation] = DatasetWriter(tmp_path / name, "conversations", ("image",))
        writer.write("all", kept)
        with pytest.raises(ValueError, match=message):
            finetune(SECTION, writer.finish(), tiny_vlm, tmp_path / f"{name}-model")


def test_the_margin_is_added_to_the_token_loss(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path
) -> None:
    one = (STAGES[0].model_copy(update={"max_steps": 1}),)
    first = {}
    for name, change in (
        ("both", {"margin_weight": 3.0}),
        ("tokens", {"loss": "tokens"}),
        ("shuffled", {"loss": "tokens", "sampler": "shuffled", "context": "dialogue"}),
    ):
        section = SECTION.model_copy(update={"stages": one, **change})
        finetune(section, conversations, tiny_vlm, tmp_path / name)
        first[name] = json.loads((tmp_path / name / "training.json").read_text())[0]
    both, tokens = first["both"], first["tokens"]
    assert both["margin_loss"] == pytest.approx(tokens["margin_loss"])
    assert both["loss"] == pytest.approx(tokens["loss"] + 3 * tokens["margin_loss"], rel=1e-4)
    assert first["shuffled"]["loss"] != pytest.approx(tokens["loss"], rel=1e-4)


def test_mirrored_rows_follow_the_plain_ones_in_the_same_order(conversations: DatasetRef, tmp_path: Path) -> None:
    plain = paired_rows(conversations, "train", tmp_path, mirror=False)
    both = paired_rows(conversations, "train", tmp_path, mirror=True)
    assert len(both) == 2 * len(plain)
    assert list(both["mirrored"]) == [False] * len(plain) + [True] * len(plain)
    assert [row["record"] for row in both] == [row["record"] for row in plain] * 2


def test_checkpointed_activations_change_no_figure(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path
) -> None:
    first = {}
    for name, change in (("plain", {}), ("checkpointed", {"gradient_checkpointing": True})):
        section = SECTION.model_copy(update={"stages": STAGES[:1], **change})
        finetune(section, conversations, tiny_vlm, tmp_path / name)
        first[name] = json.loads((tmp_path / name / "training.json").read_text())
    for plain, other in zip(first["plain"], first["checkpointed"], strict=True):
        assert {**other, "stage": 0} == pytest.approx({**plain, "stage": 0}, rel=1e-4)


def test_the_curve_is_reported_as_it_grows(conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path) -> None:
    told: list[dict] = []
    section = SECTION.model_copy(update={"stages": STAGES[:1], "group_by_length": True})
    finetune(section, conversations, tiny_vlm, tmp_path / "model", told.append)
    assert told == json.loads((tmp_path / "model" / "training.json").read_text())


def test_rows_carry_their_length_where_it_is_asked_for(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path
) -> None:
    processor = FAMILIES["Qwen2.5-VL"].load_processor(tiny_vlm.uri, None)
    rows = paired_rows(conversations, "train", tmp_path, mirror=True, processor=processor)
    for row in rows.select(range(4)):
        record = json.loads(row["record"])
        text = sum(len(turn["text"]) for turn in record["turns"])
        assert row["length"] == 16 + round(text / 3.5)  # 64 x 64 px are 16 tokens of 16 x 16
