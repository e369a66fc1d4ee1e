"""Rows of an audit -> rates with intervals, per generator and between two of them.

Prompts are resampled, not images: pictures of one prompt are alike. An image without a prompt is a unit of its own. The
VLM is a detector that errs, so the share that it flags is not the prevalence. With its sensitivity and specificity on a
benchmark the prevalence is estimated as (rate + specificity - 1) / (sensitivity + specificity - 1), kept within 0 to 1
(Rogan and Gladen, 1978), and its interval resamples prompts and benchmark images independently, so that it carries both
uncertainties. It assumes that the detector errs on the generator's images as it does on the benchmark's; where the rate
itself refutes that, nothing is corrected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from artiagent.config import AuditSection
from artiagent.evaluation.bootstrap import Statistic, draw_weights, interval
from artiagent.evaluation.metrics import ratio_of
from artiagent.inspection.findings import ARTIFACTS, UNANSWERED, UNREAD
from artiagent.instruction.prompts import plural
from artiagent.mitigation.audit.records import Audited, Contrast, Detector, GeneratorRates, Threshold
from artiagent.records import Interval

LEAST_SKILL = 0.05  # sensitivity + specificity - 1 below which nothing can be corrected
SHOWN = 12  # entities and parts: the most frequent ones
_MOST_CELLS = 5e7  # of a matrix of bootstrap weights: beyond 5,000 prompts there are fewer resamples than asked for
_Z = 1.959964  # of a 95 % interval

Judged = tuple[np.ndarray, np.ndarray]  # truth bool [n] and P(Yes) [n] on a benchmark
Chosen = Callable[[Audited], bool]


@dataclass(frozen=True)
class Answered:
    """The answered images of one generator; ``units`` int [n] numbers their prompts from 0."""

    rows: Sequence[Audited]
    units: np.ndarray
    names: tuple[str, ...]  # of the units

    @classmethod
    def of(cls, rows: Iterable[Audited]) -> Answered:
        kept = [row for row in rows if row.verdict not in (UNREAD, UNANSWERED)]
        names = {name: k for k, name in enumerate(dict.fromkeys(unit_of(row) for row in kept))}
        return cls(kept, np.array([names[unit_of(row)] for row in kept], dtype=np.int64), tuple(names))

    def share(self, chosen: Chosen, among: Chosen | None = None) -> Statistic:
        """Share of the images (of those `among` them) that are chosen, as a function of weights of the units."""
        within = np.array([among is None or among(row) for row in self.rows], dtype=np.float64)
        hits = np.array([chosen(row) for row in self.rows], dtype=np.float64) * within
        sums = [np.bincount(self.units, column, len(self.names)) for column in (hits, within)]
        return ratio_of(*sums)

    def only(self, units: frozenset[str]) -> Answered:
        """The images of some units, in the order of `units` sorted."""
        numbers = {name: k for k, name in enumerate(sorted(units))}
        kept = [row for row in self.rows if unit_of(row) in numbers]
        return Answered(kept, np.array([numbers[unit_of(row)] for row in kept], dtype=np.int64), tuple(numbers))


def unit_of(row: Audited) -> str:
    """What is resampled as one: the prompt, or an image that has none."""
    return row.prompt or f"{row.generator}/{row.image}"


def flagged(threshold: float, default: float) -> Chosen:
    """Whether an image is faulty at a threshold; at the audit's own it is the verdict, which a server may say alone."""
    if threshold == default:
        return lambda row: row.verdict == ARTIFACTS
    return lambda row: row.score is not None and row.score >= threshold


