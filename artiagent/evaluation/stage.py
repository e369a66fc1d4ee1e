"""Stage "evaluate": a model's stamped predictions on a benchmark, and their scores beside trivial baselines.

Questions are the canonical wordings, each asked on its own; decoding is greedy. Boxes are asked for on every image
(clean ones give the false-alarm area), explanations on faulty ones only.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.baselines import BASELINES
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256, read_items, read_truth
from artiagent.evaluation.bootstrap import difference, draw_weights, interval
from artiagent.evaluation.parsing import parse_boxes, parse_explanation, parse_verdict
from artiagent.evaluation.scoring import Score, scores_by_fault, scores_of
from artiagent.images import decode
from artiagent.instruction import prompts
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, Interval, Prediction, stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows, write_atomic
from artiagent.vlm.local import LocalVlm

QUESTIONS = {
    "detection": prompts.BINARY,
    "localization": prompts.LOCATE_ARTIFACTS,
    "explanation": prompts.DESCRIBE_ARTIFACTS,
}
REPORT = "evaluation.json"


def predict(
    section: EvaluationSection, model: CheckpointRef, benchmarks: Sequence[BenchmarkSet], out: Path, name: str
) -> DatasetRef:
    """Answer every question of ``section.tasks`` on every item; rows Prediction, key = ``benchmark/item_id``.

    Resumes batch by batch. Raises ValueError when ``out`` holds predictions of another model, prompt or benchmark.
    """
    stamp = _stamp(section, model, benchmarks)
    if (complete := open_dataset(out)) is not None:
        if complete.summary.get("stamp") != stamp:
            raise ValueError(
                f"{out}: holds other predictions (stamp {complete.summary.get('stamp')}, expected {stamp})"
            )
        return complete
    writer: DatasetWriter[Prediction] = DatasetWriter(out, "predictions")
    if foreign := sorted(batch for batch in writer.done if not batch.startswith(stamp)):
        raise ValueError(
            f"{out}: holds batches of other predictions ({foreign[0]}, expected {stamp}-...); delete the folder"
        )
    named = model.model_copy(update={"name": name})
    total = sum(1 for benchmark in benchmarks for _ in read_items(benchmark, section.limit))
    vlm = LocalVlm(model.uri, section.device, section.dtype, section.threads, section.batch_size)
    with tqdm(desc=f"evaluate {name}", unit="image", total=total) as progress:
        for benchmark in benchmarks:
            items = read_items(benchmark, section.limit)
            for index in itertools.count():
                if not (batch := list(itertools.islice(items, section.batch_size))):
                    break
                if (key := f"{stamp}-{benchmark.name}-{index:06d}") not in writer.done:
                    answers = _answer(section, vlm, benchmark.name, batch, named)
                    writer.write(key, [Row(f"{answer.benchmark}/{answer.item_id}", answer) for answer in answers])
                progress.update(len(batch))
    return writer.finish({"model": name, "stamp": stamp, "items": total})


def score(
    section: EvaluationSection, benchmarks: Sequence[BenchmarkSet], predictions: Sequence[DatasetRef], out: Path
) -> EvaluationReport:
    """Score predictions (base first, then tuned) and the trivial baselines; write ``evaluation.json`` below ``out``.

    The report is the first benchmark's, the others' are its ``further``. Every figure carries a 95 % bootstrap interval
    over images; differences are resampled in pairs. Raises ValueError for predictions without a stamp, with another
    prompt than today's, or that do not cover the benchmarks.
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
    weights = draw_weights(len(items), section.resamples, section.seed)
    tables = {name: scores_of(items, rows, section.tasks, section.sentence_encoder) for name, rows in answers.items()}
    trivial = {
        name: scores_of(items, [baseline(item) for item in items], (task,), section.sentence_encoder)
        for name, (task, baseline) in BASELINES.items()
        if task in section.tasks
    }
    return EvaluationReport(
        benchmark=benchmark.name,
        benchmark_sha256=benchmark_sha256(benchmark),
        prompt_hash=_prompt_hash(section),
        n=len(items),
        n_faulty=sum(item.faulty for item in items),
        scores={name: _intervals(table, weights) for name, table in {**tables, **trivial}.items()},
        differences=_differences(tables, trivial, weights),
        breakdown=_breakdown(section, items, answers, weights),
        statuses={name: _statuses(rows) for name, rows in answers.items()},
        models={name: rows[0].model_sha256 for name, rows in answers.items()},
        summary={"resamples": section.resamples, "seed": section.seed},
    )


