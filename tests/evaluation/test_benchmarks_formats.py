"""Polygons, TFRecord and heat maps against independent implementations and definitions."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation
from skimage.draw import polygon2mask

from artiagent.evaluation.benchmarks.polygons import polygons_mask
from artiagent.evaluation.benchmarks.tfrecord import crc32c, parse_example, read_records
from artiagent.evaluation.heat import heat_mask, read_heat, resize_nearest
from tests.evaluation.layouts import encoded, example, tfrecord

WIDTH, HEIGHT = 50, 40
ring = st.lists(st.tuples(st.floats(-10, 60), st.floats(-10, 50)), min_size=3, max_size=9)


def even_odd(points: np.ndarray) -> np.ndarray:
    """Whether the centre of each pixel lies inside a ring: an odd number of edges is crossed on the way right."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, 1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def near_edges(points: np.ndarray) -> np.ndarray:
    """Pixels through which, or beside which, an edge passes: where rasters may differ."""
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, 1, axis=0), strict=True):
        steps = np.linspace(0, 1, 4 * int(abs(x1 - x0) + abs(y1 - y0) + 2))
        columns, rows = (np.floor(a + (b - a) * steps).astype(int) for a, b in ((x0, x1), (y0, y1)))
        kept = (columns >= 0) & (columns < WIDTH) & (rows >= 0) & (rows < HEIGHT)
        drawn[rows[kept], columns[kept]] = True
        # an edge just outside the image still decides about the pixels at its border
        drawn[rows.clip(0, HEIGHT - 1)[~kept], columns.clip(0, WIDTH - 1)[~kept]] = True
    return binary_dilation(drawn, np.ones((3, 3), bool))


@settings(max_examples=60, deadline=None)
@given(st.lists(ring, min_size=1, max_size=4))
def test_polygons_agree_with_other_rasters_but_for_the_boundary(rings: list[list[tuple[float, float]]]) -> None:
    mask, _ = polygons_mask([[v for point in points for v in point] for points in rings], WIDTH, HEIGHT, "x")
    found = np.zeros((HEIGHT, WIDTH), bool) if mask is None else mask.decode()
    arrays = [np.array(points) for points in rings]
    unsure = np.logical_or.reduce([near_edges(points) for points in arrays])
    defined = np.logical_or.reduce([even_odd(points) for points in arrays])
    assert not ((found != defined) & ~unsure).any()
    drawn = np.logical_or.reduce([polygon2mask((HEIGHT, WIDTH), points[:, ::-1]) for points in arrays])
    assert not ((found != drawn) & ~unsure).any()


def test_rings_in_each_other_and_apart_agree_with_pillow_and_coco() -> None:
    rings = [[5, 5, 30, 5, 30, 30, 5, 30], [10, 10, 20, 10, 20, 20, 10, 20], [35.5, 10, 45, 20, 35.5, 30.2]]
    mask, remarks = polygons_mask(rings, WIDTH, HEIGHT, "x")
    canvas = Image.new("1", (WIDTH, HEIGHT))
    for points in rings:
        ImageDraw.Draw(canvas).polygon(points, fill=1)
    unsure = np.logical_or.reduce([near_edges(np.reshape(points, (-1, 2))) for points in rings])
    assert not ((mask.decode() != np.asarray(canvas)) & ~unsure).any() and not remarks
    united = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, HEIGHT, WIDTH)))
    assert (mask.decode() == united).all() and mask.decode()[15, 15]
    points = [np.reshape(points, (-1, 2)).tolist() for points in rings]
    assert polygons_mask(points, WIDTH, HEIGHT, "x")[0] == mask


