"""Images in miniature, and a model that answers as it is told instead of looking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from artiagent.images import encode
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import LOCATE_ARTIFACTS
from artiagent.vlm.prompt import Prompt
from artiagent.vlm.protocol import Answer


class Told:
    """An `Asker`: the score of an image is its first pixel's red in 255ths; what else it says is given, None: an error.

    `asked` holds how many images every yes/no call showed.
    """

    def __init__(self, boxes: str | None = "[[1,2,30,40]]", explanation: str | None = 'a, b "c"; ü 犬') -> None:
        self.boxes, self.explanation = boxes, explanation
        self.asked: list[int] = []

    def space(self, width: int, height: int) -> CoordinateSpace:
        if max(width, height) > 100 * min(width, height):
            raise ValueError("too long")
        return CoordinateSpace(width, height, width, height)

    def ask(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt], most: int, yes_no: bool = False) -> list:
        if yes_no:
            self.asked.append(len(images))
            return [self.judge(image[0, 0, 0] / 255) for image in images]
        texts = [self.boxes if prompt.name == LOCATE_ARTIFACTS else self.explanation for prompt in prompts]
        return [Answer(error="http 500") if text is None else Answer(text) for text in texts]

    def judge(self, chance: float) -> Answer:
        return Answer("", probability=chance)


@pytest.fixture
def told() -> type[Told]:
    return Told


@pytest.fixture
def picture():
    """Encoded image of 48 x 40 px: noise by ``number``, its first pixel's red is ``red``."""

    def draw(number: int, red: int = 255, size: tuple[int, int] = (40, 48)) -> bytes:
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        pixels[0, 0, 0] = red
        return encode(pixels)

    return draw
