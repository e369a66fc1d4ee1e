"""What a result depends on: local source files of a stage, found by following imports.

Static: modules are parsed, never imported, and imports inside functions count. So one edited character in a library
module changes the key of exactly the stages that can reach it.
"""

from __future__ import annotations

import ast
import subprocess
from functools import lru_cache
from pathlib import Path

from artiagent.records import stable_hash
from artiagent.store import file_sha256

PACKAGES = ("artiagent", "steps")
TRANSPORT = "artiagent.exchange"  # moves data and never makes any
REVISION = ".revision"  # file of a copy without git that says which commit it is of


def stage_files(module: str, root: Path) -> tuple[Path, ...]:
    """Local files that ``module`` (dotted name) imports, transitively, itself included; sorted, below ``root``.

    Files that lie in a folder of an imported package, such as its prompts or templates, belong to it.

    Raises ValueError when the module does not exist below ``root``.
    """
    if _path_of(module, root) is None:
        raise ValueError(f"module {module!r} not found below {root}; expected a module of {', '.join(PACKAGES)}")
    seen: set[Path] = set()
    pending = [path for name in _with_parents(module) if (path := _path_of(name, root)) is not None]
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _imports(path, root, path.stat().st_mtime_ns):
            found = _path_of(name, root)
            if found is not None:
                pending.append(found)
    beside = {file for folder in {path.parent for path in seen} for file in _data_files(folder)}
    return tuple(sorted(seen | beside))


def stage_digest(module: str, root: Path) -> str:
    """Hash over names and contents of ``stage_files``: the code part of every cache key."""
    files = stage_files(module, root)
    return stable_hash(*(v for f in files for v in (f.relative_to(root).as_posix(), file_sha256(f))))


def git_revision(root: Path) -> str:
    """Commit of the checkout, with ``+dirty`` behind it when files differ.

    Of a copy without git: what its file ``.revision`` says, else ``unknown``.
    """
    if not (root / ".git").exists() and (root / REVISION).is_file():
        return (root / REVISION).read_text().strip()
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+dirty" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _path_of(name: str, root: Path) -> Path | None:
    if name.split(".")[0] not in PACKAGES or f"{name}.".startswith(f"{TRANSPORT}."):
        return None
    base = root.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _data_files(package: Path) -> list[Path]:
    """Files in folders of a package that are no packages themselves."""
    folders = [f for f in package.iterdir() if f.is_dir() and f.name != "__pycache__" and not any(f.glob("*.py"))]
    return [file for folder in folders for file in folder.iterdir() if file.is_file()]


@lru_cache(maxsize=4096)
def _imports(path: Path, root: Path, _mtime: int) -> frozenset[str]:
    """Dotted names that a file imports; a package's own ``__init__`` files count as imported."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *([node.module] if node.module else [])))
            names.update({stem, *(f"{stem}.{alias.name}" for alias in node.names)})
    return frozenset(parent for name in names for parent in _with_parents(name))


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
