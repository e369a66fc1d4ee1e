"""Entry point of pods that nobody handed code: fetch the archive of the source, unpack it, become the command.

    python with_code.py [--require NAME ...] -- python -m artiagent.cli run --stack NAME --config FILE

``$ARTIAGENT_CODE`` is the sha256 of the archive, which lies at ``$ARTIAGENT_STORE/code/<sha256>.tar.gz``; the command
runs in ``$ARTIAGENT_CHECKOUT`` (default /app). With ``$ARTIAGENT_DATA``, the URL of a DVC remote, data/ comes first.
Needs the image's packages alone, neither git nor a shell. Every failure is one line and exit code 2.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import fsspec

MOST = 1 << 30  # bytes of an archive of source code; more is not one


def main(arguments: list[str]) -> None:
    """Replace this process by the command. Raises SystemExit with the reason where that cannot be."""
    parser = argparse.ArgumentParser(prog="with_code.py", description=__doc__.splitlines()[0])
    parser.add_argument("--require", action="append", default=[], metavar="NAME", help="must be set and not empty")
    parser.add_argument("command", nargs="+", help="after --")
    asked = parser.parse_args(arguments)
    try:
        check_environment(["ARTIAGENT_STORE", "ARTIAGENT_CODE", *asked.require])
        root = Path(os.environ.get("ARTIAGENT_CHECKOUT", "/app"))
        unpack(fetch(os.environ["ARTIAGENT_STORE"], os.environ["ARTIAGENT_CODE"]), root)
        if remote := os.environ.get("ARTIAGENT_DATA"):
            pull_data(root, remote)
    except ValueError as error:
        print(f"with_code.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    os.chdir(root)
    os.execvp(asked.command[0], asked.command)


def check_environment(names: list[str]) -> None:
    """Raises ValueError naming every variable that is missing and where pods get it from."""
    if missing := [name for name in names if not os.environ.get(name)]:
        raise ValueError(
            f"not set: {', '.join(missing)}; keys come from the secret artiagent-run, addresses from the config map "
            "artiagent-run in this namespace (docs/cluster.md)"
        )


def fetch(store: str, digest: str) -> bytes:
    """The archive of this digest. Raises ValueError for a name that is no digest, an absent or an altered archive."""
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"ARTIAGENT_CODE={digest}: expected the sha256 of an archive, 64 hexadecimal digits")
    place = f"{store.rstrip('/')}/code/{digest}.tar.gz"
    try:
        with fsspec.open(place, "rb") as file:
            data = file.read(MOST)
    except Exception as error:  # noqa: BLE001  (every file system has errors of its own)
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{place}: {reason}; see the store's address and the pod's role, or send the code") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{place}: does not have the sha256 of its name; send the code again")
    return data


def unpack(data: bytes, root: Path) -> None:
    """Write a tar.gz below ``root``. Raises ValueError for members that would lie elsewhere and for no archive."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            archive.extractall(root, filter="data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"the archive of the code cannot be unpacked into {root}: {error}") from error


def pull_data(root: Path, remote: str) -> None:
    """Bring data/ as data.dvc pins it. Raises ValueError with what DVC said."""
    dvc = [sys.executable, "-m", "dvc"]
    for arguments in (
        ["config", "--quiet", "--local", "core.no_scm", "true"],
        ["remote", "add", "--quiet", "--local", "--force", "pods", remote],
        ["pull", "--quiet", "--remote", "pods", "data.dvc"],
    ):
        done = subprocess.run([*dvc, *arguments], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ValueError(f"dvc {' '.join(arguments)}: {said[-1] if said else done.returncode}; see {remote}")


if __name__ == "__main__":
    main(sys.argv[1:])
