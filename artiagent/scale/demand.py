"""How much there is to do for so many accepted pairs: sources, jobs, samples, calls, bytes. Numbers, or one per run.

Knows what the stages of the mission consume of what. Does not know how long anything takes or what it costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from artiagent.config import BenchmarkSet, Config, VlmSection
from artiagent.run_config import ConfigError

if TYPE_CHECKING:
    from artiagent.scale.rates import Assumptions

Amount = float | np.ndarray  # one, or float64 [runs]
JUDGED = ("add", "remove", "fuse")  # tools about which the judge of the three views is asked
IMAGES_SHOWN = {
    "vocabulary": 1, "caption": 1, "judge_presence": 1, "judge_views": 3, "explain_local": 3, "explain_global": 1,
}  # fmt: skip
SUFFIXES = (".parquet",)


@dataclass(frozen=True)
class Calls:
    """Calls of one task to a vision-language model.

    Attributes:
        stage: that makes them.
        task: what is asked, a key of `IMAGES_SHOWN`.
        per_unit: calls per unit of the stage (image, job).
        vlm: who answers.
    """

    stage: str
    task: str
    count: Amount
    vlm: VlmSection

    @property
    def served(self) -> bool:
        return self.vlm.backend == "openai"


def units(
    config: Config, pairs: int, acceptance: Amount, scene_share: Amount, items: int, region: float
) -> dict[str, Amount]:
    """Amounts by unit, for ``pairs`` accepted pairs.

    Args:
        config: the run's.
        pairs: accepted pairs that are wanted.
        acceptance: share of the artifact pairs that curation accepts.
        scene_share: share of the images of which perception makes a scene with something to plan.
        items: images of all benchmarks.
        region: share of the image that a variant's region covers.
    """
    planning, sft = config.planning, config.sft
    tried = pairs / acceptance
    sources = tried / planning.variants
    jobs = tried + planning.benign_share * sources
    taught = min(pairs, config.instruction.pairs or pairs)
    samples = 2 * taught * (1 - config.instruction.val_share) * (2 if sft.mirror else 1)
    batch = sft.samples_per_step
    trained = {False: 0.0, True: 0.0}
    for stage in sft.stages:
        trained[stage.train_vision] += stage.max_steps * batch if stage.max_steps > 0 else stage.epochs * samples
    return {
        "run": 1.0,
        "image": sources / scene_share,
        "source": sources,
        "tried": tried,
        "job": jobs,
        "row": jobs * rows_per_job(config, jobs / sources, region),
        "accepted": float(pairs),
        "frozen_sample": trained[False],
        "whole_sample": trained[True],
        "item": float(items),
    }


def rows_per_job(config: Config, variants: Amount, region: float) -> Amount:
    """Row evaluations of a job of a source with so many variants, as `artiagent.synthesis.engine.row_evaluations`."""
    section = config.synthesis
    per_step = {"euler": 1, "rf_solver": 2, "fireflow": 1}[section.solver]
    walk = per_step * section.steps + (section.solver == "fireflow")
    own = region if section.variant_tokens == "region" else 1.0
    return walk * (own + (2 / variants if section.shared_inversion else 2))


def calls(config: Config, amounts: Mapping[str, Amount], caption_share: Amount) -> tuple[Calls, ...]:
    """Calls of the agents. ``caption_share``: of the images that no annotation has a caption for."""
    made, perception, curation = [], config.perception, config.curation
    if perception.vocabulary != "template":
        asked = {"vocabulary": amounts["image"]} if perception.vocabulary == "vlm" else {}
        asked["caption"] = amounts["image"] * caption_share
        made += [Calls("perceive", task, count, perception.vlm) for task, count in asked.items()]
    per_pair = sum(n * share for n, share in enumerate(config.planning.artifacts, 1)) / sum(config.planning.artifacts)
    weights = config.planning.tools
    judged = sum(weights.get(tool, 0.0) for tool in JUDGED) / sum(weights.values())
    asked = {}
    if curation.judge == "presence":
        asked["judge_presence"] = 2 * per_pair * amounts["tried"]
    elif curation.judge == "views":
        asked["judge_views"] = judged * per_pair * amounts["tried"]
    if curation.explain == "vlm":
        asked |= {"explain_local": per_pair * amounts["accepted"], "explain_global": amounts["accepted"]}
    return (*made, *(Calls("curate", task, count, curation.vlm) for task, count in asked.items()))


def stored(amounts: Mapping[str, Amount], pixels: float, bytes_per_pixel: Amount) -> dict[str, Amount]:
    """Bytes by data set: both sides of a pair in ``pairs`` and, with verdicts, in ``curated``, which is published."""
    picture = pixels * bytes_per_pixel
    curated = 2 * amounts["job"] * picture
    return {
        "scenes": amounts["source"] * picture, "pairs": 2 * amounts["job"] * picture, "curated": curated,
        "conversations": 2 * amounts["accepted"] * picture, "published": curated,
    }  # fmt: skip


def benchmark_items(config: Config, assumptions: Assumptions) -> int:
    """Images of all benchmarks: counted where they are Parquet files that are there, else as published."""
    return sum(min(_items(b, assumptions), config.evaluation.limit or _items(b, assumptions)) for b in _sets(config))


def _sets(config: Config) -> tuple[BenchmarkSet, ...]:
    return config.inputs.benchmarks


def _items(benchmark: BenchmarkSet, assumptions: Assumptions) -> int:
    from artiagent.store import checkout

    path = Path(benchmark.path)
    for place in (path, (checkout() or Path.cwd()) / path):
        if place.suffix in SUFFIXES and place.is_file():
            import pyarrow.parquet as pq

            return pq.read_metadata(place).num_rows
    if benchmark.layout not in assumptions.benchmark_items:
        raise ConfigError(
            f"benchmark {benchmark.name!r}: its size is not known here; add benchmark_items.{benchmark.layout} to "
            f"{assumptions.origin}"
        )
    return round(assumptions.benchmark_items[benchmark.layout].value)
