"""What refers to derived data: records of runs and pointers of published sets, here and in the store.

A reference is a digest, or the id of a folder, that occurs in any JSON or YAML file of a run's folder; so a table or a
report's figures keep what they name, whatever the pipeline that wrote them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from artiagent.exchange.remote import Remote, each
from artiagent.pointers import pointers
from artiagent.store import runs_dir

RECORD = "run.json"
_SUFFIXES = (".json", ".yaml")
_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{16,64}(?![0-9a-f])")
_LENGTH = 16  # of a digest, as some records cut it


class References(NamedTuple):
    """Beginnings of digests that something refers to, and the runs that are not finished (name -> when they began)."""

    known: frozenset[str]
    unfinished: dict[str, str]

    def name(self, digest: str) -> bool:
        """Whether something refers to this digest or id."""
        return digest[:_LENGTH] in self.known

    def without(self, abandoned: Iterable[str]) -> References:
        """The same, not waiting for these runs. Raises ValueError for one that is not unfinished."""
        if unknown := sorted(set(abandoned) - set(self.unfinished)):
            names = ", ".join(self.unfinished) or "none"
            raise ValueError(f"--abandon {unknown[0]}: no unfinished run of that name (unfinished: {names})")
        return self._replace(unfinished={k: v for k, v in self.unfinished.items() if k not in set(abandoned)})


def references_here() -> References:
    """Of this machine's runs and pointers."""
    paths = (path for path in runs_dir().rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    found = _gather((path.relative_to(runs_dir()), path.read_bytes()) for path in paths)
    published = {pointer.digest[:_LENGTH] for pointer in pointers()}
    return found._replace(known=found.known | published)


def references_in(store: Remote) -> References:
    """Of the runs that the store holds."""
    names = [name for name in store.names("runs") if Path(name).suffix in _SUFFIXES]
    texts: dict[str, bytes] = {}
    each(lambda name: texts.update({name: store.read(f"runs/{name}") or b""}), names, parallel=16)
    return _gather((Path(name), text) for name, text in texts.items() if Path(name).name != "files.json")


def _gather(files: Iterator[tuple[Path, bytes]]) -> References:
    known: set[str] = set()
    unfinished: dict[str, str] = {}
    for path, text in files:
        known.update(match[:_LENGTH].decode() for match in _DIGEST.findall(text))
        if path.name == RECORD and (told := _record(text)) is not None and not told.get("finished"):
            unfinished[path.parent.name] = str(told.get("started", ""))
    return References(frozenset(known), unfinished)


def _record(text: bytes) -> dict[str, str] | None:
    try:
        told = json.loads(text)
    except ValueError:
        return {}  # half a record is an unfinished one
    return told if isinstance(told, dict) else None
