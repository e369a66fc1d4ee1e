"""``attention.html`` and ``attention.json``: maps of several models over the same pictures, and what they add up to.

Knows maps and the template's needs. Does not load models. The shading is in units of an even spread, the same for all
models and pictures: a map is not stretched to its own maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artiagent.evaluation.attention import PAIRED, VARIANTS, AttentionReport, Gaze
from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.report.charts import score_chart
from artiagent.report.page import environment
from artiagent.report.strips import cells_path, embedded, strips
from artiagent.report.summary import interval_text
from artiagent.store import write_atomic

PAGE, JSON = "attention.html", "attention.json"
STEPS = (1.5, 2.5, 4.0, 6.5, 10.0)  # times an even spread; a step is a shade
TITLES = {"attention": "attention", "weighted": "weighted by its gradient towards Yes"}
FIGURES = {
    "faulty": "faulty, in the region", "clean": "clean, a region of equal size", "excess": "difference",
    "said_yes": "faulty, said Yes", "said_no": "faulty, said No",
}  # fmt: skip


def write_attention(folder: Path, report: AttentionReport | None, shown: Sequence[dict[str, Any]]) -> None:
    """Write the page, and with a report its figures as JSON.

    Args:
        folder: created.
        report: None for pictures of one's own, which have no ground truth.
        shown: of ``pictures`` or ``own_pictures``.
    """
    charts = {variant: _chart(report, variant) for variant in VARIANTS} if report else {}
    page = environment().get_template("attention.html.j2").render(
        report=report, shown=shown, charts=charts, titles=TITLES, figures=FIGURES, steps=STEPS, interval=_interval,
    )  # fmt: skip
    if report is not None:
        write_atomic(folder / JSON, report.model_dump_json(indent=1).encode())
    write_atomic(folder / PAGE, page.encode())


def pictures(
    items: Sequence[tuple[BenchmarkItem, bytes]], gazes: Mapping[str, Mapping[str, Gaze]], report: AttentionReport
) -> list[dict[str, Any]]:
    """Items and images for the page, with the maps of every model: name -> item id -> gaze."""
    rows = {row.item_id: row for row in report.items}
    made = strips(items, {})
    for strip, (item, _) in zip(made, items, strict=True):
        strip["maps"] = [
            _maps(model, by_item[item.item_id], item.width, item.height) for model, by_item in gazes.items()
        ]
        if (row := rows.get(item.item_id)) is not None and item.faulty:
            for each in strip["maps"]:
                each["ratio"] = {v: row.inside[v][each["model"]] / row.area for v in VARIANTS}
    return made


def own_pictures(
    images: Mapping[str, tuple[bytes, int, int]], gazes: Mapping[str, Mapping[str, Gaze]]
) -> list[dict[str, Any]]:
    """The same for images without ground truth: name -> (encoded, width, height)."""
    return [
        {
            "id": f"own-{k}", "item": name, "title": name, "kind": "", "width": width, "height": height,
            "image": embedded(data), "truth": {"boxes": [], "path": ""}, "explanation": "",
            "maps": [_maps(model, by_name[name], width, height) for model, by_name in gazes.items()],
        }
        for k, (name, (data, width, height)) in enumerate(images.items())
    ]  # fmt: skip


def _maps(model: str, gaze: Gaze, width: int, height: int) -> dict[str, Any]:
    return {
        "model": model,
        "score": gaze.score,
        "ratio": {},
        "drawn": {variant: _shaded(getattr(gaze, variant), width, height) for variant in VARIANTS},
    }


def _shaded(heat: np.ndarray, width: int, height: int) -> dict[str, Any]:
    """Paths of the cells at and above each of ``STEPS``, with the scale from cells to pixels of the image."""
    rows, columns = heat.shape
    ratio = heat * heat.size
    levels = np.digitize(ratio, STEPS)
    paths = [(level, cells_path(levels == level)) for level in range(1, len(STEPS) + 1)]
    return {"sx": width / columns, "sy": height / rows, "paths": [(level, path) for level, path in paths if path]}


def _chart(report: AttentionReport, variant: str) -> str:
    """Rows: models; panels: faulty and clean, 1 is an even spread."""
    figures = {
        model: {FIGURES[name]: values[name].model_dump() for name in PAIRED if name in values}
        for model, values in report.localization[variant].items()
    }
    return score_chart(figures, tuple(FIGURES[name] for name in PAIRED), accented=list(figures))


def _interval(found: Any) -> str:
    return interval_text(found.model_dump() if found else None)
