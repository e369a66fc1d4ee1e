"""COCO: train2017/, val2017/ ... beside annotations/instances_<split>.json and captions_<split>.json.

Also joins annotations with images for any folder: an annotated name is only ever looked up among the files that are
there, so a name that climbs out of the set finds nothing. Names that differ in the case of the extension are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from artiagent.config import InputSet
from artiagent.perception.grounding.annotations import AnnotationGrounder, coco_grounder
from artiagent.perception.grounding.coco import AnnotationError, CocoFile, ImageNotes, read_captions, read_coco
from artiagent.perception.sources.listing import Listing, refusal, shown, wanted_categories
from artiagent.perception.sources.places import (
    BAD_ENTRY,
    MISSING,
    SourceError,
    is_inside,
    leads_outside,
    locate_annotations,
    locate_parts,
    walk,
)
from artiagent.store import file_sha256

UNLISTED = "not_annotated: no annotation file lists it"
_NO_SPLIT = "missing_file: no such folder, so {} was not read"


class Document(NamedTuple):
    """An annotation file, its content's sha256, and the folder that its file names are relative to ("" or "x/")."""

    path: Path
    sha256: str
    prefix: str = ""

    @classmethod
    def of(cls, path: Path, prefix: str = "") -> Document:
        """Raises AnnotationError when the file cannot be read."""
        try:
            return cls(path, file_sha256(path), prefix)
        except OSError as error:
            raise AnnotationError(
                f"{path}: cannot be read ({error.strerror}); expected a COCO annotation file"
            ) from error


@dataclass(frozen=True)
class Annotated:
    """Notes about the images that the filters keep, and why the others are refused, both by annotated name."""

    notes: Mapping[str, tuple[ImageNotes, ...]]
    refused: Mapping[str, str]
    unused_parts: tuple[str, ...]  # names in the file of parts that the other files do not have
    categories: tuple[str, ...]
    origin: str
    prefixes: tuple[str, ...]

    def join(self, files: Sequence[str]) -> dict[str, str]:
        """Annotated name -> file, as `join` does."""
        return join((*self.notes, *self.refused, *self.unused_parts), files)


def survey(source: InputSet, root: Path) -> Listing:
    """The published tree below ``root``; with ``source.annotations`` given, ``root`` is the folder of images itself.

    Only images that an annotation file lists are used. Raises SourceError, AnnotationError.
    """
    instances, captions, unread = _documents(source, root)
    annotated = read_annotated(source, instances, captions)
    files, left_out = walk(root)
    places = annotated.join(files)
    listed = {places[name] for name in (*annotated.notes, *annotated.refused) if name in places}
    left_out |= {name: UNLISTED for name in files if name not in listed}
    left_out |= {places[name]: reason for name, reason in annotated.refused.items() if name in places}
    return Listing(
        home=root,
        names=sorted(places[name] for name in annotated.notes if name in places),
        left_out=left_out,
        absent=lambda: absent(annotated, places, unread) | {n: _NO_SPLIT.format(f) for n, f in unread.items()},
        grounder=lambda: grounder_of(annotated, places),
        documents=(*(d.path for d in (*instances, *captions)), *filter(None, [locate_parts(source)])),
        categories=annotated.categories,
    )


def _documents(source: InputSet, root: Path) -> tuple[list[Document], list[Document], dict[str, str]]:
    """Instances, captions, and the splits without images -> the file that was not read for that."""
    if source.annotations is not None:
        found, unread = {locate_annotations(source): ""}, {}
    else:
        files = sorted((root / "annotations").glob("instances_*.json"))
        splits = {file: file.stem.removeprefix("instances_") for file in files if is_inside(file, root)}
        found = {file: f"{split}/" for file, split in splits.items() if (root / split).is_dir()}
        unread = {split: file.name for file, split in splits.items() if file not in found}
        if not found:
            raise SourceError(
                f"input set {source.name!r}: {root}: expected COCO as published: annotations/instances_<split>.json "
                f"beside a folder <split> of images, found {shown(splits.values()) or 'no such file'} without images; "
                "or give the folder of images and 'annotations'"
            )
    captions = {file.with_name(file.name.replace("instances_", "captions_", 1)): p for file, p in found.items()}
    beside = {file: p for file, p in captions.items() if file not in found and file.is_file()}
    if source.annotations is None:
        beside = {file: p for file, p in beside.items() if is_inside(file, root)}
    return [Document.of(*d) for d in found.items()], [Document.of(*d) for d in beside.items()], unread


def read_annotated(source: InputSet, instances: Sequence[Document], captions: Sequence[Document] = ()) -> Annotated:
    """Read annotation files, add captions and parts, apply the filters.

    What the filters exclude is not kept. The results of the last four different inputs stay in memory, by content.
    """
    parts = locate_parts(source)
    wanted = source.model_copy(update={"images": "", "annotations": None, "parts": None, "limit": None})
    return _read(wanted, tuple(instances), tuple(captions), Document.of(parts) if parts else None)


