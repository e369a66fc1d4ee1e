"""The table of a study from predictions of known quality, and what is said and drawn of it."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from artiagent.records import Prediction
from artiagent.report.study import PAGE, TABLE, settings, write_study
from artiagent.store import read_rows
from artiagent.studies.findings import findings, text
from artiagent.studies.records import StudyRuns
from artiagent.studies.rows import Study, StudySection
from artiagent.studies.scores import tabulate
from artiagent.studies.table import StudyTable, comma_separated, markdown
from tests.studies.fakes import study_runs, write_benchmark

QUALITY = {8: 0.4, 16: 0.9, 32: 1.4, 64: 2.0}
TASKS = ["detection", "localization", "explanation"]


@pytest.fixture(scope="module")
def study() -> Study:
    sizes = [{"name": f"n{n}", "set": {"instruction.pairs": n}} for n in QUALITY]
    faults = [{"name": "injected"}, {"name": "drawn", "faults": "drawn", "note": "the oracle"}]
    groups = [
        {"name": "scaling", "title": "How much", "reference": "n8", "curve": True, "rows": sizes},
        {
            "name": "faults", "title": "Which <faults>", "reference": "injected", "set": {"instruction.pairs": 16},
            "tasks": TASKS, "rows": faults,
        },
    ]  # fmt: skip
    section = StudySection.model_validate({"scenes": {"count": 4}, "groups": groups, "resamples": 400})
    return Study({"inputs": {"sets": []}}, section)


@pytest.fixture(scope="module")
def made(study: Study, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("scores")
    planned, places = study.plan()
    quality = {("injected", n): q for n, q in QUALITY.items()} | {("drawn", 16): 2.5}
    runs = study_runs(folder, planned, quality)
    benchmark = write_benchmark(folder)
    arguments = (study.section, planned.evaluation, places, runs, benchmark, {"revision": "abc"})
    return tabulate("study-1234abcd", *arguments), runs, places, arguments


@pytest.fixture(scope="module")
def table(made) -> StudyTable:
    return made[0]


def test_figures_are_means_of_an_independent_implementation(made, table: StudyTable) -> None:
    _, runs, places, _ = made
    row = table.groups[0].by_name["n32"]
    expected = []
    for place in places["scaling"]["n32"]:
        answers = {r.record.item_id: r.record for r in read_rows(runs.runs[place].predictions, Prediction)}
        rows = [answers[f"i{k}"] for k in range(80)]
        truth = [k % 2 == 0 for k in range(80)]
        expected.append((f1_score(truth, [a.verdict for a in rows], average="macro"),
                         roc_auc_score(truth, [a.score for a in rows])))  # fmt: skip
    assert row.seeds["macro_f1"] == pytest.approx([f1 for f1, _ in expected])
    assert row.figures["macro_f1"].value == pytest.approx(np.mean([f1 for f1, _ in expected]))
    assert row.figures["auroc"].value == pytest.approx(np.mean([area for _, area in expected]))
    found = row.figures["auroc"]
    assert found.low < found.value < found.high


def test_seeds_widen_the_interval(made, table: StudyTable) -> None:
    """A row's interval is wider than the one that a mean over its seeds would have if they were not drawn again."""
    _, _, _, (section, evaluation, places, runs, benchmark, provenance) = made
    one = runs.runs[places["scaling"]["n8"][0]]
    other = runs.runs[places["scaling"]["n64"][0]].model_copy(update={"pairs": 8})  # a very different second seed
    far = [run if k != places["scaling"]["n8"][1] else other for k, run in enumerate(runs.runs)]
    apart = tabulate("x", section, evaluation, places, runs.model_copy(update={"runs": tuple(far)}), benchmark, {})
    same = [run if k != places["scaling"]["n8"][1] else one for k, run in enumerate(runs.runs)]
    equal = tabulate("x", section, evaluation, places, runs.model_copy(update={"runs": tuple(same)}), benchmark, {})
    wide, narrow = (t.groups[0].by_name["n8"].figures["auroc"] for t in (apart, equal))
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
    spread = abs(np.diff(apart.groups[0].by_name["n8"].seeds["auroc"])[0])
    assert spread > 0.1


