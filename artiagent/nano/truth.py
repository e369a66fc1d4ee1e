"""Curation truth by nano-parser: does an independent counter of parts see the fault that a pair claims?

``artiagent nano truth --curated FOLDER`` prints the precision of accepted pairs per tool. The parser sees
pixels only. What it must find, twin against artifact image, around the recorded targets:

- add: one more of the part, or twice its pixels;
- remove: one less of the part, or at most half of its pixels;
- distort: the part's pixels at most half where they were;
- fuse: a third of the pixels of the fused place shows another class than before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation
from tqdm import tqdm

from artiagent.curation.change import target_mask
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.metrics import ratio_of
from artiagent.images import decode
from artiagent.nano.parser import Parsed, Parser, part_names
from artiagent.records import Artifact, DatasetRef, Interval, Pair
from artiagent.store import Row, read_rows

MARGIN = 6  # px around the targets in which a part's middle may lie
MORE, LESS, KEPT, CHANGED = 2.0, 0.5, 0.5, 0.33
LEAST = 24  # px of a part that can be counted on
BATCH = 32


def seen(artifact: Artifact, clean: Parsed, image: Parsed) -> bool | None:
    """Whether the parser sees the artifact; None where it does not know the part's name."""
    targets = target_mask(artifact, *clean.labels.shape)
    near = binary_dilation(targets, iterations=MARGIN)
    tool, part = artifact.injection.tool, artifact.injection.part
    if tool == "fuse":
        return bool((clean.labels != image.labels)[targets].mean() >= CHANGED)
    if part not in part_names():
        return None
    (count_before, mask_before), (count_after, mask_after) = (_part(parsed, part, near) for parsed in (clean, image))
    before, after = int(mask_before.sum()), int(mask_after.sum())
    if tool == "add":
        return count_after > count_before or after >= MORE * max(before, LEAST)
    if tool == "remove":
        return count_after < count_before or (before >= LEAST and after <= LESS * before)
    both = int((mask_before & mask_after).sum())
    return both <= KEPT * max(before, 1) or count_after != count_before


def _part(parsed: Parsed, name: str, near: np.ndarray) -> tuple[int, np.ndarray]:
    """How many parts of the name have their middle in `near` (bool [H, W]), and their pixels there."""
    height, width = near.shape
    count = sum(
        part.name == name and bool(near[min(int(part.y), height - 1), min(int(part.x), width - 1)])
        for part in parsed.parts
    )
    return count, parsed.mask(name) & near


def judged(parser: Parser, rows: Iterable[Row[Pair]]) -> Iterator[tuple[Pair, Artifact, bool | None]]:
    """Every artifact of a scored pair that is no benign injection, with the parser's opinion."""
    wanted = (row for row in rows if row.record.scored and not row.record.benign)
    while batch := list(islice(wanted, BATCH)):
        sides = {side: parser.parse([decode(row.images[side]) for row in batch]) for side in ("clean", "artifact")}
        for row, clean, image in zip(batch, sides["clean"], sides["artifact"], strict=True):
            for artifact in row.record.artifacts:
                yield row.record, artifact, seen(artifact, clean, image)


def precision(parser: Parser, curated: DatasetRef | Path, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """Share of artifacts that the parser sees, accepted and rejected, per tool and part; intervals resample sources.

    Artifacts whose part the parser does not know are left out.
    """
    votes: dict[tuple[str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for pair, artifact, opinion in tqdm(judged(parser, read_rows(curated, Pair)), "parse", unit="artifact"):
        if opinion is not None:
            verdict = "accepted" if artifact.accepted else "rejected"
            injection = artifact.injection
            for group in ("all", injection.tool, f"{injection.tool}/{injection.part or injection.entity}"):
                votes[verdict, group][pair.source_id].append(opinion)
    table: dict[str, dict[str, Interval]] = defaultdict(dict)
    for (verdict, tool), by_source in sorted(votes.items()):
        right = np.array([sum(found) for found in by_source.values()], dtype=float)
        asked = np.array([len(found) for found in by_source.values()], dtype=float)
        weights = draw_weights(len(right), 1000, seed)
        table[verdict][tool] = interval(ratio_of(right, asked), weights, int(asked.sum()))
    return dict(table)
