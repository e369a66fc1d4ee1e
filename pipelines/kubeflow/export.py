"""The list of stages as a pipeline of Kubeflow Pipelines: IR YAML, compiled offline with kfp and kfp-kubernetes.

One task per stage, and one per shard, each a container that runs ``python -m pipelines.entry``; references travel as
artifacts. Shards are tasks of their own and no ``dsl.ParallelFor``: there the backend ignores retries
(kubeflow/pipelines#13897), and a task behind the loop has been refused or not made to wait (#10050).

Knows kfp. Where a task runs, in which image and with which plain variables, `pipelines.placement` says.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from artiagent.config import Config
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport
from artiagent.scale.profiles import Profile
from artiagent.shards import Shard
from pipelines.entry import OPEN, PART, accepts, makes
from pipelines.kubeflow.bundle import CONFIG, Bundle
from pipelines.placement import SHARED, WORK, environment, image, place_task, profile_of
from pipelines.stages import DIGESTS, Stage, stages

BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
ARTIFACTS: dict[Any, Any] = {DatasetRef: dsl.Dataset, CheckpointRef: dsl.Model, EvaluationReport: dsl.Artifact}
OPENS = {"config": dsl.Output[dsl.Artifact], "digests": dsl.Output[dsl.Artifact], "run": dsl.OutputPath(str)}
OPTIONS = ("config", "digests", "run", "shard")  # of `pipelines.entry`, by the inputs' names
POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
BACKOFF = {"backoff_duration": "60s", "backoff_factor": 2.0, "backoff_max_duration": "1800s"}
# Keys of the Kubernetes secret, named like the variables that they fill. All optional: what is missing is said by the
# stage that needs it, where a required key would keep its pod from ever starting.
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN", "HF_TOKEN",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What the cluster has.

    Args:
        registry: of the images that `placement.image` names, without scheme.
        image: instead of both of them; "": none.
        secret: name of the Kubernetes secret.
    """

    registry: str = ""
    image: str = ""
    secret: str = "artiagent"

    def image_of(self, profile: Profile) -> str:
        return self.image or image(profile, self.registry)


