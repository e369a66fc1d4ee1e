from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools.coco import COCO

from artiagent import images
from artiagent.nano.coco import write_scene_set
from artiagent.nano.scenes import render_scene

SEEDS = (0, 3, 11, 19)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene_set(tmp_path_factory.mktemp("scenes"), SEEDS)


def test_images_survive_the_round_trip(folder: Path) -> None:
    rows = pq.read_table(folder / "images.parquet").to_pylist()
    assert [row["file_name"] for row in rows] == [f"scene_{seed:06d}.png" for seed in SEEDS]
    for row, seed in zip(rows, SEEDS, strict=True):
        assert np.array_equal(images.decode(row["image"]), render_scene(seed).image)


def test_masks_survive_the_round_trip(folder: Path) -> None:
    coco = COCO(str(folder / "annotations.json"))
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    for seed in SEEDS:
        expected = [item for entity in render_scene(seed).entities for item in (entity, *entity.parts)]
        stored = coco.loadAnns(coco.getAnnIds(imgIds=[seed]))
        assert [names[a["category_id"]] for a in stored] == [item.name for item in expected]
        for annotation, item in zip(stored, expected, strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), item.mask)
            x, y, w, h = annotation["bbox"]
            assert item.mask[y : y + h, x : x + w].sum() == annotation["area"] == item.mask.sum()


def test_layers_and_owners(folder: Path) -> None:
    document = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    layers = {category["name"]: category["layer"] for category in document["categories"]}
    assert len(layers) == len(document["categories"])
    assert (layers["dog"], layers["ear"], layers["head"], layers["leg"]) == (
        "entity",
        "peripheral",
        "intermediate",
        "both",
    )
    by_id = {annotation["id"]: annotation for annotation in document["annotations"]}
    entities = {category["id"] for category in document["categories"] if category["layer"] == "entity"}
    for annotation in document["annotations"]:
        owner = by_id[annotation["instance"]]
        assert owner["category_id"] in entities and owner["image_id"] == annotation["image_id"]
        assert (annotation["id"] == annotation["instance"]) == (annotation["category_id"] in entities)


def test_captions_and_licence_are_stored(folder: Path) -> None:
    document = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    assert [image["caption"] for image in document["images"]] == [render_scene(seed).caption for seed in SEEDS]
    assert all(image["licence"] for image in document["images"])


def test_equal_seeds_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    write_scene_set(tmp_path, SEEDS)
    for name in ("images.parquet", "annotations.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_empty_or_repeated_seeds_are_refused(tmp_path: Path, seeds: list[int]) -> None:
    with pytest.raises(ValueError, match="distinct"):
        write_scene_set(tmp_path, seeds)
    assert not list(tmp_path.iterdir())
