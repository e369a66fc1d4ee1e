"""Where the images of an audit come from: a generator that draws them here, or a folder that another one filled.

Knows prompts, seeds and files. Does not know what is asked about an image. The seed of a picture follows from the
prompt, its number and the section's seed: the same noise for every generator, whatever else is on the list.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from artiagent.checkpoints import checkpoint_ref, locate, model_name
from artiagent.config import AuditedPlace, AuditSection
from artiagent.images import encode
from artiagent.inspection.findings import Picture
from artiagent.inspection.pictures import Pictures, is_many, open_pictures, read_bytes, to_picture
from artiagent.mitigation.prompts import read_prompts
from artiagent.records import CheckpointRef, stable_hash
from artiagent.store import content_sha256

PROMPT_FILES = ("prompts.csv", "metadata.csv")  # beside the images: columns file_name and prompt (or text), seed
PIPELINE = "model_index.json"


class Shot(NamedTuple):
    """An image that is to be looked at: its name, unique within the source, and what is known about it."""

    name: str
    prompt: str
    seed: int | None = None


class Source(Protocol):
    """Images of one generator, in a fixed order. ``left_out``: files that were not even listed."""

    shots: Sequence[Shot]
    left_out: int

    def pictures(self, shots: Sequence[Shot]) -> list[tuple[Picture, bytes]]:
        """Pixels (or why there are none) and encoded bytes of some of the shots, in order."""
        ...

    def release(self) -> None:
        """Give back the memory of a loaded generator."""
        ...


class Folder:
    """Images that lie in a folder or a Parquet file; prompts from ``prompts.csv`` beside them where there is one."""

    def __init__(self, place: Path, limit: int | None = None) -> None:
        """Raises ValueError for a place without images and for a list of prompts that cannot be read."""
        self._files: Pictures = open_pictures(place)
        self.left_out = self._files.unreadable
        told = _prompts_beside(place) if place.is_dir() else {}
        self.shots = [Shot(name, *told.get(name, ("", None))) for name in self._files.names]
        if limit is not None:
            kept = set(list(dict.fromkeys(shot.prompt or shot.name for shot in self.shots))[:limit])
            self.shots = [shot for shot in self.shots if (shot.prompt or shot.name) in kept]

    def pictures(self, shots: Sequence[Shot]) -> list[tuple[Picture, bytes]]:
        data = {file.name: read_bytes(file) for file in self._files.read(frozenset(shot.name for shot in shots))}
        return [
            (to_picture(shot.name, data[shot.name]), b"" if isinstance(data[shot.name], str) else data[shot.name])
            for shot in shots
        ]

    def release(self) -> None:
        """Nothing is held."""


class Drawn:
    """Images that a generator draws here; it is loaded when the first is asked for."""

    left_out = 0

    def __init__(self, generator: CheckpointRef, section: AuditSection, prompts: Sequence[str]) -> None:
        """Raises ValueError without prompts."""
        if not prompts:
            raise ValueError(f"{generator.name}: no prompts to draw from; give a file with one a line (--prompts)")
        self._ref, self._section, self._generator = generator, section, None
        self.shots = [
            Shot(f"{number:05d}-{k:03d}.png", prompt, seed_of(prompt, k, section.seed))
            for number, prompt in enumerate(prompts)
            for k in range(section.images)
        ]

    def pictures(self, shots: Sequence[Shot]) -> list[tuple[Picture, bytes]]:
        encoded = map(encode, self._draw(shots))
        return [(to_picture(shot.name, data), data) for shot, data in zip(shots, encoded, strict=True)]

    def release(self) -> None:
        self._generator = None

    def _draw(self, shots: Sequence[Shot]) -> np.ndarray:
        """uint8 [n, size, size, 3]."""
        from artiagent.mitigation.generators import open_generator

        if self._generator is None:
            s = self._section
            self._generator = open_generator(
                self._ref, size=s.size, steps=s.steps, guidance=s.guidance, device=s.device, dtype=s.dtype,
                threads=s.threads, batch=s.batch,
            )  # fmt: skip
            self._generator.embed([shot.prompt for shot in self.shots])
        noise = self._generator.noise([shot.seed for shot in shots])
        return self._generator.generate([shot.prompt for shot in shots], noise)


def seed_of(prompt: str, number: int, seed: int) -> int:
    """Seed of the ``number``-th picture of a prompt, 0 to 2^48 - 1."""
    return int(stable_hash("audit", prompt, number, seed, length=12), 16)


def open_source(generator: CheckpointRef, section: AuditSection, prompts: Sequence[str]) -> Source:
    """The images behind a reference of `place_refs`."""
    place = Path(generator.uri)
    if (place / PIPELINE).is_file():
        return Drawn(generator, section, prompts)
    return Folder(place, section.limit)


def place_refs(places: Sequence[AuditedPlace]) -> list[CheckpointRef]:
    """Generators as references with names of their own: pipeline folders, hub ids, folders or Parquet files of images.

    Raises ValueError for none, for a place that is neither, for two of one name, and for one that is no longer what its
    ``sha256`` says.
    """
    if not places:
        raise ValueError("no generator to audit; name a pipeline folder, a hub id or a folder of images (--generator)")
    refs = [_ref(place) for place in places]
    names = [ref.name for ref in refs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"generators: two are called {twice[0]!r}; tell them apart with NAME=PLACE")
    return refs


def settled(section: AuditSection) -> AuditSection:
    """The section with absolute places, names and digests of its generators and prompts: what a cache key needs."""
    places = tuple(
        AuditedPlace(name=ref.name, location=ref.uri, sha256=ref.sha256) for ref in place_refs(section.generators)
    )
    prompts = locate(section.prompts) if needs_prompts(places) else None
    told = {"prompts": str(prompts), "prompts_sha256": content_sha256(prompts)} if prompts else {}
    return section.model_copy(update={"generators": places, **told})


def prompts_of(section: AuditSection) -> tuple[str, ...]:
    """The prompts of a settled section; () where nothing is drawn. Raises ValueError for a file that changed since."""
    if not needs_prompts(section.generators):
        return ()
    if section.prompts_sha256 not in (None, own := content_sha256(locate(section.prompts))):
        raise ValueError(f"{section.prompts}: changed (sha256 {own[:12]}, expected {section.prompts_sha256[:12]})")
    return read_prompts(section.prompts, section.limit)


def needs_prompts(places: Sequence[AuditedPlace]) -> bool:
    """Whether anything is drawn here."""
    return any((Path(place.location) / PIPELINE).is_file() for place in places)


def _ref(place: AuditedPlace) -> CheckpointRef:
    path = locate(place.location)
    if (path / PIPELINE).is_file():
        ref = checkpoint_ref(place.name or model_name(place.location), str(path))
    elif is_many(path):
        open_pictures(path)  # says so here when there is nothing to look at
        ref = CheckpointRef(name=place.name or path.stem, uri=str(path), sha256=content_sha256(path))
    else:
        raise ValueError(f"{path}: no pipeline folder ({PIPELINE}), folder of images or Parquet file of images")
    if place.sha256 and place.sha256 != ref.sha256:
        raise ValueError(f"{path}: its content changed (sha256 {ref.sha256[:12]}, expected {place.sha256[:12]})")
    return ref


def _prompts_beside(folder: Path) -> dict[str, tuple[str, int | None]]:
    """File name -> (prompt, seed) of the folder's list; {} where it has none. Raises ValueError naming the file."""
    path = next((folder / name for name in PROMPT_FILES if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error})") from error
    columns = list(rows[0]) if rows else []
    told = next((name for name in ("prompt", "text") if name in columns), None)
    if told is None or "file_name" not in columns:
        raise ValueError(f"{path}: columns {columns}; expected file_name and prompt (or text), and perhaps seed")
    return {row["file_name"]: (" ".join((row[told] or "").split()), _seed(path, row)) for row in rows}


def _seed(path: Path, row: dict[str, str]) -> int | None:
    try:
        return int(row["seed"]) if row.get("seed") else None
    except ValueError as error:
        raise ValueError(f"{path}: seed {row['seed']!r} of {row['file_name']} is no whole number") from error
