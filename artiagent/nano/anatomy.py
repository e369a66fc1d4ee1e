"""Is the anatomy of a picture right? Part counts of nano-parser against those of clean renderings of the same kinds.

``python -m artiagent.nano.anatomy`` renders clean scenes, passes them through nano-FLUX's encode path as every picture
passes it, parses them and writes ``anatomy.json`` beside this file: how often an entity of a kind, standing in a role
(alone, before or behind another ...), shows how many of a part *as the parser sees it*. `PartJudge` reads it.

A picture is faulty when a part occurs so seldom or so often that fewer than ``tail`` of the clean renderings of its
caption have as few or as many, or when the body of an entity of its caption is nearly absent. ``tail`` is set on other
clean renderings by the rate of false alarms. Knows kinds by their names in the caption; knows no generator and no VLM.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from artiagent.nano.parser import IMAGE_SIZE, Parsed, Parser, classes, part_names
from artiagent.nano.scenes import KINDS, TRAIN_SEEDS, RenderedScene, render_scene
from artiagent.records import CheckpointRef
from artiagent.store import file_sha256, folder_sha256, write_atomic

REFERENCE = Path(__file__).with_suffix(".json")
FIRST_SEED = TRAIN_SEEDS[1_750_000_000]  # of no recipe
CALIBRATION_SEED = TRAIN_SEEDS[1_760_000_000]
ROLES = SINGLE, FRONT, REAR, APART, FRONT_OF_TWO, SIDE = "single", "front", "rear", "apart", "front of two", "side"
# (entities, overlap) -> share of the reference renderings; every role gets a like number of entities
ARRANGEMENTS: dict[tuple[int, bool], float] = {(1, False): 0.3, (2, True): 0.25, (2, False): 0.15, (3, True): 0.3}
FALSE_ALARMS = 0.05  # share of the calibration's clean renderings that may be called faulty
BODY_QUANTILE = 0.005  # of the body's pixels in clean renderings: an entity below it is nearly absent
BATCH = 32
_KIND = re.compile(rf"\b({'|'.join(KINDS)})\b")

Cast = tuple[tuple[str, str], ...]  # (kind, role) of each entity
Encode = Callable[[np.ndarray], np.ndarray]


class Deviation(NamedTuple):
    """A part, or the body of a kind, that clean renderings do not show so. `share` of them have as few or as many."""

    name: str
    count: int
    direction: str  # "few" or "many"; "absent" for a body, whose count is pixels
    share: float

    def __str__(self) -> str:
        return (
            f"{self.name}: absent" if self.direction == "absent" else f"{self.name}: {self.count}, too {self.direction}"
        )


def cast_of(caption: str) -> Cast:
    """Kind and role of each entity of a caption, in its order.

    Raises ValueError where it names no kind of the nano world, or more than the three that a scene holds.
    """
    kinds = _KIND.findall(caption)
    if not 1 <= len(kinds) <= 3:
        raise ValueError(f"caption {caption!r}: names {len(kinds)} entities; expected 1 to 3 of {', '.join(KINDS)}")
    if len(kinds) == 1:
        return ((kinds[0], SINGLE),)
    if " in front of " not in caption:
        return tuple((kind, APART) for kind in kinds)
    front, rear = (FRONT, REAR) if len(kinds) == 2 else (FRONT_OF_TWO, SIDE)
    return ((kinds[0], front), *((kind, rear) for kind in kinds[1:]))


class PartJudge:
    """Says by part counts whether pictures of the nano world show what their captions promise.

    Args:
        parser: nano-parser's folder.
        reference: file that `write_reference` wrote for this parser.

    Raises ValueError when the reference was measured with another parser.
    """

    name = "parts"

    def __init__(self, parser: CheckpointRef | Path, reference: Path = REFERENCE) -> None:
        folder = Path(parser.uri) if isinstance(parser, CheckpointRef) else parser
        self._parser = Parser(folder)
        self.sha256 = parser.sha256 if isinstance(parser, CheckpointRef) else folder_sha256(folder)
        table = json.loads(reference.read_text())
        if (own := file_sha256(folder / "model.safetensors")) != table["parser"]:
            raise ValueError(
                f"{reference}: measured with the parser {table['parser'][:12]}, got {own[:12]} in {folder}; remake it "
                f"with 'python -m artiagent.nano.anatomy --parser {folder}'"
            )
        self.tail: float = table["tail"]
        self._shares = functools.cache(functools.partial(_shares_of, table["counts"]))
        self._bodies: dict[str, int] = table["bodies"]

    def can_judge(self, image: np.ndarray, caption: str) -> bool:
        """Whether a picture has the size of the reference and its caption names one to three known kinds."""
        return image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3) and 1 <= len(_KIND.findall(caption)) <= 3

    def parse(self, images: Sequence[np.ndarray]) -> list[Parsed]:
        """Parts and classes of uint8 [128, 128, 3] each. Raises ValueError for another size: the reference has none."""
        if wrong := {image.shape for image in images} - {(IMAGE_SIZE, IMAGE_SIZE, 3)}:
            raise ValueError(f"pictures of {sorted(wrong)}: expected {IMAGE_SIZE} x {IMAGE_SIZE} px, scale them first")
        return self._parser.parse(images, BATCH)

    def counts(self, images: Sequence[np.ndarray]) -> list[Counter[str]]:
        """How many of each part every picture shows."""
        return [parsed.counts() for parsed in self.parse(images)]

    def deviations(self, images: Sequence[np.ndarray], captions: Sequence[str]) -> list[tuple[Deviation, ...]]:
        """What of each picture clean renderings of its caption do not show, the rarest first; () where all is right."""
        return [
            tuple(sorted(self._deviations(parsed, cast_of(caption)), key=lambda found: found.share))
            for parsed, caption in zip(self.parse(images), captions, strict=True)
        ]

    def faulty(self, images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
        """bool [n]: pictures with a deviation."""
        return np.array([bool(found) for found in self.deviations(images, captions)], dtype=bool)

    def restored(self, images: Sequence[np.ndarray], clean: Sequence[np.ndarray]) -> np.ndarray:
        """bool [n]: all part counts equal those of the picture of the clean scene."""
        pairs = zip(self.counts(images), self.counts(clean), strict=True)
        return np.array([shown == wanted for shown, wanted in pairs], dtype=bool)

    def _deviations(self, parsed: Parsed, cast: Cast) -> Iterator[Deviation]:
        counts = parsed.counts()
        for part in part_names():
            few, many = tails(self._shares(cast, part), counts[part])
            if min(few, many) < self.tail:
                yield Deviation(part, counts[part], "few" if few < many else "many", min(few, many))
        least: Counter[str] = Counter()
        for kind, role in cast:
            least[kind] += self._bodies[f"{kind}, {role}"]
        for kind, pixels in least.items():
            if (seen := int(parsed.mask(kind).sum())) < pixels:
                yield Deviation(kind, seen, "absent", 0.0)


def tails(shares: np.ndarray, count: int) -> tuple[float, float]:
    """Share of renderings that have at most and at least `count`; `shares` [k] of those that have 0, 1, ..."""
    return float(shares[: count + 1].sum()), float(shares[count:].sum())


def _shares_of(table: dict[str, dict[str, list[int]]], cast: Cast, part: str) -> np.ndarray:
    """Share of renderings of a cast with 0, 1, ... of a part: the entities' own add up."""
    total = np.ones(1)
    for kind, role in cast:
        own = np.array(table[f"{kind}, {role}"].get(part, [1]), dtype=np.float64)
        total = np.convolve(total, own / own.sum())
    return total


