import pyarrow.parquet as pq
import pytest

from artiagent.records import AgentCall
from artiagent.vlm import calls as module
from artiagent.vlm.calls import account, read_calls, write_calls


def call(number: int, **changes) -> AgentCall:
    known = {
        "key": f"job-{number // 2}", "task": "judge", "prompt": "judge_add@1", "prompt_hash": "abc", "model": "m",
        "status": "ok", "tokens_in": 10, "tokens_out": 2, "cost": 0.001, "attempts": 1, "seconds": 0.5,
    }  # fmt: skip
    return AgentCall(**(known | changes))


def test_calls_come_back_in_order_keys_may_repeat(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GROUP", 4)  # several row groups
    made = [call(n, verdict=f"answer {n}") for n in range(11)]
    path = tmp_path / "curated" / "calls.parquet"
    assert write_calls(path, iter(made)) == 11
    assert list(read_calls(path)) == made
    assert pq.ParquetFile(path).num_row_groups == 3
    assert pq.read_table(path, columns=["key"])["key"].to_pylist() == [c.key for c in made]


def test_no_file_no_calls_and_none_is_an_account(tmp_path):
    assert list(read_calls(tmp_path / "calls.parquet")) == []
    assert write_calls(tmp_path / "calls.parquet", ()) == 0
    assert account(read_calls(tmp_path / "calls.parquet")) == {}


def test_a_stream_that_fails_leaves_the_older_file(tmp_path):
    path = tmp_path / "calls.parquet"
    write_calls(path, [call(1)])

    def broken():
        yield call(2)
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        write_calls(path, broken())
    assert list(read_calls(path)) == [call(1)]
    assert [p.name for p in tmp_path.iterdir()] == ["calls.parquet"]


def test_account_adds_up_by_task():
    found = account([
        call(0), call(1, status="repaired", attempts=2, cached=True), call(2, status="timeout", tokens_out=0, cost=0),
        call(3, task="caption", model="n", prompt="caption@2"),
    ])  # fmt: skip
    assert list(found) == ["caption", "judge"]
    judge = found["judge"]
    assert judge["statuses"] == {"ok": 1, "repaired": 1, "timeout": 1}
    assert judge["models"] == {"m": 3} and judge["prompts"] == {"judge_add@1#abc": 3}
    assert {k: judge[k] for k in ("calls", "cached", "attempts", "tokens_in", "tokens_out")} == {
        "calls": 3, "cached": 1, "attempts": 4, "tokens_in": 30, "tokens_out": 4,
    }  # fmt: skip
    assert (judge["cost"], judge["seconds"]) == (0.002, 1.5)
    assert found["caption"]["prompts"] == {"caption@2#abc": 1}
