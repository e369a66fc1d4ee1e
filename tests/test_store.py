import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Literal

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


def paths(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))


def write_all(directory, shards=2):
    """What a stage does: only what is missing, a file beside the shards, the end."""
    if (ready := open_dataset(directory)) is not None:
        return ready
    writer = DatasetWriter(directory, "notes", ("image",))
    for batch in ("a", "b", "c"):
        if batch not in writer:
            writer.write(batch, [row(batch + "1"), row(batch + "2")])
    writer.attach("beside.json", b"{}")
    return writer.finish({}, shards)


def killed_at(operation, directory, **options):
    """Write in a process that dies, as by kill -9, at its n-th change of the file system. Returns its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    changes = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}
    count = [0]

    def die(event, arguments):
        if event in changes and str(directory) in str(arguments[0]):
            count[0] += 1
            if count[0] == operation:
                os._exit(9)

    sys.addaudithook(die)
    try:
        write_all(directory, **options)
        os._exit(0)
    finally:
        os._exit(1)


def test_killed_at_any_change_of_the_file_system_ends_as_undisturbed(tmp_path):
    expected = write_all(tmp_path / "whole")
    ends = []
    for operation in range(1, 100):
        place = tmp_path / str(operation)
        ends.append(killed_at(operation, place))
        first = killed_at(operation // 2 + 1, place)  # and once more, elsewhere
        assert first in (0, 9)
        again = write_all(place)
        assert again.digest == expected.digest
        assert paths(place) == paths(tmp_path / "whole")
        if ends[-1] == 0:
            break
    assert ends[-1] == 0 and set(ends[:-1]) == {9} and len(ends) > 25


def test_another_number_of_shards_after_a_kill_leaves_no_old_shard(tmp_path):
    expected = write_all(tmp_path / "whole", shards=1)
    for operation in range(12, 40):
        killed_at(operation, tmp_path / str(operation), shards=3)
        if open_dataset(tmp_path / str(operation)) is None:
            again = write_all(tmp_path / str(operation), shards=1)
            assert (again.digest, again.rows) == (expected.digest, 6)
            assert paths(tmp_path / str(operation)) == paths(tmp_path / "whole")
            assert len(list(read_rows(again, Note))) == 6


def test_writers_at_the_same_time_leave_each_others_files_alone(tmp_path):
    one = DatasetWriter(tmp_path / "d", "notes", ("image",))
    (one.chunks / ".b.parquet.0123.tmp").write_bytes(b"half of what another process writes")
    two = DatasetWriter(tmp_path / "d", "notes", ("image",))
    one.write("a", [row("1")])
    two.write("b", [row("2")])
    assert (one.chunks / ".b.parquet.0123.tmp").exists()
    assert DatasetWriter(tmp_path / "d", "notes", ("image",)).done == {"a", "b"}
    third = DatasetWriter(tmp_path / "d", "notes", ("image",))
    assert third.finish().rows == 2
    with pytest.raises(StoreError, match="cannot write batch c"):
        one.write("c", [row("3")])
    assert paths(tmp_path / "d") == ["manifest.json", "notes-00000-of-00001.parquet"]


def test_a_chunk_damaged_before_the_end_is_named_and_redone(tmp_path):
    writer = DatasetWriter(tmp_path / "d", "notes", ("image",))
    writer.write("a", [row("1")])
    (chunk,) = writer.chunks.glob("a.*")
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="damaged, and removed; run the stage again"):
        writer.finish()
    assert "a" not in DatasetWriter(tmp_path / "d", "notes", ("image",))


def test_batches_made_from_something_else_are_refused(tmp_path):
    writer = DatasetWriter(tmp_path / "d", "notes", ("image",), stamp="0a")
    writer.write("a", [row("1")], note={"count": 3})
    with pytest.raises(StoreError, match="other settings or from other data"):
        DatasetWriter(tmp_path / "d", "notes", ("image",), stamp="0b")
    again = DatasetWriter(tmp_path / "d", "notes", ("image",), stamp="0a")
    assert again.done == {"a"} and again.note("a") == {"count": 3}
    again.finish()
    assert open_dataset(tmp_path / "d", "0a") == open_dataset(tmp_path / "d")
    with pytest.raises(StoreError, match="other settings or from other data"):
        open_dataset(tmp_path / "d", "0b")


def test_wanted_rows_alone_are_parsed(tmp_path):
    ref = fill(tmp_path / "d", {"a": ["1", "2"], "b": ["3", "4"]}, shards=2)
    assert [r.key for r in read_rows(ref, Note, wanted={"2", "3"}.__contains__)] == ["2", "3"]
    assert [r.images for r in read_rows(ref, Note, ("image",), lambda key: key == "4")] == [{"image": b"444"}]

    class Picky(Record):
        text: Literal["text of 1"]

    assert len(list(read_rows(ref, Picky, wanted=lambda key: key == "1"))) == 1


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