def test_a_ring_that_crosses_itself_is_filled_by_the_even_odd_rule() -> None:
    """A five-pointed star drawn in one stroke has an empty middle; a keyhole ring is a hole."""
    angles = np.pi / 2 + np.arange(5) * 4 * np.pi / 5
    star = np.stack([25 + 18 * np.cos(angles), 20 - 18 * np.sin(angles)], axis=1)
    mask, _ = polygons_mask([star.ravel().tolist()], WIDTH, HEIGHT, "x")
    assert not mask.decode()[20, 25] and mask.decode()[6, 25]
    keyhole = [5, 5, 35, 5, 35, 35, 5, 35, 5, 5, 15, 15, 25, 15, 25, 25, 15, 25, 15, 15]
    mask, _ = polygons_mask([keyhole], WIDTH, HEIGHT, "x")
    assert not mask.decode()[20, 20] and mask.decode()[10, 20]


def test_four_numbers_are_no_box() -> None:
    """COCO's library takes a polygon of two points for x, y, width, height."""
    assert polygons_mask([[5, 5, 20, 20]], WIDTH, HEIGHT, "x") == (None, {"degenerate_polygons": 1})


def test_check_sum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"") == 0


values = st.one_of(st.binary(max_size=300), st.lists(st.floats(width=32, allow_nan=False), max_size=9), st.integers(0))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=12), values.filter(lambda v: not isinstance(v, int) or v < 2**63), max_size=5))
def test_examples_read_back_what_protobuf_wrote(features: dict[str, bytes | int | list[float]]) -> None:
    expected = {
        name: [value] if isinstance(value, bytes) else value
        for name, value in features.items()
        if not isinstance(value, int)
    }
    found = parse_example(example(features))
    assert {name: list(value) for name, value in found.items()} == expected


def test_floats_may_come_one_by_one() -> None:
    loose = b"".join(b"\x0d" + struct.pack("<f", value) for value in (0.5, -2.0))
    feature = b"\x12" + bytes([len(loose)]) + loose
    entry = b"\x0a\x01a\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    assert parse_example(b"\x0a" + bytes([len(features)]) + features) == {"a": [0.5, -2.0]}


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60))
def test_anything_else_is_a_named_error(data: bytes) -> None:
    try:
        parse_example(data)
    except ValueError as error:
        assert "no tf.train.Example" in str(error)


def test_every_damage_to_a_record_is_found(tmp_path: Path) -> None:
    file = tmp_path / "test.tfrecord"
    whole = tfrecord([b"first record", b"", b"third"])
    file.write_bytes(whole)
    assert list(read_records(file)) == [b"first record", b"", b"third"]
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"test.tfrecord: record \d has a wrong check sum"):
            list(read_records(file))
    ends = {0, 28, 44, len(whole)}
    for kept in set(range(len(whole) + 1)) - ends:
        file.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"truncated in record \d"):
            list(read_records(file))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=12, max_size=12), st.integers(1, 254))
def test_depths_with_the_same_values_have_the_same_mask(numbers: list[int], level: int) -> None:
    """Also where a value meets the threshold exactly: .2 is 51/255, 13107/65535 and a float."""
    heat = np.array(numbers, np.uint8).reshape(3, 4)
    threshold = level / 255
    float32 = (heat / 255).astype(np.float32)
    sixteen = heat.astype(np.uint16) * 257
    expected = heat >= level
    for data in (
        encoded(heat), encoded(heat, "TIFF"), encoded(sixteen), encoded(sixteen, "TIFF"), encoded(sixteen, "NPY"),
        encoded(float32, "TIFF"), encoded(float32, "NPY"), encoded(heat / 255, "NPY"),
    ):  # fmt: skip
        assert (heat_mask(read_heat(data, "x"), threshold) == expected).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30))
def test_nearest_neighbour_is_pillows_and_commutes_with_the_threshold(h: int, w: int, height: int, width: int) -> None:
    heat = np.random.default_rng(h * 10 + w).random((h, w)).astype(np.float32)
    found = resize_nearest(heat, height, width)
    # where a centre falls on an edge between two pixels both are nearest, and Pillow goes by rounding errors
    clear = [(2 * np.arange(new) + 1) * old % (2 * new) > 0 for new, old in ((height, h), (width, w))]
    theirs = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.NEAREST))
    assert (found == theirs)[np.ix_(*clear)].all()
    assert (heat_mask(found, 0.5) == resize_nearest(heat_mask(heat, 0.5), height, width)).all()
