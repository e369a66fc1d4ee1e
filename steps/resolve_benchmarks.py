"""Benchmarks -> a reference. Runs again when the content of one changed, not when a file was touched."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import BenchmarkSet
from artiagent.inputs import resolve_benchmarks as resolve
from artiagent.records import DatasetRef
from artiagent.store import dataset_dir
from steps.stage import cached_step


def run(benchmarks: list[BenchmarkSet], digests: dict[str, str]) -> Annotated[DatasetRef, "benchmarks"]:
    sections = (benchmark.digest() for benchmark in benchmarks)
    out = dataset_dir("benchmarks", *sections, *(f"{name}={digest}" for name, digest in sorted(digests.items())))
    return resolve(benchmarks, digests, out)


resolve_benchmarks = cached_step(run)
