"""What can be collected, and what a look at a place found."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import NamedTuple

from artiagent.exchange.remote import Remote

# Kinds of folders that stages make again when they are asked to. Results of evaluations and the like are none of them.
COLLECTED = (
    "scenes", "jobs-*", "pairs", "curated", "conversations", "tuned", "predictions-base", "predictions-tuned", "reward",
    "drawn", "rendered", "reconstructions",
)  # fmt: skip
DAY = 86_400
_ID = re.compile(r"[0-9a-f]{20}(\.[0-9a-f]{12})?")


def collected_kind(name: str) -> bool:
    """Whether folders of this kind are looked at."""
    return any(fnmatch(name, pattern) for pattern in COLLECTED)


def is_identity(name: str) -> bool:
    """Whether a folder's name is one of `store.dataset_dir`."""
    return _ID.fullmatch(name) is not None


class Garbage(NamedTuple):
    """Something that can go: a folder or file of this machine, or the names of remote files."""

    place: str
    bytes: int
    why: str
    names: tuple[str, ...] = ()


class Survey(NamedTuple):
    """What was found at a place. ``held``: garbage, were it not for unfinished runs; ``young`` is left alone;
    ``stages``: outputs of stages were looked at, not published sets."""

    where: str
    garbage: tuple[Garbage, ...]
    held: tuple[Garbage, ...]
    unfinished: dict[str, str]
    referenced: int
    young: int
    remote: Remote | None
    days: float
    stages: bool = True
