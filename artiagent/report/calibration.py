"""The evidence about a perceptual window as a page: distributions of known edits, and what either window accepts."""

from __future__ import annotations

from typing import Any

import numpy as np

from artiagent.report.charts import Histogram, histogram_chart
from artiagent.report.page import environment
from artiagent.report.summary import interval_text


def render_calibration(evidence: dict[str, Any]) -> tuple[str, str]:
    """HTML text of the page and its chart as SVG, of what `curation.calibration.calibrate` found."""
    edges = np.linspace(0, 1, len(next(iter(evidence["kinds"].values()))["histogram"]) + 1)
    windows = evidence["configured"], evidence["proposed"]
    panels = {
        f"{kind}, n = {found['n']}": Histogram({"edits": found["histogram"]}, *windows)
        for kind, found in evidence["kinds"].items()
    }
    chart = histogram_chart(panels, edges, f"similarity of twin and edited image, by {evidence['metric']}")
    page = environment().get_template("calibration.html.j2").render(found=evidence, chart=chart, interval=interval_text)
    return page, chart
