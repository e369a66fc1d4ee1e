"""Numeric matrices of MATLAB 5 files.

Written out because scipy's reader trusts its input: one changed byte ends the process. Structures, text, sparse and
complex matrices are passed over.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_HEADER, _TEXT = 128, b"MATLAB 5.0 MAT-file"
_MATRIX, _COMPRESSED, _INT8, _INT32, _UINT32 = 14, 15, 1, 5, 6
_NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_NUMERIC_CLASSES = range(6, 16)  # double, single, integers of 8 to 64 bits
_COMPLEX = 0x0800


def read_matrices(data: bytes, most: int = 2**22) -> dict[str, np.ndarray]:
    """Real numeric matrices by name, float64.

    Args:
        data: the file.
        most: bytes that a compressed variable may have.

    Raises ValueError for another format or damaged contents.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:_HEADER])
    if not data.startswith(_TEXT) or order is None:
        raise ValueError(f"expected a MATLAB 5 file, got {len(data)} bytes starting with {data[:12]!r}")
    found = {}
    for kind, content in _variables(data[_HEADER:], order, most):
        if kind == _MATRIX and (matrix := _matrix(content, order)):
            found[matrix[0]] = matrix[1]
    return found


def _variables(data: bytes, order: str, most: int) -> Iterator[tuple[int, bytes]]:
    for kind, content in _elements(data, order):
        if kind == _COMPRESSED:
            yield from _elements(_inflated(content, most), order)
        else:
            yield kind, content


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of the elements in a row."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("damaged: ends within the head of an element")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # at most four bytes, packed into the head
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                raise ValueError("damaged: a packed element of more than four bytes")
        if size > len(data) - start:
            raise ValueError(f"damaged: an element of {size} bytes, {len(data) - start} are left")
        yield kind, data[start : start + size]
        at = at + 8 if start == at + 4 else start + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _inflated(content: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(content, most)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from error
    if not stream.eof:
        raise ValueError(f"damaged, or a variable of more than {most} bytes")
    return data


def _matrix(content: bytes, order: str) -> tuple[str, np.ndarray] | None:
    elements = list(_elements(content, order))
    if [kind for kind, _ in elements[:3]] != [_UINT32, _INT32, _INT8] or len(elements[0][1]) != 8:
        raise ValueError("damaged: a variable without class, size and name")
    (flags, _), size = struct.unpack(f"{order}II", elements[0][1]), _numbers(*elements[1], order)
    if flags & 0xFF not in _NUMERIC_CLASSES or flags & _COMPLEX:
        return None
    if len(elements) != 4:
        raise ValueError("damaged: a matrix without numbers")
    numbers, shape = _numbers(*elements[3], order), tuple(int(side) for side in size)
    if min(shape, default=-1) < 0 or np.prod(shape, dtype=object) != len(numbers):
        raise ValueError(f"damaged: {len(numbers)} numbers for a matrix of {shape}")
    return elements[2][1].decode("latin-1"), numbers.astype(np.float64).reshape(shape, order="F")


def _numbers(kind: int, content: bytes, order: str) -> np.ndarray:
    if kind not in _NUMBERS:
        raise ValueError(f"damaged: numbers of unknown type {kind}")
    return np.frombuffer(content, np.dtype(_NUMBERS[kind]).newbyteorder(order))
