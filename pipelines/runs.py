"""Runs as folders: what was run, from which sources and inputs, with which results. Found, listed and compared by name.

``runs/<name>/run.json`` is written before a run and completed after it; ``config.yaml`` beside it is the exact ZenML
run configuration and ``changes.diff`` what the checkout had on top of its commit.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from artiagent.config import Config
from artiagent.lineage import git_revision, stage_digest
from artiagent.records import Record, stable_hash
from artiagent.store import file_sha256, runs_dir, write_atomic

RECORD, CONFIG, DIFF, SUMMARY = "run.json", "config.yaml", "changes.diff", "summary.json"


class StageResult(Record):
    """One stage of a run: what it made, and whether it had to."""

    digest: str
    cached: bool
    seconds: float = 0.0
    peak_mb: float = 0.0


class RunRecord(Record):
    """Everything needed to say what a run was and to repeat it."""

    name: str
    profile: str
    started: str
    finished: str = ""
    revision: str
    lock_sha256: str
    python: str
    machine: str
    config_digest: str
    inputs: dict[str, str]
    sources: dict[str, str]
    stages: dict[str, StageResult] = {}


def identify(config: Config, digests: dict[str, str], sources: dict[str, str]) -> str:
    """``<profile>-<8 hex>``: equal for equal configuration, inputs and stage sources."""
    parts = (f"{k}={v}" for table in (digests, sources) for k, v in sorted(table.items()))
    return f"{config.profile}-{stable_hash(config.digest(), *parts, length=8)}"


def open_run(
    config: Config, digests: dict[str, str], stages: tuple[str, ...], document: dict[str, Any], root: Path
) -> RunRecord:
    """Create (or renew) the folder of a run before it starts.

    Args:
        config: validated configuration.
        digests: content digests of the inputs.
        stages: names of the cached stages, whose sources are part of the run's identity.
        document: the ZenML run configuration as read; its ``parameters`` are replaced by the effective ones.
        root: the checkout.
    """
    sources = {stage: stage_digest(f"steps.{stage}", root) for stage in stages}
    record = RunRecord(
        name=identify(config, digests, sources), profile=config.profile, started=_now(), revision=git_revision(root),
        lock_sha256=file_sha256(root / "requirements.lock"), python=platform.python_version(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores", config_digest=config.digest(),
        inputs=digests, sources=sources,
    )  # fmt: skip
    parameters = {"config": config.model_dump(mode="json"), "digests": digests}
    write_run_config(record.name, document, parameters, root)
    save(record)
    return record


def write_run_config(name: str, document: dict[str, Any], parameters: dict[str, Any], root: Path) -> None:
    """``config.yaml``, with what is effective as its ``parameters``, and ``changes.diff`` of a run's folder."""
    text = yaml.safe_dump({**document, "parameters": parameters}, sort_keys=False)
    write_atomic(runs_dir() / name / CONFIG, text.encode())
    write_atomic(runs_dir() / name / DIFF, working_diff(root))


def save(record: RunRecord) -> None:
    write_atomic(runs_dir() / record.name / RECORD, record.model_dump_json(indent=1).encode())


def close_run(record: RunRecord, stages: dict[str, StageResult]) -> RunRecord:
    """Complete the record with the results of the stages."""
    record = record.model_copy(update={"finished": _now(), "stages": stages})
    save(record)
    return record


def load_run(name: str) -> RunRecord:
    """Raises ValueError naming the known runs."""
    path = runs_dir() / name / RECORD
    if not path.is_file():
        known = ", ".join(r.name for r in list_runs()) or "none yet; 'make run' makes the first"
        raise ValueError(f"run {name!r}: not found in {runs_dir()} (known: {known})")
    return RunRecord.model_validate_json(path.read_text())


def list_runs() -> list[RunRecord]:
    """All runs, oldest first."""
    records = [RunRecord.model_validate_json(p.read_text()) for p in runs_dir().glob(f"*/{RECORD}")]
    return sorted(records, key=lambda r: r.started)


def load_config_tree(name: str) -> dict[str, Any]:
    return yaml.safe_load((runs_dir() / name / CONFIG).read_text())["parameters"]["config"]


def compare(*names: str) -> dict[str, dict[str, tuple[Any, ...]]]:
    """What differs between runs, by topic: configuration, inputs, sources, stages' digests, scores; one value a run."""
    records = [load_run(name) for name in names]
    tables = {
        "configuration": [_flat(load_config_tree(name)) for name in names],
        "inputs": [record.inputs for record in records],
        "sources": [record.sources for record in records],
        "digests": [{k: s.digest for k, s in record.stages.items()} for record in records],
        "scores": [_scores(name) for name in names],
    }
    return {
        topic: {
            key: values
            for key in sorted(set().union(*columns))
            if len(set(map(repr, values := tuple(column.get(key) for column in columns)))) > 1
        }
        for topic, columns in tables.items()
    }


def working_diff(root: Path) -> bytes:
    """Binary diff of the checkout, untracked files included, against its commit; empty when clean or without git."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        # A throw-away index: the person's own staging area stays as it is.
        environment = {**os.environ, "GIT_INDEX_FILE": f"{folder}/index"}
        for arguments in (("read-tree", "HEAD"), ("add", "--all")):
            _git(root, arguments, environment)
        return _git(root, ("diff", "--cached", "--binary", "HEAD"), environment)


def _git(root: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> bytes:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout


def _scores(name: str) -> dict[str, str]:
    path = runs_dir() / name / SUMMARY
    if not path.is_file():
        return {}
    summary = json.loads(path.read_text())
    scores = {f"{m}/{k}": v for m, row in summary["evaluation"]["scores"].items() for k, v in row.items()}
    scores |= {f"reward/{k}": v for k, v in summary["reward"].items() if isinstance(v, dict) and "value" in v}
    return {k: f"{v['value']:.3f} [{v['low']:.3f}, {v['high']:.3f}] n={v['n']}" for k, v in scores.items()}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {key: value for name, node in tree.items() for key, value in _flat(node, f"{prefix}{name}.").items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