def _answer(
    section: EvaluationSection,
    vlm: LocalVlm,
    benchmark: str,
    batch: list[tuple[BenchmarkItem, bytes]],
    model: CheckpointRef,
) -> list[Prediction]:
    images = [decode(data) for _, data in batch]
    scores: list[float | None] = [None] * len(batch)
    boxes, texts = [""] * len(batch), [""] * len(batch)
    if "detection" in section.tasks:
        asked = vlm.yes_no(images, [prompts.render(prompts.BINARY)] * len(batch))
        scores = [None if np.isnan(value) else float(value) for value in asked]
    if "localization" in section.tasks:
        boxes = vlm.generate(images, [prompts.render(prompts.LOCATE_ARTIFACTS)] * len(batch), section.max_box_tokens)
    faulty = [i for i, (item, _) in enumerate(batch) if item.faulty]
    if "explanation" in section.tasks and faulty:
        question = [prompts.render(prompts.DESCRIBE_ARTIFACTS)] * len(faulty)
        told = vlm.generate([images[i] for i in faulty], question, section.max_new_tokens)
        texts = [told[faulty.index(i)] if i in faulty else "" for i in range(len(batch))]
    return [
        _prediction(section, benchmark, item, vlm, model, (scores[i], boxes[i], texts[i]))
        for i, (item, _) in enumerate(batch)
    ]


def _prediction(
    section: EvaluationSection,
    benchmark: str,
    item: BenchmarkItem,
    vlm: LocalVlm,
    model: CheckpointRef,
    answers: tuple[float | None, str, str],
) -> Prediction:
    """Parse (P(Yes), boxes, explanation) as the model gave them."""
    probability, located, told = answers
    status: dict[str, str] = {}
    verdict, boxes, explanation = None, (), ""
    if "detection" in section.tasks:
        verdict, status["detection"] = parse_verdict(probability)
    if "localization" in section.tasks:
        boxes, status["localization"] = parse_boxes(located, vlm.space(item.width, item.height))
    if "explanation" in section.tasks and item.faulty:
        explanation, status["explanation"] = parse_explanation(told)
    return Prediction(
        benchmark=benchmark,
        item_id=item.item_id,
        model=model.name,
        model_sha256=model.sha256,
        prompt_hash=_prompt_hash(section),
        verdict=verdict,
        score=probability,
        boxes=boxes,
        explanation=explanation,
        status=status,
    )


def _read(
    section: EvaluationSection, benchmark: str, items: Sequence[BenchmarkItem], ref: DatasetRef
) -> tuple[str, list[Prediction]]:
    """(name, predictions in the order of the items)."""
    rows = {row.record.item_id: row.record for row in read_rows(ref, Prediction) if row.record.benchmark == benchmark}
    for row in rows.values():
        if not row.model_sha256 or row.prompt_hash != _prompt_hash(section):
            raise ValueError(
                f"{ref.uri}: prediction {row.item_id} is stamped model {row.model_sha256 or 'none'!r}, prompt "
                f"{row.prompt_hash or 'none'!r}; expected a model digest and prompt {_prompt_hash(section)!r}; "
                "predict again"
            )
    if missing := [item.item_id for item in items if item.item_id not in rows]:
        raise ValueError(f"{ref.uri}: no prediction for {len(missing)} of {len(items)} items (first: {missing[0]})")
    if len(kinds := {(row.model, row.model_sha256) for row in rows.values()}) != 1:
        raise ValueError(f"{ref.uri}: predictions of {len(kinds)} models in one data set; expected one")
    return next(iter(rows.values())).model, [rows[item.item_id] for item in items]


def _intervals(table: dict[str, Score], weights: np.ndarray) -> dict[str, Interval]:
    return {metric: interval(score.statistic, weights, score.n) for metric, score in table.items()}


def _differences(
    tables: dict[str, dict[str, Score]], trivial: dict[str, dict[str, Score]], weights: np.ndarray
) -> dict[str, dict[str, Interval]]:
    """Every later model against the first one and against the trivial baselines, on the metrics that both have."""
    first, *later = tables
    return {
        f"{name} - {other}": {
            metric: difference(tables[name][metric].statistic, score.statistic, weights, score.n)
            for metric, score in table.items()
            if metric in tables[name]
        }
        for name in later
        for other, table in ((first, tables[first]), *trivial.items())
    }


def _breakdown(
    section: EvaluationSection,
    items: Sequence[BenchmarkItem],
    answers: dict[str, list[Prediction]],
    weights: np.ndarray,
) -> dict[str, dict[str, Interval]]:
    return {
        f"{name}/{fault}": _intervals(table, weights)
        for name, rows in answers.items()
        for fault, table in scores_by_fault(items, rows, section.tasks).items()
    }


def _statuses(rows: Sequence[Prediction]) -> dict[str, int]:
    return dict(sorted(Counter(f"{task}:{status}" for row in rows for task, status in row.status.items()).items()))


def _prompt_hash(section: EvaluationSection) -> str:
    return prompts.prompt_hash(*(QUESTIONS[task] for task in section.tasks))


def _stamp(section: EvaluationSection, model: CheckpointRef, benchmarks: Sequence[BenchmarkSet]) -> str:
    asked = section.model_dump_json(
        include={"batch_size", "max_new_tokens", "max_box_tokens", "tasks", "dtype", "limit"}
    )
    revisions = [f"{b.name}={benchmark_sha256(b)}" for b in benchmarks]
    return stable_hash(model.sha256, _prompt_hash(section), *revisions, asked, length=16)
