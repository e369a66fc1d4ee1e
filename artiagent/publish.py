"""Pushes a derived data set to its own DVC remote and keeps a pointer per digest.

The derived sets live in a DVC repository of their own (no git) below the project's home, apart from ``data.dvc``:
inputs are never rewritten by a run and ``git status`` stays clean. Publishing the same digest again does nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from artiagent.records import DatasetRef, Record
from artiagent.store import home, write_atomic

CONFIG = """\
[core]
    no_scm = true
    analytics = false
    autostage = false
    check_update = false
    remote = derived
['remote "derived"']
    url = {url}
"""


class Pointer(Record):
    """Where a published data set is: the object ``md5`` on ``remote``; ``path`` is the DVC file in the repository."""

    kind: str
    digest: str
    md5: str
    path: str
    size: int
    files: int
    remote: str


class PublishError(ValueError):
    """DVC refused; the message is DVC's own, with the command."""


def publish(dataset: DatasetRef, remote: str, repository: Path | None = None) -> Pointer:
    """Send a complete data set to the remote and keep its DVC file and pointer; idempotent by digest and remote.

    Args:
        dataset: reference to a complete data set.
        remote: folder (relative paths count from the project's home) or DVC URL such as ``s3://bucket/prefix``.
        repository: folder of the derived repository; ``<home>/datasets`` by default.

    Raises PublishError when DVC fails; then no pointer is left behind.
    """
    repository = repository or home() / "datasets"
    url = _url(remote)
    if (known := find_pointer(dataset.digest, repository)) is not None and known.remote == url:
        return known
    name = f"{dataset.kind}-{dataset.digest[:16]}"
    write_atomic(repository / ".dvc" / "config", CONFIG.format(url=url).encode())
    _dvc(repository, "add", "--quiet", "--to-remote", "--remote", "derived", "--out", name, dataset.uri)
    entry = yaml.safe_load((repository / f"{name}.dvc").read_text())["outs"][0]
    pointer = Pointer(
        kind=dataset.kind, digest=dataset.digest, md5=entry["md5"], path=f"{name}.dvc",
        size=entry["size"], files=entry.get("nfiles", 1), remote=url,
    )  # fmt: skip
    write_atomic(_pointer_path(repository, dataset.digest), pointer.model_dump_json(indent=1).encode())
    return pointer


def find_pointer(digest: str, repository: Path | None = None) -> Pointer | None:
    """The pointer of a published digest, or None."""
    path = _pointer_path(repository or home() / "datasets", digest)
    return Pointer.model_validate(json.loads(path.read_text())) if path.is_file() else None


def _pointer_path(repository: Path, digest: str) -> Path:
    return repository / "pointers" / f"{digest}.json"


def _url(remote: str) -> str:
    return remote if "://" in remote else str((home() / Path(remote).expanduser()).resolve())


def _dvc(repository: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise PublishError(f"dvc {' '.join(arguments)} (in {repository}): {reason[-1] if reason else 'failed'}")
