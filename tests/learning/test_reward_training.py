"""Verifiers learn a visible fault, are scored on held-out sources, and are read back as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import BenchmarkSet, RewardSection
from artiagent.images import decode
from artiagent.learning.reward import open_reward, train_reward
from artiagent.learning.reward.fitting import Trainer
from artiagent.nano.artibench import write_artibench
from artiagent.records import CheckpointRef, DatasetRef, Pair
from artiagent.store import read_rows

SECTION = RewardSection(epochs=25, resamples=200, threads=1, device="cpu", val_share=0.3, batch=8)
PAPER = SECTION.model_copy(
    update={"pooling": "pooled", "cross_scene": 2, "cells": 0.0, "schedule": "constant", "l2": 1e-4, "epochs": 30}
)


def images(curated: DatasetRef, side: str) -> list[np.ndarray]:
    return [decode(row.images[side]) for row in read_rows(curated, Pair)]


@pytest.fixture(scope="module")
def trained(curated: DatasetRef, tiny_clip: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    return train_reward(SECTION, curated, tiny_clip, tmp_path_factory.mktemp("reward"))


def test_a_finished_folder_says_what_it_is(trained: CheckpointRef, tiny_clip: CheckpointRef) -> None:
    folder = Path(trained.uri)
    figures = json.loads((folder / "figures.json").read_text())
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores) == {"within", "across"} and scores == figures["verifiers"]["ensemble"]
    assert scores["within"]["value"] > 0.8 and scores["across"]["value"] > 0.8
    assert sum(figures["pairs"]["train"]) + figures["pairs"]["held_out"] == 24
    assert scores["within"]["n"] == figures["pairs"]["held_out_sources"] < figures["pairs"]["held_out"]
    assert set(figures["verifiers"]) == {"ensemble", "0", "1"} and figures["benign"] is None
    config = json.loads((folder / "config.json").read_text())
    assert config["encoder_sha256"] == trained.base_sha256 == tiny_clip.sha256 and config["members"] == 2
    curve = json.loads((folder / "training.json").read_text())
    assert [p["stage"] for p in curve] == ["0"] * SECTION.epochs + ["1"] * SECTION.epochs
    assert curve[SECTION.epochs - 1]["loss"] < curve[0]["loss"]
    assert trained.summary["within_value"] == scores["within"]["value"]
    assert not [p for p in folder.iterdir() if p.name.startswith(".")], "no checkpoint, no pixels are left"


def test_members_and_their_mean_tell_the_sides_apart(trained: CheckpointRef, curated: DatasetRef) -> None:
    clean, spoilt = images(curated, "clean"), images(curated, "artifact")
    both = open_reward(trained, device="cpu")
    first, second = (open_reward(trained, member=k, device="cpu") for k in (0, 1))
    found = both(clean)
    assert found.shape == (24,) and found.dtype == np.float32
    assert np.allclose(found, (first(clean) + second(clean)) / 2, atol=1e-5)
    assert not np.allclose(first(clean), second(clean)) and len({both.sha256, first.sha256, second.sha256}) == 3
    for judge in (both, first, second):
        assert (judge(clean) > judge(spoilt)).mean() > 0.8
    assert both([]).shape == (0,) and both.badness([]) == []


def test_badness_lies_where_the_fault_is(trained: CheckpointRef, curated: DatasetRef) -> None:
    pairs = [row.record for row in read_rows(curated, Pair, ())]
    found = open_reward(trained, device="cpu").badness(images(curated, "artifact"))
    hits = []
    for cells, pair in zip(found, pairs, strict=True):
        assert cells.shape == (4, 4) and cells.dtype == np.float32
        row, col = np.unravel_index(cells.argmax(), cells.shape)
        box = pair.artifacts[0].box  # a cell is 16 px of 64
        hits.append(box.x0 < 16 * (col + 1) and box.x1 > 16 * col and box.y0 < 16 * (row + 1) and box.y1 > 16 * row)
    assert np.mean(hits) > 0.8


def test_a_finished_folder_is_returned_and_foreign_inputs_refused(
    trained: CheckpointRef, curated: DatasetRef, tiny_clip: CheckpointRef
) -> None:
    folder = Path(trained.uri)
    assert train_reward(SECTION, curated, tiny_clip, folder) == trained
    with pytest.raises(ValueError, match="other inputs"):
        train_reward(SECTION.model_copy(update={"seed": 5}), curated, tiny_clip, folder)


@pytest.mark.parametrize(
    "section",
    [
        PAPER,
        PAPER.model_copy(update={"pooling": "patches", "members": 1}),
        SECTION.model_copy(update={"pooling": "crops", "margin": "change", "views": 3}),
        SECTION.model_copy(update={"encoder": "lora", "encoder_rate": 1e-2}),
        SECTION.model_copy(update={"encoder": "full", "encoder_rate": 1e-3}),
        SECTION.model_copy(update={"encoder": "cnn", "epochs": 6, "side": 64, "width": 16, "learning_rate": 3e-3}),
    ],
    ids=["paper", "patches", "crops", "lora", "full", "cnn"],
)  # fmt: skip
def test_every_kind_of_encoder_opens_to_the_rewards_it_was_scored_with(
    section: RewardSection, curated: DatasetRef, tiny_clip: CheckpointRef, tmp_path: Path
) -> None:
    made = train_reward(section, curated, tiny_clip, tmp_path)
    judge = open_reward(made, device="cpu")
    assert len(judge.members) == section.members
    clean, spoilt = judge(images(curated, "clean")), judge(images(curated, "artifact"))
    assert np.isfinite(clean).all() and (clean > spoilt).mean() > 0.6
    assert made.summary["within_value"] > 0.6


def test_the_tower_of_a_vision_language_model(curated: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"side": 64, "members": 1})
    judge = open_reward(train_reward(section, curated, tiny_vlm, tmp_path), device="cpu")
    assert judge.badness(images(curated, "artifact")[:1])[0].shape == (4, 4)
    assert (judge(images(curated, "clean")) > judge(images(curated, "artifact"))).mean() > 0.8


def test_a_killed_training_goes_on_to_the_same_weights(
    trained: CheckpointRef,
    curated: DatasetRef,
    tiny_clip: CheckpointRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epoch, calls = Trainer._epoch, []

    def killed(self: Trainer, *args: object) -> dict[str, float]:
        calls.append(self.name)
        if len(calls) == SECTION.epochs + 3:  # the second member has two epochs behind it
            raise KeyboardInterrupt
        return epoch(self, *args)

    monkeypatch.setattr(Trainer, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train_reward(SECTION, curated, tiny_clip, tmp_path)
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["stages/verifier-0.safetensors", "stages/verifier-1.safetensors"]
    again = train_reward(SECTION, curated, tiny_clip, tmp_path)
    assert len(calls) == 2 * SECTION.epochs + 1, "only what was missing was trained"
    assert again.sha256 == trained.sha256


def test_too_few_pairs_and_unknown_towers_are_named(
    curated: DatasetRef, tiny_clip: CheckpointRef, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="held-out sources; expected at least 2"):
        train_reward(SECTION.model_copy(update={"val_share": 1e-9}), curated, tiny_clip, tmp_path / "a")
    with pytest.raises(ValueError, match="for 8 verifiers"):
        train_reward(SECTION.model_copy(update={"members": 8, "val_share": 0.8}), curated, tiny_clip, tmp_path / "b")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    foreign = tiny_clip.model_copy(update={"uri": str(tmp_path / "bert")})
    with pytest.raises(ValueError, match="'bert'; expected clip or qwen2_5_vl"):
        train_reward(SECTION, curated, foreign, tmp_path / "c")
    assert not list(tmp_path.glob("*/.pixels.npy"))


def test_benchmarks_enter_scores_and_identity(curated: DatasetRef, tiny_clip: CheckpointRef, tmp_path: Path) -> None:
    write_artibench(tmp_path / "bench", 8, encode=lambda images: images)
    drawn = BenchmarkSet(name="drawn", path=str(tmp_path / "bench" / "drawn.parquet"))
    section = SECTION.model_copy(update={"epochs": 1})
    made = train_reward(
        section, curated, tiny_clip, tmp_path / "reward", [drawn, drawn.model_copy(update={"name": "b"})]
    )
    figures = json.loads((tmp_path / "reward" / "figures.json").read_text())
    assert figures["benchmarks"]["drawn"] == figures["benchmarks"]["b"] and "1" in figures["benchmarks"]["b"]
    assert made.summary["benchmark_auroc_value"] == figures["benchmarks"]["drawn"]["ensemble"]["value"]
    with pytest.raises(ValueError, match="other inputs"):
        train_reward(section, curated, tiny_clip, tmp_path / "reward")


def test_a_damaged_folder_is_not_opened(trained: CheckpointRef, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(ValueError, match="has 2 verifiers, 0 to 1; member 2"):
        open_reward(trained, member=2)
    with pytest.raises(ValueError, match=r"no config\.json"):
        open_reward(trained.model_copy(update={"uri": str(tmp_path)}))
    folder = shutil.copytree(trained.uri, tmp_path / "copy")
    weights = folder / "member-1" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match=r"head\.safetensors: missing or changed"):
        open_reward(trained.model_copy(update={"uri": str(folder)}))
