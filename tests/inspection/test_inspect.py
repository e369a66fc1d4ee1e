"""One image in, verdict, boxes and an annotated copy out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artiagent import cli
from artiagent.config import EvaluationSection
from artiagent.images import decode
from artiagent.inspection.findings import Asking
from artiagent.inspection.inspect import COLOUR, draw_boxes, inspect_image
from artiagent.inspection.pictures import upright
from artiagent.records import Box, CheckpointRef

ASKING = Asking(EvaluationSection(threads=1, device="cpu", max_new_tokens=6, max_box_tokens=6))


def test_inspection_is_about_the_upright_image(tiny_vlm: CheckpointRef, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(np.full((90, 150), 128, np.uint8)).save(path, exif=exif)
    found = inspect_image(path, tiny_vlm, ASKING, tmp_path / "copy.png")
    assert (found["width"], found["height"]) == (90, 150)
    assert found["verdict"] == ("artifacts" if found["score"] >= 0.5 else "clean")
    assert found["status"]["detection"] == "ok" and found["model_sha256"] == tiny_vlm.sha256
    assert decode((tmp_path / "copy.png").read_bytes()).shape == (150, 90, 3)


def test_the_threshold_decides(tiny_vlm: CheckpointRef, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((90, 150), 128, np.uint8)).save(path)
    verdicts = {
        threshold: inspect_image(path, tiny_vlm, ASKING._replace(threshold=threshold), tmp_path / "o.png")["verdict"]
        for threshold in (0.0, 1.0)
    }
    assert verdicts == {0.0: "artifacts", 1.0: "clean"}


def test_pixels_are_neither_scaled_nor_cropped(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (301, 47, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tall.png")
    assert (upright((tmp_path / "tall.png").read_bytes(), "tall.png") == pixels).all()


def test_boxes_are_outlined_on_a_copy() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    drawn = draw_boxes(pixels, (Box(8, 16, 32, 40),))
    assert not pixels.any()
    assert tuple(drawn[16, 8]) == tuple(drawn[39, 31]) == COLOUR
    assert not drawn[20:36, 12:28].any() and not drawn[:16].any()


def test_missing_and_foreign_files_are_named(tiny_vlm: CheckpointRef, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        inspect_image(tmp_path / "none.png", tiny_vlm, ASKING)
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.jpg"):
        inspect_image(tmp_path / "text.jpg", tiny_vlm, ASKING)


def test_a_strip_that_no_processor_takes_is_refused_in_words(tiny_vlm: CheckpointRef, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 1200), np.uint8)).save(tmp_path / "strip.png")
    with pytest.raises(ValueError, match=r"strip\.png: cannot be shown to the model"):
        inspect_image(tmp_path / "strip.png", tiny_vlm, ASKING)


def test_the_command_prints_what_was_found(tiny_vlm: CheckpointRef, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((90, 150), 128, np.uint8)).save("photo.png")
    arguments = ["inspect", "photo.png", "--model", tiny_vlm.uri, "--set", "evaluation.max_new_tokens=4"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model_sha256"] == tiny_vlm.sha256 and Path(found["annotated"]).is_file()
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{found['verdict']}  (P(artifacts) = {found['score']:.2f}")
    assert "photo-inspected.png" in text


def test_options_of_many_images_are_refused_for_one(tmp_path: Path, capsys) -> None:
    assert cli.main(["inspect", "photo.png", "--format", "csv"]) == 2
    assert "one image has --out and --json" in capsys.readouterr().err
    assert cli.main(["inspect", "photo.png", "--threshold", "1.5"]) == 2
    assert "expected a probability" in capsys.readouterr().err
