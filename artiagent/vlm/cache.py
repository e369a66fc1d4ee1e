"""Answers on disk by the hash of what was asked: one SQLite file, shared by threads and processes.

Knows keys (32 bytes) and JSON values. Does not know requests, models or which answers are worth keeping. A value is
written once and never changed: what was paid for is not asked again. WAL needs a local file system.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "answers.v1.sqlite"  # another layout is another file
_BUSY = 30.0  # seconds to wait for another process's write
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"


class CacheError(ValueError):
    """The cache cannot be read or written; the message names the file and what to do."""


class AnswerCache:
    """``cache[key]`` for keys of 32 bytes and JSON objects as values.

    Args:
        folder: where the file lies; created.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._local = threading.local()  # a connection per thread: readers never wait for a writer
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"{folder}: cannot create the folder of answers ({error}); or set cache: false") from error
        self._run("SELECT count(*) FROM (SELECT 1 FROM answers LIMIT 1)")

    def get(self, key: bytes) -> dict[str, Any] | None:
        rows = self._run("SELECT value FROM answers WHERE key = ?", key)
        if not rows:
            return None
        try:
            return dict(json.loads(rows[0][0]))
        except (ValueError, TypeError) as error:
            raise self._unusable(f"a value is not a JSON object: {error}") from error

    def put(self, key: bytes, value: Mapping[str, Any]) -> None:
        """Keep a value; a key that is there already keeps its own."""
        self._run("INSERT OR IGNORE INTO answers VALUES (?, ?)", key, json.dumps(dict(value)))

    def __len__(self) -> int:
        return int(self._run("SELECT count(*) FROM answers")[0][0])

    def close(self) -> None:
        """Close the connection of the calling thread."""
        connection = self._local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def _run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._connection().execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error

    def _connection(self) -> sqlite3.Connection:
        if (connection := getattr(self._local, "connection", None)) is None:
            connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)
            self._local.connection = connection
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_TABLE)
        return connection

    def _unusable(self, reason: str) -> CacheError:
        return CacheError(
            f"{self.path}: the cache of answers cannot be used ({reason}); free the disk or the lock, or move the file"
            " away: answers in it are then asked for, and paid, again"
        )
