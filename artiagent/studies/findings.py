"""What a study found, in sentences made from its figures alone. Knows no expectation: a study may disappoint."""

from __future__ import annotations

from collections.abc import Sequence

from artiagent.records import Interval
from artiagent.studies.table import LABELS, Curve, GroupResult, RowResult, StudyTable, bounds, is_sure


def findings(table: StudyTable) -> dict[str, list[str]]:
    """Group -> its sentences."""
    return {group.name: _of_curves(table, group) if group.curves else _of_rows(group) for group in table.groups}


def text(table: StudyTable) -> str:
    """What the command prints at its end."""
    lines = [f"{table.images} images of {table.benchmark}; 95 % intervals over images and seeds"]
    for group in table.groups:
        lines += ["", f"{group.title} ({seeds_told(group.seeds)})"]
        lines += [f"  - {sentence}" for sentence in findings(table)[group.name]]
    return "\n".join(lines)


def seeds_told(seeds: Sequence[int]) -> str:
    """How many models a figure of a group averages over, and what that is worth."""
    if len(seeds) == 1:
        return "one model a row: intervals do not cover the luck of its training"
    return f"means over {len(seeds)} models a row"


def _of_curves(table: StudyTable, group: GroupResult) -> list[str]:
    return [sentence for curve in group.curves for sentence in _of_curve(table, group, curve)]


def _of_curve(table: StudyTable, group: GroupResult, curve: Curve) -> list[str]:
    name, first, last = LABELS[curve.metric], group.rows[0], group.rows[-1]
    start, end = first.figures[curve.metric], last.figures[curve.metric]
    base = table.base.get(curve.metric)
    told = f"{name} is {start.value:.3f} {bounds(start)} after {first.pairs} pairs and {end.value:.3f} {bounds(end)} "
    told += f"after {last.pairs:,}" + (f"; the base has {base.value:.3f}." if base else ".")
    return [told, _monotone(name, curve), _fitted(curve)]


def _monotone(name: str, curve: Curve) -> str:
    rising = sum(found.low > 0 for found in curve.steps.values())
    if not curve.falling:
        return (
            f"{name} is monotone within the intervals: {rising} of {len(curve.steps)} steps to more pairs make it "
            "surely better, none surely worse."
        )
    worse = ", ".join(f"{step} ({_signed(curve.steps[step])})" for step in curve.falling)
    return f"{name} is not monotone: more pairs make it surely worse at {worse}."


def _fitted(curve: Curve) -> str:
    continued = ", ".join(f"{point.value.value:.3f} {bounds(point.value)} at {point.pairs:,}" for point in curve.beyond)
    missed = f"; it misses the intervals measured at {', '.join(map(str, curve.missed))}" if curve.missed else ""
    return (
        f"Fitted: error = {curve.floor.value:.3f} + {curve.excess.value:.3f} (pairs / {curve.start})^-"
        f"{curve.exponent.value:.2f}; exponent {bounds(curve.exponent)}, floor {bounds(curve.floor)}{missed}"
        + (f". Continued, if the law holds on: {continued}." if continued else ".")
    )


def _of_rows(group: GroupResult) -> list[str]:
    rows = [row for row in group.rows if row.name != group.reference]
    return [_against(row, group.reference) for row in rows] + [told for row in group.rows if (told := _shared(row))]


def _against(row: RowResult, reference: str) -> str:
    kinds: dict[str, list[str]] = {"better": [], "worse": [], "": []}
    for metric, found in row.differences.items():
        kind = "" if not is_sure(found) else "better" if found.value > 0 else "worse"
        kinds[kind].append(f"{LABELS[metric]} ({_signed(found)})")
    parts = [f"surely {kind} in {', '.join(kinds[kind])}" for kind in ("better", "worse") if kinds[kind]]
    if kinds[""]:
        parts.append(f"no sure difference in {', '.join(kinds[''])}")
    return f"{row.name} against {reference}: {'; '.join(parts)}."


def _shared(row: RowResult) -> str:
    told = [
        f"{100 * found.value:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}] in {LABELS[metric]}"
        for metric, found in row.share.items()
    ]
    return f"{row.name} reaches this much of what drawn faults gain over the base: {', '.join(told)}." if told else ""


def _signed(found: Interval) -> str:
    return f"{found.value:+.3f} {bounds(found)}"
