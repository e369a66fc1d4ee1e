"""What may be compared shares a table; what may not stands apart and says why."""

from __future__ import annotations

import csv
import io
import json

import pytest

from artiagent.config import EvaluationSection
from artiagent.evaluation.benchmarks import benchmark_sha256
from artiagent.evaluation.found import MODEL, REPORT
from artiagent.leaderboard.board import Board, assemble
from artiagent.leaderboard.collect import Truths, collect
from artiagent.leaderboard.quoted import Published, paper_table
from artiagent.leaderboard.table import WIDTH, Cell, cells, columns, comma_separated, text, unreadable
from artiagent.store import write_atomic
from tests.leaderboard.conftest import COUNT, SECTION, write_benchmark

DETECTION = SECTION.model_copy(update={"tasks": ("detection",)})
FEWER = SECTION.model_copy(update={"limit": 12})


def board_of(folders, benchmarks, tmp_path, section=SECTION, **asked) -> Board:
    sources, notes = collect(folders, tmp_path / "runs")
    return assemble(sources, Truths(benchmarks), section, notes=notes, **asked)


def test_models_of_one_revision_are_ranked_and_paired(benchmark, evaluated, tmp_path):
    folders = [evaluated(benchmark, name, wrong) for name, wrong in (("poor", 2), ("good", 12), ("middling", 4))]
    (table,) = board_of(folders, [benchmark], tmp_path).tables
    assert [row.model for row in table.models] == ["good", "middling", "poor"]
    assert table.sort == "macro_f1" and not table.apart and table.n == COUNT
    assert set(table.trivial) == {"always_yes"}  # once, though every report has it
    good, _, poor = table.models
    assert good.to_best == {}
    gap = poor.to_best["macro_f1"]
    assert gap.value == pytest.approx(poor.scores["macro_f1"].value - good.scores["macro_f1"].value)
    assert gap.high < 0
    assert set(good.slices) == {"duplication", "omission"}
    assert unreadable(poor) == COUNT  # whoever errs on every second image, the faulty ones, never gives a box


def test_sorting_by_another_metric_turns_the_order(benchmark, evaluated, tmp_path):
    folders = [evaluated(benchmark, "wide", 12), evaluated(benchmark, "narrow", 8)]  # boxes of 48 and 32 px, truth 32
    by_iou = board_of(folders, [benchmark], tmp_path, sort="iou").tables[0]
    assert [row.model for row in by_iou.models] == ["narrow", "wide"]
    by_area = board_of(folders, [benchmark], tmp_path, sort="false_alarm_area").tables[0]
    areas = [row.scores["false_alarm_area"].value for row in by_area.models]
    assert areas == sorted(areas)


def test_revisions_questions_and_parts_never_share_a_table(benchmark, evaluated, tmp_path):
    folders = [evaluated(benchmark, "a", 3), evaluated(benchmark, "b", 4)]
    folders += [evaluated(benchmark, "asked-less", 4, DETECTION), evaluated(benchmark, "seen-less", 4, FEWER)]
    other = write_benchmark(tmp_path / "other" / "drawn.parquet", seed=1)
    folders.append(evaluated(other, "elsewhere", 4))
    first, *apart = board_of(folders, [benchmark, other], tmp_path).tables
    assert {row.model for row in first.models} == {"a", "b"} and first.apart == ""
    told = {table.models[0].model: table.apart for table in apart}
    assert set(told) == {"asked-less", "seen-less", "elsewhere"}
    assert all(len(table.models) == 1 for table in apart)
    assert "other questions" in told["asked-less"] and "revision" not in told["asked-less"]
    assert "12 images, not 24" in told["seen-less"]
    assert "another revision" in told["elsewhere"] and benchmark_sha256(other)[:12] in told["elsewhere"]
    assert len({table.key for table in [first, *apart]}) == 4


def test_one_measurement_found_twice_is_one_row(benchmark, evaluated, tmp_path):
    folder = evaluated(benchmark, "a", 3)
    again = evaluated(benchmark, "a", 3)
    differently = evaluated(benchmark, "a", 4)  # the same weights asked in another way: both are shown, told apart
    (table,) = board_of([folder, again], [benchmark], tmp_path).tables
    assert len(table.models) == 1 and len(table.models[0].origins) == 2
    (table,) = board_of([folder, differently], [benchmark], tmp_path).tables
    assert len({row.model for row in table.models}) == 2


def test_a_run_s_base_and_tuned_model_join_the_table(benchmark, evaluated, tmp_path):
    base, tuned = (
        json.loads((evaluated(benchmark, n, w) / REPORT).read_text()) for n, w in (("base", 2), ("tuned", 8))
    )
    difference = {"macro_f1": {"value": 0.4, "low": 0.3, "high": 0.5, "n": COUNT}}
    merged = {
        **base, "scores": base["scores"] | tuned["scores"], "models": base["models"] | tuned["models"],
        "breakdown": base["breakdown"] | tuned["breakdown"], "differences": {"tuned - base": difference},
    }  # fmt: skip
    config = {"inputs": {"vlm": "data/weights/nano-vl", "benchmarks": [benchmark.model_dump()]}}
    summary = {"evaluation": merged, "config": config, "digests": {}}
    write_atomic(tmp_path / "runs" / "nano-1" / "summary.json", json.dumps(summary).encode())
    first, second = board_of([], [], tmp_path).tables[0].models
    assert (first.model, second.model) == ("nano-1 tuned", "nano-vl")
    assert first.base == "nano-vl" and second.base == ""
    assert first.to_base["macro_f1"].value == 0.4  # as the run reports it: its predictions are not here


