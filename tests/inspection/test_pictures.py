"""Folders and Parquet files of anything: what is listed, what is read, and what is refused in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from artiagent.inspection.pictures import is_many, open_pictures, read_bytes, to_picture


def read_all(pictures, wanted=None) -> dict[str, bytes | str]:
    return {file.name: read_bytes(file) for file in pictures.read(frozenset(wanted or pictures.names))}


def table(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_a_folder_is_read_recursively_and_by_name(tmp_path: Path, picture) -> None:
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    for name in ("b/2.png", "a.PNG", "b/.hidden/3.png"):
        (tmp_path / name).write_bytes(picture(1))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "outside.png").symlink_to("/etc/hostname")
    pictures = open_pictures(tmp_path)
    found = read_all(pictures)
    assert list(found) == ["a.PNG", "b/2.png", "gone.png"]
    assert found["gone.png"] == "unreadable: No such file or directory"
    assert sorted(pictures.left_out) == ["b/.hidden/3.png", "outside.png"] and pictures.unreadable == 1
    assert list(read_all(pictures, ["b/2.png"])) == ["b/2.png"]


@pytest.mark.parametrize("form", ["file_name", "id", "datasets"])
def test_parquet_files_of_the_usual_forms(tmp_path: Path, picture, form: str) -> None:
    images = [picture(i) for i in range(5)]
    names = ["e.png", "a.png", "../c.png", "b.png", "d.png"]
    if form == "datasets":
        columns = {"image": [{"bytes": i, "path": n} for i, n in zip(images, names, strict=True)], "label": range(5)}
    else:
        columns = {form: names, "image": pa.array(images, pa.large_binary())}
    pictures = open_pictures(table(tmp_path / "i.parquet", **columns))
    assert list(pictures.names) == names
    assert read_all(pictures) == dict(zip(names, images, strict=True))
    assert list(read_all(pictures, ["d.png", "a.png"])) == ["a.png", "d.png"]


def test_a_missing_image_in_a_row_is_an_empty_file(tmp_path: Path, picture) -> None:
    pictures = open_pictures(table(tmp_path / "i.parquet", id=[1, 2], image=[picture(1), None]))
    assert [to_picture(name, data).reason for name, data in read_all(pictures).items()] == ["", "empty file (0 bytes)"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a"], "picture": [b"x"]}, "expected a column image"),
        ({"id": ["a"], "image": ["text"]}, "expected a column image"),
        ({"image": [b"x"]}, "one of names"),
        ({"id": ["a", "a"], "image": [b"x", b"y"]}, "'a' is repeated or empty"),
        ({"id": ["a", None], "image": [b"x", b"y"]}, "'' is repeated or empty"),
        ({"id": pa.array([], pa.string()), "image": pa.array([], pa.binary())}, "holds no images"),
    ],
)
def test_other_tables_are_refused_with_what_was_expected(tmp_path: Path, columns, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_pictures(table(tmp_path / "i.parquet", **columns))


def test_places_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not really")
    for place, message in (("no.parquet", "cannot be read as Parquet"), ("", "holds no images"), ("x", "no such file")):
        with pytest.raises(ValueError, match=message):
            open_pictures(tmp_path / place)
    assert is_many(tmp_path) and is_many(Path("a.PARQUET")) and not is_many(Path("a.png"))


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((12_000, 12_000), np.uint8)).save(tmp_path / "bomb.png", compress_level=1)
    assert "too large: 12000x12000" in to_picture("bomb.png", (tmp_path / "bomb.png").read_bytes()).reason
