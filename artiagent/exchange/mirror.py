"""Work under way: what a preempted stage leaves is in the store, and the next attempt, wherever it runs, goes on.

A shard's chunks lie in ``chunks/<label>/``, those of a stage that runs in one piece in ``chunks/``. A finished shard is
its Parquet file and, written last, ``parts/<label>.json``. What a training goes on from is `progress`'s. Knows these
names; does not read what is in the files.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from artiagent.exchange.folders import LISTING, bring, listing_of, send_folder, store_name, write_origin
from artiagent.exchange.progress import Progress
from artiagent.exchange.remote import ExchangeError, Remote, each, open_store
from artiagent.parts import CHUNKS, PARTS
from artiagent.shards import Shard
from artiagent.store import MANIFEST

SECONDS = 5.0  # between two looks for new chunks and checkpoints: what a preemption may cost
log = logging.getLogger(__name__)


@contextmanager
def mirrored(out: Path, shard: Shard | None = None, seconds: float = SECONDS) -> Iterator[None]:
    """Keep a stage's output folder in the store while the stage runs.

    On entry, what an earlier attempt left comes here: the finished folder; or this shard's chunks or, for the call that
    joins, the sidecars of all parts (their Parquet files stay where they are); or a training's newest checkpoints.
    Meanwhile new chunks and checkpoints are sent. In the end, the finished part or folder is sent, and what led to it
    is removed there. When the body fails, what is new is sent and its error goes on.

    Args:
        out: output folder of the stage, ``<home>/store/<kind>/<id>``; others are left alone.
        shard: of the call; None: it runs in one piece, or joins.
        seconds: between two looks for new chunks.

    Does nothing without a store. Raises ExchangeError when the store cannot be used, before any work.
    """
    store, name = open_store(), store_name(out)
    if store is None or name is None:
        yield
        return
    mirror = _Mirror(store / f"store/{name}", out, shard)
    mirror.bring()
    over = Event()
    thread = Thread(target=mirror.watch, args=(over, seconds), name="mirror", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        over.set()
        thread.join()
        mirror.try_sync()
        raise
    over.set()
    thread.join()
    mirror.finish()


class _Mirror:
    """One stage's or shard's files, here and there."""

    def __init__(self, remote: Remote, out: Path, shard: Shard | None) -> None:
        self.remote, self.out, self.shard = remote, out, shard
        self.below = f"{CHUNKS}/{shard.label}" if shard else CHUNKS
        self.chunks = out / self.below
        self.sent: set[str] = set()
        self.progress = Progress(remote, out)

    def bring(self) -> None:
        """What earlier attempts left. Nothing is fetched that is here."""
        if (self.out / MANIFEST).is_file():
            return
        there = self.remote.names()
        if LISTING in there and (listing := listing_of(self.remote)) is not None:
            bring(self.remote, listing, self.out)
            return
        sidecars, chunks = self._left(there)
        if sidecars:
            write_origin(self.remote, self.out)
        each(self._get, sidecars + chunks)
        self.sent = {name for name in chunks if Path(name).parent == Path(self.below)}
        self.progress.bring(there)

    def _left(self, there: Iterable[str]) -> tuple[list[str], list[str]]:
        """Sidecars and chunks that concern this call. Where all shards of a division are sealed, joining needs no more;
        otherwise it does what they left."""
        sealed = {Shard.from_label(Path(n).stem): n for n in there if n.startswith(f"{PARTS}/") and n.endswith(".json")}
        sealed.pop(None, None)
        chunks = [n for n in there if n.startswith(f"{CHUNKS}/") and n.endswith(".parquet")]
        if self.shard is not None:
            others = [n for shard, n in sealed.items() if shard.count != self.shard.count]
            if self.shard in sealed:
                return [sealed[self.shard], *others], []
            return others, [n for n in chunks if n.startswith(f"{self.below}/")]
        sizes = Counter(shard.count for shard in sealed)
        if whole := [count for count, found in sizes.items() if found == count]:
            return [n for shard, n in sealed.items() if shard.count == whole[0]], []
        labels = {shard.label for shard in sealed}
        return list(sealed.values()), [n for n in chunks if Path(n).parent.name not in labels]

    def watch(self, over: Event, seconds: float) -> None:
        while not over.wait(seconds):
            self.try_sync()

    def try_sync(self) -> None:
        """`sync` that does not stop the stage: what could not be sent is tried again."""
        try:
            self.sync()
        except (ExchangeError, OSError) as error:
            log.warning("%s: what is under way is not mirrored for now: %s", self.out, error)

    def sync(self) -> None:
        """Send new chunks and checkpoints; take away those that newer ones replace."""
        local = {f"{self.below}/{path.name}" for path in self.chunks.glob("*.parquet")}
        each(self._put, sorted(local - self.sent), parallel=4)
        batches = {_batch(name) for name in local}
        replaced = {name for name in self.sent - local if _batch(name) in batches}
        self.remote.remove(replaced)
        self.sent -= replaced
        self.progress.sync()

    def finish(self) -> None:
        """Send what the stage finished; its chunks there go then."""
        if self.shard is None:
            if (self.out / MANIFEST).is_file() or not self._growing():
                send_folder(self.remote, self.out)
        elif (sidecar := self.out / PARTS / f"{self.shard.label}.json").is_file():
            self._send_part(sidecar)
            self.remote.remove(f"{self.below}/{name}" for name in self.remote.names(self.below))
        else:
            self.sync()

    def _growing(self) -> bool:
        """Whether it is a data set that is not finished, or nothing yet."""
        begun = any((self.out / name).exists() for name in (CHUNKS, PARTS))
        return begun or not self.out.is_dir() or not any(self.out.iterdir())

    def _send_part(self, sidecar: Path) -> None:
        data = sidecar.read_bytes()
        name = f"{PARTS}/{sidecar.name}"
        if self.remote.read(name) == data:
            return
        file = json.loads(data)["file"]
        if not (self.out / file).is_file():
            raise ExchangeError(
                f"{self.out / file}: missing, and {sidecar} names it; delete that and run the shard again"
            )
        self.remote.upload(self.out / file, file)
        self.remote.write(name, data)

    def _get(self, name: str) -> None:
        if not (self.out / name).is_file():
            self.remote.download(name, self.out / name)

    def _put(self, name: str) -> None:
        try:
            self.remote.upload(self.out / name, name)
            self.sent.add(name)
        except (FileNotFoundError, ExchangeError):
            if (self.out / name).is_file():  # otherwise it was merged or replaced meanwhile
                raise


def _batch(chunk: str) -> str:
    return Path(chunk).name.split(".")[0]
