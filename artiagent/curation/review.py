"""Borderline cases for people to look at, as tasks of Label Studio.

Knows which artifacts are close to a limit and how a task looks. Does not know what is done with the answers:
`curation.decisions` reads them. An artifact is worth a look where a small change of one figure would have changed its
verdict, where nobody judged it, or where the judge's answer had to be repaired.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from artiagent.config import CurationSection
from artiagent.curation.funnel import FUNNEL
from artiagent.curation.summary import made_by
from artiagent.images import data_uri, decode, encode, resized, scaled
from artiagent.instruction.prompts import both_of, with_article
from artiagent.records import Artifact, Box, DatasetRef, Pair, stable_hash
from artiagent.store import Row, read_rows, write_atomic
from artiagent.vlm.calls import CALLS, read_calls

CHOICES = ("accept", "reject", "unsure")
VERDICT = "verdict"  # name of the control that people answer with
WINDOW_MARGIN = 0.05  # of similarity, around the perceptual window
LIMIT_MARGIN = 0.25  # of a limit of the change audit
JUDGE_MARGIN = 0.05  # of P(yes), around the judge's margin
_REPAIRED = 0.5  # closeness of an artifact whose judge had to answer twice
PNG = b"\x89PNG"
_LARGE, _SMALL = 1024, 384  # px: longest side that is shown; of smaller images the box is drawn on this many
_FIGURES = re.compile(r"\b(share|seam) (\d+\.\d+)")  # as verdicts write them
_CHANCES = re.compile(r"P\(yes\) (\d\.\d+) -> (\d\.\d+)")  # as the judge writes them
_QUESTIONS = {
    "add": "Does the box show {a_part} that the {entity} should not have?",
    "remove": "Is {a_part} of the {entity} visibly missing in the box?",
    "distort": "Is the {part} of the {entity} in the box visibly deformed?",
    "fuse": "Do {both} visibly grow together in the box?",
}


class Borderline(NamedTuple):
    """An artifact worth a look; ``closeness`` 0 is at the limit, 1 a margin away from it."""

    closeness: float
    job_id: str
    index: int
    why: str


class Slack(NamedTuple):
    """How far a figure is inside (positive) or outside a limit, in margins, and in words."""

    value: float
    told: str


def write_tasks(
    curated: DatasetRef, section: CurationSection, path: Path, *, most: int = 100, files: Path | None = None
) -> int:
    """Write the `most` borderline artifacts to `path`, and Label Studio's labelling configuration beside it (``.xml``).

    Args:
        curated: complete curated set.
        section: limits, where the set itself does not tell its own.
        path: JSON file of tasks, the closest first.
        most: of them.
        files: folder for the images; Label Studio serves them when its local-files root is the folder's parent. None:
            the tasks carry them.

    Returns how many tasks there are.
    """
    ranked = heapq.nsmallest(most, borderline(curated, section))
    wanted = {case.job_id for case in ranked}
    tasks: dict[tuple[str, int], dict[str, Any]] = {}
    for row in read_rows(curated, Pair, wanted=wanted.__contains__) if wanted else ():
        for case in ranked:
            if case.job_id == row.key:
                tasks[case.job_id, case.index] = {"data": _task(row, case, curated, files)}
    write_atomic(path.with_suffix(".xml"), labelling().encode())
    ordered = [tasks[case.job_id, case.index] for case in ranked]
    write_atomic(path, (json.dumps(ordered, indent=1) + "\n").encode())
    return len(ordered)


def borderline(curated: DatasetRef, section: CurationSection) -> Iterator[Borderline]:
    """All borderline artifacts of a set, as a stream; by its own limits, where ``funnel.json`` tells them."""
    folder = Path(curated.uri)
    funnel = json.loads((folder / FUNNEL).read_text()) if (folder / FUNNEL).is_file() else {}
    limits = {**made_by(section)["limits"], **funnel.get("limits", {})}
    judged = (call for call in read_calls(folder / CALLS) if call.task in ("presence", "judge"))
    repaired = {call.key.partition("/")[0] for call in judged if call.status == "repaired"}  # "job:index/side"
    for row in read_rows(curated, Pair, images=()):
        for index, artifact in enumerate(row.record.artifacts):
            # What was pasted back is not in the picture any more: there is nothing to look at.
            if artifact.injection.tool == "benign" or (row.record.pasted_back and not artifact.accepted):
                continue
            found = closeness(artifact, limits, f"{row.key}:{index}" in repaired)
            if found is not None:
                yield Borderline(round(found.value, 4), row.key, index, found.told)


def closeness(artifact: Artifact, limits: Mapping[str, Any], repaired: bool = False) -> Slack | None:
    """How close the verdict is, 0..1 margins, and why it is; None where it is clear.

    Of an accepted artifact the nearest limit counts. A rejected one is as far from acceptance as its worst figure.
    """
    if artifact.reason == "vlm_error":
        return Slack(0.0, f"nobody judged it: {artifact.detail}")
    found = slacks(artifact, limits)
    if artifact.accepted:
        nearest = min(found, default=None)
        near = nearest and Slack(max(nearest.value, 0.0), f"accepted, {nearest.told}")
    else:
        worst = min((s for s in found if s.value < 0), default=None)
        near = worst and Slack(-worst.value, f"{artifact.reason}, {worst.told}")
    if near is not None and near.value < (_REPAIRED if repaired else 1):
        return near
    return Slack(_REPAIRED, "the judge's answer had to be repaired") if repaired else None


def slacks(artifact: Artifact, limits: Mapping[str, Any]) -> list[Slack]:
    """Of every figure that the artifact's verdict depends on and that the record tells."""
    figures = {name: float(value) for name, value in _FIGURES.findall(artifact.detail)}
    figures |= {"change inside": artifact.change_inside, "change outside": artifact.change_outside}
    least = {"change inside": "change_inside_min", "share": "change_share_min"}
    most = {"change outside": "change_outside_max", "seam": "seam_max"}
    found = []
    for table, sign in ((least, 1), (most, -1)):
        for name, key in table.items():
            if name in figures and (limit := limits[key]):
                inside = sign * (figures[name] / limit - 1) / LIMIT_MARGIN
                found.append(Slack(inside, f"{name} {figures[name]:.4g}, limit {limit:g}"))
    tool = artifact.injection.tool
    if tool == "distort" and artifact.distance is not None and limits["window"]:
        similarity = 1 - artifact.distance
        low, high = limits["window"]
        inside = min(similarity - low, high - similarity) / WINDOW_MARGIN
        found.append(Slack(inside, f"similarity {similarity:.3f}, window {low:g} to {high:g}"))
    if (asked := _CHANCES.search(artifact.detail)) is not None:
        gain = float(asked[2]) - float(asked[1])
        wanted = {"add": gain - limits["judge_margin"], "remove": -gain - limits["judge_margin"]}
        found.append(Slack(wanted.get(tool, limits["judge_slack"] - gain) / JUDGE_MARGIN, f"judge's {asked[0]}"))
    return found


