"""Puts a finished model folder in the place of an older one, so that no reader ever meets half a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A fresh folder beside `out` to write into; it takes the place of `out` when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh, stale = (out.with_name(f".{out.name}.{word}") for word in ("new", "old"))
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    yield fresh
    for file in fresh.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors writes for the owner alone
    if out.exists():
        os.rename(out, stale)
    os.rename(fresh, out)
    shutil.rmtree(stale, ignore_errors=True)
