"""Boxes from a vision-language model: what is asked, how answers are read, what a malformed one costs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from artiagent.instruction import prompts
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.perception.grounding import Detection
from artiagent.perception.grounding.vlm_boxes import VlmBoxes
from artiagent.vlm.local import LocalVlm


class Scripted:
    """Answers from a table (term -> answer) in per mille; notes what it was asked."""

    name = "scripted"

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.asked = answers, []

    def space(self, width: int, height: int) -> CoordinateSpace:
        return CoordinateSpace(width, height, 1000, 1000)

    def generate(self, images: Sequence[np.ndarray], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        assert len(images) == len(prompts)
        self.asked += [(image.shape, prompt, max_new_tokens) for image, prompt in zip(images, prompts, strict=True)]
        return [self.answers[re.match("Locate every (.*) in the image", prompt).group(1)] for prompt in prompts]


WIDE, TALL = np.zeros((50, 200, 3), np.uint8), np.zeros((300, 100, 3), np.uint8)


def test_every_term_of_every_image_is_asked_once_in_one_call() -> None:
    vlm = Scripted({"dog": "[[100,200,500,1000],[600,0,700,500]]", "cat tail": "[]", "ear": "[[0,0,100,100]]"})
    found = VlmBoxes(vlm, most_tokens=70).detect([WIDE, TALL], [["dog", "cat tail", "dog"], ["ear", "dog"]])
    assert [(shape, text.split(" in the ")[0]) for shape, text, _ in vlm.asked] == [
        (WIDE.shape, "Locate every dog"), (WIDE.shape, "Locate every cat tail"),
        (TALL.shape, "Locate every ear"), (TALL.shape, "Locate every dog"),
    ]  # fmt: skip
    assert {most for *_, most in vlm.asked} == {70}
    assert found == [
        [Detection("dog", (20.0, 10.0, 100.0, 50.0), 1.0), Detection("dog", (120.0, 0.0, 140.0, 25.0), 1.0)],
        [
            Detection("ear", (0.0, 0.0, 10.0, 30.0), 1.0),
            Detection("dog", (10.0, 60.0, 50.0, 300.0), 1.0),
            Detection("dog", (60.0, 0.0, 70.0, 150.0), 1.0),
        ],
    ]


def test_malformed_answers_are_counted_and_yield_nothing() -> None:
    answers = {
        "dog": "[[100,200,500,1000],[600,0,", "cat": "There is no cat.", "horse": "[[5,5,1,9]]",
        "car": "[[0,0,500,500],[0,0,500,500]]", "chair": '```json\n[{"bbox_2d": [0, 0, 1000, 1000]}]\n```',
    }  # fmt: skip
    detector = VlmBoxes(Scripted(answers))
    (found,) = detector.detect([WIDE], [list(answers)])
    assert [(d.phrase, d.box) for d in found] == [("car", (0, 0, 100, 25)), ("chair", (0, 0, 200, 50))]
    assert detector.malformed == {"truncated": 1, "prose": 1, "invalid_box": 1} and detector.asked == 5


def test_nothing_to_ask_and_lists_that_do_not_fit() -> None:
    detector = VlmBoxes(Scripted({}))
    assert detector.detect([], []) == [] and detector.detect([WIDE], [[]]) == [[]]
    with pytest.raises(ValueError, match="1 images for 2 lists"):
        detector.detect([WIDE], [["dog"], ["cat"]])


def test_a_model_folder_answers_the_same_whatever_the_batch(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, hidden=48, vision_hidden=32, depth=1)
    save_model(tmp_path / "vl", model, build_processor(tokenizer))
    images = [np.random.default_rng(n).integers(0, 256, (128, 128, 3), np.uint8) for n in range(2)]
    terms = [["dog", "leg"], ["car", "wheel", "door"]]
    one, many = (VlmBoxes(LocalVlm(tmp_path / "vl", "cpu", batch_size=size), most_tokens=12) for size in (1, 5))
    assert one.detect(images, terms) == many.detect(images, terms)
    assert one.name == "vlm:vl" and one.asked == 5 and sum(one.malformed.values()) == sum(many.malformed.values()) > 0


def test_the_new_question_leaves_the_stamps_of_others_alone() -> None:
    assert (
        prompts.prompt_hash(prompts.BINARY, prompts.LOCATE_ARTIFACTS, prompts.DESCRIBE_ARTIFACTS) == "05ce56ec3b78c540"
    )
