"""Unpack packed files. Python has gzip and xz; zstd needs the package `zstandard`.

At most the promised size is written, whatever the packed bytes contain.
"""

import functools
import os
from typing import Any, Iterator, List

from wire import AgentFault

_MODULES = {"zstd": "zstandard", "xz": "_lzma", "gzip": "zlib"}
_PIECE = 1 << 18


@functools.lru_cache(maxsize=None)
def known() -> List[str]:
    """Return the codecs that this Python can unpack."""
    from importlib.util import find_spec

    return [codec for codec, module in _MODULES.items() if find_spec(module) is not None]


def to_file(codec: str, source: str, target: str, promised: int) -> None:
    """Unpack `source` into `target`; after a failure both are deleted.

    Raises AgentFault (transfer_failed): `source` is damaged, truncated, or larger than `promised`.
    """
    try:
        with open(source, "rb") as packed, open(target, "wb") as file:
            file.writelines(_pieces(codec, packed, promised))
    except (AgentFault, OSError):
        for path in (source, target):
            if os.path.exists(path):
                os.unlink(path)
        raise


def _pieces(codec: str, packed: Any, promised: int) -> Iterator[bytes]:
    stream = _opened(codec, packed)
    left = promised
    while True:
        try:
            piece = stream.read(_PIECE)
        except Exception as error:
            # Every codec has its own errors; each of them means damaged data.
            raise _fault(packed, "is not valid {}: {!r}".format(codec, error)) from error
        if not piece:
            return
        left -= len(piece)
        if left < 0:
            raise _fault(packed, "unpacks to more than the {} bytes promised".format(promised))
        yield piece


def _opened(codec: str, packed: Any) -> Any:
    if codec == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(packed)
    if codec == "xz":
        import lzma

        return lzma.LZMAFile(packed)
    import gzip

    return gzip.GzipFile(fileobj=packed)


def _fault(packed: Any, why: str) -> AgentFault:
    name = os.path.basename(packed.name)
    return AgentFault("transfer_failed", "incoming/{} {}; it was deleted".format(name, why))
