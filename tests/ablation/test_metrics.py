import json

import numpy as np
import pytest

from artiagent.ablation.metrics import audit_of, count_pairs, measure_reconstructions, tabulate
from artiagent.ablation.reconstruct import SECONDS, Reconstruction
from artiagent.ablation.rows import AblationRow, AblationSection
from artiagent.ablation.table import change, comma_separated, groups, markdown, text, value
from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.benchmarks import read_truth
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.nano.artibench import write_artibench
from artiagent.records import Prediction
from artiagent.store import DatasetWriter, Row
from tests.ablation.pairs import pair, row_data

ROWS = (
    AblationRow(name="default", group="a", detect=True),
    AblationRow(name="worse", group="steps", set={"synthesis.steps": 3}, detect=True, note="few"),
    AblationRow(name="nothing", group="steps", set={"synthesis.steps": 2}),
)
SECTION = AblationSection(reference="default", rows=ROWS, resamples=200)
SOURCES = [f"s{k}" for k in range(10)]
ASKED = EvaluationSection(tasks=("detection",), limit=8)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = write_artibench(tmp_path_factory.mktemp("bench"), 8, encode=lambda images: images)
    return BenchmarkSet(name="drawn", path=str(folder / "drawn.parquet"))


def predictions(out, benchmark, right):
    writer = DatasetWriter(out, "predictions")
    rows = []
    for k, item in enumerate(read_truth(benchmark)):
        yes = item.faulty if k < right else not item.faulty
        score = 0.5 + (0.1 + k / 100) * (1 if yes else -1)
        answer = Prediction(
            benchmark=benchmark.name,
            item_id=item.item_id,
            model="m",
            model_sha256="s",
            prompt_hash="p",
            verdict=yes,
            score=score,
        )
        rows.append(Row(item.item_id, answer))
    writer.write("all", rows)
    return writer.finish()


def reconstructions(out):
    writer = DatasetWriter(out, "reconstructions")
    seconds = {}
    for k, source in enumerate(("a", "b")):
        plain = Reconstruction(
            source_id=source, solver="autoencoder", steps=0, values=False, psnr=40.0, distance=0.0, row_evaluations=0
        )
        solved = plain.model_copy(
            update={"solver": "euler", "steps": 4, "values": True, "psnr": 20.0 + 2 * k, "row_evaluations": 8}
        )
        writer.write(source, [Row(f"{source}-{row.setting}", row) for row in (plain, solved)])
        seconds[source] = {solved.setting: 0.5}
    writer.attach(SECONDS, json.dumps(seconds).encode())
    return writer.finish()


@pytest.fixture(scope="module")
def table(tmp_path_factory, benchmark):
    folder = tmp_path_factory.mktemp("rows")
    default, worse, nothing = ROWS
    talked = DatasetWriter(folder / "talk", "conversations").finish({"train": 20})
    rows = [
        row_data(
            folder / "default", default, [pair(s, v, "add", accepted=True) for s in SOURCES for v in (0, 1)],
            conversations=talked, predictions=predictions(folder / "p8", benchmark, 8),
        ),
        row_data(
            folder / "worse", worse,
            [pair(s, v, "fuse", accepted=v == 0, change=0.04, cost=5.0, target=9) for s in SOURCES for v in (0, 1)],
            conversations=talked, predictions=predictions(folder / "p4", benchmark, 4),
        ),
        row_data(folder / "nothing", nothing, [pair(s, 0, "add", accepted=False) for s in SOURCES]),
    ]  # fmt: skip
    base = predictions(folder / "p2", benchmark, 2)
    again = reconstructions(folder / "reconstructions")
    return tabulate("ablation-1", SECTION, rows, base, benchmark, ASKED, again, {"revision": "abc"})


