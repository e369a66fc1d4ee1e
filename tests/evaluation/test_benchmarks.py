"""One reader for ArtiBench-nano and the published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks import BenchmarkItem, read_items, read_truth
from artiagent.images import encode
from artiagent.records import Box, Mask

PICTURE = encode(np.zeros((40, 60, 3), np.uint8))


def published(**change: object) -> dict:
    row = {"image": {"bytes": PICTURE, "path": "a.png"}, "has_artifacts": True}
    return row | {"bboxes": [[1.5, 2.0, 10.2, 20.0]], "explanation": "Odd."} | change


def at(path: Path) -> BenchmarkSet:
    return BenchmarkSet(name="bench", path=str(path))


def write(path: Path, *rows: dict) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_nano_layout(benchmark: BenchmarkSet) -> None:
    items = read_truth(benchmark)
    assert [item.faulty for item in items] == [True, False] * 3
    assert items[0].boxes == (Box(16, 16, 48, 48),) and items[0].fault == "duplication"
    assert items[0].truth().sum() == 32 * 32 and items[0].localizable and not items[1].localizable
    assert len(list(read_items(benchmark, limit=2))) == 2


def test_published_layout_in_a_folder_of_shards(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", published())
    write(tmp_path / "a.parquet", published(has_artifacts=False, bboxes=[], explanation=None))
    clean, faulty = read_truth(at(tmp_path))
    assert (clean.faulty, clean.boxes, clean.explanation) == (False, (), "")
    assert (faulty.width, faulty.height) == (60, 40)
    assert faulty.boxes == (Box(1, 2, 11, 20),)  # fractions are rounded outwards
    assert clean.item_id != faulty.item_id


def test_a_pixel_mask_is_the_truth_where_there_are_no_boxes() -> None:
    mask = np.zeros((40, 60), bool)
    mask[3:5, 7:9] = True
    item = BenchmarkItem(item_id="a", faulty=True, width=60, height=40, mask=Mask.encode(mask))
    assert (item.truth() == mask).all() and item.localizable


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([published(image={"bytes": b"", "path": ""})], "missing"),
        ([published(bboxes=[[10.0, 2.0, 4.0, 8.0]])], "x0 < x1"),
        ([published(id="x"), published(id="x")], "two items"),
        ([{"image": PICTURE, "label": 1}], "columns"),
    ],
)
def test_broken_benchmarks_are_named(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_truth(at(write(tmp_path / "a.parquet", *rows)))


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_truth(at(tmp_path / "none.parquet"))
    empty = pa.Table.from_pylist([published()]).slice(0, 0)
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="holds no items"):
        read_truth(at(tmp_path / "empty.parquet"))
