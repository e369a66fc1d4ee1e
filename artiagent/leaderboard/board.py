"""Sources of scores -> tables in which every row may be compared with every other.

Rows share a table when they are about the same benchmark, the same revision of its files, the same number of its images
and the same questions; else they stand in a table of their own that says what differs. Trivial baselines stand once.
Differences are paired: both models' statistics on the same resampled images, recomputed from their predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from artiagent.config import EvaluationSection
from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.evaluation.bootstrap import difference, draw_weights
from artiagent.evaluation.files import FILES
from artiagent.evaluation.scoring import Score, scores_of
from artiagent.leaderboard.collect import Source, Truths, read_predictions
from artiagent.leaderboard.quoted import QuotedRow, paper_table
from artiagent.records import EvaluationReport, Interval, Prediction, Record

METRICS = (
    "accuracy", "macro_f1", "auroc", "recall_at_10", "iou", "pixel_f1", "box_f1", "false_alarm_area", "rouge_l",
    "grounded_recall", "css",
)  # fmt: skip
LOWER_IS_BETTER = ("false_alarm_area",)
PRIMARY = ("macro_f1", "iou", "rouge_l")  # a table is sorted by the first of these that it has
COMPARED = ("macro_f1", "auroc", "iou", "pixel_f1", "rouge_l", "grounded_recall")  # in pairs
SAME = 1e-9  # below it two values are one measurement

Scores = dict[str, Interval]


class Standing(Record):
    """A model's row. ``slices`` is by fault type, and ``generator:NAME``; ``to_best`` and ``to_base`` are this model
    minus the other, empty where the predictions of both are not at hand (``to_base`` then as its report has it).
    """

    model: str
    sha256: str
    origins: tuple[str, ...]
    scores: Scores
    slices: dict[str, Scores] = {}
    statuses: dict[str, int] = {}
    base: str = ""  # name of the model that it was made from
    to_best: Scores = {}
    to_base: Scores = {}
    predictions: Path | None = Field(default=None, exclude=True)  # folder, where they lie here


class Table(Record):
    """Rows that may be compared, best first."""

    benchmark: str
    benchmark_sha256: str
    prompt_hash: str
    n: int
    n_faulty: int
    sort: str  # metric
    models: tuple[Standing, ...]
    trivial: dict[str, Scores]
    published: str = ""  # name of this benchmark in the paper, "" when it is none of its
    apart: str = ""  # why this table is not one with another of the same benchmark
    quoted: tuple[QuotedRow, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that any row has, in the order of ``METRICS``."""
        rows = [row.scores for row in self.models] + list(self.trivial.values())
        return tuple(metric for metric in METRICS if any(metric in scores for scores in rows))

    @property
    def key(self) -> str:
        """Unique on the board; fit for a file name or an anchor."""
        return f"{self.benchmark.replace('/', '-')}-{self.benchmark_sha256[:8]}-{self.prompt_hash[:8]}-{self.n}"


