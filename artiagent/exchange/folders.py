"""Folders of the store, sent and fetched: data sets, models, and whatever else a stage leaves.

A folder ``<home>/store/<kind>/<id>`` lies at ``store/<kind>/<id>`` remotely. ``files.json`` there lists every file with
its sha256 and is written last: its presence says that the folder is complete. Of a data set the manifest and the small
files come at once, the Parquet files of the manifest when they are read (`parquet`); other folders come whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

from pydantic import ValidationError

from artiagent.exchange.inputs import input_here
from artiagent.exchange.remote import ExchangeError, Found, Remote, checked, each, open_store
from artiagent.parts import CHUNKS, ORIGIN, PARTS
from artiagent.records import CheckpointRef, DatasetRef, Record
from artiagent.store import MANIFEST, file_sha256, folder_sha256, home, write_atomic

LISTING, SENDING, BESIDE = "files.json", "sending.json", ".beside"
PART_KIND = "-part"  # end of the kind of a shard's own reference; its files travel with the stage
_DERIVED = re.compile(r"(?:.*/)?store/([\w.-]+/[0-9a-f]{20})(?:\.[0-9a-f]{12})?/?", re.ASCII)
_LABEL = re.compile(r"-(\d{5,}-of-\d{5,})\.parquet$")
_sent: dict[str, tuple[Any, ...]] = {}  # of this process: address -> names, sizes and times of what is there


class SentFile(Record):
    sha256: str
    size: int


class Listing(Record):
    """``files.json``: what a complete folder consists of. ``beside``: files next to it, named after it."""

    files: dict[str, SentFile]
    beside: dict[str, SentFile] = {}


def fetch(ref: Any) -> Any:
    """The reference with its data on this machine; unchanged where they are here, or where no store is configured.

    Args:
        ref: DatasetRef or CheckpointRef, from whatever machine; anything else passes through.

    Raises ExchangeError when the store does not hold it completely, when it holds another content, and for inputs
    that are neither here nor in DVC.
    """
    if not _travels(ref):
        return ref
    _used(ref.uri)
    if (name := store_name(ref.uri)) is None:
        return input_here(ref) if isinstance(ref, CheckpointRef) else ref
    if (store := open_store()) is None:
        return ref
    usual = home() / "store" / name
    aside = usual.with_name(f"{usual.name}.{_identity(ref)[:12]}")
    for folder in (Path(ref.uri), usual, aside):
        if is_here(ref, folder):
            return ref.model_copy(update={"uri": str(folder)})
    remote = store / f"store/{name}"
    listing = complete(remote)
    # What lies here under the name, and is not what is meant, stays: something may refer to it.
    taken = usual.is_dir() if MANIFEST not in listing.files else (usual / MANIFEST).is_file()
    target = bring(remote, listing, aside if taken else usual)
    if not is_here(ref, target):
        raise ExchangeError(
            f"{remote.url}: what it holds is not {_identity(ref)[:12]}, it was made again since; run again the stages "
            "that read it"
        )
    return ref.model_copy(update={"uri": str(target)})


def send(ref: Any) -> Any:
    """Copy the reference's folder to the store, where one is configured; what is there already is not sent again.

    Returns the reference. Raises ExchangeError when files of it are neither here nor there.
    """
    folder = Path(ref.uri) if _travels(ref) and store_name(ref.uri) else None
    _used(ref.uri if folder else "")
    if folder is not None and folder.is_dir() and (store := open_store()) is not None:
        send_folder(store / f"store/{store_name(ref.uri)}", folder)
    return ref


def store_name(uri: str | Path) -> str | None:
    """``<kind>/<id>`` of a derived folder, of whatever machine; None for inputs, models of the hub and the like."""
    found = _DERIVED.fullmatch(str(uri))
    return found[1] if found else None


def is_here(ref: DatasetRef | CheckpointRef, folder: Path) -> bool:
    """Whether the folder is complete and has the reference's content."""
    if not folder.is_dir():
        return False
    if isinstance(ref, CheckpointRef):
        return folder_sha256(folder) == ref.sha256
    if (folder / MANIFEST).is_file():
        return json.loads((folder / MANIFEST).read_text())["ref"]["digest"] == ref.digest
    unfinished = any((folder / name).exists() for name in (CHUNKS, PARTS, ORIGIN))
    return not unfinished and any(path.is_file() for path in folder.iterdir())


