import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.records import Record
from artiagent.store import (
    DatasetWriter,
    Row,
    StoreError,
    dataset_dir,
    file_sha256,
    folder_sha256,
    home,
    open_dataset,
    read_rows,
    write_atomic,
)  # fmt: skip


class Note(Record):
    text: str


def row(key, size=3):
    return Row(key, Note(text=f"text of {key}"), {"image": key.encode() * size})


def fill(directory, batches, shards=1):
    writer = DatasetWriter(directory, "notes", ("image",))
    for name, keys in batches.items():
        writer.write(name, [row(k) for k in keys])
    return writer.finish({"count": 1}, shards)


def test_rows_come_back(tmp_path):
    ref = fill(tmp_path / "d", {"b": ["2", "3"], "a": ["1"], "empty": []})
    rows = list(read_rows(ref, Note))
    assert [(r.key, r.record.text, r.images["image"]) for r in rows] == [
        ("1", "text of 1", b"111"), ("2", "text of 2", b"222"), ("3", "text of 3", b"333"),
    ]  # fmt: skip
    assert (ref.rows, ref.summary) == (3, {"count": 1})
    assert next(iter(read_rows(ref, Note, images=()))).images == {}
    assert open_dataset(tmp_path / "d") == ref
    assert not (tmp_path / "d" / "chunks").exists()


@given(st.lists(st.integers(0, 99), min_size=1, max_size=8, unique=True), st.integers(1, 5), st.randoms())
@settings(max_examples=25)
def test_digest_depends_on_keys_and_contents_alone(tmp_path_factory, keys, shards, shuffle):
    names = [str(k) for k in keys]
    one = fill(tmp_path_factory.mktemp("a") / "d", {"all": sorted(names)})
    shuffle.shuffle(names)
    many = fill(tmp_path_factory.mktemp("b") / "d", {f"batch-{n}": [n] for n in names}, shards)
    assert one.digest == many.digest
    assert {r.key for r in read_rows(many, Note)} == set(names)


def test_digest_sees_keys_records_and_images(tmp_path):
    digests = set()
    for index, changed in enumerate((row("a"), row("b"), row("a", 4), Row("a", Note(text="other"), {"image": b"aaa"}))):
        writer = DatasetWriter(tmp_path / str(index), "notes", ("image",))
        writer.write("x", [changed])
        digests.add(writer.finish().digest)
    assert len(digests) == 4


def test_killed_writer_resumes_with_what_is_missing(tmp_path):
    first = DatasetWriter(tmp_path / "d", "notes", ("image",))
    first.write("a", [row("1")])
    (tmp_path / "d" / "chunks" / ".b.99.tmp").write_bytes(b"half")
    second = DatasetWriter(tmp_path / "d", "notes", ("image",))
    assert second.done == {"a"}
    assert open_dataset(tmp_path / "d") is None
    second.write("b", [row("2")])
    whole = fill(tmp_path / "e", {"x": ["1", "2"]})
    assert second.finish().digest == whole.digest
    assert not list((tmp_path / "d").rglob("*.tmp"))


def test_damaged_chunk_is_redone(tmp_path):
    DatasetWriter(tmp_path / "d", "notes", ("image",)).write("a", [row("1")])
    (chunk,) = (tmp_path / "d" / "chunks").glob("*.parquet")
    chunk.write_bytes(chunk.read_bytes()[:-7])
    assert DatasetWriter(tmp_path / "d", "notes", ("image",)).done == frozenset()


@pytest.mark.parametrize("harm", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1])])
def test_damaged_data_set_is_refused(tmp_path, harm):
    fill(tmp_path / "d", {"a": ["1"]})
    harm(next((tmp_path / "d").glob("*-of-*.parquet")))
    with pytest.raises(StoreError, match="missing or damaged"):
        open_dataset(tmp_path / "d")


def test_unfinished_data_set_cannot_be_read(tmp_path):
    DatasetWriter(tmp_path / "d", "notes", ("image",)).write("a", [row("1")])
    with pytest.raises(StoreError, match="not a complete data set"):
        list(read_rows(tmp_path / "d", Note))


def test_batch_ids_are_safe_file_names(tmp_path):
    writer = DatasetWriter(tmp_path / "d", "notes", ("image",))
    with pytest.raises(StoreError, match="letters, digits"):
        writer.write("../x", [])


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot create the data set folder"):
        DatasetWriter(tmp_path / "file" / "d", "notes")


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_store import DatasetWriter, StoreError, row
writer = DatasetWriter(Path({place!r}), "notes", ("image",))
writer.write("small", [row("1")])
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
import os
try:
    writer.write("large", [type(row("2"))("2", row("2").record, {{"image": os.urandom(100_000)}})])
except StoreError as error:
    print(error)
"""


def test_full_disk_leaves_nothing_half_written(tmp_path):
    # A limit on file sizes makes the write fail in the middle, as a full disk does, without rights to mount one.
    code = FULL.format(here=str(Path(__file__).parent), place=str(tmp_path / "d"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot write batch large" in done.stdout
    assert [p.name.split(".")[0] for p in (tmp_path / "d" / "chunks").iterdir()] == ["small"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_write_atomic_keeps_the_old_file_on_failure(tmp_path):
    write_atomic(tmp_path / "f", b"old")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "f", "not bytes")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_hashes_of_files_and_folders(tmp_path):
    (tmp_path / "a").mkdir()
    write_atomic(tmp_path / "a" / "x", b"1")
    before = folder_sha256(tmp_path / "a")
    assert file_sha256(tmp_path / "a" / "x").startswith("6b86b273")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert folder_sha256(tmp_path / "a") != before


def test_home_and_names(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path))
    assert home() == tmp_path
    assert dataset_dir("pairs", "a", "b").parent == tmp_path / "store" / "pairs"
    assert len({dataset_dir("pairs", "a", "b"), dataset_dir("pairs", "ab"), dataset_dir("x", "a", "b")}) == 3


def test_manifest_names_every_shard(tmp_path):
    fill(tmp_path / "d", {"a": ["1"], "b": ["2"]}, shards=2)
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["notes-00000-of-00002.parquet", "notes-00001-of-00002.parquet"]
    assert manifest["ref"]["uri"] == ""
