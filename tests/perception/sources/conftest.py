"""Miniature trees in the published layouts, with tiny JPEG files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artiagent.config import InputSet, PerceptionSection
from artiagent.perception.grounding import Grounding, GroundingError
from artiagent.perception.intake import Intake, take_in
from artiagent.perception.sources import image_names, known_grounder, left_out

SIZE = (40, 32)  # width, height
SECTION = PerceptionSection(patch=8, short_side=32, min_pixels=64)  # images of 40x32 px come through unscaled


@pytest.fixture
def jpeg() -> Callable[..., bytes]:
    """Factory: ``jpeg(seed, size)``, noise that differs by seed."""

    def make(seed: int = 0, size: tuple[int, int] = SIZE) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        return buffer.getvalue()

    return make


@pytest.fixture
def write(tmp_path: Path, jpeg: Callable) -> Callable[..., Path]:
    """Factory: ``write(*names)`` puts different images below ``tmp_path/root`` and returns the root."""

    def make(*names: str, size: tuple[int, int] = SIZE) -> Path:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        for seed, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(jpeg(seed, size))
        return root

    return make


@pytest.fixture
def look() -> Callable[..., Grounding]:
    """``look(source, name)``: what is known about one image; raises GroundingError where that is the answer."""

    def ground(source: InputSet, name: str, section: PerceptionSection = SECTION) -> Grounding:
        (found,) = known_grounder(source).ground([taken(source, name, section)], [name], [None])
        if isinstance(found, GroundingError):
            raise found
        return found

    return ground


@pytest.fixture
def partition() -> Callable[[InputSet], tuple[set[str], dict[str, str]]]:
    """Used and left-out names with their codes, after a check that no image file is in both or in none."""

    def split(source: InputSet) -> tuple[set[str], dict[str, str]]:
        names, reasons = image_names(source), left_out(source)
        assert not set(names) & set(reasons)
        assert list(names) == sorted(names)
        return set(names), {name: reason.partition(":")[0] for name, reason in reasons.items()}

    return split


@pytest.fixture
def coco_tree(write: Callable) -> Callable[..., CocoTree]:
    """Factory: ``coco_tree(train2017=[...names], val2017=[...])``, images and empty annotations of every split."""

    def make(**splits: list[str]) -> CocoTree:
        root = write(*(f"{split}/{name}" for split, names in splits.items() for name in names))
        return CocoTree(root, splits)

    return make


class CocoTree:
    """COCO as published; ``documents`` may be edited before ``save``."""

    def __init__(self, root: Path, splits: dict[str, list[str]]) -> None:
        self.root = root
        (root / "annotations").mkdir()
        self.documents = {split: document(names) for split, names in splits.items()}
        self.save()

    @property
    def source(self) -> InputSet:
        return InputSet(name="set", layout="coco", images=str(self.root))

    def add(self, split: str, image: int, category: int, box: tuple[int, int, int, int], **extra: Any) -> None:
        """An instance of ``category`` (1 person, 2 dog, 3 traffic light) over a box x0, y0, x1, y1."""
        notes = self.documents[split]["annotations"]
        notes.append({"id": len(notes), "image_id": image, "category_id": category, "segmentation": [corners(*box)]})
        notes[-1] |= extra

    def save(self) -> None:
        for split, content in self.documents.items():
            (self.root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def document(names: list[str]) -> dict[str, Any]:
    width, height = SIZE
    return {
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
        "images": [
            {"id": k, "file_name": n, "width": width, "height": height, "license": 4} for k, n in enumerate(names)
        ],
        "annotations": [],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 2, "name": "dog"},
            {"id": 3, "name": "traffic light"},
        ],
    }


def corners(x0: int, y0: int, x1: int, y1: int) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def taken(source: InputSet, name: str, section: PerceptionSection = SECTION) -> Intake:
    return take_in((Path(source.images) / name).read_bytes(), name, section)


@pytest.fixture
def take() -> Callable[..., Intake]:
    return taken
