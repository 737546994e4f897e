"""Arrays on the wire ({name, dtype, shape, data | blob}) and arrays made of a seed."""

import binascii
import os
import sys
from typing import Any, Dict, List

import digests
from wire import AgentFault

INLINE_BYTES = 500_000
"""More than this in one answer travels as a file in out/, by its sha256."""

_BLOCK_WORDS = 1 << 13


def numpy() -> Any:
    """Return numpy, which the runtime has imported."""
    return sys.modules["numpy"]


def fill(shape: Any, dtype: Any, seed: int) -> Any:
    """Return an array of pseudo-random values for an input of this dtype.

    8- and 16-bit integers over their full range, floats in -1..1, booleans, and wider integers in
    0..99 as the vendor's benchmark tool has it: those are indices and lengths, and a huge one
    fails in the operator that looks it up. splitmix64 (Steele, Lea, Flood 2014) in blocks, because
    numpy.random costs 7 MB in a process whose memory is measured. Raises AgentFault (unsupported).
    """
    np = numpy()
    kind = np.dtype(dtype)
    if kind.kind not in "iufb":
        raise AgentFault("unsupported", "no random values for an input of type {}".format(kind))
    values = np.empty(shape, kind)
    flat = values.reshape(-1)
    for start in range(0, flat.size, _BLOCK_WORDS):
        part = flat[start : start + _BLOCK_WORDS]
        words = _splitmix64(np, seed, start, part.size)
        if kind.kind == "f":
            part[:] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
        elif kind.kind == "b":
            part[:] = words >> np.uint64(63)
        elif kind.itemsize < np.dtype(np.int32).itemsize:
            part[:] = (words >> np.uint64(32)).astype(np.uint32).view(np.int32).astype(kind)
        else:
            part[:] = (words >> np.uint64(32)) % np.uint64(100)
    return values


def _splitmix64(np: Any, seed: int, start: int, count: int) -> Any:
    first = np.uint64((seed * 0x2545F4914F6CDD1D + start + 1) & 0xFFFFFFFFFFFFFFFF)
    words = (np.arange(count, dtype=np.uint64) + first) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def decode(entry: Dict[str, Any], folder: str) -> Any:
    """Return the array of one wire entry; blobs are in `folder` and are checked by digest.

    Raises AgentFault (protocol) for an entry that does not hold together.
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
        raise AgentFault("protocol", "an array does not hold together: {}".format(error)) from error


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
    room = INLINE_BYTES
    entries = []
    for name, array in arrays.items():
        kind = array.dtype.newbyteorder("<")
        data = np.ascontiguousarray(array, kind).tobytes()
        entry = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        if len(data) <= room:
            room -= len(data)
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
    """Write an output file, whole or not at all; returns its sha256."""
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
