"""Garbage collection on a real S3 server: a remote of published sets, and the store that machines share."""

import json
import time
from types import SimpleNamespace

import pytest

from artiagent import exchange
from artiagent.checkpoints import checkpoint_ref
from artiagent.dataset.garbage import collect, remotes, survey
from artiagent.exchange.remote import Remote
from artiagent.pointers import Pointer, keep_pointer, object_name
from artiagent.records import Pair
from artiagent.store import DatasetWriter, Row, dataset_dir, runs_dir


def curated(name):
    writer = DatasetWriter(dataset_dir("curated", name), "curated", ("clean", "artifact"))
    pair = Pair(
        job_id=name, source_id=name, group="g", variant=0, width=8, height=8, prompt="", artifacts=(), backbone="g",
        backbone_sha256="0", sampling={}, licence="CC0-1.0",
    )  # fmt: skip
    writer.write("b", [Row(name, pair, {"clean": b"c", "artifact": b"a"})])
    return writer.finish()


@pytest.fixture
def later(monkeypatch):
    """A week goes by."""
    return lambda: monkeypatch.setattr(remotes, "time", SimpleNamespace(time=lambda: time.time() + 7 * 86_400))


def test_objects_of_no_published_set_go(machine, bucket, s3, keys, later):
    machine("a")
    url = f"s3://{bucket}/published"
    for name, md5 in (("x", "a" * 32), ("y", "c" * 31 + "d")):  # as DVC leaves them
        Remote(url).write(object_name(f"{md5}.dir"), json.dumps([{"md5": md5[::-1], "relpath": name}]).encode())
        Remote(url).write(object_name(md5[::-1]), b"rows")
        told = {"path": f"{name}.dvc", "size": 1, "files": 1, "remote": url}
        keep_pointer(Pointer(kind="curated", digest=md5, md5=f"{md5}.dir", **told), dataset_dir("d", "s"))
    wanted = keys()
    Remote(url).write(f"files/md5/ab/{'c' * 30}", b"left by a push that was killed")
    machine("b")  # which published nothing itself
    assert not survey(url).garbage and survey(url).young == 1
    later()
    found = survey(url)
    assert [g.names for g in found.garbage] == [(f"files/md5/ab/{'c' * 30}",)] and found.referenced == 4
    assert collect(found) == 30
    assert keys() == wanted and not survey(url).garbage

    s3.delete_object(Bucket=bucket, Key=next(key for key in wanted if key.endswith(".dir")))
    with pytest.raises(ValueError, match="the listing of curated .* is missing"):
        survey(url)
    for pointer in (key for key in wanted if "pointers" in key):
        s3.delete_object(Bucket=bucket, Key=pointer)
    with pytest.raises(ValueError, match="holds objects and no pointers"):
        survey(url)


def test_inputs_are_out_of_reach(machine, bucket, tmp_path, monkeypatch):
    machine("a")
    (tmp_path / "checkout" / ".dvc").mkdir(parents=True)
    config = (
        f"['remote \"embedded\"']\n    url = ../infra/dvc\n['remote \"cluster\"']\n    url = s3://{bucket}/inputs\n"
    )
    (tmp_path / "checkout" / ".dvc" / "config").write_text(config)
    monkeypatch.setattr(remotes, "checkout", lambda: tmp_path / "checkout")
    monkeypatch.setenv("ARTIAGENT_DVC_REMOTE", "s3://other/inputs")
    for url in (f"s3://{bucket}/inputs", f"s3://{bucket}", f"s3://{bucket}/inputs/x", "s3://other/inputs/",
                str(tmp_path / "checkout" / "infra" / "dvc")):  # fmt: skip
        with pytest.raises(ValueError, match="holds the inputs that data.dvc pins"):
            survey(url)
    assert not survey(f"s3://{bucket}/inputs-not").garbage


def test_the_shared_store_keeps_what_any_machine_s_run_names(machine, store, keys, later):
    a = machine("a")
    kept, model, lost = curated("kept"), dataset_dir("tuned", "m"), curated("lost")
    model.mkdir(parents=True)
    (model / "b.json").write_text("b")
    (model / "a").mkdir()
    (model / "a" / "c.json").write_text("c")
    tuned = checkpoint_ref("tuned", str(model))
    for ref in (kept, lost, tuned):
        exchange.send(ref)
    (runs_dir() / "r").mkdir(parents=True)
    stages = {"curate": {"digest": kept.digest}, "finetune": {"digest": tuned.sha256}}
    (runs_dir() / "r" / "run.json").write_text(json.dumps({"finished": "x", "stages": stages}))
    exchange.send_run("r")
    machine("b")
    assert not survey(store=True).garbage
    later()
    found = survey(store=True)
    assert [g.place for g in found.garbage] == [f"{store}/store/curated/{dataset_dir('curated', 'lost').name}"]
    assert collect(found) == found.garbage[0].bytes > 0
    assert not [key for key in keys() if dataset_dir("curated", "lost").name in key]
    assert exchange.fetch(kept).digest == kept.digest and exchange.fetch(tuned).sha256 == tuned.sha256
    assert a.name == "a"
