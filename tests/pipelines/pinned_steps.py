"""Small steps with a sharded data set, and a pipeline of them; imported by the processes of pinned steps as well.

``python -m tests.pipelines.pinned_steps STACK MARKS`` runs the pipeline with shards that do not end by themselves.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from zenml import pipeline, step
from zenml.config.retry_config import StepRetryConfig
from zenml.enums import ExecutionMode

import materializers  # noqa: F401
from artiagent.config import Config
from artiagent.records import DatasetRef, Record
from artiagent.shards import Shard
from artiagent.store import DatasetWriter, Row
from steps.ingest import ingest
from steps.perceive import perceive
from steps.plan import plan
from steps.synthesize import synthesize, synthesize_shard

ROWS = 40
KILLED = "3/8"


class Number(Record):
    value: int


def write(writer: DatasetWriter, numbers) -> None:
    """Batches of three, those that are missing."""
    numbers = list(numbers)
    for start in range(0, len(numbers), 3):
        if (batch := f"{numbers[start]:04d}") not in writer:
            writer.write(batch, [Row(f"{n:04d}", Number(value=n)) for n in numbers[start : start + 3]])


def whole(out: Path) -> DatasetRef:
    """The data set made in one piece."""
    writer = DatasetWriter(out, "numbers")
    write(writer, range(ROWS))
    return writer.finish({})


@contextmanager
def marked(marks: str, shard: str):
    """Lines ``time sign device shard pid`` in a file, of a process that begins and ends."""

    def mark(sign):
        with open(marks, "a") as file:
            file.write(f"{time.time()} {sign} {os.environ['CUDA_VISIBLE_DEVICES'] or '-'} {shard} {os.getpid()}\n")

    mark("+")
    yield
    mark("-")


@step(enable_cache=False)
def part(out: str, marks: str, shard: str, seconds: float) -> Annotated[DatasetRef, "part"]:
    with marked(marks, shard):
        piece = Shard.parse(shard)
        writer = DatasetWriter(Path(out), "numbers", shard=piece)
        numbers = piece.part(ROWS)
        write(writer, numbers[:3])
        print(f"{shard} has begun", flush=True)
        if shard == KILLED and len(Path(marks).read_text().split(f" {shard} ")) == 2:  # noqa: PLR2004  (one mark)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        write(writer, numbers)
        return writer.seal()


@step(enable_cache=False)
def joined(out: str, marks: str) -> Annotated[DatasetRef, "numbers"]:
    with marked(marks, "join"):
        return DatasetWriter(Path(out), "numbers").finish({})


@pipeline(dynamic=True, depends_on=[part, joined], enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def numbers_in_shards(operator: str, out: str, marks: str, shards: int, seconds: float, retries: int) -> None:
    options = {"step_operator": operator, "settings": {"step_operator.pinned": {"devices": 1, "hours": 0.1}}}
    shard_step = part.with_options(**options, retry=StepRetryConfig(max_retries=retries))
    parts = [shard_step.submit(out, marks, f"{n}/{shards}", seconds) for n in range(shards)]
    joined.with_options(step_operator=operator).submit(out, marks, after=parts)


@pipeline(dynamic=True, depends_on=[ingest, perceive, plan, synthesize_shard, synthesize], enable_cache=False)
def pairs_in_shards(operator: str, config: Config, digests: dict[str, str], shards: int) -> None:
    """The chain up to the pairs, as `pipelines.end_to_end` has it; the shards on devices."""
    options = {"step_operator": operator, "settings": {f"step_operator:{operator}": {"devices": 1}}}
    inputs, generator, vlm, _, _ = ingest.with_options(step_operator=operator)(config.inputs, digests)
    scenes = perceive.with_options(step_operator=operator)(config.perception, inputs, vlm)
    jobs = plan.with_options(step_operator=operator)(config.planning, scenes, config.perception.patch)
    given = (config.synthesis, scenes, jobs, generator)
    made = [synthesize_shard.with_options(**options).submit(*given, f"{n}/{shards}") for n in range(shards)]
    synthesize.with_options(step_operator=operator).submit(*given, after=made)


if __name__ == "__main__":
    from pipelines.environment import active_stack, prepare

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may have it ignored
    prepare()
    from tests.pipelines.pinned_steps import numbers_in_shards as endless

    with active_stack(sys.argv[1]):
        endless(sys.argv[1], f"{sys.argv[2]}.out", sys.argv[2], 3, 600, 1)
