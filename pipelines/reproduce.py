"""Repeats a run from what its record says and compares every digest.

Revision and uncommitted changes are restored in a work tree of their own, the environment from its lock, the data from
its DVC pointer; the derived stores start empty, so that nothing of the first run is reused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from artiagent.store import checkout, file_sha256, runs_dir
from pipelines.runs import CONFIG, DIFF, RECORD, RunRecord, load_run


def reproduce(name: str, workdir: Path | None = None) -> int:
    """Run again and print a table of digests; 0 when all are equal, 1 otherwise.

    Args:
        name: run to repeat.
        workdir: keep the work tree and the new run there; by default a temporary folder, removed afterwards.

    Raises ValueError when the run never finished or its commit is gone.
    """
    record = load_run(name)
    if not record.stages:
        raise ValueError(f"run {name}: never finished, there is nothing to compare with")
    folder = runs_dir() / name
    place = workdir or Path(tempfile.mkdtemp(prefix=f"artiagent-{name}-"))
    root = place / "checkout"
    try:
        python = restore(record, folder, root)
        repeated = repeat(python, folder, root, place / "home")
        return report(record, repeated)
    finally:
        if workdir is None:
            _git("worktree", "remove", "--force", str(root), check=False)
            shutil.rmtree(place, ignore_errors=True)


def restore(record: RunRecord, folder: Path, root: Path) -> Path:
    """Work tree with the run's commit and changes, data from its pointer; returns the interpreter of its lock."""
    commit = record.revision.removesuffix("+dirty")
    if _git("cat-file", "-e", f"{commit}^{{commit}}", check=False):
        raise ValueError(f"run {record.name}: commit {commit[:12]} is not in this repository; fetch it first")
    _git("worktree", "add", "--quiet", "--detach", str(root), commit)
    changes = folder / DIFF
    if changes.stat().st_size:
        _git("apply", "--binary", str(changes.resolve()), cwd=root)
    found = file_sha256(root / "requirements.lock")
    if found != record.lock_sha256:
        raise ValueError(f"run {record.name}: lock {found[:12]}, expected {record.lock_sha256[:12]}")
    here = checkout()
    if here and file_sha256(here / "requirements.lock") == record.lock_sha256:
        # The installed environment is the run's own: only the data is missing in the work tree.
        subprocess.run([sys.executable, "-m", "dvc", "pull", "--quiet"], cwd=root, check=True)
        return Path(sys.executable)
    subprocess.run(["make", "setup"], cwd=root, check=True)
    return root / ".venv" / "bin" / "python"


def repeat(python: Path, folder: Path, root: Path, home: Path) -> RunRecord:
    """Run the restored sources with the recorded configuration in an empty home."""
    environment = {
        **os.environ, "PYTHONPATH": str(root), "ARTIAGENT_HOME": str(home), "ZENML_CONFIG_PATH": str(home / "zenml"),
    }  # fmt: skip
    command = [str(python), "-m", "artiagent.cli", "run", "--config", str(folder / CONFIG)]
    subprocess.run(command, cwd=root, env=environment, check=True)
    made = sorted((home / "runs").glob(f"*/{RECORD}"))
    return RunRecord.model_validate_json(made[-1].read_text())


def report(record: RunRecord, repeated: RunRecord) -> int:
    """Print one line per digest; 1 when any differs."""
    lines = [("input", k, v, repeated.inputs.get(k, "")) for k, v in record.inputs.items()]
    lines += [("source", k, v, repeated.sources.get(k, "")) for k, v in record.sources.items()]
    lines += [("stage", k, s.digest, repeated.stages[k].digest) for k, s in record.stages.items()]
    lines += [("", "lock", record.lock_sha256, repeated.lock_sha256)]
    for kind, key, before, after in lines:
        verdict = "equal" if before == after else f"DIFFERS, now {after[:16]}"
        print(f"{kind:<7} {key:<18} {before[:16]}  {verdict}")
    different = sum(before != after for _, _, before, after in lines)
    if different:
        print(f"{different} of {len(lines)} digests differ (machine then: {record.machine}, now: {repeated.machine})")
    else:
        print(f"all {len(lines)} digests are equal")
    return int(different > 0)


def _git(*arguments: str, cwd: Path | None = None, check: bool = True) -> int:
    command = ["git", "-C", str(cwd or checkout()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.returncode
