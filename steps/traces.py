"""Agent calls as MLflow traces of the stage that made them: one trace for every ``CHUNK`` calls, a span for each.

Knows MLflow's tracing and the calls' records; sees no image, no prompt's text and no key. How long a call took is
measured; when it began is not recorded, so all spans of a trace begin with the stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Span, SpanType, TraceInfo, TraceLocation, TraceState
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import SpanAttributeKey, TraceMetadataKey, TraceTagKey
from tqdm import tqdm

from artiagent.records import AgentCall, stable_hash
from artiagent.vlm.calls import ANSWERED, account, read_calls

TRACED = "artiagent.traced"  # tag of a run whose calls are all there
CHUNK = 100  # a trace costs two transactions, whatever it holds; more than a page of spans nobody reads


def log_calls(client: MlflowClient, run_id: str, calls: Path) -> int:
    """Trace the calls of a stage under its MLflow run; returns how many, 0 where it was done before.

    Trace and span ids come from the run and the position of the calls: what a killed predecessor logged is logged over.

    Args:
        client: of tracking.
        run_id: MLflow run of the stage; its tags name the stage and the pipeline run.
        calls: ``calls.parquet``; nothing happens where there is none.
    """
    run = client.get_run(run_id)
    if not calls.is_file() or TRACED in run.data.tags:
        return 0
    tracing = TracingClient(client.tracking_uri)
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("artiagent.")}
    stage = tags.get("artiagent.stage", "calls")
    total = pq.read_metadata(calls).num_rows
    stream, count = read_calls(calls), 0
    with tqdm(desc=f"trace {stage}", total=total, unit="call", delay=2) as bar:
        while chunk := list(islice(stream, CHUNK)):
            name = f"{stage} {count + 1}-{count + len(chunk)}"
            trace = Trace(run_id, run.info.start_time, name, chunk)
            tracing.log_spans(run.info.experiment_id, list(trace.spans()))
            tracing.start_trace(trace.info(run.info.experiment_id, tags))
            count += len(chunk)
            bar.update(len(chunk))
    client.set_tag(run_id, TRACED, str(count))
    return count


class Trace:
    """A chunk of calls in MLflow's terms.

    Args:
        run_id: MLflow run of the stage.
        start: milliseconds since the epoch.
        name: unique within the run.
        calls: at least one.
    """

    def __init__(self, run_id: str, start: int, name: str, calls: Sequence[AgentCall]) -> None:
        self.run_id, self.start, self.name, self.calls = run_id, start, name, calls
        self.identity = f"tr-{stable_hash(run_id, name, length=32)}"
        self.seconds = max(call.seconds for call in calls)

    def info(self, experiment_id: str, tags: dict[str, str]) -> TraceInfo:
        """The trace itself, linked to the run."""
        failed = sum(call.status not in ANSWERED for call in self.calls)
        return TraceInfo(
            trace_id=self.identity,
            trace_location=TraceLocation.from_experiment_id(experiment_id),
            request_time=self.start,
            execution_duration=round(self.seconds * 1000),
            state=TraceState.OK,
            request_preview=", ".join(f"{task} {row['calls']}" for task, row in account(self.calls).items()),
            response_preview=f"{len(self.calls) - failed} answered, {failed} failed",
            trace_metadata={TraceMetadataKey.SOURCE_RUN: self.run_id},
            tags={**tags, TraceTagKey.TRACE_NAME: self.name},
        )

    def spans(self) -> Iterator[Span]:
        """The root, then one span for every call."""
        root = self._id("root")
        rows = account(self.calls).values()
        sums = {name: sum(row[name] for row in rows) for name in ("calls", "cached", "tokens_in", "tokens_out", "cost")}
        yield self._span(root, "", self.name, self.seconds, "OK", {SpanAttributeKey.SPAN_TYPE: SpanType.AGENT, **sums})
        for number, call in enumerate(self.calls):
            status = "OK" if call.status in ANSWERED else "ERROR"
            yield self._span(self._id(number), root, call.task, call.seconds, status, _attributes(call))

    def _id(self, of: int | str) -> str:
        return stable_hash(self.identity, of, length=16)

    def _span(
        self, identity: str, parent: str, name: str, seconds: float, status: str, attributes: dict[str, Any]
    ) -> Span:
        begin = self.start * 1_000_000
        attributes = {SpanAttributeKey.REQUEST_ID: self.identity, **attributes}
        return Span.from_dict({
            "trace_id": self.identity, "span_id": identity, "parent_span_id": parent, "name": name,
            "start_time_unix_nano": begin, "end_time_unix_nano": begin + round(seconds * 1e9),
            "status": {"code": status, "message": ""},
            "attributes": {key: json.dumps(value) for key, value in attributes.items()},
        })  # fmt: skip


def _attributes(call: AgentCall) -> dict[str, Any]:
    """The whole record, and what MLflow adds up under names of its own."""
    usage = {"input_tokens": call.tokens_in, "output_tokens": call.tokens_out}
    usage["total_tokens"] = call.tokens_in + call.tokens_out
    known = {
        SpanAttributeKey.SPAN_TYPE: SpanType.CHAT_MODEL, SpanAttributeKey.MODEL: call.model,
        SpanAttributeKey.CHAT_USAGE: usage,
        # Also when it is nothing: without it MLflow reckons with list prices of models that it knows.
        SpanAttributeKey.LLM_COST: {"input_cost": 0.0, "output_cost": 0.0, "total_cost": call.cost},
    }  # fmt: skip
    return {**known, **call.model_dump(mode="json")}
