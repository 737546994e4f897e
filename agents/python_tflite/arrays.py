"""Encode and decode arrays ({name, dtype, shape, data | blob}), and make arrays from a seed."""

import binascii
import os
import sys
from typing import Any, Dict, List, Optional

import digests
from wire import AgentFault

INLINE_BYTES = 500_000
"""If the arrays of an answer are larger in total, the rest travels as files in out/, by sha256."""

_BLOCK_ITEMS = 1 << 13


def numpy() -> Any:
    """Return numpy, which the runtime has already imported."""
    return sys.modules["numpy"]


def fill(shape: Any, dtype: Any, seed: int, limit: Optional[int] = None) -> Any:
    """Return an array of pseudo-random values for an input of this dtype.

    With a limit (of an input with indices) they are the integers 0..limit. Else 8- and 16-bit
    integers cover their full range, floats -1..1, and wider integers 0..99, as in the vendor's
    benchmark tool: they may be lengths, and a huge one fails in the operator that uses it. The generator is splitmix64 (Steele, Lea, Flood 2014) in blocks, because
    numpy.random costs 7 MB in a process whose memory is measured. Raises AgentFault (unsupported).
    """
    np = numpy()
    kind = np.dtype(dtype)
    if kind.kind not in "iufb":
        raise AgentFault("unsupported", "no random values for an input of type {}".format(kind))
    values = np.empty(shape, kind)
    flat = values.reshape(-1)
    for start in range(0, flat.size, _BLOCK_ITEMS):
        part = flat[start : start + _BLOCK_ITEMS]
        bits = _splitmix64(np, seed, start, part.size)
        if limit is not None and kind.kind != "b":
            part[:] = (bits >> np.uint64(32)) % np.uint64(limit + 1)
        elif kind.kind == "f":
            part[:] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
        elif kind.kind == "b":
            part[:] = bits >> np.uint64(63)
        elif kind.itemsize < np.dtype(np.int32).itemsize:
            part[:] = (bits >> np.uint64(32)).astype(np.uint32).view(np.int32).astype(kind)
        else:
            part[:] = (bits >> np.uint64(32)) % np.uint64(100)
    return values


def _splitmix64(np: Any, seed: int, start: int, count: int) -> Any:
    first = np.uint64((seed * 0x2545F4914F6CDD1D + start + 1) & 0xFFFFFFFFFFFFFFFF)
    bits = (np.arange(count, dtype=np.uint64) + first) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def decode(entry: Dict[str, Any], folder: str) -> Any:
    """Return the array of one wire entry; blobs are in `folder` and are checked by digest.

    Raises AgentFault (protocol) for an inconsistent entry.
    """
    np = numpy()
    try:
        if "blob" in entry:
            data = _blob(entry["blob"], folder)
        else:
            data = binascii.a2b_base64(entry["data"])
        kind = np.dtype(entry["dtype"]).newbyteorder("<")
        return np.frombuffer(data, kind).reshape([int(size) for size in entry["shape"]])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise AgentFault("protocol", "an array is inconsistent: {}".format(error)) from error


def _blob(digest: Any, folder: str) -> bytes:
    if not digests.is_digest(digest):
        raise ValueError("blob must be a sha256")
    with open(os.path.join(folder, digest), "rb") as file:
        data = file.read()
    found = digests.new()
    found.update(data)
    if found.hexdigest() != digest:
        raise ValueError("blob {} is damaged".format(digest))
    return data


def encode(arrays: Dict[str, Any], folder: str) -> List[Dict[str, Any]]:
    """Return the wire entries of named arrays; large ones are written to `folder`."""
    np = numpy()
    inline_bytes_left = INLINE_BYTES
    entries = []
    for name, array in arrays.items():
        kind = array.dtype.newbyteorder("<")
        data = np.ascontiguousarray(array, kind).tobytes()
        entry = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        if len(data) <= inline_bytes_left:
            inline_bytes_left -= len(data)
            entry["data"] = to_text(data)
        else:
            entry["blob"] = keep(data, folder)
            entry["bytes"] = len(data)
        entries.append(entry)
    return entries


def to_text(data: bytes) -> str:
    """Return base64 without newlines."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def keep(data: bytes, folder: str) -> str:
    """Write an output file atomically; returns its sha256."""
    found = digests.new()
    found.update(data)
    digest = str(found.hexdigest())
    part = os.path.join(folder, ".{}-{}".format(digest, os.getpid()))
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, os.path.join(folder, digest))
    return digest
