"""Garbage elsewhere: objects on a remote of published sets, folders in the object store that machines share."""

from __future__ import annotations

import configparser
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from artiagent.dataset.garbage.found import DAY, Garbage, Survey, collected_kind, is_identity
from artiagent.dataset.garbage.references import References, references_here, references_in
from artiagent.dataset.pull import objects_of
from artiagent.exchange.folders import LISTING, Listing, listing_of
from artiagent.exchange.inputs import REMOTE
from artiagent.exchange.remote import Found, Remote
from artiagent.pointers import Pointer, object_name, pointers, pointers_at
from artiagent.records import stable_hash
from artiagent.store import MANIFEST, checkout


def survey_published(url: str, days: float) -> Survey:
    """See `garbage.survey`."""
    _refuse_inputs(url)
    remote = Remote(url)
    known = pointers_at(url)
    local = [pointer for pointer in pointers() if pointer.remote == url]
    objects = {f"files/md5/{name}": found for name, found in remote.names("files/md5").items()}
    if objects and not known:
        raise ValueError(
            f"{url}: holds objects and no pointers: others may have published there before pointers were kept there; "
            "publish one of the sets again from where that was done, which adds them"
        )
    wanted = {name for pointer in (*known, *local) for name in _objects(remote, pointer)}
    until = time.time() - days * DAY
    loose = {name: found for name, found in objects.items() if name not in wanted}
    old = {name: found for name, found in loose.items() if found.modified <= until}
    garbage = [Garbage(f"{url}/{n}", f.size, "an object of no published set", (n,)) for n, f in old.items()]
    young = len(loose) - len(old)
    return Survey(url, tuple(garbage), (), {}, len(objects) - len(loose), young, remote, days, stages=False)


def _objects(remote: Remote, pointer: Pointer) -> set[str]:
    listed = remote.read(object_name(pointer.md5))
    if listed is None:
        raise ValueError(
            f"{remote.url}: the listing of {pointer.kind} {pointer.digest[:12]} is missing, so what belongs to it "
            f"cannot be told; publish it again, or delete pointers/{pointer.digest}.json there"
        )
    return {object_name(md5) for md5 in (pointer.md5, *objects_of(listed).values())}


def _refuse_inputs(url: str) -> None:
    """Inputs are pinned by commits that nobody here knows: their remote is never touched."""
    named = {os.environ.get(REMOTE, "")}
    if (root := checkout()) is not None:
        for file in ("config", "config.local"):
            parser = configparser.ConfigParser()
            parser.read(root / ".dvc" / file)
            for section in parser.sections():
                place = parser[section].get("url", "")
                named.add(place if "://" in place or not place else str((root / ".dvc" / place).resolve()))
    for place in filter(None, named):
        if f"{url}/".startswith(f"{place.rstrip('/')}/") or f"{place.rstrip('/')}/".startswith(f"{url}/"):
            raise ValueError(f"{url}: holds the inputs that data.dvc pins ({place}); only remotes of published sets")


def survey_shared(store: Remote, days: float, abandon: Sequence[str]) -> Survey:
    """See `garbage.survey`."""
    here, there = references_here(), references_in(store)
    references = References(here.known | there.known, here.unfinished | there.unfinished).without(abandon)
    until = time.time() - days * DAY
    found, referenced, young = [], 0, 0
    for folder, files in _remote_folders(store):
        if max(f.modified for f in files.values()) > until:
            young += 1
        elif any(references.name(digest) for digest in _digests(store, folder, files)):
            referenced += 1
        else:
            names = tuple(f"store/{folder}/{name}" for name in files)
            why = "nothing refers to it" if LISTING in files else "unfinished, and nothing refers to it"
            found.append(Garbage(f"{store.url}/store/{folder}", sum(f.size for f in files.values()), why, names))
    held, garbage = (found, []) if references.unfinished else ([], found)
    return Survey(store.url, tuple(garbage), tuple(held), references.unfinished, referenced, young, store, days)


def _remote_folders(store: Remote) -> Iterator[tuple[str, dict[str, Found]]]:
    folders: dict[str, dict[str, Found]] = defaultdict(dict)
    for name, found in store.names("store").items():
        kind, _, rest = name.partition("/")
        identity, _, file = rest.partition("/")
        if file and is_identity(identity) and collected_kind(kind):
            folders[f"{kind}/{identity}"][file] = found
    yield from sorted(folders.items())


def _digests(store: Remote, folder: str, files: dict[str, Found]) -> Iterator[str]:
    """What may be referred to: the id, and the digest of the content where it is complete."""
    yield folder.partition("/")[2]
    remote = store / f"store/{folder}"
    if MANIFEST in files:
        yield json.loads(remote.read(MANIFEST) or b"{}").get("ref", {}).get("digest", "")
    elif LISTING in files and (listed := listing_of(remote)) is not None:
        yield _folder_digest(listed)


def _folder_digest(listed: Listing) -> str:
    """`folder_sha256` of what the listing lists."""
    names = sorted(listed.files, key=PurePosixPath)
    return stable_hash(*(v for name in names for v in (name, listed.files[name].sha256)), length=64)
