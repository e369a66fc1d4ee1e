"""Verdicts per artifact: what fails is undone, what shared its image is examined again (spec: section 4).

Knows the order of the filters and how an artifact is taken back. Does not know how any filter measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from artiagent.config import CurationSection
from artiagent.curation.case import Case
from artiagent.curation.change import Change, audit_change, target_mask
from artiagent.curation.judge import Judge
from artiagent.curation.perceptual import Metric, window_reason
from artiagent.curation.views import View
from artiagent.records import Artifact
from artiagent.synthesis.compose import tight_region


@dataclass(frozen=True)
class Examiner:
    """The filters in their order: change audit, perceptual window (distort only), judge (None: not asked)."""

    section: CurationSection
    metric: Metric
    judge: Judge | None = None

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
        measured = self._measure(cases)
        asked = [(i, j) for i, case in enumerate(measured) for j, a in enumerate(case.pair.artifacts) if a.accepted]
        if self.judge is None or not asked:
            return measured
        views = [_view(measured[i], j) for i, j in asked]
        for (i, j), verdict in zip(asked, self.judge(views), strict=True):
            artifacts = list(measured[i].pair.artifacts)
            detail = f"{artifacts[j].detail}, {verdict.detail}"
            changes = {"accepted": verdict.reason is None, "reason": verdict.reason, "detail": detail}
            artifacts[j] = artifacts[j].model_copy(update=changes)
            case = measured[i].with_pair(artifacts=tuple(artifacts))
            measured[i] = replace(case, calls=(*case.calls, *verdict.calls))
        return measured

    def _measure(self, cases: Sequence[Case]) -> list[Case]:
        """Figures of all standing artifacts; accepted where no measured limit is broken."""
        standing = [
            (i, j) for i, c in enumerate(cases) for j, a in enumerate(c.pair.artifacts) if a.accepted is not False
        ]
        crops = [(cases[i].clean, cases[i].image, cases[i].pair.artifacts[j].box) for i, j in standing]
        distances = dict(zip(standing, self.metric.distances(crops), strict=True))
        measured = []
        for i, case in enumerate(cases):
            regions = [a.region.decode() for a in case.pair.artifacts]
            artifacts = [
                self._measured(a, audit_change(case.clean, case.image, a, regions), distances[i, j])
                if (i, j) in distances
                else a
                for j, a in enumerate(case.pair.artifacts)
            ]
            measured.append(case.with_pair(artifacts=tuple(artifacts)))
        return measured

    def _measured(self, artifact: Artifact, change: Change, distance: float) -> Artifact:
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
    standing = tuple(_standing(a, region) if a.accepted else a for a in artifacts)
    undone = len(artifacts) - len(case.pair.faults)
    return replace(case, image=image).with_pair(artifacts=standing, pasted_back=undone)


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


def _view(case: Case, index: int) -> View:
    return View(case.clean, case.image, case.pair.artifacts[index], f"{case.pair.job_id}:{index}")
