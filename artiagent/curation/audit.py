"""Shortcut audit: can a simple classifier tell the sides of a pair apart without looking at the artifact?

Three probes (spec: perception and curation, section 6) look beyond the recorded region, where nothing may differ: the
ring around it and the background, twin against artifact; its surroundings, artifact against benign injection. Benign
injections lie on plain background, so the place alone would tell them from artifacts: the third probe takes what the
processing left, the traces of the image less those of its twin.

Inside the region, the feathered edge around the targets does differ: there the artifact heals. It decides nothing, but
is reported for artifacts and for benign injections, whose edge shows what blending leaves without any artifact.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from artiagent.curation.change import target_mask
from artiagent.curation.funnel import hard_negative
from artiagent.curation.traces import block_traces, region_traces
from artiagent.grid import dilate, patch_grid, pixel_mask
from artiagent.records import Interval, Pair, stable_hash

LEAST_PAIRS = 300  # held out, for a verdict of "pass"
MOST_PAIRS = 5000  # traces of a megapixel pair take most of a second: more would cost days and tell no more
_FOLDS = 5
Verdict = Literal["pass", "fail", "insufficient n"]


@dataclass
class Samples:
    """Rows of one probe: traces, whether they count as positive, and the source they come from."""

    pairs: int = 0
    traces: list[np.ndarray] = field(default_factory=list)
    positive: list[bool] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def add_sides(self, source: str, clean: np.ndarray, image: np.ndarray) -> None:
        """Twin as negative, artifact image as positive."""
        self.pairs += 1
        self.traces += [clean, image]
        self.positive += [False, True]
        self.sources += [source, source]

    def add_difference(self, source: str, clean: np.ndarray, image: np.ndarray, *, positive: bool) -> None:
        """What the processing left."""
        self.pairs += 1
        self.traces.append(image - clean)
        self.positive.append(positive)
        self.sources.append(source)


def shortcut_audit(
    pairs: Iterable[tuple[Pair, np.ndarray, np.ndarray]], *, resamples: int, upper: float, seed: int = 0
) -> dict[str, Any]:
    """Audit curated pairs with their twins and artifact images, uint8 [H, W, 3], as a stream.

    Args:
        pairs: any pairs; rejected ones and unscored groups are passed over.
        resamples: bootstrap resamples of sources.
        upper: largest accepted upper bound of an AUROC's 95 % interval.
        seed: of folds and bootstrap.

    Returns:
        ``{"verdict", "probes": {name: {"verdict", "auroc", "low", "high", "n", ...}}, "edges": {...}}``, JSON-ready; n
        counts pairs. A probe that holds too few pairs to train on has ``auroc`` None.
    """
    probes = {name: Samples() for name in ("ring", "background", "surroundings")}
    edges = {name: Samples() for name in ("artifact", "benign")}
    for pair, clean, image in pairs:
        if not eligible(pair):
            continue
        both = block_traces(clean), block_traces(image)
        regions = probe_regions(pair)
        if sides := _within(both, regions.surroundings):
            probes["surroundings"].add_difference(pair.source_id, *sides, positive=not pair.benign)
        wanted = [(edges["benign" if pair.benign else "artifact"], regions.edge)]
        if not pair.benign:
            wanted += [(probes["ring"], regions.ring), (probes["background"], regions.background)]
        for samples, region in wanted:
            if sides := _within(both, region):
                samples.add_sides(pair.source_id, *sides)
    measured = {name: _probe(samples, resamples, upper, seed) for name, samples in probes.items()}
    verdicts = [probe["verdict"] for probe in measured.values()]
    worst: Verdict = next((v for v in ("fail", "insufficient n") if v in verdicts), "pass")
    figures = {name: _probe(samples, resamples, upper, seed) for name, samples in edges.items()}
    for figure in figures.values():
        del figure["verdict"]
    return {"verdict": worst, "upper": upper, "least_pairs": LEAST_PAIRS, "probes": measured, "edges": figures}


def eligible(pair: Pair) -> bool:
    """Whether the audit looks at the pair: scored, and accepted or a hard negative."""
    return pair.scored and (pair.accepted or hard_negative(pair))


def sample(keys: Iterable[str]) -> frozenset[str]:
    """At most MOST_PAIRS of the keys, drawn by their hash: the same ones in whatever order they come."""
    return frozenset(heapq.nsmallest(MOST_PAIRS, keys, key=stable_hash))


class ProbeRegions(NamedTuple):
    """Bool masks [H, W]. `edge`: the recorded regions without their targets. `ring`: one patch around them.
    `surroundings`: two patches around them. `background`: everything beyond the ring."""

    edge: np.ndarray
    ring: np.ndarray
    surroundings: np.ndarray
    background: np.ndarray


def probe_regions(pair: Pair) -> ProbeRegions:
    """Where the probes of a pair look."""
    rows, _ = pair.artifacts[0].injection.mapping.grid
    patch = pair.height // rows
    targets = np.logical_or.reduce([target_mask(a, pair.height, pair.width) for a in pair.artifacts])
    regions = np.logical_or.reduce([a.region.decode() for a in pair.artifacts])
    one, two = (pixel_mask(dilate(patch_grid(regions, patch), radius), patch) for radius in (1, 2))
    return ProbeRegions(regions & ~targets, one & ~regions, two & ~regions, ~one)


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve; scores float [n], labels bool [n] with both values; ties count half."""
    positives = int(labels.sum())
    pairs = positives * (labels.size - positives)
    return float((rankdata(scores)[labels].sum() - positives * (positives + 1) / 2) / pairs)


