"""COCO-format annotation files: read once, checked, kept compact.

Knows the format and its optional extensions: ``categories[].layer`` (entity, peripheral, intermediate, both; without it
the table of part names decides), ``images[].caption``, ``images[].licence`` (else the name of ``images[].license``).
Does not know where images lie and draws no masks.

A file like COCO's instances_train2017.json holds tens of millions of coordinates. Polygons become arrays while the text
is parsed and everything unused is dropped, so that the plain Python form of the whole file never exists.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from artiagent.perception.part_names import PART_LAYERS
from artiagent.perception.vocabulary import check_noun
from artiagent.records import Layer

_LAYERS = ("entity", *get_args(Layer))
_UNUSED = ("area", "bbox", "coco_url", "date_captured", "flickr_url")


class AnnotationError(ValueError):
    """An annotation file that cannot be used; the message names the file and the offending id."""


@dataclass(frozen=True, slots=True)
class Category:
    """What an outline is around."""

    name: str
    layer: Layer | Literal["entity"]


@dataclass(frozen=True, slots=True)
class Outline:
    """One annotated instance; ``segmentation`` as in the file, unchecked, polygons as arrays of numbers."""

    id: str
    category: Category
    segmentation: Any
    crowd: bool
    score: float


@dataclass(slots=True)
class ImageNotes:
    """What a file says about one image. ``size`` is (width, height) as stated, None where it is not."""

    size: tuple[int | None, int | None]
    caption: str = ""
    licence: str = ""
    outlines: list[Outline] = field(default_factory=list)


@dataclass(frozen=True)
class CocoFile:
    """``images`` by file name, in the order of the file; ``categories`` in the order of the file."""

    images: dict[str, ImageNotes]
    categories: tuple[Category, ...]


def read_coco(path: Path, *, parts: bool = False) -> CocoFile:
    """Read a COCO JSON file.

    Args:
        path: the file.
        parts: it adds part annotations to another file: its ids get the prefix ``part-``, names such as ``mug:handle``
            mean the part, and at least one category must be a part.

    Raises AnnotationError for malformed JSON, missing lists or fields, duplicate ids and references to unknown ids.
    """
    document = _read(path)
    categories = {
        key: _category(path, key, entry, parts) for key, entry in _entries(path, document, "categories", "name")
    }
    if parts and all(category.layer == "entity" for category in categories.values()):
        raise AnnotationError(
            f"{path}: none of its categories is a part; give them a 'layer' or names such as "
            f"{', '.join(sorted(PART_LAYERS)[:5])}"
        )
    names: dict[Any, str] = {}
    images: dict[str, ImageNotes] = {}
    licences = {str(e.get("id")): e.get("name") for e in _list(path, document, "licenses", required=False)}
    for key, entry in _entries(path, document, "images", "file_name"):
        names[key] = name = str(entry["file_name"])
        if name in images:
            raise AnnotationError(f"{path}: images[id={key}]: file_name {name!r} appears twice; keep one")
        licence = entry.get("licence") or licences.get(str(entry.get("license"))) or ""
        size = entry.get("width"), entry.get("height")
        images[name] = ImageNotes(size, _line(entry.get("caption")), str(licence))
    for key, entry in _entries(path, document, "annotations", "image_id", "category_id"):
        for reference, known in (("image_id", names), ("category_id", categories)):
            if entry[reference] not in known:
                raise AnnotationError(f"{path}: annotations[id={key}]: unknown {reference} {entry[reference]!r}")
        images[names[entry["image_id"]]].outlines.append(_outline(path, key, entry, categories, parts))
    return CocoFile(images, tuple(categories.values()))


def read_captions(path: Path) -> dict[str, str]:
    """The first caption of every image of a COCO captions file, by file name. Raises AnnotationError."""
    document = _read(path)
    names = {key: str(entry["file_name"]) for key, entry in _entries(path, document, "images", "file_name")}
    captions: dict[str, str] = {}
    for key, entry in _entries(path, document, "annotations", "image_id"):
        if entry["image_id"] not in names:
            raise AnnotationError(f"{path}: annotations[id={key}]: unknown image_id {entry['image_id']!r}")
        if caption := _line(entry.get("caption")):
            captions.setdefault(names[entry["image_id"]], caption)
    return captions


def plain_noun(name: str) -> str:
    """A category's published name in the form of nouns here: "Mouse_(computer_equipment)" -> "mouse"."""
    return " ".join(re.sub(r"\([^()]*\)", " ", name.lower().replace("_", " ")).split())


def _category(path: Path, key: Any, entry: dict[str, Any], parts: bool) -> Category:
    where = f"{path}: categories[id={key}]"
    given = str(entry["name"])
    try:
        name = check_noun(plain_noun(given.rpartition(":")[2] if parts else given))
    except ValueError as error:
        raise AnnotationError(f"{where}: {error}") from error
    layer = entry.get("layer", PART_LAYERS.get(name, "entity"))
    if layer not in _LAYERS:
        raise AnnotationError(f"{where}: layer {layer!r}; expected one of {', '.join(_LAYERS)}")
    return Category(name, layer)


def _outline(path: Path, key: Any, entry: dict[str, Any], categories: dict[Any, Category], parts: bool) -> Outline:
    score = entry.get("score", 1.0)
    if not isinstance(score, int | float):
        raise AnnotationError(f"{path}: annotations[id={key}]: score {score!r}; expected a number from 0 to 1")
    name = f"part-{key}" if parts else str(key)
    crowd = bool(entry.get("iscrowd"))
    return Outline(name, categories[entry["category_id"]], entry.get("segmentation"), crowd, float(score))


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8-sig"), object_hook=_compact)
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror}); expected a COCO annotation file") from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not valid JSON ({error}); expected a COCO annotation file") from error
    if not isinstance(document, dict):
        raise AnnotationError(
            f"{path}: expected a COCO object with images, annotations, categories, got a {type(document).__name__}"
        )
    return document


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    for name in _UNUSED:
        entry.pop(name, None)
    if isinstance(polygons := entry.get("segmentation"), list):
        entry["segmentation"] = [_numbers(flat) for flat in polygons]
    return entry


def _numbers(flat: Any) -> Any:
    try:
        return array("d", flat) if isinstance(flat, list) else flat
    except (TypeError, OverflowError):
        return flat  # no list of numbers: an error of its image, raised when it is drawn


def _list(path: Path, document: dict[str, Any], key: str, *, required: bool = True) -> list[dict[str, Any]]:
    entries = document.get(key, None if required else [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AnnotationError(
            f"{path}: expected a list of objects under {key!r}, found keys {sorted(map(str, document))}"
        )
    return entries


def _entries(path: Path, document: dict[str, Any], key: str, *fields: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Checked entries of a list with their ids; the list is emptied on the way, which halves the memory needed."""
    entries = _list(path, document, key)
    seen = set()
    for position, entry in enumerate(entries):
        entries[position] = {}
        missing = [name for name in ("id", *fields) if not isinstance(entry.get(name), int | str)]
        if missing:
            raise AnnotationError(f"{path}: {key}[{position}]: {missing[0]!r} is missing or neither number nor text")
        if entry["id"] in seen:
            raise AnnotationError(f"{path}: {key}: id {entry['id']!r} appears twice; ids must be unique")
        seen.add(entry["id"])
        yield entry["id"], entry


def _line(text: Any) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""