class Board(Record):
    """Everything, with what had to be left out."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()


class _Key(NamedTuple):
    """What rows of one table share."""

    benchmark: str
    sha256: str
    prompt_hash: str
    n: int


@dataclass
class _Draft:
    """A model's row in the making. ``differences`` are to the base, as the model's own report has them."""

    name: str
    sha256: str
    scores: Scores
    slices: dict[str, Scores]
    statuses: dict[str, int]
    origins: list[str]
    predictions: Path | None
    base_sha256: str
    differences: Scores

    @classmethod
    def of(cls, source: Source, report: EvaluationReport, key: str) -> _Draft:
        prefix, based = f"{key}/", bool(source.base) and key != source.base
        return cls(
            name=source.names.get(key, key),
            sha256=report.models[key],
            scores=report.scores[key],
            slices={k.removeprefix(prefix): v for k, v in report.breakdown.items() if k.startswith(prefix)},
            statuses=report.statuses.get(key, {}),
            origins=[source.origin],
            predictions=source.predictions.get(key),
            base_sha256=report.models[source.base] if based else "",
            differences=report.differences.get(f"{key} - {source.base}", {}) if based else {},
        )

    def same(self, other: _Draft) -> bool:
        """Whether both are one measurement of one model."""
        if self.sha256 != other.sha256 or set(self.scores) != set(other.scores):
            return False
        return all(abs(found.value - other.scores[m].value) < SAME for m, found in self.scores.items())

    def absorb(self, other: _Draft) -> None:
        """Take over what the same measurement, found elsewhere, knows more."""
        self.origins += [origin for origin in other.origins if origin not in self.origins]
        self.predictions = self.predictions or other.predictions
        self.base_sha256, self.differences = (
            self.base_sha256 or other.base_sha256,
            self.differences or other.differences,
        )


@dataclass
class _Group:
    """A table in the making."""

    drafts: list[_Draft] = field(default_factory=list)
    trivial: dict[str, Scores] = field(default_factory=dict)
    n_faulty: int = 0

    def add(self, source: Source, report: EvaluationReport) -> None:
        self.n_faulty = report.n_faulty
        for name, scores in report.scores.items():
            if name not in report.models:
                self.trivial[name] = {**scores, **self.trivial.get(name, {})}
                continue
            draft = _Draft.of(source, report, name)
            if (known := next((d for d in self.drafts if d.same(draft)), None)) is not None:
                known.absorb(draft)
            else:
                self.drafts.append(draft)


def assemble(
    sources: Sequence[Source],
    truths: Truths,
    section: EvaluationSection,
    benchmark: str | None = None,
    sort: str | None = None,
    notes: Iterable[str] = (),
) -> Board:
    """Tables of all sources, the benchmark with the most models first.

    Args:
        sources: see ``collect``.
        truths: where ground truth of a revision is found for paired differences.
        section: resamples and seed of the paired bootstrap, and the tasks.
        benchmark: only this one's tables.
        sort: metric to sort by; a table that lacks it is sorted by the first of ``PRIMARY``.
    """
    groups: dict[_Key, _Group] = {}
    for source in sources:
        for report in source.reports():
            key = _Key(report.benchmark, report.benchmark_sha256, report.prompt_hash, report.n)
            groups.setdefault(key, _Group()).add(source, report)
    names = sorted({key.benchmark for key in groups})
    if benchmark is not None and benchmark not in names:
        raise ValueError(
            f"--benchmark {benchmark!r}: no scores on it here; there are some on {', '.join(names) or 'none'}. "
            "'artiagent evaluate --benchmark' makes them"
        )
    chosen = {key: group for key, group in groups.items() if benchmark in (None, key.benchmark)}
    ordered = _ordered(chosen)
    tables = [_table(key, chosen[key], _apart(key, ordered), truths, section, sort) for key in ordered]
    return Board(tables=tuple(tables), notes=tuple(notes))


def _ordered(groups: dict[_Key, _Group]) -> list[_Key]:
    """The table with the most models first, those of its benchmark behind it; newest first among equals."""
    by_size = sorted(groups, key=lambda key: -len(groups[key].drafts))
    benchmarks = list(dict.fromkeys(key.benchmark for key in by_size))
    return sorted(by_size, key=lambda key: benchmarks.index(key.benchmark))


def _apart(key: _Key, keys: Sequence[_Key]) -> str:
    """What sets this table apart from the first one of its benchmark."""
    first = next(other for other in keys if other.benchmark == key.benchmark)
    if first == key:
        return ""
    reasons = []
    if key.sha256 != first.sha256:
        reasons.append(f"another revision of the benchmark ({key.sha256[:12]}, not {first.sha256[:12]})")
    if FILES in (key.prompt_hash, first.prompt_hash) and key.prompt_hash != first.prompt_hash:
        reasons.append("answers from files here or there, to no question that is known")
    elif key.prompt_hash != first.prompt_hash:
        reasons.append(f"other questions (prompts {key.prompt_hash[:12]}, not {first.prompt_hash[:12]})")
    if key.n != first.n:
        reasons.append(f"{key.n} images, not {first.n}")
    return f"Not ranked with the first table of {key.benchmark}: {'; '.join(reasons)}."


def _table(key: _Key, group: _Group, apart: str, truths: Truths, section: EvaluationSection, sort: str | None) -> Table:
    measured = [draft.scores for draft in group.drafts]
    metric = next((m for m in (sort, *PRIMARY) if m and any(m in scores for scores in measured)), PRIMARY[0])
    drafts = sorted(group.drafts, key=lambda draft: _rank(draft.scores, metric))
    published = _published(key, group, truths)
    return Table(
        benchmark=key.benchmark,
        benchmark_sha256=key.sha256,
        prompt_hash=key.prompt_hash,
        n=key.n,
        n_faulty=group.n_faulty,
        sort=metric,
        models=_standings(drafts, _statistics(key, drafts, truths, section), key.n, section),
        trivial=group.trivial,
        published=published,
        apart=apart,
        quoted=paper_table().about(published) if published else (),
    )


def _standings(
    drafts: Sequence[_Draft], statistics: Sequence[dict[str, Score]], n: int, section: EvaluationSection
) -> tuple[Standing, ...]:
    """Rows of sorted drafts; ``statistics`` beside them."""
    weights = draw_weights(n, section.resamples, section.seed) if any(statistics) else np.ones((1, n))
    names, digests = _distinct(drafts), [draft.sha256 for draft in drafts]
    rows = []
    for draft, own, name in zip(drafts, statistics, names, strict=True):
        base = digests.index(draft.base_sha256) if draft.base_sha256 in digests else None
        to_base = _paired(own, statistics[base], weights) if base is not None else {}
        rows.append(
            Standing(
                model=name,
                sha256=draft.sha256,
                origins=tuple(draft.origins),
                scores=draft.scores,
                slices=draft.slices,
                statuses=draft.statuses,
                base=names[base] if base is not None else "",
                to_best={} if draft is drafts[0] else _paired(own, statistics[0], weights),
                to_base=to_base or draft.differences,
                predictions=draft.predictions,
            )
        )
    return tuple(rows)


def _rank(scores: Scores, metric: str) -> tuple[bool, float]:
    """Sort key: best first, rows without the metric last."""
    if (found := scores.get(metric)) is None:
        return (True, 0.0)
    return (False, found.value if metric in LOWER_IS_BETTER else -found.value)


def _distinct(drafts: Sequence[_Draft]) -> list[str]:
    """Names to show; a name of several rows gets the digest of its weights, then where it was measured."""
    names = [draft.name for draft in drafts]
    for told in (lambda draft: draft.sha256[:8], lambda draft: draft.origins[0]):
        doubled = {name for name in names if names.count(name) > 1}
        names = [
            f"{name} ({told(draft)})" if name in doubled else name for name, draft in zip(names, drafts, strict=True)
        ]
    return names


def _published(key: _Key, group: _Group, truths: Truths) -> str:
    if (benchmark := truths.find(key.sha256)) is None:
        return ""
    slices = {name for draft in group.drafts for name in draft.slices}
    names_faults = any(not name.startswith("generator:") for name in slices)
    return paper_table().published_as(benchmark.layout, key.n, group.n_faulty, names_faults)


def _statistics(
    key: _Key, drafts: Sequence[_Draft], truths: Truths, section: EvaluationSection
) -> list[dict[str, Score]]:
    """Per row its statistics, {} where predictions or ground truth are not at hand. All empty for a lone row."""
    if len(drafts) < 2 or not any(draft.predictions for draft in drafts):
        return [{} for _ in drafts]
    items = truths.items(key.sha256, key.n)
    if items is None or len(items) != key.n:
        return [{} for _ in drafts]
    answers = [_answers(key, draft, items) for draft in drafts]
    return [scores_of(items, found, section.tasks) if found else {} for found in answers]


def _answers(key: _Key, draft: _Draft, items: Sequence[BenchmarkItem]) -> list[Prediction] | None:
    if draft.predictions is None:
        return None
    return read_predictions(draft.predictions, key.benchmark, items, draft.sha256, key.prompt_hash)


def _paired(own: dict[str, Score], other: dict[str, Score], weights: np.ndarray) -> Scores:
    """``own - other`` on the metrics of ``COMPARED`` that both have."""
    return {
        metric: difference(own[metric].statistic, other[metric].statistic, weights, own[metric].n)
        for metric in COMPARED
        if metric in own and metric in other
    }
