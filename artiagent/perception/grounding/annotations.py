"""Grounding from COCO-format annotations: polygons, compressed and uncompressed run lengths.

Coordinates count in the pixel array as stored in the file, before any EXIF rotation: that is the COCO convention. Tools
that annotate the rotated view write its width and height into ``images``; sizes that fit only the rotated view are
therefore read in that frame, sizes that fit neither are refused. TIFF files have the rotated view only: their decoder
turns them.

Extensions of the format, all optional: ``categories[].layer`` (entity, peripheral, intermediate, both; without it
the table of part names decides), ``images[].caption``, ``images[].licence`` (else the name of ``images[].license``).
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from skimage.draw import polygon

from artiagent.perception.grounding import Grounding, GroundingError, Instance
from artiagent.perception.intake import Intake
from artiagent.perception.part_names import PART_LAYERS
from artiagent.perception.vocabulary import Vocabulary, check_noun
from artiagent.records import Layer

_LAYERS = ("entity", *get_args(Layer))


class AnnotationError(ValueError):
    """An annotation file that cannot be used; the message names the file and the offending id."""


@dataclass(frozen=True)
class _Category:
    name: str
    layer: Layer | Literal["entity"]


class AnnotationGrounder:
    """The ``annotations`` backend of ``Grounder``.

    Args:
        path: COCO JSON file.

    Raises AnnotationError for malformed JSON, missing lists or fields, duplicate ids and references to unknown ids.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        document = _read(path)
        licences = {
            entry.get("id"): entry.get("name") for entry in _entries(path, document, "licenses", required=False)
        }
        self._categories = {
            key: self._category(key, entry) for key, entry in _by_id(path, document, "categories", "name").items()
        }
        images = _by_id(path, document, "images", "file_name")
        self._images: dict[str, dict[str, Any]] = {}
        for key, entry in images.items():
            if entry["file_name"] in self._images:
                raise AnnotationError(
                    f"{path}: images[id={key}]: file_name {entry['file_name']!r} appears twice; keep one"
                )
            self._images[entry["file_name"]] = entry
        self._licences = {
            key: entry.get("licence") or licences.get(entry.get("license")) for key, entry in images.items()
        }
        self._annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for key, entry in _by_id(path, document, "annotations", "image_id", "category_id").items():
            self._check_references(key, entry, images)
            self._annotations[entry["image_id"]].append(entry)

    def without_image(self, names: Iterable[str]) -> tuple[str, ...]:
        """Annotated file names that are not among ``names``, sorted."""
        return tuple(sorted(set(self._images) - set(names)))

    def ground(self, image: Intake, name: str, vocabulary: Vocabulary | None = None) -> Grounding:
        """The annotated instances of ``name``; crowds and instances wholly outside the image are counted as dropped.

        Raises GroundingError when the file does not annotate ``name``, states another image size, or one of its
        segmentations is malformed.
        """
        if name not in self._images:
            raise GroundingError(f"{name}: not listed in {self.path.name}")
        entry = self._images[name]
        upright = _is_upright(entry, image, name)
        shape = (image.transform.upright if upright else image.transform.stored)[::-1]
        dropped: Counter[str] = Counter()
        instances = []
        for annotation in self._annotations[entry["id"]]:
            if annotation.get("iscrowd"):
                dropped["crowd"] += 1
                continue
            mask = image.transform.mask(_rasterise(annotation, shape, name), upright=upright)
            if not mask.any():
                dropped["outside"] += 1
                continue
            category = self._categories[annotation["category_id"]]
            score = float(annotation.get("score", 1.0))
            instances.append(Instance(str(annotation["id"]), category.name, category.layer, mask, score))
        licence = self._licences[entry["id"]] or "unknown"
        return Grounding(tuple(instances), dropped, str(entry.get("caption") or ""), str(licence))

    def _category(self, key: Any, entry: dict[str, Any]) -> _Category:
        where = f"{self.path}: categories[id={key}]"
        try:
            name = check_noun(str(entry["name"]).strip().lower().replace("_", " "))
        except ValueError as error:
            raise AnnotationError(f"{where}: {error}") from error
        layer = entry.get("layer", PART_LAYERS.get(name, "entity"))
        if layer not in _LAYERS:
            raise AnnotationError(f"{where}: layer {layer!r}; expected one of {', '.join(_LAYERS)}")
        return _Category(name, layer)

    def _check_references(self, key: Any, entry: dict[str, Any], images: dict[Any, dict[str, Any]]) -> None:
        for field, known in (("image_id", images), ("category_id", self._categories)):
            if entry[field] not in known:
                raise AnnotationError(f"{self.path}: annotations[id={key}]: unknown {field} {entry[field]!r}")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnnotationError(f"{path}: not valid JSON ({error}); expected a COCO annotation file") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror}); expected a COCO annotation file") from error
    if not isinstance(document, dict):
        raise AnnotationError(
            f"{path}: expected a COCO object with images, annotations, categories, got a {type(document).__name__}"
        )
    return document