def complete(remote: Remote) -> Listing:
    """The listing of a complete remote folder. Raises ExchangeError when there is none."""
    if (listing := listing_of(remote)) is None:
        raise ExchangeError(
            f"{remote.url}: not there, or not complete (no {LISTING}); the machine that made it must use the same "
            "ARTIAGENT_STORE: run that stage again with it"
        )
    return listing


def listing_of(remote: Remote, name: str = LISTING) -> Listing | None:
    """None when there is none. Raises ExchangeError when it cannot be read or names files outside the folder."""
    if (data := remote.read(name)) is None:
        return None
    try:
        listing = Listing.model_validate_json(data)
    except ValidationError as error:
        raise ExchangeError(f"{remote.url}/{name}: not a listing of files; delete it and send again") from error
    for file in (*listing.files, *listing.beside):
        checked(file)
    return listing


def bring(remote: Remote, listing: Listing, target: Path) -> Path:
    """Files of a complete remote folder: of a data set all but its Parquet files, of others all. Returns the folder."""
    if MANIFEST in listing.files:
        _bring_light(remote, listing, target)
    else:
        _bring_whole(remote, listing, target)
    for name, file in listing.beside.items():
        suffix = checked(name).partition(".")[2]
        if "/" not in name:
            remote.download(f"{BESIDE}/{name}", target.with_name(f"{target.name}.{suffix}"), file.sha256)
    return target


def write_origin(remote: Remote, folder: Path) -> None:
    """Say where the Parquet files that are not here lie."""
    write_atomic(folder / ORIGIN, json.dumps({"url": remote.url}).encode())


def send_folder(remote: Remote, folder: Path) -> None:
    """Copy a complete folder; ``files.json`` last. Resumes; raises ExchangeError as `send`."""
    paths, parquet = _files(folder)
    beside = {p.name: p for p in folder.parent.glob(f"{folder.name}.*") if p.is_file()}
    state = tuple((name, s.st_size, s.st_mtime_ns) for name, p in (paths | beside).items() for s in (p.stat(),))
    if _sent.get(remote.url) == state:
        return
    listed = {name: SentFile(sha256=parquet.get(name) or file_sha256(p), size=p.stat().st_size)
              for name, p in paths.items()}  # fmt: skip
    absent = sorted(set(parquet) - set(paths))
    there = remote.names()
    vouched = _vouched(remote, there, parquet)
    if lost := [name for name in absent if vouched.get(name) != parquet[name] or name not in there]:
        raise ExchangeError(
            f"{folder}: {len(lost)} parts are neither here nor at {remote.url} ({lost[0]}); run their shards again"
        )
    listed |= {name: SentFile(sha256=parquet[name], size=there[name].size) for name in absent}
    listing = Listing(
        files=dict(sorted(listed.items())),
        beside={n: SentFile(sha256=file_sha256(p), size=p.stat().st_size) for n, p in sorted(beside.items())},
    )
    if LISTING not in there or listing_of(remote) != listing:
        _upload(remote, listing, paths, beside, {n for n, f in listed.items() if vouched.get(n) == f.sha256})
    kept = {*listing.files, *(f"{BESIDE}/{name}" for name in listing.beside), LISTING}
    remote.remove(name for name in remote.names() if name not in kept)  # chunks, sidecars, parts of other divisions
    _sent[remote.url] = state