def test_differences_are_paired_and_point_the_right_way(table: StudyTable) -> None:
    scaling, faults = table.groups
    assert scaling.by_name["n8"].differences == {}
    better = scaling.by_name["n64"].differences["auroc"]
    assert better.low > 0
    expected = scaling.by_name["n64"].figures["auroc"].value - scaling.by_name["n8"].figures["auroc"].value
    assert better.value == pytest.approx(expected)
    assert faults.by_name["drawn"].gains["macro_f1"].low > 0
    assert set(faults.by_name["injected"].share) >= {"macro_f1", "auroc"}
    share = faults.by_name["injected"].share["auroc"]
    gain = {name: faults.by_name[name].gains["auroc"].value for name in ("injected", "drawn")}
    assert share.value == pytest.approx(gain["injected"] / gain["drawn"])
    assert faults.by_name["drawn"].share == {}
    assert scaling.metrics == ["macro_f1", "auroc", "recall_at_10"]
    assert faults.metrics[3:] == ["iou", "rouge_l", "grounded_recall"]


def test_the_curve_goes_on_beyond_the_largest_size(table: StudyTable) -> None:
    curve = next(c for c in table.groups[0].curves if c.metric == "auroc")
    assert [p.pairs for p in curve.beyond] == [128, 256]
    assert (curve.band[0].pairs, curve.band[-1].pairs) == (8, 256)
    assert curve.beyond[1].value.value >= curve.beyond[0].value.value > 0.6
    assert all(p.value.low <= p.value.value <= p.value.high for p in curve.band)
    assert curve.missed == ()
    assert list(curve.steps) == ["16 - 8", "32 - 16", "64 - 32"]


def test_findings_follow_the_figures(made, table: StudyTable) -> None:
    told = findings(table)
    assert any("macro-F1 is monotone within the intervals" in s for s in told["scaling"])
    assert told["faults"][0].startswith("drawn against injected: surely better in")
    assert told["faults"][1].startswith("injected reaches this much of what drawn faults gain over the base:")
    assert "one model a row" not in text(table)
    # the same answers, those of the smallest and of the largest size exchanged: more pairs are worse, and that is said
    _, _, places, (section, evaluation, _, runs, benchmark, _) = made
    answers, (small, large) = [run.predictions for run in runs.runs], (places["scaling"][n] for n in ("n8", "n64"))
    for a, b in zip(small, large, strict=True):
        answers[a], answers[b] = answers[b], answers[a]
    pairs = zip(runs.runs, answers, strict=True)
    turned = StudyRuns(base=runs.base, runs=tuple(run.model_copy(update={"predictions": ref}) for run, ref in pairs))
    worse = findings(tabulate("x", section, evaluation, places, turned, benchmark, {}))
    assert any("it misses the intervals measured at" in s for s in worse["scaling"])
    assert any("not monotone: more pairs make it surely worse at" in s for s in worse["scaling"])


def test_the_same_answers_give_the_same_table(made, table: StudyTable) -> None:
    assert tabulate("study-1234abcd", *made[3]) == table
    assert StudyTable.model_validate_json(table.model_dump_json()) == table


def test_markdown_and_csv_hold_every_row(table: StudyTable) -> None:
    written = markdown(table)
    assert written.count("| base | 0 |") == 2
    assert "| n64 | 64 |" in written and "*)" in written
    rows = list(csv.DictReader(io.StringIO(comma_separated(table))))
    assert {(row["group"], row["row"]) for row in rows} == {
        ("", "base"), *(("scaling", f"n{n}") for n in QUALITY), ("faults", "injected"), ("faults", "drawn"),
    }  # fmt: skip
    one = next(row for row in rows if (row["row"], row["metric"]) == ("n64", "auroc"))
    assert float(one["value"]) == pytest.approx(table.groups[0].by_name["n64"].figures["auroc"].value, abs=1e-5)
    assert len(one["seeds"].split()) == 2


def test_the_report_is_one_page_with_charts(table: StudyTable, tmp_path: Path) -> None:
    write_study(tmp_path, table)
    assert StudyTable.model_validate_json((tmp_path / TABLE).read_text()) == table
    page = (tmp_path / PAGE).read_text()
    assert page.count("<svg") == 3
    assert "Which &lt;faults&gt;" in page and "the oracle" in page and "abc" in page
    assert not re.search(r"""(src|href)=["']?http""", page)
    charts = {p.name for p in (tmp_path / "charts").iterdir()}
    assert charts == {
        f"{name}.{kind}" for name in ("scaling-curve", "faults-scores", "faults-differences") for kind in ("svg", "png")
    }
    before = (tmp_path / "charts" / "scaling-curve.svg").read_bytes()
    write_study(tmp_path, table)
    assert (tmp_path / "charts" / "scaling-curve.svg").read_bytes() == before


def test_what_a_row_sets_is_one_line() -> None:
    stages = [{"name": "language", "epochs": 3.5}]
    assert settings({"sft.stages": stages, "instruction.turns": ["binary"]}) == (
        "sft.stages [name=language epochs=3.5], instruction.turns [binary]"
    )
    assert settings({}) == "as configured"
