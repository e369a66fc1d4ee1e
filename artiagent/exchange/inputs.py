"""Inputs on a machine that has the checkout's files but not its data: from DVC, exactly those that are asked for.

Works without git. The remote is that of the checkout's DVC configuration, or ``$ARTIAGENT_DVC_REMOTE``: a remote's name
or an address.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from artiagent.exchange.remote import ExchangeError
from artiagent.records import CheckpointRef
from artiagent.store import checkout, home, write_atomic

REMOTE = "ARTIAGENT_DVC_REMOTE"
TRACKED = "data"  # folder of the checkout that data.dvc describes
_CONFIG = """\
[core]
    no_scm = {no_scm}
    analytics = false
    check_update = false
"""


def ensure_inputs(places: Sequence[Path]) -> None:
    """Have these files and folders here: those that are missing and lie in the checkout's ``data`` come from DVC.

    Raises ExchangeError for a place that is missing and elsewhere, and when DVC cannot deliver.
    """
    if not _wanted(places):
        return
    root = checkout()
    for place in places:
        if not place.exists() and (root is None or not place.is_relative_to(root / TRACKED)):
            raise ExchangeError(
                f"{place}: not on this machine, and not below the checkout's {TRACKED}/, which DVC could bring; put it "
                "there with 'dvc add', on a disk that all machines share, or name a model of the hub"
            )
    with _alone():
        if wanted := _wanted(places):
            begun = _begun()
            _note(begun | set(wanted))
            _pull(root, wanted)
            _note(begun - set(wanted))


def _wanted(places: Sequence[Path]) -> list[Path]:
    """Those that are not here, or not whole: a pull of them was begun and did not end."""
    begun = _begun()
    return [place for place in places if place in begun or not place.exists()]


def _begun() -> set[Path]:
    path = home() / "exchange" / "pulling"
    return {Path(line) for line in path.read_text().splitlines()} if path.is_file() else set()


def _note(places: set[Path]) -> None:
    path = home() / "exchange" / "pulling"
    if places:
        write_atomic(path, "\n".join(map(str, sorted(places))).encode())
    else:
        path.unlink(missing_ok=True)


def input_here(ref: CheckpointRef) -> CheckpointRef:
    """A model folder of the checkout's data, here: it may name another machine's checkout."""
    place, root = Path(ref.uri), checkout()
    if place.exists() or root is None or TRACKED not in place.parts:
        return ref
    below = place.parts[len(place.parts) - place.parts[::-1].index(TRACKED) :]
    here = root.joinpath(TRACKED, *below)
    ensure_inputs([here])
    return ref.model_copy(update={"uri": str(here)})


def _pull(root: Path, places: Sequence[Path]) -> None:
    targets = [str(place.relative_to(root)) for place in places]
    with TemporaryDirectory(prefix="artiagent-dvc-") as folder:
        environment, options = _environment(root, Path(folder))
        command = [sys.executable, "-m", "dvc", "pull", "--quiet", *options, *targets]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    missing = [str(place) for place in places if not place.exists()]
    if done.returncode or missing:
        reason = (done.stderr or done.stdout).strip().splitlines() or ["dvc delivered nothing"]
        raise ExchangeError(
            f"inputs {', '.join(missing or targets)}: not here, and 'dvc pull' in {root} failed: {reason[-1]}\n"
            f"  give the remote that holds them as {REMOTE} (a name or e.g. s3://bucket/prefix), with its credentials"
        )


def _environment(root: Path, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Environment and options of the command; what is configured here is not written into the checkout."""
    text = _CONFIG.format(no_scm=str(not (root / ".git").exists()).lower())
    remote = os.environ.get(REMOTE, "").strip()
    if "://" in remote or remote.startswith("/"):
        text += f"['remote \"given\"']\n    url = {remote}\n"
        remote = "given"
    (folder / "config").write_text(text)
    return {**os.environ, "DVC_GLOBAL_CONFIG_DIR": str(folder)}, ["--remote", remote] if remote else []


@contextmanager
def _alone() -> Iterator[None]:
    lock = home() / "exchange" / "inputs.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
