"""Where source images come from, read one image at a time: any folder, a Parquet file, or a data set as published.

Knows which images a set has, which it leaves out and why, and what is published about them. Does not decode images (see
``intake``). One module per layout; `Listing` is what they have in common.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

from artiagent.config import InputSet
from artiagent.licences import LAYOUT_LICENCES, UNKNOWN
from artiagent.perception.grounding import Grounder
from artiagent.perception.sources import caltech101, celeba_hq, coco, folder, hands11k
from artiagent.perception.sources.listing import Listing, shown
from artiagent.perception.sources.places import (
    IMAGE_EXTENSIONS,
    SourceError,
    locate_annotations,
    locate_images,
    locate_parts,
)
from artiagent.records import stable_hash
from artiagent.store import file_sha256

__all__ = [
    "IMAGE_EXTENSIONS", "SourceError", "SourceImage", "image_names", "input_digest", "iter_images", "known_grounder",
    "left_out", "licence_of", "locate_annotations", "locate_images", "locate_parts",
]  # fmt: skip

_SURVEYS = {
    "folder": folder.survey,
    "coco": coco.survey,
    "caltech101": caltech101.survey,
    "hands11k": hands11k.survey,
    "celeba_hq": celeba_hq.survey,
}


class SourceImage(NamedTuple):
    """One image of a set: its name inside the set (POSIX path relative to the folder) and how to get its bytes.

    ``read`` raises OSError when the file cannot be read; that is a matter of this image, not of the set. ``subject`` is
    the data set's own class of the image, a plain noun such as "dolphin", or "" where it has none.
    """

    name: str
    read: Callable[[], bytes]
    subject: str = ""


def image_names(source: InputSet) -> tuple[str, ...]:
    """Names of the set's images in reading order, cut to ``source.limit``.

    Raises SourceError when there are none, AnnotationError when a file that says which there are is unusable.
    """
    return _names(source, _survey(source))


def iter_images(source: InputSet, wanted: Collection[str] | None = None) -> Iterator[SourceImage]:
    """Stream the set's images in the order of ``image_names``; at most a few are in memory at a time.

    ``wanted`` are the names of those that are asked for; of a Parquet file only row groups that hold one are read.
    """
    return _stream(source, _survey(source), wanted)


def _stream(source: InputSet, listing: Listing, wanted: Collection[str] | None = None) -> Iterator[SourceImage]:
    names = _names(source, listing)
    if wanted is not None:
        names = tuple(name for name in names if name in wanted)
    if listing.home.is_file():
        for name, data in folder.rows(listing.home, names):
            yield SourceImage(name, partial(bytes, data))
    else:
        for name in names:
            yield SourceImage(name, (listing.home / name).read_bytes, listing.subject(name))


def left_out(source: InputSet) -> dict[str, str]:
    """Names that are not read -> "code: detail": files that the layout or a filter excludes, entries without a file.

    Every image file below the set's folder and every annotated name is here or among ``image_names``. With a ``limit``
    names that sort behind the last one read are in neither.
    """
    listing = _survey(source)
    reasons = listing.absent() | listing.left_out
    names = _names(source, listing)
    last = names[-1] if len(names) < len(listing.names) else None
    return {name: reason for name, reason in sorted(reasons.items()) if last is None or name < last}


def known_grounder(source: InputSet) -> Grounder | None:
    """The published annotations of the set, None where it has none. Raises AnnotationError, SourceError."""
    return _survey(source).grounder()


def licence_of(source: InputSet) -> str:
    """Licence of images whose annotations name none: the set's own, else the layout's as published."""
    return source.licence or LAYOUT_LICENCES.get(source.layout, UNKNOWN)


def input_digest(source: InputSet) -> str:
    """Hex sha256 of what perception reads of a set: its name and settings, the images' names and bytes, annotations.

    Where the set lies does not enter, so a moved copy keeps its cache keys. Raises as ``image_names`` does.
    """
    listing = _survey(source)
    digest = hashlib.sha256(stable_hash(source.name, str(source.scored), *_settings(source)).encode())
    for image in _stream(source, listing):
        digest.update(stable_hash(image.name, _content(image.read), *_evidence(listing, image.name)).encode())
    for document in listing.documents:
        digest.update(file_sha256(document).encode())
    return digest.hexdigest()


def _evidence(listing: Listing, name: str) -> Iterator[str | bytes]:
    for file in listing.evidence(name):
        yield file.name
        yield _content(file.read_bytes)


def _content(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except OSError as error:
        return f"unreadable: {error.strerror}".encode()


def _settings(source: InputSet) -> tuple[str, ...]:
    """What differs from the defaults: sets without filters keep the digests that they had before there were any."""
    values = source.model_dump(include={"layout", "categories", "instances", "licence"}, exclude_defaults=True)
    return (json.dumps(values, sort_keys=True),) if values else ()


def _survey(source: InputSet) -> Listing:
    listing = _SURVEYS[source.layout](source, locate_images(source))
    if not listing.names:
        raise SourceError(f"input set {source.name!r}: {_nothing(source, listing)}")
    return listing


def _names(source: InputSet, listing: Listing) -> tuple[str, ...]:
    return tuple(listing.names[: source.limit])


def _nothing(source: InputSet, listing: Listing) -> str:
    if not listing.left_out:
        kind = "no rows in" if listing.home.is_file() else f"no image files ({', '.join(IMAGE_EXTENSIONS)}) below"
        return f"{kind} {listing.home}; expected at least one image"
    codes = Counter(reason.partition(":")[0] for reason in listing.left_out.values())
    counts = ", ".join(f"{code} {number}" for code, number in codes.most_common())
    name, reason = min(listing.left_out.items())
    filters = source.model_dump(include={"categories", "instances"}, exclude_defaults=True)
    asked = f"; filters {filters}, categories in the set: {shown(listing.categories)}" if filters else ""
    return f"no image of {listing.home} is left ({counts}; {name}: {reason}){asked}"
