from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artiagent.config import InputSet
from artiagent.images import encode
from artiagent.nano.scenes import RenderedScene, render_scene
from artiagent.perception.grounding import Instance
from artiagent.records import Box, Mask


class SceneFolder:
    """A folder of rendered scenes with COCO annotations; ``document`` may be edited before ``save``."""

    def __init__(self, root: Path, scenes: list[RenderedScene]) -> None:
        self.images, self.annotations = root / "images", root / "annotations.json"
        self.images.mkdir(parents=True)
        self.document: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
        for number, scene in enumerate(scenes):
            self._add(number, scene)
        self.save()

    @property
    def source(self) -> InputSet:
        return InputSet(name="scenes", images=str(self.images), annotations=str(self.annotations))

    def save(self) -> None:
        self.annotations.write_text(json.dumps(self.document))

    def _add(self, number: int, scene: RenderedScene) -> None:
        name = f"{number:03d}.png"
        (self.images / name).write_bytes(encode(scene.image))
        height, width = scene.image.shape[:2]
        self.document["images"].append(
            {"id": number, "file_name": name, "width": width, "height": height, "caption": scene.caption}
        )
        for entity in scene.entities:
            self._annotate(number, entity.name, "entity", entity.mask)
            for part in entity.parts:
                self._annotate(number, part.name, part.layer, part.mask)

    def _annotate(self, image: int, name: str, layer: str, mask: np.ndarray) -> None:
        categories = self.document["categories"]
        known = {(c["name"], c["layer"]): c["id"] for c in categories}
        if (name, layer) not in known:
            categories.append({"id": len(categories), "name": name, "layer": layer})
        encoded = Mask.encode(mask)
        self.document["annotations"].append({
            "id": len(self.document["annotations"]), "image_id": image, "iscrowd": 0,
            "category_id": known.get((name, layer), len(categories) - 1),
            "segmentation": {"size": list(encoded.size), "counts": encoded.counts},
        })  # fmt: skip


@pytest.fixture
def scene_folder(tmp_path: Path) -> Callable[..., SceneFolder]:
    """Factory: ``scene_folder(count, name=..., **render options)`` writes rendered scenes and their annotations."""

    def make(count: int, name: str = "input", **options: Any) -> SceneFolder:
        return SceneFolder(tmp_path / name, [render_scene(seed, **options) for seed in range(count)])

    return make


@pytest.fixture
def instance() -> Callable[..., Instance]:
    """Factory: an instance whose mask is a box (x0, y0, x1, y1) on a 128x128 image."""

    def make(key: str, name: str, layer: str, *box: int, size: int = 128) -> Instance:
        mask = np.zeros((size, size), dtype=bool)
        mask[Box(*box).slices] = True
        return Instance(key, name, layer, mask)

    return make
