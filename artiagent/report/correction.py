"""What a person opens after correcting a benchmark: figures with intervals, by fault and source, and strips.

Which images are shown is decided by ground truth and a seed alone; hits, failures and false corrections stand there as
they come. Every corrected clean image is shown beside them: those are the harm.
"""

from __future__ import annotations

from typing import Any

from artiagent.images import data_uri
from artiagent.mitigation.correction.figures import Judged
from artiagent.mitigation.correction.strips import marked
from artiagent.records import Box, DatasetRef
from artiagent.report.charts import score_chart, share_chart
from artiagent.report.page import environment
from artiagent.report.summary import interval_text
from artiagent.store import Row, read_rows

PER_FAULT, CLEAN_SHOWN = 6, 12
FIGURES = {
    "fixed": "positives fixed: part counts equal those of the clean scene",
    "floor": "... already so before any correction (floor)",
    "ceiling": "... of clean scenes through the autoencoder (ceiling)",
    "fixed_of_failing": "fixed, of positives whose part counts were wrong before",
    "spoilt": "positives whose part counts were right before and are wrong after",
    "found": "positives that the VLM calls faulty",
    "corrected": "positives with an applied correction",
    "false_alarms": "clean images that the VLM calls faulty",
    "altered_clean": "clean images altered",
    "outside_identical": "images whose pixels outside the repainted boxes are the input's",
    "verifier_gain": "reward by the steering verifier, change on corrected positives",
    "third_gain": "reward by the verifier that steered nothing, change on corrected positives",
    "third_agrees": "... share on which it rises",
    "verdict_fall": "P(Yes) of the VLM, fall on corrected positives",
    "calls": "transformer calls per image",
}
OUTCOMES = ("clean", "kept", "corrected")


def render_correction(figures: dict[str, Any], rows: DatasetRef) -> str:
    """HTML text of the page, self-contained.

    Args:
        figures: of ``correction.json``.
        rows: the data set of `Judged`.
    """
    shares = {name: figures["counts"]["outcomes"][name] for name in ("faulty", "clean")}
    by_fault = {"all": figures["scores"], **figures["by_fault"]}
    page = environment().get_template("correction.html.j2")
    return page.render(
        figures=figures, labels=FIGURES, interval=interval_text, by_fault=by_fault,
        chart=score_chart(by_fault, ("fixed", "floor", "ceiling"), ("all",)),
        outcomes=share_chart({f"{name} images": counts for name, counts in shares.items()}, OUTCOMES),
        gallery=_gallery(rows),
    )  # fmt: skip


def _gallery(rows: DatasetRef) -> dict[str, list[dict[str, Any]]]:
    """Title -> strips."""
    judged = sorted((row.record for row in read_rows(rows, Judged, ())), key=lambda one: one.item_id)
    groups = {
        fault: [one.item_id for one in judged if one.faulty and one.fault == fault][:PER_FAULT]
        for fault in sorted({one.fault for one in judged if one.faulty})
    }
    groups["clean images that were altered"] = [one.item_id for one in judged if not one.faulty and one.altered][
        :CLEAN_SHOWN
    ]
    wanted = frozenset(item for items in groups.values() for item in items)
    shown = {row.key: _strip(row) for row in read_rows(rows, Judged, wanted=wanted.__contains__)}
    return {title or "faulty": [shown[item] for item in items] for title, items in groups.items() if items}


def _strip(row: Row[Judged]) -> dict[str, Any]:
    one, record = row.record, row.record.correction
    return {
        "item": one.item_id,
        "width": record.width,
        "height": record.height,
        "before": data_uri(row.images["before"]),
        "after": data_uri(row.images["after"]),
        "boxes": [_drawn(box) for box in marked(record)],
        "outcome": record.outcome,
        "fixed": one.passed_after,
        "sources": [place.source for place in record.applied],
        "caption": record.rounds[0].caption if record.rounds else "",
        "verdict": record.verdict,
        "verdict_after": record.verdict_after,
        "rounds": len(record.rounds),
    }


def _drawn(box: Box) -> tuple[int, int, int, int]:
    return box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0
