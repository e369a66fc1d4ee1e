from __future__ import annotations

import numpy as np
import pytest

from artiagent.config import CurationSection
from artiagent.curation.case import Case
from artiagent.curation.change import audit_change, seam_score, target_mask

SECTION = CurationSection()


def _audit(case: Case, image: np.ndarray):
    artifact = case.pair.artifacts[0]
    return audit_change(case.clean, image, artifact, [artifact.region.decode()])


@pytest.fixture
def single(cases: list[Case]) -> Case:
    return next(c for c in cases if len(c.pair.artifacts) == 1 and c.pair.artifacts[0].injection.tool == "remove")


def test_a_pasted_artifact_changes_its_target_and_nothing_else(single: Case) -> None:
    change = _audit(single, single.image)
    targets = target_mask(single.pair.artifacts[0], 128, 128)
    by_hand = np.abs(single.image.astype(float) - single.clean)[targets].mean() / 255
    assert change.inside == pytest.approx(by_hand, rel=1e-5)
    assert change.outside == 0 and change.share > 0.15
    assert change.reason(SECTION) is None


def test_an_unchanged_target_is_too_similar(single: Case) -> None:
    change = _audit(single, single.clean)
    assert (change.inside, change.share, change.seam) == (0, 0, pytest.approx(1, abs=0.3))
    assert change.reason(SECTION) == "too_similar"


def test_a_change_of_the_background_is_noticed_before_anything_else(single: Case) -> None:
    spoiled = single.image.astype(int)
    spoiled[~single.pair.artifacts[0].region.decode()] += 3
    assert _audit(single, np.clip(spoiled, 0, 255).astype(np.uint8)).reason(SECTION) == "change_outside"


def test_a_hard_edge_on_plain_ground_is_a_seam_and_an_edge_that_was_there_is_not() -> None:
    plain = np.full((64, 64, 3), 120, np.uint8)
    targets = np.zeros((64, 64), bool)
    targets[16:40, 16:40] = True
    patched = plain.copy()
    patched[targets] = 200
    assert seam_score(plain, patched, targets) > 10
    assert seam_score(plain, plain, targets) == pytest.approx(1)
    assert seam_score(patched, patched, targets) == pytest.approx(1)


def test_a_benign_injection_must_leave_nothing_to_see(single: Case) -> None:
    assert _audit(single, single.clean).benign_reason(SECTION) is None
    assert _audit(single, single.image).benign_reason(SECTION) == "too_damaged"


def test_a_grid_that_does_not_fit_is_named(single: Case) -> None:
    with pytest.raises(ValueError, match="16x16 patches"):
        target_mask(single.pair.artifacts[0], 120, 128)
