"""The runs of a study with a tiny real model: what is on disk is not made again, subsets are nested and balanced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import BenchmarkSet, EvaluationSection, InstructionSection, SftSection, SftStage
from artiagent.instruction.conversations import build_conversations
from artiagent.nano.artibench import write_artibench
from artiagent.nano.drawn_pairs import write_drawn_pairs
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.records import Conversation, DatasetRef, Pair, Prediction, stable_hash
from artiagent.store import read_rows
from artiagent.studies import runs as module
from artiagent.studies.records import read_runs
from artiagent.studies.rows import RunSpec, RunsSection
from artiagent.studies.runs import PairSet, check_sizes, run_all

SFT = SftSection(
    stages=(SftStage(name="all", train_vision=True, max_steps=1, learning_rate=1e-3),), batch_pairs=2, device="cpu",
    threads=1,
)  # fmt: skip
EVALUATION = EvaluationSection(tasks=("detection",), device="cpu", threads=1, limit=4)


def same(images: np.ndarray) -> np.ndarray:
    return images


def spec(pairs: int, seed: int = 0, **turns: Any) -> RunSpec:
    data = InstructionSection(pairs=pairs, val_share=0.0, **turns)
    return RunSpec(data="drawn", instruction=data, sft=SFT.model_copy(update={"seed": seed}), tasks=("detection",))


class World:
    """A tiny base, sixteen drawn pairs, a benchmark of eight; ``trained`` counts the models that were made."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        processor = build_processor(build_tokenizer())
        save_model(folder / "base", build_model(processor.tokenizer, hidden=48, vision_hidden=32, depth=1), processor)
        self.pairs = PairSet(*write_drawn_pairs(folder / "drawn", folder / "drawn-scenes", 16, encode=same))
        write_artibench(folder / "bench", 8, encode=same)
        self.benchmark = BenchmarkSet(name="bench", path=str(folder / "bench" / "drawn.parquet"))
        self.base, self.trained, self.stop_at = checkpoint_ref("base", str(folder / "base")), 0, 0
        real = module.finetune

        def finetune(section, conversations, base, out):
            if self.stop_at and self.trained + 1 == self.stop_at:
                raise KeyboardInterrupt
            self.trained += 1
            return real(section, conversations, base, out)

        patch.setattr(module, "finetune", finetune)

    def run(self, home: Path, *specs: RunSpec, evaluation: EvaluationSection = EVALUATION) -> DatasetRef:
        self.trained = 0
        section = RunsSection(runs=specs, evaluation=evaluation, workers=1)

        def place(kind: str, *what: str) -> Path:
            return home / kind / stable_hash(*what, length=20)

        return run_all(section, {"drawn": self.pairs}, self.base, self.benchmark, place, home / "out")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        yield World(tmp_path_factory.mktemp("world"), patch)


def test_a_kill_costs_the_run_under_way_and_no_finished_one(world: World, tmp_path: Path) -> None:
    planned = [spec(4), spec(4, seed=1)]
    world.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        world.run(tmp_path, *planned)
    assert world.trained == 1
    world.stop_at = 0
    found = world.run(tmp_path, *planned)
    assert world.trained == 1
    undisturbed = world.run(tmp_path / "other", *planned)
    assert world.trained == 2
    assert undisturbed.digest == found.digest
    runs = read_runs(found)
    assert [run.pairs for run in runs.runs] == [4, 4]
    assert runs.runs[0].model.sha256 != runs.runs[1].model.sha256
    assert all(run.seconds > 0 for run in runs.runs)
    assert all(run.predictions.rows == 4 for run in runs.runs) and runs.base.rows == 4


def test_another_question_asks_the_models_that_are_there(world: World, tmp_path: Path) -> None:
    world.run(tmp_path, spec(4))
    asked = spec(4).model_copy(update={"tasks": ("detection", "localization")})
    found = read_runs(world.run(tmp_path, asked, spec(8)))
    assert world.trained == 2  # finetune is asked for both, and finds the first one's model on disk
    assert found.runs[0].seconds is None  # its training was paid for before
    assert found.runs[1].seconds > 0
    answers = [row.record for row in read_rows(found.runs[0].predictions, Prediction)]
    assert set(answers[0].status) == {"detection", "localization"}


def test_subsets_are_nested_and_balanced(world: World, tmp_path: Path) -> None:
    tools = {row.key: row.record.faults[0].injection.tool for row in read_rows(world.pairs.curated, Pair, ())}
    chosen = []
    for k, planned in enumerate((spec(4), spec(8), spec(12), spec(4, turns=("binary",)))):
        made = build_conversations(planned.instruction, *world.pairs, tmp_path / str(k))
        chosen.append({row.record.pair_id for row in read_rows(made, Conversation, ())})
    assert [len(pairs) for pairs in chosen] == [4, 8, 12, 4]
    assert chosen[0] < chosen[1] < chosen[2]
    assert chosen[3] == chosen[0]  # other turns, the same pairs
    for pairs in chosen:
        counts = Counter(tools[pair] for pair in pairs)
        assert len(counts) == 4 and max(counts.values()) == min(counts.values())


def test_too_few_pairs_are_an_error_before_any_training(world: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"16 usable drawn pairs, and a row wants 20; raise study.scenes.count"):
        world.run(tmp_path, spec(4), spec(20))
    assert world.trained == 0
    check_sizes(RunsSection(runs=(spec(16),), evaluation=EVALUATION), {"drawn": world.pairs})
