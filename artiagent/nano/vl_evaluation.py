"""Measures a vision-language model on held-out clean scenes, each question asked alone in its canonical wording.

Knows questions and their scores. Does not know training or the model's family.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from artiagent.evaluation.metrics import pixel_overlap
from artiagent.evaluation.parsing import parse_boxes
from artiagent.instruction import prompts
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.nano.augment import augmented_view
from artiagent.nano.scenes import render_scene
from artiagent.nano.views import view_of
from artiagent.nano.vl_tasks import ASK, Exchange, ask_mismatch
from artiagent.records import Box
from artiagent.vlm.protocol import Sighted

MOST_TOKENS = {prompts.DESCRIBE_IMAGE: 40, prompts.LOCATE_PART: 48, prompts.LOCATE_MISMATCH: 48}
QUESTIONS_PER_SCENE = {
    prompts.DESCRIBE_IMAGE: 1, prompts.PART_IN_BOX: 4, prompts.LOCATE_PART: 2, prompts.PRESENCE: 2, prompts.COUNT: 2,
}  # fmt: skip
FIGURES = {
    prompts.DESCRIBE_IMAGE: "caption_recall",
    prompts.LOCATE_PART: "part_iou",
    prompts.LOCATE_MISMATCH: "mismatch_iou",
    prompts.PART_IN_BOX: "part_in_box_accuracy",
    prompts.PRESENCE: "presence_accuracy",
    prompts.COUNT: "count_accuracy",
}


@dataclass(frozen=True)
class Asked:
    """uint8 [H, W, 3] image and the question about it."""

    image: np.ndarray
    exchange: Exchange


def evaluate(vlm: Sighted, *, first_seed: int, scenes: int) -> dict[str, float]:
    """Scores 0 to 1 on `scenes` rendered scenes from `first_seed` on.

    `caption_recall`: share of the true caption's words that were said; `part_iou`: mean IoU of the pixels inside the
    boxes; `mismatch_iou`: the same for what an augmentation altered; accuracies of part in box, presence and count;
    `answers_malformed`: share that could not be read, scored 0.
    """
    figures: dict[str, float] = {}
    malformed, total = 0, 0
    for task, asked in held_out_questions(first_seed, scenes).items():
        said = vlm.generate(
            [one.image for one in asked], [one.exchange.question() for one in asked], MOST_TOKENS.get(task, 3)
        )
        scores = [score(one, text) for one, text in zip(asked, said, strict=True)]
        malformed += sum(value is None for value in scores)
        total += len(scores)
        figures[FIGURES[task]] = round(float(np.mean([value or 0.0 for value in scores])), 4)
    return figures | {"answers_malformed": round(malformed / max(1, total), 4), "scenes": scenes}


def held_out_questions(first_seed: int, scenes: int) -> dict[str, list[Asked]]:
    """The same questions for the same arguments, grouped by task."""
    rng, augmenting = random.Random(first_seed), random.Random(first_seed)
    grouped: dict[str, list[Asked]] = defaultdict(list)
    for seed in range(first_seed, first_seed + scenes):
        scene = render_scene(seed)
        view, altered = view_of(scene), augmented_view(scene, augmenting)
        if altered.altered_regions() and (mismatch := ask_mismatch(altered, rng)) is not None:
            grouped[prompts.LOCATE_MISMATCH].append(Asked(altered.image, mismatch))
        for task, count in QUESTIONS_PER_SCENE.items():
            exchanges = (ASK[task](view, rng) for _ in range(count))
            grouped[task] += [Asked(view.image, exchange) for exchange in exchanges if exchange is not None]
    return grouped


def score(asked: Asked, said: str) -> float | None:
    """0 to 1, None for an answer that cannot be read."""
    task, truth = asked.exchange.task, asked.exchange.answer
    if task == prompts.DESCRIBE_IMAGE:
        words = set(truth.split())
        return len(words & set(re.findall(r"[a-z]+", said.lower()))) / len(words)
    if task in (prompts.LOCATE_PART, prompts.LOCATE_MISMATCH):
        height, width = asked.image.shape[:2]
        boxes, status = parse_boxes(said, CoordinateSpace(width, height, width, height))
        if status not in ("ok", "empty"):
            return None
        return pixel_overlap(_covered(json.loads(truth), height, width), _covered(boxes, height, width))[0]
    expected = r"\d+" if task == prompts.COUNT else f"{prompts.YES}|{prompts.NO}"
    return float(said == truth) if re.fullmatch(expected, said) else None


def _covered(boxes: list[list[int]] | tuple[Box, ...], height: int, width: int) -> np.ndarray:
    """bool [H, W] of the pixels inside any of the boxes."""
    plane = np.zeros((height, width), bool)
    for box in boxes:
        plane[Box(*box).slices] = True
    return plane
