"""Quality of the filters: every stage is asked about every edit, and figures are those of the counted votes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import CurationSection
from artiagent.curation.judge import Verdict
from artiagent.curation.perceptual import load_metric
from artiagent.curation.views import View
from artiagent.nano.drawn_pairs import write_filter_test
from artiagent.nano.judge_quality import CHANGE, Opinion, edits_truth, markdown, opinions, quality
from artiagent.records import AgentCall

CALL = AgentCall(key="k", task="judge", prompt="p@1", prompt_hash="h", model="m", status="ok")
SECTION = CurationSection()


def votes(**counts: int) -> list[Opinion]:
    """``tp=3, fn=1, fp=2, tn=4`` as votes of one source each."""
    kinds = {"tp": (True, ""), "fn": (True, "judge_rejected"), "fp": (False, ""), "tn": (False, "judge_rejected")}
    flat = [kinds[name] for name, n in counts.items() for _ in range(n)]
    return [
        Opinion("judge", "add", "fault" if true else "shaded", f"s{k}", true, reason)
        for k, (true, reason) in enumerate(flat)
    ]


def test_precision_and_recall_are_those_of_the_votes() -> None:
    row = quality(votes(tp=6, fn=2, fp=3, tn=9))["judge"]["add"]
    assert row["n"] == 20
    assert row["precision"]["value"] == pytest.approx(6 / 9, abs=1e-4) and row["precision"]["n"] == 9
    assert row["recall"]["value"] == pytest.approx(6 / 8) and row["recall"]["n"] == 8
    assert row["passed_of_false"]["value"] == pytest.approx(3 / 12)
    assert row["precision"]["low"] < 6 / 9 < row["precision"]["high"]
    assert row["passed_by_kind"] == {"fault": [6, 8], "shaded": [3, 12]} and row["reasons"] == {"judge_rejected": 11}


def test_a_stage_that_lets_nothing_pass_has_no_precision() -> None:
    row = quality(votes(fn=2, tn=2))["judge"]["all"]
    assert row["precision"] is None and row["recall"]["value"] == 0
    assert "| judge | all | 4 | - | 0.00 [0.00, 0.00] |" in markdown({"judge": {"all": row}})


def test_every_stage_is_asked_about_every_edit_it_is_for(tmp_path: Path) -> None:
    pairs, _ = write_filter_test(tmp_path, 16, encode=lambda images: (images // 2 * 2).astype(np.uint8))

    def never_convinced(views: Sequence[View]) -> list[Verdict]:
        return [
            Verdict(None, "not asked")
            if v.artifact.injection.tool == "distort"
            else Verdict("judge_rejected", "", (CALL,))
            for v in views
        ]

    found = list(opinions(pairs, SECTION, load_metric(SECTION), {"no": never_convinced}, edits_truth))
    by_stage = {stage: [o for o in found if o.stage == stage] for stage in {o.stage for o in found}}
    assert len(by_stage[CHANGE]) == 16 and sum(o.true for o in by_stage[CHANGE]) == 8
    assert {o.tool for o in by_stage["perceptual window (ssim)"]} == {"distort"}
    assert "distort" not in {o.tool for o in by_stage["no"]} and all(o.reason for o in by_stage["no"])
    together = by_stage["all stages, no"]
    assert len(together) == 16 and all(o.reason for o in together if o.tool != "distort")
    assert {o.kind for o in found} <= {"fault", "reencoded", "recoloured", "shaded"}
