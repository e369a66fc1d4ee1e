"""Conversations -> a fine-tuned vision-language model in its standard folder, the machine watched meanwhile."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import SftSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(section: SftSection, conversations: DatasetRef, base: CheckpointRef) -> Annotated[CheckpointRef, "tuned"]:
    from artiagent.learning.sft import finetune
    from steps.system import SystemSampler, samples_path

    out = out_dir("tuned", __name__, section, conversations, base)
    with SystemSampler(samples_path(out)):
        return finetune(section, conversations, base, out)


finetune = cached_step(run)
