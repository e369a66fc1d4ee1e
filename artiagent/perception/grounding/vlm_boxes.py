"""Boxes from a vision-language model: it is asked for every term, and its answer is read as a JSON list of boxes.

Knows the question and how an answer is read. Does not know where terms come from, thresholds or suppression: a model
that writes boxes gives no scores, so that every detection has score 1 and stands in the order in which it was said.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from artiagent.evaluation.parsing import parse_boxes
from artiagent.instruction import prompts
from artiagent.perception.grounding import Detection
from artiagent.vlm.protocol import Sighted

log = logging.getLogger(__name__)
MOST_TOKENS = 160  # of an answer: a box costs nano-VL 8 and others up to about 20


class VlmBoxes:
    """A `Detector` that asks one question per image and term.

    Args:
        vlm: e.g. `artiagent.vlm.local.LocalVlm`; it batches over images and terms alike.
        most_tokens: of one answer; a longer one is cut off and counts as malformed.

    `malformed` counts the answers by what was wrong with them (`evaluation.parsing.STATUSES`); they yield no boxes.
    """

    def __init__(self, vlm: Sighted, most_tokens: int = MOST_TOKENS) -> None:
        self.name = f"vlm:{vlm.name}"
        self.vlm, self.most_tokens = vlm, most_tokens
        self.malformed: Counter[str] = Counter()
        self.asked = 0

    def detect(self, images: Sequence[np.ndarray], terms: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Boxes of every term of an image's list, term by term and in the model's order within a term.

        Args:
            images: uint8 [H, W, 3] of any sizes.
            terms: nouns per image; a repeated one is asked once.
        """
        if len(images) != len(terms):
            raise ValueError(f"{len(images)} images for {len(terms)} lists of terms; expected one list per image")
        asked = [(index, term) for index, names in enumerate(terms) for term in dict.fromkeys(names)]
        said = self.vlm.generate(
            [images[index] for index, _ in asked],
            [prompts.render(prompts.LOCATE_ALL, part=term) for _, term in asked],
            self.most_tokens,
        )
        found: list[list[Detection]] = [[] for _ in images]
        for (index, term), answer in zip(asked, said, strict=True):
            found[index] += self._read(images[index], term, answer)
        return found

    def _read(self, image: np.ndarray, term: str, answer: str) -> list[Detection]:
        height, width = image.shape[:2]
        boxes, status = parse_boxes(answer, self.vlm.space(width, height))
        self.asked += 1
        if status not in ("ok", "empty", "too_many"):
            self.malformed[status] += 1
            log.debug("%s: no boxes in the answer about %r (%s): %.200s", self.name, term, status, answer)
        return [Detection(term, tuple(map(float, box)), 1.0) for box in dict.fromkeys(boxes)]
