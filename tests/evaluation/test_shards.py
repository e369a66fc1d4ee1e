"""Predictions in shards: the same answers in the same order as in one piece; each shard shows its own items only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation import runners, stage
from artiagent.evaluation.runners import Reply, Shown
from artiagent.evaluation.stage import predict
from artiagent.records import AgentCall, CheckpointRef, DatasetRef, Prediction
from artiagent.shards import Shard
from artiagent.store import read_rows
from artiagent.vlm.calls import CALLS, read_calls
from tests.evaluation.conftest import bench_rows

SECTION = EvaluationSection(batch_size=2, threads=1, device="cpu", max_new_tokens=4, max_box_tokens=4)
MODEL = CheckpointRef(name="m", uri="nowhere", sha256="1")
COUNT = 8


@pytest.fixture
def benchmarks(tmp_path: Path) -> list[BenchmarkSet]:
    """Three, not in the order of their names, one shorter than a batch."""
    found = []
    for name, count in (("zeta", 7), ("alpha", 12), ("a", 1)):
        pq.write_table(pa.Table.from_pylist(bench_rows(count)), path := tmp_path / f"{name}.parquet")
        found.append(BenchmarkSet(name=name, path=str(path)))
    return found


class Seer:
    """Answers by the item's name, at the price of a call each."""

    group = SECTION.batch_size

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.vlm = self

    def spent(self) -> dict[str, float]:
        return {"requests": 2 * len(self.shown), "cost_possible": 0.5 * len(self.shown)}

    def replies(self, benchmark: str, shown: Shown) -> Iterator[Reply]:
        for item, _ in shown:
            key = f"{benchmark}/{item.item_id}"
            self.shown.append(key)
            call = AgentCall(key=key, task="detection", prompt="p@1", prompt_hash="h", model="seer", status="ok")
            yield Reply(verdict=item.faulty, score=0.5, status={"detection": "ok"}, calls=(call,))


@pytest.fixture
def seers(monkeypatch: pytest.MonkeyPatch) -> list[Seer]:
    """Those that were loaded."""
    loaded: list[Seer] = []

    def load(*arguments: object) -> Seer:
        loaded.append(Seer())
        return loaded[-1]

    monkeypatch.setattr(stage, "load_runner", load)
    return loaded


def contents(ref: DatasetRef) -> dict[str, object]:
    rows = [(row.key, row.record) for row in read_rows(ref, Prediction)]
    calls = list(read_calls(Path(ref.uri) / CALLS))
    return {"digest": ref.digest, "rows": rows, "calls": calls, "summary": ref.summary}


def test_joined_shards_are_the_data_set_in_one_piece(
    benchmarks: list[BenchmarkSet], seers: list[Seer], tmp_path: Path
) -> None:
    whole = predict(SECTION, MODEL, benchmarks, tmp_path / "whole", "seer")
    shards = [Shard(index, COUNT) for index in reversed(range(COUNT))]
    parts = [predict(SECTION, MODEL, benchmarks, tmp_path / "out", "seer", shard) for shard in shards]
    assert {part.kind for part in parts} == {"predictions-part"} and sum(part.rows for part in parts) == 20
    shown = [key for seer in seers[1:] for key in seer.shown]
    assert sorted(shown) == sorted(seers[0].shown) and max(len(seer.shown) for seer in seers[1:]) <= 4
    loaded = len(seers)
    joined = predict(SECTION, MODEL, benchmarks, tmp_path / "out", "seer")
    assert contents(joined) == contents(whole) and len(seers) == loaded
    assert joined.summary["items"] == 20 and joined.summary["vlm_requests"] == 40
    assert joined.summary["vlm_cost_possible"] == 10


def test_a_killed_shard_is_repeated_alone(
    benchmarks: list[BenchmarkSet], seers: list[Seer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(SECTION, MODEL, benchmarks, tmp_path / "whole", "seer")
    out = tmp_path / "out"

    def run(index: int) -> DatasetRef:
        return predict(SECTION, MODEL, benchmarks, out, "seer", Shard(index, 3))

    run(0), run(2)
    sealed = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(Seer, "replies", _dying(Seer.replies, after=2))
        with pytest.raises(KeyboardInterrupt):
            run(1)
    first = list(seers[-1].shown)
    part = run(1)
    assert len(first) == 4 and seers[-1].shown and not set(first) & set(seers[-1].shown)
    assert {path: path.stat().st_mtime_ns for path in sealed} == sealed
    loaded = len(seers)
    assert run(1) == part
    assert contents(predict(SECTION, MODEL, benchmarks, out, "seer")) == contents(whole) and len(seers) == loaded


def _dying(replies: object, after: int) -> object:
    def dies(self: Seer, *given: object) -> Iterator[Reply]:
        if len(self.shown) >= after * SECTION.batch_size:
            raise KeyboardInterrupt
        return replies(self, *given)

    return dies


def test_a_call_without_a_shard_answers_what_is_in_none(
    benchmarks: list[BenchmarkSet], seers: list[Seer], tmp_path: Path
) -> None:
    whole = predict(SECTION, MODEL, benchmarks, tmp_path / "whole", "seer")
    predict(SECTION, MODEL, benchmarks, tmp_path / "out", "seer", Shard(1, 4))
    assert contents(predict(SECTION, MODEL, benchmarks, tmp_path / "out", "seer")) == contents(whole)
    assert not set(seers[1].shown) & set(seers[2].shown)


def test_parts_of_another_model_are_refused(benchmarks: list[BenchmarkSet], seers: list[Seer], tmp_path: Path) -> None:
    predict(SECTION, MODEL, benchmarks, tmp_path / "out", "seer", Shard(0, 2))
    other = MODEL.model_copy(update={"sha256": "2"})
    for shard in (Shard(0, 2), Shard(0, 3), None):
        with pytest.raises(ValueError, match="batches of other predictions"):
            predict(SECTION, other, benchmarks, tmp_path / "out", "seer", shard)


def test_a_real_model_decodes_the_shards_images_only(
    tiny_vlm: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.Table.from_pylist(bench_rows(6)), path := tmp_path / "drawn.parquet")
    benchmark = BenchmarkSet(name="drawn", path=str(path))
    whole = predict(SECTION, tiny_vlm, [benchmark], tmp_path / "whole", "tiny")
    decode, decoded = runners.decode, []
    monkeypatch.setattr(runners, "decode", lambda data: (decoded.append(data), decode(data))[1])
    for index in range(3):
        decoded.clear()
        predict(SECTION, tiny_vlm, [benchmark], tmp_path / "out", "tiny", Shard(index, 3))
        assert decoded == [row["image"] for row in bench_rows(6)[2 * index : 2 * index + 2]]
    monkeypatch.setattr(stage, "load_runner", None)
    assert contents(predict(SECTION, tiny_vlm, [benchmark], tmp_path / "out", "tiny")) == contents(whole)
