"""The account of a stage's agent calls: ``calls.parquet`` beside its data set, outside the data set's digest.

Rows are (key, record): what the call was about, which may repeat, and the AgentCall as JSON. Knows no image, no
prompt's text and no backend. A stage that asked nobody writes no file; where there is none, reading yields no calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artiagent.records import AgentCall
from artiagent.store import DatasetWriter
from artiagent.vlm.protocol import Vlm

CALLS = "calls.parquet"
ANSWERED = ("ok", "repaired")
BEYOND = ("requests", "retries", "timeouts", "possibly_paid", "cost_possible")
_SCHEMA = pa.schema([pa.field("key", pa.string()), pa.field("record", pa.string())])
_GROUP = 5000  # calls in memory at a time
_SUMS = ("cached", "attempts", "tokens_in", "tokens_out", "cost", "seconds")


def write_calls(path: Path, calls: Iterable[AgentCall]) -> int:
    """Write all calls to one Parquet file, whole or not at all, as a stream. Returns how many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token_hex(6)}.tmp")
    count = 0
    try:
        with pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
            stream = iter(calls)
            while group := list(islice(stream, _GROUP)):
                columns = [[call.key for call in group], [call.model_dump_json() for call in group]]
                writer.write_table(pa.table(columns, schema=_SCHEMA))
                count += len(group)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


class Ledger:
    """Makes the notes of batches of `DatasetWriter`: a resumed run, and whoever joins shards, keeps the account of all.

    Beside the calls a note holds what a server may have charged for beyond its answers since the note before, as
    ``vlm.spent()`` says; the first one, since the ledger was made. Nobody was asked where ``vlm`` is None.
    """

    def __init__(self, vlm: Vlm | None) -> None:
        self._vlm = vlm
        self._before = self._spent()

    def note(self, calls: Iterable[AgentCall]) -> dict[str, Any]:
        note: dict[str, Any] = {"calls": [call.model_dump(mode="json") for call in calls]}
        spent = self._spent()
        if spent:
            note["beyond"] = {name: value - self._before[name] for name, value in spent.items()}
        self._before = spent
        return note

    def _spent(self) -> dict[str, float | int]:
        spent = self._vlm.spent() if self._vlm else {}
        return {name: spent[name] for name in BEYOND if name in spent}


def keep_calls(writer: DatasetWriter[Any]) -> dict[str, float | int]:
    """Before ``finish``: write ``calls.parquet`` from the notes of all batches, if there are any calls.

    Returns what they come to, for the data set's summary; nothing where nobody was asked.
    """
    path = writer.directory / CALLS
    beyond: Counter[str] = Counter()
    if not write_calls(path, _noted(writer, beyond)):
        path.unlink()
        return {}
    rows = account(read_calls(path)).values()
    answered = sum(row["statuses"].get(status, 0) for row in rows for status in ANSWERED)
    calls = sum(row["calls"] for row in rows)
    sums = {f"vlm_{name}": sum(row[name] for row in rows) for name in ("cached", "tokens_in", "tokens_out", "cost")}
    charged = {f"vlm_{name}": round(beyond[name], 6) for name in BEYOND if name in beyond}
    return {"vlm_calls": calls, "vlm_failed": calls - answered, **sums, **charged}


def _noted(writer: DatasetWriter[Any], beyond: Counter[str]) -> Iterator[AgentCall]:
    """The calls of all batches in their order; adds to ``beyond``."""
    for batch in sorted(writer.done):
        note = writer.note(batch)
        beyond.update(note.get("beyond", {}))
        yield from map(AgentCall.model_validate, note.get("calls", ()))


def read_calls(path: Path) -> Iterator[AgentCall]:
    """Stream the calls in the order in which they were written; none where there is no file."""
    if not path.is_file():
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_GROUP, columns=["record"]):
            for record in batch["record"].to_pylist():
                yield AgentCall.model_validate_json(record)


def account(calls: Iterable[AgentCall]) -> dict[str, dict[str, Any]]:
    """What the calls of every task came to, JSON-ready, tasks in alphabetical order.

    ``{task: {"calls", "cached", "attempts", "tokens_in", "tokens_out", "cost", "seconds", "statuses": {status: n},
    "models": {model: n}, "prompts": {"name@version#hash": n}}}``; tokens, cost and seconds of cached calls are what the
    calls themselves say of them.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for call in calls:
        row = tasks.setdefault(
            call.task, {"calls": 0, **dict.fromkeys(_SUMS, 0), "statuses": {}, "models": {}, "prompts": {}}
        )
        row["calls"] += 1
        for name in _SUMS:
            row[name] += getattr(call, name)
        prompt = f"{call.prompt}#{call.prompt_hash}"
        for table, value in (("statuses", call.status), ("models", call.model), ("prompts", prompt)):
            row[table][value] = row[table].get(value, 0) + 1
    for row in tasks.values():
        row |= {"cost": round(row["cost"], 6), "seconds": round(row["seconds"], 3), "cached": int(row["cached"])}
    return dict(sorted(tasks.items()))
