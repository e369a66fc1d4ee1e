"""Pairs that the renderer drew, in the records of the pipeline: the oracle's training set and the filters' test set.

The oracle asks what the same learner gains from natural faults instead of injected ones. The filters' test asks what
curation accepts when the truth is known: half of its edits are drawn faults, half change pixels and nothing else.
Every pair passes the generator's autoencoder, and like an injection it keeps the twin's pixels outside its region.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from artiagent import images
from artiagent.grid import grow, indices_of, patch_grid, pixel_mask
from artiagent.nano.coco import LICENCE
from artiagent.nano.faults import FaultyScene, render_fault
from artiagent.nano.scenes import RenderedScene
from artiagent.nano.views import VISIBLE_PIXELS, box_of
from artiagent.records import (
    FAULT_OF_TOOL,
    DatasetRef,
    Entity,
    Injection,
    Mask,
    Pair,
    Part,
    PatchMapping,
    Scene,
    stable_hash,
)
from artiagent.store import DatasetWriter, Row
from artiagent.synthesis.compose import blend, measure

ORACLE_SEEDS = range(300_000, 400_000)
FILTER_SEEDS = range(400_000, 450_000)
PATCH, FEATHER = 8, 1
NULL_EDITS = ("reencoded", "recoloured", "shaded")
_TOOLS = {fault: tool for tool, fault in FAULT_OF_TOOL.items()}
_CHUNK = 16

Encode = Callable[[np.ndarray], np.ndarray]  # uint8 [B, H, W, 3] -> the same shape and type
_Made = tuple[list[FaultyScene], list[Row[Pair]]]


def write_drawn_pairs(curated: Path, scenes: Path, count: int, *, encode: Encode) -> tuple[DatasetRef, DatasetRef]:
    """Write `count` drawn pairs, balanced over faults and kinds, as accepted curated pairs.

    Returns the references of the data sets "curated" and "scenes", in the folders given. Raises ValueError where the
    seeds do not suffice.
    """
    if not 1 <= count <= len(ORACLE_SEEDS):
        raise ValueError(f"count={count}: expected 1 to {len(ORACLE_SEEDS)}")

    def make(numbers: range) -> _Made:
        seeds = [ORACLE_SEEDS[number] for number in numbers]
        drawn = [render_fault(seed) for seed in seeds]
        rows = _faulty_pairs(drawn, seeds, encode)
        return drawn, [_accepted(row, fault) for row, fault in zip(rows, drawn, strict=True)]

    return _write(curated, "curated", scenes, count, make)


def write_filter_test(out: Path, count: int, *, encode: Encode) -> tuple[DatasetRef, DatasetRef]:
    """Write `count` unjudged pairs, the even ones with a drawn fault, the odd ones with an edit that is no fault.

    The null edits of a part's or a body's pixels: passed through the autoencoder once more, given another hue, given a
    shadow. All name the tool and part of the drawn fault of their scene, so that the filters are asked the same.
    `prompt` of a pair holds the truth: "fault" or the name of the null edit. Returns "pairs" and "scenes".
    """
    if not 2 <= count <= len(FILTER_SEEDS):
        raise ValueError(f"count={count}: expected 2 to {len(FILTER_SEEDS)}")
    rng = random.Random(0)

    def make(numbers: range) -> _Made:
        seeds = [FILTER_SEEDS[number] for number in numbers]
        # Faults and nulls share the walk through kinds and faults: pair k and k + 1 differ in kind alone.
        faults = [list(_TOOLS)[number // 2 % 4] for number in numbers]
        drawn = [render_fault(seed, fault=fault) for seed, fault in zip(seeds, faults, strict=True)]
        rows = []
        for row, fault, number in zip(_faulty_pairs(drawn, seeds, encode), drawn, numbers, strict=True):
            kind = "fault" if number % 2 == 0 else rng.choice(NULL_EDITS)
            rows.append(_told(row, kind) if kind == "fault" else _null(row, fault, kind, encode, rng))
        return drawn, rows

    return _write(out / "pairs", "pairs", out / "scenes", count, make)


def _write(
    out: Path, name: str, scenes_out: Path, count: int, make: Callable[[range], _Made]
) -> tuple[DatasetRef, DatasetRef]:
    """What `make` gives for each range of numbers, as data sets `name` and "scenes"."""
    pairs: DatasetWriter[Pair] = DatasetWriter(out, name, ("clean", "artifact"))
    scenes: DatasetWriter[Scene] = DatasetWriter(scenes_out, "scenes", ("image",))
    with tqdm(desc=f"drawn {name}", total=count, unit="pair") as progress:
        for start in range(0, count, _CHUNK):
            drawn, rows = make(range(start, min(start + _CHUNK, count)))
            pairs.write(f"{start:07d}", rows)
            scenes.write(f"{start:07d}", [_scene_row(row, f.scene) for row, f in zip(rows, drawn, strict=True)])
            progress.update(len(rows))
    return pairs.finish(), scenes.finish()


def _faulty_pairs(drawn: list[FaultyScene], seeds: Iterable[int], encode: Encode) -> Iterator[Row[Pair]]:
    both = encode(np.stack([fault.clean_image for fault in drawn] + [fault.image for fault in drawn]))
    for fault, seed, twin, raw in zip(drawn, seeds, both, both[len(drawn) :], strict=False):
        yield _pair(fault, seed, twin, raw)


def _pair(fault: FaultyScene, seed: int, twin: np.ndarray, raw: np.ndarray) -> Row[Pair]:
    targets = patch_grid(fault.mask, PATCH)
    injection = Injection(
        tool=_TOOLS[fault.fault],
        entity=fault.entity,
        entity_id="0",
        part=fault.part or "",
        part_id="0" if fault.part else "",
        other_entity=_other(fault) if fault.fault == "fusion" else "",
        seed=seed,
        mapping=PatchMapping(
            grid=targets.shape,
            targets=tuple(map(int, indices_of(targets))),
            references=tuple(map(int, indices_of(targets))),
        ),
    )
    image = blend(twin, raw, pixel_mask(grow(targets, FEATHER), PATCH), PATCH // 2)
    pair = Pair(
        job_id=stable_hash("drawn", seed, length=24),
        source_id=f"drawn-{seed}",
        group="drawn",
        variant=0,
        width=image.shape[1],
        height=image.shape[0],
        prompt="",
        artifacts=(measure(twin, image, injection, PATCH, FEATHER),),
        backbone="renderer",
        backbone_sha256="",
        sampling={},
        caption=fault.scene.caption,
        licence=LICENCE,
    )
    return Row(pair.job_id, pair, {"clean": images.encode(twin), "artifact": images.encode(image)})


def _other(fault: FaultyScene) -> str:
    return next((entity.name for entity in fault.scene.entities if entity.name != fault.entity), fault.entity)


def _accepted(row: Row[Pair], fault: FaultyScene) -> Row[Pair]:
    """As curation would leave it, in the words of the illustrator."""
    (artifact,) = row.record.artifacts
    told = {"accepted": True, "label": fault.label, "explanation": fault.explanation}
    pair = row.record.model_copy(
        update={"artifacts": (artifact.model_copy(update=told),), "explanation": fault.explanation}
    )
    return Row(row.key, pair, row.images)


def _told(row: Row[Pair], truth: str) -> Row[Pair]:
    return Row(row.key, row.record.model_copy(update={"prompt": truth}), row.images)


def _null(row: Row[Pair], fault: FaultyScene, kind: str, encode: Encode, rng: random.Random) -> Row[Pair]:
    """The same record with an artifact side on which nothing is wrong."""
    twin = images.decode(row.images["clean"])
    (artifact,) = row.record.artifacts
    raw = _harmless(twin, fault, kind, encode, rng)
    image = blend(twin, raw, artifact.region.decode(), PATCH // 2)
    pair = row.record.model_copy(
        update={"artifacts": (measure(twin, image, artifact.injection, PATCH, FEATHER),), "prompt": kind}
    )
    return Row(row.key, pair, {"clean": row.images["clean"], "artifact": images.encode(image)})


def _harmless(twin: np.ndarray, fault: FaultyScene, kind: str, encode: Encode, rng: random.Random) -> np.ndarray:
    if kind == "reencoded":
        return encode(twin[None])[0]
    drawn = np.logical_or.reduce([entity.mask for entity in fault.scene.entities])
    if kind == "recoloured":
        turned = twin[..., rng.choice([(1, 2, 0), (2, 0, 1), (2, 1, 0)])]
        return np.where(drawn[..., None], turned, twin)
    share = rng.choice((0.72, 0.8, 1.18, 1.25))
    return (twin.astype(np.float32) * share).clip(0, 255).round().astype(np.uint8)


def _scene_row(row: Row[Pair], scene: RenderedScene) -> Row[Scene]:
    """The clean scene as perception would record it; parts of a few pixels are left out."""
    pair = row.record
    entities = []
    for number, entity in enumerate(scene.entities):
        parts = tuple(
            Part(
                id=f"{number}-{k}", name=part.name, layer=part.layer, mask=Mask.encode(part.mask), box=box_of(part.mask)
            )
            for k, part in enumerate(entity.parts)
            if part.mask.sum() >= VISIBLE_PIXELS
        )
        entities.append(
            Entity(
                id=str(number), name=entity.name, mask=Mask.encode(entity.mask), box=box_of(entity.mask), parts=parts
            )
        )
    record = Scene(
        source_id=pair.source_id,
        group=pair.group,
        width=pair.width,
        height=pair.height,
        image_sha256=stable_hash(row.images["clean"], length=64),
        caption=scene.caption,
        entities=tuple(entities),
        licence=LICENCE,
        grounding="renderer",
    )
    return Row(pair.source_id, record, {"image": row.images["clean"]})
