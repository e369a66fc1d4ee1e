"""A person's images: exit codes, what is written and what is not, resume, odd files."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from artiagent.cli import main
from artiagent.images import decode, encode
from artiagent.inspection.pictures import open_pictures
from artiagent.mitigation.correction import files, panel
from artiagent.mitigation.correction.loop import Interrupted
from artiagent.records import Box
from tests.mitigation.correction_cast import GREEN, RED, SECTION, ColourVerdict, Painter, cast, faulty_picture, red

FAULT = Box(8, 8, 24, 24)
FAULTY, CLEAN = faulty_picture(FAULT).pixels, faulty_picture().pixels


@pytest.fixture
def fix(tmp_path, monkeypatch):
    """``artiagent fix`` in a folder of its own, with a cast in place of the models."""
    models = {}
    for name in ("vlm", "reward", "inpainter"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "x").write_text(name)
        models[name] = str(tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("artiagent.cli.AREAS", ("mitigation.correction",))

    def run(*arguments: str, painter: Painter | None = None, verdict: ColourVerdict | None = None) -> int:
        members = cast(painter, verdict=verdict)
        monkeypatch.setattr(panel, "open_panel", lambda section, evaluation, models: members)
        given = ("--model", models["vlm"], "--reward", models["reward"], "--inpainter", models["inpainter"])
        return main(["fix", *arguments, *given, "--set", "correction.size=64"])

    return run


def test_exit_codes_say_what_happened(fix, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(encode(FAULTY))
    (tmp_path / "good.png").write_bytes(encode(CLEAN))
    assert fix("bad.png") == 0 and "corrected in 1 round" in capsys.readouterr().out
    assert fix("good.png") == 1 and "nothing to correct" in capsys.readouterr().out
    assert fix("bad.png", "--out", "kept.png", painter=Painter(lambda seed: RED)) == 4
    assert "unchanged: none of" in capsys.readouterr().out
    assert fix("nowhere.png") == 2
    fixed = decode((tmp_path / "bad-fixed.png").read_bytes())
    assert not red(fixed).any()
    np.testing.assert_array_equal(decode((tmp_path / "good-fixed.png").read_bytes()), CLEAN)
    np.testing.assert_array_equal(decode((tmp_path / "kept.png").read_bytes()), FAULTY)
    log = json.loads((tmp_path / "bad-fixed.json").read_text())
    assert log["outcome"] == "corrected" and log["rounds"][0]["candidates"][0]["seed"] >= 0
    before_after = decode((tmp_path / "bad-fixed-strip.png").read_bytes())
    assert before_after.shape[1] > 2 * FAULTY.shape[1]


def test_the_input_is_replaced_only_when_asked(fix, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(encode(FAULTY))
    assert fix("bad.png", "--out", "bad.png") == 2 and fix("bad.png", "--out", "bad.jpg") == 2
    np.testing.assert_array_equal(decode(path.read_bytes()), FAULTY)
    assert fix("bad.png", "--overwrite") == 0
    assert not red(decode(path.read_bytes())).any()


def test_json_and_rounds(fix, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(encode(FAULTY))
    assert fix("bad.png", "--json", "--rounds", "2", painter=Painter(lambda seed: RED)) == 4
    assert len(json.loads(capsys.readouterr().out)["rounds"]) == 2
    assert fix("bad.png", "--rounds", "0") == 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_are_corrected_as_rgb(fix, tmp_path, mode):
    image = Image.fromarray(FAULTY).convert("RGBA" if mode == "RGBA" else "RGB")
    image = image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "odd.png")
    code = fix("odd.png")
    assert code == (1 if mode == "L" else 0)  # grey shows no red
    assert decode((tmp_path / "odd-fixed.png").read_bytes()).shape == FAULTY.shape


def test_a_turned_photograph_is_corrected_upright(fix, tmp_path):
    wide = faulty_picture(Box(8, 8, 24, 24), size=(64, 128)).pixels
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    assert fix("turned.jpg", "--out", "turned.png") == 0
    assert decode((tmp_path / "turned.png").read_bytes()).shape == (128, 64, 3)


def folder_of(tmp_path):
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    (photos / "bad.png").write_bytes(encode(FAULTY))
    (photos / "good.png").write_bytes(encode(CLEAN))
    (photos / "sub" / "bad.png").write_bytes(encode(faulty_picture(Box(30, 30, 44, 50)).pixels))
    return photos


def test_a_folder_is_corrected_and_counted(fix, tmp_path, capsys):
    photos = folder_of(tmp_path)
    assert fix("photos", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["outcomes"] == {"corrected": 2, "clean": 1, "kept": 0, "unread": 0}
    assert summary == json.loads((tmp_path / "photos-fixed" / "summary.json").read_text())
    out = tmp_path / "photos-fixed"
    assert all(len(list((out / name).iterdir())) == 2 for name in ("images", "strips", "logs"))
    assert sorted(p.name for p in photos.iterdir()) == ["bad.png", "good.png", "sub"]
    (photos / "broken.png").write_bytes(b"\x89PNG nothing")
    assert fix("photos") == 2  # other images than those of the records
    assert fix("photos", "--out", "again") == 3
    assert "broken.png" in json.loads((tmp_path / "again" / "summary.json").read_text())["unread"]
    assert fix("photos", "--out", "photos/fixed") == 2


def test_a_folder_resumes_where_it_was_stopped(tmp_path):
    pictures = open_pictures(folder_of(tmp_path))
    section = SECTION.model_copy(update={"window": 1})
    calls = []

    def paint(seed):
        calls.append(seed)
        if len(calls) > 10:  # in the third image
            raise KeyboardInterrupt
        return GREEN

    with pytest.raises(Interrupted):
        files.correct_folder(section, cast(Painter(paint)), pictures, tmp_path / "out", "s")
    done = len(list((tmp_path / "out" / "images").iterdir()))
    assert done >= 1
    rest = cast()
    summary = files.correct_folder(section, rest, pictures, tmp_path / "out", "s")
    whole = cast()
    fresh = files.correct_folder(section, whole, pictures, tmp_path / "fresh", "s")
    assert 0 < rest.inpainter.calls < whole.inpainter.calls
    assert summary == fresh and summary["outcomes"]["corrected"] == 2
    again = cast()
    assert files.correct_folder(section, again, pictures, tmp_path / "out", "s") == summary
    assert again.inpainter.calls == 0 and again.verifier.asked == 0


def test_ctrl_c_on_one_image_writes_the_best_so_far(tmp_path):
    calls = []

    def paint(seed):
        calls.append(seed)
        if len(calls) > 4:  # in the second round
            raise KeyboardInterrupt
        return GREEN

    path = tmp_path / "two.png"
    path.write_bytes(encode(faulty_picture(FAULT, Box(40, 40, 56, 56)).pixels))
    section = SECTION.model_copy(update={"sources": ("badness",), "proposals": 1})
    with pytest.raises(KeyboardInterrupt):
        files.correct_file(section, cast(Painter(paint)), path, tmp_path / "out.png")
    kept = decode((tmp_path / "out.png").read_bytes())
    assert 0 < red(kept).sum() < red(decode(path.read_bytes())).sum()
    assert json.loads((tmp_path / "out.json").read_text())["outcome"] == "corrected"


def test_a_file_that_is_no_image_is_one_clear_error(fix, tmp_path, capsys):
    (tmp_path / "text.png").write_text("hello")
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG", compress_level=1)
    (tmp_path / "huge.png").write_bytes(buffer.getvalue())
    for name in ("text.png", "huge.png"):
        assert fix(name) == 2
        assert name in capsys.readouterr().err
    assert not list(tmp_path.glob("*-fixed*"))
    assert fix() == 2 and "--benchmark" in capsys.readouterr().err
