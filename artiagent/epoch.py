"""When derived data of this home was last removed: caches that name its folders are void from then on."""

from __future__ import annotations

from secrets import token_hex

from artiagent.store import home, write_atomic

_FILE = "collected"  # in the store


def epoch() -> str:
    """A word that changes whenever something of this home's store was removed; "" before the first time."""
    path = home() / "store" / _FILE
    return path.read_text() if path.is_file() else ""


def begin_epoch() -> None:
    """Something was removed."""
    write_atomic(home() / "store" / _FILE, token_hex(8).encode())
