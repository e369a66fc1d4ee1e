"""Finds data sets by folder, digest or the beginning of a digest: in the store, or published and fetched from there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from artiagent.pointers import Pointer, find_pointer, pointers
from artiagent.publish import pull
from artiagent.records import DatasetRef
from artiagent.store import MANIFEST, home, open_dataset

_SHORTEST = 4  # characters of a digest


class UnknownSet(ValueError):
    """No such data set, or more than one; the message names what there is."""


class KnownSet(NamedTuple):
    """A complete set: in the store (``folder``), published (``pointer``), or both."""

    kind: str
    digest: str
    rows: int
    folder: Path | None = None
    pointer: Pointer | None = None


def known_sets(kinds: Sequence[str] = ("curated",)) -> list[KnownSet]:
    """Sets below the project's home, by digest. Manifests are read, shards are not checked."""
    found: dict[str, KnownSet] = {p.digest: KnownSet(p.kind, p.digest, p.rows, None, p) for p in pointers()}
    for kind in kinds:
        for path in sorted((home() / "store" / kind).glob(f"*/{MANIFEST}")):
            ref = json.loads(path.read_text())["ref"]
            pointer = found[ref["digest"]].pointer if ref["digest"] in found else None
            found[ref["digest"]] = KnownSet(ref["kind"], ref["digest"], ref["rows"], path.parent, pointer)
    return sorted((entry for entry in found.values() if entry.kind in kinds), key=lambda entry: entry.digest)


def resolve(text: str, kinds: Sequence[str] = ("curated",)) -> DatasetRef:
    """Reference of the set that a person means.

    Args:
        text: folder of a complete set, or the beginning of a known digest.
        kinds: what it may be.

    Returns the reference, its summary with ``lineage.*`` where the set was published. Raises UnknownSet, StoreError
    when shards are damaged, PublishError when a published set cannot be fetched.
    """
    folder = Path(text).expanduser()
    ref = open_dataset(folder) if folder.is_dir() else None
    if ref is None:
        if folder.is_dir():
            raise UnknownSet(f"{text}: no complete data set there (no {MANIFEST}); rerun the stage that writes it")
        ref = _open(_by_digest(text, kinds))
    if ref.kind not in kinds:
        raise UnknownSet(f"{text}: a set of {ref.kind}, expected {' or '.join(kinds)}")
    pointer = find_pointer(ref.digest)
    lineage = {f"lineage.{key}": value for key, value in pointer.lineage.items()} if pointer else {}
    return ref.model_copy(update={"uri": str(Path(ref.uri).resolve()), "summary": {**lineage, **ref.summary}})


def _by_digest(text: str, kinds: Sequence[str]) -> KnownSet:
    known = known_sets(kinds)
    fitting = [entry for entry in known if len(text) >= _SHORTEST and entry.digest.startswith(text.lower())]
    if len(fitting) == 1:
        return fitting[0]
    listing = ", ".join(entry.digest[:12] for entry in fitting or known) or "none yet; 'artiagent run' makes one"
    problem = "more than one digest begins so" if fitting else "no such folder, and no known digest begins so"
    raise UnknownSet(f"{text}: {problem} ({'these' if fitting else 'known'}: {listing})")


def _open(known: KnownSet) -> DatasetRef:
    folder = known.folder or pull(known.pointer)
    if (ref := open_dataset(folder)) is None:
        raise UnknownSet(f"{folder}: no complete data set there (no {MANIFEST})")
    return ref
