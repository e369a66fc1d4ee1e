"""Coverage counted from runs is that of the decoded masks; damaged codes are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from artiagent.grid import core_grid, patch_grid
from artiagent.records import Mask
from artiagent.synthesis.coverage import patch_coverage


def masks(height: int, width: int) -> st.SearchStrategy[list[np.ndarray]]:
    noise = arrays(bool, (height, width))
    plain = st.sampled_from([np.zeros((height, width), bool), np.ones((height, width), bool)])
    return st.lists(noise | plain, min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([(8, 8, 2), (12, 8, 4), (8, 24, 8), (6, 6, 1)]), st.data())
def test_coverage_is_that_of_the_pixels(size: tuple[int, int, int], data: st.DataObject) -> None:
    height, width, patch = size
    scenes = data.draw(st.lists(masks(height, width), min_size=1, max_size=3))
    united = [data.draw(st.integers(1, len(drawn))) for drawn in scenes]
    found = patch_coverage([[Mask.encode(mask) for mask in drawn] for drawn in scenes], united, patch)
    for drawn, count, covered in zip(scenes, united, found, strict=True):
        for mask, counts in zip([*drawn, np.logical_or.reduce(drawn[:count])], covered, strict=True):
            cells = mask.reshape(height // patch, patch, width // patch, patch)
            assert (counts == cells.sum(axis=(1, 3))).all()
            assert ((counts > 0) == patch_grid(mask, patch)).all()
            assert ((counts / patch**2 >= 0.3) == core_grid(mask, patch, 0.3)).all()


def test_what_cannot_be_counted_is_named() -> None:
    mask = Mask.encode(np.eye(8, dtype=bool))
    with pytest.raises(ValueError, match="8x8 px is not a multiple of the patch size 3"):
        patch_coverage([[mask]], [1], 3)
    with pytest.raises(ValueError, match="masks of 8x8 and 4x8 px in one scene"):
        patch_coverage([[mask, Mask.encode(np.zeros((4, 8), bool))]], [1], 4)
    for counts in ("", mask.counts[:-1], mask.counts + "1"):
        for masks in ([mask, Mask(size=(8, 8), counts=counts)], [Mask(size=(8, 8), counts=counts)]):
            with pytest.raises(ValueError, match="run-length code is damaged"):
                patch_coverage([masks], [1], 4)
