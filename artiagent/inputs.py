"""What a run starts from: named sets of images, model folders and benchmarks, as places and digests.

Knows where inputs lie and what they weigh in cache keys. Does not decode images and does not load models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from artiagent.checkpoints import checkpoint_ref, locate
from artiagent.config import BenchmarkSet, InputSet, InputsSection
from artiagent.evaluation.benchmarks import benchmark_sha256
from artiagent.perception.sources import image_names, input_digest, locate_annotations, locate_images, locate_parts
from artiagent.records import CheckpointRef, DatasetRef, stable_hash
from artiagent.store import write_atomic

SETS, BENCHMARKS = "sets.json", "benchmarks.json"
MODELS = ("generator", "vlm", "clip")


class Inputs(NamedTuple):
    """References to everything a run reads and did not make itself."""

    sets: DatasetRef
    generator: CheckpointRef
    vlm: CheckpointRef
    clip: CheckpointRef
    benchmarks: DatasetRef


def input_digests(section: InputsSection) -> dict[str, str]:
    """Content digest of every input: ``set:<name>``, ``generator``, ``vlm``, ``clip``, ``benchmark:<name>``.

    Raises ValueError naming the first input that is missing or empty.
    """
    digests = {f"set:{source.name}": input_digest(source) for source in section.sets}
    digests |= {name: checkpoint_ref(name, getattr(section, name)).sha256 for name in MODELS}
    return digests | benchmark_digests(section.benchmarks)


def resolve_inputs(section: InputsSection, digests: dict[str, str], out: Path) -> Inputs:
    """Turn the section into references; ``out`` receives sets and benchmarks with absolute places, as JSON.

    Args:
        section: where the inputs lie.
        digests: result of ``input_digests`` for the same section.
        out: folder of the references "inputs" and "benchmarks".
    """
    sets = [_absolute(source) for source in section.sets]
    rows = sum(len(image_names(source)) for source in sets)
    write_atomic(out / SETS, json.dumps([s.model_dump(mode="json") for s in sets], indent=1).encode())
    _write_places(out, "inputs", *(p for s in sets for p in (s.images, s.annotations, s.parts)))
    own = [digests[f"set:{source.name}"] for source in section.sets]
    return Inputs(
        sets=DatasetRef(
            kind="inputs", uri=str(out), digest=stable_hash("inputs", *own, length=64), rows=rows,
            summary={f"digest:{s.name}": digest[:16] for s, digest in zip(sets, own, strict=True)},
        ),
        **{name: _checkpoint(name, section, digests) for name in MODELS},
        benchmarks=resolve_benchmarks(section.benchmarks, digests, out),
    )  # fmt: skip


def benchmark_digests(benchmarks: Sequence[BenchmarkSet]) -> dict[str, str]:
    """``benchmark:<name>`` -> revision. Raises ValueError naming the first that is missing."""
    return {f"benchmark:{b.name}": benchmark_sha256(b) for b in benchmarks}


def resolve_benchmarks(benchmarks: Sequence[BenchmarkSet], digests: dict[str, str], out: Path) -> DatasetRef:
    """A reference to benchmarks, for runs that start from nothing else; ``digests`` as of ``benchmark_digests``."""
    located = [_located(benchmark) for benchmark in benchmarks]
    write_atomic(out / BENCHMARKS, json.dumps([b.model_dump(mode="json") for b in located], indent=1).encode())
    _write_places(out, "benchmarks", *(p for b in located for p in (b.path, b.images)))
    revisions = [f"{b.name}={digests[f'benchmark:{b.name}']}" for b in located]
    return DatasetRef(
        kind="benchmarks", uri=str(out), digest=stable_hash("benchmarks", *revisions, length=64), rows=len(located),
        summary=dict(revision.split("=") for revision in revisions),
    )  # fmt: skip


def read_sets(inputs: DatasetRef) -> Sequence[InputSet]:
    """The sets behind a reference made by ``resolve_inputs``."""
    return [InputSet.model_validate(s) for s in json.loads((Path(inputs.uri) / SETS).read_text())]


def read_benchmarks(benchmarks: DatasetRef) -> list[BenchmarkSet]:
    """The benchmarks behind a reference made by ``resolve_inputs``, the primary one first."""
    return [BenchmarkSet.model_validate(b) for b in json.loads((Path(benchmarks.uri) / BENCHMARKS).read_text())]


def _write_places(out: Path, kind: str, *places: str | None) -> None:
    """``<kind>.places.json``: what a machine that reads the reference must have."""
    write_atomic(out / f"{kind}.places.json", json.dumps(sorted({p for p in places if p}), indent=1).encode())


def _located(benchmark: BenchmarkSet) -> BenchmarkSet:
    images = str(locate(benchmark.images, kind="dataset")) if benchmark.images else None
    return benchmark.model_copy(update={"path": str(locate(benchmark.path, kind="dataset")), "images": images})


def _absolute(source: InputSet) -> InputSet:
    places = {
        "images": locate_images(source),
        "annotations": locate_annotations(source) if source.annotations else None,
        "parts": locate_parts(source),
    }
    return source.model_copy(update={key: str(place.resolve()) if place else None for key, place in places.items()})


def _checkpoint(name: str, section: InputsSection, digests: dict[str, str]) -> CheckpointRef:
    return CheckpointRef(name=name, uri=str(locate(getattr(section, name))), sha256=digests[name])
