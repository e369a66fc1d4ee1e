"""Files of an export: a folder that appears whole or not at all, JSON arrays that grow, names of images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any


class ExportError(ValueError):
    """A target or a data set that cannot be used for an export; the message says what to do."""


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place in the end, and is gone when writing fails.

    Raises ExportError when ``out`` is a file or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: is there and not empty; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{token_hex(6)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(out)  # also over an empty folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class JsonList:
    """A JSON array that grows in a file, item by item; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self._file = path.open("w", encoding="utf-8")

    def add(self, item: dict[str, Any]) -> None:
        self._file.write(",\n" if self.count else "[\n")
        json.dump(item, self._file, ensure_ascii=False)
        self.count += 1

    def __enter__(self) -> JsonList:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.write("\n]" if self.count else "[]")
        self._file.close()


def image_name(number: int, data: bytes) -> str:
    """``00000007.png`` or ``.jpg`` by content. Images are numbered: no name from a data set becomes a path."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpg"
    return f"{number:08d}.{kind}"
