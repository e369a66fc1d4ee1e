"""The whole mission as one pipeline: images, scenes, plan, pairs, curated set, models, scores, registry.

One dynamic pipeline for every stack: it walks `stages`, asks `placement` what each needs where it runs, and cuts the
sharded ones into steps of their own. On one machine the stages run in their order; where they have machines, or
devices, of their own, whatever is ready runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from zenml import pipeline
from zenml.client import Client
from zenml.enums import ExecutionMode
from zenml.steps import BaseStep

from artiagent.config import Config
from artiagent.shards import Shard
from pipelines.placement import options
from pipelines.stages import Stage, section_of, stages, value_of
from steps.alerts import on_failure

ALL = stages(Config())
CACHED = tuple(stage.name for stage in ALL if stage.cached)
EFFECTS = tuple(stage.name for stage in ALL if not stage.cached)
_MODULES = {stage.name: import_module(f"steps.{stage.name}") for stage in ALL}
STEPS: dict[str, BaseStep] = {name: getattr(module, name) for name, module in _MODULES.items()}
SHARD_STEPS: dict[str, BaseStep] = {
    name: step for name, module in _MODULES.items() if (step := getattr(module, f"{name}_shard", None)) is not None
}


@pipeline(
    name="artiagent", dynamic=True, depends_on=[*STEPS.values(), *SHARD_STEPS.values()],
    execution_mode=ExecutionMode.FAIL_FAST, enable_pipeline_logs=False, on_failure=on_failure,
)  # fmt: skip
def end_to_end(config: Config, digests: dict[str, str]) -> None:
    """Every stage receives its own section; a section that did not change leaves its stage cached."""
    made: dict[str, Any] = {}
    ended: dict[str, Any] = {}
    side_by_side = _side_by_side()
    for stage in stages(config):
        arguments = [section_of(stage, config), *(_argument(name, made, config, digests) for name in stage.inputs)]
        ended[stage.name] = _run(stage, config, arguments, [ended[name] for name in stage.after], side_by_side)
        if stage.outputs:
            outputs = ended[stage.name]
            made |= dict(zip(stage.outputs, outputs if len(stage.outputs) > 1 else [_only(outputs)], strict=True))


def _run(stage: Stage, config: Config, arguments: list[Any], after: list[Any], side_by_side: bool) -> Any:
    """The stage's outputs, or the promise of them."""
    if stage.shards > 1:
        step = SHARD_STEPS[stage.name].with_options(**options(f"{stage.name}_shard", config))
        for shard in (Shard(index, stage.shards) for index in range(stage.shards)):
            if side_by_side:
                after = [*after, step.submit(*arguments, str(shard))]
            else:
                step(*arguments, str(shard))
    step = STEPS[stage.name].with_options(**options(stage.name, config))
    return step.submit(*arguments, after=after) if side_by_side else step(*arguments)


def _argument(name: str, made: dict[str, Any], config: Config, digests: dict[str, str]) -> Any:
    return value_of(name, config, digests) if name.startswith("@") else made[name]


def _only(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _side_by_side() -> bool:
    """Whether steps have machines or devices of their own; else they share this process, and run one by one."""
    stack = Client().active_stack
    return stack.step_operator is not None or stack.orchestrator.can_run_isolated_steps
