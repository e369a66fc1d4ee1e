"""The small folder ``runs/<name>``, shared by the machines that execute a run."""

from __future__ import annotations

import json
from pathlib import Path

from artiagent.exchange.folders import LISTING, Listing, SentFile, listing_of
from artiagent.exchange.remote import Remote, checked, each, open_store
from artiagent.store import file_sha256, home, runs_dir, write_atomic


def fetch_run(name: str) -> None:
    """Bring the files of ``runs/<name>`` that another machine sent. Does nothing without a store."""
    if (remote := _remote(name)) is None or (listing := listing_of(remote)) is None:
        return
    folder, seen = runs_dir() / name, _seen(name)
    new = [n for n, file in listing.files.items() if seen.get(n) != file.sha256 or not (folder / n).is_file()]
    each(lambda n: remote.download(n, folder / n, listing.files[n].sha256), new)
    _remember(name, seen | {n: listing.files[n].sha256 for n in new})


def send_run(name: str) -> None:
    """Send the files of ``runs/<name>`` that were made or changed here since they were last fetched or sent.

    One machine at a time: of two that send at once, one may have to send again. Does nothing without a store.
    """
    if (remote := _remote(name)) is None:
        return
    folder, seen = runs_dir() / name, _seen(name)
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    found = {n: file_sha256(p) for n, p in paths.items() if not Path(n).name.startswith(".")}
    if not (new := [n for n, sha256 in found.items() if seen.get(n) != sha256]):
        return
    each(lambda n: remote.upload(paths[n], checked(n)), new)
    known = (listing_of(remote) or Listing(files={})).files
    known |= {n: SentFile(sha256=found[n], size=paths[n].stat().st_size) for n in new}
    remote.write(LISTING, Listing(files=known).model_dump_json(indent=1).encode())
    _remember(name, seen | found)


def _remote(name: str) -> Remote | None:
    store = open_store()
    return store / f"runs/{checked(name)}" if store else None


def _state(name: str) -> Path:
    return home() / "exchange" / "runs" / f"{name}.json"


def _seen(name: str) -> dict[str, str]:
    """File -> sha256 as this machine last fetched or sent it."""
    return json.loads(_state(name).read_text()) if _state(name).is_file() else {}


def _remember(name: str, files: dict[str, str]) -> None:
    write_atomic(_state(name), json.dumps(files, indent=1).encode())
