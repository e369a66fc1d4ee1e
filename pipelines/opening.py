"""How a run begins where no person's machine begins it: what `artiagent run` does before it submits, in a task.

Knows configuration, inputs and the run's folder. Does not know what orchestrates the stages that follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from artiagent.config import Config
from artiagent.exchange import ensure_inputs, send_run
from artiagent.inputs import input_digests
from artiagent.publish import check_publishable
from artiagent.settle import settle
from artiagent.store import checkout, runs_dir
from pipelines import runs
from pipelines.stages import stages

OPENED = ("config", "digests", "run")  # what the stages are given of it
NOT_USED = {"sampler", "inpainter", "parser"}  # models of the section `inputs` that no stage takes


def open_run(config: Config) -> dict[str, str]:
    """Settle the configuration, read the inputs' digests, name the run and record it in its folder and in MLflow.

    Returns text by the names of ``OPENED``: the run configuration that the stages read, digests as JSON, the name.
    Raises ValueError where an input, or an acknowledgement, is missing.
    """
    from steps.stage import source_root
    from steps.tracking import open_parent

    bring_inputs(config)
    check_publishable(config)
    config, notes = settle(config)
    digests = input_digests(config.inputs)
    cached = tuple(stage.name for stage in stages(config) if stage.cached)
    record = runs.open_run(config, digests, cached, {}, source_root())
    open_parent(config, record.name)
    send_run(record.name)
    print("\n".join([*notes, f"run {record.name}"]))
    settled = (runs_dir() / record.name / runs.CONFIG).read_text()
    return dict(zip(OPENED, (settled, json.dumps(digests, indent=1), record.name), strict=True))


def bring_inputs(config: Config) -> None:
    """Have here what the configuration names below ``data/``, for as long as no reference to it exists."""
    sections = {stage.section: getattr(config, stage.section) for stage in stages(config) if stage.section}
    named = [text for section in sections.values() for text in _texts(section.model_dump(exclude=NOT_USED))]
    missing = [text for text in named if text.startswith("data/") and not Path(text).exists()]
    ensure_inputs([(checkout() or Path.cwd()) / text for text in missing])


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(value)
