"""Verdicts per artifact: what fails is undone, what shared its image is examined again (spec: section 4).

Knows the order of the filters and how an artifact is taken back. Does not know how any filter measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from artiagent.config import CurationSection
from artiagent.curation.change import audit_change, target_mask
from artiagent.curation.judge import View, judge
from artiagent.curation.perceptual import Metric, window_reason
from artiagent.records import Artifact, Pair
from artiagent.synthesis.compose import tight_region
from artiagent.vlm.protocol import Vlm


@dataclass(frozen=True)
class Case:
    """A pair with its pixels, uint8 [H, W, 3]; `image` changes when artifacts are undone."""

    pair: Pair
    clean: np.ndarray
    image: np.ndarray


@dataclass(frozen=True)
class Examiner:
    """The filters in their order: change audit, perceptual window (distort only), judge (None: not asked)."""

    section: CurationSection
    metric: Metric
    vlm: Vlm | None = None

    def decide(self, cases: Sequence[Case]) -> list[Case]:
        """Judge all artifacts of all cases. A failed one of several is undone and its survivors are judged again.

        Every round undoes at least one artifact of each pair that it repeats, so it ends.
        """
        decided = self._examine(list(cases))
        while repeat := [i for i, case in enumerate(decided) if _undoable(case)]:
            again = self._examine([undo(decided[i]) for i in repeat])
            for i, case in zip(repeat, again, strict=True):
                decided[i] = case
        return decided

    def _examine(self, cases: list[Case]) -> list[Case]:
        measured = [self._measure(case) for case in cases]
        asked = [(i, j) for i, case in enumerate(measured) for j, a in enumerate(case.pair.artifacts) if a.accepted]
        if self.vlm is None or not asked:
            return measured
        views = [View(measured[i].clean, measured[i].image, measured[i].pair.artifacts[j]) for i, j in asked]
        verdicts = {}
        for (i, j), view, opinion in zip(asked, views, judge(self.vlm, views), strict=True):
            reason = opinion.reason(view.artifact.injection.tool, self.section)
            detail = f"{view.artifact.detail}, {opinion}"
            verdicts[i, j] = view.artifact.model_copy(
                update={"accepted": reason is None, "reason": reason, "detail": detail}
            )
        return [
            _with_artifacts(case, [verdicts.get((i, j), a) for j, a in enumerate(case.pair.artifacts)])
            for i, case in enumerate(measured)
        ]

    def _measure(self, case: Case) -> Case:
        """Figures of all standing artifacts; accepted where no measured limit is broken."""
        regions = [a.region.decode() for a in case.pair.artifacts]
        return _with_artifacts(
            case, [a if a.accepted is False else self._measured(case, a, regions) for a in case.pair.artifacts]
        )

    def _measured(self, case: Case, artifact: Artifact, regions: list[np.ndarray]) -> Artifact:
        change = audit_change(case.clean, case.image, artifact, regions)
        distance = self.metric.distance(case.clean, case.image, artifact.box)
        tool = artifact.injection.tool
        reason = change.benign_reason(self.section) if tool == "benign" else change.reason(self.section)
        if reason is None and tool == "distort":
            reason = window_reason(distance, self.metric.window)
        return artifact.model_copy(
            update={
                "change_inside": round(change.inside, 6),
                "change_outside": round(change.outside, 6),
                "distance": round(distance, 6),
                "accepted": reason is None and tool != "benign",
                "reason": reason,
                "detail": f"share {change.share:.2f}, seam {change.seam:.2f}, {self.metric.name} {distance:.2f}",
            }
        )


def undo(case: Case) -> Case:
    """Put the twin's pixels back inside the regions of failed artifacts, survivors' targets excepted.

    Counted in `pasted_back`; the survivors lose their verdict until they are examined again.
    """
    artifacts = case.pair.artifacts
    region = np.zeros(case.image.shape[:2], dtype=bool)
    for artifact in artifacts:
        if not artifact.accepted:
            region |= artifact.region.decode()
    for artifact in case.pair.faults:
        region &= ~target_mask(artifact, *region.shape)
    image = np.where(region[..., None], case.clean, case.image)
    standing = [_standing(a, region) if a.accepted else a for a in artifacts]
    undone = len(artifacts) - len(case.pair.faults)
    return _with_artifacts(replace(case, image=image), standing, pasted_back=undone)


def _standing(artifact: Artifact, undone: np.ndarray) -> Artifact:
    """A survivor without verdict, its tight mask cut by what was undone (bool [H, W])."""
    if artifact.mask is None:
        return artifact.model_copy(update={"accepted": None})
    left = artifact.mask.decode() & ~undone
    return artifact.model_copy(update={"accepted": None, **tight_region(artifact.box, left)})


def _undoable(case: Case) -> bool:
    """Some artifact stands and one more than those already undone has failed."""
    failed = len(case.pair.artifacts) - len(case.pair.faults)
    return bool(case.pair.faults) and failed > case.pair.pasted_back


def _with_artifacts(case: Case, artifacts: Sequence[Artifact], **changes: int) -> Case:
    return replace(case, pair=case.pair.model_copy(update={"artifacts": tuple(artifacts), **changes}))
