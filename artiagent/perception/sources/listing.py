"""What every layout tells about a set: which images it has, which it leaves out and why, and the filters.

A layout is one function ``survey(source, root) -> Listing`` in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from artiagent.config import InputSet
from artiagent.perception.grounding.annotations import AnnotationGrounder
from artiagent.perception.grounding.coco import plain_noun
from artiagent.perception.sources.places import SourceError

_SHOWN = 12


@dataclass(frozen=True)
class Listing:
    """A set as its layout sees it, before ``limit``.

    Args:
        home: folder that names are relative to (absolute, without links), or a Parquet file.
        names: usable images in reading order.
        left_out: name -> "code: detail" of files that the layout or a filter excludes.
        absent: the same for annotated names without an image; asked for apart, because annotations are slow to read.
        grounder: the published annotations, None where there are none.
        subject: the data set's own class of an image, "" where it has none.
        documents: annotation files about the whole set; their content enters the set's digest.
        evidence: annotation files about one image; the same.
        categories: what the category filter knows.
    """

    home: Path
    names: Sequence[str]
    left_out: dict[str, str] = field(default_factory=dict)
    absent: Callable[[], dict[str, str]] = dict
    grounder: Callable[[], AnnotationGrounder | None] = lambda: None
    subject: Callable[[str], str] = lambda name: ""
    documents: tuple[Path, ...] = ()
    evidence: Callable[[str], Iterable[Path]] = lambda name: ()
    categories: Sequence[str] = ()


def wanted_categories(source: InputSet, known: Collection[str]) -> frozenset[str]:
    """The category filter as plain nouns; empty: all.

    Raises SourceError for a category that is not ``known`` (names the nearest) and for an impossible ``instances``.
    """
    if source.instances and not 0 <= source.instances[0] <= source.instances[1]:
        raise SourceError(
            f"input set {source.name!r}: instances {list(source.instances)}: expected [least, most], 0 <= least <= most"
        )
    wanted = [plain_noun(name) for name in source.categories]
    for given, name in zip(source.categories, wanted, strict=True):
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise SourceError(
                f"input set {source.name!r}: categories: unknown {given!r}; {hint}(known here: {shown(known)})"
            )
    return frozenset(wanted)


def refusal(source: InputSet, count: int) -> str:
    """Why the filters exclude an image that shows ``count`` instances of the wanted categories, or ""."""
    if source.categories and not count:
        return f"filtered_category: shows none of {shown(source.categories)}"
    if source.instances and not source.instances[0] <= count <= source.instances[1]:
        least, most = source.instances
        return f"filtered_instances: shows {count}, expected {least} to {most}"
    return ""


def refuse_keys(source: InputSet, *keys: str) -> None:
    """Raise SourceError where one of ``keys`` is set, which the layout does not read."""
    for key in keys:
        if getattr(source, key) is not None:
            raise SourceError(
                f"input set {source.name!r}: layout {source.layout!r} does not read {key!r}; remove it, or give the "
                "images with layout 'folder' and COCO annotations of your own"
            )


def shown(names: Collection[str]) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
