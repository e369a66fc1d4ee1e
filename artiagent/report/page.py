"""The HTML page: galleries of pairs, tables and charts from a Jinja template, one self-contained file."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from artiagent.images import data_uri
from artiagent.inputs import read_benchmarks
from artiagent.records import ARTIFACT_TOOLS, DatasetRef, Pair, Prediction
from artiagent.report import strips
from artiagent.report.charts import LABELS, curve_chart, score_chart
from artiagent.report.reward import reward_facts
from artiagent.report.summary import funnel_rows, interval_text, read_json
from artiagent.store import Row, read_rows

SHOWN = 9  # pairs per tool
STRIPS = 10  # benchmark images with both models' answers
REJECTED = 3  # rejected pairs per reason
REWARD_LABELS = {
    "within": "reward: clean side preferred, within a scene", "across": "reward: clean side preferred, across scenes",
    "benchmark_auroc": "reward: AUROC on the benchmark",
}  # fmt: skip
METRICS = ("accuracy", "macro_f1", "auroc", "recall_at_10", "iou", "pixel_f1", "rouge_l", "grounded_recall")


def environment() -> Environment:
    """The templates of the reports."""
    return Environment(
        loader=PackageLoader("artiagent.report", "templates"),
        autoescape=select_autoescape(["html", "j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(bundle: dict[str, Any], summary: dict[str, Any]) -> str:
    """HTML text of the report."""
    refs = bundle["refs"]
    accepted, rejected, unscored = galleries(refs["curate"])
    evaluation = summary["evaluation"]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            reward_labels=REWARD_LABELS,
            counts=summary["pairs"]["scored"]["pairs"],
            funnel=funnel_rows(summary["pairs"]),
            accepted=accepted,
            rejected=rejected,
            unscored=unscored,
            metrics=[m for m in METRICS if any(m in s for s in evaluation["scores"].values())],
            charts={
                part["benchmark"]: score_chart(part["scores"], ("macro_f1", "auroc", "iou", "rouge_l"))
                for part in (evaluation, *evaluation["further"])
            },
            labels=LABELS,
            interval=interval_text,
            strips=_strips(bundle),
            sft_chart=curve_chart(_curves(refs["finetune"].uri), ("loss", "margin_loss", "margin", "eval_loss")),
            reward=reward_facts(Path(refs["train_reward"].uri)),
        )
    )


def galleries(curated: DatasetRef) -> tuple[dict[str, list], dict[str, list], list]:
    """Examples for the page: accepted by tool, rejected by reason, and pairs of the groups that are not scored.

    One pass over the set; only the examples are kept in memory. At most one example per source and tool.
    """
    accepted: dict[str, list[dict]] = {tool: [] for tool in ARTIFACT_TOOLS}
    rejected: dict[str, list[dict]] = defaultdict(list)
    unscored: list[dict] = []
    used: set[tuple[str, str]] = set()
    for row in read_rows(curated, Pair):
        pair = row.record
        if pair.benign:
            continue
        if not pair.scored:
            if len(unscored) < 2 * SHOWN and (pair.source_id, "unscored", pair.accepted) not in used:
                used.add((pair.source_id, "unscored", pair.accepted))
                unscored.append(example(row))
        elif pair.accepted:
            tool = pair.faults[0].injection.tool
            if len(accepted[tool]) < SHOWN and (pair.source_id, tool) not in used:
                used.add((pair.source_id, tool))
                accepted[tool].append(example(row))
        else:
            reason = pair.artifacts[0].reason or "unknown"
            if len(rejected[reason]) < REJECTED:
                rejected[reason].append(example(row))
    return accepted, dict(sorted(rejected.items())), unscored


def example(row: Row[Pair]) -> dict[str, Any]:
    """What the template needs to draw one pair."""
    pair = row.record
    shown = pair.faults or pair.artifacts
    return {
        "width": pair.width,
        "height": pair.height,
        "clean": data_uri(row.images["clean"]),
        "artifact": data_uri(row.images["artifact"]),
        "boxes": [(a.box.x0, a.box.y0, a.box.x1 - a.box.x0, a.box.y1 - a.box.y0) for a in shown],
        "title": ", ".join(a.label or f"{a.injection.tool} {a.injection.part or a.injection.entity}" for a in shown),
        "text": pair.explanation if pair.accepted else "; ".join(f"{a.reason}: {a.detail}" for a in pair.artifacts),
        "caption": pair.caption,
        "accepted": pair.accepted,
        "kernel": ", ".join(a.injection.kernel for a in shown if a.injection.kernel),
    }


def _strips(bundle: dict[str, Any]) -> dict[str, Any]:
    """Both models' answers on some images of the primary benchmark."""
    refs, limit = bundle["refs"], bundle["config"].evaluation.limit
    answers = {
        model: [row.record for row in read_rows(refs[f"evaluate_{model}"], Prediction)] for model in ("base", "tuned")
    }
    return strips.gallery(read_benchmarks(refs["ingest"])[0], answers, STRIPS, limit=limit)


def _curves(folder: str) -> list[dict[str, Any]]:
    return read_json(Path(folder) / "training.json")