def question(artifact: Artifact) -> str:
    """What a person is asked about an artifact."""
    injection = artifact.injection
    part = injection.part or injection.entity
    return _QUESTIONS[injection.tool].format(
        part=part, a_part=with_article(part), entity=injection.entity,
        both=both_of(injection.entity, injection.other_entity),
    )  # fmt: skip


def labelling() -> str:
    """Label Studio's labelling configuration: three pictures, a question, one choice. The verdict is not told."""
    choices = "".join(f'<Choice value="{choice}" hotkey="{k}"/>' for k, choice in enumerate(CHOICES, start=1))
    hint = "accept: anyone would see it. reject: nobody would, or it is something else. unsure: neither."
    pictures = "".join(
        f'<View style="flex: 1"><Header size="5" value="{title}"/><Image name="{name}" value="${name}"/></View>'
        for name, title in (("clean", "before"), ("artifact", "after"), ("overlay", "where"))
    )
    return (
        f'<View><Header value="$question"/><View style="display: flex; gap: 12px">{pictures}</View>'
        f'<Header size="5" value="{hint}"/>'
        f'<Choices name="{VERDICT}" toName="artifact" choice="single" required="true" showInline="true">{choices}'
        "</Choices></View>\n"
    )


def _task(row: Row[Pair], case: Borderline, curated: DatasetRef, files: Path | None) -> dict[str, Any]:
    artifact = row.record.artifacts[case.index]
    injection = artifact.injection
    clean, image = (decode(row.images[side]) for side in ("clean", "artifact"))
    pictures = {"clean": _shown(clean), "artifact": _shown(image), "overlay": _shown(_boxed(image, artifact.box))}
    stem = stable_hash(row.key, case.index, length=16)
    return {
        **{name: _placed(data, f"{stem}-{name}", files) for name, data in pictures.items()},
        "job_id": row.key,
        "artifact_index": case.index,
        "tool": injection.tool,
        "kernel": injection.kernel,
        "entity": injection.entity,
        "part": injection.part,
        "verdict": "accepted" if artifact.accepted else artifact.reason,
        "why": case.why,
        "closeness": case.closeness,
        "detail": artifact.detail,
        "question": question(artifact),
        "curated": curated.digest,
    }


def _shown(image: np.ndarray) -> bytes:
    image = scaled(image, _LARGE)
    return encode(image, "png" if max(image.shape) <= _SMALL else "jpeg")


def _boxed(image: np.ndarray, box: Box) -> np.ndarray:
    """The image, enlarged where it is small, with the box drawn around its pixels."""
    times = max(1, -(-_SMALL // max(image.shape[:2])))
    canvas = Image.fromarray(resized(image, (image.shape[1] * times, image.shape[0] * times)))
    x0, y0, x1, y1 = (side * times for side in box)
    ImageDraw.Draw(canvas).rectangle((x0 - 1, y0 - 1, x1, y1), outline=(220, 38, 38), width=max(2, canvas.width // 400))
    return np.asarray(canvas)


def _placed(data: bytes, name: str, files: Path | None) -> str:
    """A data URI, or the address under which Label Studio serves the file that was written."""
    if files is None:
        return data_uri(data)
    name = f"{name}.{'png' if data.startswith(PNG) else 'jpg'}"
    write_atomic(files / name, data)
    return f"/data/local-files/?d={files.resolve().name}/{name}"
