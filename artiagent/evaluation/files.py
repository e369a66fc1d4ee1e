"""Predictions of models that run elsewhere, from files: heat maps (PAL, DiffDoctor, LEGION), or tables of answers.

Knows the files' forms and turns them into stamped predictions like those of the stage. Does not score them.

Heat maps are a folder of files named by item id (below ``<folder>/<benchmark>`` where that exists): see
``artiagent.evaluation.heat``. A table is JSON lines or Parquet with ``item_id`` and any of ``benchmark``, ``verdict``,
``score`` (probability of an artifact), ``boxes`` (xyxy pixels) and ``explanation``. A model takes part in the tasks
that its files answer; an item without an answer has the status ``missing`` there, and counts as wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256, read_truth
from artiagent.evaluation.benchmarks.tables import open_parquet, read_batches
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.heat import SUFFIXES, heat_mask, read_heat, resize_nearest
from artiagent.evaluation.metrics import mean_of, pixel_overlap
from artiagent.evaluation.parsing import parse_boxes, parse_explanation, parse_verdict
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import Box, DatasetRef, Interval, Mask, Prediction, stable_hash
from artiagent.store import DatasetWriter, Row, content_sha256, open_dataset

FILES = "files"  # in the place of a prompt's hash
THRESHOLD = 0.3
SENSITIVITY = (0.1, 0.2, 0.3, 0.4, 0.5)
# key of a table -> types of its values; None may stand for any but the first
KEYS: dict[str, tuple[type, ...]] = {
    "item_id": (str, int), "benchmark": (str,), "verdict": (bool,), "score": (int, float), "boxes": (list,),
    "explanation": (str,),
}  # fmt: skip


def predict_from_files(
    benchmarks: Sequence[BenchmarkSet], name: str, place: Path, threshold: float, out: Path
) -> DatasetRef:
    """Predictions of the model ``name`` from a folder of heat maps or a table; rows as of ``stage.predict``, stamped
    with the digest of the files.

    Args:
        threshold: of heat maps scaled to 0..1; a pixel that reaches it is claimed to be faulty.
        out: folder of the data set; a complete one of the same files is returned as it is.

    Its summary counts items that are ``missing``, maps that were ``resized`` (nearest neighbour) to their image and
    answers that are ``unused`` because no benchmark has their item. Raises ValueError naming file and row or key for
    what cannot be read, and when no item of any benchmark is answered; nothing is written then.
    """
    if not place.exists():
        raise ValueError(f"{place}: no such file or folder; expected heat maps or a table of answers")
    digest = content_sha256(place)
    revisions = [f"{benchmark.name}={benchmark_sha256(benchmark)}" for benchmark in benchmarks]
    stamp = stable_hash(FILES, name, digest, threshold, *revisions, length=16)
    if (complete := open_dataset(out, stamp)) is not None:
        return complete
    answer = partial(_heat_answers, place, threshold) if place.is_dir() else partial(_table_answers, _Table(place))
    counts = _Counts()
    batches: dict[str, list[Prediction]] = {}
    for benchmark in benchmarks:
        fixed = {"benchmark": benchmark.name, "model": name, "model_sha256": digest, "prompt_hash": FILES}
        answers = answer(benchmark.name, read_truth(benchmark), counts)
        batches[benchmark.name] = [Prediction.model_validate({**fixed, **found}) for found in answers]
    total = sum(map(len, batches.values()))
    if counts.missing == total:
        raise ValueError(
            f"{place}: no answer to any of the {total} items of {', '.join(batches)}; expected names or item_id as the "
            f"benchmark's, such as {next(iter(batches.values()))[0].item_id!r}"
        )
    writer: DatasetWriter[Prediction] = DatasetWriter(out, "predictions", stamp=stamp)
    for batch, rows in batches.items():
        writer.write(batch, [Row(f"{row.benchmark}/{row.item_id}", row) for row in rows])
    counted = {"missing": counts.missing, "resized": counts.resized, "unused": len(counts.offered - counts.used)}
    return writer.finish({"model": name, "stamp": stamp, "items": total, "threshold": threshold, **counted})


def threshold_table(
    benchmark: BenchmarkSet,
    folder: Path,
    thresholds: Sequence[float] = SENSITIVITY,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[float, dict[str, Interval]]:
    """How much localization depends on the threshold: threshold -> ``iou`` and ``pixel_f1`` of a folder of heat maps
    over the images with a ground-truth region; a missing map overlaps nothing."""
    files = _maps(folder, benchmark.name)
    items = [item for item in read_truth(benchmark) if item.localizable]
    if not items:
        raise ValueError(f"{benchmark.path}: no image with a ground-truth region; there is nothing to overlap")
    overlaps = np.zeros((len(thresholds), len(items), 2))
    for k, item in enumerate(items):
        if item.item_id in files:
            truth, (heat, _) = item.truth(), _heat(files[item.item_id], item)
            for row, threshold in enumerate(thresholds):
                overlaps[row, k] = pixel_overlap(truth, heat_mask(heat, threshold))
    weights = draw_weights(len(items), resamples, seed)
    return {
        threshold: {
            metric: interval(mean_of(overlaps[row, :, column]), weights)
            for column, metric in enumerate(("iou", "pixel_f1"))
        }
        for row, threshold in enumerate(thresholds)
    }


@dataclass
class _Counts:
    """``offered`` and ``used``: files, or (benchmark, item) of a table."""

    missing: int = 0
    resized: int = 0
    offered: set[Any] = field(default_factory=set)
    used: set[Any] = field(default_factory=set)


def _heat_answers(
    folder: Path, threshold: float, benchmark: str, items: Sequence[BenchmarkItem], counts: _Counts
) -> Iterator[dict[str, Any]]:
    files = _maps(folder, benchmark)
    counts.offered.update(files.values())
    for item in items:
        if item.item_id not in files:
            counts.missing += 1
            yield _answer(item, status={"localization": "missing"})
            continue
        counts.used.add(files[item.item_id])
        heat, resized = _heat(files[item.item_id], item)
        counts.resized += resized
        region = heat_mask(heat, threshold)
        yield _answer(item, mask=Mask.encode(region), status={"localization": "ok" if region.any() else "empty"})


def _maps(folder: Path, benchmark: str) -> dict[str, Path]:
    """Item id -> file. Names are looked up, never joined to a path."""
    place = folder / benchmark if (folder / benchmark).is_dir() else folder
    if not place.is_dir():
        raise ValueError(f"{place}: no such folder; expected heat maps named by item id ({', '.join(SUFFIXES)})")
    found: dict[str, Path] = {}
    for file in sorted(place.iterdir()):
        if file.suffix.lower() in SUFFIXES:
            if other := found.get(file.stem):
                raise ValueError(f"{file}: a second map of the item beside {other.name}; expected one")
            found[file.stem] = file
    return found


def _heat(file: Path, item: BenchmarkItem) -> tuple[np.ndarray, bool]:
    """(float32 [height, width] of the image, whether the map had another size)."""
    heat = read_heat(file.read_bytes(), str(file))
    resized = heat.shape != (item.height, item.width)
    return (resize_nearest(heat, item.height, item.width) if resized else heat), resized


def _table_answers(
    table: _Table, benchmark: str, items: Sequence[BenchmarkItem], counts: _Counts
) -> Iterator[dict[str, Any]]:
    counts.offered.update(table.rows)
    for item in items:
        key = next((key for key in ((benchmark, item.item_id), ("", item.item_id)) if key in table.rows), None)
        counts.missing += key is None
        counts.used.add(key)
        yield _parsed(table.rows[key] if key else {}, item, table.tasks)


def _parsed(row: dict[str, Any], item: BenchmarkItem, tasks: frozenset[str]) -> dict[str, Any]:
    """A row's values through the same parsers as a model's own words."""
    values: dict[str, Any] = {}
    status: dict[str, str] = {}
    if "detection" in tasks:
        verdict, score = row.get("verdict"), row.get("score")
        judged = (verdict, "ok") if verdict is not None or score is None else parse_verdict(score)
        values |= {"verdict": judged[0], "score": score}
        status["detection"] = "missing" if verdict is None and score is None else judged[1]
    if "localization" in tasks:
        boxes: tuple[Box, ...] = ()
        status["localization"] = "missing"
        if row.get("boxes") is not None:
            space = CoordinateSpace.named("pixels", item.width, item.height)
            boxes, status["localization"] = parse_boxes(json.dumps(row["boxes"]), space)
        values["boxes"] = boxes
    if "explanation" in tasks and item.faulty:  # nobody asks for the artifacts of a clean image
        text, said = parse_explanation(row.get("explanation") or "")
        values["explanation"] = text
        status["explanation"] = "missing" if row.get("explanation") is None else said
    return _answer(item, **values, status=status)


def _answer(item: BenchmarkItem, **values: Any) -> dict[str, Any]:
    return {"item_id": item.item_id, "verdict": None, "score": None, **values}


class _Table:
    """Answers of a JSON lines or Parquet file by (benchmark, item); without a benchmark they answer every one."""

    def __init__(self, file: Path) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        for where, row in _parquet_rows(file) if file.suffix == ".parquet" else _json_rows(file):
            checked = _checked(row, where)
            key = (checked.get("benchmark") or "", str(checked["item_id"]))
            if key in self.rows:
                raise ValueError(f"{where}: a second answer to the item {key[1]!r}; expected one")
            self.rows[key] = checked
        if not self.rows:
            raise ValueError(f"{file}: holds no answers")
        self.tasks = _tasks(self.rows.values())


def _tasks(rows: Iterable[dict[str, Any]]) -> frozenset[str]:
    """What the model was asked: any answer says so."""
    task = {"verdict": "detection", "score": "detection", "boxes": "localization", "explanation": "explanation"}
    return frozenset(task[key] for row in rows for key, value in row.items() if key in task and value is not None)


def _json_rows(file: Path) -> Iterator[tuple[str, Any]]:
    raw = file.read_bytes()
    try:
        lines = raw.decode(json.detect_encoding(raw)).split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: no text ({error}); expected JSON lines or a .parquet file") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield f"{file}:{number}", json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}:{number}: no JSON ({error}); expected one object a line") from error


def _parquet_rows(file: Path) -> Iterator[tuple[str, Any]]:
    with open_parquet(file) as table:
        for number, row in enumerate(read_batches(table, table.schema_arrow.names, file)):
            yield f"{file}: row {number}", row


def _checked(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict) or row.get("item_id") is None:
        raise ValueError(f"{where}: {str(row)[:80]} has no item_id; expected an object with it")
    if unknown := sorted(row.keys() - KEYS.keys()):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; expected {', '.join(KEYS)}")
    for key, value in row.items():
        wrong_bool = isinstance(value, bool) and bool not in KEYS[key]
        if value is not None and (not isinstance(value, KEYS[key]) or wrong_bool):
            raise ValueError(
                f"{where}: {key} is {value!r}; expected {' or '.join(kind.__name__ for kind in KEYS[key])}"
            )
    if row.get("score") is not None and not 0 <= row["score"] <= 1:  # also refuses NaN
        raise ValueError(f"{where}: score is {row['score']!r}; expected a probability in 0..1")
    return row
