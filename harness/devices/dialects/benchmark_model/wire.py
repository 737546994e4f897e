"""Read Protocol Buffers without a compiled schema: the wire format only.

Source: https://protobuf.dev/programming-guides/encoding/. Everything is bounded, and a message that
is not of this format raises MalformedMessage.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_FIELDS = 1_000_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_INT32 = 1 << 31
_UINT64 = 1 << 64
_INT64 = 1 << 63


class MalformedMessage(ValueError):
    """The bytes are not such a message; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class WireMessage:
    """The fields of one message, by number; each has a list of (wire type, value)."""

    fields: Mapping[int, Sequence[tuple[int, int | bytes]]]

    def number(self, field: int) -> float | None:
        """Return a `float` field; None if it is absent. The last value counts, as in protobuf."""
        raw = self._last(field, _FIXED32)
        if raw is None:
            return None
        assert isinstance(raw, bytes)
        value: float = struct.unpack("<f", raw)[0]
        if not math.isfinite(value):
            raise MalformedMessage(f"field {field} is {value}")
        return value

    def integer(self, field: int) -> int | None:
        """Return an `int32`, `int64` or `enum` field; None if it is absent."""
        raw = self._last(field, _VARINT)
        if raw is None:
            return None
        assert isinstance(raw, int)
        return raw - _UINT64 if raw >= _INT64 else raw

    def text(self, field: int) -> str | None:
        """Return a `string` field; None if it is absent."""
        raw = self._last(field, _BYTES)
        if raw is None:
            return None
        assert isinstance(raw, bytes)
        return raw.decode("utf-8", "replace")

    def message(self, field: int) -> WireMessage | None:
        """Return a field that is a message; None if it is absent."""
        raw = self._last(field, _BYTES)
        if raw is None:
            return None
        assert isinstance(raw, bytes)
        return parse(raw)

    def messages(self, field: int) -> list[WireMessage]:
        """Return a repeated field of messages."""
        found = []
        for kind, raw in self.fields.get(field, ()):
            if kind != _BYTES or not isinstance(raw, bytes):
                raise MalformedMessage(f"field {field} has wire type {kind}, not {_BYTES}")
            found.append(parse(raw))
        return found

    def integers(self, field: int) -> list[int]:
        """Return a repeated `int32` field, packed or not."""
        found: list[int] = []
        for kind, raw in self.fields.get(field, ()):
            if kind == _VARINT and isinstance(raw, int):
                found.append(raw)
            elif kind == _BYTES and isinstance(raw, bytes):
                place = 0
                while place < len(raw):
                    value, place = _varint(raw, place)
                    found.append(value)
            else:
                raise MalformedMessage(f"field {field} has wire type {kind}")
            if len(found) > MAX_FIELDS:
                raise MalformedMessage(f"field {field} has over {MAX_FIELDS} numbers")
        if any(value >= _INT32 for value in found):
            raise MalformedMessage(f"field {field} has a number that is no index")
        return found

    def _last(self, field: int, wanted: int) -> int | bytes | None:
        values = self.fields.get(field)
        if not values:
            return None
        kind, raw = values[-1]
        if kind != wanted:
            raise MalformedMessage(f"field {field} has wire type {kind}, not {wanted}")
        return raw


def parse(data: bytes) -> WireMessage:
    """Split a message into its fields; raises MalformedMessage."""
    fields: dict[int, list[tuple[int, int | bytes]]] = {}
    place, count = 0, 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise MalformedMessage("a field has the number 0")
        value: int | bytes
        if kind == _VARINT:
            value, place = _varint(data, place)
        else:
            if kind == _BYTES:
                size, place = _varint(data, place)
            elif kind in (_FIXED64, _FIXED32):
                size = 8 if kind == _FIXED64 else 4
            else:
                raise MalformedMessage(f"field {number} has the unknown wire type {kind}")
            if size > len(data) - place:
                raise MalformedMessage(f"field {number} ends after the message does")
            value, place = data[place : place + size], place + size
        fields.setdefault(number, []).append((kind, value))
        count += 1
        if count > MAX_FIELDS:
            raise MalformedMessage(f"the message has over {MAX_FIELDS} fields")
    return WireMessage(fields)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for at in range(_MAX_VARINT_BYTES):
        if place + at >= len(data):
            raise MalformedMessage("the message ends within a number")
        byte = data[place + at]
        value |= (byte & 0x7F) << (7 * at)
        if not byte & 0x80:
            return value % _UINT64, place + at + 1
    raise MalformedMessage("a number has over 10 bytes")