def _upload(
    remote: Remote, listing: Listing, paths: dict[str, Path], beside: dict[str, Path], skipped: set[str]
) -> None:
    done = {name: listing.files[name] for name in skipped}
    lock = Lock()

    def put(name: str) -> None:
        remote.upload(paths[name], name)
        with lock:  # what a killed sender need not send again
            done[name] = listing.files[name]
            remote.write(SENDING, Listing(files=done).model_dump_json().encode())

    remote.remove([LISTING])
    each(put, sorted((n for n in paths if n not in skipped), key=lambda n: -listing.files[n].size), parallel=4)
    each(lambda name: remote.upload(beside[name], f"{BESIDE}/{name}"), listing.beside)
    remote.write(LISTING, listing.model_dump_json(indent=1).encode())


def _vouched(remote: Remote, there: dict[str, Found], parquet: dict[str, str]) -> dict[str, str]:
    """Remote files whose content is known: from an earlier listing, a sender's notes, or the sidecars of parts."""
    known: dict[str, str] = {}
    for note in {LISTING, SENDING} & set(there):
        listing = listing_of(remote, note)
        known |= {name: file.sha256 for name, file in listing.files.items() if name in there} if listing else {}

    def read(sidecar: str) -> None:
        told = json.loads(remote.read(sidecar) or b"{}")
        if told.get("file") in there:
            known[told["file"]] = told["sha256"]

    each(read, {sidecar_of(name) for name in parquet} & set(there), parallel=16)
    return known


def sidecar_of(file: str) -> str:
    """Name of the sidecar of a part's Parquet file, in its folder: ``parts/<label>.json``."""
    label = _LABEL.search(file)
    return f"{PARTS}/{label[1]}.json" if label else ""


def _files(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Files to send by name, and the sha256 of the Parquet files that the manifest names, here or not."""
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    if MANIFEST not in found:
        return {checked(n): p for n, p in found.items() if not n.endswith(".tmp")}, {}
    parquet = json.loads(found[MANIFEST].read_text())["files"]
    own = (f"{CHUNKS}/", f"{PARTS}/", ".")  # of the writer: they say nothing when the manifest is there
    kept = {n: p for n, p in found.items() if not n.startswith(own) and n not in (ORIGIN, LISTING)}
    return {checked(n): p for n, p in kept.items()}, {checked(n): sha for n, sha in parquet.items()}


def _bring_light(remote: Remote, listing: Listing, target: Path) -> None:
    """The manifest comes last but for nothing: where it is, the small files are."""
    manifest = target.with_name(f".{target.name}.{token_hex(6)}.tmp")
    try:
        remote.download(MANIFEST, manifest, listing.files[MANIFEST].sha256)
        later = {MANIFEST, *json.loads(manifest.read_text())["files"]}
        small = [name for name in listing.files if name not in later]
        each(lambda name: remote.download(name, target / name, listing.files[name].sha256), small)
        write_origin(remote, target)
        manifest.replace(target / MANIFEST)
    finally:
        manifest.unlink(missing_ok=True)


def _bring_whole(remote: Remote, listing: Listing, target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        return  # work under way on this machine
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{token_hex(6)}.tmp")
    try:
        each(lambda name: remote.download(name, temporary / name, listing.files[name].sha256), listing.files)
        if not target.is_dir() or not any(target.iterdir()):
            temporary.replace(target)
    except OSError as error:
        if not target.is_dir():  # otherwise another process was quicker
            raise ExchangeError(f"{target}: cannot be written ({error}); check permissions and disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _travels(ref: Any) -> bool:
    if isinstance(ref, DatasetRef):
        return bool(ref.uri) and not ref.kind.endswith(PART_KIND)
    return isinstance(ref, CheckpointRef) and bool(ref.uri)


def _used(uri: str) -> None:
    """Note on a derived folder that it is in use: garbage collection leaves alone what was used lately."""
    if store_name(uri):
        with suppress(OSError):
            os.utime(uri)


def _identity(ref: DatasetRef | CheckpointRef) -> str:
    return ref.digest if isinstance(ref, DatasetRef) else ref.sha256
