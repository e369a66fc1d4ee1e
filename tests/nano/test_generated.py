"""The generated split: two labellings joined, their agreement measured, malformed labels refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from artiagent import images
from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks import read_items
from artiagent.nano.coco import parquet_bytes
from artiagent.nano.generated import SPLIT, _sheet, kappa, write_generated
from artiagent.store import write_atomic

CLEAN = {"faulty": False}


def faulty(*box: int) -> dict:
    return {"faulty": True, "boxes": [list(box)], "fault": "distortion", "explanation": "The leg is bent."}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    pictures = [images.encode(np.full((128, 128, 3), 40 * k, np.uint8)) for k in range(4)]
    write_atomic(tmp_path / "samples.parquet", parquet_bytes(pa.table({"image": pictures, "caption": ["a dog"] * 4})))
    return tmp_path / "samples.parquet"


def test_agreement_decides_what_enters_the_benchmark(samples: Path, tmp_path: Path) -> None:
    first = {"1": CLEAN, "2": faulty(0, 0, 32, 32), "3": faulty(8, 8, 40, 40), "4": CLEAN}
    second = {"1": CLEAN, "2": faulty(0, 0, 32, 16), "3": CLEAN, "4": CLEAN}
    card = write_generated(samples, first, second, tmp_path)
    assert (card["n"], card["faulty"], card["left_out"]) == (3, 1, 1)
    assert card["box_iou"] == 0.5
    assert card["kappa"] == 0.5
    items = [item for item, _ in read_items(BenchmarkSet(name="b", path=str(tmp_path / SPLIT)))]
    assert [item.faulty for item in items] == [False, True, False]
    assert items[1].boxes == ((0, 0, 32, 32),)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"faulty": "yes"}, "expected faulty true or false"),
        ({"faulty": True}, "and a box where it is true"),
        ({"faulty": True, "boxes": [[4, 4, 4, 9]], "fault": "omission"}, "boxes with an area"),
        ({"faulty": True, "boxes": [[0, 0, 9, 9]], "fault": "ugly"}, "expected one of duplication"),
    ],
)
def test_a_malformed_label_names_its_picture(samples: Path, tmp_path: Path, label: dict, message: str) -> None:
    labels = {str(k): CLEAN for k in range(1, 5)}
    with pytest.raises(ValueError, match=f"picture 2: .*{message}"):
        write_generated(samples, labels | {"2": label}, labels, tmp_path)
    with pytest.raises(ValueError, match="picture 4 has no label"):
        write_generated(samples, {k: v for k, v in labels.items() if k != "4"}, labels, tmp_path)


def test_kappa_of_perfect_and_of_chance_agreement() -> None:
    assert kappa(np.array([[5, 0], [0, 5]])) == 1
    assert kappa(np.array([[25, 25], [25, 25]])) == 0
    assert kappa(np.array([[10, 0], [0, 0]])) == 1


def test_a_sheet_holds_all_pictures() -> None:
    sheet = _sheet([np.zeros((128, 128, 3), np.uint8)] * 5, ["a dog"] * 5, 1)
    assert sheet.shape[0] > 2 * 128 * 3
