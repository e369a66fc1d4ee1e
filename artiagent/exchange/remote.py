"""An object store, or any folder that fsspec can name, as a flat set of named files.

Knows addresses, time limits, and how what goes wrong is told. Does not know what the files mean.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple, TypeVar

from artiagent.store import file_sha256, write_atomic

STORE = "ARTIAGENT_STORE"
PARALLEL = 8  # files at a time
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 10, 60, 2
PART_BYTES, PARTS_AT_A_TIME = 16 * 2**20, 4  # of a large file: 64 MiB of it in memory
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in a pod: from its secret), or AWS_PROFILE"
_NAME = re.compile(r"[\w.@+=-]+(/[\w.@+=-]+)*", re.ASCII)
T = TypeVar("T")


class ExchangeError(ValueError):
    """A store that cannot be used, or what it holds is not what was sent; the message says what to do."""


class UnknownStore(ExchangeError):
    """No package for this kind of address, or no such kind."""


class Found(NamedTuple):
    """A remote file: bytes, and when it was written (seconds since 1970; 0 where the store does not say)."""

    size: int
    modified: float


class Remote:
    """Files below an address such as ``s3://bucket/prefix``, ``gs://...``, ``file:///mnt/share`` or a folder.

    All names are relative, with ``/``. Every method raises ExchangeError naming the address and the remedy.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url}/{checked(name)}")

    def names(self, below: str = "") -> dict[str, Found]:
        """All files below a prefix, names relative to it; {} where there is none."""
        with self._told():
            fs, base = self._open(below)
            fs.invalidate_cache()
            listed = fs.find(base, detail=True)
        inside = f"{base}/"
        return {checked(p.removeprefix(inside)): _found(i) for p, i in listed.items() if p.startswith(inside)}

    def read(self, name: str) -> bytes | None:
        """Content of a small file, or None when there is no such file."""
        with self._told():
            fs, path = self._open(checked(name))
            try:
                return fs.cat_file(path)
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return None

    def write(self, name: str, data: bytes) -> None:
        """Put a small file, whole or not at all."""
        with self._told():
            fs, path = self._open(checked(name))
            if _local(fs):
                write_atomic(Path(path), data)
            else:
                fs.pipe_file(path, data)

    def upload(self, source: Path, name: str) -> None:
        """Put a file, in parts when it is large; it appears whole. Raises FileNotFoundError when ``source`` is gone."""
        source.stat()
        with self._told():
            fs, path = self._open(checked(name))
            if _local(fs):
                _copy(source, Path(path))
            else:
                fs.put_file(str(source), path, **_limits(fs, source.stat().st_size))

    def download(self, name: str, target: Path, sha256: str = "") -> None:
        """Get a file, whole or not at all. With ``sha256`` a file of another content is refused."""
        temporary = target.with_name(f".{target.name}.{token_hex(6)}.tmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._told():
                fs, path = self._open(checked(name))
                fs.get_file(path, str(temporary), **_limits(fs))
            if sha256 and (found := file_sha256(temporary)) != sha256:
                raise ExchangeError(
                    f"{self.url}/{name}: sha256 is {found[:12]}, expected {sha256[:12]}: damaged, or changed since it "
                    "was sent; delete its folder there and run the stage that made it again"
                )
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already are no error."""

        def drop(name: str) -> None:
            fs, path = self._open(checked(name))
            with suppress(FileNotFoundError):
                fs.rm_file(path)

        with self._told():
            each(drop, names)

    def _open(self, name: str = "") -> tuple[Any, str]:
        """File system and path. Instances are cached by fsspec, one per process: safe behind a fork."""
        from fsspec.core import url_to_fs

        fs, base = url_to_fs(self.url, **_options(self.url))
        if _s3(fs):
            fs.retries = ATTEMPTS
        return fs, f"{base.rstrip('/')}/{name}" if name else base

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ExchangeError:
            raise
        except Exception as error:
            if (told := _told(self.url, error)) is None:
                raise
            unknown = isinstance(error, ImportError) or _no_protocol(error)
            raise (UnknownStore if unknown else ExchangeError)(told) from error


def open_store() -> Remote | None:
    """The store of ``$ARTIAGENT_STORE``, or None where it is not set."""
    url = os.environ.get(STORE, "").strip()
    return Remote(url) if url else None


def checked(name: str) -> str:
    """The name, when it is relative and stays below its root. Raises ExchangeError otherwise."""
    if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise ExchangeError(
            f"remote name {name!r}: expected letters, digits and . _ - + = @, parts separated by single slashes"
        )
    return name


def each(function: Callable[[T], Any], items: Iterable[T], parallel: int = PARALLEL) -> None:
    """Call for every item, several at a time; raises the first error when all have ended."""
    with ThreadPoolExecutor(parallel, thread_name_prefix="exchange") as pool:
        list(pool.map(function, items))


def bytes_sha256(data: bytes) -> str:
    """Hex sha256 of bytes in memory."""
    return hashlib.sha256(data).hexdigest()


def _options(url: str) -> dict[str, Any]:
    if not url.startswith(("s3://", "s3a://")):
        return {"auto_mkdir": True} if "://" not in url or url.startswith("file://") else {}
    retries = {"max_attempts": ATTEMPTS, "mode": "standard"}
    limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": retries}
    return {"use_listings_cache": False, "config_kwargs": limits}


def _s3(fs: Any) -> bool:
    return "s3" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _local(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _limits(fs: Any, size: int = 0) -> dict[str, int]:
    """Of a transfer in parts, for a file of so many bytes: an upload has at most 10,000 parts."""
    return {"chunksize": max(PART_BYTES, size // 9_000), "max_concurrency": PARTS_AT_A_TIME} if _s3(fs) else {}


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{token_hex(6)}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _found(info: dict[str, Any]) -> Found:
    when = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or info.get("updated") or 0.0
    return Found(int(info.get("size") or 0), when.timestamp() if isinstance(when, datetime) else float(when))


def _no_protocol(error: BaseException) -> bool:
    return isinstance(error, ValueError) and "rotocol not known" in str(error)


def _no_bucket(error: BaseException) -> bool:
    return "bucket does not exist" in str(error)


def _told(url: str, error: Exception) -> str | None:
    """One sentence with the remedy, or None where the error speaks for itself."""
    kind = type(error).__name__
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    at = f"{url} (server {endpoint})" if endpoint and url.startswith("s3") else url
    cases = (
        (_no_bucket(error), f"{at}: no such bucket; create it, or correct the address"),
        ("Credentials" in kind or "TokenRetrieval" in kind, f"{at}: no credentials; {_CREDENTIALS}"),
        (isinstance(error, PermissionError), f"{at}: access refused ({error}); check the credentials and their rights"),
        (isinstance(error, ImportError), f"{url}: {error}; pip install 'artiagent[cluster]', or that package"),
        (
            _no_protocol(error),
            f"{url}: not an address that fsspec knows ({error}); expected e.g. s3://bucket/prefix",
        ),
        (isinstance(error, FileNotFoundError), f"{at}: a file that should be there is gone ({error})"),
        (
            isinstance(error, OSError) or "Connect" in kind or "Timeout" in kind or hasattr(error, "response"),
            f"{at}: cannot be reached or used ({error}); check the address, AWS_ENDPOINT_URL and the network",
        ),
    )
    return next((text for fits, text in cases if fits), None)
