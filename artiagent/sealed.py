"""What a training keeps to go on from after a kill, below the folder ``stages`` of its output.

A folder of several files counts only once it is sealed: ``sealed.json``, written last, lists its files with their
sizes. A checkpoint that is a single file is replaced as a whole and lies in ``stages`` itself. Folders named
``checkpoint-N`` that lie side by side replace each other. Knows no training; `artiagent.exchange` sends what counts
to other machines by these rules alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from artiagent.durable import write_atomic

STAGES, SEAL, CHECKPOINT = "stages", "sealed.json", "checkpoint-"


def seal(folder: Path) -> None:
    """List the files of a folder that is written to the end."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / SEAL)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    write_atomic(folder / SEAL, json.dumps(sizes, indent=1).encode())


def is_whole(folder: Path) -> bool:
    """Whether a folder is sealed and has every byte that its seal lists; False for one that is being removed."""
    try:
        sizes = json.loads((folder / SEAL).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def checkpoint_number(name: str) -> int | None:
    """N of the folder's name ``checkpoint-N``; None for other folders."""
    number = name.removeprefix(CHECKPOINT)
    return int(number) if name != number and number.isdecimal() else None
