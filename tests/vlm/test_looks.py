"""What was looked at once is answered about as if it had been shown each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from artiagent.vlm.local import LocalVlm
from tests.vlm.test_local_agents import llava  # noqa: F401  (a fixture)

QUESTIONS = ["Is there a tail in [8,8,64,64]?", "Does the dog have an ear that one can see? Look again.", "Count."]
TRUTH = ('{"artifacts": true}', '{"artifacts": false}')


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((128, 128), (96, 160), (64, 64))]


@pytest.fixture(params=["tiny_vlm", "llava"])
def vlm(request: pytest.FixtureRequest) -> LocalVlm:
    return LocalVlm(request.getfixturevalue(request.param), "cpu", threads=1, batch_size=2, coordinates="pixels")


def test_answers_are_the_same_and_pixels_are_encoded_once(vlm: LocalVlm, images: list[np.ndarray]) -> None:
    said = vlm.generate(images, QUESTIONS, 6)
    chances = vlm.yes_no(images, QUESTIONS)
    tower = (
        vlm.model.base_model.visual if hasattr(vlm.model.base_model, "visual") else vlm.model.base_model.vision_tower
    )
    seen: list[int] = []
    tower.register_forward_pre_hook(lambda *_: seen.append(1))
    looks = vlm.look(images)
    assert len(seen) == 2  # batches
    assert vlm.generate(looks, QUESTIONS, 6) == said
    assert vlm.yes_no(looks, QUESTIONS) == pytest.approx(chances, abs=1e-6)
    turned = vlm.generate([looks[2], looks[0]], [QUESTIONS[2], QUESTIONS[0]], 6)  # of different batches, in any order
    assert turned == [said[2], said[0]]
    assert len(seen) == 2
    assert vlm.look([]) == []


def test_a_model_that_does_not_take_features_back_sees_the_pixels_again(
    vlm: LocalVlm,
    images: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = vlm.generate(images, QUESTIONS, 6)
    monkeypatch.setattr(type(vlm.model.base_model), "get_image_features", None)
    looks = vlm.look(images)
    assert not any(look.features for look in looks)
    monkeypatch.undo()
    assert vlm.generate(looks, QUESTIONS, 6) == said


def test_two_longer_answers_are_compared_where_they_part(vlm: LocalVlm, images: list[np.ndarray]) -> None:
    """The same as the softmax over both after what they begin with, shown in full."""
    tokens = [vlm.processor.tokenizer(text, add_special_tokens=False).input_ids for text in TRUTH]
    at = next(i for i, pair in enumerate(zip(*tokens, strict=False)) if pair[0] != pair[1])
    assert vlm.processor.tokenizer.decode(tokens[0][:at]).strip() == '{"artifacts":'
    batch = vlm._batch(QUESTIONS[:1], [images[:1]])
    for token in tokens[0][:at]:
        fresh = {"input_ids": token, "attention_mask": 1, "mm_token_type_ids": 0}
        for name in fresh.keys() & batch.keys():
            batch[name] = torch.cat([batch[name], batch[name].new_full((1, 1), fresh[name])], dim=1)
    with torch.inference_mode():
        logits = vlm.model(**batch).logits[0, -1].double()
    expected = torch.softmax(logits[[tokens[0][at], tokens[1][at]]], 0)[0].item()
    found = vlm.yes_no(images, QUESTIONS, TRUTH)
    assert found[0] == pytest.approx(expected, abs=1e-5) and found.shape == (3,)
    assert found[0] != pytest.approx(vlm.yes_no(images, QUESTIONS)[0], abs=1e-5)


def test_an_answer_of_one_word_must_be_one_token(tiny_vlm: Path) -> None:
    with pytest.raises(ValueError, match="'Perchance' is .* tokens"):
        LocalVlm(tiny_vlm, "cpu", threads=1).yes_no([np.zeros((64, 64, 3), np.uint8)], ["?"], ("Perchance", "No"))
