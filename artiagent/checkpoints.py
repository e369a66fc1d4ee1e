"""Model folders as references: a name, a place, and the sha256 that enters cache keys and records."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from artiagent.records import CheckpointRef
from artiagent.store import checkout, folder_sha256


def checkpoint_ref(name: str, location: str) -> CheckpointRef:
    """Reference a local model folder (absolute, or relative to the checkout or current folder) or a cached hub id.

    Raises ValueError naming the location when there is no such folder and the hub's cache does not hold it.
    """
    folder = locate(location)
    return CheckpointRef(name=name, uri=str(folder), sha256=folder_sha256(folder))


def locate(location: str, files: Sequence[str] | None = None, kind: Literal["model", "dataset"] = "model") -> Path:
    """Resolve a path of the configuration to an existing folder or file; ``files`` are the patterns of those that are
    wanted of a hub repository, None for all."""
    roots = [Path.cwd(), *([root] if (root := checkout()) else [])]
    for candidate in (Path(location).expanduser(), *(root / location for root in roots)):
        if candidate.exists():
            return candidate.resolve()
    if location.count("/") == 1 and not location.startswith(("data/", ".", "/")):
        return _from_hub(location, files, kind)
    raise ValueError(
        f"{location}: no such file or folder; embedded data comes with 'dvc pull' (or 'make setup'), "
        "other models with a local path or a hub id"
    )


def model_name(location: str) -> str:
    """Hub id, also of a folder in the hub's cache; else the last part of the path."""
    if cached := re.search(r"models--([^/]+?)--([^/]+)", location):
        return f"{cached[1]}/{cached[2]}"
    is_path = location.startswith(("/", ".", "~", "data/")) or location.count("/") > 1 or Path(location).exists()
    return Path(location).name if is_path else location


def _from_hub(repository: str, files: Sequence[str] | None, kind: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        token = os.environ.get("HF_TOKEN")
        return Path(snapshot_download(repository, repo_type=kind, token=token, allow_patterns=files))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise ValueError(f"{repository}: not in the hub's cache and cannot be downloaded ({error})") from error
