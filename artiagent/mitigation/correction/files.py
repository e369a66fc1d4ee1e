"""A person's images through the loop: one file, or a folder that is resumed where a killed run stopped.

Knows files, names and progress. Does not know how an image is corrected (`loop`). Written are PNG files, whole or not
at all: a lossy form could not keep the pixels outside a repainted region.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from artiagent.config import CorrectionSection
from artiagent.images import encode
from artiagent.inspection.findings import Picture
from artiagent.inspection.gallery import annotated_name
from artiagent.inspection.pictures import Pictures, read_bytes, to_picture
from artiagent.mitigation.correction.loop import Corrected, Interrupted, correct_images
from artiagent.mitigation.correction.panel import Panel
from artiagent.mitigation.correction.records import CORRECTED, UNREAD, Correction, Outcome
from artiagent.mitigation.correction.strips import strip
from artiagent.records import stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows, write_atomic

SUMMARY, RECORDS, IMAGES, STRIPS, LOGS = "summary.json", "corrections", "images", "strips", "logs"
_LISTED = 100  # unread names in the summary; all of them are in the records


def correct_file(section: CorrectionSection, panel: Panel, image: Path, out: Path) -> Correction:
    """Correct one image file.

    Writes the image to ``out`` (an unchanged one too), and beside it ``<stem>-strip.png`` and ``<stem>.json``.

    Raises ValueError for a file that is no image, and Interrupted once the best so far is written.
    """
    picture = to_picture(image.name, image.read_bytes())
    if picture.pixels is None:
        raise ValueError(f"{image}: {picture.reason}")
    try:
        (found,) = correct_images(section, panel, [picture])
    except Interrupted as stop:
        _write_one(picture, stop.found[0], out)
        raise
    return _write_one(picture, found, out)


def _write_one(picture: Picture, found: Corrected, out: Path) -> Correction:
    strip_path, log = strip_and_log(out)
    write_atomic(strip_path, encode(strip(picture.pixels, found.image, found.record)))
    write_atomic(log, _told(found.record))
    write_atomic(out, encode(found.image))
    return found.record


def strip_and_log(out: Path) -> tuple[Path, Path]:
    """Where the before/after strip and the log of a corrected image lie."""
    return out.with_name(f"{out.stem}-strip.png"), out.with_suffix(".json")


def correct_folder(
    section: CorrectionSection, panel: Panel, pictures: Pictures, out: Path, stamp: str
) -> dict[str, Any]:
    """Correct all images of a place; returns what ``summary.json`` holds.

    Below ``out``: ``images/`` (the corrected ones alone), ``strips/`` and ``logs/`` of all that were worked on, the
    records, and the summary. Windows that another run finished are not done again. Raises ValueError when ``out`` holds
    the records of other images, models or settings, and Interrupted once the best so far is written.
    """
    folder = out / RECORDS
    names = stable_hash(stamp, *pictures.names, length=20)
    if (complete := open_dataset(folder, names)) is None:
        writer: DatasetWriter[Correction] = DatasetWriter(folder, RECORDS, stamp=names)
        files = pictures.read(frozenset(pictures.names))
        with tqdm(desc="correct", unit="image", total=len(pictures.names)) as progress:
            for index in itertools.count():
                if not (window := [(f.name, read_bytes(f)) for f in itertools.islice(files, section.window)]):
                    break
                key, content = f"{index:07d}", stable_hash(*(value for pair in window for value in pair))
                if not (key in writer and writer.note(key)["content"] == content):
                    found = _window(section, panel, [to_picture(*named) for named in window], out)
                    rows = [Row(one.record.image, one.record) for one in found]
                    writer.write(key, rows, note={"content": content})
                progress.update(len(window))
        complete = writer.finish()
    records = [row.record for row in read_rows(complete, Correction)]
    summary = {**summarise(records), "left_out": dict(itertools.islice(pictures.left_out.items(), _LISTED))}
    write_atomic(out / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False).encode())
    return summary


def _window(section: CorrectionSection, panel: Panel, pictures: list[Picture], out: Path) -> list[Corrected]:
    try:
        found = correct_images(section, panel, pictures)
    except Interrupted as stop:
        _write_window(pictures, stop.found, out)
        raise
    _write_window(pictures, found, out)
    return found


def _write_window(pictures: Sequence[Picture], found: Sequence[Corrected], out: Path) -> None:
    """Files of the images that were worked on, under names that lead out of no folder."""
    for picture, one in zip(pictures, found, strict=True):
        if not one.record.rounds:
            continue
        name = annotated_name(picture.name)
        write_atomic(out / STRIPS / name, encode(strip(picture.pixels, one.image, one.record)))
        write_atomic(out / LOGS / f"{name.removesuffix('.png')}.json", _told(one.record))
        if one.record.outcome == CORRECTED:
            write_atomic(out / IMAGES / name, encode(one.image))


def summarise(records: Sequence[Correction]) -> dict[str, Any]:
    """Counts over records: outcomes, sources of what was applied, rounds, transformer calls, what was not read."""
    sources = Counter(place.source for one in records for place in one.applied)
    return {
        "images": len(records),
        "outcomes": {name: sum(one.outcome == name for one in records) for name in Outcome.__args__},
        "applied_by_source": dict(sorted(sources.items())),
        "rounds": sum(len(one.rounds) for one in records),
        "candidates": sum(len(turn.candidates) for one in records for turn in one.rounds),
        "calls": sum(one.calls for one in records),
        "unread": {one.image: one.reason for one in records if one.outcome == UNREAD},
    }


def _told(record: Correction) -> bytes:
    return record.model_dump_json(indent=1).encode()
