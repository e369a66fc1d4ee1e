from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from artiagent.grid import box_mask, mask_box, union_mask
from artiagent.nano.faults import FAULTS, FaultyScene, render_fault
from artiagent.nano.scenes import KINDS

SEEDS = range(500_000, 500_036)


@cache
def faulty(seed: int) -> FaultyScene:
    return render_fault(seed)


def _differs(scene: FaultyScene, levels: int = 24) -> np.ndarray:
    return np.abs(scene.image.astype(int) - scene.clean_image).max(axis=2) > levels


def test_consecutive_seeds_cover_all_combinations_once() -> None:
    assert len(SEEDS) == len(FAULTS) * len(KINDS)
    combinations = Counter((faulty(seed).fault, faulty(seed).entity) for seed in SEEDS)
    assert combinations == Counter((fault, kind) for fault in FAULTS for kind in KINDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_change_is_visible_and_stays_near_its_boxes(seed: int) -> None:
    scene = faulty(seed)
    differs = _differs(scene)
    assert differs.mean() >= 0.004
    near = np.logical_or.reduce([box_mask(box.pad(2, 128, 128), 128, 128) for box in scene.boxes])
    assert (differs & ~near).sum() <= 3
    assert scene.box == scene.boxes[0]
    assert not (scene.mask & ~union_mask(scene.boxes, 128, 128)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_words_name_what_is_wrong(seed: int) -> None:
    scene = faulty(seed)
    assert scene.entity in scene.explanation
    assert scene.explanation.endswith(".") and scene.explanation.count(".") == 1
    assert scene.fault not in scene.explanation
    if scene.fault == "fusion":
        assert scene.part is None and "fused" in scene.label
    else:
        assert scene.part in scene.label


def test_omission_marks_where_the_part_was() -> None:
    for seed in (s for s in SEEDS if faulty(s).fault == "omission"):
        scene = faulty(seed)
        owner = next(e for e in reversed(scene.scene.entities) if e.name == scene.entity)
        missing = [p.mask for p in owner.parts if p.name == scene.part]
        assert any(not (mask & ~scene.mask).any() for mask in missing)
        assert tuple(mask_box(scene.mask)) == tuple(scene.box)


def test_duplication_draws_the_extra_part_in_vectors() -> None:
    """The copy covers new ground, and is no pixel copy: every fault is re-rendered at any size."""
    scene = render_fault(500_000, fault="duplication", kind="dog")
    large = render_fault(500_000, fault="duplication", kind="dog", size=256)
    owner = scene.scene.entities[-1].mask
    assert (scene.mask & ~owner).sum() >= 15
    assert large.label == scene.label
    assert np.abs(np.array(large.box) / 2 - np.array(scene.box)).max() <= 2


def test_clean_side_is_the_rendered_scene() -> None:
    scene = faulty(SEEDS[0])
    assert np.array_equal(scene.clean_image, scene.scene.image)


def test_equal_seeds_give_equal_faults() -> None:
    again = render_fault(SEEDS[5])
    assert np.array_equal(again.image, faulty(SEEDS[5]).image)
    assert again.explanation == faulty(SEEDS[5]).explanation


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        render_fault(0, fault="blur")
    with pytest.raises(ValueError, match="expected one of"):
        render_fault(0, kind="unicorn")
