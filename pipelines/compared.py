"""Runs side by side where a table of their own figures is not enough: scores compared image by image, and in MLflow.

Two intervals that overlap say little: the runs answered the same images, so the difference is resampled in pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.benchmarks import benchmark_sha256
from artiagent.evaluation.bootstrap import difference, draw_weights, interval
from artiagent.promotion.card import interval_text
from artiagent.promotion.measure import Measured, measure
from artiagent.records import DatasetRef, Interval, Record
from artiagent.store import MANIFEST, home, open_dataset
from pipelines.runs import RunRecord, load_config_tree, load_run

UI = "http://127.0.0.1:5000"  # of 'make ui'


class Paired(Record):
    """The fine-tuned models of several runs on one benchmark; ``differences`` are later runs minus the first."""

    benchmark: str
    n: int = 0
    scores: dict[str, dict[str, Interval]] = {}  # run -> metric -> interval
    differences: dict[str, dict[str, Interval]] = {}  # run -> metric -> interval
    note: str = ""  # why there is no comparison


def paired_scores(names: Sequence[str]) -> list[Paired]:
    """One entry for every benchmark of the first run; recomputed from the stored answers."""
    records = [load_run(name) for name in names]
    try:
        tree = load_config_tree(names[0])
        section = EvaluationSection.model_validate(tree["evaluation"])
        benchmarks = [BenchmarkSet.model_validate(b) for b in tree["inputs"]["benchmarks"]]
    except (KeyError, ValueError):
        return [Paired(benchmark="", note=f"{names[0]} was made by sources whose configuration cannot be read today")]
    return [_paired(section, benchmark, records) for benchmark in benchmarks]


def text(names: Sequence[str], topics: dict[str, dict[str, tuple[Any, ...]]], paired: Sequence[Paired]) -> str:
    """Both parts as a table for the terminal, one column a run."""
    lines = [f"{'':<36}{''.join(f'{name:<40}' for name in names)}"]
    for topic, rows in topics.items():
        lines.append(f"{topic}: {'equal' if not rows else ''}")
        lines += [f"  {key:<34}{''.join(f'{_short(value):<40}' for value in values)}" for key, values in rows.items()]
    for found in paired:
        lines.append(f"\nfine-tuned models on {found.benchmark or 'the benchmarks'}: {_paired_head(names, found)}")
        for run, table in found.differences.items():
            for metric, gap in table.items():
                told = "" if gap.low <= 0 <= gap.high else f"  higher in {run if gap.low > 0 else names[0]}"
                sides = "".join(f"{interval_text(found.scores[name][metric]):<24}" for name in (run, names[0]))
                lines.append(f"  {metric:<18}{sides}{interval_text(gap, '+'):<26}{told}")
    return "\n".join(lines)


def mlflow_link(names: Sequence[str]) -> str | None:
    """Address of MLflow's own comparison of the runs; None where fewer than two of them are tracked."""
    from steps.tracking import connect, experiment, find_run, tracking_uri

    client = connect()
    found = {}
    for name in names:
        place = experiment(client, load_run(name).profile)
        if (run := find_run(client, place, name, "pipeline")) is not None:
            found[run] = place
    if len(found) < 2:
        return None
    base = tracking_uri().rstrip("/") if tracking_uri().startswith("http") else UI
    runs, places = (quote(json.dumps(list(values), separators=(",", ":"))) for values in (found, set(found.values())))
    return f"{base}/#/compare-runs?runs={runs}&experiments={places}"


def _paired(section: EvaluationSection, benchmark: BenchmarkSet, records: Sequence[RunRecord]) -> Paired:
    """The comparison, or the reason why there is none."""
    try:
        sides = [_measured(section, benchmark, record) for record in records]
        for one, other in pairwise(sides):
            if one.prompts != other.prompts:
                raise ValueError(f"{one.label} and {other.label} were asked with different prompts")
    except (ValueError, OSError) as error:
        return Paired(benchmark=benchmark.name, note=str(error))
    first, *later = sides
    weights = draw_weights(len(first.units), section.resamples, section.seed)
    return Paired(
        benchmark=benchmark.name,
        n=len(first.units),
        scores={s.label: {m: interval(x.statistic, weights, x.n) for m, x in s.statistics.items()} for s in sides},
        differences={
            side.label: {
                metric: difference(score.statistic, first.statistics[metric].statistic, weights, score.n)
                for metric, score in side.statistics.items()
                if metric in first.statistics
            }
            for side in later
        },
    )


def _measured(section: EvaluationSection, benchmark: BenchmarkSet, record: RunRecord) -> Measured:
    revision, then = benchmark_sha256(benchmark), record.inputs.get(f"benchmark:{benchmark.name}")
    if then != revision:
        was = then[:12] if then else "not there"
        raise ValueError(f"benchmark {benchmark.name!r} was {was} in {record.name}, its files are {revision[:12]} now")
    stages = record.stages
    if "evaluate_tuned" not in stages or (answers := _answers(stages["evaluate_tuned"].digest)) is None:
        raise ValueError(f"the answers of {record.name} are not in {home() / 'store'} any more; run it again")
    return measure(section, benchmark, answers, stages["finetune"].digest, record.name)


def _answers(digest: str) -> DatasetRef | None:
    """The stored predictions with this digest."""
    for manifest in (home() / "store" / "predictions-tuned").glob(f"*/{MANIFEST}"):
        if json.loads(manifest.read_text())["ref"]["digest"] == digest:
            return open_dataset(manifest.parent)
    return None


def _paired_head(names: Sequence[str], found: Paired) -> str:
    if found.note:
        return f"not compared: {found.note}"
    others = ", ".join(names[1:])
    return f"{found.n} images; {others}, {names[0]}, and their difference, resampled in pairs"


def _short(value: Any) -> str:
    told = "-" if value is None else str(value)
    return told if len(told) <= 38 else f"{told[:35]}..."
