"""What there is to perceive: every image of every set by content, so that copies are known before one is decoded.

Knows names and bytes. Decodes nothing. An inventory costs one reading of all images. It is kept beside the references
to inputs, in a folder that is named by the content of the sets: there every shard, and who joins them, finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from artiagent.config import InputSet
from artiagent.perception.sources import SourceImage, iter_images, left_out
from artiagent.records import Record, stable_hash
from artiagent.store import write_atomic

INVENTORY = "inventory.json"
_THREADS = 8  # reading waits for a disk or a server, hashing runs beside other threads
_AT_ONCE = 32  # images in memory


class SetInventory(Record):
    """One set: file name -> source id in reading order; file name -> "code: detail" of what has no content to go by."""

    name: str
    images: dict[str, str]
    skipped: dict[str, str]


class Inventory(Record):
    """All sets in the order in which they are perceived. Names and ids: some 200 bytes an image in memory."""

    sets: tuple[SetInventory, ...]

    @property
    def sources(self) -> list[str]:
        """Every source id once, in the order in which a data set keeps them."""
        return sorted({source_id for one in self.sets for source_id in one.images.values()})

    @property
    def digest(self) -> str:
        return stable_hash(self.model_dump_json())


def source_id(source: InputSet, data: bytes) -> str:
    """Id of an image: equal bytes in one set have one id."""
    return f"{source.name}-{stable_hash(data, length=12)}"


def take_inventory(sets: Sequence[InputSet]) -> Inventory:
    """Read every image of the sets once, several at a time. Raises SourceError and AnnotationError as reading does."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return Inventory(sets=tuple(_of_set(source, pool) for source in sets))


def inventory_of(sets: Sequence[InputSet], folder: Path | None) -> Inventory:
    """The inventory that ``folder`` keeps of these sets; without a folder, or a whole file in it, taken now.

    Whoever comes first keeps it for the others, if the folder may be written.
    """
    if folder is None:
        return take_inventory(sets)
    with suppress(OSError, ValidationError):
        kept = Inventory.model_validate_json((folder / INVENTORY).read_bytes())
        if [one.name for one in kept.sets] == [source.name for source in sets]:
            return kept
    inventory = take_inventory(sets)
    with suppress(OSError):
        write_atomic(folder / INVENTORY, inventory.model_dump_json().encode())
    return inventory


def _of_set(source: InputSet, pool: ThreadPoolExecutor) -> SetInventory:
    images: dict[str, str] = {}
    skipped = left_out(source)
    for name, content in _contents(source, pool):
        if isinstance(content, OSError):
            skipped[name] = f"decode_error: cannot be read ({content.strerror})"
        else:
            images[name] = content
    return SetInventory(name=source.name, images=images, skipped=skipped)


def _contents(source: InputSet, pool: ThreadPoolExecutor) -> Iterator[tuple[str, str | OSError]]:
    def content(image: SourceImage) -> str | OSError:
        try:
            return source_id(source, image.read())
        except OSError as error:
            return error

    stream = iter_images(source)
    while window := list(islice(stream, _AT_ONCE)):
        yield from zip((image.name for image in window), pool.map(content, window), strict=True)
