"""Inputs in a pod: code without git and without data, and DVC's remote on a real S3 server."""

import hashlib
import json
import subprocess

import pytest

from artiagent import exchange
from artiagent.exchange import ExchangeError, inputs
from artiagent.exchange.remote import Remote
from artiagent.pointers import object_name
from artiagent.records import CheckpointRef

CONFIG = """\
[core]
    analytics = false
    check_update = false
    remote = embedded
['remote "embedded"']
    url = ../infra/dvc/embedded
"""
NAMES = ("photos/images.parquet", "weights/nano-vl/config.json", "weights/other/config.json")


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def pod(machine, bucket, tmp_path, monkeypatch):
    """A checkout's files without its data and without git; what data.dvc pins is on the server, as DVC leaves it."""
    remote, pod = Remote(f"s3://{bucket}/inputs"), tmp_path / "pod"
    for name in NAMES:
        remote.write(object_name(md5(name.encode())), name.encode())
    listing = json.dumps([{"md5": md5(name.encode()), "relpath": name} for name in NAMES]).encode()
    remote.write(object_name(f"{md5(listing)}.dir"), listing)
    (pod / ".dvc").mkdir(parents=True)
    (pod / ".dvc" / "config").write_text(CONFIG)  # names a folder that the pod has not
    out = f"outs:\n- md5: {md5(listing)}.dir\n  size: 73\n  nfiles: 3\n  hash: md5\n  path: data\n"
    (pod / "data.dvc").write_text(out)
    monkeypatch.setattr(inputs, "checkout", lambda: pod)
    monkeypatch.setenv("ARTIAGENT_DVC_REMOTE", remote.url)
    machine("pod")
    return pod


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_exactly_what_is_asked_for_comes_from_dvc(pod, monkeypatch):
    exchange.ensure_inputs([pod / "data" / "photos" / "images.parquet"])
    assert files(pod / "data") == ["photos/images.parquet"]
    model = CheckpointRef(name="vlm", uri="/another/machine/data/weights/nano-vl", sha256="s")
    got = exchange.fetch(model)
    assert got.uri == str(pod / "data" / "weights" / "nano-vl") and got.sha256 == "s"
    assert files(pod / "data") == ["photos/images.parquet", "weights/nano-vl/config.json"]
    assert (pod / ".dvc" / "config").read_text() == CONFIG

    (pod / "data" / "photos" / "images.parquet").unlink()  # a pull that was killed
    inputs._note({pod / "data" / "photos"})
    exchange.ensure_inputs([pod / "data" / "weights" / "nano-vl", pod / "data" / "photos"])
    assert files(pod / "data") == ["photos/images.parquet", "weights/nano-vl/config.json"]

    monkeypatch.setattr(subprocess, "run", None)
    exchange.ensure_inputs([pod / "data" / "photos"])  # nothing is asked when it is there
    assert exchange.fetch(model) == got


def test_what_cannot_come_is_told_in_one_message(pod, tmp_path, monkeypatch):
    with pytest.raises(ExchangeError, match="mine: not on this machine, and not below the checkout's data/"):
        exchange.ensure_inputs([tmp_path / "mine"])
    monkeypatch.delenv("ARTIAGENT_DVC_REMOTE")
    with pytest.raises(ExchangeError, match="give the remote that holds them as ARTIAGENT_DVC_REMOTE"):
        exchange.ensure_inputs([pod / "data" / "photos"])
    assert not (pod / "data" / "photos").exists()
