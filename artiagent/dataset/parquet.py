"""Curated pairs as Parquet shards with image features: what ``datasets.load_dataset(folder)`` reads as it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from artiagent.dataset.coco import visible
from artiagent.dataset.export import Chosen
from artiagent.dataset.files import image_name
from artiagent.records import FAULT_OF_TOOL, Artifact, Pair

SHARD_BYTES = 400 * 2**20
GROUP_BYTES = 32 * 2**20  # in memory at a time
SPLIT_NAMES = {"train": "train", "val": "validation"}  # the hub's words
_TEXT = Value("string")
_FIELDS = ("job_id", "source_id", "group", "origin", "licence", "width", "height", "caption", "explanation", "prompt")
_FAULT = {
    "type": _TEXT, "tool": _TEXT, "kernel": _TEXT, "entity": _TEXT, "part": _TEXT, "other_entity": _TEXT,
    "box": List(Value("int32"), length=4), "mask": _TEXT, "label": _TEXT, "explanation": _TEXT,
}  # fmt: skip
FEATURES = Features({
    "job_id": _TEXT, "source_id": _TEXT, "group": _TEXT, "origin": _TEXT, "licence": _TEXT, "models": List(_TEXT),
    "width": Value("int32"), "height": Value("int32"), "clean": Image(), "artifact": Image(), "faulty": Value("bool"),
    "faults": List(_FAULT), "caption": _TEXT, "explanation": _TEXT, "prompt": _TEXT,
})  # fmt: skip


def write_parquet(pairs: Iterable[Chosen], out: Path) -> dict[str, str]:
    """Write ``data/<split>-<number>.parquet`` below the folder ``out``; returns split -> pattern of its files.

    A box is (x0, y0, x1, y1) in pixels, a mask COCO's compressed RLE of the image's size. Rows that are not faulty are
    hard negatives: both their sides are clean.
    """
    (out / "data").mkdir()
    writers: dict[str, _Shards] = {}
    try:
        for chosen in pairs:
            split = SPLIT_NAMES[chosen.split]
            if split not in writers:
                writers[split] = _Shards(out / "data", split)
            writers[split].add(_row(chosen))
    finally:
        for writer in writers.values():
            writer.close()
    return {split: f"data/{split}-*.parquet" for split in sorted(writers)}


class _Shards:
    """Rows of a split, in groups, in files of at most about ``SHARD_BYTES``."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split, self.number = folder, split, 0
        self._writer: pq.ParquetWriter | None = None
        self._held: list[dict[str, Any]] = []
        self._held_bytes = self._written = 0

    def add(self, row: dict[str, Any]) -> None:
        self._held.append(row)
        self._held_bytes += sum(len(row[side]["bytes"]) for side in ("clean", "artifact"))
        if self._held_bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._finish()

    def _flush(self) -> None:
        if not self._held:
            return
        if self._writer is None:
            path = self.folder / f"{self.split}-{self.number:05d}.parquet"
            self._writer = pq.ParquetWriter(path, FEATURES.arrow_schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._held, schema=FEATURES.arrow_schema))
        self._written += self._held_bytes
        self._held, self._held_bytes = [], 0
        if self._written >= SHARD_BYTES:
            self._finish()

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._written, self.number = None, 0, self.number + 1


def _row(chosen: Chosen) -> dict[str, Any]:
    pair, data = chosen.row.record, chosen.row.images
    return {
        **{name: getattr(pair, name) for name in _FIELDS},
        "models": [f"{model}: {licence}" for model, licence in pair.licences.items()],
        "clean": _image(data["clean"]),
        "artifact": _image(data["artifact"]),
        "faulty": not pair.benign,
        "faults": [_fault(fault, pair) for fault in pair.faults],
    }


def _fault(fault: Artifact, pair: Pair) -> dict[str, Any]:
    injection = fault.injection
    named = {name: getattr(injection, name) for name in ("tool", "kernel", "entity", "part", "other_entity")}
    words = {"label": fault.label, "explanation": fault.explanation}
    mask = visible(fault, pair)[0].counts
    return {"type": FAULT_OF_TOOL[injection.tool], **named, "box": list(fault.box), "mask": mask, **words}


def _image(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": image_name(0, data)}
