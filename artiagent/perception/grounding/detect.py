"""Detectors as a `Grounder`: the terms of a vocabulary -> boxes -> masks -> instances; and the parts a section names.

Knows levels, ids and reasons. Does not know any network: detectors and segmenters come through their protocols and are
imported when a section asks for them.

Colour convention of all backends: images are RGB from intake to the tensor that enters a network, and R, G, B are
normalised in this order. Nobody swaps channels; OpenCV, whose order is BGR, reads no image here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from artiagent.checkpoints import locate
from artiagent.config import DetectionSection, PerceptionSection
from artiagent.devices import quiet_loading, use_threads
from artiagent.perception.grounding import Detection, Detector, Grounding, GroundingError, Instance, Segmenter
from artiagent.perception.grounding.suppression import clip, suppress
from artiagent.perception.intake import Intake
from artiagent.perception.vocabulary import Vocabulary
from artiagent.records import Layer
from artiagent.store import content_sha256

TEXT_FILES = ("*.json", "*.txt", "*.jinja")  # of a hub repository
MODEL_FILES = (*TEXT_FILES, "*.model", "*.safetensors", "groundingdino_*.pth")  # no other pickle is fetched
_EXPECTED = {
    "grounded_sam": {
        "detector": "groundingdino_swint_ogc.pth or groundingdino_swinb_cogcoor.pth (releases of IDEA-Research/"
        "GroundingDINO; hub: ShilongLiu/GroundingDINO), or a folder of the same network (docs/detectors.md)",
        "text_encoder": "folder or hub id of a BERT's tokenizer and configuration: google-bert/bert-base-uncased",
        "segmenter": "sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth (README of facebookresearch/"
        "segment-anything), or a folder of the same network (docs/detectors.md)",
    },
    "transformers": {
        "detector": "folder or hub id of Grounding DINO (IDEA-Research/grounding-dino-tiny) or SAM 3 (facebook/sam3)",
        "segmenter": "folder or hub id of SAM 2 (facebook/sam2.1-hiera-large)",
    },
}
Level = Mapping[str, Layer | Literal["entity"]]  # term -> layer


@dataclass
class _Search:
    """One image on its way: what is looked for, level by level, and what was found there."""

    pixels: np.ndarray
    levels: tuple[Level, Level]  # entities, parts
    found: tuple[list[Detection], ...] = ()
    dropped: Counter[str] = field(default_factory=Counter)


class DetectorGrounder:
    """Boxes by a detector, masks by a segmenter.

    Entities and parts are searched apart: a query of a detector is named for one term, so that among joint terms the
    face of a portrait would compete with its person for the same box. It costs a second pass of the detector.

    Args:
        detector: finds boxes.
        segmenter: cuts them out; None where the detector yields `MaskedDetection`.
        section: ``overlap_max`` of the suppression; ``batch`` images are taken at a time.
    """

    needs_vocabulary = True

    def __init__(self, detector: Detector, segmenter: Segmenter | None, section: DetectionSection) -> None:
        self.detector, self.segmenter, self.section = detector, segmenter, section
        self.name = detector.name if segmenter is None else f"{detector.name}+{segmenter.name}"

    def ground(
        self, images: Sequence[Intake], names: Sequence[str], vocabularies: Sequence[Vocabulary | None]
    ) -> list[Grounding | GroundingError]:
        """Instances called ``e0``, ``e1``... and ``p0``, ``p1``... in the detector's order, with the scores of their
        boxes.

        Dropped are ``unknown_phrase`` (a box for no term of its level), ``box_outside`` (no pixel of the image in it),
        ``suppressed`` and ``synonym`` (see ``suppression.suppress``), ``empty_mask``. An image without vocabulary is an
        error.
        """
        found: list[Grounding | GroundingError] = [
            GroundingError(f"{name}: no vocabulary, and a detector finds only what it is asked for") for name in names
        ]
        searches = {
            n: _Search(image.pixels, _levels(vocabulary))
            for n, (image, vocabulary) in enumerate(zip(images, vocabularies, strict=True))
            if vocabulary is not None and vocabulary.entities
        }
        numbers = list(searches)
        for start in range(0, len(numbers), self.section.batch):
            batch = numbers[start : start + self.section.batch]
            for n, grounding in zip(batch, self._ground([searches[n] for n in batch]), strict=True):
                found[n] = grounding
        return found

    def _ground(self, searches: Sequence[_Search]) -> list[Grounding]:
        asked = [(search, level) for level in (0, 1) for search in searches]
        detections = self.detector.detect(
            [search.pixels for search, _ in asked], [list(search.levels[level]) for search, level in asked]
        )
        for (search, level), boxes in zip(asked, detections, strict=True):
            search.found += (_choose(boxes, search, level, self.section.overlap_max),)
        return [_grounding(s, masks) for s, masks in zip(searches, self._masks(searches), strict=True)]

    def _masks(self, searches: Sequence[_Search]) -> list[Sequence[np.ndarray]]:
        """Masks of all boxes of an image, entities first; one call of the segmenter for all images."""
        detections = [[d for level in search.found for d in level] for search in searches]
        if self.segmenter is None:
            return [[d.mask for d in of_image] for of_image in detections]
        boxes = [np.array([d.box for d in of_image], dtype=float).reshape(-1, 4) for of_image in detections]
        return self.segmenter.segment([search.pixels for search in searches], boxes)


def _levels(vocabulary: Vocabulary) -> tuple[Level, Level]:
    """Entity and part terms. A part has the layer of its name; linking decides by entity."""
    peripheral, intermediate = (
        dict.fromkeys(part for entry in layer for part in entry.subentities)
        for layer in (vocabulary.peripheral, vocabulary.intermediate)
    )
    parts: dict[str, Layer] = dict.fromkeys(peripheral, "peripheral") | dict.fromkeys(intermediate, "intermediate")
    parts |= dict.fromkeys(peripheral.keys() & intermediate.keys(), "both")
    return dict.fromkeys(vocabulary.entities, "entity"), parts


def _choose(detections: Sequence[Detection], search: _Search, level: int, overlap_max: float) -> list[Detection]:
    """The detections of a level that stay, with boxes inside the image."""
    height, width = search.pixels.shape[:2]
    known = [d for d in detections if d.phrase in search.levels[level]]
    inside = [d for d in (clip(d, width, height) for d in known) if d is not None]
    kept, suppressed = suppress(inside, overlap_max)
    search.dropped += Counter(unknown_phrase=len(detections) - len(known), box_outside=len(known) - len(inside))
    search.dropped += suppressed
    return kept


def _grounding(search: _Search, masks: Sequence[np.ndarray]) -> Grounding:
    instances, remaining = [], iter(masks)
    for prefix, level, detections in zip("ep", search.levels, search.found, strict=True):
        for number, detection in enumerate(detections):
            mask = next(remaining)
            if mask.shape != search.pixels.shape[:2]:
                raise ValueError(f"mask {mask.shape} for an image {search.pixels.shape[:2]}; expected its size")
            if mask.any():
                name = detection.phrase
                instances.append(Instance(f"{prefix}{number}", name, level[name], mask, detection.score))
            else:
                search.dropped["empty_mask"] += 1
    return Grounding(tuple(instances), search.dropped)


class WeightsError(ValueError):
    """Weights that are not there or not the expected ones; the message names setting, file and what to do."""


def load_grounder(section: PerceptionSection) -> DetectorGrounder:
    """The backend that ``section.grounding`` and ``section.detection`` name, with its weights.

    Raises WeightsError naming every setting whose files are not there, and what is expected where; ValueError for files
    that are not what they should be, and without the packages of the extra "grounding".
    """
    chosen = section.detection
    _check_packages(section)
    places = _locate(section)
    use_threads(chosen.threads)
    quiet_loading()
    if chosen.boxes == "vlm":
        detector = _vlm_boxes(places, chosen)
    elif section.grounding == "grounded_sam":
        detector = _package_dino(places, chosen)
    else:
        detector = _transformers_detector(places, chosen)
    if "segmenter" not in places:
        return DetectorGrounder(detector, None, chosen)
    segmenter = _sam(places, chosen) if section.grounding == "grounded_sam" else _sam2(places, chosen)
    return DetectorGrounder(detector, segmenter, chosen)


def settled_detection(section: PerceptionSection) -> DetectionSection:
    """The section's detection with the sha256 of every weight that is needed and has none yet: so weights enter the
    cache keys. Raises WeightsError as `load_grounder` does."""
    given = section.detection.model_dump()
    places = {name: place for name, place in _locate(section).items() if given[f"{name}_sha256"] is None}
    found = {f"{name}_sha256": content_sha256(place) for name, place in places.items()}
    return section.detection.model_copy(update=found)


def _check_packages(section: PerceptionSection) -> None:
    needed = {"segment_anything": "segment-anything"} if section.grounding == "grounded_sam" else {}
    if needed and section.detection.boxes == "detector":
        needed = {"groundingdino": "groundingdino-py"} | needed
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise ValueError(
            f"perception.grounding 'grounded_sam' needs {' and '.join(missing)}: install the extra 'grounding' "
            "(pip install 'artiagent[grounding]'), or set perception.grounding to 'transformers'"
        )


def _locate(section: PerceptionSection) -> dict[str, Path]:
    """Setting below ``perception.detection`` -> its file or folder, for those that are needed."""
    found: dict[str, Path] = {}
    missing = []
    for setting, expected in _EXPECTED[section.grounding].items():
        if not _is_needed(setting, section, found):
            continue
        location = getattr(section.detection, setting)
        try:
            found[setting] = locate(location, TEXT_FILES if setting == "text_encoder" else MODEL_FILES)
        except ValueError as error:
            wanted = "the folder or hub id of a VLM" if _is_vlm(setting, section.detection) else expected
            missing.append(f"perception.detection.{setting}: {error}\n  expected {wanted}")
    if missing:
        where = (
            "Paths count from the current folder and from the checkout; set perception.detection, or put files there."
        )
        raise WeightsError("\n".join([*missing, where]))
    return found


def _is_needed(setting: str, section: PerceptionSection, found: Mapping[str, Path]) -> bool:
    detector = found.get("detector")
    if setting == "text_encoder":  # a folder of this project's brings its own
        return section.detection.boxes == "detector" and not (detector and (detector / "config.json").is_file())
    if setting == "segmenter" and section.grounding == "transformers" and section.detection.boxes == "detector":
        return not (detector and _is_sam3(detector))
    return True


def _is_vlm(setting: str, section: DetectionSection) -> bool:
    return setting == "detector" and section.boxes == "vlm"


def _is_sam3(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and str(json.loads(config.read_bytes()).get("model_type")).startswith("sam3")


def _check_digest(setting: str, place: Path, expected: str | None) -> None:
    found = expected and content_sha256(place)
    if expected and expected.lower() != found:
        raise WeightsError(
            f"{place}: its sha256 is {found}, perception.detection.{setting}_sha256 is {expected}; fetch it again, or "
            "correct the setting"
        )


def _package_dino(places: Mapping[str, Path], section: DetectionSection) -> Detector:
    from artiagent.perception.grounding.dino import DinoDetector
    from artiagent.perception.grounding.dino_package import load_dino

    _check_digest("detector", places["detector"], section.detector_sha256)
    return DinoDetector(load_dino(places["detector"], places.get("text_encoder")), section)


def _transformers_detector(places: Mapping[str, Path], section: DetectionSection) -> Detector:
    folder = places["detector"]
    _check_digest("detector", folder, section.detector_sha256)
    if _is_sam3(folder):
        from artiagent.perception.grounding.sam3 import Sam3Detector

        return Sam3Detector(folder, section)
    from artiagent.perception.grounding.dino import DinoDetector
    from artiagent.perception.grounding.transformers_models import TransformersDino

    return DinoDetector(TransformersDino(folder), section)


def _vlm_boxes(places: Mapping[str, Path], section: DetectionSection) -> Detector:
    from artiagent.perception.grounding.vlm_boxes import VlmBoxes
    from artiagent.vlm.local import LocalVlm

    folder = places["detector"]
    _check_digest("detector", folder, section.detector_sha256)
    return VlmBoxes(LocalVlm(folder, section.device, section.dtype, section.threads, section.batch))


def _sam(places: Mapping[str, Path], section: DetectionSection) -> Segmenter:
    from artiagent.perception.grounding.sam import SamSegmenter

    location = str(places["segmenter"])
    return SamSegmenter(location, section.segmenter_sha256, section.device, section.dtype, section.batch)


def _sam2(places: Mapping[str, Path], section: DetectionSection) -> Segmenter:
    from artiagent.perception.grounding.transformers_models import Sam2Segmenter

    _check_digest("segmenter", places["segmenter"], section.segmenter_sha256)
    return Sam2Segmenter(places["segmenter"], section)
