"""Published trees through the whole perception stage: scenes, reasons, licences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import scipy.io

from artiagent.config import InputSet, PerceptionSection
from artiagent.perception.sources import licence_of
from artiagent.perception.stage import PerceptionError, perceive
from artiagent.records import Scene
from artiagent.store import read_rows

SECTION = PerceptionSection(patch=4, short_side=32, min_pixels=64)


def test_coco_with_parts(coco_tree: Callable, write: Callable, tmp_path: Path) -> None:
    tree = coco_tree(val2017=["1.jpg", "2.jpg", "3.jpg"])
    write("val2017/unlisted.jpg")
    for image in (0, 1):
        tree.add("val2017", image, 1, (0, 0, 16, 32))
    tree.documents["val2017"]["images"][1]["license"] = 99  # in no list
    tree.save()
    head = [[4, 0, 12, 0, 12, 8, 4, 8]]
    parts = {
        "images": [{"id": k, "file_name": f"{k + 1}.jpg"} for k in range(2)],
        "categories": [{"id": 1, "name": "person:head"}],
        "annotations": [{"id": k, "image_id": k, "category_id": 1, "segmentation": head} for k in range(2)],
    }
    (tmp_path / "parts.json").write_text(json.dumps(parts))
    source = tree.source.model_copy(update={"parts": str(tmp_path / "parts.json"), "categories": ("person",)})
    ref = perceive(SECTION, [source], tmp_path / "out")
    scenes = {row.record.origin: row.record for row in read_rows(ref, Scene)}
    assert {name: [p.name for p in scene.entities[0].parts] for name, scene in scenes.items()} == {
        "val2017/1.jpg": ["head"], "val2017/2.jpg": ["head"],
    }  # fmt: skip
    assert scenes["val2017/1.jpg"].licence == "Attribution License"
    assert scenes["val2017/2.jpg"].licence == licence_of(source)
    assert json.loads((tmp_path / "out" / "skipped.json").read_text()) == {
        "set/val2017/3.jpg": "filtered_category: shows none of person",
        "set/val2017/unlisted.jpg": "not_annotated: no annotation file lists it",
    }


def test_outlines_without_parts_make_no_scene(write: Callable, tmp_path: Path) -> None:
    root = write("101_ObjectCategories/dolphin/image_0001.jpg")
    (root / "Annotations" / "dolphin").mkdir(parents=True)
    outline = {"box_coord": [[1, 20, 1, 20]], "obj_contour": [[0.0, 20, 20], [0, 0, 20]]}
    scipy.io.savemat(root / "Annotations" / "dolphin" / "annotation_0001.mat", outline)
    source = InputSet(name="caltech", layout="caltech101", images=str(root))
    with pytest.raises(PerceptionError, match="no_vocabulary: 1 instances, no entity with a visible part"):
        perceive(SECTION, [source], tmp_path / "out")
