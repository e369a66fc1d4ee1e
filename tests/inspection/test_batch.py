"""Many images through the command: order, resume, equal files, nothing outside the named folders, flat memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent import cli
from artiagent.config import EvaluationSection
from artiagent.inspection import batch
from artiagent.inspection.batch import in_order, inspect_many
from artiagent.inspection.findings import Asking
from artiagent.inspection.gallery import annotated_name
from artiagent.inspection.pictures import open_pictures
from artiagent.records import CheckpointRef

MODEL = CheckpointRef(name="told", uri="", sha256="ab")
ASKING = Asking(EvaluationSection(batch_size=4))
SHORT = (
    "--set",
    "evaluation.max_new_tokens=4",
    "--set",
    "evaluation.max_box_tokens=4",
    "--set",
    "evaluation.threads=1",
)


@pytest.fixture
def photos(tmp_path: Path, picture) -> Path:
    """Ten images, every other one flagged by `Told`, and four files that are none."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(10):
        (folder / f"{'sub/' if number % 3 else ''}{number}.png").write_bytes(picture(number, 255 * (number % 2)))
    (folder / "broken.png").write_bytes(picture(1)[:200])
    (folder / "foreign.jpg").write_text("hello")
    (folder / "empty.webp").write_bytes(b"")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    return folder


@pytest.fixture
def asked(told, monkeypatch):
    """The `Told` that every inspection asks instead of a model folder."""
    vlm = told()
    monkeypatch.setattr(batch, "open_asker", lambda model, section, served: vlm)
    return vlm


def test_results_are_sorted_and_every_file_has_a_row(photos: Path, tmp_path: Path, asked) -> None:
    pictures = open_pictures(photos)
    rows = list(in_order(inspect_many(pictures, MODEL, ASKING, tmp_path / "o"), pictures.names))
    assert [row.image for row in rows] == sorted(row.image for row in rows) and len(rows) == 14
    assert {row.image for row in rows if row.verdict == "unread"} == {
        "broken.png",
        "foreign.jpg",
        "empty.webp",
        "gone.png",
    }
    assert all(row.reason for row in rows if row.verdict == "unread")
    assert [row.verdict for row in rows if row.image.endswith("1.png")] == ["artifacts"]


def test_rows_of_an_unsorted_table_come_sorted_in_windows(tmp_path: Path, asked, picture, monkeypatch) -> None:
    monkeypatch.setattr(batch, "_SORTED_AT_ONCE", 3)
    names = [f"{(7 * i) % 11:02d}" for i in range(11)]
    pq.write_table(pa.table({"id": names, "image": [picture(i) for i in range(11)]}), tmp_path / "i.parquet")
    pictures = open_pictures(tmp_path / "i.parquet")
    rows = in_order(inspect_many(pictures, MODEL, ASKING, tmp_path / "o"), pictures.names)
    assert [row.image for row in rows] == sorted(names)


def test_a_run_that_broke_goes_on_with_what_is_missing(photos: Path, tmp_path: Path, asked, monkeypatch) -> None:
    whole = inspect_many(open_pictures(photos), MODEL, ASKING, tmp_path / "whole")
    first = sum(asked.asked)
    judge = asked.judge

    def fail(chance: float):
        if len(asked.asked) > 5:
            raise RuntimeError("pulled")
        return judge(chance)

    monkeypatch.setattr(asked, "judge", fail)
    with pytest.raises(RuntimeError, match="pulled"):
        inspect_many(open_pictures(photos), MODEL, ASKING, tmp_path / "again")
    monkeypatch.setattr(asked, "judge", judge)
    before = sum(asked.asked)
    again = inspect_many(open_pictures(photos), MODEL, ASKING, tmp_path / "again")
    assert 0 < sum(asked.asked) - before < first and again.digest == whole.digest
    assert inspect_many(open_pictures(photos), MODEL, ASKING, tmp_path / "again") == again
    assert sum(asked.asked) - before < first


def test_other_images_or_questions_are_not_mixed(photos: Path, tmp_path: Path, asked, picture) -> None:
    inspect_many(open_pictures(photos), MODEL, ASKING, tmp_path / "o")
    with pytest.raises(ValueError, match="made with other settings"):
        inspect_many(open_pictures(photos), MODEL, ASKING._replace(threshold=0.9), tmp_path / "o")
    with pytest.raises(ValueError, match="made with other settings"):
        inspect_many(open_pictures(photos), MODEL.model_copy(update={"sha256": "cd"}), ASKING, tmp_path / "o")
    (photos / "0.png").write_bytes(picture(99))
    with pytest.raises(ValueError, match="images changed since"):
        inspect_many(open_pictures(photos), MODEL, ASKING, tmp_path / "o")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, asked, picture) -> None:
    def peak(count: int) -> int:
        path, data = tmp_path / f"{count}.parquet", [picture(i) for i in range(count)]
        pq.write_table(pa.table({"id": [f"{i:05d}" for i in range(count)], "image": data}), path, row_group_size=16)
        del data
        pictures = open_pictures(path)
        tracemalloc.start()
        inspect_many(pictures, MODEL, ASKING, tmp_path / f"o{count}")
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(8)  # what is imported and cached once
    small, large = peak(40), peak(400)
    assert large - small < 360 * 1000  # of an image: its name and digests, where its pixels are 5,760 bytes


