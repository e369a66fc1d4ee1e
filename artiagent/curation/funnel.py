"""How many artifacts were tried and kept, per tool and kernel, and why the others were not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from artiagent.records import Pair

FUNNEL, AUDIT, REVIEW = "funnel.json", "audit.json", "review.json"  # beside a curated set


def funnel(pairs: Iterable[Pair]) -> dict[str, Any]:
    """Count curated pairs, scored and unscored groups apart.

    Returns ``{"scored" | "unscored": {"pairs": {...}, "tools": {"distort": {"tried", "accepted", "reasons"},
    "distort/shuffle": ...}}}``. A benign injection counts as accepted when it may serve as a hard negative.
    """
    counts: dict[str, Counter[tuple[str, ...]]] = {"scored": Counter(), "unscored": Counter()}
    for pair in pairs:
        _count(pair, counts["scored" if pair.scored else "unscored"])
    return {name: _table(counter) for name, counter in counts.items()}


def hard_negative(pair: Pair) -> bool:
    """A benign pair in which nothing failed: clean, although it went through the same machinery."""
    return pair.benign and all(a.reason is None for a in pair.artifacts)


def _count(pair: Pair, counter: Counter[tuple[str, ...]]) -> None:
    counter["pairs", "benign" if pair.benign else "tried"] += 1
    counter["pairs", "hard_negatives" if pair.benign else "accepted"] += hard_negative(pair) or pair.accepted
    counter["pairs", "pasted_back"] += pair.pasted_back
    for artifact in pair.artifacts:
        tool, kernel = artifact.injection.tool, artifact.injection.kernel
        for name in (tool, f"{tool}/{kernel}") if kernel else (tool,):
            counter["tools", name, "tried"] += 1
            counter["tools", name, "accepted"] += artifact.reason is None
            if artifact.reason is not None:
                counter["tools", name, "reasons", artifact.reason] += 1


def _table(counter: Counter[tuple[str, ...]]) -> dict[str, Any]:
    pair_keys = ("tried", "accepted", "pasted_back", "benign", "hard_negatives")
    tools = sorted({key[1] for key in counter if key[0] == "tools"})
    return {
        "pairs": {key: counter["pairs", key] for key in pair_keys},
        "tools": {
            name: {
                "tried": counter["tools", name, "tried"],
                "accepted": counter["tools", name, "accepted"],
                "reasons": {key[3]: n for key, n in sorted(counter.items()) if key[:3] == ("tools", name, "reasons")},
            }
            for name in tools
        },
    }
