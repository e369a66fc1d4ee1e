"""What a person opens after curation: who was kept and why not, by tool, reason and figure, with examples.

Knows a curated set and the files beside it. Judges nothing anew. The records are read once, in constant memory: counts,
histograms, and of each group of examples the few whose key hashes lowest; then only the rows of these are opened.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from artiagent.curation.funnel import AUDIT, FUNNEL, REVIEW
from artiagent.images import data_uri, decode, encode, scaled, scaled_size
from artiagent.records import ARTIFACT_TOOLS, Artifact, Box, DatasetRef, Pair, Reason, stable_hash
from artiagent.report.charts import Histogram, histogram_chart, share_chart
from artiagent.report.page import environment, example
from artiagent.report.summary import funnel_rows, read_json
from artiagent.store import Row, read_rows, write_atomic
from artiagent.vlm.calls import ANSWERED, CALLS, account, read_calls

REPORT = "report.html"
ACCEPTED, REJECTED = "accepted", "rejected"
SHOWN = {ACCEPTED: 6, REJECTED: 3}  # examples of a tool, of a tool and reason
OUTCOMES = (ACCEPTED, *(r for r in Reason.__args__ if r not in ("no_vocabulary", "no_parent", "too_small")))
_WHOLE, _THUMBNAIL = 192, 256  # px: sides up to which an image is shown whole; longest side that is embedded
_GAIN = 3  # of the difference picture
FIGURES = {
    "distance": ("perceptual distance of twin and artifact on the crop", 1.0),
    "change_inside": ("mean change inside the targets, 0..1", 0.5),
    "change_outside": ("mean change outside all recorded regions, 0..1", 0.004),
}
_BINS = 40


def write_curation_report(curated: DatasetRef, out: Path) -> Path:
    """Write ``report.html``, self-contained, into the folder `out`. Returns its path.

    Args:
        curated: complete curated set with ``funnel.json`` and ``audit.json`` beside it; ``calls.parquet`` and
            ``review.json`` are told of where they are.
        out: folder; created.
    """
    folder = Path(curated.uri)
    funnel, audit = read_json(folder / FUNNEL), read_json(folder / AUDIT)
    found = gather(curated)
    page = environment().get_template("curation.html.j2").render(
        name=curated.digest[:12], funnel=funnel, audit=audit, rows=funnel_rows(funnel), found=found,
        unscored=funnel_rows({"scored": funnel["unscored"]}), examples=examples(curated, found.chosen),
        funnel_chart=share_chart(_shares(funnel), OUTCOMES), charts=_charts(found, funnel.get("limits", {})),
        calls=account(read_calls(folder / CALLS)), answered=ANSWERED,
        review=read_json(folder / REVIEW) if (folder / REVIEW).is_file() else None,
    )  # fmt: skip
    write_atomic(out / REPORT, page.encode())
    return out / REPORT


class Group(NamedTuple):
    """A group of examples; `reason` is "" of accepted ones. `scored` groups come first."""

    scored: bool
    verdict: str
    tool: str
    reason: str


@dataclass
class Gathered:
    """What one pass over the records leaves."""

    histograms: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)  # figure, tool, verdict
    untouched: int = 0  # artifacts that changed nothing outside
    artifacts: int = 0
    chosen: dict[Group, list[tuple[str, str, str, int]]] = field(default_factory=dict)  # hash, source, key, artifact
    sources: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))  # group, licence
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    models: Counter[tuple[str, str]] = field(default_factory=Counter)  # model, licence
    agents: Counter[tuple[str, str]] = field(default_factory=Counter)  # task, prompt and model

    def add(self, pair: Pair) -> None:
        place = (pair.group, pair.licence)
        self.sources[place].add(pair.source_id)
        self.pairs[place] += 1
        self.models.update(pair.licences.items())
        self.agents.update(pair.agents.items())
        for index, artifact in enumerate(pair.artifacts):
            self._measure(artifact, pair.scored)
            if not pair.benign:
                self._offer(pair, index, artifact)

    def _measure(self, artifact: Artifact, scored: bool) -> None:
        self.artifacts += 1
        self.untouched += artifact.change_outside == 0
        if not scored:
            return
        verdict = ACCEPTED if artifact.reason is None else REJECTED
        for name, (_, top) in FIGURES.items():
            if (value := getattr(artifact, name)) is not None:
                counts = self.histograms.setdefault(
                    (name, artifact.injection.tool, verdict), np.zeros(_BINS, dtype=np.int64)
                )
                counts[min(int(max(value, 0) / top * _BINS), _BINS - 1)] += 1

    def _offer(self, pair: Pair, index: int, artifact: Artifact) -> None:
        """Keep the artifact as an example if its key hashes low enough; of a source one in each group.

        What was pasted back is not in the picture any more.
        """
        if pair.pasted_back and not artifact.accepted:
            return
        verdict = ACCEPTED if artifact.accepted else REJECTED
        group = Group(pair.scored, verdict, artifact.injection.tool, artifact.reason or "")
        kept = self.chosen.setdefault(group, [])
        kept.append((stable_hash(pair.job_id, index, length=16), pair.source_id, pair.job_id, index))
        kept.sort()
        first: dict[str, tuple[str, str, str, int]] = {}
        for entry in kept:
            first.setdefault(entry[1], entry)
        kept[:] = list(first.values())[: SHOWN[verdict]]


def gather(curated: DatasetRef) -> Gathered:
    """One pass over the records of a set."""
    found = Gathered()
    for row in read_rows(curated, Pair, images=()):
        found.add(row.record)
    return found


def examples(
    curated: DatasetRef, chosen: dict[Group, list[tuple[str, str, str, int]]]
) -> dict[Group, list[dict[str, Any]]]:
    """What the template draws: twin, artifact image and difference around the artifact, with the agents' words."""
    wanted: dict[str, list[tuple[Group, int]]] = defaultdict(list)
    for group, entries in chosen.items():
        for _, _, key, index in entries:
            wanted[key].append((group, index))
    drawn: dict[Group, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    if wanted:
        for row in read_rows(curated, Pair, wanted=wanted.__contains__):
            for group, index in wanted[row.key]:
                drawn[group][row.key, index] = _strip(row, index)
    order = {group: [(key, index) for _, _, key, index in entries] for group, entries in chosen.items()}
    return {group: [drawn[group][place] for place in order[group]] for group in _sorted(order)}


def _sorted(groups: dict[Group, Any]) -> Iterator[Group]:
    tools = (*ARTIFACT_TOOLS, "benign")
    yield from sorted(groups, key=lambda g: (not g.scored, g.verdict, tools.index(g.tool), g.reason))


def _strip(row: Row[Pair], index: int) -> dict[str, Any]:
    pair = row.record
    artifact = pair.artifacts[index]
    clean, image = (decode(row.images[side]) for side in ("clean", "artifact"))
    view, size = _view(artifact.box, pair.width, pair.height)
    if size == (pair.width, pair.height):
        images = row.images
    else:
        clean, image = (scaled(side[view.slices], _THUMBNAIL) for side in (clean, image))
        images = {"clean": encode(clean, "jpeg"), "artifact": encode(image, "jpeg")}
    change = np.abs(image.astype(np.int16) - clean.astype(np.int16)).max(axis=2, keepdims=True) * _GAIN
    shown = artifact.model_copy(update={"box": _inside(artifact.box, view, size)})
    record = pair.model_copy(update={"artifacts": (shown,), "width": size[0], "height": size[1]})
    figures = {"distance": artifact.distance, "inside": artifact.change_inside, "outside": artifact.change_outside}
    return {
        **example(Row(row.key, record, images)),
        "difference": data_uri(encode(np.repeat(change.clip(0, 255).astype(np.uint8), 3, axis=2))),
        "words": [text for text in (artifact.explanation, pair.explanation if artifact.accepted else "") if text],
        "detail": artifact.detail,
        "figures": {name: f"{value:.4g}" for name, value in figures.items() if value is not None},
        "agents": pair.agents,
        "job": pair.job_id,
        "origin": pair.origin or pair.source_id,
        "others": len(pair.artifacts) - 1,
    }


def _view(box: Box, width: int, height: int) -> tuple[Box, tuple[int, int]]:
    """What of an image is shown, and at which (width, height): all of a small one, else the surroundings of the box."""
    if max(width, height) <= _WHOLE:
        return Box(0, 0, width, height), (width, height)
    view = box.pad(max(_WHOLE // 4, 3 * max(box.x1 - box.x0, box.y1 - box.y0) // 4), width, height)
    return view, scaled_size(view.x1 - view.x0, view.y1 - view.y0, _THUMBNAIL)


def _inside(box: Box, view: Box, size: tuple[int, int]) -> Box:
    """The box in pixels of the view as shown."""
    across, down = size[0] / (view.x1 - view.x0), size[1] / (view.y1 - view.y0)
    x0, x1 = ((x - view.x0) * across for x in (box.x0, box.x1))
    y0, y1 = ((y - view.y0) * down for y in (box.y0, box.y1))
    return Box(round(x0), round(y0), round(x1), round(y1))


def _shares(funnel: dict[str, Any]) -> dict[str, dict[str, int]]:
    rows = {row["name"]: {ACCEPTED: row["accepted"], **row["reasons"]} for row in funnel_rows(funnel)}
    return {f"{name}  {sum(counts.values())}": counts for name, counts in rows.items()}


def _charts(found: Gathered, limits: dict[str, Any]) -> dict[str, str]:
    """SVG by figure: a panel per tool, accepted and rejected stacked, what the limits allow shaded."""
    charts = {}
    for name, (label, top) in FIGURES.items():
        panels = {}
        for tool in (*ARTIFACT_TOOLS, "benign"):
            series = {v: found.histograms.get((name, tool, v)) for v in (ACCEPTED, REJECTED)}
            if any(counts is not None for counts in series.values()):
                full = {v: np.zeros(_BINS, int) if counts is None else counts for v, counts in series.items()}
                panels[tool] = Histogram(full, _allowed(name, tool, limits, top))
        charts[name] = histogram_chart(panels, np.linspace(0, top, _BINS + 1), label)
    return charts


def _allowed(figure: str, tool: str, limits: dict[str, Any], top: float) -> tuple[float, float] | None:
    if figure == "distance" and tool == "distort" and limits.get("window"):
        low, high = limits["window"]
        return 1 - high, 1 - low
    if figure == "change_inside" and tool != "benign" and "change_inside_min" in limits:
        return limits["change_inside_min"], top
    return (0, limits["change_outside_max"]) if figure == "change_outside" and "change_outside_max" in limits else None
