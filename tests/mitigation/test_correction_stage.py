"""A benchmark through the loop: figures by judges that had no say, resume, the page."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.images import encode
from artiagent.mitigation.correction import stage
from artiagent.mitigation.correction.figures import Judged, figures_of
from artiagent.mitigation.correction.records import BETTER, Candidate, Correction, Place, Round
from artiagent.nano.faults import render_fault
from artiagent.nano.scenes import BENCH_SEEDS
from artiagent.nano.twins import clean_scene
from artiagent.records import Box, CheckpointRef
from artiagent.store import read_rows
from tests.mitigation.correction_cast import SECTION, CountingVerifier, cast, faulty_picture

FAULT = Box(8, 8, 24, 24)
SETTINGS = SECTION.model_copy(update={"resamples": 200, "window": 2, "candidates": 1})


class GreenParts:
    """Says that an image without red is restored."""

    def restored(self, images: Sequence[np.ndarray], clean: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([not ((i[..., 0] > 200) & (i[..., 1] < 50)).any() for i in images])


@pytest.fixture
def benchmark(tmp_path):
    rows = [
        {"id": f"{kind}-{k}", "image": encode(picture.pixels), "has_artifacts": kind == "bad", "explanation": "",
         "bboxes": [list(FAULT)] if kind == "bad" else [], "fault": "distortion" if kind == "bad" else ""}
        for kind, picture in (("bad", faulty_picture(FAULT)), ("good", faulty_picture())) for k in range(3)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bench.parquet")
    return BenchmarkSet(name="small", path=str(tmp_path / "bench.parquet"))


@pytest.fixture
def run(benchmark, tmp_path, monkeypatch):
    opened = []

    def once(out="out", **changes):
        def open_panel(section, evaluation, models):
            opened.append(cast())
            return opened[-1]

        monkeypatch.setattr(stage, "open_panel", open_panel)
        monkeypatch.setattr(stage, "_third", lambda section, reward: CountingVerifier())
        monkeypatch.setattr(stage, "open_parts", lambda parser: GreenParts())
        monkeypatch.setattr("artiagent.nano.twins.clean_scene", lambda item: faulty_picture().pixels)
        refs = [CheckpointRef(name=n, uri=n, sha256=n * 8) for n in ("inpainter", "reward", "vlm", "parser")]
        return stage.correct(SETTINGS.model_copy(update=changes), EvaluationSection(), benchmark, *refs, tmp_path / out)

    once.opened = opened
    return once


def test_the_stage_judges_what_it_corrected(run, tmp_path):
    ref = run()
    assert ref.kind == "corrected" and ref.rows == 6
    scores = json.loads((tmp_path / "out" / "correction.json").read_text())["scores"]
    values = {name: found["value"] for name, found in scores.items()}
    assert values["fixed"] == values["ceiling"] == values["outside_identical"] == values["third_agrees"] == 1
    assert values["floor"] == values["altered_clean"] == values["false_alarms"] == 0
    assert scores["fixed"]["n"] == 3 and scores["outside_identical"]["n"] == 6
    assert ref.summary["fixed.value"] == 1
    rows = {row.key: row for row in read_rows(ref, Judged)}
    assert rows["bad-0"].record.correction.outcome == "corrected" and rows["good-0"].images["before"]
    page = (tmp_path / "out" / "correction.html").read_text()
    assert "100 %" in page and "distortion" in page and "src=" not in page and 'href="http' not in page


def test_the_stage_resumes_and_refuses_other_settings(run, tmp_path):
    first = run()
    worked = len(run.opened)
    assert run() == first and len(run.opened) == worked
    with pytest.raises(ValueError, match="other settings"):
        run(rounds=1)


def test_the_clean_scene_of_an_item_is_drawn_from_its_id():
    seed = BENCH_SEEDS.start + 3
    drawn = render_fault(seed)
    item = BenchmarkItem(
        item_id=f"drawn-{seed}",
        faulty=True,
        width=128,
        height=128,
        boxes=drawn.boxes,
        fault=drawn.fault,
        entity=drawn.entity,
    )
    np.testing.assert_array_equal(clean_scene(item), drawn.clean_image)
    assert clean_scene(item.model_copy(update={"item_id": "photo-7"})) is None
    assert clean_scene(item.model_copy(update={"item_id": "drawn-1"})) is None
    with pytest.raises(ValueError, match="draws another scene"):
        clean_scene(item.model_copy(update={"boxes": (Box(0, 0, 5, 5),)}))


def judged(
    number: int, faulty: bool, before: bool | None, after: bool | None, outcome: str, third: float = 1.0
) -> Judged:
    place = Place(source="grown", boxes=(FAULT,))
    tried = (Candidate(place=place, seed=1, why="worse"), Candidate(place=place, seed=2, verifier=1, vlm=1, why=BETTER))
    turn = Round(
        location_status="ok",
        caption="",
        verifier=0,
        vlm=0,
        candidates=tried,
        chosen=1 if outcome == "corrected" else None,
    )
    correction = Correction(
        image=str(number), outcome=outcome, verdict=0.9, verdict_after=0.4, verifier=-1, verifier_after=1,
        rounds=(turn,) if outcome != "clean" else (), calls=8, width=64, height=64,
    )  # fmt: skip
    return Judged(
        item_id=str(number), faulty=faulty, fault="fusion" if faulty else "", correction=correction,
        outside_identical=True, third_before=0.0, third_after=third,
        passed_before=before, passed_after=after, passed_clean=None if after is None else True,
    )  # fmt: skip


def test_figures_count_what_they_say():
    rows = [
        judged(0, True, False, True, "corrected"),
        judged(1, True, False, False, "corrected", third=-1.0),
        judged(2, True, True, False, "corrected"),
        judged(3, True, True, True, "clean"),
        judged(4, False, True, True, "kept"),
        judged(5, False, True, False, "corrected"),
    ]
    found = figures_of(rows, 200, 0)
    values = {name: one["value"] for name, one in found["scores"].items()}
    assert values["fixed"] == 0.5 and values["floor"] == 0.5 and values["spoilt"] == 0.25
    assert values["fixed_of_failing"] == 0.5 and values["found"] == 0.75 and values["corrected"] == 0.75
    assert values["false_alarms"] == 1 and values["altered_clean"] == 0.5
    assert values["third_gain"] == pytest.approx(1 / 3) and values["third_agrees"] == pytest.approx(2 / 3)
    assert values["verdict_fall"] == pytest.approx(0.5) and values["verifier_gain"] == 2
    assert found["by_fault"]["fusion"]["fixed"]["n"] == 4
    assert found["sources"] == {"grown": {"tried": 10, "preferred": 5, "applied": 4, "passing": 1}}
    assert found["counts"]["outcomes"] == {"faulty": {"clean": 1, "corrected": 3}, "clean": {"corrected": 1, "kept": 1}}
    assert found["counts"]["applied_in_round"] == {"1": 4}


def test_without_a_parser_the_figures_that_need_one_are_left_out(tmp_path):
    found = figures_of([judged(0, True, None, None, "corrected"), judged(1, False, None, None, "clean")], 200, 0)
    assert not {"fixed", "floor", "ceiling"} & set(found["scores"])
    assert found["by_fault"] == {"fusion": {}}
