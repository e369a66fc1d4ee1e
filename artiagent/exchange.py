"""What other machines need of a folder, through the object store that ``$ARTIAGENT_STORE`` names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from artiagent.shards import Shard


def fetch(ref: Any) -> Any:
    return ref


def send(ref: Any) -> Any:
    return ref


@contextmanager
def mirrored(out: Path, shard: Shard | None) -> Iterator[None]:
    yield


def ensure_inputs(places: Sequence[Path]) -> None:
    return None


def fetch_run(name: str) -> None:
    return None


def send_run(name: str) -> None:
    return None
