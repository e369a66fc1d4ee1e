"""The gate: may a challenger take the champion's place?

Two sides were measured on the same units. The primary metric has to be won (the 95 % interval of the paired bootstrap
of the difference lies above 0), no guarded one may be lost (its interval below 0), and the shortcut audit of the
challenger's training data has to have passed. What cannot be compared is refused with the reason.

Knows named statistics and how units are resampled. Does not know what was measured, which model it was, or a registry.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from artiagent.evaluation.bootstrap import difference as paired
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.scoring import Score
from artiagent.records import Interval, Record, stable_hash

PASSED, UNRECORDED = "pass", "not recorded"
ROUNDING = 1e-9  # sums in float32 of equal answers may differ by so much
PER_LOOK = 0.025  # chance that an equal challenger wins by luck: the interval's upper tail

Verdict = Literal["promoted", "kept", "refused"]
# Of metrics that are only reported it is not known here which direction is good.
Outcome = Literal["won", "tied", "lost", "higher", "lower", "not judged", "missing"]
WORDS = {"reported": ("higher", "lower")}


class Rule(NamedTuple):
    """What has to be won, what must not be lost, and whether the audit decides."""

    primary: str
    guarded: tuple[str, ...] = ()
    audit_required: bool = True


@dataclass(frozen=True)
class Measured:
    """One side: statistics over the same units as the other side's.

    ``units`` are ids in the order of the statistics' weights (images of a benchmark, sources of a set); ``revision``
    and ``prompts`` are digests of what was asked about and of how.
    """

    label: str
    sha256: str
    revision: str
    prompts: str
    units: tuple[str, ...]
    statistics: Mapping[str, Score]


class MetricResult(Record):
    """One metric of both sides; intervals are None where it was not computed."""

    metric: str
    role: Literal["primary", "guarded", "reported"]
    outcome: Outcome
    challenger: Interval | None = None
    champion: Interval | None = None
    difference: Interval | None = None  # challenger - champion, resampled in pairs


class Decision(Record):
    """What the gate found, and everything needed to find it again."""

    verdict: Verdict
    reasons: tuple[str, ...]
    challenger: str
    champion: str
    challenger_sha256: str = ""
    champion_sha256: str = ""
    benchmark: str = ""
    revision: str = ""
    prompt_hash: str = ""
    n: int = 0
    primary: str = ""
    guarded: tuple[str, ...] = ()
    metrics: tuple[MetricResult, ...] = ()
    audit: str = UNRECORDED
    audit_required: bool = True
    resamples: int = 0
    seed: int = 0
    gating_count: int = 0  # decisions on this revision, this one included

    @property
    def digest(self) -> str:
        """Equal for equal comparisons, however often they are made."""
        return stable_hash(self.model_dump_json(exclude={"gating_count"}), length=16)

    @property
    def computed(self) -> bool:
        """Whether the sides were compared, so that this was a look at the benchmark."""
        return any(found.difference is not None for found in self.metrics)

    def result(self, metric: str) -> MetricResult | None:
        return next((found for found in self.metrics if found.metric == metric), None)


def decide(
    challenger: Measured,
    champion: Measured,
    rule: Rule,
    audit: str,
    measurable: Collection[str],
    *,
    resamples: int,
    seed: int,
    benchmark: str = "",
) -> Decision:
    """Compare both sides on resampled units and apply the rule.

    Args:
        challenger: who wants the place.
        champion: who holds it; without one, trivial answers.
        rule: see the module.
        audit: verdict on the challenger's training data; only "pass" passes.
        measurable: metrics that the units have a ground truth for; others are not judged.
        resamples: of the paired bootstrap.
        seed: of the paired bootstrap.
        benchmark: name, for the record.
    """
    facts = {
        "challenger": challenger.label, "champion": champion.label, "challenger_sha256": challenger.sha256,
        "champion_sha256": champion.sha256, "benchmark": benchmark, "revision": challenger.revision,
        "prompt_hash": challenger.prompts, "n": len(challenger.units), "primary": rule.primary,
        "guarded": rule.guarded, "audit": audit, "audit_required": rule.audit_required, "resamples": resamples,
        "seed": seed,
    }  # fmt: skip
    if obstacles := _incomparable(challenger, champion):
        return Decision(verdict="refused", reasons=tuple(obstacles), **facts)
    weights = draw_weights(len(challenger.units), resamples, seed)
    metrics = tuple(
        _compare(metric, role, challenger, champion, weights, measurable)
        for metric, role in _roles(rule, {*challenger.statistics, *champion.statistics}, measurable)
    )
    verdict, reasons = _judge(metrics, rule, audit, (challenger.label, champion.label))
    return Decision(verdict=verdict, reasons=tuple(reasons), metrics=metrics, **facts)


def luck(looks: int) -> float:
    """Upper bound of the chance that, of so many challengers no better than the champion, one was promoted."""
    return 1 - (1 - PER_LOOK) ** looks


def _incomparable(challenger: Measured, champion: Measured) -> list[str]:
    """Reasons why two sides are not about the same thing."""
    reasons = []
    sides = f"({challenger.label}) and the champion's ({champion.label})"
    if challenger.revision != champion.revision:
        reasons.append(
            f"the challenger's answers {sides} are about two revisions of the benchmark: {challenger.revision[:12]} "
            f"and {champion.revision[:12]}; predict both on one"
        )
    if challenger.prompts != champion.prompts:
        reasons.append(
            f"the challenger's answers {sides} were given to different prompts: {challenger.prompts[:12]} and "
            f"{champion.prompts[:12]}; predict both with the same"
        )
    if challenger.units != champion.units:
        ours, theirs = set(challenger.units), set(champion.units)
        what = f"{len(ours - theirs)} items only of the first, {len(theirs - ours)} only of the second"
        what = what if ours != theirs else "the same items in another order"
        reasons.append(f"the challenger's answers {sides} are not about the same items: {what}")
    if not challenger.units:
        reasons.append("there are no items to compare on")
    return reasons


def _roles(rule: Rule, present: set[str], measurable: Collection[str]) -> list[tuple[str, str]]:
    named = [(rule.primary, "primary"), *((m, "guarded") for m in rule.guarded if m != rule.primary)]
    judged = {metric for metric, _ in named}
    return named + [(metric, "reported") for metric in sorted((present & set(measurable)) - judged)]


def _compare(
    metric: str,
    role: str,
    challenger: Measured,
    champion: Measured,
    weights: np.ndarray,
    measurable: Collection[str],
) -> MetricResult:
    if metric not in measurable:
        return MetricResult(metric=metric, role=role, outcome="not judged")
    ours, theirs = challenger.statistics.get(metric), champion.statistics.get(metric)
    own, other = _interval(ours, weights), _interval(theirs, weights)
    found = {"metric": metric, "role": role, "challenger": own, "champion": other}
    if own is None or other is None:
        return MetricResult(outcome="missing", **found)
    gap = paired(ours.statistic, theirs.statistic, weights, min(ours.n, theirs.n))
    above, below = WORDS.get(role, ("won", "lost"))
    outcome = above if gap.low > ROUNDING else below if gap.high < -ROUNDING else "tied"
    return MetricResult(outcome=outcome, difference=gap, **found)


def _interval(score: Score | None, weights: np.ndarray) -> Interval | None:
    try:
        return interval(score.statistic, weights, score.n) if score else None
    except ValueError:  # not defined on these units: reported as missing
        return None


def _judge(
    metrics: Sequence[MetricResult], rule: Rule, audit: str, labels: tuple[str, str]
) -> tuple[Verdict, list[str]]:
    """Verdict and the sentences behind it; a refusal comes before a loss, and does not hide it."""
    primary = metrics[0]
    refusals = [_missing(m, labels) for m in metrics if m.outcome == "missing" and m.role != "reported"]
    if primary.outcome == "not judged":
        refusals.append(f"{primary.metric} is the primary metric, and this benchmark has no ground truth for it")
    if rule.audit_required and audit == UNRECORDED:
        refusals.append("no shortcut audit of the challenger's training data is recorded; register it with a run")
    losses = [_shortfall(primary)] if primary.outcome in ("tied", "lost") else []
    losses += [_loss(m) for m in metrics if m.role == "guarded" and m.outcome == "lost"]
    if refusals:
        return "refused", refusals + losses
    if rule.audit_required and audit != PASSED:
        losses.append(f"the shortcut audit of the challenger's training data says {audit!r}, expected {PASSED!r}")
    unjudged = [f"{m.metric} is not judged: the benchmark has no ground truth for it" for m in metrics
                if m.outcome == "not judged"]  # fmt: skip
    if losses:
        return "kept", losses + unjudged
    held = [m.metric for m in metrics if m.role == "guarded" and m.outcome in ("won", "tied")]
    kept = [f"no significant loss on {', '.join(held)}"] if held else []
    return "promoted", [f"{primary.metric} is won: {gap_text(primary)}", *kept, *unjudged]


def _missing(found: MetricResult, labels: tuple[str, str]) -> str:
    whose = [label for label, side in zip(labels, (found.challenger, found.champion), strict=True) if side is None]
    return f"{found.metric} is {found.role} and cannot be computed from the answers of {' and '.join(whose)}"


def _shortfall(found: MetricResult) -> str:
    gap = found.difference
    told = f"{found.metric} is not won: {gap_text(found)}"
    if gap.low == gap.high == 0:
        return f"{told}; both score alike on every resample"
    short = f"{-gap.low:.3f}" if gap.low < -0.0005 else "less than 0.001"
    return (
        f"{told}; the interval has to lie above 0 and falls short by {short} (on these {gap.n} items a lead of more "
        f"than about {gap.value - gap.low:.3f} is needed)"
    )


def _loss(found: MetricResult) -> str:
    return f"{found.metric} is lost: {gap_text(found)}; its interval lies below 0 by {-found.difference.high:.3f}"


def gap_text(found: MetricResult) -> str:
    """``.812 against .790, difference +.022 [+.001, +.043]``."""
    gap = found.difference
    return (
        f"{found.challenger.value:.3f} against {found.champion.value:.3f}, difference "
        f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
    )
