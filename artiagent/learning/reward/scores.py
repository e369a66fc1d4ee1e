"""How good verifiers are: held-out pairs within and across scenes, by tool and distance, calibration, benchmarks.

Knows rewards and where they come from. Does not know how verifiers are trained. Every figure has an interval from
resampled *sources*, because variants of one source are alike (across scenes both sides are resampled); on a benchmark
images are resampled. A tie counts half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artiagent.config import BenchmarkSet, RewardSection
from artiagent.evaluation.benchmarks import read_items
from artiagent.evaluation.bootstrap import Statistic, draw_weights, interval
from artiagent.evaluation.metrics import auroc
from artiagent.images import decode
from artiagent.learning.reward.pairs import PairSet, Split, Told
from artiagent.learning.reward.verifier import Verifier
from artiagent.records import ARTIFACT_TOOLS, Interval

ENSEMBLE = "ensemble"
LARGEST = 2000  # held-out pairs that are compared with each other; more are drawn from
DISTANCES = 4  # bins, of equally many pairs
BINS = np.linspace(0.5, 1.0, 11)  # of the probability with which the better side is called better


@dataclass(frozen=True)
class Ranking:
    """Rewards [P] of both sides of P held-out pairs, and what is known of them."""

    clean: np.ndarray
    artifact: np.ndarray
    told: tuple[Told, ...]

    @property
    def sources(self) -> np.ndarray:
        return np.array([t.source for t in self.told])


def measure(
    section: RewardSection, judge: Verifier, pairs: PairSet, parts: Split, benchmarks: Sequence[BenchmarkSet]
) -> tuple[dict[str, Interval], dict[str, Any]]:
    """The three figures that runs are compared by, and all of them as plain values.

    The three: accuracy ``within`` a scene and ``across`` scenes, and ``benchmark_auroc`` on the first benchmark, of the
    ensemble.
    """
    rankings = _rankings(judge, pairs, _some(parts.held, section.seed))
    main = rankings[ENSEMBLE]
    found = {name: pairwise(section, ranking) for name, ranking in rankings.items()}
    told = {b.name: benchmark_scores(section, judge, b) for b in benchmarks}
    headline = dict(found[ENSEMBLE])
    if benchmarks:
        headline["benchmark_auroc"] = told[benchmarks[0].name][ENSEMBLE]
    figures = {
        "pairs": {
            "train": [len(m) for m in parts.members],
            "held_out": len(main.told),
            "held_out_sources": len(set(main.sources)),
        },
        "verifiers": found,
        "tools": by_tool(section, main),
        "distances": by_distance(section, main),
        "calibration": calibration(section, main),
        "benign": benign_control(section, judge, pairs, parts.held_benign),
        "benchmarks": told,
    }
    return headline, _plain(figures)


def pairwise(section: RewardSection, ranking: Ranking, chosen: np.ndarray | None = None) -> dict[str, Interval]:
    """Share of comparisons in which the clean side has the higher reward.

    ``within``: the two sides of a pair; ``across``: artifacts against the clean sides of other scenes. ``chosen`` bool
    [P] restricts the artifacts. What cannot be compared is left out.
    """
    wins = (ranking.clean[:, None] > ranking.artifact) + 0.5 * (ranking.clean[:, None] == ranking.artifact)
    mask = np.ones(len(ranking.told), bool) if chosen is None else chosen
    names, source = np.unique(ranking.sources, return_inverse=True)
    weights = draw_weights(len(names), section.resamples, section.seed)
    own = np.eye(len(mask), dtype=bool) & mask
    other = (source[:, None] != source) & mask
    found = {}
    for name, met in (("within", own), ("across", other)):
        if met.any():
            units = len(set(source[mask]))
            found[name] = interval(share(source, len(names), wins, met), weights, units)
    return found


def share(source: np.ndarray, count: int, values: np.ndarray, met: np.ndarray) -> Statistic:
    """Mean of values [P, Q] where ``met``, as a function of how often each of ``count`` sources was drawn.

    Within a scene a drawn source counts as often as it was drawn, across scenes the product of both.
    """
    member = np.eye(count)[source]
    top, bottom = member.T @ (values * met) @ member, member.T @ met.astype(float) @ member
    off = ~np.eye(count, dtype=bool)

    def weighted(drawn: np.ndarray, cells: np.ndarray) -> np.ndarray:
        crossed = ((drawn @ (cells * off)) * drawn).sum(1)
        return crossed + drawn @ cells.diagonal()

    def statistic(drawn: np.ndarray) -> np.ndarray:
        low = weighted(drawn, bottom)
        return np.divide(weighted(drawn, top), low, out=np.full(len(drawn), np.nan), where=low > 0)

    return statistic


def by_tool(section: RewardSection, ranking: Ranking) -> dict[str, dict[str, Any]]:
    """`pairwise` for the artifacts of each tool; a pair with faults of several tools counts for each."""
    found = {}
    for tool in ARTIFACT_TOOLS:
        chosen = np.array([tool in t.tools for t in ranking.told])
        if chosen.any():
            found[tool] = {"pairs": int(chosen.sum()), **pairwise(section, ranking, chosen)}
    return found


def by_distance(section: RewardSection, ranking: Ranking) -> list[dict[str, Any]]:
    """`pairwise` in bins of equally many pairs by perceptual distance; pairs without one are left out."""
    values = np.array([np.nan if t.distance is None else t.distance for t in ranking.told])
    known = np.flatnonzero(~np.isnan(values))
    found = []
    for part in np.array_split(known[np.argsort(values[known], kind="stable")], DISTANCES):
        if len(part):
            chosen = np.isin(np.arange(len(values)), part)
            told = {"low": float(values[part].min()), "high": float(values[part].max()), "pairs": len(part)}
            found.append({**told, **pairwise(section, ranking, chosen)})
    return found


def calibration(section: RewardSection, ranking: Ranking) -> dict[str, Any]:
    """How often the side called better is the clean one, by the probability sigmoid(difference) that it was given.

    Over all comparisons across scenes. ``ece``: mean distance of the two, weighted by how many comparisons a bin has.
    """
    gap = ranking.clean[:, None] - ranking.artifact
    names, source = np.unique(ranking.sources, return_inverse=True)
    weights = draw_weights(len(names), min(section.resamples, 1000), section.seed)
    other = source[:, None] != source
    told = 1 / (1 + np.exp(-np.abs(gap)))
    right = (gap > 0) + 0.5 * (gap == 0)
    place = np.clip(np.digitize(told, BINS) - 1, 0, len(BINS) - 2)
    bins, error = [], 0.0
    for k in range(len(BINS) - 1):
        met = other & (place == k)
        if not met.any():
            continue
        mean = float(told[met].mean())
        found = interval(share(source, len(names), right, met), weights, int(met.sum()))
        bins.append({"low": float(BINS[k]), "high": float(BINS[k + 1]), "told": mean, "right": found})
        error += float(met.sum() / other.sum()) * abs(found.value - mean)
    return {"bins": bins, "ece": error, "comparisons": int(other.sum())}


def benign_control(section: RewardSection, judge: Verifier, pairs: PairSet, held: Sequence[int]) -> Interval | None:
    """How often the clean twin beats a held-out benign injection; about .5 where the machinery leaves no trace.

    None where there is none.
    """
    if not held:
        return None
    ranking = _rankings(judge, pairs, held)[ENSEMBLE]
    return pairwise(section, ranking)["within"]


def benchmark_scores(section: RewardSection, judge: Verifier, benchmark: BenchmarkSet) -> dict[str, Interval]:
    """AUROC of a low reward for faulty images, of the ensemble and of each member."""
    faulty: list[bool] = []

    def pictures() -> Iterator[np.ndarray]:
        for item, data in read_items(benchmark):
            faulty.append(item.faulty)
            yield decode(data)

    found = _named(judge.each(pictures()))
    weights = draw_weights(len(faulty), section.resamples, section.seed)
    return {name: interval(auroc(np.array(faulty), -rewards), weights) for name, rewards in found.items()}


def _rankings(judge: Verifier, pairs: PairSet, chosen: Sequence[int]) -> dict[str, Ranking]:
    sides = [_named(judge.each(pairs.pixels[i, side] for i in chosen)) for side in (0, 1)]
    told = tuple(pairs.told[i] for i in chosen)
    return {name: Ranking(sides[0][name], sides[1][name], told) for name in sides[0]}


def _named(rewards: np.ndarray) -> dict[str, np.ndarray]:
    """Rewards [members, n] by name; the ensemble first, members only where there are several."""
    members = {str(k): row for k, row in enumerate(rewards)} if len(rewards) > 1 else {}
    return {ENSEMBLE: rewards.mean(0), **members}


def _some(held: Sequence[int], seed: int) -> Sequence[int]:
    if len(held) <= LARGEST:
        return held
    return sorted(np.random.default_rng(seed).choice(held, LARGEST, replace=False).tolist())


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return value.model_dump()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
