"""TFRecord files of ``tf.train.Example`` messages, read without TensorFlow.

A record is: length (8 bytes, little endian), check sum of the length, data, check sum of the data; the check sum is
CRC-32C, rotated and offset. An Example is a protobuf map from names to lists of bytes, floats or integers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

LONGEST = 2**28  # bytes of a record; a length beyond it is damage


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli)."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    """The check sum as TFRecord stores it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(file: Path) -> Iterator[bytes]:
    """Payloads one after the other. Raises ValueError naming file and record for truncation and damage."""
    with file.open("rb") as stream:
        for index in range(2**63):
            if not (head := stream.read(12)):
                return
            if head.startswith(b"version http"):
                raise ValueError(f"{file}: a Git LFS pointer, not the data; run 'git lfs pull' where it came from")
            if len(head) < 12:
                raise ValueError(f"{file}: truncated in record {index}; fetch it again")
            length, check = struct.unpack("<QI", head)
            if masked_crc(head[:8]) != check or length > LONGEST:
                raise ValueError(f"{file}: record {index} has a wrong check sum; not a TFRecord file, or damaged")
            data, tail = stream.read(length), stream.read(4)
            if len(data) < length or len(tail) < 4:
                raise ValueError(f"{file}: truncated in record {index}; fetch it again")
            if masked_crc(data) != struct.unpack("<I", tail)[0]:
                raise ValueError(f"{file}: record {index} has a wrong check sum; damaged, fetch it again")
            yield data


def parse_example(data: bytes) -> dict[str, list[bytes] | list[float]]:
    """Name -> values of an Example; integer features are left out. Raises ValueError for what is no Example."""
    features: dict[str, list[bytes] | list[float]] = {}
    try:
        for field, example in _fields(data):
            for number, entry in _fields(_message(example)) if field == 1 else ():
                if number == 1:
                    pair = dict(_fields(_message(entry)))
                    for kind, values in _fields(_message(pair.get(2, b""))):
                        if kind in (1, 2):
                            features[_message(pair[1]).decode()] = _values(kind, _message(values))
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"no tf.train.Example ({error!r})") from error
    return features


def _values(kind: int, data: bytes) -> list[bytes] | list[float]:
    """Of a BytesList (1) or FloatList (2); floats come packed or one by one."""
    if kind == 1:
        return [_message(value) for number, value in _fields(data) if number == 1]
    packed = b"".join(_message(value) for number, value in _fields(data) if number == 1)
    return [value for (value,) in struct.iter_unpack("<f", packed)]


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of a message's fields; fixed-size values as their bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        else:
            length = {1: 8, 5: 4}[wire]
        if position + length > len(data):
            raise IndexError("a field reaches beyond its message")
        yield tag >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """(value, position behind it)."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _message(value: bytes | int) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"a number where bytes were expected: {value}")
    return value
