"""Both sides of a pair are encoded alike, without metadata."""

import io

import numpy as np
import pytest
from PIL import Image

from artiagent import images

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def test_png_is_lossless_and_bare() -> None:
    data = images.encode(PICTURE)
    assert (images.decode(data) == PICTURE).all()
    assert Image.open(io.BytesIO(data)).info == {}
    assert images.data_uri(data).startswith("data:image/png;base64,")


def test_jpeg_keeps_the_size() -> None:
    data = images.encode(PICTURE, "jpeg")
    assert images.decode(data).shape == PICTURE.shape
    assert images.data_uri(data).startswith("data:image/jpeg;base64,")


def test_other_arrays_and_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        images.encode(PICTURE.astype(float))
    with pytest.raises(ValueError, match="webp"):
        images.encode(PICTURE, "webp")