def _within(both: tuple[np.ndarray, np.ndarray], region: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Traces of twin and image inside a region; None where it holds no whole block."""
    clean, image = (region_traces(traces, region) for traces in both)
    return None if clean is None or image is None else (clean, image)


def _probe(samples: Samples, resamples: int, upper: float, seed: int) -> dict[str, Any]:
    """AUROC of a classifier that never saw the source it scores, with its interval over sources."""
    labels, groups = np.array(samples.positive, dtype=bool), np.array(samples.sources)
    result: dict[str, Any] = {"verdict": "insufficient n", "auroc": None, "low": None, "high": None, "n": samples.pairs}
    if not labels.size or min(len(set(groups[labels])), len(set(groups[~labels]))) < _FOLDS:
        return result
    scores = _held_out_scores(np.array(samples.traces), labels, groups, seed)
    interval = _bootstrap(scores, labels, groups, resamples, seed)
    figures = {"auroc": interval.value, "low": interval.low, "high": interval.high}
    verdict = _verdict(interval, samples.pairs, upper)
    return result | {"verdict": verdict, "sources": interval.n} | {k: round(v, 4) for k, v in figures.items()}


def _held_out_scores(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Score of every row from a model that never saw its source, float64 [n]."""
    scores = np.empty(len(labels))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    for fit, held_out in folds.split(features, labels, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, class_weight="balanced"))
        model.fit(features[fit], labels[fit])
        scores[held_out] = model.decision_function(features[held_out])
    return scores


def _bootstrap(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> Interval:
    """Percentile interval over resampled sources; resamples that lost a class are drawn again."""
    rng = np.random.default_rng(seed)
    codes = np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    values: list[float] = []
    while len(values) < resamples:
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if labels[rows].any() and not labels[rows].all():
            values.append(auroc(scores[rows], labels[rows]))
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(value=auroc(scores, labels), low=float(low), high=float(high), n=len(members))


def _verdict(interval: Interval, n: int, upper: float) -> Verdict:
    """A gap that chance does not explain fails with any number of pairs; to pass takes enough of them."""
    if not interval.low <= 0.5 <= interval.high:
        return "fail"
    if n < LEAST_PAIRS:
        return "insufficient n"
    return "pass" if interval.high <= upper else "fail"
