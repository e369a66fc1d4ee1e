"""Figures of grounding: matching, linking, intervals; a perfect detector and segmenter reach 1."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.config import PerceptionSection
from artiagent.nano.grounding_evaluation import (
    Sample,
    box_figures,
    box_iou,
    held_out,
    match,
    score,
    summarise,
    tally_boxes,
    terms_of,
    true_boxes,
)
from artiagent.nano.scenes import TRAIN_SEEDS, render_scene
from artiagent.nano.views import view_of
from artiagent.nano.vl_tasks import everywhere
from artiagent.perception.grounding import Detection

SECTION = PerceptionSection()


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Sample]]:
    return held_out(6, SECTION.containment)


def test_sets_of_scenes(samples: dict[str, list[Sample]]) -> None:
    assert {name: len(rows) for name, rows in samples.items()} == {"any": 6, "alike": 2}
    assert all(sample.alike for sample in samples["alike"])
    for sample in samples["any"]:
        assert set(sample.terms) <= {instance.name for instance in sample.instances}
        assert len(sample.terms) == len(set(sample.terms))


def test_the_truth_itself_is_perfect(samples: dict[str, list[Sample]]) -> None:
    rows = [score(sample, true_boxes(sample), sample.instances, SECTION) for sample in samples["alike"]]
    figures = summarise(rows)
    assert figures.pop("scenes") == 2
    assert set(figures) == {
        f"{level}_{figure}"
        for level in ("entity", "part")
        for figure in ("box_recall", "box_precision", "mask_iou", "mask_iou_all")
    } | {"linking", "linked", "yield"}
    assert all(figure["value"] == figure["low"] == figure["high"] == 1 for figure in figures.values())


def test_a_missed_part_counts_in_recall_and_yield_only(samples: dict[str, list[Sample]]) -> None:
    sample = samples["alike"][0]
    lost = next(i for i in sample.instances if i.id in sample.owners and i.name in sample.terms)
    found = [instance for instance in sample.instances if instance is not lost]
    boxes = [d for d in true_boxes(sample) if d.phrase != lost.name]
    figures = score(sample, boxes, found, SECTION)
    top, bottom = figures["part_mask_iou_all"]
    assert top == bottom - 1 and figures["part_mask_iou"] == (bottom - 1, bottom - 1)
    assert figures["yield"][1] - figures["yield"][0] == 1 and figures["linking"][0] == figures["linking"][1]
    named = sum(instance.name == lost.name for instance in sample.instances)
    assert figures["part_box_recall"][1] - figures["part_box_recall"][0] == named
    assert figures["part_box_precision"][0] == figures["part_box_precision"][1]


def test_a_part_at_the_wrong_entity_is_not_linked_rightly(samples: dict[str, list[Sample]]) -> None:
    """Two entities swap their ids: every part that is linked hangs on the other one."""
    sample = samples["alike"][0]
    first, second = (i for i in sample.instances if i.layer == "entity")
    union = first.mask | second.mask
    small = replace(second, mask=np.zeros_like(union))
    found = [replace(first, mask=union), small, *(i for i in sample.instances if i.layer != "entity")]
    figures = score(sample, true_boxes(sample), found, SECTION)
    of_second = sum(owner == second.id for part, owner in sample.owners.items())
    assert figures["linking"][1] - figures["linking"][0] >= min(1, of_second)
    assert figures["linking"][0] < figures["linking"][1]


def test_things_of_another_name_do_not_match(samples: dict[str, list[Sample]]) -> None:
    sample = samples["any"][0]
    named = [replace(i, name="unicorn") if i.layer == "entity" else i for i in sample.instances]
    figures = score(sample, [Detection("unicorn", d.box, 1.0) for d in true_boxes(sample)], named, SECTION)
    assert figures["entity_mask_iou_all"][0] == 0 < figures["entity_mask_iou_all"][1]
    assert figures["part_box_recall"][0] == figures["part_box_precision"][1] == figures["yield"][0] == 0


class Perfect:
    """Knows the boxes of every scene that it will be shown; adds one box to each answer about a present term."""

    name = "perfect"

    def __init__(self, first_seed: int, scenes: int, extra: bool) -> None:

        self.views = [view_of(render_scene(first_seed + n)) for n in range(scenes)]
        self.extra = extra

    def detect(self, images: list[np.ndarray], terms: list[list[str]]) -> list[list[Detection]]:

        found = []
        for view, names in zip(self.views, terms, strict=True):
            boxes = [(name, box) for name in names for box in everywhere(view, name)]
            more = [(name, (0, 0, 2, 2)) for name in names if self.extra and everywhere(view, name)]
            found.append([Detection(name, tuple(map(float, box)), 1.0) for name, box in (*boxes, *more)])
        return found


def test_boxes_of_a_perfect_detector_and_of_one_that_sees_too_much() -> None:
    first = TRAIN_SEEDS[60]
    figures = box_figures(Perfect(first, 4, False), first_seed=first, scenes=4)
    for kind in ("entities", "parts"):
        assert figures[kind] == {"recall": 1.0, "precision": 1.0, "iou": 1.0, "boxes": figures[kind]["boxes"]}
    more = box_figures(Perfect(first, 4, True), first_seed=first, scenes=4)
    assert more["parts"]["recall"] == 1 > more["parts"]["precision"] and more["malformed"] == {}


def test_absent_terms_are_asked() -> None:

    asked = terms_of(view_of(render_scene(TRAIN_SEEDS[61])), random.Random(0))
    assert sum(not boxes for boxes in asked.values()) == 2


numbers = st.integers(0, 40)


@given(numbers, numbers, st.integers(1, 20), st.integers(1, 20), numbers, numbers)
def test_iou_is_symmetric_and_one_for_equal_boxes(x: int, y: int, w: int, h: int, u: int, v: int) -> None:
    one, other = np.array([[x, y, x + w, y + h]], float), np.array([[u, v, u + h, v + w]], float)
    assert box_iou(one, one)[0, 0] == 1
    assert box_iou(one, other)[0, 0] == box_iou(other, one)[0, 0] <= 1
    cells = [np.zeros((64, 64), bool) for _ in range(2)]
    for cell, box in zip(cells, (one, other), strict=True):
        x0, y0, x1, y1 = box[0].astype(int)
        cell[y0:y1, x0:x1] = True
    assert box_iou(one, other)[0, 0] == pytest.approx((cells[0] & cells[1]).sum() / (cells[0] | cells[1]).sum())


def test_matching_is_one_to_one_and_as_good_as_possible() -> None:
    overlap = np.array([[0.9, 0.8], [0.85, 0.1], [0.0, 0.2]])
    assert match(overlap, 0.3) == [(0, 1), (1, 0)]
    assert match(np.zeros((0, 3)), 0.3) == match(np.zeros((2, 0)), 0.3) == []
    assert tally_boxes([(0, 0, 4, 4)], [(0, 0, 4, 8), (20, 20, 24, 24)]).tolist() == [1, 2, 1, 0.5]
    assert tally_boxes([], [(0, 0, 4, 8)]).tolist() == [0, 1, 0, 0]
