"""Grounding from annotations: what a data set publishes about its images, and masks from COCO outlines.

Coordinates count in the pixel array as stored in the file, before any EXIF rotation: that is the COCO convention. Tools
that annotate the rotated view write its width and height into ``images``; sizes that fit only the rotated view are
therefore read in that frame, sizes that fit neither are refused. TIFF files have the rotated view only: their decoder
turns them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from skimage.draw import polygon

from artiagent.perception.grounding import Grounding, GroundingError, Instance
from artiagent.perception.grounding.coco import AnnotationError, ImageNotes, read_coco
from artiagent.perception.intake import Intake

if TYPE_CHECKING:
    from artiagent.perception.vocabulary import Vocabulary

__all__ = ["AnnotationError", "AnnotationGrounder", "coco_grounder", "decode_rle", "fill_polygons", "read_annotations"]


@dataclass(frozen=True)
class AnnotationGrounder:
    """The ``annotations`` backend of ``Grounder``.

    ``look_up`` gives what is annotated in one image, called by its name in the set; raises GroundingError.
    """

    look_up: Callable[[Intake, str], Grounding]
    name: ClassVar[str] = "annotations"
    needs_vocabulary: ClassVar[bool] = False

    def ground(
        self, images: Sequence[Intake], names: Sequence[str], vocabularies: Sequence[Vocabulary | None]
    ) -> list[Grounding | GroundingError]:
        """The annotated instances of every image, whatever the vocabularies say."""
        return [self._one(image, name) for image, name, _ in zip(images, names, vocabularies, strict=True)]

    def _one(self, image: Intake, name: str) -> Grounding | GroundingError:
        try:
            return self.look_up(image, name)
        except GroundingError as error:
            return error


def read_annotations(path: Path) -> AnnotationGrounder:
    """Grounder of one COCO file whose file names are the images' names. Raises AnnotationError."""
    images = read_coco(path).images
    return coco_grounder({name: (notes,) for name, notes in images.items()}, path.name)


def coco_grounder(images: Mapping[str, Sequence[ImageNotes]], origin: str) -> AnnotationGrounder:
    """Grounder of COCO notes by image name.

    Crowds, instances wholly outside the image and, after the first notes, what is not a part are counted as dropped.
    An image without notes, of another size than its notes state or with a malformed segmentation is an error.

    Args:
        images: the notes about an image; caption, licence and entities count from the first, the others add parts.
        origin: where they come from, for messages.
    """
    return AnnotationGrounder(partial(_look_up, images, origin))


def _look_up(images: Mapping[str, Sequence[ImageNotes]], origin: str, image: Intake, name: str) -> Grounding:
    if name not in images:
        raise GroundingError(f"{name}: not listed in {origin}")
    first, *further = images[name]
    dropped: Counter[str] = Counter()
    instances = list(_instances(first, image, name, dropped))
    for notes in further:
        found = list(_instances(notes, image, name, dropped))
        parts = [instance for instance in found if instance.layer != "entity"]
        dropped["not_a_part"] += len(found) - len(parts)
        instances += parts
    return Grounding(tuple(instances), +dropped, first.caption, first.licence or "unknown")


def _instances(notes: ImageNotes, image: Intake, name: str, dropped: Counter[str]) -> Iterator[Instance]:
    upright = _is_upright(notes, image, name)
    shape = (image.transform.upright if upright else image.transform.stored)[::-1]
    for outline in notes.outlines:
        if outline.crowd:
            dropped["crowd"] += 1
            continue
        try:
            stored = _rasterise(outline.segmentation, shape)
        except (ValueError, TypeError, KeyError) as error:
            raise GroundingError(f"{name}: annotation {outline.id}: {error}") from error
        mask = image.transform.mask(stored, upright=upright)
        if mask.any():
            yield Instance(outline.id, outline.category.name, outline.category.layer, mask, outline.score)
        else:
            dropped["outside"] += 1


def _is_upright(notes: ImageNotes, image: Intake, name: str) -> bool:
    transform = image.transform
    if notes.size in ((None, None), transform.stored):
        return False
    if notes.size == transform.upright:
        return True
    stated, (width, height) = notes.size, transform.stored
    raise GroundingError(f"{name}: annotations are for {stated[0]}x{stated[1]} px, the file has {width}x{height} px")


def _rasterise(segmentation: Any, shape: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, dict):
        return decode_rle(segmentation, shape)
    if isinstance(segmentation, list) and segmentation:
        return fill_polygons(segmentation, shape)
    raise ValueError("no segmentation (boxes alone do not suffice)")


def fill_polygons(polygons: Sequence[Sequence[float]], shape: tuple[int, int]) -> np.ndarray:
    """Union of polygons as a bool mask of ``shape`` (H, W), clipped to the image.

    Args:
        polygons: each flat x0, y0, x1, y1, ... in pixels, (0, 0) being the outer corner of the first pixel.

    Raises ValueError for fewer than three points, odd or non-finite coordinates.
    """
    mask = np.zeros(shape, dtype=bool)
    for flat in polygons:
        points = _points(flat)
        mask[polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, shape)] = True
    return mask


def _points(flat: Sequence[float]) -> np.ndarray:
    try:
        numbers = np.asarray(array("d", flat))
    except (TypeError, OverflowError):
        numbers = np.empty(0)
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ValueError("a polygon needs at least three points x, y of finite numbers")
    return numbers.reshape(-1, 2)


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
