"""Files that are whole or not there: atomic replacement and the digests that tell the one from the other.

Knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from artiagent.records import stable_hash


class StoreError(ValueError):
    """A data set that cannot be read or written; the message names the file and what to do."""


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(directory: Path) -> str:
    """Hex sha256 over relative names and contents of all files of a folder (model folders, input trees)."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return stable_hash(*(v for p in files for v in (p.relative_to(directory).as_posix(), file_sha256(p))), length=64)


def content_sha256(place: Path) -> str:
    """Hex sha256 of a file, or of a folder as `folder_sha256` takes it."""
    return folder_sha256(place) if place.is_dir() else file_sha256(place)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary sibling, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, data, staging=path.parent, sync=True)


def replace(path: Path, data: bytes, staging: Path, sync: bool = False) -> None:
    """Put ``data`` in the place of ``path`` by way of a temporary file of this process in the folder ``staging``."""
    with staged(path, staging) as temporary, temporary.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def staged(path: Path, staging: Path) -> Iterator[Path]:
    """A file to write, in ``staging`` under a name of its own; it becomes ``path`` when all went well."""
    temporary = staging / f".{path.name}.{token_hex(6)}.tmp"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Return when the file is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
