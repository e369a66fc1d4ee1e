"""nano-grounder: the question about everything of a name, soft targets of coordinates, training that resumes."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLProcessor

from artiagent.instruction import prompts
from artiagent.nano.augment import LIGHT_ONLY, augmented_view
from artiagent.nano.grounder import MIXTURE, ROW, Grounding, draw_batch, integer_tokens, train_grounder
from artiagent.nano.scene_pool import ScenePool
from artiagent.nano.scenes import KINDS, TRAIN_SEEDS, render_scene
from artiagent.nano.views import View, parts_of_kinds, view_of
from artiagent.nano.vl_batches import Packer, ask_many
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.nano.vl_tasks import ask_everywhere, everywhere

TINY = {"hidden": 48, "vision_hidden": 32, "depth": 2}


@pytest.fixture(scope="module")
def processor() -> Qwen2_5_VLProcessor:
    return build_processor(build_tokenizer())


@pytest.fixture(scope="module")
def base(processor: Qwen2_5_VLProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-vl"
    save_model(folder, build_model(processor.tokenizer, **TINY), processor)
    return folder


@pytest.fixture(scope="module")
def views() -> list[View]:
    alike = [render_scene(TRAIN_SEEDS[20 + n], kinds=["dog"], entities=2) for n in range(4)]
    return [view_of(scene) for scene in (*alike, *(render_scene(TRAIN_SEEDS[40 + n]) for n in range(12)))]


def test_everything_of_a_name_is_listed_over_all_entities(views: list[View]) -> None:
    view = views[0]
    assert everywhere(view, "dog") == sorted(view.boxes) and len(view.boxes) == 2
    ears = everywhere(view, "ear")
    assert ears == sorted(part.box for part in view.parts if part.name == "ear")
    assert {part.owner for part in view.parts if part.name == "ear"} == {0, 1}
    assert everywhere(view, "wheel") == []


def test_an_ambiguous_part_is_not_asked_about() -> None:
    scene = render_scene(TRAIN_SEEDS[7])
    part = max(scene.entities[0].parts, key=lambda p: p.mask.sum())
    rows = np.flatnonzero(part.mask.any(1))
    hidden = np.zeros((128, 128), bool)
    hidden[: rows[int(len(rows) * 0.65)]] = True
    view = view_of(scene, hidden=hidden)
    assert any(0 < p.share < 0.5 for p in view.named(part.name)) and everywhere(view, part.name) is None
    asked = [ask_everywhere(view, random.Random(n)) for n in range(60)]
    assert part.name not in {exchange.fields["part"] for exchange in asked if exchange}


def test_a_quarter_asks_for_what_is_not_there(views: list[View]) -> None:
    rng = random.Random(0)
    asked = [(view, ask_everywhere(view, rng)) for view in views for _ in range(60)]
    exchanges = [(view, exchange) for view, exchange in asked if exchange is not None]
    empty = [exchange for _, exchange in exchanges if exchange.answer == "[]"]
    assert 0.2 < len(empty) / len(exchanges) < 0.3
    names = {exchange.fields["part"] for _, exchange in exchanges}
    assert names >= set(KINDS) and names >= {part for parts in parts_of_kinds().values() for part in parts} - {"knob"}
    for view, exchange in exchanges:
        assert json.loads(exchange.answer) == [list(box) for box in everywhere(view, exchange.fields["part"])]
        shown = {*view.kinds, *(part.name for part in view.parts)}
        assert (exchange.answer == "[]") == (exchange.fields["part"] not in shown)


def test_the_mixture_fills_rows_with_questions_of_its_own(processor: Qwen2_5_VLProcessor, views: list[View]) -> None:
    exchanges = ask_many(
        augmented_view(render_scene(TRAIN_SEEDS[9]), random.Random(1), LIGHT_ONLY), random.Random(2), 14, MIXTURE
    )
    assert {exchange.task for exchange in exchanges} <= set(MIXTURE)
    assert sum(exchange.task == prompts.LOCATE_ALL for exchange in exchanges) >= 3
    packer = Packer(processor, 128, ROW, MIXTURE)
    batch = draw_batch(ScenePool(TRAIN_SEEDS[50], 4), packer, 3, random.Random(0))
    assert batch.input_ids.shape == (3, ROW) and (batch.labels >= 0).sum(1).min() > 40
    assert set(batch.weights[batch.labels >= 0].tolist()) == {1.0}


def test_a_coordinate_that_misses_by_one_is_nearly_right(processor: Qwen2_5_VLProcessor) -> None:
    integers = integer_tokens(processor)
    learner = Grounding(build_model(processor.tokenizer, **TINY), integers)
    label = torch.tensor([integers[60]] * 4)
    logits = torch.full((4, len(processor.tokenizer)), -20.0)
    for row, value in enumerate((60, 61, 64, 90)):
        logits[row, integers] = -((torch.arange(257.0) - value) ** 2) / 2
    losses = learner._token_losses(logits, label).tolist()
    assert losses[0] == pytest.approx(0, abs=1e-4)  # the bell itself
    assert losses[1] == pytest.approx(0.5, abs=1e-3) and losses[2] == pytest.approx(8, abs=1e-2) and losses[3] > 100
    word = torch.tensor(processor.tokenizer("]]", add_special_tokens=False).input_ids)
    plain = learner._token_losses(torch.zeros(1, len(processor.tokenizer)), word)
    assert plain.item() == pytest.approx(math.log(len(processor.tokenizer)), rel=1e-4)


def test_heads_that_have_not_settled_do_not_reach_the_model(processor: Qwen2_5_VLProcessor, views: list[View]) -> None:
    packer = Packer(processor, 128, 120, MIXTURE)
    batch = packer.batch(views[:1], [[]], random.Random(0))  # no question: what is left are the heads
    batch.labels[0, 0], batch.weights[0, 0] = 5, 1.0
    learner = Grounding(build_model(processor.tokenizer, **TINY), integer_tokens(processor))

    def gradient_of_the_tower(settled: bool) -> float:
        learner.zero_grad()
        tokens, features, middle = learner.encode(batch)
        loss = (
            learner(batch, settled)
            - learner._token_losses(learner.model.lm_head(tokens[:, :1].flatten(0, 1)).float(), torch.tensor([5])).sum()
        )
        loss.backward()
        assert learner.heads.labels.weight.grad.abs().sum() > 0
        return sum(float(p.grad.abs().sum()) for p in learner.model.model.visual.parameters() if p.grad is not None)

    assert gradient_of_the_tower(False) < 1e-3 < gradient_of_the_tower(True)


def test_training_starts_from_the_base_and_resumes(base: Path, tmp_path: Path) -> None:
    settings = {"base": base, "minutes": 60.0, "batch": 2, "scenes": 4, "held_out": 1}
    train_grounder(tmp_path / "g", tmp_path / "work", steps=1, **settings)
    report = train_grounder(tmp_path / "g", tmp_path / "work", steps=2, **settings)
    assert [point["step"] for point in report["curve"]] == [1, 2] and report["recipe"]["base"] == "tiny-vl"
    saved = json.loads((tmp_path / "g" / "training.json").read_text())
    assert saved["held_out"] == report["held_out"]
    figures = saved["held_out"]
    assert figures["entities"]["boxes"] >= 1 and figures["parts"]["boxes"] >= 1
    assert 0 <= figures["caption_recall"] <= 1
    assert sum(row["boxes"] for row in figures["per_term"].values()) == sum(
        figures[kind]["boxes"] for kind in ("entities", "parts")
    )


def test_a_base_that_spells_integers_is_refused() -> None:
    class Spelling:
        def tokenizer(self, text: str, add_special_tokens: bool) -> object:
            return type("Encoding", (), {"input_ids": [ord(letter) for letter in text]})

    with pytest.raises(ValueError, match="several tokens"):
        integer_tokens(Spelling())
