"""CelebA-HQ: CelebAMask-HQ as published, or a plain folder of its images without masks.

CelebA-HQ-img/<i>.jpg (1024 px) and CelebAMask-HQ-mask-anno/<i // 2000>/<i, five digits>_<label>.png (512 px, white on
black), one file per label that is visible. One person per image: the union of all labels.
"""

from __future__ import annotations

import io
import re
from functools import cache, partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from artiagent.config import InputSet
from artiagent.perception.grounding import Grounding, GroundingError, Instance
from artiagent.perception.grounding.annotations import AnnotationGrounder
from artiagent.perception.intake import Intake
from artiagent.perception.sources.listing import Listing, refusal, refuse_keys, wanted_categories
from artiagent.perception.sources.places import MISSING, find_home, is_inside, walk
from artiagent.records import Layer

IMAGES, MASKS, SUBJECT = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "person"
_FEATURES = ("l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "nose", "mouth", "u_lip", "l_lip")
LABELS = ("skin", *_FEATURES, "l_ear", "r_ear", "ear_r", "hair", "hat", "neck", "neck_l", "cloth")
# instance id -> (part name, layer, labels whose union it is)
PARTS: dict[str, tuple[str, Layer, tuple[str, ...]]] = {
    "l_ear": ("ear", "peripheral", ("l_ear",)),
    "r_ear": ("ear", "peripheral", ("r_ear",)),
    "l_eye": ("eye", "intermediate", ("l_eye",)),
    "r_eye": ("eye", "intermediate", ("r_eye",)),
    "nose": ("nose", "intermediate", ("nose",)),
    "mouth": ("mouth", "intermediate", ("mouth", "u_lip", "l_lip")),
    "face": ("face", "intermediate", ("skin", *_FEATURES)),
}
_MASK = re.compile(rf"(\d+)/(\d{{5}})_({'|'.join(LABELS)})\.png", re.IGNORECASE)
_PER_FOLDER, _SIDE_MAX = 2000, 4096
_EXPECTED = f"CelebAMask-HQ as published: {IMAGES}/0.jpg beside {MASKS}/0/00000_skin.png"


def survey(source: InputSet, root: Path) -> Listing:
    """Images of the published tree, or all images of a folder that is none. Raises SourceError."""
    refuse_keys(source, "annotations", "parts")
    wanted_categories(source, {SUBJECT})
    published = any((root / wrapper / IMAGES).is_dir() for wrapper in ("", "CelebAMask-HQ"))
    home = find_home(source, root, IMAGES, ("CelebAMask-HQ",), _EXPECTED) if published else root
    files, left_out = walk(home, skip=(MASKS,))
    misplaced = {name for name in files if published and _number(name) is None}
    left_out |= dict.fromkeys(misplaced, f"not_in_layout: expected {IMAGES}/<number>.jpg")
    filtered = refusal(source, 1)
    if filtered:
        left_out |= {name: filtered for name in files if name not in misplaced}
    masks = cache(partial(_masks, home))  # half a million files: walked when asked for
    return Listing(
        home=home,
        names=[name for name in files if name not in left_out],
        left_out=left_out,
        absent=lambda: _absent(files, left_out, masks()),
        grounder=lambda: AnnotationGrounder(partial(_look_up, home, masks())) if masks() else None,
        subject=lambda name: SUBJECT,
        evidence=lambda name: [home / file for file in sorted(masks().get(_number(name), {}).values())],
        categories=(SUBJECT,),
    )


def _number(name: str) -> int | None:
    folder, _, file = name.rpartition("/")
    stem = PurePosixPath(file).stem
    return int(stem) if folder == IMAGES and stem.isascii() and stem.isdecimal() else None


def _masks(home: Path) -> dict[int, dict[str, str]]:
    """Number -> label -> file. Files elsewhere than the number says are none of the layout's."""
    if not (home / IMAGES).is_dir() or not (home / MASKS).is_dir() or not is_inside(home / MASKS, home.resolve()):
        return {}
    found: dict[int, dict[str, str]] = {}
    for file in walk(home / MASKS, (".png",))[0]:
        match = _MASK.fullmatch(file)
        if match and int(match[1]) == int(match[2]) // _PER_FOLDER:
            found.setdefault(int(match[2]), {})[match[3].lower()] = f"{MASKS}/{file}"
    return found


def _absent(files: list[str], left_out: dict[str, str], masks: dict[int, dict[str, str]]) -> dict[str, str]:
    there = {_number(name) for name in (*files, *left_out)}
    return {f"{IMAGES}/{number}.jpg": MISSING for number in masks if number not in there}


def _look_up(home: Path, masks: dict[int, dict[str, str]], image: Intake, name: str) -> Grounding:
    files = masks.get(_number(name), {})
    if not files:
        raise GroundingError(f"{name}: no masks for it below {MASKS}")
    labels: dict[str, np.ndarray] = {}
    for label, file in sorted(files.items()):
        try:
            labels[label] = read_mask((home / file).read_bytes(), image.transform.stored)
        except (OSError, ValueError) as error:
            raise GroundingError(f"{name}: {file}: {getattr(error, 'strerror', None) or error}") from error
    regions = {"person": (SUBJECT, "entity", tuple(labels)), **PARTS}
    instances = []
    for key, (noun, layer, names) in regions.items():
        visible = [labels[label] for label in names if label in labels]
        if visible and (mask := image.transform.mask(np.logical_or.reduce(visible))).any():
            instances.append(Instance(key, noun, layer, mask))
    return Grounding(tuple(instances))


def read_mask(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """A mask file as bool [H, W], scaled to ``size`` (width, height), nearest pixel; set where it is not black.

    Raises ValueError when it is damaged, too large or of another aspect than the image.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        width, height = image.size
        fits = max(width, height) <= _SIDE_MAX and width * size[1] == height * size[0]
        levels = image.convert("L").resize(size, Image.Resampling.NEAREST) if fits else None
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise ValueError(f"not a readable PNG mask ({type(error).__name__})") from error
    if levels is None:
        raise ValueError(f"mask of {width}x{height} px for an image of {size[0]}x{size[1]} px")
    return np.asarray(levels) > 0
