"""The figures of an ablation, every one with an interval and, against the reference row, a paired difference.

Knows what is counted per source (yield, cost, change) and per benchmark image (detection). Does not know where tables
go. Rows see the same sources and the same images, so one set of bootstrap weights serves all of them: differences are
resampled in pairs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artiagent.ablation.reconstruct import SECONDS, Reconstruction
from artiagent.ablation.rows import AblationRow, AblationSection
from artiagent.ablation.table import AblationTable, Figures, ReconstructionResult, RowResult
from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.curation.funnel import AUDIT
from artiagent.evaluation.benchmarks import BenchmarkItem, read_truth
from artiagent.evaluation.bootstrap import Statistic, difference, draw_weights, interval
from artiagent.evaluation.metrics import mean_of, ratio_of
from artiagent.evaluation.scoring import scores_of
from artiagent.records import ARTIFACT_TOOLS, DatasetRef, Interval, Job, Pair, Prediction, stable_hash
from artiagent.store import read_rows

PROBES = ("ring", "background", "surroundings")


@dataclass(frozen=True)
class RowData:
    """What a row made; the last two only where it ends with a detection score."""

    row: AblationRow
    jobs: DatasetRef
    pairs: DatasetRef
    curated: DatasetRef
    conversations: DatasetRef | None = None
    predictions: DatasetRef | None = None


@dataclass(frozen=True)
class Measured:
    """Statistics of a row over units of one kind, with the resamples of these units that all rows share."""

    statistics: dict[str, Statistic]
    weights: np.ndarray

    def figures(self) -> Figures:
        return {metric: interval(statistic, self.weights) for metric, statistic in self.statistics.items()}

    def minus(self, other: Measured) -> Figures:
        """Paired differences, of the metrics that both have."""
        return {
            metric: difference(statistic, other.statistics[metric], self.weights)
            for metric, statistic in self.statistics.items()
            if metric in other.statistics
        }


def tabulate(
    name: str,
    section: AblationSection,
    rows: Sequence[RowData],
    base: DatasetRef | None,
    benchmark: BenchmarkSet,
    asked: EvaluationSection,
    reconstructions: DatasetRef,
    provenance: Mapping[str, str],
) -> AblationTable:
    """Measure everything.

    Args:
        name: of the run.
        section: reference and number of resamples.
        rows: what every row of the section made, in its order.
        base: predictions of the model before fine-tuning; None where no row is detected.
        benchmark: what all predictions are about.
        asked: the evaluation that made them.
        reconstructions: of ``reconstruct``.
        provenance: goes into the table as it is.
    """
    counted = {data.row.name: count_pairs(data) for data in rows}
    sources = sorted({source for found in counted.values() for source in found.planned})
    if not sources:
        raise ValueError("no row has a planned pair in a scored group; give more sources")
    by_source = draw_weights(len(sources), section.resamples, asked.seed)
    kinds = [{row: Measured(found.statistics(sources), by_source) for row, found in counted.items()}]
    items, before = [], {}
    if base is not None:
        items = read_truth(benchmark, asked.limit)
        by_image = draw_weights(len(items), section.resamples, asked.seed)
        kinds.append(
            {
                d.row.name: Measured(detection(benchmark.name, items, d.predictions), by_image)
                for d in rows
                if d.predictions
            }
        )
        before = Measured(detection(benchmark.name, items, base), by_image).figures()
    return AblationTable(
        name=name, reference=section.reference, sources=len(sources), images=len(items), base=before,
        rows=tuple(_result(data, counted, kinds, section.reference) for data in rows),
        reconstruction=tuple(measure_reconstructions(reconstructions, section.resamples)), provenance=dict(provenance),
    )  # fmt: skip


def _result(
    data: RowData, counted: Mapping[str, PairCounts], kinds: Sequence[Mapping[str, Measured]], reference: str
) -> RowResult:
    name = data.row.name
    counts, compared = counted[name], counted[reference].plans
    verdict, figures = audit_of(data.curated)
    differences: Figures = {}
    for measured in kinds:
        if name in measured:
            figures |= measured[name].figures()
        if name in measured and reference in measured and name != reference:
            differences |= measured[name].minus(measured[reference])
    seconds = data.pairs.summary.get("seconds")
    return RowResult(
        **data.row.model_dump(include={"name", "group", "set", "note"}),
        planned=int(sum(counts.planned.values())),
        accepted=int(sum(counts.accepted.values())),
        replanned=sum(compared.get(job) != plan for job, plan in counts.plans.items()),
        trained_on=int(data.conversations.summary["train"]) // 2 if data.conversations is not None else None,
        seconds=None if seconds is None else float(seconds),
        audit=verdict,
        figures=figures,
        differences=differences,
    )


@dataclass(frozen=True)
class PairCounts:
    """Sums over the scored pairs of each source."""

    plans: Mapping[tuple[str, int], str]  # (source, variant) -> digest of the injections
    planned: Mapping[str, float]
    accepted: Mapping[str, float]
    tried: Mapping[tuple[str, str], float]  # (tool, source) -> artifacts
    kept: Mapping[tuple[str, str], float]
    sums: Mapping[tuple[str, str], float]  # (figure, source)

    def statistics(self, sources: Sequence[str]) -> dict[str, Statistic]:
        """Metric -> statistic of the weights of ``sources``; a metric that is not defined is left out."""
        artifacts = {source: sum(self.tried.get((tool, source), 0) for tool in ARTIFACT_TOOLS) for source in sources}
        ratios = {
            "accepted": (self.accepted, self.planned),
            **{f"accepted_{tool}": (_of(self.kept, tool), _of(self.tried, tool)) for tool in ARTIFACT_TOOLS},
            "row_evaluations": (_of(self.sums, "row_evaluations"), self.accepted),
            "change_inside": (_of(self.sums, "change_inside"), artifacts),
            "overlap": (_of(self.sums, "overlap"), artifacts),
        }
        columns = {
            metric: [np.array([column.get(source, 0.0) for source in sources]) for column in pair]
            for metric, pair in ratios.items()
        }
        return {metric: ratio_of(top, bottom) for metric, (top, bottom) in columns.items() if bottom.any()}


def count_pairs(data: RowData) -> PairCounts:
    """One pass over plan and curated pairs. Changes count for every artifact tried, not only for those accepted."""
    plans: dict[tuple[str, int], str] = {}
    planned, accepted, tried, kept, sums = (defaultdict(float) for _ in range(5))
    for row in read_rows(data.jobs, Job, ()):
        job = row.record
        if job.scored and not job.benign:
            planned[job.source_id] += 1
            plans[job.source_id, job.variant] = stable_hash(*(i.mapping.model_dump_json() for i in job.injections))
    for row in read_rows(data.curated, Pair, ()):
        pair = row.record
        if not pair.scored:
            continue
        sums["row_evaluations", pair.source_id] += float(pair.sampling["row_evaluations"])
        if pair.benign:
            continue
        accepted[pair.source_id] += pair.accepted
        for artifact in pair.artifacts:
            tried[artifact.injection.tool, pair.source_id] += 1
            kept[artifact.injection.tool, pair.source_id] += bool(artifact.accepted)
            sums["change_inside", pair.source_id] += artifact.change_inside
            sums["overlap", pair.source_id] += artifact.overlap
    return PairCounts(plans, planned, accepted, tried, kept, sums)


def audit_of(curated: DatasetRef) -> tuple[str, Figures]:
    """Verdict of the shortcut audit and the AUROC of its probes (``audit_ring`` ...) and of its edges."""
    audit = json.loads((Path(curated.uri) / AUDIT).read_text())
    probes = {name: audit["probes"][name] for name in PROBES if name in audit["probes"]}
    probes |= {f"edge_{name}": probe for name, probe in audit.get("edges", {}).items()}
    return audit["verdict"], {
        f"audit_{name}": Interval(value=p["auroc"], low=p["low"], high=p["high"], n=p["n"])
        for name, p in probes.items()
        if p["auroc"] is not None
    }


def detection(benchmark: str, items: Sequence[BenchmarkItem], predictions: DatasetRef) -> dict[str, Statistic]:
    """Statistics of the answers over the benchmark's images, in its order."""
    found = (row.record for row in read_rows(predictions, Prediction))
    answers = {answer.item_id: answer for answer in found if answer.benchmark == benchmark}
    scores = scores_of(items, [answers[item.item_id] for item in items], ("detection",))
    return {metric: score.statistic for metric, score in scores.items()}


def measure_reconstructions(ref: DatasetRef, resamples: int, seed: int = 0) -> list[ReconstructionResult]:
    """Means over sources, in the order in which they were made: the autoencoder first, then solver by solver."""
    found: dict[str, list[Reconstruction]] = defaultdict(list)
    for row in read_rows(ref, Reconstruction):
        found[row.record.setting].append(row.record)
    seconds = json.loads((Path(ref.uri) / SECONDS).read_text())
    results = []
    for setting, rows in found.items():
        weights = draw_weights(len(rows), resamples, seed)
        columns = {"psnr": [row.psnr for row in rows], "distance": [row.distance for row in rows]}
        if rows[0].steps:
            columns["seconds"] = [seconds[row.source_id][setting] for row in rows]
        figures = {name: interval(mean_of(np.array(values)), weights) for name, values in columns.items()}
        shared = rows[0].model_dump(include={"solver", "steps", "values", "row_evaluations"})
        results.append(ReconstructionResult(**shared, figures=figures))
    return results


def _of(table: Mapping[tuple[str, str], float], name: str) -> dict[str, float]:
    return {source: value for (key, source), value in table.items() if key == name}