@lru_cache(maxsize=4)
def _read(
    source: InputSet, instances: tuple[Document, ...], captions: tuple[Document, ...], parts: Document | None
) -> Annotated:
    notes: dict[str, tuple[ImageNotes, ...]] = {}
    refused: dict[str, str] = {}
    documents = [(document, read_coco(document.path)) for document in instances]
    known = sorted({c.name for _, file in documents for c in file.categories if c.layer == "entity"})
    wanted = wanted_categories(source, known)
    for document, file in documents:
        _filter(source, wanted, document.prefix, file, notes, refused)
    del documents, file
    for document in captions:
        for name, caption in read_captions(document.path).items():
            if (kept := notes.get(document.prefix + name)) and not kept[0].caption:
                kept[0].caption = caption
    unused = _add_parts(notes, refused, parts) if parts else ()
    origin = ", ".join(document.path.name for document in instances)
    prefixes = tuple(document.prefix for document in instances)
    return Annotated(notes, refused, unused, tuple(known), origin, prefixes)


def _filter(
    source: InputSet,
    wanted: frozenset[str],
    prefix: str,
    file: CocoFile,
    notes: dict[str, tuple[ImageNotes, ...]],
    refused: dict[str, str],
) -> None:
    for name, found in file.images.items():
        shows = Counter(o.category.name for o in found.outlines if o.category.layer == "entity" and not o.crowd)
        count = sum(shows[name] for name in wanted) if wanted else shows.total()
        if reason := refusal(source, count):
            refused[prefix + name] = reason
        else:
            notes[prefix + name] = (found,)


def _add_parts(
    notes: dict[str, tuple[ImageNotes, ...]], refused: Mapping[str, str], document: Document
) -> tuple[str, ...]:
    """Join the file of parts by file name, with or without the folder. Returns names that are in no other file."""
    listed = [*notes, *refused]
    by_base: dict[str, list[str]] = {}
    for name in listed:
        by_base.setdefault(PurePosixPath(name).name, []).append(name)
    unused = []
    images = read_coco(document.path, parts=True).images
    for given, found in images.items():
        fits = [given] if given in notes or given in refused else by_base.get(PurePosixPath(given).name, [])
        if len(fits) > 1:
            raise AnnotationError(
                f"{document.path}: file_name {given!r} may be {fits[0]!r} or {fits[1]!r}; name the folder as well"
            )
        if not fits:
            unused.append(given)
        elif fits[0] in notes:
            notes[fits[0]] += (found,)
    if len(unused) == len(images):
        raise AnnotationError(
            f"{document.path}: annotates none of the set's images (file names there: {shown(images) or 'none'}; in the "
            f"set: {shown(listed)})"
        )
    return tuple(unused)


def join(names: Iterable[str], files: Sequence[str]) -> dict[str, str]:
    """Annotated name -> file, for the names that have one: the same name, or the same but for the extension's case."""
    names, there = list(names), set(files)
    exact = {name: name for name in names if name in there}
    folded = {_fold(file): file for file in files if file not in exact}
    return exact | {name: folded[_fold(name)] for name in names if name not in exact and _fold(name) in folded}


def _fold(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return stem + dot + extension.lower()


def absent(annotated: Annotated, places: Mapping[str, str], unread: Iterable[str] = ()) -> dict[str, str]:
    """Annotated names without a file: missing, or leading out of the set."""
    names = [*annotated.notes, *annotated.refused, *annotated.unused_parts]
    unread = tuple(f"{split}/" for split in unread)
    lost = (name for name in names if name not in places and not name.startswith(unread))
    return {name: BAD_ENTRY if leads_outside(_inner(name, annotated.prefixes)) else MISSING for name in lost}


def _inner(name: str, prefixes: Iterable[str]) -> str:
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def grounder_of(annotated: Annotated, places: Mapping[str, str]) -> AnnotationGrounder:
    """Grounder of the kept notes, by the names of the files."""
    notes = {places[name]: found for name, found in annotated.notes.items() if name in places}
    return coco_grounder(notes, annotated.origin)


def annotate(source: InputSet, home: Path, files: Sequence[str], left_out: dict[str, str]) -> Listing:
    """Listing of ``files`` (in reading order) with one COCO file, or none, about them.

    Without a filter the images that the file does not list stay: a detector may see them. The file is then read only
    when its content is asked for.
    """
    parts = locate_parts(source)
    if source.annotations is None:
        if parts or source.categories or source.instances:
            raise SourceError(
                f"input set {source.name!r}: 'parts', 'categories' and 'instances' need 'annotations' (COCO JSON): "
                "they say what an image shows"
            )
        return Listing(home, files, left_out)
    path = locate_annotations(source)
    read = partial(_joined, source, path, files)
    listing = partial(
        Listing,
        home=home,
        absent=lambda: absent(*read()),
        grounder=lambda: grounder_of(*read()),
        documents=tuple(filter(None, (path, parts))),
    )
    if not source.categories and not source.instances:
        return listing(names=files, left_out=left_out)
    annotated, places = read()
    kept = {places[name] for name in annotated.notes if name in places}
    reasons = {places[name]: reason for name, reason in annotated.refused.items() if name in places}
    excluded = {name: reasons.get(name, UNLISTED) for name in files if name not in kept}
    names = [name for name in files if name in kept]
    return listing(names=names, left_out=left_out | excluded, categories=annotated.categories)


def _joined(source: InputSet, path: Path, files: Sequence[str]) -> tuple[Annotated, dict[str, str]]:
    annotated = read_annotated(source, [Document.of(path)])
    return annotated, annotated.join(files)