class _Seen(NamedTuple):
    """A clean rendering as the parser sees it: per entity its kind and role, its parts, its body's pixels."""

    parsed: Parsed
    caption: str
    entities: tuple[tuple[str, Counter[str], int], ...]


def write_reference(parser: Path, encode: Encode, out: Path, *, scenes: int = 8000, calibration: int = 2000) -> float:
    """Measure `scenes` clean renderings, set ``tail`` on `calibration` others, write the table. Returns ``tail``.

    Raises ValueError where there are too few to see every kind in every role.
    """
    counts: dict[str, dict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    entities: Counter[str] = Counter()
    bodies: dict[str, list[int]] = defaultdict(list)
    loaded = Parser(parser)
    for seen in _look(loaded, encode, reference_scenes(scenes), scenes):
        for key, parts, pixels in seen.entities:
            entities[key] += 1
            bodies[key].append(pixels)
            for part, count in parts.items():
                counts[key][part][count] += 1
    if len(entities) < len(KINDS) * len(ROLES):
        raise ValueError(f"{scenes} scenes show {len(entities)} of {len(KINDS) * len(ROLES)} kinds in roles; use more")
    table = {
        "parser": file_sha256(parser / "model.safetensors"),
        "scenes": scenes,
        "calibration": calibration,
        "tail": 0.0,
        "bodies": {key: int(np.quantile(bodies[key], BODY_QUANTILE)) for key in sorted(bodies)},
        "counts": {
            key: {part: _histogram(counts[key][part], entities[key]) for part in sorted(counts[key])}
            for key in sorted(counts)
        },
    }
    table["tail"] = _tail(table, _look(loaded, encode, clean_scenes(CALIBRATION_SEED, calibration), calibration))
    write_atomic(out, (_compact(table) + "\n").encode())
    return table["tail"]


def reference_scenes(scenes: int) -> Iterator[RenderedScene]:
    """Clean scenes in the shares of `ARRANGEMENTS`, about `scenes` of them."""
    seed = FIRST_SEED
    for (entities, overlap), share in ARRANGEMENTS.items():
        for _ in range(round(share * scenes)):
            yield render_scene(seed, entities=entities, overlap=overlap)
            seed += 1


def clean_scenes(first_seed: int, scenes: int) -> Iterator[RenderedScene]:
    """Clean scenes as the world is: arrangements in their natural shares."""
    return (render_scene(seed) for seed in range(first_seed, first_seed + scenes))


def _tail(table: dict[str, Any], seen: Iterator[_Seen]) -> float:
    """The largest ``tail`` at which at most `FALSE_ALARMS` of the clean renderings have a rarer count."""
    shares = functools.cache(functools.partial(_shares_of, table["counts"]))
    rarest = []
    for one in seen:
        counts, cast = one.parsed.counts(), cast_of(one.caption)
        rarest.append(min(min(tails(shares(cast, part), counts[part])) for part in part_names()))
    return round(float(np.quantile(rarest, FALSE_ALARMS, method="lower")), 6)


def _look(parser: Parser, encode: Encode, scenes: Iterator[RenderedScene], total: int) -> Iterator[_Seen]:
    """Every scene through the encode path and the parser."""
    with tqdm(desc="anatomy", unit="scene", total=total) as progress:
        while batch := list(islice(scenes, BATCH)):
            images = encode(np.stack([scene.image for scene in batch]))
            for scene, parsed in zip(batch, parser.parse(list(images), BATCH), strict=True):
                yield _Seen(parsed, scene.caption, _by_entity(scene, parsed))
            progress.update(len(batch))


def _by_entity(scene: RenderedScene, parsed: Parsed) -> tuple[tuple[str, Counter[str], int], ...]:
    """Found parts go to the entity that is nearest to their middle."""
    owners = np.zeros(scene.image.shape[:2], np.uint8)
    for number, entity in enumerate(scene.entities, start=1):
        owners[entity.mask] = number
    nearest = owners[tuple(distance_transform_edt(owners == 0, return_distances=False, return_indices=True))]
    found = [Counter[str]() for _ in scene.entities]
    for part in parsed.parts:
        found[nearest[int(part.y), int(part.x)] - 1][part.name] += 1
    index = classes().index
    return tuple(
        (key, found[k], int((entity.mask & (parsed.labels == index(entity.name))).sum()))
        for k, (key, entity) in enumerate(zip(_roles(scene), scene.entities, strict=True))
    )


def _roles(scene: RenderedScene) -> list[str]:
    """Key of each entity, from the rear to the front; a caption names the front one first where they overlap."""
    cast = cast_of(scene.caption)
    ordered = cast if cast[0][1] in (SINGLE, APART) else (*cast[1:], cast[0])
    return [f"{kind}, {role}" for kind, role in ordered]


def _histogram(counts: Counter[int], entities: int) -> list[int]:
    """Entities with 0, 1, ... of a part; those where none was found are the rest."""
    histogram = [counts[number] for number in range(max(counts) + 1)]
    histogram[0] = entities - sum(histogram)
    return histogram


def _compact(table: dict[str, Any]) -> str:
    """JSON with one line for each list."""
    return re.sub(r"\[[^\]]*\]", lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(table, indent=1))


def main() -> None:
    from artiagent.checkpoints import locate
    from artiagent.nano.flux_vae import encode_path

    options = argparse.ArgumentParser(description="Measure what part counts clean renderings have.")
    options.add_argument("--parser", type=Path, default=Path("data/weights/nano-parser"), help="nano-parser's folder")
    options.add_argument("--generator", default="data/weights/nano-flux", help="whose encode path pictures pass")
    options.add_argument("--out", type=Path, default=REFERENCE, help="file to write")
    options.add_argument("--scenes", type=int, default=8000)
    options.add_argument("--calibration", type=int, default=2000, help="other scenes that set the tail")
    given = options.parse_args()
    encode = encode_path(locate(given.generator))
    tail = write_reference(given.parser, encode, given.out, scenes=given.scenes, calibration=given.calibration)
    print(f"{given.out}: tail {tail}")


if __name__ == "__main__":
    main()
