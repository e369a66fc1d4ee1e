"""Predictions are stamped and resumable; scores follow from them and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.benchmarks import read_truth
from artiagent.evaluation.files import FILES, predict_from_files
from artiagent.evaluation.runners import LocalRunner, Reply
from artiagent.evaluation.stage import REPORT, predict, score
from artiagent.instruction import prompts
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, Prediction
from artiagent.store import DatasetWriter, Row, read_rows
from tests.evaluation.conftest import bench_rows

SECTION = EvaluationSection(batch_size=4, threads=1, device="cpu", max_new_tokens=8, max_box_tokens=8, resamples=200)
STAMP = prompts.prompt_hash(prompts.BINARY, prompts.LOCATE_ARTIFACTS, prompts.DESCRIBE_ARTIFACTS)


def oracle(benchmark: BenchmarkSet, folder: Path, name: str = "oracle", **change: object) -> DatasetRef:
    """Predictions that repeat the ground truth."""
    writer: DatasetWriter[Prediction] = DatasetWriter(folder, "predictions")
    rows = [
        Prediction(
            benchmark=benchmark.name, item_id=item.item_id, model=name, model_sha256="abc", prompt_hash=STAMP,
            verdict=item.faulty, score=float(item.faulty), boxes=item.boxes, explanation=item.explanation,
            status={"detection": "ok", "localization": "ok" if item.boxes else "empty"},
        )
        for item in read_truth(benchmark)
    ]  # fmt: skip
    writer.write("all", [Row(row.item_id, row.model_copy(update=change)) for row in rows])
    return writer.finish({"model": name})


def test_a_real_model_answers_every_item_and_resumes(
    benchmark: BenchmarkSet, tiny_vlm: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = predict(SECTION, tiny_vlm, [benchmark], tmp_path / "whole", "tiny")
    rows = {row.key: row.record for row in read_rows(ref, Prediction)}
    assert ref.rows == 6 and sorted(rows) == [f"drawn/item-{k}" for k in range(6)]
    for key, row in rows.items():
        assert row.model_sha256 == tiny_vlm.sha256 and row.prompt_hash == STAMP and row.model == "tiny"
        assert 0 < row.score < 1 and row.verdict == (row.score >= 0.5)
        assert ("explanation" in row.status) == (int(key[-1]) % 2 == 0)

    replies, calls = LocalRunner.replies, []

    def dies_in_the_second_batch(self: LocalRunner, *given: object) -> Iterator[Reply]:
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return replies(self, *given)

    monkeypatch.setattr(LocalRunner, "replies", dies_in_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        predict(SECTION, tiny_vlm, [benchmark], tmp_path / "killed", "tiny")
    resumed = predict(SECTION, tiny_vlm, [benchmark], tmp_path / "killed", "tiny")
    assert len(calls) == 3 and resumed.digest == ref.digest
    assert predict(SECTION, tiny_vlm, [benchmark], tmp_path / "killed", "tiny") == resumed
    other = tiny_vlm.model_copy(update={"sha256": "other"})
    with pytest.raises(ValueError, match="holds other predictions"):
        predict(SECTION, other, [benchmark], tmp_path / "killed", "tiny")


def test_an_oracle_scores_one_and_baselines_what_they_must(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    base = oracle(benchmark, tmp_path / "base", "base", boxes=(), explanation="", verdict=True, score=0.5)
    report = score(SECTION, [benchmark], [base, oracle(benchmark, tmp_path / "tuned", "tuned")], tmp_path)
    tuned = {name: found.value for name, found in report.scores["tuned"].items()}
    ones = (
        "accuracy",
        "macro_f1",
        "auroc",
        "iou",
        "pixel_f1",
        "box_f1",
        "rouge_l",
        "grounded_recall",
        "empty_on_clean",
    )
    assert {name: tuned[name] for name in ones} == dict.fromkeys(ones, 1.0)
    assert tuned["false_alarm_area"] == 0
    assert report.scores["tuned"]["iou"].n == 3 and report.scores["tuned"]["accuracy"].n == 6
    assert (
        report.scores["base"]["macro_f1"].value == pytest.approx(1 / 3) == report.scores["always_yes"]["macro_f1"].value
    )
    assert report.scores["base"]["auroc"].value == 0.5 and report.scores["base"]["rouge_l"].value == 0
    assert "box_precision" not in report.scores["base"], "not defined without any box"
    assert report.scores["whole_image"]["iou"].value == pytest.approx(32 * 32 / 128**2)
    assert report.scores["whole_image"]["false_alarm_area"].value == 1
    assert 0 < report.scores["centre_box"]["iou"].value < 1
    assert set(report.scores["fixed_sentence"]) == {"rouge_l", "grounded_recall"}
    assert report.differences["tuned - base"]["iou"].value == 1
    assert set(report.differences) == {
        f"tuned - {other}" for other in ("base", "always_yes", "whole_image", "centre_box", "fixed_sentence")
    }
    assert set(report.differences["tuned - centre_box"]) >= {"iou", "pixel_f1"}
    assert report.breakdown["tuned/omission"]["recall"].n == 1
    assert report.breakdown["tuned/duplication"]["auroc"].value == 1
    assert report.statuses["tuned"] == {"detection:ok": 6, "localization:empty": 3, "localization:ok": 3}
    assert (report.n, report.n_faulty, report.benchmark) == (6, 3, "drawn")
    assert EvaluationReport.model_validate_json((tmp_path / REPORT).read_text()) == report


def test_unparsable_answers_count_as_wrong(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    silent = oracle(benchmark, tmp_path / "p", verdict=None, score=None, status={"detection": "unparsable"})
    report = score(SECTION, [benchmark], [silent], tmp_path)
    assert report.scores["oracle"]["accuracy"].value == 0 == report.scores["oracle"]["macro_f1"].value
    assert "auroc" not in report.scores["oracle"]
    assert report.statuses["oracle"] == {"detection:unparsable": 6}


@pytest.mark.parametrize("change", [{"model_sha256": ""}, {"prompt_hash": ""}, {"prompt_hash": "yesterday's"}])
def test_unstamped_predictions_are_refused(benchmark: BenchmarkSet, tmp_path: Path, change: dict) -> None:
    with pytest.raises(ValueError, match="stamped"):
        score(SECTION, [benchmark], [oracle(benchmark, tmp_path / "p", **change)], tmp_path)


def test_predictions_must_cover_the_benchmark(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    some = oracle(benchmark, tmp_path / "p")
    writer: DatasetWriter[Prediction] = DatasetWriter(tmp_path / "part", "predictions")
    writer.write("one", list(read_rows(some, Prediction))[:1])
    with pytest.raises(ValueError, match="no prediction for 5 of 6"):
        score(SECTION, [benchmark], [writer.finish()], tmp_path)


def test_one_class_benchmarks_have_no_detection_score(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    report = score(SECTION.model_copy(update={"limit": 1}), [benchmark], [oracle(benchmark, tmp_path / "p")], tmp_path)
    assert "accuracy" not in report.scores["oracle"] and report.scores["oracle"]["iou"].value == 1
    assert json.loads((tmp_path / REPORT).read_text())["n"] == 1


def test_a_single_model_is_compared_with_the_baselines(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    report = score(SECTION, [benchmark], [oracle(benchmark, tmp_path / "p")], tmp_path)
    assert set(report.differences) == {
        f"oracle - {other}" for other in ("always_yes", "whole_image", "centre_box", "fixed_sentence")
    }
    assert report.differences["oracle - whole_image"]["iou"].value == pytest.approx(1 - 32 * 32 / 128**2)


def test_any_number_of_models_share_a_table(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    """Also such as come from files: they are scored on what their files answer."""
    table = tmp_path / "heat.jsonl"
    lines = [{"item_id": f"item-{k}", "boxes": [[16, 16, 48, 48]] if k < 4 else []} for k in range(6)]
    table.write_text("\n".join(map(json.dumps, lines)))
    from_file = predict_from_files([benchmark], "heat", table, 0.3, tmp_path / "f")
    rows = [oracle(benchmark, tmp_path / name, name) for name in ("one", "two", "three")]
    report = score(SECTION, [benchmark], [*rows, from_file], tmp_path)
    assert list(report.scores)[:4] == ["one", "two", "three", "heat"] == list(report.models)
    assert report.scores["heat"]["iou"].value == pytest.approx(2 / 3) and "accuracy" not in report.scores["heat"]
    assert report.statuses["heat"] == {"localization:empty": 2, "localization:ok": 4}
    assert report.prompt_hash == STAMP and report.differences["three - one"]["iou"].value == 0
    alone = score(SECTION, [benchmark], [from_file], tmp_path)
    assert alone.prompt_hash == FILES and set(alone.scores) == {"heat", "whole_image", "centre_box"}


def test_every_status_is_in_the_report(benchmark: BenchmarkSet, tmp_path: Path) -> None:
    failed = {"detection": "error", "localization": "wrong_space", "explanation": "refused"}
    rows = oracle(benchmark, tmp_path / "p", verdict=None, score=None, boxes=(), explanation="", status=failed)
    report = score(SECTION, [benchmark], [rows], tmp_path)
    assert report.statuses["oracle"] == {f"{task}:{status}": 6 for task, status in failed.items()}
    assert report.scores["oracle"]["accuracy"].value == 0 == report.scores["oracle"]["iou"].value
    assert report.scores["oracle"]["empty_on_clean"].value == 0, "a failed answer is no right one"


def test_the_breakdown_is_by_fault_and_by_generator(tmp_path: Path) -> None:
    rows = [row | {"generator": ("flux", "sdxl")[k // 2 % 2]} for k, row in enumerate(bench_rows(8))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    benchmark = BenchmarkSet(name="drawn", path=str(tmp_path / "b.parquet"))
    assert {item.generator for item in read_truth(benchmark)} == {"flux", "sdxl"}
    report = score(SECTION, [benchmark], [oracle(benchmark, tmp_path / "p")], tmp_path)
    assert set(report.breakdown) == {
        "oracle/duplication", "oracle/omission", "oracle/generator:flux", "oracle/generator:sdxl",
    }  # fmt: skip
    assert report.breakdown["oracle/generator:flux"]["recall"].n == 2
