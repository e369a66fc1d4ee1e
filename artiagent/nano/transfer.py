"""The transfer study: which sampler and loss, and how much of the oracle's gain injected data reach.

``artiagent nano study --help``. The oracle is the same model, recipe and number of pairs, on faults that the renderer
drew (`drawn_pairs`) instead of injected ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artiagent.checkpoints import checkpoint_ref, locate
from artiagent.config import Config
from artiagent.instruction.conversations import build_conversations, usable
from artiagent.nano.drawn_pairs import write_drawn_pairs
from artiagent.nano.flux_vae import encode_path
from artiagent.records import DatasetRef, Pair
from artiagent.store import open_dataset, read_rows
from artiagent.study import Variant, study

SAMPLERS, LOSSES = ("paired", "shuffled"), ("tokens+margin", "tokens")


def run_transfer(
    config: Config, curated: Path, scenes: Path, out: Path, *, seeds: Sequence[int] = (0, 1, 2), ablate: bool = True,
    benchmarks: Sequence[str] = (), workers: int = 2,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Fine-tune on injected and on drawn pairs, with `ablate` in every combination of sampler and loss.

    Returns the table of `study` for each of `benchmarks` (default: all that are configured) by its name; everything is
    kept below `out`, and what is there is not done again.
    """
    injected = _complete(curated)
    count = sum(usable(row.record) for row in read_rows(injected, Pair, ()))
    oracle_curated, oracle_scenes = _oracle(config, out / "oracle", count)
    section = config.instruction
    data = {
        "injected": build_conversations(section, injected, _complete(scenes), out / "conversations"),
        "oracle": build_conversations(section, oracle_curated, oracle_scenes, out / "oracle-conversations"),
    }
    variants = [Variant("injected", data["injected"], config.sft), Variant("oracle", data["oracle"], config.sft)]
    if ablate:
        for sampler, loss in itertools.product(SAMPLERS, LOSSES):
            if (sampler, loss) != (config.sft.sampler, config.sft.loss):
                changed = config.sft.model_copy(update={"sampler": sampler, "loss": loss})
                variants.append(Variant(f"injected-{sampler}-{loss}", data["injected"], changed))
    base = checkpoint_ref("base", config.inputs.vlm)
    return {
        benchmark.name: study(variants, seeds, base, benchmark, config.evaluation, out, workers=workers)
        for benchmark in config.inputs.benchmarks
        if not benchmarks or benchmark.name in benchmarks
    }


def _complete(folder: Path) -> DatasetRef:
    ref = open_dataset(folder)
    if ref is None:
        raise ValueError(f"{folder}: no complete data set; expected the folder of a finished stage")
    return ref


def _oracle(config: Config, out: Path, count: int) -> tuple[DatasetRef, DatasetRef]:
    curated, scenes = open_dataset(out / "curated"), open_dataset(out / "scenes")
    if curated is not None and scenes is not None and curated.rows == count:
        return curated, scenes
    return write_drawn_pairs(out, count, encode=encode_path(locate(config.inputs.generator)))
