from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.perception.sources.matlab import read_matrices

KINDS = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")


def saved(compressed: bool = False, **variables: object) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=compressed)
    return buffer.getvalue()


@given(st.sampled_from(KINDS), st.lists(st.integers(0, 6), min_size=2, max_size=3), st.booleans(), st.integers(0, 99))
def test_reads_what_scipy_writes(kind: str, shape: list[int], compressed: bool, seed: int) -> None:
    values = (np.random.default_rng(seed).random(shape) * 100).astype(kind)
    found = read_matrices(saved(compressed, first=values, a_rather_long_name=values[:1]))
    assert list(found) == ["first", "a_rather_long_name"]
    assert np.array_equal(found["first"], values.astype(float))
    assert np.array_equal(found["a_rather_long_name"], values[:1].astype(float))


def test_the_other_byte_order() -> None:
    flags, size, name = (6, 0), (2, 3), b"box".ljust(8, b"\0")
    numbers = np.arange(6, dtype=">f8").tobytes()
    head = b"".join(np.array(v, ">u4").tobytes() for v in ((6, 8), flags, (5, 8), size, (1, 3)))
    matrix = head + name + np.array((9, len(numbers)), ">u4").tobytes() + numbers
    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI" + np.array((14, len(matrix)), ">u4").tobytes() + matrix
    assert read_matrices(data)["box"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert scipy.io.loadmat(io.BytesIO(data))["box"].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_other_variables_are_passed_over() -> None:
    data = saved(text="hello", complex=np.array([[1j]]), struct={"a": 1}, cell=np.array([1, "x"], dtype=object), n=5)
    assert {name: value.tolist() for name, value in read_matrices(data).items()} == {"n": [[5.0]]}


@pytest.mark.parametrize("data", [b"", b"MATLAB 7.3 MAT-file".ljust(200), b"MATLAB 5.0 MAT-file", b"\0" * 500])
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected a MATLAB 5 file, got"):
        read_matrices(data)


def test_compressed_bombs_are_not_inflated() -> None:
    data = saved(True, zeros=np.zeros((2**10, 2**13)))
    assert len(data) < 2**17
    with pytest.raises(ValueError, match="more than 4194304 bytes"):
        read_matrices(data)


@settings(max_examples=400)
@given(seed=st.integers(0, 2**30), hits=st.integers(0, 12), compressed=st.booleans(), cut=st.booleans())
def test_damage_is_an_error_and_nothing_else(seed: int, hits: int, compressed: bool, cut: bool) -> None:
    data = bytearray(saved(compressed, box_coord=np.ones((1, 4)), obj_contour=np.ones((2, 9))))
    rng = np.random.default_rng(seed)
    for position in rng.integers(120, len(data), hits):
        data[position] = rng.integers(256)
    try:
        read_matrices(bytes(data[: rng.integers(0, len(data))] if cut else data))
    except ValueError as error:
        assert str(error)
