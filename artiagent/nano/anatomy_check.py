"""How good is the counter of parts? False alarms on clean renderings, recall on drawn faults, agreement with labels.

``python -m artiagent.nano.anatomy_check`` prints the figures as JSON. Clean renderings are of seeds that neither the
reference nor its tail saw. Captions of the benchmark's pictures are rendered again from their seeds; the counter sees
captions and pictures, never a label.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.metrics import mean_of
from artiagent.images import decode
from artiagent.nano.anatomy import BATCH, Encode, PartJudge, clean_scenes
from artiagent.nano.faults import render_fault
from artiagent.nano.generated import sample_caption
from artiagent.nano.scenes import TRAIN_SEEDS
from artiagent.records import Interval

CHECK_SEED = TRAIN_SEEDS[1_770_000_000]
RESAMPLES = 10_000
Shown = tuple[np.ndarray, str, str]  # picture, caption, what it is: "clean" or the fault


def check(judge: PartJudge, shown: Iterator[Shown]) -> dict[str, Interval]:
    """Share of pictures called faulty, by what they are: false alarms of "clean", recall of the rest."""
    called: dict[str, list[bool]] = {}
    while batch := list(islice(shown, BATCH)):
        images, captions, names = zip(*batch, strict=True)
        for name, faulty in zip(names, judge.faulty(images, captions), strict=True):
            called.setdefault(name, []).append(bool(faulty))
    return {
        name: interval(mean_of(np.array(votes, dtype=float)), draw_weights(len(votes), RESAMPLES, 0))
        for name, votes in sorted(called.items())
    }


def renderings(encode: Encode, scenes: int) -> Iterator[Shown]:
    """Clean scenes through the encode path."""
    rendered = clean_scenes(CHECK_SEED, scenes)
    while batch := list(islice(rendered, BATCH)):
        for scene, image in zip(batch, encode(np.stack([scene.image for scene in batch])), strict=True):
            yield image, scene.caption, "clean"


def drawn(bench: Path) -> Iterator[Shown]:
    """The drawn split; every item's id holds its seed."""
    return _items(bench / "drawn.parquet", lambda number: render_fault(number).scene.caption)


def generated(bench: Path) -> Iterator[Shown]:
    """The generated split."""
    return _items(bench / "generated.parquet", lambda number: sample_caption(number - 1))


def _items(split: Path, caption: Callable[[int], str]) -> Iterator[Shown]:
    for row in pq.read_table(split, columns=["id", "image", "has_artifacts", "fault"]).to_pylist():
        number = int(row["id"].rsplit("-", 1)[1])
        yield decode(row["image"]), caption(number), row["fault"] if row["has_artifacts"] else "clean"


def main() -> None:
    from artiagent.checkpoints import locate
    from artiagent.nano.flux_vae import encode_path

    options = argparse.ArgumentParser(description="Measure nano-parser as a judge of anatomy.")
    options.add_argument("--parser", type=Path, default=Path("data/weights/nano-parser"), help="nano-parser's folder")
    options.add_argument("--generator", default="data/weights/nano-flux", help="whose encode path pictures pass")
    options.add_argument("--bench", type=Path, default=Path("data/artibench-nano"))
    options.add_argument("--scenes", type=int, default=1000, help="clean renderings")
    given = options.parse_args()
    judge = PartJudge(given.parser)
    found = {
        "renderings": check(judge, renderings(encode_path(locate(given.generator)), given.scenes)),
        "drawn": check(judge, drawn(given.bench)),
        "generated": check(judge, generated(given.bench)),
    }
    print(json.dumps({name: {k: i.model_dump() for k, i in row.items()} for name, row in found.items()}, indent=1))


if __name__ == "__main__":
    main()
