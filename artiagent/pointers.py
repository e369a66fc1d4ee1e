"""Where published sets are: pointers, kept here and on the remote that they point to.

Knows the pointer's file and DVC's names of objects. Does not publish and runs no DVC.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from artiagent.exchange.remote import ExchangeError, Remote, UnknownStore
from artiagent.records import Record
from artiagent.store import home, write_atomic

POINTERS = "pointers"  # folder of the repository and of the remote
T = TypeVar("T")


class Pointer(Record):
    """Where a published data set is: the object ``md5`` on ``remote``; ``path`` is the DVC file in the repository."""

    kind: str = Field(pattern=r"^[\w.-]+$")
    digest: str = Field(pattern=r"^[0-9a-f]+$")
    md5: str = Field(pattern=r"^\w+(\.dir)?$")
    path: str = Field(pattern=r"^[\w-][\w.-]*\.dvc$")
    size: int
    files: int
    remote: str
    rows: int = 0
    acknowledged: dict[str, int] = {}  # restricted licence -> rows, as acknowledged when it was published
    lineage: dict[str, str] = {}  # run, revision and more of what made it


class PublishError(ValueError):
    """Licences that ask for an acknowledgement; or DVC refused: then the message is its own, with the command."""


def find_pointer(digest: str, repository: Path | None = None, remote: str = "") -> Pointer | None:
    """The pointer of a published digest, or None.

    Looks here first; then, with ``remote``, on that remote, and keeps here what it finds. Raises PublishError when the
    remote cannot be used.
    """
    repository = repository or home() / "datasets"
    path, url = _pointer_path(repository, digest), remote_url(remote) if remote else ""
    here = Pointer.model_validate_json(path.read_text()) if path.is_file() else None
    if not url or (here is not None and here.remote == url):
        return here
    with suppress(UnknownStore):
        data = told(lambda: Remote(url).read(f"{POINTERS}/{digest}.json"))
        if data is not None:
            found = _pointer_of(data, url)
            write_atomic(path, found.model_dump_json(indent=1).encode())
            return found
    return here


def pointers(repository: Path | None = None) -> list[Pointer]:
    """All pointers that are here, by digest."""
    found = sorted(((repository or home() / "datasets") / POINTERS).glob("*.json"))
    return [Pointer.model_validate_json(path.read_text()) for path in found]


def pointers_at(remote: str, beginning: str = "") -> list[Pointer]:
    """Pointers on a remote, of the digests that begin so. Raises PublishError when the remote cannot be used."""
    url = remote_url(remote)
    names = sorted(told(lambda: Remote(url).names(POINTERS)))
    wanted = [name for name in names if name.endswith(".json") and name.startswith(beginning)]
    return [_pointer_of(told(lambda n=name: Remote(url).read(f"{POINTERS}/{n}")), url) for name in wanted]


def keep_pointer(pointer: Pointer, repository: Path) -> None:
    """Write the pointer here and on its remote (not on one that DVC alone knows), where it is not there yet.

    Raises PublishError when the remote cannot be used; the pointer is not here then.
    """
    remote, name = Remote(pointer.remote), f"{POINTERS}/{pointer.digest}.json"
    text = pointer.model_dump_json(indent=1).encode()
    with suppress(UnknownStore):
        if told(lambda: remote.read(name)) != text:
            told(lambda: remote.write(name, text))
    path = _pointer_path(repository, pointer.digest)
    if not path.is_file() or path.read_bytes() != text:
        write_atomic(path, text)


def is_there(pointer: Pointer) -> bool:
    """Whether the remote still has the set's listing; of one that DVC alone knows it is assumed."""
    with suppress(UnknownStore):
        return told(lambda: Remote(pointer.remote).read(object_name(pointer.md5))) is not None
    return True


def object_name(md5: str) -> str:
    """Where DVC keeps the object with this md5 on a remote."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def remote_url(remote: str) -> str:
    """A DVC address as it is; a folder's absolute path, relative ones counted from the project's home."""
    return remote.rstrip("/") if "://" in remote else str((home() / Path(remote).expanduser()).resolve())


def told(act: Callable[[], T]) -> T:
    """What ``act`` returns; what goes wrong with the remote becomes a PublishError."""
    try:
        return act()
    except UnknownStore:
        raise
    except ExchangeError as error:
        raise PublishError(str(error)) from error


def _pointer_of(data: bytes, url: str) -> Pointer:
    """As found on a remote: it is where it was found."""
    try:
        return Pointer.model_validate_json(data).model_copy(update={"remote": url})
    except ValidationError as error:
        raise PublishError(f"{url}/{POINTERS}: holds what is no pointer ({error.errors()[0]['msg']})") from error


def _pointer_path(repository: Path, digest: str) -> Path:
    return repository / POINTERS / f"{digest}.json"
