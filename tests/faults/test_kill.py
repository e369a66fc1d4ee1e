"""kill -9 at random moments of a sharded run: what comes out is what an undisturbed run makes, and nothing else.

The processes are real: each runs ``artiagent synthesize --shard`` and is killed by SIGKILL. They come from a fork
server that has imported the stage already, so that a kill falls into the work and not into the imports. The normal run
kills three times, ``pytest -m slow`` twenty times.
"""

import random
import signal
import time
from collections import deque
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import RLock

import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import PlanningSection, SynthesisSection
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.store import open_dataset
from artiagent.synthesis.planner import plan
from artiagent.synthesis.stage import synthesize
from tests.synthesis.scenes import write_scenes

SHARDS, SOURCES, AT_ONCE = 4, 10, 2
SECTION = SynthesisSection(steps=2, threads=1, workers=1)
SETTINGS = [f"--set=synthesis.{key}={getattr(SECTION, key)}" for key in ("steps", "threads", "workers")]


class Run:
    """One data set under way: its command line, its processes, and who was killed when."""

    def __init__(self, inputs: tuple[DatasetRef, DatasetRef], generator: CheckpointRef, out: Path, seed: int) -> None:
        scenes, jobs = inputs
        self.out, self.rng = out, random.Random(seed)
        self.command = ["synthesize", "--config", str(out.with_name("plain.yaml")), "--scenes", scenes.uri]
        self.command += ["--jobs", jobs.uri, "--generator", generator.uri, "--out", str(out), *SETTINGS]
        self.context = get_context("forkserver")
        self.context.set_forkserver_preload(["artiagent.synthesis.stage", "artiagent.synthesis.backbones.flux"])
        self.kills: list[str] = []

    def start(self, shard: str) -> BaseProcess:
        """A process that renders a shard, or what is missing, and finishes, for ""."""
        arguments = [*self.command, *([f"--shard={shard}"] if shard else [])]
        process = self.context.Process(target=command_line, args=(arguments,))
        process.start()
        return process

    def shards(self, kills: int) -> None:
        """All shards, at most two at once; ``kills`` times one of them dies. The last to die does not come back."""
        waiting = deque(f"{i}/{SHARDS}" for i in range(SHARDS))
        running: dict[str, BaseProcess] = {}
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                name = waiting.popleft()
                running[name] = self.start(name)
            name = self.rng.choice(sorted(running))
            process = running.pop(name)
            if len(self.kills) < kills and self.killed(process, name):
                waiting.extend([name] if len(self.kills) < kills else [])
            else:
                process.join()
                assert process.exitcode == 0

    def finish(self) -> DatasetRef:
        """The call that ends it, killed once before it may."""
        self.killed(self.start(""), "finish")
        last = self.start("")
        last.join()
        assert last.exitcode == 0
        ref = open_dataset(self.out)
        assert ref is not None
        return ref

    def killed(self, process: BaseProcess, name: str) -> bool:
        """Kill soon after the start, or after a chunk that anybody writes; whether the process still ran."""
        chunks = self.chunks() + self.rng.choice((0, 1, 1, 2))
        while process.is_alive() and self.chunks() < chunks:
            time.sleep(0.01)
        process.join(self.rng.uniform(0, 0.4))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            self.kills.append(f"{name}, at {self.chunks()} chunks")
        return process.exitcode == -signal.SIGKILL

    def chunks(self) -> int:
        return len(list(self.out.glob("chunks/**/*.parquet")))


def command_line(arguments: list[str]) -> None:
    """What ``python -m artiagent.cli`` does."""
    from tqdm import tqdm

    from artiagent.cli import main

    tqdm.set_lock(RLock())  # its own lock is a semaphore of the system, which a killed process leaves behind
    raise SystemExit(main(arguments))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetRef, DatasetRef]:
    folder = tmp_path_factory.mktemp("inputs")
    scenes = write_scenes(folder / "scenes", range(SOURCES))
    return scenes, plan(PlanningSection(variants=2), scenes, 8, folder / "jobs")


@pytest.fixture(scope="module")
def undisturbed(inputs: tuple, random_flux: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    """The pairs of one call that nobody disturbs."""
    generator = checkpoint_ref("generator", random_flux.uri)  # as the command line names it
    return synthesize(SECTION, *inputs, generator, tmp_path_factory.mktemp("pairs") / "whole")


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_an_undisturbed_one(
    kills: int, inputs: tuple, undisturbed: DatasetRef, random_flux: CheckpointRef, tmp_path: Path
) -> None:
    (tmp_path / "plain.yaml").write_text("parameters: {config: {}}")
    died: list[str] = []
    for seed in range(kills):
        run = Run(inputs, random_flux, tmp_path / f"run-{seed}", seed)
        run.shards(kills=2)
        found = run.finish()
        assert (found.digest, found.rows, found.summary) == (undisturbed.digest, undisturbed.rows, undisturbed.summary)
        names = [f"pairs-{index:05d}-of-{found.shards:05d}.parquet" for index in range(found.shards)]
        assert files(run.out) == ["failures.json", "manifest.json", *names]
        assert found.shards in (1, SHARDS)  # a shard that did not come back was finished with the rest
        died += run.kills
        if len(died) >= kills:
            break
    print("killed:", *died, sep="\n  ")
    assert len(died) >= kills
