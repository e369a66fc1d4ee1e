"""The real photographs of the embedded default: eight pictures of scikit-image and scikit-learn, parts by hand.

Knows the hand annotations (photo_annotations.json) and how to write them beside the pictures as COCO. Does not know
what perception makes of them. Polygon coordinates are pixel edges of the stored image: x = 0 is the left border and
x = width the right one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pycocotools import mask as coco_mask

ANNOTATIONS = Path(__file__).with_name("photo_annotations.json")
LONG_SIDE = 512
JPEG_QUALITY = 90
IMAGE_SCHEMA = pa.schema([pa.field("file_name", pa.string()), pa.field("image", pa.binary())])


def write_photo_set(out: Path) -> Path:
    """Write ``images.parquet`` and ``annotations.json`` (COCO with parts) into ``out``.

    Equal packages give equal bytes. The picture files are checked before anything is written.

    Args:
        out: folder, made when missing; files of the same name are replaced.

    Returns:
        ``out``.

    Raises:
        ValueError: a package or its picture is missing, or is not the picture that was annotated.
    """
    photos = read_annotations()
    encoded = [encode_photo(photo) for photo in photos]
    coco = build_coco(photos)
    out.mkdir(parents=True, exist_ok=True)
    table = pa.table({"file_name": [p["file_name"] for p in photos], "image": encoded}, schema=IMAGE_SCHEMA)
    # JPEG does not compress any further.
    pq.write_table(table, out / "images.parquet", compression="none", use_dictionary=False, write_statistics=False)
    (out / "annotations.json").write_text(json.dumps(coco) + "\n", encoding="utf-8")
    return out


def read_annotations() -> list[dict]:
    """The hand annotations: one entry per photograph with its entities and their parts."""
    return json.loads(ANNOTATIONS.read_text(encoding="utf-8"))["photos"]


def source_path(package: str, path: str) -> Path:
    """Where an installed package keeps a file; found without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"photographs: package {package!r} is not installed; install scikit-image and scikit-learn")
    return Path(spec.submodule_search_locations[0]) / path


def encode_photo(photo: dict) -> bytes:
    """The stored JPEG: long side at most LONG_SIDE, colour mode of the source kept (one photograph is grey)."""
    path = source_path(photo["package"], photo["path"])
    if not path.is_file():
        raise ValueError(f"photographs: {photo['package']} ships no {photo['path']}; install another version of it")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != photo["sha256"]:
        raise ValueError(
            f"photographs: {photo['path']} of {photo['package']} is not the picture that was annotated; "
            "install the version in the lock file or annotate the new picture"
        )
    image = Image.open(io.BytesIO(content))
    scale = min(1.0, LONG_SIDE / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    if size != (photo["width"], photo["height"]):
        raise ValueError(f"photographs: {photo['file_name']} becomes {size}, annotated at another size; annotate again")
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def build_coco(photos: list[dict]) -> dict:
    """COCO dictionary of all photographs.

    Beside the usual fields: ``layer`` of a category is entity, peripheral, intermediate or both; ``instance`` of an
    annotation is the annotation id of its entity, so an entity names itself and a part names its owner.
    """
    layers = collect_layers(photos)
    category_ids = {name: index for index, name in enumerate(sorted(layers, key=lambda n: (layers[n], n)), start=1)}
    images, annotations = [], []
    for image_id, photo in enumerate(photos, start=1):
        keys = ("file_name", "width", "height", "caption", "licence", "source")
        images.append({"id": image_id} | {key: photo[key] for key in keys})
        for entity in photo["entities"]:
            owner = len(annotations) + 1
            for item in (entity, *entity["parts"]):
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[item["name"]],
                }
                annotations.append(annotation | measure(item["polygons"], photo) | {"iscrowd": 0, "instance": owner})
    categories = [{"id": index, "name": name, "layer": layers[name]} for name, index in category_ids.items()]
    return {"images": images, "categories": categories, "annotations": annotations}


def collect_layers(photos: list[dict]) -> dict[str, str]:
    """Category name to layer. Raises ValueError where one name stands for two layers."""
    layers: dict[str, str] = {}
    for photo in photos:
        for entity in photo["entities"]:
            for item in (entity, *entity["parts"]):
                layer = item.get("layer", "entity")
                if layers.setdefault(item["name"], layer) != layer:
                    raise ValueError(f"photographs: {item['name']!r} is {layers[item['name']]} and {layer}; choose one")
    return layers


def polygon_mask(polygons: list[list[int]], width: int, height: int) -> np.ndarray:
    """Bool array [H, W] of the union of polygons ``[x, y, x, y, ...]``."""
    runs = coco_mask.frPyObjects([[float(v) for v in polygon] for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def measure(polygons: list[list[int]], photo: dict) -> dict:
    """COCO fields of one annotation: segmentation, bbox (x, y, w, h) and area of the rasterised union, in pixels."""
    mask = polygon_mask(polygons, photo["width"], photo["height"])
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    bbox = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    return {"segmentation": polygons, "bbox": bbox, "area": int(mask.sum())}