def export(config: Config, bundle: Bundle, target: Target, out: Path) -> int:
    """Write the pipeline's IR YAML to ``out``; returns the number of tasks.

    Raises ConfigError for a profile that is not declared.
    """
    for stage in stages(config):
        profile_of(f"{stage.name}_shard", config)
    graph = _Graph(config, bundle, target)

    def pipeline():  # (kfp takes an annotation for an output)
        graph.build()

    named = dsl.pipeline(
        name=f"artiagent-{config.profile}",
        description=f"ArtiAgent, profile {config.profile}, revision {bundle.revision}, code {bundle.digest[:16]}",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(named(pipeline), str(out))
    return graph.count


class _Graph:
    """Makes the tasks, each behind those it needs."""

    def __init__(self, config: Config, bundle: Bundle, target: Target) -> None:
        self.config, self.bundle, self.target = config, bundle, target
        self.workdir = {"ARTIAGENT_WORKDIR": SHARED} if "ARTIAGENT_VOLUME" in environment() else {}
        self.made: dict[str, Any] = {}  # reference -> channel
        self.ended: dict[str, dsl.PipelineTask] = {}  # stage -> its last task
        self.count = 0

    def build(self) -> None:
        opened = self._component(OPEN, [OPEN, "--config", CONFIG], {}, OPENS)()
        self.made |= self._settled(OPEN, opened).outputs
        for stage in stages(self.config):
            self._add(stage)

    def _add(self, stage: Stage) -> None:
        """The stage's task; where it is cut, its shards first."""
        given: dict[str, Any] = {name: dsl.Input[ARTIFACTS[kind]] for name, kind in accepts(stage).items()}
        given |= {"config": dsl.Input[dsl.Artifact], "run": str}
        given |= {"digests": dsl.Input[dsl.Artifact]} if DIGESTS in stage.inputs else {}
        values = {name: self.made[name] for name in given}
        for index, shard in enumerate(self._shards(stage, dict(given), dict(values)) if stage.shards > 1 else ()):
            given[f"{PART}_{index}"], values[f"{PART}_{index}"] = dsl.Input[dsl.Dataset], shard.outputs[PART]
        outputs = {name: dsl.Output[ARTIFACTS[kind]] for name, kind in makes(stage).items()}
        task = self._component(stage.name, [stage.name], given, outputs)(**values)
        task.after(*(self.ended[name] for name in stage.after))
        self.ended[stage.name] = self._settled(stage.name, task)
        self.made |= task.outputs if outputs else {}

    def _shards(self, stage: Stage, given: dict[str, Any], values: dict[str, Any]) -> list[dsl.PipelineTask]:
        name, part = f"{stage.name}_shard", {PART: dsl.Output[dsl.Dataset]}
        component = self._component(name, [stage.name], {**given, "shard": str}, part)
        shards = [Shard(index, stage.shards) for index in range(stage.shards)]
        tasks = [component(**values, shard=str(shard)).set_display_name(f"{stage.name} {shard}") for shard in shards]
        return [self._settled(name, task) for task in tasks]

    def _component(self, name: str, first: list[str], inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
        command = ["python", "-c", BOOTSTRAP.read_text(), self.bundle.digest]
        return component(name, self.target.image_of(profile_of(name, self.config)), command, first, inputs, outputs)

    def _settled(self, name: str, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Everything about a task but what it runs. ``name`` is the stage's, or ``<stage>_shard``."""
        self.count += 1
        place_task(task, profile_of(name, self.config))
        task.set_caching_options(False)
        if retries := self.config.scale.retries:
            task.set_retry(retries, **BACKOFF)
        task.container_spec.env |= {"ARTIAGENT_CODE": f"{WORK}/code"} | self.workdir
        keys = {key: key for key in (*CREDENTIALS, *self._agent_keys(name))}
        return kubernetes.use_secret_as_env(task, self.target.secret, keys, optional=True)

    def _agent_keys(self, name: str) -> list[str]:
        """Keys of the servers that a stage's agents ask; the task that only joins shards asks nobody."""
        sections = {"perceive": self.config.perception, "curate": self.config.curation}
        stage, shard, _ = name.partition("_shard")
        if stage not in sections or (self.config.scale.shards.get(stage, 1) > 1 and not shard):
            return []
        agents = sections[stage].vlm
        return [agents.api_key_env] if agents.backend == "openai" else []


def component(
    name: str, image: str, command: list[str], first: list[str], inputs: dict[str, Any], outputs: dict[str, Any]
) -> Any:
    """A container component that calls `pipelines.entry`.

    Args:
        name: of the component.
        image: of the container.
        command: what `pipelines.entry`'s arguments are handed to.
        first: arguments that are the same in every task.
        inputs: name -> kfp's annotation. References become ``--input NAME=FILE``, the others ``--NAME VALUE``; what
            shards made, ``part_0`` and so on, becomes ``--part FILE``.
        outputs: name -> kfp's annotation; they become ``--output NAME=FILE``.
    """
    annotations = inputs | outputs

    def container(*channels: Any) -> dsl.ContainerSpec:
        arguments = list(first)
        for key, channel in zip(annotations, channels, strict=True):
            place = getattr(channel, "path", channel)
            if key in OPTIONS and key in inputs:
                arguments += [f"--{key}", place]
            elif key.startswith(f"{PART}_"):
                arguments += [f"--{PART}", place]
            else:
                arguments += ["--output" if key in outputs else "--input", f"{key}={place}"]
        return dsl.ContainerSpec(image=image, command=command, args=arguments)

    container.__name__ = name
    container.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  (kfp reads inputs and outputs from it)
        [inspect.Parameter(key, POSITIONAL, annotation=annotation) for key, annotation in annotations.items()]
    )
    return dsl.container_component(container)
