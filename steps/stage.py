"""Turns a plain ``run(section, refs...) -> refs`` into a ZenML step: measured, stamped, cached by what it depends on.

Knows ZenML, the cache key and the provenance of an output. Does not know any science: importing it costs no torch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from zenml import get_step_context, step
from zenml.config.cache_policy import CachePolicy
from zenml.steps import BaseStep

import materializers  # noqa: F401  (registers how references are stored)
from artiagent.config import Section
from artiagent.lineage import git_revision, stage_digest, stage_files
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, stable_hash
from artiagent.store import checkout, dataset_dir
from steps.measure import Meter

Ref = DatasetRef | CheckpointRef | EvaluationReport
R = TypeVar("R", bound=Ref)


def source_root() -> Path:
    """The checkout. Raises RuntimeError when the packages are installed elsewhere."""
    if (root := checkout()) is None:
        raise RuntimeError("the steps run from a checkout of the repository (their cache keys are its sources)")
    return root


def out_dir(kind: str, module: str, section: Section, *inputs: Ref | Section) -> Path:
    """Folder of a stage's output, named by its section, its inputs' contents and its source code."""
    return dataset_dir(kind, section.digest(), *map(digest_of, inputs), stage_digest(module, source_root()))


def digest_of(ref: Ref | Section) -> str:
    """What identifies a reference's content, wherever it lies."""
    if isinstance(ref, Section):
        return ref.digest()
    if isinstance(ref, DatasetRef):
        return ref.digest
    if isinstance(ref, CheckpointRef):
        return ref.sha256
    return stable_hash(ref.model_dump_json(exclude={"summary"}), length=64)


def cached_step(run: Callable[..., Any]) -> BaseStep:
    """Step named like the module of ``run``, executed only when its section, inputs or sources changed."""
    root = source_root()
    files = [str(path.relative_to(root)) for path in stage_files(run.__module__, root)]
    policy = CachePolicy(include_artifact_ids=False, file_dependencies=files)
    return step(enable_cache=True, cache_policy=policy, enable_step_logs=False)(_measured(run))


def effect_step(run: Callable[..., None]) -> BaseStep:
    """Step named like the module of ``run``, executed in every run for its idempotent effect; it returns nothing."""
    return step(enable_cache=False, enable_step_logs=False)(_renamed(run))


def run_name() -> str:
    """Name of the run that executes the current step: the version of the ZenML model."""
    return str(get_step_context().model.version)


def _renamed(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def body(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    body.__name__ = _name(run)
    return body


def _measured(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def body(*args: Any, **kwargs: Any) -> Any:
        with Meter() as meter:
            result = run(*args, **kwargs)
        cost: dict[str, float | int | str] = {"seconds": meter.seconds, "peak_mb": meter.peak_mb}
        facts = cost | provenance(run.__module__, [*args, *kwargs.values()])
        if isinstance(result, tuple):
            return tuple(_stamp(ref, facts) for ref in result)
        return _stamp(result, facts)

    body.__name__ = _name(run)
    return body


def _name(run: Callable[..., Any]) -> str:
    return run.__module__.rsplit(".", 1)[-1]


def provenance(module: str, arguments: list[Any]) -> dict[str, float | int | str]:
    """What an output carries about its origin: run, git revision, stage sources, sections, data and weights."""
    sections = [a for a in arguments if isinstance(a, Section)]
    refs = [a for a in arguments if isinstance(a, Ref)]
    weights = {r.name: r.sha256 for r in refs if isinstance(r, CheckpointRef)}
    data = {r.kind: r.digest for r in refs if isinstance(r, DatasetRef)}
    root = source_root()
    return {
        "lineage.run": run_name(),
        "lineage.revision": git_revision(root),
        "lineage.code": stage_digest(module, root),
        "lineage.section": stable_hash(*(s.digest() for s in sections)),
        "lineage.data": " ".join(f"{kind}:{digest}" for kind, digest in data.items()),
        "lineage.weights": " ".join(f"{name}:{digest}" for name, digest in weights.items()),
        "lineage.python": sys.version.split()[0],
    }


def _stamp(ref: R, facts: dict[str, float | int | str]) -> R:
    return ref.model_copy(update={"summary": {**ref.summary, **facts}})
