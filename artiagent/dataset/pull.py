"""Published sets on another machine: found by the beginning of their digest, fetched whole or some shards of them.

A pull of some shards is a data set of its own: its manifest names these files alone and its digest covers their rows.
It says what it is part of: ``part_of`` and ``part_files`` in the summary of its reference.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from artiagent.dataset.card import write_card
from artiagent.dataset.files import appearing
from artiagent.exchange.remote import ExchangeError, Remote, checked, each
from artiagent.pointers import Pointer, PublishError, object_name, pointers, pointers_at
from artiagent.records import SCHEMA_VERSION, DatasetRef, stable_hash
from artiagent.store import MANIFEST, StoreError, file_sha256, open_dataset, read_json, write_atomic

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def find_published(beginning: str, remote: str = "") -> Pointer:
    """The pointer of the one digest that begins so: of those known here, else of those on the remote.

    Raises PublishError when there is none, or more than one, and when the remote cannot be used.
    """
    found = [p for p in pointers() if p.digest.startswith(beginning)]
    if not found and remote:
        found = pointers_at(remote, beginning)
    if len(found) == 1:
        return found[0]
    where = f"here or at {remote}" if remote else "here; say where with --remote"
    listing = ", ".join(p.digest[:12] for p in found)
    raise PublishError(
        f"{beginning}: {'more than one published digest begins' if found else 'no published digest begins'} so "
        f"({listing or where})"
    )


def parse_shards(text: str) -> tuple[int, ...]:
    """``0-3,7`` as numbers, ascending. Raises ValueError saying what was expected."""
    chosen: set[int] = set()
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ValueError(f"shards {text!r}: expected numbers and ranges, counted from 0, e.g. 0-3,7")
        chosen.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(chosen))


def pull_set(pointer: Pointer, out: Path, shards: tuple[int, ...] | None = None) -> DatasetRef:
    """Fetch a published set, or the Parquet files with these numbers, into the new or empty folder ``out``.

    Args:
        pointer: of the set.
        out: folder; it appears when everything is there and its digests are right.
        shards: numbers of its Parquet files in the order of their names; None: all, with what lies beside them.

    Objects are read from the remote by their md5, as DVC's listing of the folder names them. Returns the reference of
    what is in ``out``. Raises ValueError for a number that the set does not have, ExchangeError for a remote that
    cannot be used or lacks objects, StoreError for damaged ones, ExportError when ``out`` is not empty.
    """
    remote = Remote(pointer.remote)
    objects = _objects(remote, pointer)
    with appearing(out) as target:
        _get(remote, objects, target, MANIFEST)
        manifest = json.loads((target / MANIFEST).read_text())
        names = _chosen(manifest, shards, pointer) if shards is not None else [n for n in objects if n != MANIFEST]
        each(lambda name: _get(remote, objects, target, name), names, parallel=4)
        if shards is not None:
            _narrow(target, manifest, names, shards, pointer)
        ref = open_dataset(target)
        if ref is None or (shards is None and ref.digest != pointer.digest):
            raise StoreError(f"{pointer.remote}: holds another set than {pointer.digest[:12]}; publish it again")
    return ref.model_copy(update={"uri": str(out)})


def objects_of(listing: bytes) -> dict[str, str]:
    """File -> md5 of a folder's DVC listing. Raises ExchangeError for names outside the folder."""
    return {checked(entry["relpath"]): checked(entry["md5"]) for entry in json.loads(listing)}


def _objects(remote: Remote, pointer: Pointer) -> dict[str, str]:
    data = remote.read(object_name(pointer.md5))
    if data is None:
        raise ExchangeError(f"{remote.url}: lacks {pointer.path} ({pointer.md5}); publish the set again")
    if f"{_md5(data)}.dir" != pointer.md5:
        raise StoreError(f"{remote.url}: the listing {pointer.md5} is damaged; delete it there and publish again")
    return objects_of(data)


def _get(remote: Remote, objects: dict[str, str], folder: Path, name: str) -> None:
    if name not in objects:
        raise StoreError(f"{remote.url}: the set has no file {name}; publish it again")
    remote.download(object_name(objects[name]), folder / name)
    with (folder / name).open("rb") as file:
        found = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    if found != objects[name]:
        raise StoreError(f"{remote.url}: {name} is damaged (md5 {found}, expected {objects[name]}); delete it there")


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _chosen(manifest: dict[str, Any], shards: tuple[int, ...], pointer: Pointer) -> list[str]:
    files = sorted(manifest["files"])
    if unknown := [number for number in shards if number >= len(files)]:
        raise ValueError(f"{pointer.digest[:12]} has no shard {unknown[0]}: expected 0 to {len(files) - 1}")
    return [files[number] for number in shards]


def _narrow(folder: Path, whole: dict[str, Any], files: list[str], shards: tuple[int, ...], pointer: Pointer) -> None:
    """Replace the whole set's manifest by one of the files that are here, and write a card of their rows."""
    hashes = {name: whole["files"][name] for name in files}
    if damaged := [name for name, sha256 in hashes.items() if file_sha256(folder / name) != sha256]:
        raise StoreError(f"{pointer.remote}: {damaged[0]} is damaged (its sha256 is not the manifest's)")
    write_atomic(folder / MANIFEST, json.dumps({**whole, "files": hashes}).encode())
    digests = [stable_hash(key, text, *images.values()) for key, text, images in read_json(folder)]
    ref = DatasetRef(
        kind=whole["ref"]["kind"], uri="", rows=len(digests), shards=len(files),
        digest=stable_hash(whole["ref"]["kind"], str(SCHEMA_VERSION), *sorted(digests), length=64),
        summary={"part_of": pointer.digest, "part_files": ",".join(map(str, shards))},
    )  # fmt: skip
    extents = {name: extent for name, extent in whole.get("extents", {}).items() if name in hashes}
    manifest = {"ref": ref.model_dump(mode="json"), "stamp": "", "files": hashes, "extents": extents}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    if ref.kind == "curated":
        lineage = {f"lineage.{key}": value for key, value in pointer.lineage.items()}
        located = ref.model_copy(update={"uri": str(folder), "summary": {**lineage, **ref.summary}})
        write_card(located, folder, acknowledged=bool(pointer.acknowledged))
