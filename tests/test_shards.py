"""Work done in shards is joined into the data set that one process would have made, wherever it was cut or killed."""

import json
import os
import shutil
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
