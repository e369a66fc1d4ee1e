"""Bad input through the whole perception stage: a clear message, the other images unharmed, nothing half-written."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import artiagent
from artiagent import writer
from artiagent.config import InputSet, PerceptionSection
from artiagent.images import decode
from artiagent.perception.grounding.annotations import AnnotationError
from artiagent.perception.sources import SourceError
from artiagent.perception.stage import PerceptionError, perceive
from artiagent.records import DatasetRef, Scene
from artiagent.store import StoreError, open_dataset, read_rows

SECTION = PerceptionSection()
WIDTH, HEIGHT = 160, 128
DOG = [[40, 32, 120, 32, 120, 96, 40, 96]]
EAR = [[40, 32, 72, 32, 72, 56, 40, 56]]


def picture(seed: int = 0) -> Image.Image:
    """Noise of 160x128 px with a red dog box whose upper left corner is a blue ear."""
    pixels = np.random.default_rng(seed).integers(90, 160, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[32:96, 40:120] = (200, 30, 30)
    pixels[32:56, 40:72] = (30, 30, 200)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def one_bit_png(width: int, height: int) -> bytes:
    """A valid black 1-bit PNG file of any size, made without the pixels in memory."""
    row, packer = b"\0" * (1 + (width + 7) // 8), zlib.compressobj(1)
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class Input:
    """A folder under test. Every file added as an image is annotated with a dog and its ear."""

    def __init__(self, root: Path) -> None:
        self.images, self.annotations, self.out = root / "images", root / "coco.json", root / "out"
        self.images.mkdir()
        self.document: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "ear"}],
            "annotations": [],
        }

    @property
    def source(self) -> InputSet:
        return InputSet(name="mine", images=str(self.images), annotations=str(self.annotations))

    def add(self, name: str, data: bytes | None, dog: list = DOG, ear: list = EAR) -> int:
        """Annotate ``name`` and, unless ``data`` is None, write it. Returns the image id."""
        key = len(self.document["images"])
        if data is not None:
            (self.images / name).write_bytes(data)
        self.document["images"].append({"id": key, "file_name": name})
        for category, shape in ((1, dog), (2, ear)):
            note = {"id": 2 * key + category, "image_id": key, "category_id": category, "segmentation": shape}
            self.document["annotations"].append(note)
        return key

    def perceive(self, out: Path | None = None) -> DatasetRef:
        self.annotations.write_text(json.dumps(self.document))
        return perceive(SECTION, [self.source], out or self.out)

    def scenes(self) -> dict[str, tuple[Scene, np.ndarray]]:
        return {r.record.origin: (r.record, decode(r.images["image"])) for r in read_rows(self.out, Scene)}

    def skipped(self) -> dict[str, str]:
        return json.loads((self.out / "skipped.json").read_text())


@pytest.fixture
def given(tmp_path: Path) -> Input:
    return Input(tmp_path)


UNUSABLE = {
    "truncated.png": (encoded(picture(1))[:20_000], "decode_error: cannot be decoded, damaged or truncated"),
    "empty.jpg": (b"", "decode_error: empty file (0 bytes)"),
    "text.jpg": (b"Dear all, see attached.", "decode_error: not a JPEG, PNG, WebP, BMP, TIFF or GIF image"),
    "dot.png": (encoded(Image.new("RGB", (1, 1))), "decode_error: too small: 1x1 px"),
    "huge.png": (one_bit_png(20_000, 20_000), "decode_error: too large: 20000x20000 px"),
    "missing.png": (None, "missing_file: annotated, but there is no such image"),
}


def test_unusable_files_are_named_and_the_rest_comes_through(given: Input) -> None:
    for name, (data, _) in UNUSABLE.items():
        given.add(name, data)
    given.add("good.png", encoded(picture()))
    ref = given.perceive()
    assert ref.rows == 1
    assert given.scenes().keys() == {"good.png"}
    skipped = given.skipped()
    assert skipped.keys() == {f"mine/{name}" for name in UNUSABLE}
    for name, (_, reason) in UNUSABLE.items():
        assert skipped[f"mine/{name}"].startswith(reason)
    assert (ref.summary["images"], ref.summary["skipped"]) == (1, len(UNUSABLE))


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_set_without_any_usable_image_says_why_and_leaves_nothing(given: Input, name: str) -> None:
    data, reason = UNUSABLE[name]
    given.add(name, data)
    if data is None:
        (given.images / "other.png").write_bytes(encoded(picture()))
    with pytest.raises(PerceptionError) as raised:
        given.perceive()
    assert f"mine/{name}: {reason}" in str(raised.value)
    assert str(given.images) in str(raised.value)
    assert not given.out.exists()


def _sixteen_bit() -> Image.Image:
    return Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)


def _transparent() -> Image.Image:
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(WIDTH) < 20, 0, 255).astype(np.uint8)[None].repeat(HEIGHT, 0)))
    return image


MODES = {
    "grey.png": encoded(picture().convert("L")),
    "rgba.png": encoded(_transparent()),
    "cmyk.jpg": encoded(picture().convert("CMYK"), "JPEG", quality=95),
    "deep.png": encoded(_sixteen_bit()),
    "palette.gif": encoded(picture().convert("P", palette=Image.Palette.ADAPTIVE), "GIF"),
}


def test_every_kind_of_image_becomes_the_same_rgb_scene(given: Input) -> None:
    for name, data in MODES.items():
        given.add(name, data)
    given.perceive()
    scenes = given.scenes()
    assert scenes.keys() == MODES.keys()
    grey = np.asarray(picture().convert("L").convert("RGB")).astype(int)
    for name, (scene, pixels) in scenes.items():
        expected = grey if name in ("grey.png", "deep.png") else np.asarray(picture()).astype(int)
        assert np.abs(pixels[40:50, 44:68] - expected[40:50, 44:68]).max() <= 25
        assert (scene.width, scene.height) == (WIDTH, HEIGHT)
        assert scene.entities[0].box == (40, 32, 120, 96)
        assert scene.entities[0].parts[0].box == (40, 32, 72, 56)
    assert np.all(scenes["rgba.png"][1][:, :20] == 255)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_annotations_follow_an_exif_rotated_image(given: Input, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    given.add("a.jpg", encoded(picture(), "JPEG", quality=95, exif=exif))
    given.perceive()
    scene, pixels = given.scenes()["a.jpg"]
    assert pixels.shape[:2] == (scene.height, scene.width) == ((128, 160) if orientation <= 4 else (160, 128))
    dog, ear = scene.entities[0], scene.entities[0].parts[0]
    blue = ear.mask.decode()
    assert np.median(pixels[blue], axis=0)[2] > 180
    assert np.median(pixels[dog.mask.decode() & ~blue], axis=0)[0] > 180


def test_polygons_outside_the_image(given: Input) -> None:
    given.add("clipped.png", encoded(picture()), dog=[[40, 32, 900, 32, 900, 900, 40, 900]])
    given.add("partly.png", encoded(picture(1)), ear=[*EAR, [500, 500, 600, 500, 600, 600]])
    gone = given.add("gone.png", encoded(picture(2)))
    outside = [[500, 500, 600, 500, 600, 600]]
    given.document["annotations"].append(
        {"id": 999, "image_id": gone, "category_id": 2, "segmentation": outside}
    )  # fmt: skip
    ref = given.perceive()
    scenes = given.scenes()
    assert scenes["clipped.png"][0].entities[0].box == (40, 32, WIDTH, HEIGHT)
    assert scenes["partly.png"][0].entities[0].parts[0].box == (40, 32, 72, 56)
    assert scenes["gone.png"][0].dropped == {"outside": 1}
    assert ref.summary["dropped:outside"] == 1


def test_one_bad_annotation_costs_its_image_alone(given: Input) -> None:
    given.add("bad.png", encoded(picture()), ear=[[1, 2, 3]])
    given.add("good.png", encoded(picture(1)))
    given.perceive()
    assert given.scenes().keys() == {"good.png"}
    assert given.skipped()["mine/bad.png"].startswith("grounding_error: bad.png: annotation 2: a polygon needs")


@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
def test_duplicate_ids_are_refused_before_anything_is_written(given: Input, kind: str) -> None:
    given.add("a.png", encoded(picture()))
    given.document[kind].append(given.document[kind][0])
    key = given.document[kind][0]["id"]
    with pytest.raises(AnnotationError, match=f"coco.json: {kind}: id {key} appears twice"):
        given.perceive()
    assert not given.out.exists()


def test_empty_folder_and_missing_annotations_are_refused(given: Input) -> None:
    with pytest.raises(SourceError, match="no image files .* below .*images; expected at least one"):
        given.perceive()
    given.add("a.png", encoded(picture()))
    bare = given.source.model_copy(update={"annotations": None})
    with pytest.raises(SourceError, match="no annotations given; .*--annotations COCO.json"):
        perceive(SECTION, [bare], given.out)
    given.annotations.unlink()
    with pytest.raises(SourceError, match="coco.json: no such annotation file"):
        perceive(SECTION, [given.source], given.out)
    assert not given.out.exists()


def test_unwritable_output_is_named(given: Input, tmp_path: Path) -> None:
    given.add("a.png", encoded(picture()))
    (tmp_path / "file").write_text("a regular file")
    with pytest.raises(StoreError, match="file/out: cannot create the data set folder"):
        given.perceive(tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "a regular file"


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let every write beyond ``size`` bytes of a file fail, as on a full disk (EFBIG in place of ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def leftovers(folder: Path) -> list[str]:
    """Files that are neither whole chunks nor part of a complete data set."""
    return [path.name for path in folder.rglob("*") if path.is_file() and path.parent.name != "chunks"] + [
        path.name for path in folder.rglob(".*")
    ]


def test_write_that_does_not_fit_leaves_nothing_half_written(given: Input) -> None:
    given.add("a.png", encoded(picture()))
    given.add("flat.png", encoded(Image.new("RGB", (WIDTH, HEIGHT))))
    given.annotations.write_text(json.dumps(given.document))
    with (
        file_size_limit(20_000),
        pytest.raises(StoreError, match="cannot write batch .* nothing half-written was left"),
    ):
        perceive(SECTION, [given.source], given.out)
    assert leftovers(given.out) == []
    assert open_dataset(given.out) is None
    assert given.perceive().rows == 2


def test_full_disk_then_room_resumes_what_was_done(given: Input, small_disk: Path) -> None:
    for seed in range(12):
        given.add(f"{seed:02d}.png", encoded(picture(seed)))
    given.annotations.write_text(json.dumps(given.document))
    expected = perceive(SECTION, [given.source], given.out)
    crowded = small_disk / "out"
    with pytest.raises(StoreError, match="cannot write batch|cannot finish"):
        perceive(SECTION, [given.source], crowded)
    assert leftovers(crowded) == []
    assert open_dataset(crowded) is None
    done = {path.name for path in (crowded / "chunks").iterdir()}
    assert 0 < len(done) < 12
    roomy = given.out.with_name("roomy")
    shutil.copytree(crowded, roomy)
    assert perceive(SECTION, [given.source], roomy).digest == expected.digest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB; skips where the user may not mount one."""
    point = tmp_path / "disk"
    point.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small tmpfs")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(point)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


