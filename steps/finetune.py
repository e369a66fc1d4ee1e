"""Conversations -> a fine-tuned vision-language model in its standard folder."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import SftSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(section: SftSection, conversations: DatasetRef, base: CheckpointRef) -> Annotated[CheckpointRef, "tuned"]:
    from artiagent.learning.sft import finetune

    return finetune(section, conversations, base, out_dir("tuned", __name__, section, conversations, base))


finetune = cached_step(run)
