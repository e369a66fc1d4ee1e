"""Stage "evaluate": a model's stamped predictions on benchmarks, and their scores beside trivial baselines.

Knows what a prediction is stamped with, how a killed run goes on, and what a report holds. Does not know who answers
(`runners`) or what is asked (`questions`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.baselines import BASELINES
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256, read_items, read_truth, tally
from artiagent.evaluation.bootstrap import difference, draw_weights, interval
from artiagent.evaluation.files import FILES
from artiagent.evaluation.found import REPORT
from artiagent.evaluation.questions import prompt_hash
from artiagent.evaluation.runners import Reply, group_of, load_runner, served_digest
from artiagent.evaluation.scoring import Score, scores_by_fault, scores_by_generator, scores_of
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, Interval, Prediction, stable_hash
from artiagent.shards import Shard
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows, write_atomic
from artiagent.vlm.calls import Ledger, keep_calls


class _Batch(NamedTuple):
    """Items of one benchmark that are asked and kept together."""

    key: str
    benchmark: BenchmarkSet
    index: int
    size: int


def predict(
    section: EvaluationSection,
    model: CheckpointRef,
    benchmarks: Sequence[BenchmarkSet],
    out: Path,
    name: str,
    shard: Shard | None = None,
) -> DatasetRef:
    """Answer every question of ``section.tasks`` on every item; rows Prediction, key = ``benchmark/item_id``.

    ``model`` is a folder, or a served model (`runners.served_ref`); of the calls to a server ``calls.parquet`` keeps
    account. Resumes batch by batch. With a ``shard`` its block of the batches is answered, and the part returned; a
    call without one joins the parts, or answers whatever is in none. Joining loads no model; no image is decoded but
    those that are shown.

    Raises ValueError when ``out`` holds predictions of another model, prompt or benchmark, and VlmUnavailable when a
    server does not answer any more.
    """
    stamp = _stamp(section, model, benchmarks)
    if (complete := open_dataset(out)) is not None:
        if complete.summary.get("stamp") != stamp:
            raise ValueError(
                f"{out}: holds other predictions (stamp {complete.summary.get('stamp')}, expected {stamp})"
            )
        return complete
    writer: DatasetWriter[Prediction] = DatasetWriter(out, "predictions", shard=shard)
    if foreign := next((batch for batch in writer if not batch.startswith(stamp)), None):
        raise ValueError(
            f"{out}: holds batches of other predictions ({foreign}, expected {stamp}-...); delete the folder"
        )
    batches = _listed(section, model, benchmarks, stamp)
    share = batches if shard is None else [batches[i] for i in shard.part(len(batches))]
    if due := [batch for batch in share if batch.key not in writer]:
        _predict_due(section, model.model_copy(update={"name": name}), due, writer)
    if shard is not None:
        return writer.seal()
    total = sum(batch.size for batch in batches)
    return writer.finish({"model": name, "stamp": stamp, "items": total, **keep_calls(writer)})


def _listed(
    section: EvaluationSection, model: CheckpointRef, benchmarks: Sequence[BenchmarkSet], stamp: str
) -> list[_Batch]:
    """All batches in the order in which the data set keeps them."""
    size = group_of(section, model)
    found = []
    for benchmark in benchmarks:
        total = sum(1 for _ in read_items(benchmark, section.limit))
        for index, start in enumerate(range(0, total, size)):
            key = f"{stamp}-{benchmark.name}-{index:06d}"
            found.append(_Batch(key, benchmark, index, min(size, total - start)))
    return sorted(found, key=lambda batch: batch.key)


def _predict_due(
    section: EvaluationSection, model: CheckpointRef, due: Sequence[_Batch], writer: DatasetWriter[Prediction]
) -> None:
    """Answer these batches; of a benchmark nothing is read behind the last one."""
    runner = load_runner(section, model)
    ledger = Ledger(runner.vlm)
    with tqdm(desc=f"evaluate {model.name}", unit="image", total=sum(batch.size for batch in due)) as progress:
        for benchmark in {batch.benchmark.name: batch.benchmark for batch in due}.values():
            keys = {batch.index: batch.key for batch in due if batch.benchmark == benchmark}
            shown = itertools.islice(_batches(benchmark, section.limit, runner.group), max(keys) + 1)
            for index, batch in enumerate(shown):
                if index not in keys:
                    continue
                rows, calls = [], []
                for (item, _), reply in zip(batch, runner.replies(benchmark.name, batch), strict=True):
                    answer = _prediction(section, benchmark.name, item, model, reply)
                    rows.append(Row(f"{answer.benchmark}/{answer.item_id}", answer))
                    calls += reply.calls
                    progress.update()
                writer.write(keys[index], rows, ledger.note(calls))


def score(
    section: EvaluationSection, benchmarks: Sequence[BenchmarkSet], predictions: Sequence[DatasetRef], out: Path
) -> EvaluationReport:
    """Score predictions of any number of models (the base first) and the trivial baselines; write ``evaluation.json``
    below ``out``.

    The report is the first benchmark's, the others' are its ``further``. Every figure carries a 95 % bootstrap interval
    over images; differences are resampled in pairs: later models against the first, and all against the baselines; a
    single model against these alone. Raises ValueError for predictions without a stamp, with another prompt than
    today's (those from files have none), or that do not cover the benchmarks.
    """
    first, *others = [_scored(section, benchmark, predictions) for benchmark in benchmarks]
    report = first.model_copy(update={"further": tuple(others)})
    write_atomic(out / REPORT, report.model_dump_json(indent=1).encode())
    return report


def _scored(section: EvaluationSection, benchmark: BenchmarkSet, predictions: Sequence[DatasetRef]) -> EvaluationReport:
    items = read_truth(benchmark, section.limit)
    answers = dict(_read(section, benchmark.name, items, ref) for ref in predictions)
    if len(answers) != len(predictions):
        raise ValueError(
            f"predictions of {len(predictions)} models share a name; expected distinct names, got {list(answers)}"
        )
    tasks = {name: _tasks(section, rows) for name, rows in answers.items()}
    weights = draw_weights(len(items), section.resamples, section.seed)
    tables = {name: scores_of(items, rows, tasks[name], section.sentence_encoder) for name, rows in answers.items()}
    trivial = {
        name: scores_of(items, [baseline(item) for item in items], (task,), section.sentence_encoder)
        for name, (task, baseline) in BASELINES.items()
        if any(task in answered for answered in tasks.values())
    }
    from_files = all(rows[0].prompt_hash == FILES for rows in answers.values())
    return EvaluationReport(
        benchmark=benchmark.name,
        benchmark_sha256=benchmark_sha256(benchmark),
        prompt_hash=FILES if from_files else prompt_hash(section),
        n=len(items),
        n_faulty=sum(item.faulty for item in items),
        scores={name: _intervals(table, weights) for name, table in {**tables, **trivial}.items()},
        differences=_differences(tables, trivial, weights),
        breakdown={
            f"{name}/{group}": _intervals(table, weights)
            for name, rows in answers.items()
            for scores_by in (scores_by_fault, scores_by_generator)
            for group, table in scores_by(items, rows, tasks[name]).items()
        },
        statuses={name: _statuses(rows) for name, rows in answers.items()},
        models={name: rows[0].model_sha256 for name, rows in answers.items()},
        summary={"resamples": section.resamples, "seed": section.seed, **tally(items)},
    )


def _batches(benchmark: BenchmarkSet, limit: int | None, size: int) -> Iterator[list[tuple[BenchmarkItem, bytes]]]:
    items = read_items(benchmark, limit)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _prediction(
    section: EvaluationSection, benchmark: str, item: BenchmarkItem, model: CheckpointRef, reply: Reply
) -> Prediction:
    return Prediction(
        benchmark=benchmark,
        item_id=item.item_id,
        model=model.name,
        model_sha256=model.sha256,
        prompt_hash=prompt_hash(section),
        verdict=reply.verdict,
        score=reply.score,
        boxes=reply.boxes,
        explanation=reply.explanation,
        status=reply.status,
    )


def _read(
    section: EvaluationSection, benchmark: str, items: Sequence[BenchmarkItem], ref: DatasetRef
) -> tuple[str, list[Prediction]]:
    """(name, predictions in the order of the items)."""
    rows = {row.record.item_id: row.record for row in read_rows(ref, Prediction) if row.record.benchmark == benchmark}
    asked = prompt_hash(section)
    for row in rows.values():
        if not row.model_sha256 or row.prompt_hash not in (asked, FILES):
            raise ValueError(
                f"{ref.uri}: prediction {row.item_id} is stamped model {row.model_sha256 or 'none'!r}, prompt "
                f"{row.prompt_hash or 'none'!r}; expected a model digest and prompt {asked!r}; predict again"
            )
    if missing := [item.item_id for item in items if item.item_id not in rows]:
        raise ValueError(f"{ref.uri}: no prediction for {len(missing)} of {len(items)} items (first: {missing[0]})")
    if len(kinds := {(row.model, row.model_sha256, row.prompt_hash) for row in rows.values()}) != 1:
        raise ValueError(f"{ref.uri}: predictions of {len(kinds)} models in one data set; expected one")
    return next(iter(rows.values())).model, [rows[item.item_id] for item in items]


def _tasks(section: EvaluationSection, rows: Sequence[Prediction]) -> tuple[str, ...]:
    """What a model is scored on: all tasks, of predictions from files those that the files answer."""
    if rows[0].prompt_hash != FILES:
        return section.tasks
    answered = {task for row in rows for task in row.status}
    return tuple(task for task in section.tasks if task in answered)


def _intervals(table: dict[str, Score], weights: np.ndarray) -> dict[str, Interval]:
    return {metric: interval(score.statistic, weights, score.n) for metric, score in table.items()}


def _differences(
    tables: dict[str, dict[str, Score]], trivial: dict[str, dict[str, Score]], weights: np.ndarray
) -> dict[str, dict[str, Interval]]:
    """Every later model against the first one and against the trivial baselines, on the metrics that both have; a
    single model against the baselines."""
    first, *later = tables
    return {
        f"{name} - {other}": {
            metric: difference(tables[name][metric].statistic, score.statistic, weights, score.n)
            for metric, score in table.items()
            if metric in tables[name]
        }
        for name in later or [first]
        for other, table in ({first: tables[first]} | trivial).items()
        if other != name
    }


def _statuses(rows: Sequence[Prediction]) -> dict[str, int]:
    return dict(sorted(Counter(f"{task}:{status}" for row in rows for task, status in row.status.items()).items()))


def _stamp(section: EvaluationSection, model: CheckpointRef, benchmarks: Sequence[BenchmarkSet]) -> str:
    asked = section.model_dump_json(
        include={"batch_size", "max_new_tokens", "max_box_tokens", "tasks", "dtype", "limit"}
    )
    revisions = [f"{b.name}={benchmark_sha256(b)}" for b in benchmarks]
    served = served_digest(section, model)
    return stable_hash(model.sha256, prompt_hash(section), *revisions, asked, *filter(None, [served]), length=16)
