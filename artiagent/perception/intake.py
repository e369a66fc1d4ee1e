"""Intake: untrusted bytes -> the RGB image that every later coordinate refers to, and how coordinates get there.

Headers are checked before anything is decoded. Colour profiles are ignored: values are taken as sRGB. Transparent
pixels are laid on white; of animations the first frame counts.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from artiagent.config import PerceptionSection

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # never PostScript and the like, whatever the extension
_EXIF_ORIENTATION = 0x0112
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class IntakeError(ValueError):
    """An image that cannot be used; ``str()`` names the file and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


@dataclass(frozen=True)
class Transform:
    """Stored pixel array -> image after intake: turn by EXIF, centre-crop, scale, crop to whole patches.

    Sizes are (width, height) in pixels; ``crop`` is (left, top, width, height) on the turned image, ``final`` the same
    on the scaled one.
    """

    stored: tuple[int, int]
    orientation: int  # EXIF, 1 to 8
    crop: tuple[int, int, int, int]
    scaled: tuple[int, int]
    final: tuple[int, int, int, int]

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) once turned by EXIF: what a viewer shows."""
        return self.stored if self.orientation <= 4 else self.stored[::-1]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the result."""
        return self.final[2], self.final[3]

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """Carry uint8 [H, W, 3] from the stored frame to the result."""
        turned = _cut(turn(pixels, self.orientation), self.crop)
        if self.scaled != self.crop[2:]:
            turned = np.asarray(Image.fromarray(turned).resize(self.scaled, Image.Resampling.LANCZOS))
        return np.ascontiguousarray(_cut(turned, self.final))

    def mask(self, mask: np.ndarray, *, upright: bool = False) -> np.ndarray:
        """Carry a bool mask [H, W] to the result; a pixel stays set where at least half of its area was set.

        ``upright``: the mask is already turned by EXIF. Raises ValueError when its size is not that of the frame.
        """
        width, height = self.upright if upright else self.stored
        if mask.shape != (height, width):
            raise ValueError(f"mask of {mask.shape[1]}x{mask.shape[0]} px, expected {width}x{height} px")
        turned = _cut(mask if upright else turn(mask, self.orientation), self.crop)
        if self.scaled != self.crop[2:]:
            levels = Image.fromarray(turned.astype(np.uint8) * 255).resize(self.scaled, Image.Resampling.BOX)
            turned = np.asarray(levels) >= 128
        return np.ascontiguousarray(_cut(turned, self.final))


@dataclass(frozen=True)
class Intake:
    """Result of intake: uint8 [H, W, 3] RGB and the transform that made it."""

    pixels: np.ndarray
    transform: Transform


def take_in(data: bytes, name: str, section: PerceptionSection) -> Intake:
    """Decode one image file and bring it to the size of the backbone.

    The shortest side becomes ``section.short_side`` px, then sides are cropped (centred) to multiples of
    ``section.bucket`` patches; images longer than ``max_aspect`` are centre-cropped first.

    Raises IntakeError for empty, damaged, foreign, too large (refused by the header, never decoded) or too small files.
    """
    if section.short_side < (unit := section.patch * section.bucket):
        raise ValueError(
            f"short_side {section.short_side} px is below {unit} px, of which both sides must be multiples "
            f"({section.bucket} patches of {section.patch} px); raise it"
        )
    if not data:
        raise IntakeError(name, "empty file (0 bytes)")
    with _decoding(name, data):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > section.max_pixels:
        reason = f"too large: {width}x{height} px = {width * height} pixels, at most {section.max_pixels} (max_pixels)"
        raise IntakeError(name, reason)
    with _decoding(name, data):
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)  # of a PNG file this may decode the pixels
    transform = _plan(name, image, orientation, section)
    with _decoding(name, data):
        image.load()
        pixels = np.asarray(_to_rgb(name, image))
    return Intake(transform.image(pixels), transform)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF ``orientation`` (1 to 8) on an array [H, W, ...]: the result is upright."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _plan(name: str, image: Image.Image, orientation: int, section: PerceptionSection) -> Transform:
    if image.format == "TIFF" or orientation not in range(1, 9):  # Pillow turns TIFF files itself while it decodes them
        orientation = 1
    width, height = image.size if orientation <= 4 else image.size[::-1]
    short = min(width, height)
    longest = int(short * section.max_aspect)
    crop = _centred((width, height), (min(width, longest), min(height, longest)))
    usable = crop[2] * crop[3]
    if usable < section.min_pixels:
        size = f"{image.width}x{image.height} px"
        reason = f"too small: {size} = {usable} usable pixels, at least {section.min_pixels} (min_pixels)"
        raise IntakeError(name, reason)
    scaled = tuple(max(section.short_side, round(side * section.short_side / short)) for side in crop[2:])
    unit = section.patch * section.bucket
    whole = tuple(side // unit * unit for side in scaled)
    return Transform(image.size, orientation, crop, scaled, _centred(scaled, whole))


def _centred(outer: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int, int, int]:
    return (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2, inner[0], inner[1]


def _cut(pixels: np.ndarray, crop: tuple[int, int, int, int]) -> np.ndarray:
    left, top, width, height = crop
    return pixels[top : top + height, left : left + width]


def _to_rgb(name: str, image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise IntakeError(name, f"grey levels {levels.min()}..{levels.max()}; expected 8 or 16 bit per channel")
        return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise IntakeError(name, "floating-point pixels have no agreed range; expected 8 or 16 bit per channel")
    if not image.has_transparency_data:
        return image.convert("RGB")
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")


@contextmanager
def _decoding(name: str, data: bytes) -> Iterator[None]:
    """Turn what Pillow raises on foreign or damaged data (its plugins raise nearly anything) into IntakeError.

    Pillow's own size limit is lifted meanwhile: it warns below ours and hides the size; ``take_in`` checks the header.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)  # about damaged metadata: the pixels decide
            yield
    except IntakeError:
        raise
    except Image.UnidentifiedImageError as error:
        raise IntakeError(name, f"not a JPEG, PNG, WebP, BMP, TIFF or GIF image (starts with {data[:12]!r})") from error
    except Exception as error:
        raise IntakeError(name, f"cannot be decoded, damaged or truncated ({error})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
