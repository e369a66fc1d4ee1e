"""Outside the recorded region the two sides are the same pixels."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.records import Injection, PatchMapping
from artiagent.synthesis.compose import blend, measure, outside_change, region_mask

GRID, PATCH = (5, 6), 8


def injection(targets: list[int]) -> Injection:
    mapping = PatchMapping(grid=GRID, targets=tuple(targets), references=tuple(0 for _ in targets))
    return Injection(tool="remove", entity="dog", entity_id="e", part="tail", part_id="p", seed=0, mapping=mapping)


def pictures(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8) for _ in range(2))


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 29), min_size=1, max_size=12), st.integers(0, 3), st.integers(0, 8))
def test_outside_the_region_nothing_changes(targets: set[int], feather: int, ramp: int) -> None:
    twin, raw = pictures(3)
    region = region_mask(injection(sorted(targets)), PATCH, feather)
    image = blend(twin, raw, region, ramp)
    assert (image[~region] == twin[~region]).all()
    assert outside_change(twin, image, [region]) == 0


def test_targets_are_opaque_and_the_ring_is_soft() -> None:
    twin, raw = np.zeros((40, 48, 3), np.uint8), np.full((40, 48, 3), 200, np.uint8)
    image = blend(twin, raw, region_mask(injection([14]), PATCH, 1), ramp=4)
    assert (image[16:24, 16:24] == 200).all()
    ring = image[20, 8:16, 0].astype(int)
    assert 0 < ring[0] < 200 and (np.diff(ring) >= 0).all()


def test_a_region_at_the_frame_stays_opaque_there() -> None:
    twin, raw = np.zeros((40, 48, 3), np.uint8), np.full((40, 48, 3), 200, np.uint8)
    image = blend(twin, raw, region_mask(injection([0]), PATCH, 1), ramp=4)
    assert (image[:8, :8] == 200).all()


def test_tight_box_is_what_changed() -> None:
    twin = np.zeros((40, 48, 3), np.uint8)
    image = twin.copy()
    image[18:22, 17:23] = 255
    artifact = measure(twin, image, injection([14]), PATCH, 1)
    assert tuple(artifact.box) == (16, 16, 24, 24)
    assert tuple(artifact.tight_box) == (17, 18, 23, 22)
    assert artifact.change_inside == round(24 / 64, 6)
    assert artifact.overlap == round(24 / 64, 6)


def test_no_visible_change_has_no_overlap() -> None:
    twin = np.zeros((40, 48, 3), np.uint8)
    artifact = measure(twin, twin, injection([14]), PATCH, 1)
    assert (artifact.tight_box, artifact.overlap) == (None, 0.0)


def test_leak_is_measured() -> None:
    twin = np.zeros((40, 48, 3), np.uint8)
    image = twin.copy()
    image[0, 0] = 255
    assert outside_change(twin, image, [region_mask(injection([14]), PATCH, 1)]) > 0
