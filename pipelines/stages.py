"""The whole mission as a list: which stage takes what from which. Every orchestrator is given this list and no other.

Knows names: of sections, of references that travel, of modules below ``steps``. Knows no orchestrator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

from artiagent.config import Config

DIGESTS = "@digests"
# Of the other pipelines: search, correction, audit, ablation, study, promotion. They may have a profile as well.
OTHERS = (
    "search", "correct", "audit", "reconstruct", "render_scenes", "draw_pairs", "train_study", "predict_candidate",
)  # fmt: skip
RESULTS = (
    "inputs", "scenes", "jobs", "pairs", "curated", "conversations", "tuned", "predictions_base", "predictions_tuned",
    "evaluation", "reward",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stage: ``steps.<name>.run(section, *inputs) -> outputs``.

    An input is the name of a reference that an earlier stage made, or ``@dotted.key``: a value of the configuration
    (``@digests``: the digests of the run's inputs). ``section`` "" is the whole configuration. A stage without outputs
    is there for its effect and runs every time. A sharded one has ``steps.<name>.run_shard(section, *inputs, shard)``
    as well: every shard makes a part, and ``run`` afterwards finds nothing left to do but to join them.
    """

    name: str
    section: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()  # stages without outputs that must have ended
    shards: int = 1

    @property
    def cached(self) -> bool:
        return bool(self.outputs)


def stages(config: Config) -> tuple[Stage, ...]:
    """The list for a configuration, every stage behind those it needs."""
    encoder = "vlm" if config.reward.tower == "vlm" else "clip"
    everything = (
        Stage("ingest", "inputs", (DIGESTS,), ("inputs", "generator", "vlm", "clip", "benchmarks")),
        Stage("perceive", "perception", ("inputs", "vlm"), ("scenes",)),
        Stage("plan", "planning", ("scenes", "@perception.patch"), ("jobs",)),
        Stage("synthesize", "synthesis", ("scenes", "jobs", "generator"), ("pairs",)),
        Stage("curate", "curation", ("pairs", "scenes", "vlm"), ("curated",)),
        Stage("publish", "registry", ("curated",)),
        Stage("instruct", "instruction", ("curated", "scenes"), ("conversations",)),
        Stage("finetune", "sft", ("conversations", "vlm"), ("tuned",)),
        Stage("evaluate_base", "evaluation", ("vlm", "benchmarks"), ("predictions_base",)),
        Stage("evaluate_tuned", "evaluation", ("tuned", "benchmarks"), ("predictions_tuned",)),
        Stage("score", "evaluation", ("benchmarks", "predictions_base", "predictions_tuned"), ("evaluation",)),
        Stage("train_reward", "reward", ("curated", encoder, "benchmarks"), ("reward",)),
        Stage("register", "", RESULTS),
        Stage("report", "", RESULTS, after=("register", "publish")),
    )
    return tuple(Stage(**{**vars(s), "shards": config.scale.shards.get(s.name, 1)}) for s in everything)


def section_of(stage: Stage, config: Config) -> Any:
    """The stage's own section, or the whole configuration."""
    return getattr(config, stage.section) if stage.section else config


def value_of(name: str, config: Config, digests: dict[str, str]) -> Any:
    """What an input ``@dotted.key`` stands for."""
    if name == DIGESTS:
        return digests
    return reduce(getattr, name.removeprefix("@").split("."), config)
