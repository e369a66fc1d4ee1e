"""A model as it was given -> a reference that later stages are cached by: its content counts, not where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from artiagent.records import CheckpointRef
from steps.stage import cached_step


def run(model: CheckpointRef) -> Annotated[CheckpointRef, "model"]:
    if not Path(model.uri).exists():
        raise ValueError(f"{model.uri}: {model.name} is not there any more; run the command again")
    return model


resolve_model = cached_step(run)