def test_what_cannot_be_read_is_named_and_left_out(benchmark, evaluated, tmp_path):
    good, torn = evaluated(benchmark, "a", 3), evaluated(benchmark, "b", 3)
    (torn / MODEL).write_text("{")
    renamed = evaluated(benchmark, "c", 3)
    (renamed / MODEL).write_text((renamed / MODEL).read_text().replace('"name": "c"', '"name": "best"'))
    write_atomic(tmp_path / "runs" / "old" / "summary.json", b'{"evaluation": {"n": 1}}')
    board = board_of([good, torn, renamed], [benchmark], tmp_path)
    assert [row.model for row in board.tables[0].models] == ["a"]
    assert any("is about 'best', its report about c" in note for note in board.notes)
    assert len(board.notes) == 3 and any(str(torn) in note for note in board.notes)
    assert all(note in text(board) for note in board.notes)
    with pytest.raises(ValueError, match="no scores on it here; there are some on drawn"):
        board_of([good], [benchmark], tmp_path, benchmark="LOKI")


def test_no_pairing_without_predictions_of_the_same_stamp(benchmark, evaluated, tmp_path):
    folders = [evaluated(benchmark, "a", 3), evaluated(benchmark, "b", 4)]
    report = json.loads((folders[1] / REPORT).read_text())
    write_atomic(folders[1] / REPORT, json.dumps(report | {"models": {"b": "f" * 64}}).encode())
    assert all(row.to_best == {} for row in board_of(folders, [benchmark], tmp_path).tables[0].models)
    elsewhere = [evaluated(benchmark, "c", 3), evaluated(benchmark, "d", 4)]
    assert all(row.to_best == {} for row in board_of(elsewhere, [], tmp_path).tables[0].models)


def test_csv_holds_every_figure_and_reads_back(benchmark, evaluated, tmp_path):
    board = board_of([evaluated(benchmark, "a", 3), evaluated(benchmark, "b", 4)], [benchmark], tmp_path)
    assert Cell._fields[:9] == ("model", "benchmark", "revision", "metric", "value", "low", "high", "n", "quoted")
    read = list(csv.DictReader(io.StringIO(comma_separated(board))))
    expected = cells(board)
    assert len(read) == len(expected) and len({(c.model, c.metric, c.part) for c in expected}) == len(expected)
    for row, cell in zip(read, expected, strict=True):
        number = {key: float(row[key]) if row[key] else None for key in ("value", "low", "high", "n")}
        assert cell._replace(**number) == cell
        assert {key: row[key] for key in ("model", "metric", "part", "revision")} == {
            key: getattr(cell, key) for key in ("model", "metric", "part", "revision")
        }
        assert row["quoted"] == "False"
    table = columns(board)
    assert set(table) == set(Cell._fields) and {len(values) for values in table.values()} == {len(expected)}


def test_quoted_rows_stand_beside_their_benchmark_only(benchmark, evaluated, tmp_path, monkeypatch):
    folder = evaluated(benchmark, "a", 3)
    lone = board_of([folder], [benchmark], tmp_path)
    assert lone.tables[0].quoted == () and "not shown beside them" in text(lone)
    shrunk = Published(layout="artibench", images=COUNT, faulty=COUNT // 2)
    table = paper_table()
    smaller = table.model_copy(update={"benchmarks": {**table.benchmarks, "RichHF-18K": shrunk}})
    monkeypatch.setattr("artiagent.leaderboard.board.paper_table", lambda: smaller)
    board = board_of([folder], [benchmark], tmp_path)
    assert board.tables[0].published == "RichHF-18K"
    printed = text(board)
    assert "quoted, arXiv 2602.20951, Table 3 (RichHF-18K)" in printed
    assert ".079*" in printed and ".119*" not in printed  # PAL's IoU is above its F1, the tuned Qwen's is not
    quoted = [cell for cell in cells(board) if cell.quoted]
    assert len(quoted) == 20 and all(cell.low is None and cell.kind == "quoted" for cell in quoted)


def test_terminal_lines_fit(benchmark, evaluated, tmp_path):
    long = "a-model-with-a-name-that-is-much-longer-than-any-column"
    board = board_of([evaluated(benchmark, long, 2), evaluated(benchmark, "b", 12)], [benchmark], tmp_path)
    lines = text(board).splitlines()
    assert max(map(len, lines)) <= WIDTH
    poor = next(line for line in lines if line.startswith("a-model"))
    assert "[-" in poor and poor.split()[-1] == str(COUNT)  # difference to the best, unread answers


def test_limit_below_the_benchmark_is_paired_on_its_own_images(benchmark, evaluated, tmp_path):
    folders = [evaluated(benchmark, "a", 3, FEWER), evaluated(benchmark, "b", 4, FEWER)]
    (table,) = board_of(folders, [benchmark], tmp_path, EvaluationSection(resamples=100)).tables
    assert table.n == 12 and table.models[1].to_best["macro_f1"].n == 12
