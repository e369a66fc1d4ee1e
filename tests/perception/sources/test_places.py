from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from artiagent.perception.sources.places import HIDDEN, OUTSIDE, SourceError, find_home, leads_outside, walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("b.JPG", "a.jpeg", "deep/er/c.PnG", "notes.txt", "jpg", ".jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_images_of_any_case_below_in_sorted_order(root: Path) -> None:
    names, left_out = walk(root)
    assert names == ["a.jpeg", "b.JPG", "deep/er/c.PnG"]
    assert left_out == {".jpg": HIDDEN}
    assert walk(root, (".txt",)) == (["notes.txt"], {})
    assert walk(root, skip=("deep",))[0] == ["a.jpeg", "b.JPG"]


def test_hidden_files_and_those_of_macos_are_left_out(root: Path) -> None:
    for name in ("._a.jpeg", ".thumbs/deep/x.jpg", "__MACOSX/._a.jpeg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    names, left_out = walk(root)
    assert names == ["a.jpeg", "b.JPG", "deep/er/c.PnG"]
    assert left_out == dict.fromkeys([".jpg", "._a.jpeg", ".thumbs/deep/x.jpg", "__MACOSX/._a.jpeg"], HIDDEN)


def test_links_out_of_the_set_are_refused_and_those_inside_are_files(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.jpg").write_bytes(b"secret")
    (root / "file.jpg").symlink_to(tmp_path / "secret" / "s.jpg")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "climbing.jpg").symlink_to("deep/../../secret/s.jpg")
    (root / "deep" / "again").symlink_to(root)  # a loop, were it followed
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "inside.jpg").symlink_to("a.jpeg")
    (root / "dangling.jpg").symlink_to("gone.jpg")
    (root / "text-behind.txt").symlink_to(tmp_path / "secret" / "s.jpg")
    names, left_out = walk(root)
    assert {"dangling.jpg", "inside.jpg"} <= set(names)
    assert {n for n, reason in left_out.items() if reason == OUTSIDE} == {"file.jpg", "folder", "climbing.jpg"}
    assert not [name for name in names if name.startswith(("folder", "deep/again", "text"))]


def test_what_is_no_file_and_what_has_no_name_in_text(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")  # opening it would wait for ever
    (root / "to-pipe.jpg").symlink_to("pipe.jpg")
    (root / "folder.jpg").mkdir()
    with open(os.fsencode(root) + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    names, left_out = walk(root)
    assert names == ["a.jpeg", "b.JPG", "deep/er/c.PnG"]
    assert left_out["\\udcff.jpg"] == "bad_entry: its name is not UTF-8"


def test_unreadable_folders_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "er":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert walk(root)[1]["deep/er/"] == "unreadable: Permission denied"
    monkeypatch.undo()
    shutil.rmtree(root)
    with pytest.raises(SourceError, match="cannot be read"):
        walk(root)


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "..\\x.jpg", "C:\\x.jpg", "//host/x.jpg"])
def test_names_that_climb(name: str) -> None:
    assert leads_outside(name)
    assert not leads_outside("train2017/x..y.jpg")


def test_a_home_behind_a_link_is_refused(tmp_path: Path) -> None:
    from artiagent.config import InputSet

    source = InputSet(name="set", images="x")
    (tmp_path / "elsewhere" / "Hands").mkdir(parents=True)
    (tmp_path / "root" / "wrapper" / "Hands").mkdir(parents=True)
    assert find_home(source, tmp_path / "root", "Hands", ("wrapper",), "x") == tmp_path / "root" / "wrapper"
    (tmp_path / "root" / "Hands").symlink_to(tmp_path / "elsewhere" / "Hands")
    with pytest.raises(SourceError, match="links to a place outside"):
        find_home(source, tmp_path / "root", "Hands", ("wrapper",), "x")
