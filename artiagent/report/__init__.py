"""What a person opens after a run: ``report.html`` (self-contained), ``summary.json`` (the same figures), and
``curation.html``, the curated set's own report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from artiagent.report.summary import summarise
from artiagent.store import write_atomic

CURATION = "curation.html"


def write_report(run_dir: Path, bundle: dict[str, Any]) -> dict[str, Any]:
    """Write the files into ``run_dir`` and return the summary.

    Args:
        run_dir: ``runs/<name>``; created.
        bundle: ``name``, ``config`` (Config), ``refs`` (stage name -> DatasetRef | CheckpointRef | EvaluationReport),
            ``lineage``, ``published`` and ``registered`` (plain dicts).
    """
    from artiagent.report.page import render_page

    summary = summarise(bundle)
    curation = Path(bundle["refs"]["curate"].uri) / "report.html"
    if curation.is_file():
        write_atomic(run_dir / CURATION, curation.read_bytes())
    write_atomic(run_dir / "report.html", render_page(bundle, summary).encode())
    write_atomic(run_dir / "summary.json", json.dumps(summary, indent=1, sort_keys=True).encode())
    return summary
