"""The positions of the constant buffers in a .tflite file, read from its bytes alone.

Only these fields of the format matter (schema.fbs of TensorFlow Lite): Model.buffers is field 4;
Buffer.data is field 0; Buffer.offset and Buffer.size, for files over 2 GB, are 1 and 2. No
generated reader and no TFLite package is needed.
"""

from __future__ import annotations

import struct
from contextlib import suppress

_IDENTIFIER = b"TFL3"
_MODEL_BUFFERS, _BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 4, 0, 1, 2
_OUTSIDE = 2
"""From this offset on a buffer is stored after the tables; 0 and 1 mean inside them."""

Span = tuple[int, int]
"""First byte and the byte after the last."""


def spans(data: bytes, min_bytes: int) -> list[Span]:
    """Return the spans of the buffers of at least `min_bytes`, ascending and without overlap.

    A damaged file, or one that is not a .tflite file, is a single buffer from end to end.
    """
    whole = [(0, len(data))]
    if data[4:8] == _IDENTIFIER:
        with suppress(struct.error, ValueError):
            whole = _buffers(data)
    found: list[Span] = []
    for begin, end in sorted(set(whole)):
        if end - begin >= min_bytes and begin >= (found[-1][1] if found else 0):
            found.append((begin, end))
    return found


def _buffers(data: bytes) -> list[Span]:
    (root,) = struct.unpack_from("<I", data, 0)
    vector = _follow(data, _field(data, root, _MODEL_BUFFERS))
    (count,) = struct.unpack_from("<I", data, vector)
    if count * 4 > len(data):
        raise ValueError("more buffers than fit into the file")
    places = (vector + 4 + 4 * index for index in range(count))
    found = [_buffer(data, _follow(data, place)) for place in places]
    if any(end > len(data) for _, end in found):
        raise ValueError("a buffer ends after the end of the file")
    return found


def _buffer(data: bytes, table: int) -> Span:
    place = _field(data, table, _BUFFER_OFFSET)
    (begin,) = struct.unpack_from("<Q", data, place) if place else (0,)
    if begin >= _OUTSIDE:
        place = _field(data, table, _BUFFER_SIZE)
        (size,) = struct.unpack_from("<Q", data, place) if place else (0,)
        return begin, begin + size
    place = _field(data, table, _BUFFER_DATA)
    if not place:
        return 0, 0
    vector = _follow(data, place)
    (size,) = struct.unpack_from("<I", data, vector)
    return vector + 4, vector + 4 + size


def _follow(data: bytes, place: int) -> int:
    """Return the position that the offset at `place` points to."""
    if not place:
        raise ValueError("no buffers")
    (distance,) = struct.unpack_from("<I", data, place)
    return place + int(distance)


def _field(data: bytes, table: int, index: int) -> int:
    """Return the position of a table's field; 0 if the table does not have it."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    if vtable < 0:
        raise ValueError("a table without a vtable")
    (size,) = struct.unpack_from("<H", data, vtable)
    at = 4 + 2 * index
    if at + 2 > size:
        return 0
    (distance,) = struct.unpack_from("<H", data, vtable + at)
    return table + distance if distance else 0
