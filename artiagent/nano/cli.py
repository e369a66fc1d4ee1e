"""The recipes of the nano world as commands. Everything here writes below ``data/``; ``make data-pin`` versions it."""

from __future__ import annotations

import argparse
import runpy
import sys


def train(arguments: argparse.Namespace) -> int:
    """Run a model's recipe with its own options."""
    module = f"artiagent.nano.{arguments.model}"
    sys.argv = [f"artiagent nano train {arguments.model}", *arguments.options]
    runpy.run_module(module, run_name="__main__")
    return 0


def scenes(arguments: argparse.Namespace) -> int:
    """Render ``count`` source scenes from ``first_seed`` on."""
    from artiagent.nano.coco import write_scene_set
    from artiagent.nano.scenes import SOURCE_SEEDS

    seeds = range(arguments.first_seed, arguments.first_seed + arguments.count)
    if not (seeds and seeds[0] in SOURCE_SEEDS and seeds[-1] in SOURCE_SEEDS):
        raise ValueError(
            f"seeds {seeds}: expected at least one, all inside {SOURCE_SEEDS} (others train or test models)"
        )
    print(write_scene_set(arguments.out, seeds))
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Write the benchmark's drawn split; both classes pass through the generator's autoencoder."""
    from artiagent.checkpoints import locate
    from artiagent.nano.artibench import write_artibench
    from artiagent.nano.flux_vae import encode_path

    encode = encode_path(locate(arguments.generator))
    print(write_artibench(arguments.out, arguments.count, seed=arguments.seed, encode=encode))
    return 0


def photos(arguments: argparse.Namespace) -> int:
    """Write the photographs that come with scikit-image and scikit-learn."""
    from artiagent.nano.photos import write_photo_set

    print(write_photo_set(arguments.out))
    return 0
