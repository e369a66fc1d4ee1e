"""Curated pairs as squares of pixels on disk: decoded once, read in any order, gone when the training is over.

Knows which pairs count and what is kept of them. Does not know towers or losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from artiagent.config import RewardSection
from artiagent.curation.funnel import hard_negative
from artiagent.images import decode, resized
from artiagent.instruction.conversations import split_of, usable
from artiagent.records import DatasetRef, Pair, stable_hash
from artiagent.store import read_rows

PIXELS, REGIONS = ".pixels.npy", ".regions.npy"
HALVES = "halves"  # seeds the split of the training sources between the members


@dataclass(frozen=True)
class Told:
    """What is kept of a pair beside its pixels."""

    source: str
    benign: bool
    tools: tuple[str, ...] = ()  # of the faults that curation accepted
    distance: float | None = None  # perceptual, the largest among them; None where the metric does not apply
    change: float = 0.0  # mean change inside the targets, the largest among them


@dataclass(frozen=True)
class PairSet:
    """P pairs. ``pixels`` uint8 [P, 2, S, S, 3], clean side first; ``regions`` uint8 [P, S, S], 1 where a fault is."""

    pixels: np.ndarray
    regions: np.ndarray
    told: tuple[Told, ...]

    def take(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Float pixels [n, 2, 3, S, S] in 0..1 and regions [n, 1, S, S] of some pairs."""
        index = np.asarray(chosen, dtype=int)
        pixels = torch.from_numpy(self.pixels[index]).permute(0, 1, 4, 2, 3).float() / 255
        return pixels, torch.from_numpy(self.regions[index])[:, None].float()

    @property
    def sources(self) -> np.ndarray:
        return np.array([told.source for told in self.told])


@dataclass(frozen=True)
class Split:
    """Indices of pairs. ``members``: those that each verifier is trained on; ``benign`` injections likewise."""

    members: tuple[tuple[int, ...], ...]
    benign: tuple[tuple[int, ...], ...]
    held: tuple[int, ...]
    held_benign: tuple[int, ...]


@contextmanager
def read_pairs(curated: DatasetRef, side: int, scratch: Path) -> Iterator[PairSet]:
    """All usable pairs of scored groups and their benign injections, at ``side`` px; files in ``scratch`` meanwhile.

    Raises ValueError when no pair is usable.
    """
    told = [_told(row.record) for row in read_rows(curated, Pair, ()) if _wanted(row.record)]
    if not any(not t.benign for t in told):
        raise ValueError(
            f"{curated.uri}: none of {curated.rows} pairs is accepted and in a scored group; see funnel.json"
        )
    scratch.mkdir(parents=True, exist_ok=True)
    shapes = {PIXELS: (len(told), 2, side, side, 3), REGIONS: (len(told), side, side)}
    try:
        pixels, regions = (
            np.lib.format.open_memmap(scratch / name, mode="w+", dtype=np.uint8, shape=shape)
            for name, shape in shapes.items()
        )
        rows = (row for row in read_rows(curated, Pair) if _wanted(row.record))
        for k, row in enumerate(tqdm(rows, desc="reward pairs", unit="pair", total=len(told))):
            for at, name in enumerate(("clean", "artifact")):
                pixels[k, at] = square(decode(row.images[name]), side)
            regions[k] = _region(row.record, side)
        yield PairSet(pixels, regions, tuple(told))
    finally:
        for name in shapes:
            (scratch / name).unlink(missing_ok=True)


def square(image: np.ndarray, side: int) -> np.ndarray:
    """The whole picture, uint8 [H, W, 3], scaled to ``side`` x ``side`` px."""
    return image if image.shape[:2] == (side, side) else resized(image, (side, side))


def split(section: RewardSection, told: Sequence[Told], where: str) -> Split:
    """Held-out sources, and the others in disjoint parts for the members.

    Raises ValueError naming ``where`` when a member has no pair, or fewer than two sources are held out.
    """
    part = [_part(section, t.source) for t in told]
    members = range(section.members)
    made = Split(
        tuple(_where(part, told, k, benign=False) for k in members),
        tuple(_where(part, told, k, benign=True) for k in members),
        _where(part, told, None, benign=False),
        _where(part, told, None, benign=True),
    )
    counts = [len(m) for m in made.members]
    held = len({told[i].source for i in made.held})
    if min(counts) < 2 or held < 2:
        raise ValueError(
            f"{where}: {' and '.join(map(str, counts))} pairs for {section.members} verifiers and {held} held-out "
            "sources; expected at least 2 of each: make more pairs (planning.variants, more images), or change "
            "reward.val_share or reward.members"
        )
    return made


def _part(section: RewardSection, source: str) -> int | None:
    """Which member learns from a source; None: it is held out."""
    if split_of(source, section.val_share, section.seed) == "val":
        return None
    return int(stable_hash(HALVES, section.seed, source, length=8), 16) % section.members


def _where(part: Sequence[int | None], told: Sequence[Told], wanted: int | None, *, benign: bool) -> tuple[int, ...]:
    return tuple(i for i, (p, t) in enumerate(zip(part, told, strict=True)) if p == wanted and t.benign == benign)


def _wanted(pair: Pair) -> bool:
    return usable(pair) or (pair.scored and hard_negative(pair))


def _told(pair: Pair) -> Told:
    if pair.benign:
        return Told(pair.source_id, benign=True)
    distances = [a.distance for a in pair.faults if a.distance is not None]
    return Told(
        pair.source_id,
        benign=False,
        tools=tuple(dict.fromkeys(a.injection.tool for a in pair.faults)),
        distance=max(distances) if distances else None,
        change=max(a.change_inside for a in pair.faults),
    )


def _region(pair: Pair, side: int) -> np.ndarray:
    """uint8 [S, S]: 1 in the boxes of the accepted faults; nothing is wrong in a benign injection."""
    found = np.zeros((side, side), np.uint8)
    for artifact in pair.faults if not pair.benign else ():
        x0, y0, x1, y1 = artifact.box
        rows = slice(y0 * side // pair.height, -(-y1 * side // pair.height))
        found[rows, x0 * side // pair.width : -(-x1 * side // pair.width)] = 1
    return found
