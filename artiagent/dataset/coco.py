"""Curated pairs as COCO: ``images/`` and ``annotations.json``, read by pycocotools and what is built on it.

A fault is an annotation: category, patch box, and as segmentation the RLE mask of what really changed. Clean twins
(written once for all variants that share them) and hard negatives are images without annotations.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from artiagent.dataset.export import Chosen
from artiagent.dataset.files import JsonList, image_name
from artiagent.grid import grid_of, pixel_mask
from artiagent.records import FAULT_OF_TOOL, Artifact, DatasetRef, Mask, Pair, stable_hash

ANNOTATIONS = "annotations.json"
CATEGORIES = {name: number for number, name in enumerate(FAULT_OF_TOOL.values(), start=1)}


class _Writer:
    """Numbers images, annotations and licences as they come."""

    def __init__(self, out: Path, images: JsonList, annotations: JsonList) -> None:
        self.out, self.images, self.annotations = out, images, annotations
        self.licences: dict[str, int] = {}
        self.twins: dict[str, int] = {}  # content of a twin -> its image id

    def pair(self, chosen: Chosen) -> None:
        """Both sides of an accepted pair, or the one image of a hard negative."""
        pair, data = chosen.row.record, chosen.row.images
        role = "hard negative" if pair.benign else "artifact"
        twin = None if pair.benign else self._twin(chosen)
        image = self._image(chosen, role, data["artifact"], {"twin": twin, "explanation": pair.explanation})
        for fault in pair.faults:
            self.annotations.add(self._annotation(fault, pair, image))

    def _twin(self, chosen: Chosen) -> int:
        content = stable_hash(chosen.row.record.source_id, chosen.row.images["clean"])
        if content not in self.twins:
            self.twins[content] = self._image(chosen, "clean", chosen.row.images["clean"], {})
        return self.twins[content]

    def _image(self, chosen: Chosen, role: str, data: bytes, more: dict[str, Any]) -> int:
        pair, number = chosen.row.record, self.images.count + 1
        name = f"images/{image_name(number, data)}"
        (self.out / name).write_bytes(data)
        entry = {
            "id": number, "file_name": name, "width": pair.width, "height": pair.height,
            "license": self.licences.setdefault(pair.licence, len(self.licences) + 1), "role": role,
            "job_id": pair.job_id, "source_id": pair.source_id, "group": pair.group, "split": chosen.split,
            "origin": pair.origin, "caption": pair.caption,
        }  # fmt: skip
        self.images.add(entry | {key: value for key, value in more.items() if value is not None})
        return number

    def _annotation(self, fault: Artifact, pair: Pair, image: int) -> dict[str, Any]:
        injection, (x0, y0, x1, y1) = fault.injection, fault.box
        mask, area = visible(fault, pair)
        return {
            "id": self.annotations.count + 1, "image_id": image, "iscrowd": 0,
            "category_id": CATEGORIES[FAULT_OF_TOOL[injection.tool]], "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": {"size": list(mask.size), "counts": mask.counts}, "area": area,
            "tool": injection.tool, "kernel": injection.kernel, "entity": injection.entity, "part": injection.part,
            "other_entity": injection.other_entity, "label": fault.label, "explanation": fault.explanation,
        }  # fmt: skip


def write_coco(curated: DatasetRef, pairs: Iterable[Chosen], out: Path) -> None:
    """Write the pairs into the folder ``out``, an existing one. Image and annotation ids count from 1."""
    (out / "images").mkdir()
    parts = [out / "images.part", out / "annotations.part"]
    with JsonList(parts[0]) as images, JsonList(parts[1]) as annotations:
        writer = _Writer(out, images, annotations)
        for chosen in pairs:
            writer.pair(chosen)
    heads = {
        "info": {"description": "ArtiAgent pairs: artifacts and their clean twins", "version": curated.digest},
        "licenses": [{"id": number, "name": name, "url": ""} for name, number in writer.licences.items()],
        "categories": [{"id": n, "name": name, "supercategory": "artifact"} for name, n in CATEGORIES.items()],
    }
    with (out / ANNOTATIONS).open("wb") as file:
        file.write(json.dumps(heads, ensure_ascii=False)[:-1].encode())
        for name, part in zip(("images", "annotations"), parts, strict=True):
            file.write(f', "{name}": '.encode())
            with part.open("rb") as grown:
                shutil.copyfileobj(grown, file)
            part.unlink()
        file.write(b"}\n")


def visible(fault: Artifact, pair: Pair) -> tuple[Mask, int]:
    """Mask of what changed and its area in px; of the whole target where no single pixel is marked as changed."""
    if fault.mask is not None and (area := int(fault.mask.decode().sum())):
        return fault.mask, area
    mapping = fault.injection.mapping
    targets = pixel_mask(grid_of(mapping.targets, mapping.grid), pair.height // mapping.grid[0])
    return Mask.encode(targets), int(targets.sum())
