"""Results as other tools read them: pyarrow, csv, json, pycocotools."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pycocotools.coco import COCO

from artiagent.config import EvaluationSection
from artiagent.inspection.findings import Asking, Inspection
from artiagent.inspection.forms import SCHEMA, write_results
from artiagent.records import Box, CheckpointRef

ASKING = Asking(EvaluationSection(), 0.4)
MODEL = CheckpointRef(name="vlm@champion", uri="/somewhere", sha256="ab" * 32)
TEXT = 'One, two;\n"three" — ü 犬'
DONE = {"detection": "ok", "localization": "ok", "explanation": "ok"}
ROWS = (
    Inspection(
        image='a, "b"\n犬.png', image_sha256="1", width=100, height=80, verdict="artifacts", score=0.75,
        boxes=(Box(1, 2, 31, 42), Box(0, 0, 100, 80)), explanation=TEXT, status=DONE,
    ),
    Inspection(image="b.png", image_sha256="2", width=10, height=8, verdict="clean", score=0.1,
               status={"detection": "ok"}),
    Inspection(image="c.png", image_sha256="3", verdict="unread", reason="empty file (0 bytes)"),
    Inspection(image="d.png", image_sha256="4", width=9, height=9, verdict="unanswered",
               status={"detection": "prose"}),
)  # fmt: skip


def test_parquet_holds_everything(tmp_path: Path) -> None:
    path = write_results("parquet", iter(ROWS), MODEL, ASKING, tmp_path)
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    first, *_, last = table.to_pylist()
    assert first["boxes"] == [[1, 2, 31, 42], [0, 0, 100, 80]] and first["explanation"] == TEXT
    assert (first["model"], first["model_sha256"], first["threshold"]) == (MODEL.name, MODEL.sha256, 0.4)
    assert last["score"] is None and last["status_localization"] == ""


def test_csv_survives_commas_newlines_and_unicode(tmp_path: Path) -> None:
    with write_results("csv", iter(ROWS), MODEL, ASKING, tmp_path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [row.image for row in ROWS]
    assert rows[0]["explanation"] == TEXT and json.loads(rows[0]["boxes"]) == [[1, 2, 31, 42], [0, 0, 100, 80]]
    assert float(rows[0]["score"]) == 0.75 and rows[3]["score"] == ""


def test_json_and_parquet_say_the_same(tmp_path: Path) -> None:
    told = json.loads(write_results("json", iter(ROWS), MODEL, ASKING, tmp_path).read_text())
    assert told == pq.read_table(write_results("parquet", iter(ROWS), MODEL, ASKING, tmp_path)).to_pylist()


def test_coco_loads_in_pycocotools(tmp_path: Path) -> None:
    coco = COCO(str(write_results("coco", iter(ROWS), MODEL, ASKING, tmp_path)))
    assert [coco.imgs[i]["file_name"] for i in coco.getImgIds()] == [ROWS[0].image, "b.png", "d.png"]
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "artifact", "supercategory": ""}]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [a["bbox"] for a in annotations] == [[1, 2, 30, 40], [0, 0, 100, 80]]
    assert {a["score"] for a in annotations} == {0.75} and coco.imgs[1]["explanation"] == TEXT
    assert coco.annToMask(annotations[0]).sum() == annotations[0]["area"] == 1200
    assert coco.dataset["info"]["model_sha256"] == MODEL.sha256


@pytest.mark.parametrize("form", ["parquet", "csv", "json", "coco"])
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, form) -> None:
    def broken():
        yield ROWS[0]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_results(form, broken(), MODEL, ASKING, tmp_path)
    assert list(tmp_path.iterdir()) == []
