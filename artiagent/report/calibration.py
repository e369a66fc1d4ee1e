"""The evidence about a perceptual window as a page: distributions of known edits, and what either window accepts."""

from __future__ import annotations

from typing import Any

from artiagent.report.charts import Histogram, histogram_chart
from artiagent.report.page import environment
from artiagent.report.summary import interval_text


def render_calibration(evidence: dict[str, Any]) -> tuple[str, str]:
    """HTML text of the page and its chart as SVG, of what `curation.calibration.calibrate` found."""
    bins = len(next(iter(evidence["kinds"].values()))["histogram"])
    panels = {
        f"{kind}, n = {found['n']}": Histogram(
            {"edits": found["histogram"]}, evidence["configured"], evidence["proposed"]
        )
        for kind, found in evidence["kinds"].items()
    }
    chart = histogram_chart(panels, [k / bins for k in range(bins + 1)], f"similarity, 1 - {evidence['metric']}")
    page = environment().get_template("calibration.html.j2").render(found=evidence, chart=chart, interval=interval_text)
    return page, chart
