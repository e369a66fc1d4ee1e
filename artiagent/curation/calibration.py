"""What a perceptual window is worth: a proposal by a stated rule, and its evidence.

Knows distances of edits whose truth is known. The window is meant to keep what looks broken and nothing else; so the
rule asks drawn faults, which no toolbox made, and edits that change pixels and break nothing. Injected distortions
show what either window would do to a data set; they decide only where nothing of known truth is given.

Does not know how a metric measures, and changes no configuration: a person reads the evidence and sets the window.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from artiagent.config import CurationSection
from artiagent.curation.perceptual import Metric, load_metric
from artiagent.evaluation.bootstrap import Statistic, difference, draw_weights, interval
from artiagent.evaluation.metrics import ratio_of
from artiagent.images import decode
from artiagent.records import Artifact, DatasetRef, Interval, Pair
from artiagent.store import Row, read_rows, write_atomic

EVIDENCE, PAGE, CHART = "calibration.json", "calibration.html", "calibration.svg"
FAULT, HARMLESS, INJECTED = "drawn fault", "harmless", "injected"
GRID = np.arange(101) / 100  # bounds that may be proposed
BINS = np.arange(51) / 50  # of the histograms
_FOLDS, _BATCH = 5, 64
_Kind = Callable[[Pair, Artifact], str]
_BY_TRUTH = (
    "low: the largest bound below which at most {loss:.0%} of the drawn faults lie; what is more damaged than nearly "
    "all of them is no local distortion. high: the bound that accepts the most drawn faults less harmless edits, each "
    "as a share of its own; of equals the highest."
)
_BY_QUANTILES = (
    "no edits of known truth were given, so quantiles of the injected distortions: at most {loss:.0%} lie below low, "
    "and at most as many above high."
)


class Edit(NamedTuple):
    """One edit with its similarity of twin and edited image, 1 - distance. ``kind`` begins with the group it is of."""

    kind: str
    source: str
    similarity: float


class Window(NamedTuple):
    low: float
    high: float

    def accepts(self, similarity: np.ndarray) -> np.ndarray:
        return (similarity >= self.low) & (similarity <= self.high)


def calibrate(
    section: CurationSection, curated: DatasetRef, known: DatasetRef | None, out: Path,
    *, loss: float = 0.02, resamples: int = 1000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure both data sets with the section's metric, propose a window, write the evidence into `out`.

    Args:
        section: metric, its weights and its configured window.
        curated: pairs or curated pairs; their distortions and benign injections are measured.
        known: pairs of a filter test (`nano.drawn_pairs.write_filter_test`); their distortions are.
        out: folder for ``calibration.json``, ``calibration.html`` and ``calibration.svg``.
        loss: share of true faults that the lower bound may cost.
        resamples: bootstrap resamples of sources.
        seed: of bootstrap and folds.

    Returns the evidence. Raises ValueError where a data set holds nothing to measure.
    """
    metric = load_metric(section)
    edits = [*_measured(metric, curated, _injected), *(_measured(metric, known, _of_known_truth) if known else ())]
    evidence = {
        "metric": metric.name,
        "min_crop": section.min_crop,
        "weights_sha256": section.lpips_sha256 if metric.name == "lpips" else None,
        **evidence_of(edits, Window(*metric.window), loss=loss, resamples=resamples, seed=seed),
        "data": {name: _identity(ref) for name, ref in (("curated", curated), ("known", known)) if ref},
        "versions": _versions(metric.name),
    }
    from artiagent.report.calibration import render_calibration

    page, chart = render_calibration(evidence)
    for name, text in ((EVIDENCE, json.dumps(evidence, indent=1) + "\n"), (PAGE, page), (CHART, chart)):
        write_atomic(out / name, text.encode())
    return evidence


