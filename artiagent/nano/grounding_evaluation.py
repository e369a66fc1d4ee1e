"""Measures detectors, segmenters and linking on held-out rendered scenes, where the truth is known to the pixel.

Knows truth, matching and figures. Does not know how a detector or a segmenter works. The terms that are searched are
those of the true vocabulary: what is measured is grounding alone.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from artiagent.config import PerceptionSection
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.metrics import ratio_of
from artiagent.images import encode
from artiagent.nano.scenes import KINDS, TRAIN_SEEDS, RenderedScene, render_scene
from artiagent.nano.views import View, box_of, parts_of_kinds, view_of
from artiagent.nano.vl_tasks import everywhere
from artiagent.perception.grounding import Detection, Detector, Grounding, Instance, Segmenter
from artiagent.perception.grounding.detect import DetectorGrounder
from artiagent.perception.intake import take_in
from artiagent.perception.linking import link
from artiagent.perception.vocabulary import Vocabulary, template
from artiagent.records import Entity

FIRST_SEED = TRAIN_SEEDS[1_650_000_000]  # of no recipe
HIT = 0.5  # IoU from which a box is found
SAME = 0.3  # IoU of masks from which two of one name are the same thing
ABSENT_TERMS = 2  # asked per scene, where detectors alone are measured
RESAMPLES = 2000


@dataclass(frozen=True)
class Sample:
    """A scene with its true instances; `owners` maps a part's id to its entity's."""

    image: np.ndarray
    instances: tuple[Instance, ...]
    owners: dict[str, str]
    vocabulary: Vocabulary

    @property
    def terms(self) -> tuple[str, ...]:
        """Entities and parts to search, entities first."""
        entries = (*self.vocabulary.peripheral, *self.vocabulary.intermediate)
        return (*self.vocabulary.entities, *dict.fromkeys(part for entry in entries for part in entry.subentities))

    @property
    def alike(self) -> bool:
        """Whether two entities are of one kind, so that linking has a choice."""
        return max(Counter(i.name for i in self.instances if i.layer == "entity").values(), default=0) > 1


def sample_of(scene: RenderedScene, containment: float) -> Sample:
    """The truth about a rendered scene, its vocabulary included."""
    instances, owners = [], {}
    for entity in scene.entities:
        instances.append(Instance(f"e{entity.id}", entity.name, "entity", entity.mask))
        for number, part in enumerate(entity.parts):
            instances.append(Instance(f"e{entity.id}p{number}", part.name, part.layer, part.mask))
            owners[instances[-1].id] = f"e{entity.id}"
    vocabulary = template(instances, containment)
    return Sample(scene.image, tuple(instances), owners, vocabulary)


def held_out(scenes: int, containment: float) -> dict[str, list[Sample]]:
    """`scenes` ordinary scenes ("any") and a third as many of two entities of one kind ("alike")."""
    plain = (render_scene(FIRST_SEED + n) for n in range(scenes))
    alike = (
        render_scene(FIRST_SEED + 1_000_000 + n, kinds=[KINDS[n % len(KINDS)]], entities=2)
        for n in range(max(1, scenes // 3))
    )
    drawn = {"any": plain, "alike": alike}
    samples = {name: [sample_of(scene, containment) for scene in rendered] for name, rendered in drawn.items()}
    return {name: [sample for sample in rows if sample.terms] for name, rows in samples.items()}


def true_boxes(sample: Sample) -> list[Detection]:
    """What a perfect detector would say about the terms of the sample."""
    return [
        Detection(instance.name, tuple(map(float, box_of(instance.mask))), 1.0)
        for instance in sample.instances
        if instance.name in sample.terms
    ]


class GivenBoxes:
    """A `Detector` that repeats what is known about images it has been told of."""

    name = "given"

    def __init__(self, images: Sequence[np.ndarray], detections: Sequence[Sequence[Detection]]) -> None:
        self._known = {image.tobytes(): found for image, found in zip(images, detections, strict=True)}

    def detect(self, images: Sequence[np.ndarray], terms: Sequence[Sequence[str]]) -> list[list[Detection]]:
        return [
            [detection for detection in self._known[image.tobytes()] if detection.phrase in asked]
            for image, asked in zip(images, terms, strict=True)
        ]


@dataclass
class Grounded:
    """Samples with what was found in each: boxes, and instances cut out of them."""

    samples: list[Sample]
    detections: list[list[Detection]]
    instances: list[tuple[Instance, ...]] = field(default_factory=list)

    def figures(self, section: PerceptionSection) -> dict[str, Any]:
        """See `score` and `summarise`."""
        found = zip(self.samples, self.detections, self.instances, strict=True)
        return summarise([score(*row, section) for row in found])


def ground(
    samples: list[Sample], detections: list[list[Detection]], segmenter: Segmenter, section: PerceptionSection
) -> Grounded:
    """Masks and instances as the chain makes them of these boxes: suppression per level, one segmenter call an image.
    Raises GroundingError where the chain gives an image up."""
    grounder = DetectorGrounder(
        GivenBoxes([sample.image for sample in samples], detections), segmenter, section.detection
    )
    names = [str(number) for number in range(len(samples))]
    taken = [take_in(encode(sample.image), name, section) for sample, name in zip(samples, names, strict=True)]
    grounded = Grounded(samples, detections)
    for found in grounder.ground(taken, names, [sample.vocabulary for sample in samples]):
        if not isinstance(found, Grounding):
            raise found
        grounded.instances.append(found.instances)
    return grounded


def evaluate_grounding(
    detector: Detector, segmenter: Segmenter, section: PerceptionSection, scenes: int
) -> tuple[dict[str, Any], Grounded]:
    """Figures on both sets of `held_out`, of the detector's boxes ("detected") and of the true ones ("true_boxes"),
    and what was found in the ordinary scenes."""
    report: dict[str, Any] = {"detector": detector.name, "segmenter": segmenter.name}
    shown: dict[str, Grounded] = {}
    for name, samples in held_out(scenes, section.containment).items():
        said = detector.detect([sample.image for sample in samples], [sample.terms for sample in samples])
        shown[name] = ground(samples, said, segmenter, section)
        ideal = ground(samples, [true_boxes(sample) for sample in samples], segmenter, section)
        report[name] = {"detected": shown[name].figures(section), "true_boxes": ideal.figures(section)}
    report["malformed"] = dict(getattr(detector, "malformed", {}))
    return report, shown["any"]


def score(
    sample: Sample, detections: Sequence[Detection], found: Sequence[Instance], section: PerceptionSection
) -> dict[str, tuple[float, float]]:
    """Figures of one scene as (numerator, denominator), to be added up over scenes.

    `LEVEL_box_recall`, `LEVEL_box_precision` at IoU .5; `LEVEL_mask_iou` over instances that were found (mask IoU with
    one of their name above .3), `LEVEL_mask_iou_all` over all, 0 for missed ones; LEVEL is entity or part, without it
    both count.
    `linking`: parts at the right entity, of the found parts that were linked; `linked`: the same, of the found parts
    that the true masks link; `yield`: the same, of all parts that the true masks link.
    """
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    pairs: dict[str, str] = {}
    for name in sample.terms:
        level = "entity" if name in sample.vocabulary.entities else "part"
        truth = [instance for instance in sample.instances if instance.name == name]
        boxes = [detection.box for detection in detections if detection.phrase == name]
        true, said, hits, _ = tally_boxes([box_of(instance.mask) for instance in truth], boxes)
        counts[f"{level}_box_recall"] += (hits, true)
        counts[f"{level}_box_precision"] += (hits, said)
        masks = [instance for instance in found if instance.name == name]
        overlap = np.array([[mask_iou(a.mask, b.mask) for b in masks] for a in truth]).reshape(len(truth), len(masks))
        same = match(overlap, SAME)
        total = sum(overlap[pair] for pair in same)
        for prefix in (f"{level}_", ""):
            counts[f"{prefix}mask_iou"] += (total, len(same))
            counts[f"{prefix}mask_iou_all"] += (total, len(truth))
        pairs |= {masks[column].id: truth[row].id for row, column in same}
    _score_links(sample, found, pairs, section, counts)
    return {name: (float(top), float(bottom)) for name, (top, bottom) in counts.items()}


def _score_links(
    sample: Sample, found: Sequence[Instance], pairs: dict[str, str], section: PerceptionSection, counts: dict
) -> None:
    usable = set(_linked(link(sample.instances, sample.vocabulary, section)[0]))
    links = _linked(link(found, sample.vocabulary, section)[0])
    known = {part: truth for part, truth in pairs.items() if truth in sample.owners}
    right = {part for part, truth in known.items() if pairs.get(links.get(part, "")) == sample.owners[truth]}
    counts["linking"] += (len(right), len(known.keys() & links.keys()))
    counts["linked"] += (len({known[part] for part in right} & usable), len(usable.intersection(known.values())))
    counts["yield"] += (len({known[part] for part in right} & usable), len(usable))


def _linked(entities: Sequence[Entity]) -> dict[str, str]:
    """Part id -> entity id."""
    return {part.id: entity.id for entity in entities for part in entity.parts}


def summarise(rows: Sequence[dict[str, tuple[float, float]]], seed: int = 0) -> dict[str, Any]:
    """Every figure with its 95 % interval; scenes are resampled. Figures without any case are left out."""
    weights = draw_weights(len(rows), RESAMPLES, seed)
    figures: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        top, bottom = np.array([row.get(name, (0.0, 0.0)) for row in rows]).T
        if bottom.sum():
            figures[name] = interval(ratio_of(top, bottom), weights, n=int(bottom.sum())).model_dump()
    return figures | {"scenes": len(rows)}


def terms_of(view: View, rng: random.Random) -> dict[str, list[tuple[int, ...]]]:
    """True boxes of every name that the scene shows without ambiguity, and of `ABSENT_TERMS` names that it does not."""
    names = sorted({*view.kinds, *(part.name for part in view.parts)})
    others = sorted({*KINDS, *(part for parts in parts_of_kinds().values() for part in parts)} - set(names))
    asked = (*names, *rng.sample(others, ABSENT_TERMS))
    return {name: boxes for name in asked if (boxes := everywhere(view, name)) is not None}


def box_figures(detector: Detector, *, first_seed: int, scenes: int) -> dict[str, Any]:
    """Recall and precision at IoU .5 of all boxes, for entities and parts apart and per term.

    `iou`: mean over true boxes of the IoU with the detection that is assigned to it, 0 where there is none.
    """
    rng = random.Random(first_seed)
    views = [view_of(render_scene(seed)) for seed in range(first_seed, first_seed + scenes)]
    asked = [terms_of(view, rng) for view in views]
    found = detector.detect([view.image for view in views], [list(terms) for terms in asked])
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))
    for terms, detections in zip(asked, found, strict=True):
        for name, truth in terms.items():
            counts[name] += tally_boxes(truth, [d.box for d in detections if d.phrase == name])
    kinds = {name: tally for name, tally in counts.items() if name in KINDS}
    parts = {name: tally for name, tally in counts.items() if name not in KINDS}
    return {
        "entities": _figures(sum(kinds.values())),
        "parts": _figures(sum(parts.values())),
        "per_term": {name: _figures(counts[name]) for name in sorted(counts)},
        "malformed": dict(getattr(detector, "malformed", {})),
        "scenes": scenes,
    }


def tally_boxes(truth: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> np.ndarray:
    """Numbers of true and found boxes and of pairs at IoU .5, and the sum of the IoU of all pairs; float [4]."""
    overlap = box_iou(*(np.array(boxes, float).reshape(-1, 4) for boxes in (truth, found)))
    ious = [overlap[pair] for pair in match(overlap, 0.05)]
    return np.array([len(truth), len(found), sum(iou >= HIT for iou in ious), sum(ious)], float)


def _figures(tally: np.ndarray) -> dict[str, float]:
    true, found, hits, ious = tally
    shares = {"recall": hits / max(1, true), "precision": hits / max(1, found), "iou": ious / max(1, true)}
    return {name: round(float(value), 4) for name, value in shares.items()} | {"boxes": int(true)}


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 [n, m] IoU of boxes [n, 4] and [m, 4] (x0, y0, x1, y1)."""
    a, b = one[:, None, :], other[None, :, :]
    sides = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0)
    both = sides.prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (a, b)]
    return both / np.maximum(areas[0] + areas[1] - both, 1e-9)


def mask_iou(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of two bool masks [H, W]; 1 when both are empty."""
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 1.0


def match(overlap: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of the one-to-one assignment with the largest sum of `overlap` [n, m] above `least`."""
    rows, columns = linear_sum_assignment(-np.where(overlap >= least, overlap, 0.0))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if overlap[i, j] >= least]
