"""Code and configuration of a run as one archive, named by its digest: what a task fetches before it becomes a stage.

Images hold dependencies only. The archive holds tracked files as they lie in the checkout, nothing else: no data (a
pointer to it), no weights, no secret, no untracked file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import yaml

from artiagent.config import Config
from artiagent.exchange.remote import Remote
from artiagent.lineage import REVISION, git_revision, stage_files
from pipelines.stages import stages

CONTENT = (
    "artiagent", "steps", "pipelines", "materializers", "configs", "infra/profiles.yaml", "pyproject.toml",
    "requirements.lock", "data.dvc", ".dvc/config", ".dvcignore",
)  # fmt: skip
CONFIG = "exported.yaml"  # in the archive: the configuration, overrides applied


class Bundle(NamedTuple):
    """An archive (tar.gz) and its sha256. The same files and configuration give the same bytes."""

    data: bytes
    digest: str
    revision: str

    @property
    def name(self) -> str:
        return f"code/{self.digest}.tar.gz"


def make_bundle(config: Config, root: Path) -> Bundle:
    """Pack the checkout below ``root``. Raises ValueError naming a file that a stage needs and git does not track."""
    names = _tracked(root)
    needed = {p.relative_to(root).as_posix() for s in stages(config) for p in stage_files(f"steps.{s.name}", root)}
    if missing := sorted(needed - set(names)):
        raise ValueError(f"{missing[0]}: not tracked by git, and {len(missing) - 1} more; 'git add' what the run needs")
    document = {"parameters": {"config": config.model_dump(mode="json")}}
    revision = git_revision(root)
    files = {name: (root / name).read_bytes() for name in names}
    files |= {CONFIG: yaml.safe_dump(document, sort_keys=False).encode(), REVISION: revision.encode()}
    data = _packed(files)
    return Bundle(data, hashlib.sha256(data).hexdigest(), revision)


def send_bundle(bundle: Bundle, store: str) -> str:
    """Put the archive into the store, unless it is there; returns its place. Raises ExchangeError."""
    remote = Remote(store)
    if bundle.name.rsplit("/", 1)[1] not in remote.names("code"):
        remote.write(bundle.name, bundle.data)
    return f"{remote.url}/{bundle.name}"


def _tracked(root: Path) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", "--", *CONTENT]
    try:
        found = subprocess.run(command, check=True, capture_output=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"{root}: no git checkout; export from a clone of the repository") from error
    return sorted(name for name in found if name and (root / name).is_file() and not (root / name).is_symlink())


def _packed(files: dict[str, bytes]) -> bytes:
    """No times, no owners: the bytes depend on names and contents alone."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return packed.getvalue()
