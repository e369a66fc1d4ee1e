"""What a person looks at after an inspection: a page of the flagged images, and copies with the boxes drawn in.

Knows results and where the images are; asks no model.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artiagent.images import data_uri, encode, scaled
from artiagent.inspection.findings import ARTIFACTS, UNREAD, Inspection
from artiagent.inspection.inspect import draw_boxes
from artiagent.inspection.pictures import Pictures, read_bytes, to_picture
from artiagent.records import stable_hash
from artiagent.store import write_atomic

SUMMARY, GALLERY = "summary.json", "gallery.html"
SHOWN = 60  # images on the page
_THUMBNAIL = 320  # px: longest side
_LISTED = 100  # unread names in the summary; all of them are in the results


@dataclass
class Summary:
    """Counts over all results, and the flagged images with the highest scores; bounded."""

    verdicts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)
    best: list[tuple[float, int, Inspection]] = field(default_factory=list)  # heap; ties: the earlier name

    def add(self, one: Inspection) -> Inspection:
        """Count, and pass on."""
        self.verdicts[one.verdict] += 1
        self.statuses.update(f"{task}:{status}" for task, status in one.status.items())
        if one.verdict == UNREAD and len(self.unread) < _LISTED:
            self.unread[one.image] = one.reason
        if one.verdict == ARTIFACTS:
            push = heapq.heappush if len(self.best) < SHOWN else heapq.heappushpop
            push(self.best, (1.0 if one.score is None else one.score, -self.verdicts[ARTIFACTS], one))
        return one

    def figures(self, pictures: Pictures, stamp: dict[str, Any]) -> dict[str, Any]:
        """``summary.json``: counts by verdict and status, who answered, what was not read and why."""
        left_out = dict(list(pictures.left_out.items())[:_LISTED])
        return {
            "images": self.verdicts.total(),
            "verdicts": {name: self.verdicts[name] for name in (ARTIFACTS, "clean", "unanswered", UNREAD)},
            "statuses": dict(sorted(self.statuses.items())),
            **stamp,
            "unread": self.unread,
            "left_out": {"count": len(pictures.left_out), "first": left_out},
        }


def write_summary(figures: dict[str, Any], out: Path) -> None:
    write_atomic(out / SUMMARY, json.dumps(figures, indent=1, ensure_ascii=False).encode())


def write_gallery(summary: Summary, figures: dict[str, Any], pictures: Pictures, out: Path) -> None:
    """Write ``gallery.html``, self-contained: the flagged images with boxes and explanations, highest score first."""
    from artiagent.report.page import environment

    shown = [one for _, _, one in sorted(summary.best, reverse=True)]
    thumbnails = {one.image: "" for one in shown}
    for file in pictures.read(thumbnails):
        pixels = to_picture(file.name, read_bytes(file)).pixels
        if pixels is not None:
            thumbnails[file.name] = data_uri(encode(scaled(pixels, _THUMBNAIL), "jpeg"))
    page = environment().get_template("gallery.html.j2").render(
        figures=figures, shown=[(one, thumbnails[one.image]) for one in shown]
    )  # fmt: skip
    write_atomic(out / GALLERY, page.encode())


def write_annotated(flagged: Iterable[Inspection], pictures: Pictures, folder: Path) -> int:
    """A PNG copy with its boxes of every flagged image, in one flat folder. Returns how many.

    A file is named by the image's name in harmless characters and a digest of it: no name leads out of the folder.
    """
    boxes = {one.image: one.boxes for one in flagged if one.verdict == ARTIFACTS}
    written = 0
    for file in pictures.read(boxes):
        pixels = to_picture(file.name, read_bytes(file)).pixels
        if pixels is not None:
            write_atomic(folder / annotated_name(file.name), encode(draw_boxes(pixels, boxes[file.name])))
            written += 1
    return written


def annotated_name(image: str) -> str:
    """``dogs_7.jpg-1a2b3c4d.png`` for ``dogs/7.jpg``."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', image)[-80:].lstrip('.')}-{stable_hash(image, length=8)}.png"
