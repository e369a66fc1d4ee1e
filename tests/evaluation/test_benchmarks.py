"""ArtiBench's layout (ArtiBench-nano has it too), and what holds for every layout."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256, read_items, read_truth, tally
from artiagent.records import Box, Mask
from tests.evaluation.layouts import artibench, artibench_row, loki, picture, richhf, synthscars


def at(path: Path, **change: Any) -> BenchmarkSet:
    return BenchmarkSet(name="bench", path=str(path), **change)


def write(path: Path, *rows: dict) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_nano_layout(benchmark: BenchmarkSet) -> None:
    items = read_truth(benchmark)
    assert [item.faulty for item in items] == [True, False] * 3
    assert items[0].boxes == (Box(16, 16, 48, 48),) and items[0].fault == "duplication"
    assert items[0].truth().sum() == 32 * 32 and items[0].localizable and not items[1].localizable
    assert len(list(read_items(benchmark, limit=2))) == 2


def test_published_layout_in_a_folder_of_shards_is_read_from_the_parquet_alone(tmp_path: Path) -> None:
    faulty, clean = read_truth(artibench(tmp_path))
    assert (clean.faulty, clean.boxes, clean.explanation) == (False, (), "")
    assert (faulty.width, faulty.height, faulty.explanation) == (60, 40, "Odd.")
    assert faulty.boxes == (Box(1, 2, 11, 20),)  # fractions are rounded outwards
    assert clean.item_id != faulty.item_id
    [(_, data), _] = read_items(artibench(tmp_path / "again"))
    assert data == picture()


def test_a_generator_is_read_under_either_name(tmp_path: Path) -> None:
    rows = [artibench_row(id="a", generator="flux"), artibench_row(id="b", generator=None)]
    write(tmp_path / "a.parquet", *rows)
    write(tmp_path / "b.parquet", artibench_row(id="c", model="sdxl"))
    assert {item.item_id: item.generator for item in read_truth(at(tmp_path))} == {"a": "flux", "b": "", "c": "sdxl"}


def test_a_pixel_mask_is_the_truth_where_there_are_no_boxes() -> None:
    mask = np.zeros((40, 60), bool)
    mask[3:5, 7:9] = True
    item = BenchmarkItem(item_id="a", faulty=True, width=60, height=40, mask=Mask.encode(mask))
    assert (item.truth() == mask).all() and item.localizable
    empty = item.model_copy(update={"mask": Mask.encode(np.zeros((40, 60), bool))})
    assert not empty.localizable and not empty.truth().any()
    assert tally([item, empty]) == {"no_region": 1}


def test_rounding_may_leave_the_image_by_a_pixel_and_is_cut(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", artibench_row(bboxes=[[-0.4, 0.0, 60.3, 41.0]]))
    assert read_truth(at(tmp_path))[0].boxes == (Box(0, 0, 60, 40),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([artibench_row(image={"bytes": b"", "path": ""})], "the image is missing"),
        ([artibench_row(image={"bytes": None, "path": "a.png"})], "the image is missing"),
        ([artibench_row(image={"bytes": picture()[:300], "path": ""})], "cannot be read"),
        ([artibench_row(image={"bytes": picture()[:-12], "path": ""})], "cannot be read"),
        ([artibench_row(image={"bytes": picture(form="JPEG")[:-9], "path": ""})], "truncated: no end of image"),
        ([artibench_row(image={"bytes": b"GIF89a...", "path": ""})], "cannot be read"),
        ([artibench_row(image="a.png")], "column 'image' holds str"),
        ([artibench_row(bboxes=[[10.0, 2.0, 4.0, 8.0]])], "x0 < x1"),
        ([artibench_row(bboxes=[[10.0, 2.0, 10.0, 8.0]])], "no area"),
        ([artibench_row(bboxes=[[10.0, 2.0, 62.0, 8.0]])], "leaves the image of 60x40 px"),
        ([artibench_row(bboxes=[[-9.0, 2.0, -3.0, 8.0]])], "leaves the image"),
        ([artibench_row(bboxes=[[60.2, 2.0, 60.8, 8.0]])], "outside the image"),
        ([artibench_row(bboxes=[[1.0, 2.0, float("nan"), 8.0]])], r"not \[x0, y0, x1, y1\]"),
        ([artibench_row(bboxes=[[1.0, 2.0, 8.0]])], r"not \[x0, y0, x1, y1\]"),
        ([artibench_row(bboxes="[[1, 2, 3, 4]]")], "expected a list"),
        ([artibench_row(has_artifacts="False")], "has_artifacts is 'False'"),
        ([artibench_row(has_artifacts=None)], "has_artifacts is None"),
        ([artibench_row(has_artifacts=False)], "1 boxes although has_artifacts is false"),
        ([artibench_row(id="x"), artibench_row(id="x")], "two items with the id 'x'"),
        ([{"image": picture(), "label": 1}], r"columns \['has_artifacts', 'bboxes', 'explanation'\] missing"),
    ],
)
def test_broken_benchmarks_are_named(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_truth(at(write(tmp_path / "a.parquet", *rows)))
    assert str(tmp_path) in str(error.value)


def test_truncated_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_truth(at(tmp_path / "none.parquet"))
    with pytest.raises(ValueError, match="no benchmark there"):
        read_truth(at(tmp_path))
    whole = write(tmp_path / "a.parquet", *[artibench_row(id=str(k)) for k in range(40)]).read_bytes()
    for kept in (0, 100, len(whole) - 10):
        (tmp_path / "cut.parquet").write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"cut.parquet: not a whole Parquet file"):
            read_truth(at(tmp_path / "cut.parquet"))
    damaged = bytearray(whole)
    damaged[len(whole) // 3 : len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 3)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged.parquet"):
        read_truth(at(tmp_path / "damaged.parquet"))
    write(tmp_path / "none.parquet", artibench_row())
    pq.write_table(pq.read_table(tmp_path / "none.parquet").slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="holds no items"):
        read_truth(at(tmp_path / "none.parquet"))


@pytest.mark.parametrize("build", [artibench, synthscars, loki, richhf])
def test_a_revision_is_of_content_images_and_reading(build, tmp_path: Path) -> None:
    benchmark = build(tmp_path / "a")
    revision = benchmark_sha256(benchmark)
    assert revision == benchmark_sha256(build(tmp_path / "b").model_copy(update={"name": "other"}))
    assert revision != benchmark_sha256(benchmark.model_copy(update={"heat_threshold": 0.4}))
    image = next(path for path in sorted((tmp_path / "a").rglob("*")) if path.suffix in (".parquet", ".png", ".jpg"))
    image.write_bytes(image.read_bytes() + b" ")
    assert revision != benchmark_sha256(benchmark)


@pytest.mark.parametrize("build", [artibench, synthscars, loki, richhf])
def test_items_come_one_at_a_time_with_the_image_they_are_about(build, tmp_path: Path) -> None:
    benchmark = build(tmp_path)
    items = list(read_items(benchmark))
    for item, data in items:
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.size == (item.width, item.height)
        assert item.truth().shape == (item.height, item.width)
    assert [item for item, _ in read_items(benchmark, limit=1)] == [items[0][0]]
    assert len({item.item_id for item, _ in items}) == len(items) == len(read_truth(benchmark)) > 1


def test_memory_does_not_grow_with_the_benchmark(tmp_path: Path) -> None:
    """48 images of about 3 MB each are read with less than a third of them in Arrow's memory at any time."""
    data = picture(1024, 1024)
    rows = [artibench_row(id=str(k), image={"bytes": data, "path": None}) for k in range(8)]
    for k in range(6):
        shard = [row | {"id": f"{k}-{row['id']}"} for row in rows]
        pq.write_table(pa.Table.from_pylist(shard), tmp_path / f"{k}.parquet", row_group_size=4)
    start = pa.total_allocated_bytes()
    peak = max(pa.total_allocated_bytes() - start for _ in read_items(at(tmp_path)))
    assert peak < 16 * len(data)