def test_the_command_writes_forms_and_a_page_and_says_what_it_could_not_read(
    photos: Path, tmp_path: Path, asked, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    call = ["inspect", str(photos), "--model", str(model)]
    assert cli.main([*call, "--annotated", "drawn"]) == 3
    said = capsys.readouterr()
    assert "14 images: 5 artifacts, 5 clean, 0 unanswered, 4 unread" in said.out and "4 could not be read" in said.err
    out = tmp_path / "photos-inspected"
    assert pq.read_table(out / "results.parquet").num_rows == 14
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == sorted(
        annotated_name(name) for name in ("sub/1.png", "3.png", "sub/5.png", "sub/7.png", "9.png")
    )
    page = (out / "gallery.html").read_text()
    assert page.count("<figure>") == page.count("data:image/jpeg") == 5 and "a, b &#34;c&#34;; ü 犬" in page
    asks = len(asked.asked)
    assert cli.main([*call, "--format", "csv", "--json"]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((out / "summary.json").read_text()) and len(asked.asked) == asks
    assert summary["verdicts"]["artifacts"] == 5 and summary["statuses"]["localization:ok"] == 5
    assert set(summary["unread"]) == {"broken.png", "foreign.jpg", "empty.webp", "gone.png"}
    assert cli.main([*call, "--annotated", str(photos / "drawn")]) == 2
    assert "lies inside" in capsys.readouterr().err


def test_two_runs_give_equal_files(photos: Path, tmp_path: Path, asked, capsys) -> None:
    made = {}
    for name in ("one", "two"):
        for form in ("parquet", "csv", "json", "coco"):
            (tmp_path / "m").mkdir(exist_ok=True)
            cli.main(
                [
                    "inspect",
                    str(photos),
                    "--model",
                    str(tmp_path / "m"),
                    "--out",
                    str(tmp_path / name),
                    "--format",
                    form,
                ]
            )
        made[name] = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.is_file()}
    assert made["one"] == made["two"] and len(made["one"]) == 6


def test_no_name_in_a_table_leads_out_of_the_folder(tmp_path: Path, asked, picture, capsys) -> None:
    names = [
        "../../up.png",
        "/etc/abs.png",
        "C:\\win.png",
        "a\x00b",
        "..",
        "x" * 300,
        "ok/../../z.png",
        ".hidden",
        "~/h",
    ]
    (tmp_path / "in").mkdir()
    table = tmp_path / "in" / "i.parquet"
    pq.write_table(pa.table({"file_name": names, "image": [picture(i) for i in range(len(names))]}), table)
    before = {p for p in tmp_path.rglob("*")}
    (tmp_path / "m").mkdir()
    drawn = tmp_path / "deep" / "er" / "drawn"
    call = ["inspect", str(table), "--model", str(tmp_path / "m"), "--out", str(tmp_path / "o")]
    assert cli.main([*call, "--annotated", str(drawn)]) == 0
    assert len(list(drawn.iterdir())) == len(names) and not any(p.is_dir() for p in drawn.iterdir())
    new = {p for p in tmp_path.rglob("*")} - before
    assert all(
        p.is_relative_to(tmp_path / "o") or p.is_relative_to(tmp_path / "deep") or p == tmp_path / "m" for p in new
    )
    assert not Path("/etc/abs.png").exists()


def test_a_killed_run_resumes(tiny_vlm: CheckpointRef, tmp_path: Path, picture, capfd) -> None:
    """The real command on a real model, killed without warning after its first batches."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(24):
        (folder / f"{number:02d}.png").write_bytes(picture(number))
    call = ["inspect", str(folder), "--model", tiny_vlm.uri, *SHORT, "--set", "evaluation.batch_size=2"]
    call += ["--set", "evaluation.device=cpu"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", "artiagent.cli", *call, "--out", str(killed)], stderr=subprocess.DEVNULL
    )
    chunks = killed / "answers" / "chunks"
    while process.poll() is None and len(list(chunks.glob("*.parquet"))) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {p.name for p in chunks.glob("*.parquet")}
    assert kept and not (killed / "results.parquet").exists()
    assert cli.main([*call, "--out", str(killed)]) == cli.main([*call, "--out", str(whole)]) == 0
    assert (killed / "results.parquet").read_bytes() == (whole / "results.parquet").read_bytes()
