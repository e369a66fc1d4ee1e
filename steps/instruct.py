"""Accepted pairs -> multi-turn conversations, split by source image."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import InstructionSection
from artiagent.records import DatasetRef
from steps.stage import cached_step, out_dir


def run(section: InstructionSection, curated: DatasetRef, scenes: DatasetRef) -> Annotated[DatasetRef, "conversations"]:
    from artiagent.instruction.conversations import build_conversations

    return build_conversations(section, curated, scenes, out_dir("conversations", __name__, section, curated, scenes))


instruct = cached_step(run)
