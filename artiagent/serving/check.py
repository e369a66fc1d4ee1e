"""Health check of a served model: it is there, says its name, and answers a trained question in its form."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from artiagent.config import VlmSection
from artiagent.evaluation.parsing import parse_said_verdict
from artiagent.instruction import prompts
from artiagent.serving.address import NoServer
from artiagent.serving.served import ServedVlm, find_served
from artiagent.vlm.prompt import question
from artiagent.vlm.protocol import VlmUnavailable

_WORDS = 4  # tokens in which Yes or No comes
_SIDE = 112  # px: a multiple of the patches of every family


class Health(NamedTuple):
    """What was found; ``problem`` is "" when all is well. Times are in seconds, of the second question (a first one
    may wait for the model to be loaded)."""

    url: str
    problem: str = ""
    model: str = ""
    answer: str = ""
    seconds: float = 0.0


def check_server(url: str, section: VlmSection) -> Health:
    """Ask whether the image has artifacts, twice. Raises ValueError for what is no address.

    Args:
        url: http://host:port, with or without /v1.
        section: timeouts, the key's place.
    """
    try:
        served = find_served(url, section)
        asked = question(prompts.BINARY, prompts.render(prompts.BINARY))
        vlm = ServedVlm(served, section.model_copy(update={"attempts": 1}))
        for _ in range(2):
            began = time.perf_counter()
            (answer,) = vlm.ask([tiny_image()], [asked], _WORDS, yes_no=True)
            seconds = time.perf_counter() - began
    except (NoServer, VlmUnavailable) as error:
        return Health(url, str(error))
    problem = ""
    if answer.error:
        problem = f"no answer: {answer.error}"
    elif answer.probability is None and parse_said_verdict(answer.text)[0] is None:
        problem = f"answers {answer.text[:60]!r} to a yes/no question; expected Yes or No: is it a fine-tuned model?"
    return Health(served.url, problem, served.model, answer.text, seconds)


def tiny_image() -> np.ndarray:
    """uint8 [112, 112, 3]: a disc before a gradient."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    picture = np.stack([rows * 2, columns * 2, np.full_like(rows, 160)], axis=-1).astype(np.uint8)
    disc = (rows - _SIDE // 2) ** 2 + (columns - _SIDE // 2) ** 2 < (_SIDE // 4) ** 2
    picture[disc] = (220, 120, 40)
    return picture
