from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import CurationSection, VlmSection
from artiagent.curation.stage import curate
from artiagent.curation.verdicts import Examiner
from artiagent.images import decode
from artiagent.records import CheckpointRef, DatasetRef, Pair
from artiagent.store import read_rows
from artiagent.vlm.calls import CALLS, read_calls

Stored = tuple[DatasetRef, DatasetRef]
SECTION = CurationSection(window=8, device="cpu", vlm=VlmSection(device="cpu", threads=1, batch=8), audit_resamples=100)


@pytest.fixture(scope="module")
def judge(tiny_vlm: Path) -> CheckpointRef:
    return checkpoint_ref("tiny-vl", str(tiny_vlm))


@pytest.fixture(scope="module")
def curated(stored: Stored, judge: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return curate(SECTION, *stored, judge, tmp_path_factory.mktemp("curated"))


def _pairs(ref: DatasetRef) -> dict[str, Pair]:
    return {row.key: row.record for row in read_rows(ref, Pair, images=())}


def test_every_pair_stays_with_a_verdict_and_the_funnel_adds_up(stored: Stored, curated: DatasetRef) -> None:
    before, after = _pairs(stored[0]), _pairs(curated)
    assert set(before) == set(after) and curated.kind == "curated"
    artifacts = [a for p in after.values() for a in p.artifacts]
    assert all(a.accepted is not None for a in artifacts)
    assert all((a.reason is None) == a.accepted for a in artifacts if a.injection.tool != "benign")
    assert not any(a.accepted for a in artifacts if a.injection.tool == "benign")
    counts = json.loads((Path(curated.uri) / "funnel.json").read_text())["scored"]
    for tool, figures in counts["tools"].items():
        name, _, kernel = tool.partition("/")
        mine = [a for a in artifacts if a.injection.tool == name and kernel in ("", a.injection.kernel)]
        assert figures["tried"] == len(mine) == figures["accepted"] + sum(figures["reasons"].values())
    assert curated.summary["accepted"] == sum(p.accepted for p in after.values()) > 0
    assert curated.summary["add_tried"] == counts["tools"]["add"]["tried"]
    assert (curated.summary["metric"], curated.summary["judge"]) == ("ssim", "presence")


def test_every_call_is_accounted_for_and_every_record_names_its_prompts(curated: DatasetRef) -> None:
    calls = list(read_calls(Path(curated.uri) / CALLS))
    pairs = _pairs(curated)
    asked = [key for key, pair in pairs.items() if pair.agents]
    assert len(calls) == curated.summary["vlm_calls"] > 0 and curated.summary["vlm_failed"] == 0
    assert {call.key.split(":")[0] for call in calls} == set(asked)
    hashes = {pairs[key].agents["presence"] for key in asked}
    assert hashes == {f"part_in_box@0#{calls[0].prompt_hash} tiny-vl"}
    licences = {key: pair.licences for key, pair in pairs.items()}
    assert licences == {key: {"judge: tiny-vl": "unknown"} if key in asked else {} for key in pairs}


def test_pixels_are_the_pairs_own_but_for_what_was_undone(stored: Stored, curated: DatasetRef) -> None:
    originals = {row.key: row for row in read_rows(stored[0], Pair)}
    undone = 0
    for row in read_rows(curated, Pair):
        if row.record.pasted_back == 0:
            assert row.images == originals[row.key].images
            continue
        undone += 1
        clean, image = decode(row.images["clean"]), decode(row.images["artifact"])
        recorded = np.logical_or.reduce([a.region.decode() for a in row.record.artifacts])
        assert np.array_equal(clean[~recorded], image[~recorded])
        assert not np.array_equal(image, decode(originals[row.key].images["artifact"]))
    assert undone > 0


def test_a_killed_run_judges_only_what_is_missing_and_ends_with_the_same_digest(
    stored: Stored, judge: CheckpointRef, curated: DatasetRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    decide = Examiner.decide

    def dying(self: Examiner, cases: list) -> list:
        calls.append(len(cases))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decide(self, cases)

    monkeypatch.setattr(Examiner, "decide", dying)
    with pytest.raises(KeyboardInterrupt):
        curate(SECTION, *stored, judge, tmp_path / "resumed")
    resumed = curate(SECTION, *stored, judge, tmp_path / "resumed")
    assert resumed.digest == curated.digest and resumed.summary == curated.summary
    assert sum(calls) == stored[0].rows + calls[2]


def test_a_complete_data_set_returns_at_once(stored: Stored, judge: CheckpointRef, curated: DatasetRef) -> None:
    nowhere = judge.model_copy(update={"uri": "gone"})
    assert curate(SECTION, *stored, nowhere, Path(curated.uri)) == curated


def test_without_judge_no_model_is_loaded(stored: Stored, judge: CheckpointRef, tmp_path: Path) -> None:
    nowhere = judge.model_copy(update={"uri": str(tmp_path / "gone")})
    ref = curate(SECTION.model_copy(update={"judge": "none"}), *stored, nowhere, tmp_path / "out")
    assert ref.summary["judge"] == "none"
    assert "judge_rejected" not in (tmp_path / "out" / "funnel.json").read_text()


def test_pairs_of_other_scenes_are_refused(stored: Stored, judge: CheckpointRef, tmp_path: Path) -> None:
    from artiagent.records import Scene
    from artiagent.store import DatasetWriter

    empty: DatasetWriter[Scene] = DatasetWriter(tmp_path / "none", "scenes", ("image",))
    empty.write("0", [])
    with pytest.raises(ValueError, match="no scene scene-1"):
        curate(SECTION, stored[0], empty.finish(), judge, tmp_path / "out")
