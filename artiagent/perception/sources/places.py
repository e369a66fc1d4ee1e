"""Where the files of an input set lie, and which of them may be read.

Knows paths. Opens no image and knows no data set. Nothing outside a set's folder is ever read through it: names come
from walking the folder, never from an annotation file, and links that lead elsewhere are refused.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from artiagent.config import InputSet
from artiagent.store import checkout

IMAGE_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
COLUMNS = ("file_name", "image")
OUTSIDE = "outside: links to a place outside of the set"
HIDDEN = "hidden: its name or its folder's starts with a dot"
MISSING = "missing_file: annotated, but there is no such image"
BAD_ENTRY = "bad_entry: leads outside of the set"


class SourceError(ValueError):
    """An input set that cannot be read at all; the message names the set, the place and what was expected."""


def locate_images(source: InputSet) -> Path:
    """Folder or Parquet file of the set; relative paths count from the current folder, then from the checkout."""
    place = _locate(source.images)
    if place is None:
        raise SourceError(
            f"input set {source.name!r}: {source.images}: no such file or folder; expected a folder of images "
            f"or a Parquet file with columns {', '.join(COLUMNS)} (embedded data comes with 'dvc pull')"
        )
    if source.layout != "folder" and not place.is_dir():
        raise SourceError(f"input set {source.name!r}: {place}: layout {source.layout!r} needs a folder, got a file")
    return place


def locate_annotations(source: InputSet) -> Path:
    """The set's annotation file. Raises SourceError when none is configured or it does not exist."""
    if source.annotations is None:
        raise SourceError(
            f"input set {source.name!r}: no annotations given; grounding 'annotations' needs a COCO file "
            "(key 'annotations' of the set, or --annotations COCO.json)"
        )
    return _file(source, source.annotations, "annotation")


def locate_parts(source: InputSet) -> Path | None:
    """The set's file of part annotations, None where none is configured; raises SourceError as above."""
    return None if source.parts is None else _file(source, source.parts, "part annotation")


def _file(source: InputSet, location: str, kind: str) -> Path:
    place = _locate(location)
    if place is None or not place.is_file():
        expected = "HandInfo.csv" if source.layout == "hands11k" else "COCO JSON"
        raise SourceError(f"input set {source.name!r}: {location}: no such {kind} file; expected {expected}")
    return place


def _locate(location: str) -> Path | None:
    roots = [Path.cwd(), *([root] if (root := checkout()) else [])]
    candidates = (root / Path(location).expanduser() for root in roots)
    return next((candidate.resolve() for candidate in candidates if candidate.exists()), None)


def find_home(source: InputSet, root: Path, sign: str, wrappers: tuple[str, ...], expected: str) -> Path:
    """``root`` or the one of its folders ``wrappers``, as archives are extracted, that holds a folder ``sign``."""
    for home in (root, *(root / name for name in wrappers)):
        if (home / sign).is_dir():
            if not is_inside(home / sign, root):
                raise SourceError(f"input set {source.name!r}: {home / sign} links to a place outside of {root}")
            return home.resolve()
    raise SourceError(f"input set {source.name!r}: {root}: no folder {sign}; expected {expected}")


def is_inside(path: Path, root: Path) -> bool:
    """Whether ``path``, links followed, lies below ``root`` (absolute, without links)."""
    return Path(os.path.realpath(path)).is_relative_to(root)


def leads_outside(name: str) -> bool:
    """Whether a file name that an annotation gives is absolute or climbs, in the way of any system."""
    return any(
        path.is_absolute() or path.drive or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name))
    )


def walk(
    root: Path, extensions: tuple[str, ...] = IMAGE_EXTENSIONS, skip: tuple[str, ...] = ()
) -> tuple[list[str], dict[str, str]]:
    """Names of the files below ``root`` with one of ``extensions`` (any case), POSIX and relative to it, sorted.

    Folder entries are not asked for more than their kind, so 200,000 files take a second. Links to folders inside the
    set are not followed: what they lead to is found at its own place.

    Args:
        root: folder, absolute and without links.
        skip: folders directly below it that are not entered.

    Returns:
        Names, and what was left out with the reason: hidden, outside, unreadable, no text.
    """
    names: list[str] = []
    left_out: dict[str, str] = {}
    pending = [("", False)]
    while pending:
        folder, hidden = pending.pop()
        try:
            with os.scandir(root / folder) as entries:
                found = list(entries)
        except OSError as error:
            _sort_in(folder, f"unreadable: {error.strerror}", names, left_out)
            continue
        for entry in found:
            name, dotted = folder + entry.name, hidden or entry.name.startswith(".")
            wanted = entry.name.lower().endswith(extensions)
            if entry.is_symlink():
                reason = _link(root, name, wanted)
            elif entry.is_dir(follow_symlinks=False):
                if name not in skip:
                    pending.append((name + "/", dotted))
                continue
            else:
                reason = "" if wanted and entry.is_file(follow_symlinks=False) else None
            if reason is not None:
                _sort_in(name, reason or (HIDDEN if dotted else ""), names, left_out)
    if "" in left_out:
        raise SourceError(f"{root}: cannot be read ({left_out['']})")
    return sorted(names), left_out


def _link(root: Path, name: str, wanted: bool) -> str | None:
    """Why a link is left out: "" if it is not, None if it is no matter of the set."""
    target = root / name
    if not wanted and not target.is_dir():
        return None
    if not is_inside(target, root):
        return OUTSIDE
    return None if target.exists() and not target.is_file() else ""


def _sort_in(name: str, reason: str, names: list[str], left_out: dict[str, str]) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        name, reason = name.encode(errors="backslashreplace").decode(), "bad_entry: its name is not UTF-8"
    if reason:
        left_out[name] = reason
    else:
        names.append(name)
