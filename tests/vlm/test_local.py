from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from artiagent.vlm.local import LocalVlm

QUESTIONS = ["Is there a tail in [8,8,64,64]?", "Does the dog have an ear that one can see? Look again.", "Count."]


@pytest.fixture(scope="module")
def vlm(tiny_vlm: Path) -> LocalVlm:
    return LocalVlm(tiny_vlm, device="cpu", threads=1)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = ((128, 128), (96, 160), (64, 64))
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_yes_no_does_not_depend_on_what_else_is_in_the_batch(vlm: LocalVlm, images: list[np.ndarray]) -> None:
    together = vlm.yes_no(images, QUESTIONS)
    alone = np.array([vlm.yes_no([image], [text])[0] for image, text in zip(images, QUESTIONS, strict=True)])
    assert together.shape == (3,)
    assert np.abs(together - alone).max() < 1e-5
    assert len(np.unique(together.round(9))) == 3


def test_yes_no_is_the_softmax_of_the_two_answers_at_the_first_generated_token(
    vlm: LocalVlm, images: list[np.ndarray]
) -> None:
    processor = vlm.processor
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[0]}]}
    inputs = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    batch = processor(text=[inputs], images=[images[0]], return_tensors="pt")
    step = vlm.model.generate(
        **batch, max_new_tokens=1, do_sample=False, output_scores=True, return_dict_in_generate=True
    ).scores[0][0]
    ids = [processor.tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No")]
    assert vlm.yes_no(images[:1], QUESTIONS[:1])[0] == pytest.approx(torch.softmax(step[ids].double(), 0)[0].item())


def test_yes_no_sees_the_image(vlm: LocalVlm, images: list[np.ndarray]) -> None:
    same_question = [QUESTIONS[0]] * 2
    first, second = vlm.yes_no([images[0], 255 - images[0]], same_question)
    assert first != second


def test_generation_is_greedy_and_independent_of_batching(vlm: LocalVlm, images: list[np.ndarray]) -> None:
    together = vlm.generate(images, QUESTIONS, max_new_tokens=6)
    vlm.batch_size, before = 1, vlm.batch_size
    one_by_one = vlm.generate(images, QUESTIONS, max_new_tokens=6)
    vlm.batch_size = before
    assert together == one_by_one
    assert not any("<|" in text or QUESTIONS[0] in text for text in together)


def test_boxes_are_spoken_of_in_the_processors_units(vlm: LocalVlm) -> None:
    assert vlm.space(256, 256).to_model((64, 0, 256, 128)) == [32, 0, 128, 64]


def test_no_questions_no_answers(vlm: LocalVlm) -> None:
    assert vlm.generate([], [], max_new_tokens=3) == [] and vlm.yes_no([], []).shape == (0,)


def test_bad_input_is_named(vlm: LocalVlm, images: list[np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 images for 1 prompts"):
        vlm.yes_no(images, QUESTIONS[:1])
    with pytest.raises(ValueError, match="model folder"):
        LocalVlm(tmp_path / "nowhere")
