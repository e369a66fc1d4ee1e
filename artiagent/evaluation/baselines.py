"""Answers that need no model: what a score must beat before it means anything. They know an image's size and nothing
else.
"""

from __future__ import annotations

from collections.abc import Callable

from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.records import Box, Prediction

TRIVIAL = "trivial"
SENTENCE = "A part of the figure is distorted, and an extra part grows where there should be none."


def always_yes(item: BenchmarkItem) -> Prediction:
    return _prediction(item, "always_yes", verdict=True, score=1.0)


def whole_image(item: BenchmarkItem) -> Prediction:
    return _prediction(item, "whole_image", boxes=(Box(0, 0, item.width, item.height),))


def centre_box(item: BenchmarkItem) -> Prediction:
    """Half of each side, in the middle."""
    left, top = item.width // 4, item.height // 4
    return _prediction(item, "centre_box", boxes=(Box(left, top, item.width - left, item.height - top),))


def fixed_sentence(item: BenchmarkItem) -> Prediction:
    return _prediction(item, "fixed_sentence", explanation=SENTENCE)


# name -> (the only task it is scored on, its answer)
BASELINES: dict[str, tuple[str, Callable[[BenchmarkItem], Prediction]]] = {
    "always_yes": ("detection", always_yes),
    "whole_image": ("localization", whole_image),
    "centre_box": ("localization", centre_box),
    "fixed_sentence": ("explanation", fixed_sentence),
}


def _prediction(
    item: BenchmarkItem,
    name: str,
    *,
    verdict: bool | None = None,
    score: float | None = None,
    boxes: tuple[Box, ...] = (),
    explanation: str = "",
) -> Prediction:
    return Prediction(
        benchmark="",
        item_id=item.item_id,
        model=name,
        model_sha256=TRIVIAL,
        prompt_hash=TRIVIAL,
        verdict=verdict,
        score=score,
        boxes=boxes,
        explanation=explanation,
    )