def evidence_of(edits: Sequence[Edit], configured: Window, *, loss: float, resamples: int, seed: int) -> dict[str, Any]:
    """Proposed window, its intervals over sources, acceptance of every kind of edit, and a comparison.

    Returns ``{"rule", "loss", "seed", "resamples", "configured", "proposed", "low", "high", "kinds", "held_out",
    "verdict"}``, JSON-ready. ``held_out``: accepted faults less accepted harmless edits, as shares, of both windows,
    the proposed one fitted on other sources than it is tried on; None without edits of known truth.
    """
    table = _Table.of(edits)
    weights = draw_weights(len(table.sources), resamples, seed)
    proposed = table.proposed(loss)
    bounds = np.array([table.proposed(loss, drawn) for drawn in weights])
    held_out = table.held_out(configured, loss, weights, seed)
    return {
        "rule": (_BY_TRUTH if table.truth else _BY_QUANTILES).format(loss=loss),
        "loss": loss,
        "seed": seed,
        "resamples": resamples,
        "configured": list(configured),
        "proposed": list(proposed),
        **{name: _spread(bounds[:, k], proposed[k], table) for k, name in enumerate(Window._fields)},
        "kinds": {kind: table.kind(kind, configured, proposed, weights) for kind in sorted(set(table.kinds))},
        "held_out": held_out,
        "verdict": _verdict(configured, proposed, held_out),
    }


