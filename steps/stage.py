"""Turns a plain ``run(section, refs...) -> refs`` into a ZenML step: measured, stamped, cached by what it depends on.

Knows ZenML, the cache key, the provenance of an output, and that inputs may lie on another machine. Does not know any
science: importing it costs no torch.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zenml import get_step_context, step
from zenml.config.cache_policy import CachePolicy
from zenml.enums import StepRuntime
from zenml.exceptions import StepContextError
from zenml.steps import BaseStep

import materializers  # noqa: F401  (registers how references are stored)
from artiagent import exchange
from artiagent.config import Section
from artiagent.epoch import epoch
from artiagent.lineage import git_revision, stage_digest, stage_files
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, stable_hash
from artiagent.shards import PART, Shard
from artiagent.store import checkout, dataset_dir
from steps.measure import Meter

if TYPE_CHECKING:
    from zenml.models import PipelineRunResponse, StepRunResponse

Ref = DatasetRef | CheckpointRef | EvaluationReport
R = TypeVar("R", bound=Ref)
PLACES = "{kind}.places.json"  # beside references to inputs: the files that they speak of
_UNDER_WAY: ContextVar[tuple[ExitStack, Shard | None] | None] = ContextVar("under_way", default=None)


def source_root() -> Path:
    """The checkout. Raises RuntimeError when the packages are installed elsewhere."""
    if (root := checkout()) is None:
        raise RuntimeError("the steps run from a checkout of the repository (their cache keys are its sources)")
    return root


def out_dir(kind: str, module: str, section: Section, *inputs: Ref | Section | str) -> Path:
    """Folder of a stage's output, named by its section, its inputs' contents and its source code.

    What an earlier attempt, perhaps on another machine, left of it is there when this returns (`exchange.mirrored`).
    """
    folder = dataset_dir(kind, section.digest(), *map(digest_of, inputs), stage_digest(module, source_root()))
    if (under_way := _UNDER_WAY.get()) is not None:
        stack, shard = under_way
        stack.enter_context(exchange.mirrored(folder, shard))
    return folder


def digest_of(ref: Ref | Section | str) -> str:
    """What identifies a reference's content, wherever it lies; of other inputs the caller gives the digest."""
    if isinstance(ref, str):
        return ref
    if isinstance(ref, Section):
        return ref.digest()
    if isinstance(ref, DatasetRef):
        return ref.digest
    if isinstance(ref, CheckpointRef):
        return ref.sha256
    return stable_hash(ref.model_dump_json(exclude={"summary"}), length=64)


def cached_step(run: Callable[..., Any], name: str = "") -> BaseStep:
    """Step named like the module of ``run``, or ``name``; executed only when its section, inputs or sources changed."""
    root = source_root()
    files = [str(path.relative_to(root)) for path in stage_files(run.__module__, root)]
    policy = CachePolicy(include_artifact_ids=False, file_dependencies=files, cache_func=epoch)
    body = measured(run)
    if not name and hasattr(sys.modules[run.__module__], "run_shard"):
        body = _joining(body, _name(run))
    body.__name__ = name or _name(run)
    return step(enable_cache=True, cache_policy=policy, enable_step_logs=False, runtime=StepRuntime.ISOLATED)(body)


def effect_step(run: Callable[..., Any]) -> BaseStep:
    """Step named like the module of ``run``, executed in every run for its idempotent effect."""
    body = effective(run)
    body.__name__ = _name(run)
    return step(enable_cache=False, enable_step_logs=False, runtime=StepRuntime.ISOLATED)(body)


def measured(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run`` with its inputs brought here, its outputs sent, and cost and provenance stamped on them.

    Work that is under way is mirrored, so that another attempt, on another machine, goes on with it. Where no store is
    configured (`exchange`), inputs and outputs stay where they are.
    """
    signature = inspect.signature(run)

    @functools.wraps(run)
    def body(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        shard = bound.arguments.get("shard")
        with Meter() as meter, _mirroring(Shard.parse(shard) if shard else None):
            bound.arguments.update({name: _here(value) for name, value in bound.arguments.items()})
            result = run(*bound.args, **bound.kwargs)
        cost: dict[str, float | int | str] = {"seconds": meter.seconds, "peak_mb": meter.peak_mb}
        facts = cost | provenance(run.__module__, list(bound.arguments.values()))
        if isinstance(result, tuple):
            return tuple(exchange.send(_stamp(ref, facts)) for ref in result)
        return exchange.send(_stamp(result, facts))

    return body


def with_cost(ref: R, parts: Iterable[DatasetRef]) -> R:
    """A joined output costs what its parts did: their seconds together, the most memory that one took."""
    costs = [part.summary for part in (ref, *parts)]
    total: dict[str, float | int | str] = {
        "seconds": sum(float(cost.get("seconds", 0)) for cost in costs),
        "peak_mb": max(float(cost.get("peak_mb", 0)) for cost in costs),
    }
    return _stamp(ref, total)


def shards_of(stage: str, run: PipelineRunResponse) -> list[StepRunResponse]:
    """The steps of a run that made the pieces of a stage; none where it was made in one."""
    return [made for name, made in run.steps.items() if re.fullmatch(rf"{stage}_shard(_\d+)?", name)]


def _joining(body: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A step's body, its output stamped with the cost of the shards that this run made before it."""

    @functools.wraps(body)
    def joined(*args: Any, **kwargs: Any) -> Any:
        return with_cost(body(*args, **kwargs), _parts(name))

    return joined


def _parts(name: str) -> list[DatasetRef]:
    """What the shards of a stage returned in the run that this step belongs to."""
    from zenml.client import Client

    run = Client().get_pipeline_run(get_step_context().pipeline_run.id)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda made: made.outputs[PART][0].load(), shards_of(name, run)))


def effective(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run`` with its inputs and the run's folder, if it has one, brought here, and the folder sent back."""

    @functools.wraps(run)
    def body(*args: Any, **kwargs: Any) -> Any:
        name = _folder_name()
        if name:
            exchange.fetch_run(name)
        result = run(*map(_here, args), **{key: _here(value) for key, value in kwargs.items()})
        if name:
            exchange.send_run(name)
        return result

    return body


def run_name() -> str:
    """Name of the run that executes the current step: ``$ARTIAGENT_RUN``, else the version of the ZenML model."""
    return os.environ.get("ARTIAGENT_RUN") or str(get_step_context().model.version)


def _folder_name() -> str:
    """The run's name, or nothing for pipelines that leave no folder, such as a promotion."""
    try:
        return run_name()
    except StepContextError:
        return ""


def _here(value: Any) -> Any:
    """A reference's data on this machine; whatever else it is, unchanged."""
    if not isinstance(value, DatasetRef | CheckpointRef):
        return value
    ref = exchange.fetch(value)
    if isinstance(ref, DatasetRef) and (listing := Path(ref.uri) / PLACES.format(kind=ref.kind)).is_file():
        exchange.ensure_inputs([Path(place) for place in json.loads(listing.read_text())])
    return ref


@contextmanager
def _mirroring(shard: Shard | None) -> Iterator[None]:
    with ExitStack() as stack:
        token = _UNDER_WAY.set((stack, shard))
        try:
            yield
        finally:
            _UNDER_WAY.reset(token)


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
