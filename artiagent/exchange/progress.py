"""How far a training is, kept in the store: what `artiagent.sealed` counts below ``stages/``, and nothing else.

A sealed folder is sent file by file and its seal last, so that it counts there as it does here; a checkpoint of one
file is sent again when it was replaced. What was superseded here is removed there once its successor is whole there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from artiagent.exchange.remote import ExchangeError, Remote, checked, each
from artiagent.sealed import SEAL, STAGES, checkpoint_number, is_whole

SINGLE = "*.safetensors"  # checkpoints of one file, in ``stages`` itself
PARALLEL = 4  # files at a time: they are large
log = logging.getLogger(__name__)


class Progress:
    """The checkpoints of one stage's output folder, here and there.

    Args:
        remote: the folder's place in the store.
        out: the folder.
    """

    def __init__(self, remote: Remote, out: Path) -> None:
        self.remote, self.out = remote, out
        self.sealed: set[str] = set()  # folders that are whole there
        self.single: dict[str, tuple[int, int]] = {}  # files there: size and time of ours when it was sent

    def bring(self, there: Collection[str]) -> None:
        """What an earlier attempt left, from the names that are there; of checkpoints of one folder the newest.

        What is here is not fetched, nor anything older. A seal that is not understood, and a folder that lacks bytes,
        are passed over with a warning. Raises ExchangeError when the store cannot be used.
        """
        inside = [name for name in there if name.startswith(f"{STAGES}/")]
        self.sealed = {str(PurePosixPath(name).parent) for name in inside if PurePosixPath(name).name == SEAL}
        here = self._sealed_here()
        pending = self.sealed - here
        while wanted := [folder for folder in pending if not supersedes(self.sealed | here, folder)]:
            for folder in sorted(wanted):
                pending.discard(folder)
                if not self._get(folder):
                    self.sealed.discard(folder)  # one that it superseded will do
        single = [name for name in inside if PurePosixPath(name).match(f"{STAGES}/{SINGLE}")]
        missing = [name for name in single if not (self.out / name).is_file()]
        each(lambda name: self.remote.download(name, self.out / name), missing, PARALLEL)
        self.single = {name: state for name in missing if (state := _state(self.out / name))}

    def sync(self) -> None:
        """Send what counts and is not there; remove there what it supersedes."""
        here = self._sealed_here()
        for folder in sorted(f for f in here - self.sealed if not supersedes(here, f)):
            self._put(folder)
        for path in sorted((self.out / STAGES).glob(SINGLE)):
            name = f"{STAGES}/{path.name}"
            if (state := _state(path)) and self.single.get(name) != state:
                with suppress(FileNotFoundError):  # the training ended meanwhile
                    self.remote.upload(path, name)
                    self.single[name] = state
        for folder in sorted(f for f in self.sealed - here if supersedes(self.sealed, f)):
            self.remote.remove([f"{folder}/{SEAL}"])
            self.remote.remove(f"{folder}/{name}" for name in self.remote.names(folder))
            self.sealed.discard(folder)

    def _sealed_here(self) -> set[str]:
        found: set[str] = set()
        with suppress(FileNotFoundError):  # a training removes folders meanwhile: the next look sees the rest
            for path in (self.out / STAGES).rglob(SEAL):
                found |= {path.parent.relative_to(self.out).as_posix()} if is_whole(path.parent) else set()
        return found

    def _put(self, folder: str) -> None:
        """Send a folder; one that its training removes meanwhile is left."""
        try:
            names = [*json.loads((self.out / folder / SEAL).read_text()), SEAL]
            each(lambda n: self.remote.upload(self.out / folder / n, f"{folder}/{n}"), names[:-1], PARALLEL)
            self.remote.upload(self.out / folder / SEAL, f"{folder}/{SEAL}")
            self.sealed.add(folder)
        except (FileNotFoundError, ExchangeError):
            if (self.out / folder / SEAL).is_file():
                raise
            self.remote.remove(f"{folder}/{name}" for name in self.remote.names(folder))

    def _get(self, folder: str) -> bool:
        """Fetch a folder, its seal last; whether it is whole there."""
        url = f"{self.remote.url}/{folder}"
        try:
            told = json.loads(self.remote.read(f"{folder}/{SEAL}") or b"")
            sizes = {checked(str(name)): int(size) for name, size in told.items()}
        except (ValueError, AttributeError, TypeError) as error:
            log.warning("%s/%s: not a seal (%s); not used", url, SEAL, error)
            return False
        there = self.remote.names(folder)
        if lost := [name for name, size in sizes.items() if name not in there or there[name].size != size]:
            log.warning("%s: %s lacks bytes; not used", url, lost[0])
            return False
        missing = [n for n, size in sizes.items() if (_state(self.out / folder / n) or (-1, 0))[0] != size]
        each(lambda n: self.remote.download(f"{folder}/{n}", self.out / folder / n), missing, PARALLEL)
        self.remote.download(f"{folder}/{SEAL}", self.out / folder / SEAL)
        return True


def supersedes(folders: Iterable[str], old: str) -> bool:
    """Whether one of the folders makes another of no use: one around it, or a later checkpoint beside it."""
    path = PurePosixPath(old)
    number = checkpoint_number(path.name)
    for other in map(PurePosixPath, folders):
        if other in path.parents:
            return True
        later = checkpoint_number(other.name)
        if other.parent == path.parent and number is not None and later is not None and later > number:
            return True
    return False


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
