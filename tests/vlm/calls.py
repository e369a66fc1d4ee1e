"""Calls in miniature: questions about small images, and the backend that asks them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from artiagent.config import VlmSection
from artiagent.vlm.openai import OpenAiVlm
from artiagent.vlm.prompt import Prompt
from artiagent.vlm.protocol import Request
from tests.vlm.servers import TEXT_SCHEMA


def image(number: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def question(number: int, schema: dict | None = TEXT_SCHEMA, yes_no: bool = False) -> Request:
    return Request(
        "label", Prompt("label", 1, "h", f"question {number}", schema), (image(number),), str(number), yes_no=yes_no
    )


def answer_to(number: int) -> str:
    """What `servers.Answering` says."""
    return json.dumps({"label": f"seen: question {number}"})


def backend(url: str, folder: Path | None = None, **fields: Any) -> OpenAiVlm:
    quick = {"model": "small-vl", "backoff": 0.01, "timeout": 10.0, "concurrency": 8, "attempts": 4}
    section = VlmSection(backend="openai", base_url=url, **{**quick, **fields})
    return OpenAiVlm(section, folder, "curation.vlm")


def asking_threads() -> int:
    return sum(thread.name == "vlm" for thread in threading.enumerate())
