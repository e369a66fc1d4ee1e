"""The judge: asks a vision-language model about the target's box on the twin and on the artifact image.

The question is the canonical "is there a <part> in <box>?". A weak judge rarely flips its answer but does move, so what
counts is the difference of P(Yes) between the two sides, which also cancels its prejudice about part and place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from artiagent.config import CurationSection
from artiagent.instruction.prompts import PART_IN_BOX, render
from artiagent.records import Artifact, Reason, Tool
from artiagent.vlm.protocol import Vlm


class View(NamedTuple):
    """One artifact before the judge; images are uint8 [H, W, 3]."""

    clean: np.ndarray
    image: np.ndarray
    artifact: Artifact


@dataclass(frozen=True)
class Opinion:
    """P(Yes) for "is there a <part> in <box>?" on the twin and on the artifact image; NaN without an answer."""

    before: float
    after: float

    def reason(self, tool: Tool, section: CurationSection) -> Reason | None:
        """Whether the difference speaks for the artifact.

        A part that was added must become more certain by `judge_margin`, one that was removed less certain. A
        distorted part or a fused entity is still somewhat itself: it only must not gain more than `judge_slack`.
        """
        gain = self.after - self.before
        if not math.isfinite(gain):
            return "vlm_error"
        if tool == "add":
            convinced = gain >= section.judge_margin
        elif tool == "remove":
            convinced = -gain >= section.judge_margin
        else:
            convinced = gain <= section.judge_slack
        return None if convinced else "judge_rejected"

    def __str__(self) -> str:
        return f"P(yes) {self.before:.2f} -> {self.after:.2f}"


def judge(vlm: Vlm, views: Sequence[View]) -> list[Opinion]:
    """Ask about every artifact, both sides, in as few batches as the backend allows."""
    questions = [_question(vlm, view) for view in views]
    images = [view.clean for view in views] + [view.image for view in views]
    answers = vlm.yes_no(images, questions * 2)
    return [Opinion(float(b), float(a)) for b, a in zip(answers[: len(views)], answers[len(views) :], strict=True)]


def _question(vlm: Vlm, view: View) -> str:
    injection = view.artifact.injection
    height, width = view.image.shape[:2]
    box = vlm.space(width, height).to_model(view.artifact.box)
    return render(PART_IN_BOX, part=injection.part or injection.entity, box=box)
