from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import InputSet
from artiagent.perception.sources import (
    SourceError,
    image_names,
    input_digest,
    iter_images,
    locate_annotations,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "deep").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "deep/c.webp", "notes.txt"):
        (root / name).write_bytes(name.encode())
    return root


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., InputSet]:
    def make(**columns: list | pa.Array) -> InputSet:
        path = tmp_path / "images.parquet"
        pq.write_table(pa.table(columns), path)
        return InputSet(name="set", images=str(path))

    return make


def contents(source: InputSet) -> list[tuple[str, bytes]]:
    return [(image.name, image.read()) for image in iter_images(source)]


def test_folder_is_read_recursively_in_sorted_order(folder: Path) -> None:
    source = InputSet(name="set", images=str(folder))
    assert contents(source) == [("a.jpg", b"a.jpg"), ("b.PNG", b"b.PNG"), ("deep/c.webp", b"deep/c.webp")]
    assert image_names(source.model_copy(update={"limit": 2})) == ("a.jpg", "b.PNG")


def test_parquet_streams_rows_in_order(parquet: Callable) -> None:
    expected = [(f"{k}.png", bytes([k])) for k in range(40)]
    source = parquet(file_name=[n for n, _ in expected], image=[d for _, d in expected])
    assert contents(source) == expected
    assert contents(source.model_copy(update={"limit": 17})) == expected[:17]


def test_missing_bytes_are_an_empty_file(parquet: Callable) -> None:
    assert contents(parquet(file_name=["a"], image=pa.array([None], pa.binary()))) == [("a", b"")]


def test_unreadable_file_fails_when_it_is_read(folder: Path) -> None:
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").symlink_to(folder / "gone.jpg")
    first = next(iter_images(InputSet(name="set", images=str(folder))))
    with pytest.raises(FileNotFoundError):
        first.read()


def test_relative_places_count_from_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert len(image_names(InputSet(name="set", images="images"))) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file_name": ["a"]}, r"expected columns file_name \(string\) and image"),
        ({"file_name": ["a"], "image": ["text"]}, r"got {'file_name': 'string', 'image': 'string'}"),
        ({"file_name": ["a", "a"], "image": [b"1", b"2"]}, "file_name 'a' is repeated"),
        ({"file_name": pa.array([], pa.string()), "image": pa.array([], pa.binary())}, "no rows in"),
    ],
)
def test_unusable_parquet_is_refused(parquet: Callable, columns: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        image_names(parquet(**columns))


def test_unusable_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.parquet").write_text("no parquet")
    (tmp_path / "empty").mkdir()
    for place, message in (("photo.parquet", "not a Parquet"), ("empty", "no image files"), ("gone", "no such file")):
        with pytest.raises(SourceError, match=f"input set 'mine': .*{message}"):
            image_names(InputSet(name="mine", images=str(tmp_path / place)))
    with pytest.raises(SourceError, match="no annotations given"):
        locate_annotations(InputSet(name="mine", images="x"))
    with pytest.raises(SourceError, match="no such annotation file"):
        locate_annotations(InputSet(name="mine", images="x", annotations=str(tmp_path / "gone.json")))


def test_digest_sees_names_bytes_and_annotations_but_not_places(folder: Path, tmp_path: Path) -> None:
    notes = tmp_path / "coco.json"
    notes.write_text("{}")
    source = InputSet(name="set", images=str(folder), annotations=str(notes))
    digests = [input_digest(source)]
    (folder / "notes.txt").write_text("not an image")
    moved = folder.rename(tmp_path / "moved")
    source = source.model_copy(update={"images": str(moved)})
    assert input_digest(source) == digests[0]

    (moved / "a.jpg").write_bytes(b"other")
    digests.append(input_digest(source))
    (moved / "a.jpg").rename(moved / "a2.jpg")
    digests.append(input_digest(source))
    notes.write_text("{} ")
    digests.append(input_digest(source))
    digests.append(input_digest(source.model_copy(update={"limit": 1})))
    digests.append(input_digest(source.model_copy(update={"scored": False})))
    assert len(set(digests)) == len(digests)