def rates_of(rows: Sequence[Audited], judged: Mapping[str, Judged], section: AuditSection) -> GeneratorRates:
    """One generator's figures. Raises ValueError when none of its images was answered."""
    answered = Answered.of(rows)
    if not answered.rows:
        raise ValueError(f"{rows[0].generator}: none of {len(rows)} images could be read and answered")
    weights = _weights(answered, section)

    def measure(chosen: Chosen, among: Chosen | None = None) -> Interval:
        n = sum(among(row) for row in answered.rows) if among else len(answered.rows)
        return _bounded(interval(answered.share(chosen, among), weights, n), len(answered.names))

    def correct(threshold: float) -> dict[str, Interval]:
        chosen = flagged(threshold, section.threshold)
        rate = measure(chosen)
        usable = {name: known for name, known in judged.items() if not refuted(rate, known, threshold, section)}
        found = _corrected([answered.share(chosen)], weights, usable, threshold, section)
        return {name: _widened(i, rate, judged[name], threshold) for name, i in found.items()}

    hit = flagged(section.threshold, section.threshold)
    scored = all(row.score is not None for row in answered.rows)
    return GeneratorRates(
        images=len(answered.rows),
        prompts=len(answered.names),
        unread=sum(row.verdict == UNREAD for row in rows),
        unanswered=sum(row.verdict == UNANSWERED for row in rows),
        rate=measure(hit),
        corrected=correct(section.threshold),
        by_fault={name: measure(_is("fault", name)) for name in _frequent(answered.rows, "fault", None)},
        by_entity={name: measure(_is("entity", name), among) for name, among in _entities(answered.rows).items()},
        by_part={name: measure(_is("part", name)) for name in _frequent(answered.rows, "part", SHOWN)},
        parts=measure(_miscounted, _counted) if any(map(_counted, answered.rows)) else None,
        thresholds=tuple(
            Threshold(threshold=t, rate=measure(flagged(t, section.threshold)), corrected=correct(t))
            for t in (section.thresholds if scored else ())
        ),
    )


def contrasts_of(
    rows: Mapping[str, Sequence[Audited]], judged: Mapping[str, Judged], section: AuditSection
) -> dict[str, Contrast]:
    """Every pair of generators, the first minus the second: on the prompts that both drew, else as strangers.

    Corrected by those benchmarks that neither's rate refutes.
    """
    answered = {name: Answered.of(own) for name, own in rows.items()}
    hit = flagged(section.threshold, section.threshold)
    rates = {name: interval(own.share(hit), _weights(own, section)) for name, own in answered.items()}

    def usable(pair: tuple[str, str]) -> dict[str, Judged]:
        return {
            name: known
            for name, known in judged.items()
            if not any(refuted(rates[one], known, section.threshold, section) for one in pair)
        }

    return {
        " - ".join(pair): _contrast(answered[pair[0]], answered[pair[1]], usable(pair), section)
        for pair in combinations(answered, 2)
    }


def detector_of(truth: np.ndarray, scores: np.ndarray, section: AuditSection) -> Detector:
    """Sensitivity and specificity at the audit's threshold."""
    weights = draw_weights(len(truth), section.resamples, section.seed)
    positive, clean = (ratio_of(*columns) for columns in _skill(truth, scores, section.threshold))
    return Detector(
        n=len(truth),
        n_faulty=int(truth.sum()),
        sensitivity=interval(positive, weights, int(truth.sum())),
        specificity=interval(clean, weights, int((~truth).sum())),
    )


def refuted(rate: Interval, judged: Judged, threshold: float, section: AuditSection) -> bool:
    """Whether more is called faulty than the detector finds when all is: the images' faults are plainer than the
    benchmark's, and its sensitivity there says nothing here."""
    own = section.model_copy(update={"threshold": threshold})
    return rate.low > detector_of(*judged, own).sensitivity.high


def naming(entity: str) -> Chosen:
    """Whether a prompt names an entity, in singular or plural."""
    words = re.compile(rf"\b(?:{re.escape(entity)}|{re.escape(plural(entity))})\b", re.IGNORECASE)
    return lambda row: bool(words.search(row.prompt))


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of Wilson's score for a share of n."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _contrast(first: Answered, second: Answered, judged: Mapping[str, Judged], section: AuditSection) -> Contrast:
    shared = frozenset(first.names) & frozenset(second.names)
    if shared:
        one, other = first.only(shared), second.only(shared)
        weights = _weights(one, section)
        sides = (slice(0, len(shared)),) * 2
    else:
        one, other = first, second
        drawn = _weights(one, section), _weights(other, section, 1)
        weights = np.hstack([own[: min(map(len, drawn))] for own in drawn])
        sides = (slice(0, len(one.names)), slice(len(one.names), None))

    def shares(chosen: Chosen, among: Chosen | None = None) -> list[Statistic]:
        return [_on(side, own.share(chosen, among)) for side, own in zip(sides, (one, other), strict=True)]

    def measure(chosen: Chosen, among: Chosen | None = None) -> Interval:
        a, b = shares(chosen, among)
        return interval(lambda drawn: a(drawn) - b(drawn), weights, len(one.rows) + len(other.rows))

    hit = flagged(section.threshold, section.threshold)
    both = [*one.rows, *other.rows]
    countable = all(any(map(_counted, own.rows)) for own in (one, other))
    return Contrast(
        paired=bool(shared),
        prompts=len(shared) or len(one.names) + len(other.names),
        rate=measure(hit),
        corrected=_corrected(shares(hit), weights, judged, section.threshold, section),
        by_fault={name: measure(_is("fault", name)) for name in _frequent(both, "fault", None)},
        parts=measure(_miscounted, _counted) if countable else None,
    )


