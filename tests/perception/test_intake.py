from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from scipy.ndimage import binary_erosion

from artiagent.config import PerceptionSection
from artiagent.perception.intake import IntakeError, take_in, turn

SECTION = PerceptionSection()


def encoded(image: Image.Image, kind: str = "PNG", orientation: int = 1, **options: object) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_image_of_the_right_size_passes_unchanged() -> None:
    pixels = noise(128, 160)
    assert np.array_equal(take_in(encoded(Image.fromarray(pixels)), "a.png", SECTION).pixels, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_agrees_with_pillow(orientation: int) -> None:
    pixels = noise(128, 160)
    data = encoded(Image.fromarray(pixels), orientation=orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    taken = take_in(data, "a.png", SECTION)
    assert np.array_equal(taken.pixels, expected)
    assert taken.transform.upright == expected.shape[1::-1]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_tiff_is_turned_once(orientation: int) -> None:
    pixels = noise(128, 160)
    taken = take_in(encoded(Image.fromarray(pixels), "TIFF", orientation), "a.tif", SECTION)
    assert np.array_equal(taken.pixels, turn(pixels, orientation))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(33, 400), height=st.integers(33, 400), orientation=st.integers(1, 8),
    patch=st.sampled_from([8, 14, 16]), data=st.data(),
)  # fmt: skip
def test_annotations_follow_the_image(
    width: int, height: int, orientation: int, patch: int, data: st.DataObject
) -> None:
    section = PerceptionSection(patch=patch)
    x0, y0 = data.draw(st.integers(0, width - 12)), data.draw(st.integers(0, height - 12))
    x1, y1 = data.draw(st.integers(x0 + 12, width)), data.draw(st.integers(y0 + 12, height))
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = True
    stored = Image.fromarray(np.where(mask[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2))
    taken = take_in(encoded(stored, orientation=orientation), "a.png", section)
    carried = taken.transform.mask(mask)
    assert carried.shape == taken.pixels.shape[:2] == taken.transform.size[::-1]
    inside = taken.pixels.mean(axis=2)
    assert np.all(inside[binary_erosion(carried, iterations=4)] > 200)
    assert np.all(inside[binary_erosion(~carried, iterations=4)] < 55)
    assert np.array_equal(carried, taken.transform.mask(turn(mask, orientation), upright=True))


@settings(max_examples=100, deadline=None)
@given(width=st.integers(32, 900), height=st.integers(32, 900), patch=st.integers(1, 32), short=st.integers(32, 200))
def test_sides_are_whole_patches_within_the_aspect(width: int, height: int, patch: int, short: int) -> None:
    section = PerceptionSection(patch=patch, short_side=short, min_pixels=1)
    result = take_in(encoded(Image.new("L", (width, height))), "a.png", section).transform.size
    assert all(side % patch == 0 and side > 0 for side in result)
    assert short - patch < min(result) <= short
    assert max(result) <= short * section.max_aspect


def test_long_image_is_cropped_around_its_centre() -> None:
    pixels = np.zeros((128, 512, 3), dtype=np.uint8)
    pixels[:, 128:384] = 200
    taken = take_in(encoded(Image.fromarray(pixels)), "a.png", SECTION)
    assert taken.transform.size == (256, 128)
    assert np.all(taken.pixels == 200)


def test_mask_of_another_size_is_refused() -> None:
    taken = take_in(encoded(Image.new("L", (128, 160))), "a.png", SECTION)
    with pytest.raises(ValueError, match="160x128 px, expected 128x160"):
        taken.transform.mask(np.zeros((128, 160), dtype=bool))


def _palette() -> Image.Image:
    image = Image.new("P", (128, 128), 1)
    image.putpalette([255, 0, 0, 10, 20, 30])
    return image


@pytest.mark.parametrize(
    ("image", "kind", "options", "expected"),
    [
        (Image.new("L", (128, 128), 77), "PNG", {}, (77, 77, 77)),
        (Image.new("1", (128, 128), 1), "PNG", {}, (255, 255, 255)),
        (Image.new("LA", (128, 128), (0, 0)), "PNG", {}, (255, 255, 255)),
        (Image.new("RGBA", (128, 128), (200, 0, 0, 0)), "PNG", {}, (255, 255, 255)),
        (Image.new("RGBA", (128, 128), (200, 0, 0, 255)), "PNG", {}, (200, 0, 0)),
        (Image.new("RGBA", (128, 128), (255, 0, 0, 128)), "WEBP", {"lossless": True}, (255, 127, 127)),
        (Image.new("RGB", (128, 128), (9, 8, 7)), "PNG", {"transparency": (9, 8, 7)}, (255, 255, 255)),
        (Image.new("CMYK", (128, 128), (0, 255, 255, 0)), "TIFF", {}, (255, 0, 0)),
        (Image.new("CMYK", (128, 128), (0, 255, 255, 0)), "JPEG", {"quality": 100}, (254, 0, 0)),
        (_palette(), "PNG", {}, (10, 20, 30)),
        (_palette(), "GIF", {"transparency": 1}, (255, 255, 255)),
        (Image.fromarray(np.full((128, 128), 40000, dtype=np.uint16)), "PNG", {}, (156, 156, 156)),
        (Image.fromarray(np.full((128, 128), 40000, dtype=np.uint16)), "TIFF", {}, (156, 156, 156)),
    ],
)  # fmt: skip
def test_every_mode_becomes_rgb(image: Image.Image, kind: str, options: dict, expected: tuple[int, int, int]) -> None:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    pixels = take_in(buffer.getvalue(), "a", SECTION).pixels
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def png_header(width: int, height: int, data: bytes = b"") -> bytes:
    """A 1-bit grey PNG file that claims a size; ``data`` are the compressed pixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"just some text", r"not a JPEG, PNG.*starts with b'just some te'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not a JPEG"),
        (encoded(Image.fromarray(noise(128, 128)))[:9000], "damaged or truncated"),
        (encoded(Image.fromarray(noise(128, 128)), "JPEG")[:4000], "damaged or truncated"),
        (encoded(Image.new("RGB", (1, 1))), "too small: 1x1 px"),
        (encoded(Image.new("RGB", (4000, 4))), "too small: 4000x4 px = 32 usable"),
        (png_header(20_000, 20_000), "too large: 20000x20000 px = 400000000 pixels, at most 120000000"),
        (png_header(12_000, 12_000), "too large: 12000x12000"),
        (encoded(Image.fromarray(np.full((64, 64), 1e9, dtype=np.float32)), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(np.full((64, 64), 1 << 20, dtype=np.int32)), "TIFF"), "expected 8 or 16 bit"),
    ],
)  # fmt: skip
def test_unusable_files_name_themselves_and_the_reason(data: bytes, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(IntakeError, match=reason) as raised:
            take_in(data, "holiday/photo.jpg", SECTION)
    assert str(raised.value) == f"holiday/photo.jpg: {raised.value.reason}"


def test_size_is_read_from_the_header_and_limits_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Image.MAX_IMAGE_PIXELS
    data = encoded(Image.new("L", (100, 100)))
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image.size))
    with pytest.raises(IntakeError, match="too large"):
        take_in(data, "a.png", PerceptionSection(max_pixels=9_999))
    assert not decoded
    assert before == Image.MAX_IMAGE_PIXELS


def test_buckets_make_few_sizes() -> None:
    section = PerceptionSection(short_side=128, bucket=4)
    sizes = {
        take_in(encoded(Image.fromarray(noise(width, 130))), "a.png", section).pixels.shape[:2]
        for width in range(131, 255, 3)
    }
    assert sizes == {(128, 128), (128, 160), (128, 192), (128, 224)}


def test_short_side_below_a_patch_is_a_configuration_error() -> None:
    with pytest.raises(ValueError, match="below 32 px") as raised:
        take_in(b"", "a.png", PerceptionSection(short_side=16, patch=32))
    assert not isinstance(raised.value, IntakeError)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]), data=st.data())
def test_damaged_bytes_never_escape_as_another_error(kind: str, data: st.DataObject) -> None:
    raw = bytearray(encoded(Image.fromarray(noise(40, 40)), kind, 6) if kind not in ("GIF", "BMP") else _plain(kind))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, min(len(raw) - 1, 400)))] = data.draw(st.integers(0, 255))
    try:
        taken = take_in(bytes(raw), "a", PerceptionSection(max_pixels=1_000_000))
    except IntakeError:
        return
    assert taken.pixels.shape[2] == 3


def _plain(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(buffer, kind)
    return buffer.getvalue()
