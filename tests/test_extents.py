"""Whoever reads a share of a data set opens the files of that share only: the others may lie on another machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artiagent import store
from artiagent.records import DatasetRef, Record
from artiagent.shards import Shard
from artiagent.store import MANIFEST, DatasetWriter, Row, read_rows


class Note(Record):
    text: str


def batches() -> list[tuple[str, list[Row[Note]]]]:
    """Twelve batches of two rows; the third quarter is empty."""
    return [
        (f"{b:02d}", [] if b // 3 == 2 else [Row(f"key-{2 * b + k:02d}", Note(text=str(b))) for k in range(2)])
        for b in range(12)
    ]


@pytest.fixture(params=["joined", "merged"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> DatasetRef:
    if request.param == "merged":
        whole: DatasetWriter[Note] = DatasetWriter(tmp_path, "notes")
        for batch, rows in batches():
            whole.write(batch, rows)
        return whole.finish(shards=4)
    for index in range(4):
        writer: DatasetWriter[Note] = DatasetWriter(tmp_path, "notes", shard=Shard(index, 4))
        for batch, rows in batches()[3 * index : 3 * index + 3]:
            writer.write(batch, rows)
        writer.seal()
    return DatasetWriter[Note](tmp_path, "notes").finish()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    local = store.local
    monkeypatch.setattr(store, "local", lambda folder, name: (names.append(name[6:11]), local(folder, name))[1])
    return names


def test_a_share_of_rows_or_keys_opens_its_files_only(data: DatasetRef, opened: list[str]) -> None:
    everything = list(read_rows(data, Note))
    assert len(everything) == 18 and opened == ["00000", "00001", "00003"]
    opened.clear()
    assert list(read_rows(data, Note, rows=range(8, 11))) == everything[8:11] and opened == ["00001"]
    opened.clear()
    assert list(read_rows(data, Note, rows=range(10, 14))) == everything[10:14] and opened == ["00001", "00003"]
    opened.clear()
    assert [r.key for r in read_rows(data, Note, wanted=["key-01", "key-20", "zzz"])] == ["key-01", "key-20"]
    assert opened == ["00000", "00003"]
    opened.clear()
    assert not list(read_rows(data, Note, wanted=[])) and not list(read_rows(data, Note, wanted={"a", "z"}))
    assert not opened


def test_a_data_set_without_extents_is_read_as_well(data: DatasetRef) -> None:
    everything = list(read_rows(data, Note))
    path = Path(data.uri) / MANIFEST
    manifest = json.loads(path.read_text())
    assert manifest.pop("extents").keys() == manifest["files"].keys()
    path.write_text(json.dumps(manifest))
    assert list(read_rows(data, Note)) == everything
    assert list(read_rows(data, Note, rows=range(7, 15), wanted={everything[9].key})) == [everything[9]]
