"""Publishing to a real S3 server: killed and resumed, found from other machines, pulled whole and by shard."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artiagent.cli import main
from artiagent.dataset.pull import find_published, parse_shards, pull_set
from artiagent.exchange import ExchangeError
from artiagent.pointers import PublishError, find_pointer
from artiagent.publish import publish, pull
from artiagent.records import Pair
from artiagent.store import DatasetWriter, Row, dataset_dir, open_dataset, read_rows

FILES, ROWS = 6, 24


def curated(noise=20_000):
    out = dataset_dir("curated", "x")
    writer = DatasetWriter(out, "curated", ("clean", "artifact"))
    for n in range(ROWS):
        pair = Pair(
            job_id=f"j{n:03d}", source_id=f"s{n}", group="g", variant=0, width=8, height=8, prompt="", artifacts=(),
            backbone="generator", backbone_sha256="0", sampling={}, licence="CC0-1.0",
        )  # fmt: skip
        writer.write(f"{n:03d}", [Row(pair.job_id, pair, {"clean": os.urandom(noise), "artifact": b"a"})])
    return writer.finish({"lineage.run": "r"}, shards=FILES)


@pytest.fixture
def remote(bucket):
    return f"s3://{bucket}/published"


PUSH = """
import sys
from artiagent.exchange import ExchangeError
from artiagent.publish import publish
from artiagent.store import open_dataset
from pathlib import Path
publish(open_dataset(Path(sys.argv[1])), sys.argv[2])
"""


def test_killed_in_mid_push_it_goes_on_and_other_machines_pull_it(machine, remote, keys, s3, bucket, tmp_path):
    home = machine("a")
    ref = curated(noise=2_000_000)
    process = subprocess.Popen([sys.executable, "-c", PUSH, ref.uri, remote], start_new_session=True)
    deadline = time.monotonic() + 60
    while not (sent := keys("published/files/")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    sent = {
        key: s3.head_object(Bucket=bucket, Key=f"published/files/{key}")["LastModified"]
        for key in keys("published/files/")
    }
    assert 0 < len(sent) < FILES + 3 and not keys("published/pointers/")
    assert find_pointer(ref.digest) is find_pointer(ref.digest, remote=remote) is None

    time.sleep(1)  # S3 knows seconds
    pointer = publish(ref, remote)
    for key, when in sent.items():  # what was there was not sent again
        assert s3.head_object(Bucket=bucket, Key=f"published/files/{key}")["LastModified"] == when
    objects = keys("published/files/")
    assert len(objects) == FILES + 3 and publish(ref, remote) == pointer
    assert not list((home / "datasets" / ".pushing").glob("*"))

    machine("b")
    assert publish(ref, remote) == pointer  # nothing is read: the folder is not even here
    got = pull_set(find_published(ref.digest[:8], remote), tmp_path / "whole")
    assert got.digest == ref.digest == open_dataset(tmp_path / "whole").digest
    assert open_dataset(pull(find_published(ref.digest[:8], remote))).digest == ref.digest  # by DVC itself
    assert sorted(keys("published/files/")) == sorted(objects)


def test_some_shards_are_a_data_set_and_nothing_else_is_fetched(machine, remote, s3, bucket, tmp_path, capsys):
    machine("a")
    ref = curated()
    rows = [(r.key, r.images["clean"]) for r in read_rows(ref, Pair)]
    pointer = publish(ref, remote)
    listed = s3.get_object(Bucket=bucket, Key=f"published/files/md5/{pointer.md5[:2]}/{pointer.md5[2:]}")["Body"].read()
    for entry in json.loads(listed):  # the other shards cannot be fetched
        if entry["relpath"] in [f"curated-0000{n}-of-00006.parquet" for n in (0, 4, 5)]:
            s3.delete_object(Bucket=bucket, Key=f"published/files/md5/{entry['md5'][:2]}/{entry['md5'][2:]}")

    machine("b")
    part = pull_set(find_published(ref.digest[:8], remote), tmp_path / "part", parse_shards("1-2,3"))
    assert sorted(p.name for p in (tmp_path / "part").iterdir()) == [
        "README.md", *(f"curated-0000{n}-of-00006.parquet" for n in (1, 2, 3)), "manifest.json",
    ]  # fmt: skip
    assert open_dataset(tmp_path / "part") == part
    assert [(r.key, r.images["clean"]) for r in read_rows(part, Pair)] == rows[4:16]
    assert [r.key for r in read_rows(part, Pair, images=(), rows=range(5, 7))] == [key for key, _ in rows[9:11]]
    assert (part.rows, part.summary) == (12, {"part_of": ref.digest, "part_files": "1,2,3"})
    assert "12" in (tmp_path / "part" / "README.md").read_text()
    same = DatasetWriter(tmp_path / "same", "curated", ("clean", "artifact"))
    same.write("x", read_rows(part, Pair))
    assert same.finish().digest == part.digest

    assert main(["data", "pull", ref.digest[:8], "--remote", remote, "--shards", "2", "--out", f"{tmp_path}/two"]) == 0
    assert "4 rows in 1 files" in capsys.readouterr().out and open_dataset(tmp_path / "two").rows == 4
    with pytest.raises(ValueError, match="has no shard 6: expected 0 to 5"):
        pull_set(pointer, tmp_path / "none", (6,))
    with pytest.raises(ExchangeError, match="a file that should be there is gone"):
        pull_set(pointer, tmp_path / "none", (0,))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1..2"])
def test_shards_are_numbers_and_ranges(text):
    with pytest.raises(ValueError, match="expected numbers and ranges"):
        parse_shards(text)


def test_an_unknown_digest_or_server_is_told(machine, remote, bucket, monkeypatch):
    machine("a")
    with pytest.raises(PublishError, match="abcd: no published digest begins so .*published"):
        find_published("abcd", remote)
    with pytest.raises(PublishError, match="no such bucket"):
        find_published("abcd", "s3://nobody-made-it/x")
    ref = curated()
    with pytest.raises(PublishError, match="no such bucket"):
        publish(ref, "s3://nobody-made-it/x")
    assert find_pointer(ref.digest) is None
    shutil.rmtree(Path(ref.uri))