INTERRUPTED = """
import signal, sys
from pathlib import Path
from artiagent.config import InputSet, PerceptionSection
from artiagent.perception import stage

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
write, left = stage.DatasetWriter.write, [3]

def write_then_interrupt(writer, *batch):
    write(writer, *batch)
    left[0] -= 1
    if not left[0]:
        signal.raise_signal(signal.SIGINT)

stage.DatasetWriter.write = write_then_interrupt
source = InputSet(name="mine", images=sys.argv[1], annotations=sys.argv[2])
stage.perceive(PerceptionSection(), [source], Path(sys.argv[3]))
"""


def test_interrupt_then_resume_repeats_nothing(given: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(6):
        given.add(f"{seed}.png", encoded(picture(seed)))
    expected = given.perceive(given.out.with_name("reference"))
    places = [str(given.images), str(given.annotations), str(given.out)]
    command = [sys.executable, "-c", INTERRUPTED, *places]
    root = Path(artiagent.__file__).parents[1]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert "KeyboardInterrupt" in killed.stderr
    assert leftovers(given.out) == []
    before = {path.name: path.stat().st_ino for path in (given.out / "chunks").iterdir()}
    assert len(before) == 3

    kept: dict[str, int] = {}
    clear = writer.clear

    def look_then_clear(folder: Path, names: set[str]) -> None:
        kept.update({path.name: path.stat().st_ino for path in (folder / "chunks").iterdir()})
        clear(folder, names)

    monkeypatch.setattr(writer, "clear", look_then_clear)
    assert given.perceive().digest == expected.digest
    assert len(kept) == 6
    assert kept.items() >= before.items()
