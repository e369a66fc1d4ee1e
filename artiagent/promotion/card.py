"""The card of a model version: Markdown that says what it is, what it learnt from, how good it is and how to use it.

A pure function of evidence, decision and aliases. Does not know where they are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from artiagent.licences import licence_of_text
from artiagent.promotion.evidence import Evidence
from artiagent.promotion.gate import luck
from artiagent.promotion.records import Promotion
from artiagent.records import EvaluationReport, Interval

METRICS = ("accuracy", "macro_f1", "auroc", "iou", "pixel_f1", "rouge_l", "css", "grounded_recall")
CURVES = ("loss", "margin_loss", "eval_loss", "pair_accuracy", "accuracy")
POINTS = 8  # of the curve
OWN = "tuned"  # name of the version in the report of its run
DESCRIPTION = 4800  # characters: registries on a server keep 5,000


@dataclass(frozen=True)
class _Scores:
    """A report as the template takes it."""

    benchmark: str
    benchmark_sha256: str
    n: int
    n_faulty: int
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    weakest: tuple[str, ...]


def model_card(
    name: str,
    version: str,
    sha256: str,
    aliases: Iterable[str],
    evidence: Evidence | None,
    promotion: Promotion | None = None,
) -> str:
    """The card.

    Args:
        name: registered model.
        version: its number.
        sha256: of the weights.
        aliases: that the version has.
        evidence: None for a version that was registered without.
        promotion: the last act about the version, if any.
    """
    decision = promotion.decision if promotion else None
    curve = _points(evidence.curve) if evidence else []
    text = _environment().get_template("model_card.md.j2").render(
        name=name, version=version, sha256=sha256, aliases=sorted(aliases), e=evidence, decision=decision,
        story=story(version, promotion), luck=luck(decision.gating_count) if decision else 0,
        recipe=yaml.safe_dump(evidence.recipe, sort_keys=False, default_flow_style=None) if evidence else "",
        curve=curve, curve_columns=[c for c in CURVES if any(c in row for row in curve)],
        reports=list(_reports(evidence.evaluation)) if evidence else [], audit_text=_audit_text(evidence),
    )  # fmt: skip
    return text.strip() + "\n"


def description(promotion: Promotion) -> str:
    """The evidence in brief, for the version's description in the registry."""
    lines = [f"**{story(promotion.version, promotion)}**"]
    if (decision := promotion.decision) is not None:
        lines += [
            "",
            f"Gate: {decision.verdict} against {decision.champion} on `{decision.benchmark}` (revision "
            f"`{decision.revision[:16]}`, {decision.n} images, looked at {decision.gating_count} times for gating).",
            "",
            *(f"- {reason}" for reason in decision.reasons),
        ]
    lines += ["", f"Decision and model card: artifacts of MLflow run `{promotion.run}`."]
    return "\n".join(lines)[:DESCRIPTION]


def newcomer(evidence: Evidence) -> str:
    """Description of a version that no gate has judged yet."""
    report, scores = evidence.evaluation, dict(evidence.scores)
    if report is not None:
        scores = {metric: found for metric, found in report.scores.get(OWN, {}).items() if metric in METRICS}
    where = f" on `{report.benchmark}` (revision `{report.benchmark_sha256[:16]}`)" if report else ""
    if report is None and evidence.benchmark:
        where = f"; benchmark: `{evidence.benchmark}` (revision `{evidence.benchmark_sha256[:16]}`)"
    told = ", ".join(f"{metric} {interval_text(found)}" for metric, found in scores.items())
    data = ", ".join(f"{kind} `{digest[:16]}`" for kind, digest in evidence.data.items())
    return (
        f"From {evidence.base.name}, data: {data}, shortcut audit: {evidence.audit_verdict}.\n\n"
        f"{told or 'No scores'}{where}. Not judged by a gate yet."
    )[:DESCRIPTION]


def story(version: str, promotion: Promotion | None) -> str:
    """One sentence on how a version came to where it is."""
    if promotion is None:
        return "No gate has judged this version yet; the first version of a name is its champion until one does."
    who = f" by {promotion.by}" if promotion.by else ""
    if promotion.state == "done":
        if promotion.action == "rollback":
            return (
                f"Champion since {promotion.at}: rolled back{who} from version {promotion.previous}. {promotion.reason}"
            )
        if promotion.action == "force":
            return f"Champion since {promotion.at}: forced{who} past the gate, with the reason: {promotion.reason}"
        return f"Champion since {promotion.at}: passed the gate{f', approved{who}' if who else ''}."
    return {
        "kept": f"Not promoted on {promotion.at}: the gate kept the champion.",
        "refused": f"Not promoted on {promotion.at}: the gate refused to judge.",
        "dry run": f"Judged on {promotion.at} in a dry run: nothing was changed.",
        "awaiting approval": f"Passed the gate on {promotion.at}; waits for a person: "
        f"artiagent promote --name {promotion.name} --approve {version} --by NAME.",
    }.get(promotion.state, promotion.note)


def interval_text(found: Interval | None, sign: str = "") -> str:
    """``0.712 [0.663, 0.751]``; a dash where a metric does not apply."""
    if found is None:
        return "-"
    return f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _environment() -> Environment:
    loader = PackageLoader("artiagent.promotion", "templates")
    made = Environment(  # noqa: S701  (Markdown)
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    made.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    made.filters["interval"] = interval_text
    made.filters["use"] = lambda name: {True: "yes", False: "**no**", None: "not stated"}[
        licence_of_text(name).commercial
    ]
    return made


def _points(curve: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """A few rows of the curve, first and last of them, each with ``stage`` and ``step``."""
    rows = [{"stage": "", "step": index, **row} for index, row in enumerate(curve)]
    step = max(1, -(-(len(rows) - 1) // (POINTS - 1))) if len(rows) > 1 else 1
    return rows[::step] + ([rows[-1]] if rows and (len(rows) - 1) % step else [])


def _reports(report: EvaluationReport | None) -> Iterator[_Scores]:
    for part in (report, *report.further) if report else ():
        columns = tuple(m for m in METRICS if any(m in scores for scores in part.scores.values()))
        lines = tuple(
            (model, tuple(interval_text(scores.get(c)) for c in columns)) for model, scores in part.scores.items()
        )
        yield _Scores(
            part.benchmark, part.benchmark_sha256, part.n, part.n_faulty, columns, lines, tuple(_weakest(part))
        )


def _weakest(report: EvaluationReport, most: int = 3) -> Iterator[str]:
    """The fault types that the version finds worst."""
    recalls = {
        name.removeprefix(f"{OWN}/"): table["recall"]
        for name, table in report.breakdown.items()
        if name.startswith(f"{OWN}/") and "recall" in table
    }
    for fault, found in sorted(recalls.items(), key=lambda entry: entry[1].value)[:most]:
        yield f"{fault} (recall {interval_text(found)}, n = {found.n})"


def _audit_text(evidence: Evidence | None) -> str:
    probes = evidence.audit.get("probes", {}) if evidence else {}
    told = [
        f"{name} {p['auroc']} [{p['low']}, {p['high']}]" for name, p in probes.items() if p.get("auroc") is not None
    ]
    return f" (AUROC of its probes: {'; '.join(told)})" if told else ""
