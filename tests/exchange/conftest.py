"""A real S3 server of the test's own, and machines: homes that share nothing but the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex

import boto3
import pytest
from moto.server import ThreadedMotoServer

from artiagent.exchange import folders
from artiagent.records import Record
from tests.learning.conftest import conversations, curated, tiny_clip  # noqa: F401


class Thing(Record):
    """A row."""

    name: str


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of an S3 server on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Client of the server; the environment has its address and credentials."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    settings = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in {**settings, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    return boto3.client("s3")


@pytest.fixture
def bucket(s3) -> str:
    """A fresh bucket."""
    name = f"b{token_hex(6)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """``$ARTIAGENT_STORE``, on the server."""
    monkeypatch.setenv("ARTIAGENT_STORE", f"s3://{bucket}/team")
    return f"s3://{bucket}/team"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Changes to another machine: its home, nothing remembered, and the homes of others out of sight."""
    homes, away = tmp_path / "home", tmp_path / "away"
    homes.mkdir()
    away.mkdir()

    def change(name: str) -> Path:
        for other in homes.iterdir():
            other.rename(away / other.name)
        if (away / name).exists():
            (away / name).rename(homes / name)
        monkeypatch.setenv("ARTIAGENT_HOME", str(homes / name))
        folders._sent.clear()
        return homes / name

    return change


@pytest.fixture
def keys(s3, bucket: str) -> Callable[..., list[str]]:
    """Names of the bucket's objects below a prefix."""

    def listed(prefix: str = "") -> list[str]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", [])]

    return listed
