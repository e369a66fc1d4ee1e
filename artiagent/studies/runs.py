"""The runs of a study: conversations, fine-tuned models and their answers, some models at a time and each kept on disk.

Folders are named by what they are made from; what is there, or in the store that machines share, is not made again:
a kill costs the runs under way, and another group its own runs only. Does not know which row a run belongs to.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.benchmarks import benchmark_sha256
from artiagent.evaluation.stage import predict
from artiagent.exchange import mirrored
from artiagent.instruction.conversations import build_conversations, usable
from artiagent.learning.sft import finetune
from artiagent.learning.stages import CURVES
from artiagent.parallel import ordered_map
from artiagent.records import CheckpointRef, Conversation, DatasetRef, Pair, stable_hash
from artiagent.store import read_rows, write_atomic
from artiagent.studies.records import INDEX, StudyRun, StudyRuns
from artiagent.studies.rows import RunSpec, RunsSection


class PairSet(NamedTuple):
    """Curated pairs and the scenes that they were made from."""

    curated: DatasetRef
    scenes: DatasetRef


class _Job(NamedTuple):
    spec: RunSpec
    conversations: DatasetRef
    model: Path
    answers: Path


Place = Callable[..., Path]  # (kind, *what it is made from) -> folder


def run_all(
    section: RunsSection, sets: Mapping[str, PairSet], base: CheckpointRef, benchmark: BenchmarkSet, place: Place,
    out: Path,
) -> DatasetRef:  # fmt: skip
    """Fine-tune and ask every run's model, and ask the base.

    Args:
        section: the runs.
        sets: pairs by the name under which runs ask for them.
        base: model that every run starts from.
        benchmark: what the models are asked about.
        place: where conversations, models and answers go, whichever study they belong to.
        out: folder of ``runs.json``, a `StudyRuns`.

    Returns the reference "study". Raises ValueError where a run asks for more pairs than there are.
    """
    check_sizes(section, sets)
    jobs = [_job(spec, sets[spec.data], base, section.evaluation, benchmark, place) for spec in section.runs]
    asked = section.evaluation.model_copy(update={"tasks": ("detection", "localization", "explanation")})
    folder = place("answers", base.sha256, *_asked(asked, benchmark))
    with mirrored(folder):
        answers = predict(asked, base, [benchmark], folder, "base")
    longest = sorted(range(len(jobs)), key=lambda k: -(jobs[k].spec.instruction.pairs or 0))  # none ends alone
    finished = ordered_map(_prepare, (base, benchmark, section.evaluation), [jobs[k] for k in longest], section.workers)
    made = dict(zip(longest, tqdm(finished, "study", total=len(jobs), unit="run"), strict=True))
    runs = tuple(made[k] for k in range(len(jobs)))
    found = StudyRuns(base=answers, runs=runs)
    write_atomic(out / INDEX, found.model_dump_json(indent=1).encode())
    digest = stable_hash(answers.digest, *(run.predictions.digest for run in runs), length=64)
    return DatasetRef(kind="study", uri=str(out), digest=digest, rows=len(runs))


def check_sizes(section: RunsSection, sets: Mapping[str, PairSet]) -> None:
    """Raise ValueError for a set with fewer usable pairs than a run shall train on: rows would not be comparable."""
    for name, pairs in sets.items():
        wanted = max((spec.instruction.pairs or 0 for spec in section.runs if spec.data == name), default=0)
        there = sum(usable(row.record) for row in read_rows(pairs.curated, Pair, ()))
        if there < wanted:
            raise ValueError(
                f"{pairs.curated.uri}: {there} usable {name} pairs, and a row wants {wanted}; raise "
                "study.scenes.count (or give more images, or planning.variants), or lower instruction.pairs"
            )


def _job(
    spec: RunSpec, pairs: PairSet, base: CheckpointRef, evaluation: EvaluationSection, benchmark: BenchmarkSet,
    place: Place,
) -> _Job:  # fmt: skip
    data = (pairs.curated.digest, pairs.scenes.digest)
    folder = place("conversations", spec.instruction.digest(), *data)
    with mirrored(folder):
        conversations = build_conversations(spec.instruction, pairs.curated, pairs.scenes, folder)
    trained = (spec.trained_as(), *data, base.sha256)
    answers = place("answers", *trained, *_asked(evaluation.model_copy(update={"tasks": spec.tasks}), benchmark))
    return _Job(spec, conversations, place("models", *trained), answers)


def _asked(section: EvaluationSection, benchmark: BenchmarkSet) -> tuple[str, str]:
    return section.digest(), benchmark_sha256(benchmark)


def _prepare(base: CheckpointRef, benchmark: BenchmarkSet, evaluation: EvaluationSection) -> Callable[[_Job], StudyRun]:
    def run(job: _Job) -> StudyRun:
        finished = job.answers.with_suffix(".json")
        with mirrored(job.answers):
            if finished.is_file():
                return StudyRun.model_validate_json(finished.read_text())
            started = time.monotonic()
            with mirrored(job.model):
                resumed = job.model.exists()
                model = finetune(job.spec.sft, job.conversations, base, job.model)
            section = evaluation.model_copy(update={"tasks": job.spec.tasks})
            predictions = predict(section, model, [benchmark], job.answers, job.model.name)
            records = [row.record for row in read_rows(job.conversations, Conversation, ())]
            made = StudyRun(
                pairs=len({one.pair_id for one in records if one.split == "train"}),
                sources=len({one.source_id for one in records if one.split == "train"}),
                conversations=job.conversations, model=model, predictions=predictions,
                curve=tuple(json.loads((job.model / CURVES).read_text())),
                seconds=None if resumed else round(time.monotonic() - started, 1),
            )  # fmt: skip
            write_atomic(finished, made.model_dump_json(indent=1).encode())
        return made

    return run
