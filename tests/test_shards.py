"""Work done in shards is joined into the data set that one process would have made, wherever it was cut or killed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent import chunks, parts
from artiagent.records import DatasetRef
from artiagent.shards import Shard
from artiagent.store import DatasetWriter, StoreError, open_dataset, read_rows
from tests.test_store import Note, killed_at, paths, row

KEYS = tuple(f"{number:03d}" for number in range(20))


def writer(folder: Path, shard: Shard | None = None, stamp: str = "") -> DatasetWriter[Note]:
    return DatasetWriter(folder, "notes", ("image",), stamp, shard)


def fill(one: DatasetWriter[Note], keys: tuple[str, ...]) -> list[str]:
    """Write a batch of two rows for every key that is not there. Returns those keys."""
    missing = [key for key in keys if key not in one]
    for key in missing:
        one.write(key, [row(f"{key}a"), row(f"{key}b")], {"about": key} if key.endswith("7") else None)
    return missing


def share(shard: Shard) -> tuple[str, ...]:
    return tuple(KEYS[index] for index in shard.part(len(KEYS)))


def seal(folder: Path, shard: Shard) -> DatasetRef:
    """What a stage does for a shard."""
    one = writer(folder, shard)
    if (ready := one.sealed()) is not None:
        return ready
    fill(one, share(shard))
    return one.seal()


def join(folder: Path, shards: int = 1) -> DatasetRef:
    """What a stage does for the whole."""
    if (ready := open_dataset(folder)) is not None:
        return ready
    one = writer(folder)
    fill(one, KEYS)
    return one.finish({"count": 1}, shards)


def content(ref: DatasetRef | Path) -> list[tuple[str, str, bytes]]:
    return [(r.key, r.record.text, r.images["image"]) for r in read_rows(ref, Note)]


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return join(tmp_path_factory.mktemp("whole") / "d")


def test_shards_are_parsed_and_labelled() -> None:
    shard = Shard.parse("3/64")
    assert (shard, str(shard), shard.label) == ((3, 64), "3/64", "00003-of-00064")
    assert Shard.from_label(shard.label) == shard
    assert not any(map(Shard.from_label, ("", "3-of-64", "00064-of-00064", "00003-of-00064.json", "000003-of-00064")))
    for text in ("", "1", "4/4", "-1/4", "0/0", "a/b", "1/2/3"):
        with pytest.raises(ValueError, match="expected I/N with 0 <= I < N"):
            Shard.parse(text)
    with pytest.raises(ValueError, match="expected I/N with 0 <= I < N"):
        Shard(4, 4)


@given(st.integers(0, 1000), st.integers(1, 64))
def test_shares_are_contiguous_and_even(total: int, count: int) -> None:
    shares = [Shard(index, count).part(total) for index in range(count)]
    assert [place for part in shares for place in part] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_sealed_shards_become_the_data_set_as_they_are(whole: DatasetRef, tmp_path: Path) -> None:
    refs = [seal(tmp_path / "d", Shard(index, 8)) for index in reversed(range(8))]
    assert {ref.kind for ref in refs} == {"notes-part"} and sum(ref.rows for ref in refs) == whole.rows
    assert len({ref.digest for ref in refs}) == 8
    assert open_dataset(tmp_path / "d") is None
    before = inodes(tmp_path / "d")
    joined = join(tmp_path / "d")
    assert (joined.digest, joined.rows, joined.summary, joined.shards) == (whole.digest, 40, whole.summary, 8)
    assert content(joined) == content(whole)
    assert inodes(tmp_path / "d") == before
    assert paths(tmp_path / "d") == ["manifest.json", *(f"notes-0000{i}-of-00008.parquet" for i in range(8))]
    assert open_dataset(tmp_path / "d") == joined


def test_a_sealed_shard_is_not_made_again(tmp_path: Path) -> None:
    first = seal(tmp_path / "d", Shard(1, 4))
    before = inodes(tmp_path / "d")
    assert seal(tmp_path / "d", Shard(1, 4)) == first == writer(tmp_path / "d", Shard(1, 4)).seal()
    assert inodes(tmp_path / "d") == before


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_any_history_ends_in_the_same_data_set(
    whole: DatasetRef, tmp_path_factory: pytest.TempPathFactory, data
) -> None:
    folder = tmp_path_factory.mktemp("history") / "d"
    counts = data.draw(st.lists(st.sampled_from([1, 2, 3, 8]), min_size=1, max_size=3, unique=True))
    shards = [Shard(index, count) for count in counts for index in range(count)]
    for shard in data.draw(st.lists(st.sampled_from([*shards, None]), max_size=6)):
        if shard is None:
            fill(writer(folder), KEYS[: data.draw(st.integers(0, 20))])
        elif data.draw(st.booleans()):
            seal(folder, shard)
        else:  # killed between two chunks
            fill(writer(folder, shard), share(shard)[: data.draw(st.integers(0, 20))])
    joined = join(folder, data.draw(st.integers(1, 3)))
    assert (joined.digest, content(joined)) == (whole.digest, content(whole))
    assert not (folder / "chunks").exists() and not (folder / "parts").exists()
    assert open_dataset(folder) == joined


def test_what_is_done_in_another_division_stays_done(whole: DatasetRef, tmp_path: Path) -> None:
    seal(tmp_path / "d", Shard(1, 2))
    fill(writer(tmp_path / "d"), KEYS[:2])
    assert fill(writer(tmp_path / "d", Shard(0, 4)), share(Shard(0, 4))) == list(KEYS[2:5])
    assert fill(writer(tmp_path / "d", Shard(2, 4)), share(Shard(2, 4))) == []
    assert writer(tmp_path / "d", Shard(3, 4)).seal().rows == 0
    one = writer(tmp_path / "d")
    assert list(one) == sorted([*KEYS[:5], *KEYS[10:]]) and one.done == frozenset(one)
    assert one.note("017") == {"about": "017"} and one.note("011") == {}
    assert fill(one, KEYS) == list(KEYS[5:10])
    assert one.finish(shards=2).digest == whole.digest
    assert len(list((tmp_path / "d").glob("*-of-00003.parquet"))) == 3  # files of 2 are sealed shards while they merge


def write_shard(folder: Path, shards: int = 4) -> DatasetRef:
    """What a stage does for the second of four shards, in a process that may die."""
    return seal(folder, Shard(1, shards))


def test_a_shard_killed_at_any_change_of_the_file_system_ends_as_undisturbed(
    whole: DatasetRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.test_store.write_all", write_shard)
    expected = seal(tmp_path / "whole", Shard(1, 4))
    ends = []
    for operation in range(1, 100):
        place = tmp_path / str(operation)
        ends.append(killed_at(operation, place))
        again = seal(place, Shard(1, 4))
        assert (again.digest, again.rows) == (expected.digest, expected.rows)
        assert not list(place.glob("chunks/*"))
        if ends[-1] == 0:
            break
    assert ends[-1] == 0 and set(ends[:-1]) == {9} and len(ends) > 20
    for index in (0, 2, 3):
        seal(place, Shard(index, 4))
    assert join(place).digest == whole.digest


def test_joining_killed_at_any_change_of_the_file_system_loses_nothing(
    whole: DatasetRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.test_store.write_all", join)
    for index in range(4):
        seal(tmp_path / "adopted", Shard(index, 4))
    shutil.copytree(tmp_path / "adopted", tmp_path / "mixed")
    fill(writer(tmp_path / "mixed", Shard(0, 2)), ())
    writer(tmp_path / "mixed").write("999", [])
    for name in ("adopted", "mixed"):
        for operation in range(1, 100):
            place = tmp_path / f"{name}{operation}"
            shutil.copytree(tmp_path / name, place)
            end = killed_at(operation, place)
            again = join(place)
            assert (again.digest, content(again)) == (whole.digest, content(whole))
            assert not list(place.glob("*/")) and len(list(place.glob("*.parquet"))) == again.shards
            if end == 0:
                break
        assert end == 0 and operation > 5


def test_a_part_without_its_sidecar_is_sealed_again(tmp_path: Path) -> None:
    fill(writer(tmp_path / "d", Shard(0, 2)), share(Shard(0, 2)))
    (tmp_path / "d" / "notes-00000-of-00002.parquet").write_bytes(b"killed before the sidecar was written")
    assert list(writer(tmp_path / "d")) == list(KEYS[:10])
    assert seal(tmp_path / "d", Shard(0, 2)).rows == 20
    assert paths(tmp_path / "d") == ["chunks", "notes-00000-of-00002.parquet", "parts", "parts/00000-of-00002.json"]


@pytest.mark.parametrize("harm", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1])])
def test_a_damaged_part_is_made_again(harm: Callable, whole: DatasetRef, tmp_path: Path) -> None:
    for index in range(4):
        seal(tmp_path / "d", Shard(index, 4))
    harm(tmp_path / "d" / "notes-00002-of-00004.parquet")
    one = writer(tmp_path / "d")
    assert not one.settled()
    assert "003" in one and "012" not in one
    assert not (tmp_path / "d" / "parts" / "00002-of-00004.json").exists()
    assert seal(tmp_path / "d", Shard(2, 4)).rows == 10
    assert join(tmp_path / "d").digest == whole.digest


@pytest.mark.parametrize("more", [(), ("999",)])
def test_a_part_damaged_before_the_join_is_named_and_made_again(
    more: tuple[str, ...], whole: DatasetRef, tmp_path: Path
) -> None:
    for index in range(4):
        seal(tmp_path / "d", Shard(index, 4))
    one = writer(tmp_path / "d")
    for batch in more:
        one.write(batch, [])
    file = tmp_path / "d" / "notes-00003-of-00004.parquet"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(StoreError, match="damaged, and removed; run the stage again"):
        one.finish()
    assert open_dataset(tmp_path / "d") is None
    assert join(tmp_path / "d").digest == whole.digest


def test_batches_of_something_else_are_refused_in_parts_as_well(tmp_path: Path) -> None:
    first = writer(tmp_path / "d", Shard(0, 2), "0a")
    first.write("000", [row("1")])
    for shard in (None, Shard(0, 2), Shard(1, 2), Shard(0, 3)):
        with pytest.raises(StoreError, match="other settings or from other data"):
            writer(tmp_path / "d", shard, "0b")
    first.seal()
    for shard in (None, Shard(0, 2), Shard(1, 2), Shard(0, 3)):
        with pytest.raises(StoreError, match="other settings or from other data"):
            writer(tmp_path / "d", shard, "0b")
    assert writer(tmp_path / "d", None, "0a").done == {"000"}


def test_shards_out_of_order_are_merged_into_order(whole: DatasetRef, tmp_path: Path) -> None:
    for index in range(2):  # as if the plan had its sources in another order than their names
        one = writer(tmp_path / "d", Shard(index, 2))
        fill(one, KEYS[index::2])
        one.seal()
    joined = join(tmp_path / "d")
    assert (joined.digest, content(joined), joined.shards) == (whole.digest, content(whole), 1)


def test_empty_batches_and_notes_travel_with_the_part(tmp_path: Path) -> None:
    for index in range(2):
        one = writer(tmp_path / "d", Shard(index, 2))
        one.write(f"00{index}", [row(str(index))])
        one.write(f"zz-{index}", [], {"skipped": index})
        assert one.seal({"seconds": 1.5}).summary == {"seconds": 1.5}
    one = writer(tmp_path / "d")
    assert [one.note(batch) for batch in one] == [{}, {}, {"skipped": 0}, {"skipped": 1}]
    assert one.settled() and one.finish().rows == 2


def test_a_shard_finishes_nothing_and_the_whole_seals_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a shard is sealed"):
        writer(tmp_path / "d", Shard(0, 2)).finish()
    with pytest.raises(ValueError, match="there is nothing to seal"):
        writer(tmp_path / "d").seal()


def test_a_shard_whose_data_set_was_finished_meanwhile_changes_nothing(whole: DatasetRef, tmp_path: Path) -> None:
    late = writer(tmp_path / "d", Shard(1, 4))
    fill(late, share(Shard(1, 4)))
    late._files = {batch: path for batch, path in late._files.items() if path.exists()}
    join(tmp_path / "d")
    before = paths(tmp_path / "d")
    with pytest.raises(StoreError):
        late.seal()
    with pytest.raises(StoreError):
        late.write("999", [row("9")])
    assert paths(tmp_path / "d") == before


def test_two_processes_at_one_shard_end_with_one_part(tmp_path: Path) -> None:
    one, two = (writer(tmp_path / "d", Shard(0, 2)) for _ in range(2))
    fill(one, share(Shard(0, 2)))
    fill(two, share(Shard(0, 2)))
    assert one.seal() == two.seal() == writer(tmp_path / "d", Shard(0, 2)).sealed()


def test_files_that_lie_elsewhere_are_joined_unseen_and_fetched_for_reading(
    whole: DatasetRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for index in range(4):
        seal(there, Shard(index, 4))
    (here / "parts").mkdir(parents=True)
    for sidecar in (there / "parts").iterdir():
        shutil.copy(sidecar, here / "parts")
    assert not writer(here).settled()  # the files are lost
    assert not list((here / "parts").iterdir())
    for sidecar in (there / "parts").iterdir():
        shutil.copy(sidecar, here / "parts")
    (here / "origin.json").write_text("{}")
    fetched = []

    def materialise(directory: Path, name: str) -> None:
        fetched.append(name)
        shutil.copy(there / name, directory / name)

    monkeypatch.setattr("artiagent.exchange.materialise", materialise, raising=False)
    joined = join(here)
    assert (joined.digest, fetched, open_dataset(here)) == (whole.digest, [], joined)
    assert [r.key for r in read_rows(joined, Note, (), rows=range(12, 15))] == ["006a", "006b", "007a"]
    assert fetched == ["notes-00001-of-00004.parquet"]
    assert content(joined) == content(whole)


def test_sidecars_are_not_believed_blindly(tmp_path: Path) -> None:
    seal(tmp_path / "d", Shard(0, 2))
    sidecar = tmp_path / "d" / "parts" / "00000-of-00002.json"
    text = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(text | {"file": "../other.parquet"}))
    with pytest.raises(StoreError, match=r"names \.\./other\.parquet, expected notes-00000-of-00002\.parquet"):
        writer(tmp_path / "d")
    sidecar.write_text("{}")
    with pytest.raises(StoreError, match="damaged .*delete it and run the shard again"):
        writer(tmp_path / "d")


def test_row_groups_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "GROUP_BYTES", 4000)
    one = DatasetWriter(tmp_path / "d", "notes", ("image",))
    one.write("a", [row(f"a{number:03d}", 100) for number in range(30)])
    one.write("b", [row("b", 9000)])
    file = chunks.pq.ParquetFile(next(iter(Path(one.finish().uri).glob("*.parquet"))))
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sum(sizes) == 31 and max(sizes) <= 8 and sizes[-1] == 1


@given(st.integers(0, 45), st.integers(0, 45), st.sets(st.sampled_from([f"{k}{s}" for k in KEYS for s in "ab"])))
@settings(max_examples=60, deadline=None)
def test_any_rows_and_keys_are_read(narrow: DatasetRef, start: int, stop: int, keys: set[str]) -> None:
    everything = [f"{key}{side}" for key in KEYS for side in "ab"]
    rows = range(start, stop)
    assert [r.key for r in read_rows(narrow, Note, (), rows=rows)] == everything[start:stop]
    for wanted in (keys, frozenset(keys), dict.fromkeys(keys).keys(), keys.__contains__):
        expected = [key for key in everything if key in keys]
        assert [r.key for r in read_rows(narrow, Note, (), wanted)] == expected
        found = list(read_rows(narrow, Note, None, wanted, rows))
        assert [r.key for r in found] == [key for key in everything[start:stop] if key in keys]
        assert all(r.images["image"] == r.key.encode() * 3 and r.record.text == f"text of {r.key}" for r in found)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    """The same rows in four files of several row groups each."""
    folder = tmp_path_factory.mktemp("narrow") / "d"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "GROUP_BYTES", 200)
        for index in range(4):
            seal(folder, Shard(index, 4))
    return join(folder)


def test_row_groups_outside_are_not_read(narrow: DatasetRef, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = chunks.pq.ParquetFile.read_row_group

    def counted(self, group: int, *arguments, **options):
        read.append(group)
        return original(self, group, *arguments, **options)

    monkeypatch.setattr(chunks.pq.ParquetFile, "read_row_group", counted)
    assert len(list(read_rows(narrow, Note))) == 40
    groups = len(read)
    assert groups > 8
    read.clear()
    list(read_rows(narrow, Note, rows=range(20, 22)))
    assert len(read) == 1
    read.clear()
    list(read_rows(narrow, Note, wanted={"010a"}))
    assert len(read) == 2  # its keys, then its rows
    read.clear()
    list(read_rows(narrow, Note, wanted={"zzz"}))
    assert read == []
    with pytest.raises(ValueError, match="expected a range of step 1"):
        list(read_rows(narrow, Note, rows=range(0, 10, 2)))


def test_notes_of_many_batches_stay_on_disk(tmp_path: Path) -> None:
    one = writer(tmp_path / "d", Shard(0, 1))
    one.write("a", [], {"text": "x" * 1000})
    one.seal()
    known = parts.sealed(tmp_path / "d", "notes", Shard(0, 1))
    assert not hasattr(known, "notes") and known.read().notes == {"a": {"text": "x" * 1000}}
    assert os.path.getsize(tmp_path / "d" / "parts" / "00000-of-00001.json") > 1000
