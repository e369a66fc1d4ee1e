"""Garbage collection: derived data that no pointer, no run and no unfinished work refers to.

Knows three places: this machine, a remote of published sets, and the object store that machines share. Looks first and
removes later, and only what is old enough. Inputs are out of reach: they lie elsewhere, and a remote that the
checkout's own DVC configuration names is refused.

What a run that is not finished may need stands in no record yet. While there is one, nothing of the stages' outputs is
removed, unless that run is given up by name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from artiagent.dataset.garbage.found import DAY, Garbage, Survey
from artiagent.dataset.garbage.here import remove, size_of, survey_here
from artiagent.dataset.garbage.remotes import survey_published, survey_shared
from artiagent.epoch import begin_epoch
from artiagent.exchange.folders import LISTING
from artiagent.exchange.remote import STORE, open_store
from artiagent.pointers import remote_url

__all__ = ["Garbage", "Survey", "collect", "listing", "survey"]


def survey(remote: str | None = None, store: bool = False, days: float = 1.0, abandon: Sequence[str] = ()) -> Survey:
    """Look at this machine, at a remote of published sets, or at the shared store; nothing is changed.

    Args:
        remote: address of published sets, or a folder below the project's home.
        store: look at ``$ARTIAGENT_STORE``.
        days: what was written or used within them is left alone; at least 1.
        abandon: unfinished runs that will not go on.

    Raises ValueError for a remote that holds the checkout's inputs, for one without pointers, and for a run that is
    not unfinished; ExchangeError when a place cannot be used.
    """
    days = max(days, 1.0)
    if remote:
        return survey_published(remote_url(remote), days)
    if store:
        if (place := open_store()) is None:
            raise ValueError(f"--store: {STORE} is not set; set it to the address that the machines share")
        return survey_shared(place, days, abandon)
    return survey_here(days, abandon)


def collect(found: Survey) -> int:
    """Remove the garbage. Returns the bytes removed; what was used since the survey stays."""
    removed = 0
    for one in found.garbage:
        if found.remote is not None:
            found.remote.remove(n for n in one.names if n.endswith(f"/{LISTING}"))  # from now on it is not complete
            found.remote.remove(n for n in one.names if not n.endswith(f"/{LISTING}"))
        elif size_of(Path(one.place))[1] > time.time() - found.days * DAY or not remove(Path(one.place)):
            continue
        removed += one.bytes
    if removed and found.stages:
        begin_epoch()
    return removed


def listing(found: Survey) -> str:
    """The survey as text."""
    lines = [f"{found.where}: {found.referenced} referenced, {found.young} young, {len(found.garbage)} garbage"]
    lines += [f"{_size_text(g.bytes):>10}  {g.place}  ({g.why})" for g in found.garbage]
    lines.append(f"{_size_text(sum(g.bytes for g in found.garbage)):>10}  in all")
    if found.held:
        held = _size_text(sum(g.bytes for g in found.held))
        lines.append(f"held back: {len(found.held)} more, {held}, which a run that is not finished may need:")
        lines += [f"  {name}, begun {began or 'unknown'}" for name, began in found.unfinished.items()]
        lines.append("finish it with 'artiagent run', or give it up with --abandon RUN")
    return "\n".join(lines)


def _size_text(count: float) -> str:
    for name in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {name}" if name == "B" else f"{count:.1f} {name}"
        count /= 1000
    return f"{count:.1f} TB"
