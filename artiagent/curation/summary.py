"""What is said about a curated set as a whole: ``funnel.json``, ``audit.json`` and ``report.html`` beside its shards.

All are pure functions of the set, of what made it and of the calls beside it. Does not know how a verdict comes about.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from artiagent.config import CurationSection
from artiagent.curation.audit import eligible, sample, shortcut_audit
from artiagent.curation.funnel import AUDIT, FUNNEL, funnel
from artiagent.images import decode
from artiagent.records import ARTIFACT_TOOLS, DatasetRef, Pair
from artiagent.report.curation import REPORT, write_curation_report
from artiagent.store import read_rows, write_atomic


def made_by(section: CurationSection) -> dict[str, Any]:
    """What the verdicts of a set come from, for ``funnel.json``: metric, why it is that one, judge, writer, limits."""
    window = {"lpips": section.lpips_window, "ssim": section.ssim_window}.get(section.metric)
    names = (
        "change_inside_min", "change_share_min", "change_outside_max", "seam_max", "judge_margin", "judge_slack",
    )  # fmt: skip
    limits = {"window": list(window) if window else None, **{name: getattr(section, name) for name in names}}
    used = {"metric": section.metric, "metric_note": section.metric_note, "judge": section.judge}
    return {**used, "writer": section.explain, "limits": limits}


def summarise(section: CurationSection, ref: DatasetRef, used: Mapping[str, Any]) -> DatasetRef:
    """Write what is missing beside a complete set, and return its reference with the summary.

    Args:
        section: resamples and limit of the shortcut audit.
        ref: the curated set; ``calls.parquet`` lies beside it where anybody was asked.
        used: of `made_by`; of a reviewed set also ``reviewed``.
    """
    folder = Path(ref.uri)
    counts = _beside(folder / FUNNEL, lambda: {**used, **funnel(row.record for row in read_rows(ref, Pair, ()))})
    audit = _beside(folder / AUDIT, lambda: _audited(section, ref))
    if not (folder / REPORT).is_file():
        write_curation_report(ref, folder)
    return ref.model_copy(update={"summary": {**ref.summary, **_figures(counts, audit)}})


def _audited(section: CurationSection, ref: DatasetRef) -> dict[str, Any]:
    """The audit of the eligible pairs, or of a sample of them: ``eligible`` and ``audited`` say how many."""
    counts = Counter(eligible=0)
    chosen = sample(_eligible(ref, counts))
    stream = tqdm(read_rows(ref, Pair, wanted=chosen), "audit", total=len(chosen), unit="pair")
    pairs = ((row.record, decode(row.images["clean"]), decode(row.images["artifact"])) for row in stream)
    report = shortcut_audit(pairs, resamples=section.audit_resamples, upper=section.audit_upper)
    return {**report, **counts, "audited": len(chosen)}


def _eligible(ref: DatasetRef, counts: Counter[str]) -> Iterator[str]:
    for row in read_rows(ref, Pair, images=()):
        if eligible(row.record):
            counts["eligible"] += 1
            yield row.key


def _beside(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Content of the file, computed and written when a killed run left it out."""
    if not path.is_file():
        write_atomic(path, json.dumps(compute(), indent=1).encode())
    return json.loads(path.read_text())


def _figures(counts: dict[str, Any], audit: dict[str, Any]) -> dict[str, float | int | str]:
    scored = counts["scored"]
    tools = {
        f"{tool}_{key}": scored["tools"].get(tool, {}).get(key, 0)
        for tool in ARTIFACT_TOOLS
        for key in ("tried", "accepted")
    }
    return {**scored["pairs"], **tools, "metric": counts["metric"], "judge": counts["judge"], "audit": audit["verdict"]}
