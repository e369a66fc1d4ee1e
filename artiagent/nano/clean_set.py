"""A folder of clean renderings with their captions: what an audit says of it is the detector's false alarms.

``python -m artiagent.nano.clean_set --out DIR`` writes PNG files through nano-FLUX's encode path and ``prompts.csv``.
Scenes of the shipped list of prompts come first, so that generators that draw these are compared prompt by prompt.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from artiagent.images import encode as to_png
from artiagent.mitigation.prompts import read_prompts
from artiagent.nano.anatomy import BATCH, Encode, clean_scenes
from artiagent.nano.scenes import BENCH_SEEDS, TRAIN_SEEDS, RenderedScene, render_scene
from artiagent.store import write_atomic

PROMPT_SEED = BENCH_SEEDS[450_000]  # see configs/prompts/nano.txt
OTHER_SEED = TRAIN_SEEDS[1_780_000_000]  # of no recipe


def scenes_of(prompts: Iterable[str]) -> Iterator[RenderedScene]:
    """The scenes that the shipped prompts are captions of; none for a prompt of another origin."""
    for number, prompt in enumerate(prompts):
        tried = (render_scene(PROMPT_SEED + number, entities=entities) for entities in (1, 2))
        yield from (scene for scene in tried if scene.caption == prompt)


def write_clean_set(out: Path, scenes: Iterable[RenderedScene], encode: Encode) -> int:
    """Write the images and ``prompts.csv``; returns how many. ``encode``: uint8 [B, H, W, 3] -> the same."""
    rows, stream = io.StringIO(), iter(scenes)
    table = csv.writer(rows)
    table.writerow(["file_name", "prompt"])
    count = 0
    while batch := list(islice(stream, BATCH)):
        for scene, image in zip(batch, encode(np.stack([scene.image for scene in batch])), strict=True):
            write_atomic(out / f"{count:05d}.png", to_png(image))
            table.writerow([f"{count:05d}.png", scene.caption])
            count += 1
    write_atomic(out / "prompts.csv", rows.getvalue().encode())
    return count


def main() -> None:
    from artiagent.checkpoints import locate
    from artiagent.nano.flux_vae import encode_path

    options = argparse.ArgumentParser(description="Write clean renderings for an audit.")
    options.add_argument("--out", type=Path, required=True, help="folder to write")
    options.add_argument("--prompts", default="configs/prompts/nano.txt", help="the scenes of these come first")
    options.add_argument("--others", type=int, default=384, help="further scenes")
    options.add_argument("--generator", default="data/weights/nano-flux", help="whose encode path pictures pass")
    given = options.parse_args()
    scenes = chain(scenes_of(read_prompts(given.prompts)), clean_scenes(OTHER_SEED, given.others))
    print(f"{given.out}: {write_clean_set(given.out, scenes, encode_path(locate(given.generator)))} pictures")


if __name__ == "__main__":
    main()
