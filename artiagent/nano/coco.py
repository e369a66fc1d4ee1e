"""Writes rendered scenes as a source data set: a Parquet file of images and COCO annotations with parts.

Knows the COCO layout. Part annotations name their owner only in `instance`, which linking does not read: it is there to
evaluate linking by containment.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artiagent import images
from artiagent.grid import mask_box
from artiagent.nano.kinds import BUILDERS, part_layers
from artiagent.nano.scenes import RenderedScene, render_scene
from artiagent.records import Mask
from artiagent.store import write_atomic

LICENCE = "CC0-1.0"
IMAGE_SCHEMA = pa.schema([pa.field("file_name", pa.string()), pa.field("image", pa.binary())])


def write_scene_set(out: Path, seeds: Iterable[int], size: int = 128) -> Path:
    """Write `images.parquet` (file_name, image: PNG bytes) and `annotations.json` (COCO) into `out`.

    Equal seeds give equal bytes.

    Args:
        out: folder, made when missing; files of the same name are replaced.
        seeds: one scene each; the seed is the image id.
        size: side of the images in px.

    Returns:
        `out`.

    Raises:
        ValueError: no seed, or a seed given twice.
    """
    chosen = list(seeds)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(f"{len(chosen)} seeds, {len(set(chosen))} distinct: expected at least one, and none twice")
    scenes = [render_scene(seed, size=size) for seed in chosen]
    names = [f"scene_{scene.seed:06d}.png" for scene in scenes]
    table = pa.table({"file_name": names, "image": [images.encode(s.image) for s in scenes]}, schema=IMAGE_SCHEMA)
    write_atomic(out / "images.parquet", parquet_bytes(table))
    write_atomic(out / "annotations.json", (json.dumps(build_coco(scenes, names)) + "\n").encode("utf-8"))
    return out


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as one zstd-compressed Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def build_coco(scenes: list[RenderedScene], names: list[str]) -> dict[str, Any]:
    """COCO dictionary: compressed RLE; `layer` of a category is entity, peripheral, intermediate or both.

    `instance` of an annotation is the annotation id of its entity.
    """
    layers = dict.fromkeys(BUILDERS, "entity") | part_layers()
    ids = {name: index for index, name in enumerate(layers, start=1)}
    entries, annotations = [], []
    for scene, name in zip(scenes, names, strict=True):
        height, width = scene.image.shape[:2]
        size = {"width": width, "height": height}
        entries.append({"id": scene.seed, "file_name": name, **size, "caption": scene.caption, "licence": LICENCE})
        for entity in scene.entities:
            owner = len(annotations) + 1
            for item in (entity, *entity.parts):
                head = {"id": len(annotations) + 1, "image_id": scene.seed, "category_id": ids[item.name]}
                annotations.append(head | _measured(item.mask) | {"iscrowd": 0, "instance": owner})
    categories = [{"id": ids[name], "name": name, "layer": layer} for name, layer in layers.items()]
    return {"images": entries, "categories": categories, "annotations": annotations}


def _measured(mask: np.ndarray) -> dict[str, Any]:
    """Segmentation, bbox (x, y, w, h) and area in px of a bool mask [H, W]."""
    x0, y0, x1, y1 = mask_box(mask) or (0, 0, 0, 0)
    return {
        "segmentation": {"size": list(mask.shape), "counts": Mask.encode(mask).counts},
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask.sum()),
    }
