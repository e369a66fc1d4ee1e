"""Many images, one model: asked in batches, kept as they come, resumed where a killed run stopped.

Knows order, progress and resume. Does not know what is asked (`findings`) or how results look (`forms`). At most one
batch of images is in memory.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from artiagent.inspection.askers import open_asker
from artiagent.inspection.findings import Asking, Inspection, inspect_pictures
from artiagent.inspection.pictures import Pictures, read_bytes, to_picture
from artiagent.records import CheckpointRef, DatasetRef, stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows

ANSWERS = "answers"
_SORTED_AT_ONCE = 10_000  # results in memory while they are put in order


def inspect_many(pictures: Pictures, model: CheckpointRef, asking: Asking, out: Path) -> DatasetRef:
    """Ask about every image; rows Inspection, key = name, below ``out / "answers"``.

    Images that another run asked about already are read, to see that they are the same, and not asked about again.
    Raises ValueError when ``out`` holds answers of another model, other settings or other images.
    """
    folder = out / ANSWERS
    stamp = stable_hash(asking.stamp(model), *pictures.names, length=20)
    complete = open_dataset(folder, stamp)
    writer = None if complete else DatasetWriter[Inspection](folder, "inspections", stamp=stamp)
    asker = open_asker(model, asking.section, asking.served) if writer else None
    content = hashlib.sha256()
    files = pictures.read(frozenset(pictures.names))
    with tqdm(desc="inspect", unit="image", total=len(pictures.names)) as progress:
        for index in itertools.count():
            if not (batch := [(f.name, read_bytes(f)) for f in itertools.islice(files, asking.section.batch_size)]):
                break
            digest = stable_hash(*(value for pair in batch for value in pair))
            content.update(digest.encode())
            key = f"{index:07d}"
            if writer and not (key in writer and writer.note(key)["content"] == digest):
                found = inspect_pictures((to_picture(*named) for named in batch), asker, asking)
                writer.write(key, [Row(one.image, one) for one in found], note={"content": digest})
            progress.update(len(batch))
    if writer:
        return writer.finish({"content": content.hexdigest()})
    if complete.summary["content"] != content.hexdigest():
        raise ValueError(f"{folder}: images changed since they were inspected; choose another folder or delete it")
    return complete


def in_order(answers: DatasetRef, names: Sequence[str]) -> Iterator[Inspection]:
    """The rows sorted by name, a bounded number in memory."""
    ordered = sorted(names)
    for start in range(0, len(ordered), _SORTED_AT_ONCE):
        window = ordered[start : start + _SORTED_AT_ONCE]
        rows = {row.key: row.record for row in read_rows(answers, Inspection, (), frozenset(window).__contains__)}
        yield from (rows[name] for name in window)
