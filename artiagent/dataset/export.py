"""Exports a data set in a form that other tools read: COCO, ShareGPT, or Parquet for the `datasets` library.

Knows which rows go out: accepted pairs and hard negatives of scored groups, split by source as for training. One module
per form writes them. Rows are read and written as a stream.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from artiagent.config import InstructionSection
from artiagent.curation.funnel import hard_negative
from artiagent.dataset.card import CARD, card_text, data_files
from artiagent.dataset.facts import describe
from artiagent.dataset.files import ExportError, appearing
from artiagent.instruction.conversations import build_conversations, split_of, usable
from artiagent.records import DatasetRef, Pair, Scene
from artiagent.store import DatasetWriter, Row, read_rows, write_atomic

Form = Literal["coco", "sharegpt", "datasets"]
Split = Literal["train", "val"]
FORMS: tuple[Form, ...] = Form.__args__
SPLITS: tuple[Split, ...] = Split.__args__


class Chosen(NamedTuple):
    """A pair that goes out, with the split of its source."""

    row: Row[Pair]
    split: Split


def export(
    source: DatasetRef,
    form: Form,
    out: Path,
    *,
    split: Split | None = None,
    space: str = "pixels",
    scenes: DatasetRef | None = None,
) -> Path:
    """Write a data set to a folder of its own. Returns the folder.

    Args:
        source: curated set; for ``sharegpt`` also a set of conversations.
        form: see the modules ``coco``, ``sharegpt`` and ``parquet`` beside this one.
        out: folder; must not exist, or be empty. It appears when everything is written.
        split: only sources of this split; None: all of them.
        space: of the boxes in conversations, pixels or per-mille of the image's sides.
        scenes: for ``sharegpt`` from a curated set: the scenes behind it, for questions about parts.

    Raises ExportError for a target that is not empty and a source of the wrong kind.
    """
    if source.kind != "curated" and (form, source.kind) != ("sharegpt", "conversations"):
        raise ExportError(f"{form} from a set of {source.kind}: expected a curated set")
    with appearing(out) as folder:
        if form == "sharegpt":
            _sharegpt(source, folder, split, space, scenes)
        elif form == "coco":
            from artiagent.dataset.coco import write_coco

            write_coco(source, chosen(source, split), folder)
            write_atomic(folder / CARD, card_text(describe(source), {}, body="coco").encode())
        else:
            from artiagent.dataset.parquet import write_parquet

            splits = write_parquet(chosen(source, split), folder)
            write_atomic(folder / CARD, card_text(describe(source), data_files(splits), body="datasets").encode())
    return out


def chosen(curated: DatasetRef, split: Split | None) -> Iterator[Chosen]:
    """Accepted pairs and hard negatives of scored groups, in the order of the set."""
    section = InstructionSection()
    rows = tqdm(read_rows(curated, Pair), "export", total=curated.rows, unit="pair")
    for row in rows:
        if usable(row.record) or (row.record.scored and hard_negative(row.record)):
            own = split_of(row.record.source_id, section.val_share, section.seed)
            if split in (None, own):
                yield Chosen(row, own)


def _sharegpt(source: DatasetRef, folder: Path, split: Split | None, space: str, scenes: DatasetRef | None) -> None:
    from artiagent.dataset.sharegpt import PAIRLESS, write_sharegpt

    if source.kind == "conversations":
        write_sharegpt(source, folder, split, space, {})
        write_atomic(folder / CARD, PAIRLESS.format(digest=source.digest).encode())
        return
    with tempfile.TemporaryDirectory(dir=folder) as made:
        known = scenes or _no_scenes(Path(made) / "scenes")
        conversations = build_conversations(InstructionSection(), source, known, Path(made) / "conversations")
        pairs = (row.record for row in read_rows(source, Pair, images=()))
        origins = {pair.job_id: (pair.licence, pair.origin) for pair in pairs if usable(pair)}
        write_sharegpt(conversations, folder, split, space, origins)
    write_atomic(folder / CARD, card_text(describe(source), {}, body=f"sharegpt {space}").encode())


def _no_scenes(out: Path) -> DatasetRef:
    writer: DatasetWriter[Scene] = DatasetWriter(out, "scenes")
    return writer.finish()
