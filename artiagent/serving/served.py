"""A served model asked like one in process: bare questions about one image each, boxes in its own coordinates.

Knows how the two protocols fit. Does not know the wire (`artiagent.vlm.openai`) or any question.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from artiagent.checkpoints import model_name
from artiagent.config import VlmSection
from artiagent.images import scaled_size
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.serving.address import base_url, model_id
from artiagent.vlm.openai import OpenAiVlm
from artiagent.vlm.prompt import Prompt
from artiagent.vlm.protocol import Answer, Request


class Served(NamedTuple):
    """A model behind a server.

    Args:
        url: with ``/v1``.
        model: the server's name of the model.
        folder: its processor on this machine, which tells its coordinates; "": the section's ``coordinates`` say them.
    """

    url: str
    model: str
    folder: str = ""

    @property
    def stamp(self) -> str:
        """What distinguishes its answers from those in process; the address does not."""
        return f"served {model_name(self.model)}"


class ServedVlm:
    """Asked through an OpenAI-compatible server. Answers are not cached on disk: a name may get other weights.

    Args:
        served: who.
        section: how: timeouts, rates, attempts, ``image_side``.
    """

    def __init__(self, served: Served, section: VlmSection) -> None:
        self.served = served
        own = {"backend": "openai", "base_url": served.url, "model": served.model, "cache": False}
        self.section = section.model_copy(update=own)
        self.name = model_name(served.model)

    def space(self, width: int, height: int) -> CoordinateSpace:
        """By the processor, of the image as it is sent."""
        if self._processor is None:
            return self._backend(1).space(width, height)
        seen = scaled_size(width, height, self.section.image_side)
        units = CoordinateSpace.from_processor(self._processor, *seen)
        return CoordinateSpace(width, height, units.model_width, units.model_height)

    def ask(
        self, images: Sequence[np.ndarray], prompts: Sequence[Prompt], max_tokens: int, yes_no: bool = False
    ) -> list[Answer]:
        """Greedy answers in order, with their errors and times; the probability of Yes where the server tells it.

        Raises VlmUnavailable when nobody answers at all.
        """
        requests = (
            Request("judge", prompt, (image,), str(number), yes_no=yes_no)
            for number, (image, prompt) in enumerate(zip(images, prompts, strict=True))
        )
        return list(self._backend(max_tokens).ask(requests))

    def _backend(self, max_tokens: int) -> OpenAiVlm:
        return OpenAiVlm(self.section.model_copy(update={"max_tokens": max_tokens}), None, "evaluation.vlm")

    @cached_property
    def _processor(self) -> Any:
        if not self.served.folder:
            return None
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self.served.folder)


def find_served(url: str, section: VlmSection, folder: str = "") -> Served:
    """Who answers at an address.

    Args:
        url: http://host:port, with or without /v1.
        section: where the key comes from.
        folder: the model's folder on this machine where it is known; else a server's name that is one tells it.

    Raises ValueError for a wrong address or one without a server.
    """
    where = base_url(url)
    name = model_id(where, section.api_key_env)
    local = name if Path(name).is_absolute() and Path(name, "config.json").is_file() else ""
    return Served(where, name, folder or local)
