"""Studies: variants side by side, means over seeds, differences, resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import BenchmarkSet, EvaluationSection, InstructionSection, SftSection, SftStage
from artiagent.instruction.conversations import build_conversations
from artiagent.nano.artibench import write_artibench
from artiagent.nano.drawn_pairs import write_drawn_pairs
from artiagent.nano.probe import pair_features, probe
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.study import Variant, study
from artiagent.vlm.local import LocalVlm

STAGES = (SftStage(name="all", train_vision=True, epochs=1, max_steps=2, learning_rate=1e-3),)


def same(images: np.ndarray) -> np.ndarray:
    return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, six drawn pairs as conversations, a benchmark of eight."""
    path = tmp_path_factory.mktemp("study")
    processor = build_processor(build_tokenizer())
    save_model(path / "base", build_model(processor.tokenizer, hidden=48, vision_hidden=32, depth=1), processor)
    curated, scenes = write_drawn_pairs(path / "drawn", 12, encode=same)
    section = InstructionSection(hard_negatives=False)
    build_conversations(section, curated, scenes, path / "conversations")
    write_artibench(path / "bench", 8, encode=same)
    return path


def test_a_study_averages_seeds_and_compares(folder: Path, tmp_path: Path) -> None:
    conversations = build_conversations(InstructionSection(), None, None, folder / "conversations")
    section = SftSection(stages=STAGES, loss="tokens+margin", batch_pairs=2, lora_rank=2, device="cpu")
    variants = [
        Variant("paired", conversations, section),
        Variant("tokens", conversations, section.model_copy(update={"loss": "tokens"})),
    ]
    evaluation = EvaluationSection(resamples=100, tasks=("detection",), device="cpu")
    arguments = (
        checkpoint_ref("base", str(folder / "base")),
        BenchmarkSet(name="drawn", path=str(folder / "bench" / "drawn.parquet")),
        evaluation,
        tmp_path,
    )
    table = study(variants, [0, 1], *arguments, workers=1)
    assert set(table["scores"]) == {"base", "paired", "tokens"}
    values = table["seed_values"]["paired"]["auroc"]
    assert table["scores"]["paired"]["auroc"]["value"] == pytest.approx(np.mean(values), abs=1e-4)
    assert set(table["differences"]) == {"paired - base", "tokens - base", "tokens - paired"}
    assert set(table["by_fault"]["paired"]) == {"distortion", "duplication", "fusion", "omission"}
    text = (tmp_path / "drawn.md").read_text()
    assert text.startswith("8 images, means over 2 seeds")
    assert "| tokens |" in text
    weights = tmp_path / "paired-0" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = study(variants, [0, 1], *arguments, workers=1)
    assert json.dumps(again) == json.dumps(table)
    assert weights.stat().st_mtime_ns == before


def test_variants_need_names_of_their_own(folder: Path, tmp_path: Path) -> None:
    conversations = build_conversations(InstructionSection(), None, None, folder / "conversations")
    twice = [Variant("a", conversations, SftSection())] * 2
    base = checkpoint_ref("base", str(folder / "base"))
    with pytest.raises(ValueError, match="distinct names"):
        study(
            twice,
            [0],
            base,
            BenchmarkSet(name="drawn", path=str(folder / "bench" / "drawn.parquet")),
            EvaluationSection(),
            tmp_path,
        )


def test_the_probe_sees_a_difference_that_is_there(folder: Path) -> None:
    vlm = LocalVlm(folder / "base", device="cpu")
    clean, artifact, sources = pair_features(vlm, folder / "drawn" / "curated")
    assert clean.shape == artifact.shape == (12, 3 * 48)
    found = probe(clean, artifact + 1.0, sources)
    assert found["auroc"].value > 0.9
    assert found["pairs"].value > 0.9
    assert 0.2 < probe(clean, clean, sources)["auroc"].value < 0.8
