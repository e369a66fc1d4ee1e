from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.nano.scenes import (
    BENCH_SEEDS,
    CAPTION_WORDS,
    KINDS,
    SOURCE_SEEDS,
    TRAIN_SEEDS,
    RenderedScene,
    compose,
    draw,
    render_scene,
)

PARTS = {
    "dog": {"leg": 4, "ear": 2, "tail": 1, "head": 1},
    "cat": {"leg": 4, "ear": 2, "tail": 1, "head": 1},
    "horse": {"leg": 4, "ear": 2, "tail": 1, "head": 1},
    "elephant": {"leg": 4, "ear": 2, "tail": 1, "head": 1, "trunk": 1},
    "bird": {"leg": 2, "wing": 2, "tail": 1, "head": 1, "beak": 1},
    "person": {"leg": 2, "foot": 2, "arm": 2, "hand": 2, "head": 1},
    "car": {"wheel": 2, "door": 1},
    "teapot": {"spout": 1, "handle": 1, "lid": 1, "knob": 1},
    "chair": {"leg": 4, "back": 1},
}


@cache
def scene(seed: int) -> RenderedScene:
    return render_scene(seed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_always_shows_the_same_parts(kind: str) -> None:
    for seed in range(6):
        (entity,) = render_scene(seed, kinds=[kind], entities=1).entities
        assert Counter(part.name for part in entity.parts) == PARTS[kind]
        assert entity.name == kind


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_chunky_and_leave_a_body(kind: str) -> None:
    (entity,) = render_scene(7, kinds=[kind], entities=1).entities
    for part in entity.parts:
        assert part.mask.sum() >= 60
        assert part.mask.sum() <= 0.5 * entity.mask.sum()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_masks_are_nested_and_disjoint(seed: int) -> None:
    rendered = render_scene(seed)
    height, width = rendered.image.shape[:2]
    claimed = np.zeros((height, width), dtype=int)
    for entity in rendered.entities:
        claimed += entity.mask
        parts = np.zeros((height, width), dtype=int)
        for part in entity.parts:
            assert part.mask.dtype == bool and part.mask.shape == (height, width)
            assert not (part.mask & ~entity.mask).any()
            parts += part.mask
        assert parts.max() <= 1
    assert claimed.max() == 1


def test_masks_follow_the_pixels() -> None:
    """Without its entities the same scene differs from the picture almost exactly where the entity masks are."""
    for seed in range(6):
        composition = compose(seed)
        bare, _ = draw(replace(composition, figures=()), 128)
        changed = (bare.image() != scene(seed).image).any(axis=2)
        union = np.logical_or.reduce([entity.mask for entity in scene(seed).entities])
        assert (union & ~changed).sum() <= 0.03 * union.sum()
        spill = changed & ~union
        near = np.zeros_like(union)
        near[1:-1, 1:-1] = np.logical_or.reduce(
            [union[1 + dy : 127 + dy, 1 + dx : 127 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        )
        assert not (spill & ~near).any()


def test_equal_seeds_give_equal_scenes() -> None:
    again = render_scene(3)
    assert np.array_equal(again.image, scene(3).image)
    assert again.caption == scene(3).caption
    assert not np.array_equal(scene(3).image, scene(4).image)


def test_arrangements_are_as_frequent_as_documented() -> None:
    captions = [scene(seed).caption for seed in range(100)]
    overlapping = np.mean([" in front of " in caption for caption in captions])
    apart = np.mean([" to the left of " in caption for caption in captions])
    crowded = np.mean([len(scene(seed).entities) == 3 for seed in range(100)])
    assert 0.35 < overlapping < 0.6
    assert 0.07 < apart < 0.25
    assert 0.02 < crowded < 0.16


def test_three_entities_share_a_scene_and_a_caption_that_fits() -> None:
    for seed in range(12):
        rendered = render_scene(seed, entities=3)
        left, right, front = rendered.entities
        assert min(entity.mask.sum() for entity in rendered.entities) > 128 * 128 * 0.01
        assert np.nonzero(left.mask)[1].mean() < np.nonzero(right.mask)[1].mean()
        assert rendered.caption.index(front.name) < rendered.caption.index(" in front of ")
        assert len(rendered.caption.split()) <= 31


def test_overlapping_pairs_hide_part_of_the_rear_one_and_differ_in_colour() -> None:
    shares = []
    for seed in range(15):
        composition = compose(seed, overlap=True)
        rear = render_scene(seed, overlap=True).entities[0].mask.sum()
        canvas, _ = draw(replace(composition, figures=composition.figures[:1]), 128)
        shares.append(1 - rear / (canvas.groups() > 0).sum())
        assert composition.figures[0].colour != composition.figures[1].colour
    assert np.mean([0.10 <= share <= 0.40 for share in shares]) > 0.9
    assert min(shares) > 0.03 and max(shares) < 0.6


def test_entities_stay_in_frame() -> None:
    for seed in range(60):
        for entity in scene(seed).entities:
            mask = entity.mask
            assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_captions_are_short_closed_and_true() -> None:
    for seed in range(100):
        words = scene(seed).caption.split(" ")
        assert len(words) <= 28
        assert set(words) <= set(CAPTION_WORDS)
        for entity in scene(seed).entities:
            assert entity.name in words
            brief = entity.name == "person" and len(scene(seed).entities) == 3
            assert brief or entity.colour in words
        assert scene(seed).caption.endswith(scene(seed).background)


def test_size_scales_the_same_scene() -> None:
    small, large = render_scene(5, size=64), render_scene(5, size=128)
    assert small.image.shape == (64, 64, 3)
    shrunk = large.entities[0].mask.reshape(64, 2, 64, 2).mean(axis=(1, 3)) >= 0.5
    both = (shrunk & small.entities[0].mask).sum() / (shrunk | small.entities[0].mask).sum()
    assert both > 0.9


def test_uses_of_seeds_are_disjoint() -> None:
    ranges = sorted((SOURCE_SEEDS, BENCH_SEEDS, TRAIN_SEEDS), key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in zip(ranges[:-1], ranges[1:], strict=True))


@pytest.mark.parametrize(
    "wishes",
    [
        {"kinds": ["unicorn"]},
        {"kinds": []},
        {"entities": 4},
        {"entities": 3, "overlap": False},
        {"entities": 1, "overlap": True},
        {"size": 16},
    ],
)
def test_impossible_wishes_are_refused(wishes: dict) -> None:
    with pytest.raises(ValueError, match=r"expected|holds|cannot|ask for"):
        render_scene(0, **wishes)
