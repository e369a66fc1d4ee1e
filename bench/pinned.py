"""What a pinned step costs before its own work begins, in processes that are started in four ways.

    integrations  a fresh interpreter that imports every integration of ZenML, as ZenML's own entry point does
    fresh         a fresh interpreter with the pinned steps' entry point
    forked        what the step operator does: forked from a process that has imported the entry point
    preloaded     forked from one that has imported what a synthesis step imports, too (the stack's ``preload``)

Every step is empty but for looking at its own clocks, and then imports what a synthesis step imports. ``begin`` is from
the process's start to the step's first line, ``import`` what those imports take; CPU seconds are the process's own and
hardly depend on what else the machine does, wall seconds do. Byte code is cached, the first step of a kind not counted.

    python bench/pinned.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Annotated, Any
from unittest import mock

import psutil
from zenml import pipeline, step

from artiagent.store import write_atomic
from pipelines.pinned.crew import Crew, Ended, Job

SYNTHESIS = ("artiagent.synthesis.stage", "artiagent.synthesis.render", "torch", "diffusers", "transformers")
DEVICES = "fake-0,fake-1"
ENTRY = "from pipelines.pinned.entrypoint import main; main()"
INTEGRATIONS = "from zenml.integrations.registry import integration_registry as all; all.activate_integrations(); "


@step(enable_cache=False)
def look(out: str, imports: list[str]) -> Annotated[int, "pid"]:
    """Write what it took to come here, and what ``imports`` take."""
    own = psutil.Process()
    clocks = [(time.time() - own.create_time(), time.process_time())]
    for name in imports:
        import_module(name)
    clocks.append((time.time() - own.create_time(), time.process_time()))
    (Path(out) / f"{own.pid}.json").write_text(json.dumps(clocks))
    return own.pid


@pipeline(dynamic=True, depends_on=[look], enable_cache=False)
def looks(operator: str, out: str, imports: list[str], count: int) -> None:
    """``count`` steps, each on one device."""
    pinned = look.with_options(step_operator=operator, settings={f"step_operator:{operator}": {"devices": 1}})
    for _ in range(count):
        pinned.submit(out, imports)


class Fresh:
    """A crew whose processes are fresh interpreters that execute ``code``."""

    alive = True

    def __init__(self, root: Path, code: str) -> None:
        self.root, self.code = root, code

    def start(self, job: Job, files: Sequence[int], ended: Callable[[Ended], None]) -> None:
        folder = tempfile.mkdtemp()
        process = subprocess.Popen(
            [sys.executable, "-c", self.code, *job.arguments], cwd=self.root, pass_fds=files,
            env={**os.environ, **job.environment, job.folder: folder},
        )  # fmt: skip
        Thread(target=lambda: ended(Ended(process.wait())), daemon=True).start()

    def close(self) -> None:
        pass


def measure(crew: Any, stack: str, out: Path, count: int) -> dict[str, Any]:
    """Medians over the steps of a pipeline but the first, in seconds."""
    from pipelines.environment import active_stack
    from pipelines.pinned import operator

    out.mkdir()
    with mock.patch.object(operator, "the_crew", lambda config: crew), active_stack(stack):
        looks(stack, str(out), list(SYNTHESIS), 1)  # fills the cache of byte code
        (first,) = out.iterdir()
        first.unlink()
        looks(stack, str(out), list(SYNTHESIS), count)
    crew.close()
    found = [json.loads(path.read_text()) for path in out.iterdir()]
    parts = {
        "begin": [begin for begin, _ in found],
        "import": [[after - before for before, after in zip(*clocks, strict=True)] for clocks in found],
    }
    return {
        part: dict(zip(("wall", "cpu"), (round(statistics.median(s), 2) for s in zip(*rows, strict=True)), strict=True))
        for part, rows in parts.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="of every kind")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    from toolbox import cpu_model

    with tempfile.TemporaryDirectory() as home:
        os.environ.update(ARTIAGENT_HOME=home, ZENML_CONFIG_PATH=f"{home}/zenml", PYTHONPYCACHEPREFIX=f"{home}/cache")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        from pipelines.environment import prepare
        from pipelines.pinned.stack import register

        root = prepare()
        stack = register(DEVICES)
        load = os.getloadavg()[0]
        kinds = {
            "integrations": lambda: Fresh(root, INTEGRATIONS + ENTRY),
            "fresh": lambda: Fresh(root, ENTRY),
            "forked": lambda: Crew(root),
            "preloaded": lambda: Crew(root, SYNTHESIS),
        }
        seconds = {kind: measure(make(), stack, Path(home) / kind, arguments.steps) for kind, make in kinds.items()}
    result = {
        "cpu": cpu_model(), "cores": os.cpu_count(), "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "steps": arguments.steps, "devices": DEVICES, "seconds": seconds,
    }  # fmt: skip
    write_atomic(arguments.out, (json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
