"""How well corrections of a benchmark went, by judges that had no say in them; every figure with its interval.

Knows records. Does not know images or models. *Fixed* means that a counter of parts finds in the image what it finds in
the clean scene. It errs too: the share of clean scenes that pass after a trip through the autoencoder bounds fixed from
above, the share of faulty images that pass uncorrected from below.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from artiagent.evaluation.bootstrap import Statistic, draw_weights, interval
from artiagent.evaluation.metrics import mean_of
from artiagent.mitigation.correction.records import BETTER, CORRECTED, SOURCES, Correction
from artiagent.records import Record


class Judged(Record):
    """A benchmark's image after the loop. The fields from ``passed_before`` on are None where the clean scene is not
    known or no counter of parts is at hand, ``third`` where no verifier was kept apart."""

    item_id: str
    faulty: bool
    fault: str = ""
    correction: Correction
    outside_identical: bool  # every pixel outside the repainted region is the input's
    third_before: float | None = None  # reward by a verifier that steered nothing
    third_after: float | None = None
    passed_before: bool | None = None  # part counts equal those of the clean scene
    passed_after: bool | None = None
    passed_clean: bool | None = None  # those of the clean scene after the autoencoder

    @property
    def altered(self) -> bool:
        return self.correction.outcome == CORRECTED


def figures_of(rows: Sequence[Judged], resamples: int, seed: int) -> dict[str, Any]:
    """What ``correction.json`` holds: ``scores`` and ``by_fault`` (intervals over images), ``sources``, ``counts``."""
    weights = draw_weights(len(rows), resamples, seed)
    faults = sorted({row.fault for row in rows if row.faulty and row.fault})
    return {
        "scores": _intervals(_scores(rows), weights),
        "by_fault": {
            fault: _intervals(_fixing(rows, np.array([row.fault == fault for row in rows])), weights)
            for fault in faults
        },
        "sources": _sources(rows),
        "counts": _counts(rows),
    }


Column = tuple[np.ndarray, np.ndarray]  # values [n] and the bool [n] of images they are defined on


def _scores(rows: Sequence[Judged]) -> dict[str, Column]:
    faulty = np.array([row.faulty for row in rows])
    altered = np.array([row.altered for row in rows])
    outside = np.array([row.outside_identical for row in rows])
    everywhere = np.ones(len(rows), dtype=bool)
    return {
        **_fixing(rows, faulty),
        "found": (np.array([bool(row.correction.rounds) for row in rows]), faulty),
        "corrected": (altered, faulty),
        "false_alarms": (np.array([bool(row.correction.rounds) for row in rows]), ~faulty),
        "altered_clean": (altered, ~faulty),
        "outside_identical": (outside, everywhere),
        **_changes(rows, altered & faulty),
        "calls": (np.array([row.correction.calls for row in rows], dtype=float), everywhere),
    }


def _fixing(rows: Sequence[Judged], chosen: np.ndarray) -> dict[str, Column]:
    """Shares by the counter of parts: after, before, of clean scenes, of those that failed before; and made worse."""
    known = np.array([row.passed_after is not None for row in rows]) & chosen
    after, before, clean = (
        np.array([bool(getattr(row, name)) for row in rows])
        for name in ("passed_after", "passed_before", "passed_clean")
    )
    return {
        "fixed": (after, known),
        "floor": (before, known),
        "ceiling": (clean, known),
        "fixed_of_failing": (after, known & ~before),
        "spoilt": (before & ~after, known),
    }


def _changes(rows: Sequence[Judged], corrected: np.ndarray) -> dict[str, Column]:
    """Mean changes of the judges' scores on corrected positives; the third one steered nothing."""
    pairs = {
        "verifier_gain": [(row.correction.verifier, row.correction.verifier_after) for row in rows],
        "verdict_fall": [(row.correction.verdict_after, row.correction.verdict) for row in rows],
        "third_gain": [(row.third_before, row.third_after) for row in rows],
    }
    columns = {}
    for name, found in pairs.items():
        known = np.array([None not in pair for pair in found]) & corrected
        gains = np.array([b - a if k else 0.0 for (a, b), k in zip(found, known, strict=True)])
        columns[name] = (gains, known)
        if name == "third_gain":
            columns["third_agrees"] = (gains > 0, known)
    return columns


def _intervals(columns: dict[str, Column], weights: np.ndarray) -> dict[str, dict[str, float]]:
    """Those that are defined on some image."""
    found: dict[str, Statistic] = {name: mean_of(values, on) for name, (values, on) in columns.items() if on.any()}
    return {name: interval(one, weights, int(columns[name][1].sum())).model_dump() for name, one in found.items()}


def _sources(rows: Sequence[Judged]) -> dict[str, dict[str, int]]:
    """Per source of places: repaintings tried, preferred by both judges, applied; and how many images whose last
    repainting came from it pass the counter of parts."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for turn in row.correction.rounds:
            for index, one in enumerate(turn.candidates):
                own = counts[one.place.source]
                own["tried"] += 1
                own["preferred"] += one.why == BETTER
                own["applied"] += index == turn.chosen
        if row.correction.applied:
            counts[row.correction.applied[-1].source]["passing"] += bool(row.passed_after)
    return {name: dict(counts[name]) for name in SOURCES if name in counts}


def _counts(rows: Sequence[Judged]) -> dict[str, Any]:
    """Outcomes by class, rounds that were worked and applied, transformer calls."""
    outcomes = {
        name: dict(sorted(Counter(row.correction.outcome for row in rows if row.faulty is faulty).items()))
        for name, faulty in (("faulty", True), ("clean", False))
    }
    worked = [row for row in rows if row.correction.rounds]
    applied = Counter(
        number for row in rows for number, turn in enumerate(row.correction.rounds, 1) if turn.chosen is not None
    )
    calls = sum(row.correction.calls for row in worked)
    return {
        "images": len(rows),
        "outcomes": outcomes,
        "worked_on": len(worked),
        "rounds": sum(len(row.correction.rounds) for row in worked),
        "applied_in_round": {str(number): applied[number] for number in sorted(applied)},
        "repaintings": sum(len(turn.candidates) for row in worked for turn in row.correction.rounds),
        "calls": calls,
        "calls_per_worked_image": round(calls / len(worked), 1) if worked else 0.0,
    }