def _entries(path: Path, document: dict[str, Any], key: str, *, required: bool = True) -> list[dict[str, Any]]:
    entries = document.get(key, None if required else [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AnnotationError(
            f"{path}: expected a list of objects under {key!r}, found keys {sorted(map(str, document))}"
        )
    return entries


def _by_id(path: Path, document: dict[str, Any], key: str, *fields: str) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for position, entry in enumerate(_entries(path, document, key)):
        missing = [field for field in ("id", *fields) if not isinstance(entry.get(field), (int, str))]
        if missing:
            raise AnnotationError(f"{path}: {key}[{position}]: {missing[0]!r} is missing or neither number nor text")
        if entry["id"] in found:
            raise AnnotationError(f"{path}: {key}: id {entry['id']!r} appears twice; ids must be unique")
        found[entry["id"]] = entry
    return found


def _is_upright(entry: dict[str, Any], image: Intake, name: str) -> bool:
    stated = (entry.get("width"), entry.get("height"))
    transform = image.transform
    if stated in ((None, None), transform.stored):
        return False
    if stated == transform.upright:
        return True
    width, height = transform.stored
    raise GroundingError(f"{name}: annotations are for {stated[0]}x{stated[1]} px, the file has {width}x{height} px")


def _rasterise(annotation: dict[str, Any], shape: tuple[int, int], name: str) -> np.ndarray:
    segmentation = annotation.get("segmentation")
    try:
        if isinstance(segmentation, dict):
            return decode_rle(segmentation, shape)
        if isinstance(segmentation, list) and segmentation:
            return fill_polygons(segmentation, shape)
        raise ValueError("no segmentation (boxes alone do not suffice)")
    except (ValueError, TypeError, KeyError) as error:
        raise GroundingError(f"{name}: annotation {annotation['id']}: {error}") from error


def fill_polygons(polygons: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    """Union of polygons as a bool mask of ``shape`` (H, W), clipped to the image.

    Args:
        polygons: each a flat list x0, y0, x1, y1, ... in pixels, (0, 0) being the outer corner of the first pixel.

    Raises ValueError for fewer than three points, odd or non-finite coordinates.
    """
    mask = np.zeros(shape, dtype=bool)
    for flat in polygons:
        if not isinstance(flat, list) or len(flat) < 6 or len(flat) % 2 or not all(map(_finite, flat)):
            raise ValueError("a polygon needs at least three points x, y of finite numbers")
        points = np.asarray(flat, dtype=float).reshape(-1, 2)
        mask[polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, shape)] = True
    return mask


def decode_rle(rle: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """Decode COCO run lengths (column-major, starting with zeros; list or compressed string) to a bool mask [H, W].

    Written out because the C decoder of pycocotools trusts its input. Raises ValueError when the runs do not fill
    ``shape``.
    """
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = _uncompress(counts)
    if tuple(rle["size"]) != shape:
        raise ValueError(f"run lengths of size {rle['size']}, expected [height, width] = {list(shape)}")
    if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != shape[0] * shape[1]:
        raise ValueError(f"run lengths do not add up to {shape[0]}x{shape[1]} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(shape[::-1]).T


def _uncompress(text: str) -> list[int]:
    """COCO's compressed runs: base-32 digits from chr(48), low first; from the third on, differences to two before."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 60:
            raise ValueError(f"run lengths hold {character!r}, which is not part of a compressed run")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        value -= (1 << shift) if digit & 16 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return counts


def _finite(number: object) -> bool:
    return isinstance(number, (int, float)) and math.isfinite(number)
