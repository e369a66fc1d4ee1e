"""Garbage on this machine: in the store, and in the repository of published sets."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from stat import S_ISREG

from artiagent.dataset.garbage.found import DAY, Garbage, Survey, collected_kind, is_identity
from artiagent.dataset.garbage.references import References, references_here
from artiagent.dataset.pull import objects_of
from artiagent.parts import CHUNKS, PARTS
from artiagent.pointers import POINTERS, object_name, pointers
from artiagent.store import MANIFEST, folder_sha256, home


def survey_here(days: float, abandon: Sequence[str]) -> Survey:
    """See `garbage.survey`."""
    references = references_here().without(abandon)
    until = time.time() - days * DAY
    found, referenced, young = [], 0, 0
    for folder in _folders(home() / "store"):
        size, newest = size_of(folder)
        if newest > until:
            young += 1
        elif folder.name.startswith("."):
            found.append(Garbage(str(folder), size, "left by a process that was killed"))
        elif _referenced(folder, references):
            referenced += 1
        else:
            found.append(Garbage(str(folder), size, _why(folder)))
    pushed = [Garbage(str(p), size, why) for p, why in _unpublished() for size, at in [size_of(p)] if at <= until]
    held, garbage = (found, []) if references.unfinished else ([], found)
    return Survey(str(home()), (*garbage, *pushed), tuple(held), references.unfinished, referenced, young, None, days)


def _folders(store: Path) -> Iterator[Path]:
    for kind in sorted(store.glob("*")):
        if kind.is_dir() and collected_kind(kind.name):
            for folder in sorted(kind.iterdir()):
                if folder.is_dir() and (is_identity(folder.name) or folder.name.endswith(".tmp")):
                    yield folder


def _referenced(folder: Path, references: References) -> bool:
    if references.name(folder.name):
        return True
    if (folder / MANIFEST).is_file():
        return references.name(json.loads((folder / MANIFEST).read_text())["ref"]["digest"])
    return references.name(folder_sha256(folder))


def _why(folder: Path) -> str:
    begun = any((folder / name).exists() for name in (CHUNKS, PARTS, "stages"))
    unfinished = begun and not (folder / MANIFEST).is_file()
    return "unfinished, and nothing refers to it" if unfinished else "nothing refers to it"


def _unpublished() -> Iterator[tuple[Path, str]]:
    """In the repository of published sets: what has no pointer, and DVC's objects that are in no set that has one."""
    repository = home() / "datasets"
    known = pointers(repository)
    names = {pointer.path.removesuffix(".dvc") for pointer in known}
    for path in sorted(repository.glob("[!.]*")):
        if path.name != POINTERS and path.name.removesuffix(".dvc") not in names:
            yield path, "no pointer"
    for path in sorted(repository.glob(".pushing/*")):
        yield path, "a push that was killed"
    cache = repository / ".dvc" / "cache"
    wanted = {pointer.md5 for pointer in known}
    for pointer in known:
        if (path := cache / object_name(pointer.md5)).is_file():
            wanted |= set(objects_of(path.read_bytes()).values())
    for path in sorted(cache.glob("files/md5/??/*")):
        if path.parent.name + path.name not in wanted:
            yield path, "an object of no published set"


def size_of(place: Path) -> tuple[int, float]:
    """Bytes of the files, and when anything in it was last written or, for a folder, used."""
    total, newest = 0, 0.0
    for path in (place, *place.rglob("*")):
        with suppress(FileNotFoundError):
            stat = path.lstat()
            total += stat.st_size if S_ISREG(stat.st_mode) else 0
            newest = max(newest, stat.st_mtime)
    return total, newest


def remove(place: Path) -> bool:
    """A folder goes in one step, so that nobody reads half of it, with what lies beside it under its name. Returns
    whether it went."""
    if not place.is_dir():
        place.unlink(missing_ok=True)
        return True
    aside = place.with_name(f".{place.name}.{token_hex(6)}.tmp")
    try:
        place.rename(aside)
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    for beside in place.parent.glob(f"{place.name}.*"):
        if beside.is_file():
            beside.unlink(missing_ok=True)
    return True