@dataclass(frozen=True)
class _Table:
    """Edits as columns: kinds and similarity [n], the code of each one's source [n], and the sources."""

    kinds: np.ndarray
    similarity: np.ndarray
    codes: np.ndarray
    sources: np.ndarray

    @classmethod
    def of(cls, edits: Sequence[Edit]) -> _Table:
        sources, codes = np.unique([edit.source for edit in edits], return_inverse=True)
        table = cls(
            np.array([edit.kind for edit in edits]), np.array([edit.similarity for edit in edits]), codes, sources
        )
        for group in (FAULT, HARMLESS) if table.truth else (INJECTED,):
            if not table.members(group).any():
                raise ValueError(f"no {group} among the {len(edits)} edits measured; a window cannot be proposed")
        return table

    @cached_property
    def truth(self) -> bool:
        return bool(self.members(FAULT).any() or self.members(HARMLESS).any())

    def members(self, group: str) -> np.ndarray:
        """Bool [n]."""
        return np.char.startswith(self.kinds, group)

    @cached_property
    def ranked(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Group -> similarities in rising order, and the codes of their sources."""
        found = {}
        for group in (FAULT, HARMLESS, INJECTED):
            chosen = np.flatnonzero(self.members(group))
            order = chosen[np.argsort(self.similarity[chosen], kind="stable")]
            found[group] = (self.similarity[order], self.codes[order])
        return found

    def proposed(self, loss: float, weights: np.ndarray | None = None) -> Window:
        """The window by the rule; `weights` [sources] count each source's edits so often."""
        weights = np.ones(len(self.sources)) if weights is None else weights
        below, upto = self._shares(FAULT if self.truth else INJECTED, weights)
        low = int(np.flatnonzero(below <= loss + 1e-9).max())
        if not self.truth:
            return Window(GRID[low], GRID[np.flatnonzero(upto >= 1 - loss - 1e-9).min()])
        harmless_below, harmless_upto = self._shares(HARMLESS, weights)
        gain = (upto - below[low]) - (harmless_upto - harmless_below[low])
        gain[: low + 1] = -np.inf
        best = np.flatnonzero(gain >= gain.max() - 1e-9).max()
        return Window(float(GRID[low]), float(GRID[best]))

    def _shares(self, group: str, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shares of a group's edits below, and at most at, each bound of the grid, float64 [grid]; 0 of none."""
        similarity, codes = self.ranked[group]
        summed = np.concatenate([[0.0], np.cumsum(weights[codes], dtype=np.float64)])
        places = (np.searchsorted(similarity, GRID, side) for side in ("left", "right"))
        below, upto = (summed[place] / max(summed[-1], 1e-9) for place in places)
        return below, upto

    def accepted(self, group: str, accepted: np.ndarray) -> Statistic:
        """Share of a group's edits that are accepted (bool [n]), as a statistic of sources."""
        chosen = self.members(group)
        top, all_of = (
            np.bincount(self.codes[chosen], values, len(self.sources))
            for values in (accepted[chosen].astype(float), np.ones(int(chosen.sum())))
        )
        return ratio_of(top, all_of)

    def kind(self, kind: str, configured: Window, proposed: Window, weights: np.ndarray) -> dict[str, Any]:
        chosen = self.kinds == kind
        values = self.similarity[chosen]
        accepted = {
            name: _plain(interval(self.accepted(kind, window.accepts(self.similarity)), weights, int(chosen.sum())))
            for name, window in (("configured", configured), ("proposed", proposed))
        }
        quantiles = np.quantile(values, [0.02, 0.25, 0.5, 0.75, 0.98]).round(4).tolist()
        histogram = np.histogram(values.clip(0, 1), BINS)[0].tolist()
        sources = len(set(self.codes[chosen].tolist()))
        return {"n": len(values), "sources": sources, "quantiles": quantiles, **accepted, "histogram": histogram}

    def held_out(self, configured: Window, loss: float, weights: np.ndarray, seed: int) -> dict[str, Any] | None:
        if not self.truth:
            return None
        folds = np.random.default_rng(seed).permutation(len(self.sources)) % _FOLDS
        accepted = np.zeros(len(self.similarity), dtype=bool)
        for fold in range(_FOLDS):
            window = self.proposed(loss, (folds != fold).astype(float))
            inside = folds[self.codes] == fold
            accepted[inside] = window.accepts(self.similarity[inside])
        ours, theirs = (self._gain(a) for a in (accepted, configured.accepts(self.similarity)))
        n = int((self.members(FAULT) | self.members(HARMLESS)).sum())
        return {
            "proposed": _plain(interval(ours, weights, n)),
            "configured": _plain(interval(theirs, weights, n)),
            "difference": _plain(difference(ours, theirs, weights, n)),
        }

    def _gain(self, accepted: np.ndarray) -> Statistic:
        faults, harmless = (self.accepted(group, accepted) for group in (FAULT, HARMLESS))
        return lambda weights: faults(weights) - harmless(weights)


def _verdict(configured: Window, proposed: Window, held_out: dict[str, Any] | None) -> str:
    pairs = (
        f"configured [{configured.low:.2f}, {configured.high:.2f}], proposed [{proposed.low:.2f}, {proposed.high:.2f}]"
    )
    if held_out is None:
        return f"undecided: {pairs}; without edits of known truth nothing says which is better"
    gain = held_out["difference"]
    told = f"gain of the proposed on other sources {gain['value']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}]"
    if gain["low"] > 0:
        return f"not supported: {pairs}; {told}"
    return f"supported: {pairs}; {told}"


def _spread(drawn: np.ndarray, value: float, table: _Table) -> dict[str, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return _plain(Interval(value=value, low=float(low), high=float(high), n=len(table.sources)))


def _plain(found: Interval) -> dict[str, float]:
    return {key: round(value, 4) for key, value in found.model_dump().items()}


def _measured(metric: Metric, pairs: DatasetRef, kind_of: _Kind) -> Iterator[Edit]:
    rows = iter(tqdm(read_rows(pairs, Pair), f"measure {pairs.kind}", total=pairs.rows, unit="pair"))
    while batch := list(islice(rows, _BATCH)):
        found = [(row, artifact, kind) for row in batch for artifact, kind in _kinds(row, kind_of)]
        sides = {row.key: [decode(row.images[side]) for side in ("clean", "artifact")] for row, _, _ in found}
        distances = metric.distances([(*sides[row.key], artifact.box) for row, artifact, _ in found])
        for (row, _, kind), distance in zip(found, distances, strict=True):
            yield Edit(kind, row.record.source_id, 1 - distance)


def _kinds(row: Row[Pair], kind_of: _Kind) -> Iterator[tuple[Artifact, str]]:
    """Artifacts to measure, with their kinds. One that curation undid is not in the pixels any more."""
    for artifact in row.record.artifacts:
        undone = row.record.pasted_back and not artifact.accepted
        if not undone and row.record.scored and (kind := kind_of(row.record, artifact)):
            yield artifact, kind


def _injected(pair: Pair, artifact: Artifact) -> str:
    injection = artifact.injection
    if injection.tool == "benign":
        return "benign injection"
    return f"{INJECTED} {injection.kernel or injection.tool}" if injection.tool == "distort" else ""


def _of_known_truth(pair: Pair, artifact: Artifact) -> str:
    """The truth stands where other pairs have their caption: "fault", or the name of a harmless edit."""
    if len(pair.prompt.split()) != 1:
        raise ValueError(f"pair {pair.job_id} tells no truth about itself; expected pairs of 'artiagent nano judges'")
    if artifact.injection.tool != "distort":
        return ""
    return FAULT if pair.prompt == "fault" else f"{HARMLESS}: {pair.prompt}"


def _identity(ref: DatasetRef) -> dict[str, Any]:
    return {"kind": ref.kind, "digest": ref.digest, "rows": ref.rows}


def _versions(metric: str) -> dict[str, str]:
    packages = ("numpy", "scikit-image") if metric == "ssim" else ("numpy", "torch", "torchvision", "lpips")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