def test_yield_cost_and_change(table):
    default, worse, nothing = table.rows
    assert (default.planned, default.accepted, worse.planned, worse.accepted) == (20, 20, 20, 10)
    assert (default.figures["accepted"].value, worse.figures["accepted"].value) == (1.0, 0.5)
    assert default.figures["row_evaluations"].value == worse.figures["row_evaluations"].value == 10.0
    assert (default.seconds, default.trained_on, nothing.trained_on) == (6.0, 10, None)
    assert default.figures["accepted"].n == table.sources == 10
    assert default.figures["accepted_add"].value == 1.0
    assert worse.figures["change_inside"].value == pytest.approx(0.04)
    assert worse.differences["change_inside"].high < 0
    assert not default.differences
    assert (default.replanned, worse.replanned, nothing.replanned) == (0, 20, 0)
    assert "accepted_add" not in worse.differences  # it planned none


def test_a_row_without_any_pair_is_a_row_of_the_table(table):
    nothing = table.rows[2]
    assert (nothing.accepted, nothing.figures["accepted"].value) == (0, 0.0)
    assert "row_evaluations" not in nothing.figures
    assert (value(nothing, "row_evaluations"), value(nothing, "seconds"), value(nothing, "auroc")) == ("-", "-", "-")


def test_detection_is_compared_on_the_same_images(table):
    default, worse, nothing = table.rows
    assert (default.figures["auroc"].value, default.figures["macro_f1"].value) == (1.0, 1.0)
    assert worse.differences["macro_f1"].high < 0
    assert "auroc" not in nothing.figures
    assert table.images == 8
    assert table.base["macro_f1"].value < worse.figures["macro_f1"].value


def test_intervals_resample_sources(tmp_path):
    """Variants of a source fall together: ten sources of four pairs are ten draws, not forty."""
    pairs = [pair(s, v, "add", accepted=k % 2 == 0) for k, s in enumerate(SOURCES) for v in range(4)]
    counts = count_pairs(row_data(tmp_path, ROWS[0], pairs))
    found = interval(counts.statistics(SOURCES)["accepted"], draw_weights(10, 2000, 0))
    assert found.value == 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 10), rel=0.15)


def test_probes_without_a_figure_are_left_out(table, tmp_path):
    data = row_data(tmp_path, ROWS[0], [pair("s", 0, "add", accepted=True)])
    verdict, figures = audit_of(data.curated)
    assert (verdict, list(figures), figures["audit_ring"].n) == ("pass", ["audit_ring"], 12)
    assert table.rows[0].audit == "pass"


def test_reconstructions_are_averaged_over_sources(tmp_path):
    bound, solved = measure_reconstructions(reconstructions(tmp_path / "r"), 100)
    assert (bound.solver, bound.figures["psnr"].value, "seconds" in bound.figures) == ("autoencoder", 40.0, False)
    assert (solved.figures["psnr"].value, solved.figures["psnr"].low, solved.figures["psnr"].high) == (21.0, 20.0, 22.0)
    assert (solved.row_evaluations, solved.figures["seconds"].value) == (8, 0.5)


def test_groups_begin_with_the_reference(table):
    assert {g: [r.name for r in rows] for g, rows in groups(table).items()} == {
        "steps": ["default", "worse", "nothing"]
    }


def test_table_for_people_and_for_programs(table):
    told = markdown(table)
    assert "| worse | 0.500 [" in told
    assert "(-0.060*)" in told
    assert "| euler 4, cached values | 21.0 [20.0, 22.0] | 0.000 [0.000, 0.000] | 8 | 0.500 [0.500, 0.500] |" in told
    assert "Before fine-tuning: macro-F1" in told
    lines = comma_separated(table).splitlines()
    assert "worse,steps,synthesis.steps 3,change_inside,0.04,0.04,0.04,10,-0.06,-0.06,-0.06" in lines
    assert any(line.startswith("euler-4,reconstruction,cached values,psnr,21,") for line in lines)
    assert len({line.count(",") for line in lines}) == 1
    shown = text(table)
    assert "10 of 20" in shown
    assert "before fine-tuning" in shown
    assert change(table.rows[0], "accepted") == ""


def test_no_planned_pair_at_all_is_an_error(tmp_path, benchmark):
    rows = [row_data(tmp_path, ROWS[0], [])]
    section = AblationSection(reference="default", rows=ROWS[:1])
    with pytest.raises(ValueError, match="no row has a planned pair"):
        tabulate("a", section, rows, None, benchmark, ASKED, reconstructions(tmp_path / "r"), {})
