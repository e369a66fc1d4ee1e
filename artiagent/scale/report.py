"""A plan for a terminal, side by side with others, and as charts.

Knows columns and units. Does not know where a figure comes from beyond what the plan says of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from artiagent.scale.records import Plan, Quantiles, RateUsed
from artiagent.scale.sweep import FAILS, Curve, Point

WIDTH = 120
TOLD, LITTLE = 5, 0.03  # numbers that are named, and the share from which they are
BASIS = {"measured": "measured", "run": "measured in a run", "counted": "counted", "assumed": "ASSUMED"}


def text(plan: Plan, curves: Sequence[Curve] = ()) -> str:
    """The whole plan."""
    parts = [
        _head(plan), _totals(plan), _stages(plan), _path(plan), _calls(plan), _storage(plan), _shards(curves),
        _matters(plan), _basis(plan), _notes(plan),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def side_by_side(plans: Sequence[Plan]) -> str:
    """What differs between plans of the same run on other machines."""
    lines = [f"{'':<26}" + "".join(f"{plan.gpus:>22}" for plan in plans)]
    rows = [
        ("hours, p50 and p95", [_two(plan.hours, ",.1f") for plan in plans]),
        ("GPU-hours, p50 and p95", [_two(plan.gpu_hours, ",.0f") for plan in plans]),
        (f"{plans[0].currency}, p50 and p95", [_two(plan.money, ",.0f") for plan in plans]),
        ("runs that fail", [f"{plan.failed:.1%}" for plan in plans]),
        ("GPU time that is work", [f"{plan.utilisation:.0%}" if plan.utilisation else "-" for plan in plans]),
        *(
            (f"  {stage.name}, hours", [_two(plan.stages[i].hours, ",.2f") for plan in plans])
            for i, stage in enumerate(plans[0].stages)
            if any((plan.stages[i].hours.p50 or 0) > 0.05 * (plan.hours.p50 or 0) for plan in plans)
        ),
    ]
    return "\n".join([*lines, *(f"{name:<26}" + "".join(f"{cell:>22}" for cell in cells) for name, cells in rows)])


def _head(plan: Plan) -> str:
    where = "on one machine, one thing after the other" if plan.local else f"on {plan.gpus}"
    chance = "" if plan.local else f", {plan.preemption:.0%} an hour that a spot GPU is taken, {plan.retries} retries"
    return (
        f"{plan.pairs:,} accepted pairs of {plan.config} (profile {plan.profile}) {where}{chance}; "
        f"{plan.runs:,} simulated runs, seed {plan.seed}\n"
        f"p50: {_half(plan, 'tried')} pairs tried at {plan.acceptance} accepted, {_half(plan, 'job')} jobs with benign "
        f"ones, {_half(plan, 'source')} sources, {_half(plan, 'image')} images to look at"
    )


def _half(plan: Plan, unit: str) -> str:
    return f"{plan.amounts[unit].p50:,.0f}"


def _totals(plan: Plan) -> str:
    if plan.hours.p50 is None:
        where = ", ".join(f"{step} {share:.0%}" for step, share in plan.failed_at.items())
        return f"every simulated run FAILED ({where}): more shards, more retries, or no spot"
    unit, times = clock([plan])
    rows = [
        (unit, _times(plan.hours, times), ",.1f"),
        ("GPU-hours", plan.gpu_hours, ",.0f"),
        (plan.currency, plan.money, ",.0f"),
    ]
    rows += [(f"  {name}", value, ",.0f") for name, value in plan.money_by.items()]
    lines = [f"{'':<14}{'p50':>12}{'p80':>12}{'p95':>12}"]
    lines += [f"{name:<14}" + "".join(f"{v:>12{form}}" for v in _three(value)) for name, value, form in rows]
    fails = ", ".join(f"{step} {share:.1%}" for step, share in plan.failed_at.items())
    lines.append(f"{'runs that fail':<14}{plan.failed:>12.1%}{f'   ({fails})' if fails else ''}")
    if plan.utilisation is not None:
        lines.append(f"{'GPU time paid':<14}{plan.utilisation:>12.0%} of it work; the rest starts, idles or is lost")
    return "\n".join(lines)


def _stages(plan: Plan) -> str:
    unit, times = clock([plan])
    lines = [
        f"{'stage':<16}{'machine':<20}{'shards':>7}{'units':>12} {'unit':<14}{'s a unit':<24}"
        f"{unit[0] + ' p50':>8}{'p95':>8}{'GPU-h':>9}{plan.currency:>8}"
    ]
    for stage in plan.stages:
        machine = f"{stage.gpus}x{stage.device}{' spot' if stage.spot else ''}" if stage.gpus else stage.device
        wall = _three(_times(stage.hours, times))
        sums = f"{wall[0]:>8.2f}{wall[-1]:>8.2f}{stage.gpu_hours.p50 or 0:>9,.1f}"
        sums += f"{stage.money.p50 or 0:>8,.0f}"
        first, *others = stage.rates
        lines.append(f"{stage.name:<16}{machine:<20}{stage.shards:>7}{_rate(first)}{sums}")
        lines += [f"{'':<43}{_rate(rate)}" for rate in others]
    return "\n".join(lines + ["* assumed, not measured; s a unit is of one device"])


def _rate(rate: RateUsed) -> str:
    star = "*" if rate.seconds.basis == "assumed" else ""
    return f"{rate.amount:>12,.0f} {rate.unit:<14}{f'{rate.seconds}{star}':<24}"


def _path(plan: Plan) -> str:
    if not plan.path:
        return ""
    names = " -> ".join(name for name in plan.path if not name.endswith(" shards"))
    told = f"critical path ({plan.path_share:.0%} of the runs): {names}"
    return textwrap.fill(told, WIDTH, subsequent_indent="  ")


def _calls(plan: Plan) -> str:
    if not plan.calls:
        return ""
    lines = [f"{'calls':<30}{'calls':>12}{'M tokens in':>14}{'M tokens out':>14}{plan.currency:>10}{'p95':>10}"]
    for call in plan.calls:
        lines.append(
            f"{f'  {call.stage}: {call.task}':<30}{call.calls.p50:>12,.0f}{call.tokens_in.p50 / 1e6:>14,.1f}"
            f"{call.tokens_out.p50 / 1e6:>14,.1f}{call.money.p50:>10,.0f}{call.money.p95:>10,.0f}"
        )
    return "\n".join(lines)


def _storage(plan: Plan) -> str:
    total = sum(value.p50 for value in plan.storage_gb.values())
    parts = ", ".join(f"{name} {value.p50:,.1f}" for name, value in plan.storage_gb.items())
    return f"storage, GB p50: {total:,.0f} ({parts})"


def _shards(curves: Sequence[Curve]) -> str:
    if not curves:
        return ""
    lines = [
        "shards: hours p50/p95 of the stage by itself and money; best is the least number within 10 % of the least p95"
    ]
    for curve in curves:
        shown = [_point(point) for point in curve.points]
        lines.append(
            textwrap.fill(
                f"  {curve.stage:<16}best {curve.best}, configured {curve.configured}; {', '.join(shown)}", WIDTH,
                subsequent_indent=" " * 18,
            )
        )  # fmt: skip
    return "\n".join([*lines, "to paste below parameters.config:", recommended(curves)])


def _point(point: Point) -> str:
    if point.hours.p50 is None:
        return f"{point.shards}: all fail"
    fails = f" ({point.failed:.0%} fail)" if point.failed >= FAILS else ""
    return f"{point.shards}: {point.hours.p50:.2f}/{point.hours.p95:.2f} h {point.money.p50:,.0f}{fails}"


def recommended(curves: Sequence[Curve]) -> str:
    """Lines for a run configuration."""
    return f"scale: {{shards: {{{', '.join(f'{curve.stage}: {curve.best}' for curve in curves)}}}}}"


def _matters(plan: Plan) -> str:
    lines = []
    for what in ("hours", "money"):
        ranked = sorted(plan.matters.items(), key=lambda item: -item[1][what])[:TOLD]
        shown = ", ".join(f"{name} {shares[what]:.0%}" for name, shares in ranked if shares[what] >= LITTLE)
        if shown:
            lines.append(textwrap.fill(f"  {what}: {shown}", WIDTH, subsequent_indent="    "))
    return "\n".join(["measure these first (share of the spread that each explains):", *lines]) if lines else ""


def _basis(plan: Plan) -> str:
    """Every number that the plan rests on, measured ones first."""
    rates = [
        (f"{s.name} per {rate.unit}", rate.seconds) for s in plan.stages for rate in s.rates
    ]  # fmt: skip
    all_of = [*rates, *plan.rest.items()]
    lines = []
    for basis, title in BASIS.items():
        chosen = [(name, estimate) for name, estimate in all_of if estimate.basis == basis]
        if not chosen:
            continue
        lines.append(f"{title} ({len(chosen)}):")
        for name, estimate in chosen:
            told = f"  {name + ' ' + str(estimate):<52}{estimate.source}"
            lines.append(textwrap.fill(told, WIDTH, subsequent_indent=" " * 6))
    return "\n".join(lines)


def _notes(plan: Plan) -> str:
    return "\n".join(
        textwrap.fill(f"! {note}", WIDTH, subsequent_indent="  ") for note in (*plan.notes, f"prices: {plan.prices}")
    )


def clock(plans: Sequence[Plan]) -> tuple[str, float]:
    """Unit of time and its number in an hour: minutes where nothing takes two hours."""
    longest = max((plan.hours.p95 or 0.0 for plan in plans), default=0.0)
    return ("hours", 1.0) if longest > 2 else ("minutes", 60.0)


def _times(value: Quantiles, factor: float) -> Quantiles:
    return Quantiles(**{k: None if v is None else v * factor for k, v in value.model_dump().items()})


def _three(value: Quantiles) -> tuple[float, ...]:
    return tuple(0.0 if v is None else v for v in (value.p50, value.p80, value.p95))


def _two(value: Quantiles, form: str) -> str:
    return "-" if value.p50 is None else f"{value.p50:{form}} | {value.p95:{form}}"
