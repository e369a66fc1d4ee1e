"""Caltech-101 as published: 101_ObjectCategories/<category>/image_0001.jpg, Annotations/<category>/annotation_0001.mat.

The annotations are outlines of one object per image, without parts. ``box_coord`` is [[y0, y1, x0, x1]] in MATLAB's
pixels, where the centre of the first one is (1, 1); ``obj_contour`` is [2, n], x in the first row, from (x0, y0) on.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, partial
from pathlib import Path, PurePosixPath

import numpy as np

from artiagent.config import InputSet
from artiagent.perception.grounding import Grounding, GroundingError, Instance
from artiagent.perception.grounding.annotations import AnnotationGrounder, fill_polygons
from artiagent.perception.grounding.coco import plain_noun
from artiagent.perception.intake import Intake
from artiagent.perception.sources.listing import Listing, refusal, refuse_keys, wanted_categories
from artiagent.perception.sources.matlab import read_matrices
from artiagent.perception.sources.places import MISSING, find_home, is_inside, walk
from artiagent.perception.vocabulary import check_noun

IMAGES, ANNOTATIONS, BACKGROUND = "101_ObjectCategories", "Annotations", "BACKGROUND_Google"
# Folders of annotations that are called otherwise than the images' ones.
FOLDERS = {
    "airplanes": "Airplanes_Side_2", "Faces": "Faces_2", "Faces_easy": "Faces_3", "Motorbikes": "Motorbikes_16",
}  # fmt: skip
# Categories that are no noun in the singular, or name a view of the thing beside it; the others are read as they stand.
NOUNS = {
    "airplanes": "airplane", "car side": "car", "cougar body": "cougar", "faces": "face", "faces easy": "face",
    "leopards": "leopard", "motorbikes": "motorbike", "water lilly": "water lily",
}  # fmt: skip
_IMAGE = re.compile(r"image_(\d+)\.[^.]+")
_ANNOTATION = re.compile(r"annotation_(\d+)\.mat", re.IGNORECASE)
_MAT_BYTES = 2**18  # hundreds of times an outline; larger files are not read
_EXPECTED = (
    "Caltech-101 as published: 101_ObjectCategories/<category>/image_0001.jpg beside Annotations/ (extract "
    "101_ObjectCategories.tar.gz and Annotations.tar)"
)


def survey(source: InputSet, root: Path) -> Listing:
    """All categories but BACKGROUND_Google, which shows no object of its own. Raises SourceError."""
    refuse_keys(source, "annotations", "parts")
    home = find_home(source, root, IMAGES, ("caltech-101", "caltech101"), _EXPECTED)
    files, left_out = walk(home)
    known = {name for file in files if (noun := _noun(file)) for name in (noun, plain_noun(_folder(file)))}
    wanted = wanted_categories(source, known)
    names = []
    for name in files:
        if reason := _refused(source, name, wanted):
            left_out[name] = reason
        else:
            names.append(name)
    notes = cache(partial(_annotations, home))  # walked when asked for
    return Listing(
        home=home,
        names=names,
        left_out=left_out,
        absent=lambda: _absent(files, left_out, notes()),
        grounder=lambda: AnnotationGrounder(partial(_outline, home, notes())) if notes() else None,
        subject=_noun,
        evidence=lambda name: [home / notes()[_key(name)]] if _key(name) in notes() else [],
        categories=sorted(known),
    )


def entity_noun(category: str) -> str:
    """The noun for what a category shows: "airplanes" -> "airplane", "cougar_face" -> "cougar face".

    A head or face stays one: where only a part is visible, the part is the entity. "" for what is no noun.
    """
    name = plain_noun(category)
    try:
        return check_noun(NOUNS.get(name, name))
    except ValueError:
        return ""


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.name


def _noun(name: str) -> str:
    parts = PurePosixPath(name).parts
    return entity_noun(parts[1]) if len(parts) == 3 and parts[0] == IMAGES and parts[1] != BACKGROUND else ""


def _key(name: str) -> tuple[str, int] | None:
    """Category and number of an image."""
    match = _IMAGE.fullmatch(PurePosixPath(name).name)
    return (_folder(name), int(match[1])) if match else None


def _refused(source: InputSet, name: str, wanted: frozenset[str]) -> str:
    parts = PurePosixPath(name).parts
    if len(parts) != 3 or parts[0] != IMAGES or _key(name) is None:
        return f"not_in_layout: expected {IMAGES}/<category>/image_<number>.jpg"
    if parts[1] == BACKGROUND:
        return f"background: {BACKGROUND} shows no object of its own"
    if not _noun(name):
        return f"bad_entry: category {parts[1]!r} is no noun"
    return refusal(source, int(not wanted or bool({_noun(name), plain_noun(parts[1])} & wanted)))


def _annotations(home: Path) -> dict[tuple[str, int], str]:
    """(category, number) -> annotation file."""
    if not (home / ANNOTATIONS).is_dir() or not is_inside(home / ANNOTATIONS, home.resolve()):
        return {}
    categories = {folder: category for category, folder in FOLDERS.items()}
    files, _ = walk(home / ANNOTATIONS, (".mat",))
    found = {}
    for file in files:
        path = PurePosixPath(file)
        if len(path.parts) == 2 and (match := _ANNOTATION.fullmatch(path.name)):
            found[categories.get(path.parts[0], path.parts[0]), int(match[1])] = f"{ANNOTATIONS}/{file}"
    return found


def _absent(files: list[str], left_out: dict[str, str], notes: dict[tuple[str, int], str]) -> dict[str, str]:
    there = {_key(name) for name in (*files, *left_out)}
    return {
        f"{IMAGES}/{category}/image_{number:04d}.jpg": MISSING
        for category, number in notes
        if (category, number) not in there
    }


def _outline(home: Path, notes: dict[tuple[str, int], str], image: Intake, name: str) -> Grounding:
    if (file := notes.get(_key(name))) is None:
        raise GroundingError(f"{name}: no annotation_<number>.mat for it below {ANNOTATIONS}")
    try:
        points = contour((home / file).read_bytes())
        stored = fill_polygons([points.ravel()], image.transform.stored[::-1])
    except (OSError, ValueError) as error:
        raise GroundingError(f"{name}: {file}: {getattr(error, 'strerror', None) or error}") from error
    mask = image.transform.mask(stored)
    if not mask.any():
        return Grounding((), Counter(outside=1))
    return Grounding((Instance("object", _noun(name), "entity", mask),))


def contour(data: bytes) -> np.ndarray:
    """The outline in an annotation file, float [n, 2], (x, y) in pixels from the outer corner of the first one.

    Raises ValueError for what is no MATLAB 5 file, damaged, too large or of other contents.
    """
    if len(data) > _MAT_BYTES:
        raise ValueError(f"{len(data)} bytes, expected an outline of at most {_MAT_BYTES}")
    found = read_matrices(data)
    if missing := {"box_coord", "obj_contour"} - set(found):
        raise ValueError(f"no matrix {min(missing)}, found {sorted(found)}")
    box, outline = found["box_coord"], found["obj_contour"]
    if box.size != 4 or outline.ndim != 2 or outline.shape[0] != 2 or outline.shape[1] < 3:
        raise ValueError(f"box_coord {box.shape}, obj_contour {outline.shape}; expected 4 numbers and [2, 3 or more]")
    if not np.isfinite(box).all():
        raise ValueError(f"box_coord {box.ravel().tolist()}: expected finite numbers")
    top, _, left, _ = box.ravel()
    return outline.T + (left, top) - 0.5