def _corrected(
    rates: Sequence[Statistic], weights: np.ndarray, judged: Mapping[str, Judged], threshold: float,
    section: AuditSection,
) -> dict[str, Interval]:  # fmt: skip
    """Benchmark -> prevalence of one rate, or the difference between those of two; none where the detector has no
    skill at this threshold."""
    found = {}
    units = weights.shape[1]
    for name, (truth, scores) in judged.items():
        skill = [_on(slice(units, None), ratio_of(*columns)) for columns in _skill(truth, scores, threshold)]
        statistic = _rogan_gladen([_on(slice(0, units), rate) for rate in rates], *skill)
        if np.isnan(statistic(np.ones((1, units + len(truth)), np.float32))[0]):
            continue
        drawn = np.hstack([weights, draw_weights(len(truth), len(weights), section.seed + 2)])
        found[name] = interval(statistic, drawn, units)
    return found


def _rogan_gladen(rates: Sequence[Statistic], sensitivity: Statistic, specificity: Statistic) -> Statistic:
    def statistic(weights: np.ndarray) -> np.ndarray:
        right, left = sensitivity(weights), specificity(weights)
        skill = right + left - 1
        scale = np.where(skill > LEAST_SKILL, skill, np.nan)
        estimates = [np.clip((rate(weights) + left - 1) / scale, 0, 1) for rate in rates]
        return estimates[0] if len(estimates) == 1 else estimates[0] - estimates[1]

    return statistic


def _skill(truth: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[Judged, Judged]:
    """Hits and cases of the faulty images, and of the clean ones; float [n] each."""
    said = scores >= threshold
    return ((truth & said) * 1.0, truth * 1.0), ((~truth & ~said) * 1.0, ~truth * 1.0)


def _on(side: slice, statistic: Statistic) -> Statistic:
    """A statistic that sees some of the columns of the weights."""
    return lambda weights: statistic(weights[:, side])


def _weights(answered: Answered, section: AuditSection, stream: int = 0) -> np.ndarray:
    n = len(answered.names)
    return draw_weights(n, max(200, min(section.resamples, int(_MOST_CELLS // n))), section.seed + stream)


def _bounded(found: Interval, units: int) -> Interval:
    """Wilson's interval where the bootstrap has none: nothing was drawn but hits, or no hit."""
    if found.low < found.high or found.value not in (0.0, 1.0):
        return found
    low, high = wilson(found.value, min(units, found.n))
    return found.model_copy(update={"low": low, "high": high})


def _widened(corrected: Interval, rate: Interval, judged: Judged, threshold: float) -> Interval:
    """What Wilson's limit of a rate of 0 or 1 implies belongs into the interval of the prevalence too."""
    if rate.value not in (0.0, 1.0):
        return corrected
    skill = [ratio_of(*columns) for columns in _skill(*judged, threshold)]
    limits = (_rogan_gladen([lambda _, at=at: np.array([at])], *skill) for at in (rate.low, rate.high))
    low, high = (float(limit(np.ones((1, len(judged[0])), np.float32))[0]) for limit in limits)
    return corrected.model_copy(update={"low": min(corrected.low, low), "high": max(corrected.high, high)})


def _is(column: str, name: str) -> Chosen:
    return lambda row: getattr(row, column) == name


def _counted(row: Audited) -> bool:
    return row.deviations is not None


def _miscounted(row: Audited) -> bool:
    return bool(row.deviations)


def _entities(rows: Sequence[Audited]) -> dict[str, Chosen | None]:
    """The most frequent entities that are called faulty -> images whose prompt names them; None, all, where there are
    no prompts. One that no prompt names is the VLM's fancy and is left out."""
    names = _frequent(rows, "entity", SHOWN)
    if not any(row.prompt for row in rows):
        return dict.fromkeys(names)
    return {name: among for name in names if any(map(among := naming(name), rows))}


def _frequent(rows: Iterable[Audited], column: str, most: int | None) -> list[str]:
    """Names that occur in a column, the most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        if name := getattr(row, column):
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))[:most]
