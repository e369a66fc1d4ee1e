"""Predictions of foreign models from files: heat maps of any depth, tables of answers, and what each defect does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks import read_truth
from artiagent.evaluation.files import FILES, THRESHOLD, predict_from_files, threshold_table
from artiagent.evaluation.heat import resize_nearest
from artiagent.evaluation.scoring import scores_of
from artiagent.records import Box, DatasetRef, Prediction
from artiagent.store import content_sha256, read_rows
from tests.evaluation.layouts import artibench, artibench_row, encoded, heat_map, loki, richhf

TASKS = ("detection", "localization", "explanation")


@pytest.fixture
def bench(tmp_path: Path) -> BenchmarkSet:
    """Four images of 60x40 px: faulty, clean, faulty, clean; one box on the faulty ones."""
    rows = []
    for k in range(4):
        faulty = k % 2 == 0
        change: dict[str, Any] = {"id": f"i{k}", "has_artifacts": faulty, "explanation": "An extra ear."}
        rows.append(artibench_row(**change, bboxes=[[4.0, 8.0, 28.0, 32.0]] if faulty else []))
    return artibench(tmp_path / "bench", rows)


def write_maps(folder: Path, **maps: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, heat in maps.items():
        (folder / f"{name}.png").write_bytes(encoded(heat))
    return folder


def write_table(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(ref: DatasetRef) -> dict[str, Prediction]:
    rows = {row.key: row.record for row in read_rows(ref, Prediction)}
    assert all(key == f"{row.benchmark}/{row.item_id}" for key, row in rows.items())
    return {row.item_id: row for row in rows.values()}


def values(items: list, predictions: dict[str, Prediction]) -> dict[str, float]:
    scores = scores_of(items, [predictions[item.item_id] for item in items], TASKS)
    once = np.ones((1, len(items)), np.float32)
    return {name: float(score.statistic(once)[0]) for name, score in scores.items()}


def test_heat_maps_become_stamped_masks(bench: BenchmarkSet, tmp_path: Path) -> None:
    silent = np.zeros((40, 60), np.uint8)
    maps = write_maps(tmp_path / "pal", i0=heat_map(), i1=silent, i3=heat_map(20, 30), other=silent)
    ref = predict_from_files([bench], "PAL", maps, THRESHOLD, tmp_path / "out")
    found = answers(ref)
    assert list(found) == ["i0", "i1", "i2", "i3"]
    assert {(row.model, row.model_sha256, row.prompt_hash) for row in found.values()} == {
        ("PAL", content_sha256(maps), FILES)
    }
    assert (found["i0"].mask.decode() == (heat_map() >= 76.5)).all()
    assert (found["i3"].mask.decode() == resize_nearest(heat_map(20, 30) >= 76.5, 40, 60)).all()
    assert [row.status["localization"] for row in found.values()] == ["ok", "empty", "missing", "ok"]
    assert found["i2"].mask is None and not found["i1"].mask.decode().any()
    counted = {key: ref.summary[key] for key in ("items", "missing", "resized", "unused")}
    assert counted == {"items": 4, "missing": 1, "resized": 1, "unused": 1}

    items = read_truth(bench)
    truth, claimed = items[0].truth(), found["i0"].mask.decode()
    scores = values(items, found)
    assert scores["iou"] == pytest.approx((truth & claimed).sum() / (truth | claimed).sum() / 2)  # the missing one: 0
    assert scores["false_alarm_area"] == pytest.approx(found["i3"].mask.decode().mean() / 2)
    assert (scores["empty_on_clean"], scores["empty_on_faulty"]) == (0.5, 0.5)
    assert not {"accuracy", "box_f1", "rouge_l"} & set(scores)  # a heat map answers one task, and not in boxes


def test_the_same_files_are_read_once_and_others_are_refused(bench: BenchmarkSet, tmp_path: Path) -> None:
    maps = write_maps(tmp_path / "pal", i0=heat_map())
    out = tmp_path / "out"
    ref = predict_from_files([bench], "PAL", maps, 0.3, out)
    assert predict_from_files([bench], "PAL", maps, 0.3, out) == ref
    assert predict_from_files([bench], "PAL", maps, 0.3, tmp_path / "again").digest == ref.digest
    write_maps(maps, i0=heat_map(peak=90))
    for threshold, name in ((0.3, "PAL"), (0.4, "PAL"), (0.3, "LEGION")):
        with pytest.raises(ValueError, match="choose another folder or delete it"):
            predict_from_files([bench], name, maps, threshold, out)


def test_maps_of_several_benchmarks_lie_together_or_apart(bench: BenchmarkSet, tmp_path: Path) -> None:
    other = loki(tmp_path / "loki")
    maps = write_maps(tmp_path / "together", **{"i0": heat_map(), "0a-1": heat_map()})
    ref = predict_from_files([bench, other], "m", maps, 0.3, tmp_path / "one")
    assert ref.rows == 6 and ref.summary["missing"] == 4 and ref.summary["unused"] == 0
    apart = tmp_path / "apart"
    write_maps(apart / "ArtiBench", i0=heat_map())
    write_maps(apart / "LOKI", **{"0a-1": heat_map(), "i0": heat_map()})
    ref = predict_from_files([bench, other], "m", apart, 0.3, tmp_path / "two")
    assert ref.summary["missing"] == 4 and ref.summary["unused"] == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no answer to any of the 4 items"),
        ({"else.png": encoded(heat_map())}, "no answer to any of the 4 items of ArtiBench; expected .* 'i0'"),
        ({"i0.png": b"x"}, r"i0.png: not a readable heat map"),
        ({"i0.png": encoded(heat_map()), "i0.npy": encoded(heat_map(), "NPY")}, "a second map of the item"),
        ({"i0.npy": encoded(heat_map().astype(np.float32), "NPY")}, "expected 0..1"),
    ],
)
def test_broken_maps_are_named_and_nothing_is_written(
    bench: BenchmarkSet, tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        predict_from_files([bench], "m", folder, 0.3, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_answers_every_task(bench: BenchmarkSet, tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "a.jsonl",
        {"item_id": "i0", "verdict": True, "score": 0.9, "boxes": [[4, 8, 28, 32]], "explanation": "An extra  ear."},
        {"item_id": "i1", "score": 0.2, "boxes": [], "explanation": None},
        {"item_id": "i2", "score": 0.5, "boxes": [[28, 8, 4, 32]], "explanation": ""},
    )
    ref = predict_from_files([bench], "LEGION", table, 0.3, tmp_path / "out")
    found = answers(ref)
    assert found["i0"].boxes == (Box(4, 8, 28, 32),) and found["i0"].explanation == "An extra ear."
    assert [(row.verdict, row.score) for row in found.values()] == [
        (True, 0.9),
        (False, 0.2),
        (True, 0.5),
        (None, None),
    ]
    assert [row.status for row in found.values()] == [
        {"detection": "ok", "localization": "ok", "explanation": "ok"},
        {"detection": "ok", "localization": "empty"},
        {"detection": "ok", "localization": "invalid_box", "explanation": "no_answer"},
        {"detection": "missing", "localization": "missing"},
    ]
    assert ref.summary["missing"] == 1
    scores = values(read_truth(bench), found)
    assert scores["accuracy"] == 0.75 and "auroc" not in scores  # a score is missing
    assert scores["iou"] == 0.5 and scores["rouge_l"] == 0.5 and scores["box_recall"] == 0.5


def test_parquet_and_json_lines_say_the_same(bench: BenchmarkSet, tmp_path: Path) -> None:
    rows = [{"item_id": f"i{k}", "score": k / 4, "boxes": [[1, 2, 9, 9]] if k else []} for k in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write_table(tmp_path / "a.jsonl", *rows)
    (tmp_path / "b.jsonl").write_bytes((tmp_path / "a.jsonl").read_text().replace("\n", "\r\n").encode("utf-16"))
    found = []
    for name in ("a.parquet", "a.jsonl", "b.jsonl"):
        ref = predict_from_files([bench], "m", tmp_path / name, 0.3, tmp_path / f"{name}.out")
        found.append([row.model_copy(update={"model_sha256": ""}) for row in answers(ref).values()])
    assert found[0] == found[1] == found[2] and found[0][3].verdict is True
    assert "explanation" not in found[0][0].status  # no column, no task


def test_rows_may_name_their_benchmark(bench: BenchmarkSet, tmp_path: Path) -> None:
    twin = bench.model_copy(update={"name": "twin"})
    table = write_table(
        tmp_path / "a.jsonl",
        {"item_id": "i0", "benchmark": "twin", "verdict": False},
        {"item_id": "i0", "verdict": True},
        {"item_id": "i1", "benchmark": "third", "verdict": True},
    )
    ref = predict_from_files([bench, twin], "m", table, 0.3, tmp_path / "out")
    found = {row.key: row.record for row in read_rows(ref, Prediction)}
    assert found["ArtiBench/i0"].verdict is True and found["twin/i0"].verdict is False
    assert ref.summary["unused"] == 1 and ref.summary["missing"] == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no answers"),
        ('{"item_id": "i0"\n', r"a.jsonl:1: no JSON"),
        ('{"item_id": "i0", "verdict": true}\n[1]\n', r"a.jsonl:2: \[1\] has no item_id"),
        ('{"id": "i0", "verdict": true}', "has no item_id"),
        ('{"item_id": "i0", "answer": true}', "unknown key 'answer'; expected item_id, benchmark, verdict"),
        ('{"item_id": "i0", "verdict": "yes"}', "verdict is 'yes'; expected bool"),
        ('{"item_id": "i0", "verdict": 1}', "verdict is 1; expected bool"),
        ('{"item_id": "i0", "score": true}', "score is True; expected int or float"),
        ('{"item_id": "i0", "score": 1.5}', "expected a probability"),
        ('{"item_id": "i0", "score": NaN}', "expected a probability"),
        ('{"item_id": "i0", "boxes": "none"}', "boxes is 'none'; expected list"),
        ('{"item_id": "i0", "verdict": true}\n{"item_id": "i0"}', "a second answer to the item 'i0'"),
        ('{"item_id": "x", "verdict": true}', "no answer to any"),
        ("\x00\ud800".encode("utf-8", "surrogatepass").decode("latin1"), "no JSON|no text"),
    ],
)
def test_broken_tables_are_named_and_nothing_is_written(
    bench: BenchmarkSet, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        predict_from_files([bench], "m", tmp_path / "a.jsonl", 0.3, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_that_hold_nothing_readable(bench: BenchmarkSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        predict_from_files([bench], "m", tmp_path / "none", 0.3, tmp_path / "out")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        predict_from_files([bench], "m", tmp_path / "a.parquet", 0.3, tmp_path / "out")
    (tmp_path / "a.bin").write_bytes(b"\xff\xff\xff\xff{")
    with pytest.raises(ValueError, match="no text|no JSON"):
        predict_from_files([bench], "m", tmp_path / "a.bin", 0.3, tmp_path / "out")


def test_boxes_in_another_space_are_a_status_not_a_crash(bench: BenchmarkSet, tmp_path: Path) -> None:
    rows = [{"item_id": "i0", "boxes": [[0.1, 0.2, 0.5, 0.6]]}, {"item_id": "i1", "boxes": [["a"]]},
            {"item_id": "i2", "boxes": [{"x": 1}]}, {"item_id": "i3", "boxes": [[0, 0, 900, 900]]}]  # fmt: skip
    found = answers(predict_from_files([bench], "m", write_table(tmp_path / "a", *rows), 0.3, tmp_path / "out"))
    assert [row.status["localization"] for row in found.values()] == [
        "wrong_space", "invalid_box", "wrong_schema", "wrong_space",
    ]  # fmt: skip
    assert not any(row.boxes for row in found.values())


def test_the_threshold_table_is_what_predictions_at_each_threshold_score(tmp_path: Path) -> None:
    benchmark = richhf(tmp_path / "bench")
    maps = write_maps(tmp_path / "maps", **{"11-aa": heat_map(peak=180), "22-bb": heat_map()})
    table = threshold_table(benchmark, maps, resamples=200)
    assert list(table) == [0.1, 0.2, 0.3, 0.4, 0.5]
    items = read_truth(benchmark)
    for threshold, row in table.items():
        ref = predict_from_files([benchmark], "m", maps, threshold, tmp_path / str(threshold))
        scores = values(items, answers(ref))
        assert row["iou"].value == pytest.approx(scores["iou"]) and row["iou"].n == 2
        assert row["pixel_f1"].value == pytest.approx(scores["pixel_f1"])
        assert row["iou"].low <= row["iou"].value <= row["iou"].high
    assert table[0.1]["iou"].value != table[0.5]["iou"].value
    with pytest.raises(ValueError, match="no such folder"):
        threshold_table(benchmark, tmp_path / "none")
