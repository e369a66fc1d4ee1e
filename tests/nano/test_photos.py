"""The photograph set is well-formed COCO, its parts lie in their entities, and a rebuild gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from artiagent.nano import photos

LAYERS = {"entity", "peripheral", "intermediate", "both"}
# The dahlia shows neither stem nor leaf of its own, and petals are no fixed number.
WITHOUT_PERIPHERAL = {"flower.jpg"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.write_photo_set(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def coco(folder: Path) -> COCO:
    return COCO(str(folder / "annotations.json"))


def test_images_match_their_records(folder: Path, coco: COCO) -> None:
    table = pq.read_table(folder / "images.parquet")
    assert table.schema == photos.IMAGE_SCHEMA
    stored = {row["file_name"]: row["image"] for row in table.to_pylist()}
    records = coco.loadImgs(coco.getImgIds())
    assert set(stored) == {record["file_name"] for record in records} and len(records) == 8
    for record in records:
        image = Image.open(io.BytesIO(stored[record["file_name"]]))
        assert image.size == (record["width"], record["height"]) and max(image.size) <= photos.LONG_SIDE
        assert record["caption"].endswith(".") and record["licence"] and record["source"]
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 1_200_000


def test_polygons_inside_and_masks_decode(coco: COCO) -> None:
    for annotation in coco.loadAnns(coco.getAnnIds()):
        image = coco.imgs[annotation["image_id"]]
        for polygon in annotation["segmentation"]:
            assert len(polygon) >= 6 and len(polygon) % 2 == 0
            assert all(0 <= x <= image["width"] for x in polygon[::2])
            assert all(0 <= y <= image["height"] for y in polygon[1::2])
        mask = coco.annToMask(annotation)
        assert mask.shape == (image["height"], image["width"])
        assert int(mask.sum()) == annotation["area"] > 0
        x, y, w, h = annotation["bbox"]
        assert int(mask[y : y + h, x : x + w].sum()) == annotation["area"]


def test_parts_lie_in_their_entity(coco: COCO) -> None:
    """Perception links at a containment of .9; the contours are drawn to pass it."""
    for annotation in coco.loadAnns(coco.getAnnIds()):
        owner = coco.anns[annotation["instance"]]
        assert owner["image_id"] == annotation["image_id"]
        assert coco.cats[owner["category_id"]]["layer"] == "entity"
        mask = coco.annToMask(annotation).astype(bool)
        inside = (mask & coco.annToMask(owner).astype(bool)).sum() / mask.sum()
        assert inside >= 0.9, (coco.cats[annotation["category_id"]]["name"], inside)
        if annotation["id"] != owner["id"]:
            assert annotation["area"] <= owner["area"] / 2


def test_layers_per_photo(coco: COCO) -> None:
    assert {category["layer"] for category in coco.cats.values()} == LAYERS
    for image in coco.imgs.values():
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        layers = [coco.cats[a["category_id"]]["layer"] for a in annotations]
        assert layers.count("intermediate") + layers.count("both") >= 1, image["file_name"]
        if image["file_name"] not in WITHOUT_PERIPHERAL:
            assert layers.count("peripheral") + layers.count("both") >= 2, image["file_name"]


def test_entities_touch_in_two_photos(coco: COCO) -> None:
    """Fusion needs two entities that share cells of the token grid: 16 px here."""
    touching = set()
    for image in coco.imgs.values():
        owners = [a for a in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])) if a["id"] == a["instance"]]
        cells = [{(y // 16, x // 16) for y, x in zip(*coco.annToMask(a).nonzero(), strict=True)} for a in owners]
        if any(len(a & b) > 5 for i, a in enumerate(cells) for b in cells[i + 1 :]):
            touching.add(image["file_name"])
    assert {"astronaut.jpg", "coffee.jpg", "camera.jpg"} <= touching


def test_rebuild_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = photos.write_photo_set(tmp_path / "again")
    for name in ("images.parquet", "annotations.json"):
        digests = [hashlib.sha256((f / name).read_bytes()).hexdigest() for f in (folder, again)]
        assert digests[0] == digests[1]


def test_foreign_picture_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = photos.read_annotations()
    entries[-1]["sha256"] = "0" * 64
    changed = tmp_path / "annotations.json"
    changed.write_text(json.dumps({"photos": entries}))
    monkeypatch.setattr(photos, "ANNOTATIONS", changed)
    with pytest.raises(ValueError, match="not the picture that was annotated"):
        photos.write_photo_set(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_name_in_two_layers_is_refused() -> None:
    part = {"name": "cup", "layer": "peripheral", "polygons": []}
    with pytest.raises(ValueError, match="'cup' is entity and peripheral"):
        photos.collect_layers([{"entities": [{"name": "cup", "polygons": [], "parts": [part]}]}])


def test_missing_package_is_named() -> None:
    with pytest.raises(ValueError, match="not installed"):
        photos.source_path("artiagent_no_such_package", "x.png")
