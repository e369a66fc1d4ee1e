"""Parquet files that a folder's manifest names and that lie elsewhere: fetched when they are read."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artiagent.exchange.folders import sidecar_of
from artiagent.exchange.remote import ExchangeError, Remote, checked, each
from artiagent.parts import ORIGIN
from artiagent.records import stable_hash
from artiagent.store import MANIFEST, home


def materialise(directory: Path, name: str) -> Path:
    """Fetch a Parquet file of a data set folder that came from the store; returns its path.

    Args:
        directory: folder with ``origin.json``.
        name: file that its manifest, or the sidecar of a part, names.

    Several processes may ask at the same time: one fetches. Raises ExchangeError when the folder has no origin, does
    not name the file, or when the store holds another content.
    """
    path = directory / checked(name)
    if path.is_file():
        return path
    sha256, remote = _digest(directory, name), _origin(directory)
    with _alone(path):
        if not path.is_file():
            remote.download(name, path, sha256)
    return path


def materialise_all(directory: Path, parallel: int = 4) -> None:
    """Fetch all Parquet files of a complete data set folder that are not here. Raises ExchangeError as above."""
    if not (directory / ORIGIN).is_file():
        return
    names = json.loads((directory / MANIFEST).read_text())["files"]
    each(lambda name: materialise(directory, name), names, parallel)


def _origin(directory: Path) -> Remote:
    try:
        return Remote(json.loads((directory / ORIGIN).read_text())["url"])
    except (OSError, ValueError, KeyError) as error:
        raise ExchangeError(f"{directory}: files are missing and no {ORIGIN} says where they lie ({error})") from error


def _digest(directory: Path, name: str) -> str:
    """What the manifest says; while there is none, what the sidecar of the part says."""
    files: dict[str, str] = {}
    if (directory / MANIFEST).is_file():
        files = json.loads((directory / MANIFEST).read_text())["files"]
    elif (sidecar := directory / sidecar_of(name)).is_file():
        part = json.loads(sidecar.read_text())
        files = {part["file"]: part["sha256"]}
    if name not in files:
        raise ExchangeError(f"{directory}: neither its manifest nor a part names {name}")
    return files[name]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time; without locks, where the file system has none, several fetch it."""
    lock = home() / "exchange" / f"{stable_hash(str(path), length=20)}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
