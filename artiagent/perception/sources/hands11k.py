"""11K Hands as published: Hands/Hand_0000002.jpg beside HandInfo.csv, one hand on white in every image.

Without masks. Hands with accessories are left out, and so are irregular ones: they must not become clean sources.
"""

from __future__ import annotations

import csv
from pathlib import Path

from artiagent.config import InputSet
from artiagent.perception.sources.coco import join
from artiagent.perception.sources.listing import Listing, refusal, refuse_keys, wanted_categories
from artiagent.perception.sources.places import (
    BAD_ENTRY,
    MISSING,
    SourceError,
    find_home,
    is_inside,
    leads_outside,
    locate_annotations,
    walk,
)

IMAGES, TABLE, SUBJECT = "Hands", "HandInfo.csv", "hand"
COLUMNS = (
    "id", "age", "gender", "skinColor", "accessories", "nailPolish", "aspectOfHand", "imageName", "irregularities",
)  # fmt: skip
_EXPECTED = "11K Hands as published: a folder Hands of images beside HandInfo.csv"
_NAMELESS = "bad_entry: a row without imageName"
_UNLISTED = f"not_annotated: no row of {TABLE} names it"


def survey(source: InputSet, root: Path) -> Listing:
    """Images that the table names as plain hands. Raises SourceError, also for a table of another kind."""
    refuse_keys(source, "parts")
    home = find_home(source, root, IMAGES, (), _EXPECTED)
    wanted_categories(source, {SUBJECT})
    table = locate_annotations(source) if source.annotations is not None else home / TABLE
    if source.annotations is None and not (table.is_file() and is_inside(table, root)):
        raise SourceError(f"input set {source.name!r}: {home}: no {TABLE}; expected {_EXPECTED}, or key 'annotations'")
    rows = read_table(source, table)
    files, left_out = walk(home)
    places = join(rows, files)
    listed = {place: rows[name] or refusal(source, 1) for name, place in places.items()}
    reasons = {name: listed.get(name, _UNLISTED) for name in files}
    lost = {name: _lost(name, rows[name]) for name in rows if name not in places}
    return Listing(
        home=home,
        names=[name for name, reason in reasons.items() if not reason],
        left_out=left_out | {name: reason for name, reason in reasons.items() if reason},
        absent=lambda: lost,
        subject=lambda name: SUBJECT,
        documents=(table,),
        categories=(SUBJECT,),
    )


def _lost(name: str, reason: str) -> str:
    if reason == _NAMELESS:
        return reason
    return BAD_ENTRY if leads_outside(name.removeprefix(f"{IMAGES}/")) else MISSING


def read_table(source: InputSet, path: Path) -> dict[str, str]:
    """Image name below the set -> why the table excludes it, or "". One bad row of several excludes the image."""
    where = f"input set {source.name!r}: {path}"
    rows: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            got = reader.fieldnames or ()
            if set(COLUMNS) - set(got):
                raise SourceError(f"{where}: expected columns {', '.join(COLUMNS)}, got {', '.join(got) or 'none'}")
            for row in reader:
                if name := (row["imageName"] or "").strip():
                    rows[f"{IMAGES}/{name}"] = rows.get(f"{IMAGES}/{name}") or _excluded(row)
                else:
                    rows[f"{TABLE}:{reader.line_num}"] = _NAMELESS
    except OSError as error:
        raise SourceError(f"{where}: cannot be read ({error.strerror})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise SourceError(f"{where}: not a CSV file in UTF-8 ({error}); expected {TABLE} as published") from error
    return rows


def _excluded(row: dict[str, str | None]) -> str:
    flags = {name: (row[name] or "").strip() for name in ("accessories", "irregularities")}
    if wrong := {name: value for name, value in flags.items() if value not in ("0", "1")}:
        name, value = next(iter(wrong.items()))
        return f"bad_entry: {name} {value!r}, expected 0 or 1"
    present = [name for name, value in flags.items() if value == "1"]
    return f"{present[-1]}: the table says that the hand has some" if present else ""
