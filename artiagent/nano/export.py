"""Puts a finished model folder in the place of an older one, so that no reader ever meets half a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from artiagent.nano.loop import Progress


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


def write_training(
    folder: Path, report: Mapping[str, Any], net: nn.Module, progress: Progress, held_out: object, **more: object
) -> dict[str, Any]:
    """Write ``training.json``: how the weights beside it were made and what they can do. Returns what it holds.

    Args:
        folder: model folder.
        report: ``recipe`` (with its ``batch``) and ``hardware``.
        net: what was exported.
        progress: how long it was trained.
        held_out: figures on scenes that training did not see.
        more: further entries.
    """
    full = dict(report) | {
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": progress.step,
        "images": progress.step * report["recipe"]["batch"],
        "seconds": round(progress.seconds, 1),
        "held_out": held_out,
        **more,
        "curve": progress.curve,
    }
    (folder / "training.json").write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
    return full
