"""A pipeline of one step, which runs on two pods of the stack "pods"; ZenML wants it at the top of a module."""

from __future__ import annotations

from zenml import pipeline
from zenml.config import DockerSettings

from artiagent.config import SftSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.finetune import finetune

STACK = "pods"
IMAGE = DockerSettings(parent_image="image", skip_build=True)


@pipeline(dynamic=True, enable_cache=False, depends_on=[finetune], enable_pipeline_logs=False)
def tune(section: SftSection, conversations: DatasetRef, base: CheckpointRef) -> None:
    settings = {f"step_operator:{STACK}": {"pod_count": section.nodes}, "docker": IMAGE}
    finetune.with_options(step_operator=STACK, settings=settings)(section, conversations, base)
