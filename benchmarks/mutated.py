"""What damaged and hostile .tflite files do to the host: 300 of them through three commands.

The files are seeded mutations of small real models: bytes that change, and fields that get values
which no converter writes (sizes, indices, types, operators). `MUTATED_FILES` sets their number,
`MUTATED_LANES` how many commands run at the same time.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import KEYWORD_INT8, ROOT, peaks_of_descendants
from benchmarks.figure import Figure

SEED = 20261130
FILES, LANES = 300, 2
HOST_SECONDS, HOST_MEMORY_MB = 20, 1_000
BOUND_SECONDS = 2 * HOST_SECONDS + 40.0
"""Two recipes may each meet the limit; the rest is for processes to start, and a device's launches."""
SPARE_BYTES = max(HOST_MEMORY_MB * 100_000, 256_000_000)
KILL_SECONDS = 300.0
LIMITS = ("--host-seconds", HOST_SECONDS, "--host-memory-mb", HOST_MEMORY_MB)
COMMANDS: dict[str, tuple[object, ...]] = {
    "inspect": (),
    "optimize": ("--recipe", "as_is", "--recipe", "dynamic", "--out", "built"),
    "bench": ("--launches", 1),
}
_HUGE = (0, 1, -1, 3, 255, 65_536, 1 << 20, 1 << 28, (1 << 31) - 1, -(1 << 31))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one command ended on one file."""

    file: str
    command: str
    seconds: float
    code: int | None
    """None if it was killed after 300 s."""
    peak_bytes: int
    """The highest resident memory of one of its processes."""
    traceback: bool


def figures() -> Iterator[Figure]:
    count = int(os.environ.get("MUTATED_FILES", FILES))
    with tempfile.TemporaryDirectory(prefix="bench-mutated-") as name:
        folder = Path(name)
        files = make(folder, count)
        with ThreadPoolExecutor(int(os.environ.get("MUTATED_LANES", LANES))) as lanes:
            ended = list(lanes.map(partial(_through, folder), files))
    yield from of([one for group in ended for one in group])


def of(ended: Sequence[Ended]) -> Iterator[Figure]:
    """Sum the ends up."""
    slowest = max(ended, key=lambda one: one.seconds)
    largest = max(ended, key=lambda one: one.peak_bytes)
    bad = [one for one in ended if one.traceback or one.code not in {0, 1, 3}]
    limit = HOST_MEMORY_MB * 1_000_000 + SPARE_BYTES
    against = f"{len({one.file for one in ended})} files, {len(ended)} commands"
    yield Figure(
        name="mutated files: slowest",
        value=slowest.seconds,
        unit="s",
        bound=f"<= {BOUND_SECONDS:.0f} s",
        holds=slowest.seconds <= BOUND_SECONDS and slowest.code is not None,
        against=against,
        detail=f"{slowest.command} of {slowest.file}, exit {slowest.code}",
    )
    yield Figure(
        name="mutated files: memory",
        value=largest.peak_bytes / 1e6,
        unit="MB",
        bound=f"<= {limit / 1e6:,.0f} MB",
        holds=largest.peak_bytes <= limit,
        against=against,
        detail=f"{largest.command} of {largest.file}; the limit is {HOST_MEMORY_MB:,} MB",
    )
    yield Figure(
        name="mutated files: tracebacks",
        value=len(bad),
        unit="",
        bound="0",
        holds=not bad,
        against=against,
        detail=", ".join(f"{one.command} of {one.file}: exit {one.code}" for one in bad[:5]),
    )


def make(folder: Path, count: int, seed: int = SEED) -> list[Path]:
    """Write the mutated files; the same seed gives the same files."""
    files = []
    known = sources(folder)
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        data = draw.choice(known)
        made = _fields(data, draw) if number % 2 else _bytes(data, draw)
        path = folder / f"m{number:03}.tflite"
        path.write_bytes(made)
        files.append(path)
    return files


def sources(folder: Path) -> list[bytes]:
    """Return small models: a CNN, a keyword model where it is there, a loop, a chain."""
    sys.path.insert(0, str(ROOT / "tests"))
    from standins import graphs

    made = [ROOT / "harness/demo/data/digits.tflite", KEYWORD_INT8]
    made += [
        graphs.endless(folder / "loop.source"),
        graphs.chain(folder / "chain.source", ["ADD", "MUL", "RELU", "TANH"]),
        graphs.greedy(folder / "greedy.source", 1_000),
    ]
    return [path.read_bytes() for path in made if path.exists()]


def _bytes(data: bytes, draw: random.Random) -> bytes:
    """Change up to 3 bytes; the tables are at the end of the file, the weights before them."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        tables = draw.random() < 0.7
        place = draw.randrange(max(0, len(made) - 6_000) if tables else 8, len(made))
        made[place] = draw.randrange(256)
    if draw.random() < 0.05:
        del made[draw.randrange(len(made)) :]
    return bytes(made)


def _fields(data: bytes, draw: random.Random) -> bytes:
    """Change up to 3 fields to values that no converter writes."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(bytearray(data), 0)
    for _ in range(draw.randint(1, 3)):
        draw.choice((_tensor, _operator, _constant, _options))(model, draw)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(model: Any, draw: random.Random) -> None:  # noqa: ANN401 - generated classes
    tensor = draw.choice(draw.choice(model.subgraphs).tensors)
    what = draw.choice(("shape", "rank", "type", "buffer"))
    if what == "type":
        tensor.type = draw.randrange(20)
    elif what == "buffer":
        tensor.buffer = draw.randrange(len(model.buffers) + 1)
    elif what == "rank":
        tensor.shape = [draw.choice(_HUGE) for _ in range(draw.randint(0, 8))]
    elif tensor.shape is not None and len(tensor.shape):
        shape = [int(size) for size in tensor.shape]
        shape[draw.randrange(len(shape))] = draw.choice(_HUGE)
        tensor.shape = shape


def _operator(model: Any, draw: random.Random) -> None:  # noqa: ANN401 - generated classes
    graph = draw.choice(model.subgraphs)
    operator = draw.choice(graph.operators)
    ends = draw.choice(("inputs", "outputs"))
    if draw.random() < 0.3:
        code = draw.choice(model.operatorCodes)
        code.builtinCode = draw.randrange(210)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        return
    numbers = [int(index) for index in getattr(operator, ends)]
    if numbers:
        numbers[draw.randrange(len(numbers))] = draw.randrange(-1, len(graph.tensors) + 1)
        setattr(operator, ends, numbers)


def _constant(model: Any, draw: random.Random) -> None:  # noqa: ANN401 - generated classes
    """Change a small constant: a shape, axes, a size."""
    small = [one for one in model.buffers if one.data is not None and 0 < len(one.data) <= 64]
    if not small:
        return
    buffer = draw.choice(small)
    data = bytearray(bytes(buffer.data))
    place = draw.randrange(max(1, len(data) // 4)) * 4
    data[place : place + 4] = (draw.choice(_HUGE) & 0xFFFFFFFF).to_bytes(4, "little")
    buffer.data = list(data)


def _options(model: Any, draw: random.Random) -> None:  # noqa: ANN401 - generated classes
    options = draw.choice(draw.choice(model.subgraphs).operators).builtinOptions
    numbers = [key for key, value in vars(options or object).items() if type(value) is int]
    if options is not None and numbers:
        setattr(options, draw.choice(numbers), draw.choice(_HUGE) % 128)


def _through(folder: Path, file: Path) -> list[Ended]:
    return [through(folder, file, command) for command in COMMANDS]


def through(folder: Path, file: Path, command: str) -> Ended:
    """Run one command on one file, with limits that are small enough to be met."""
    words = [sys.executable, "-P", "-m", "harness.cli", command, file.name, "--json"]
    words += [str(word) for word in (*COMMANDS[command], *LIMITS)]
    home = folder / f"home-{file.stem}"
    home.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "EDGE_HARNESS_RESULTS": str(home / "results"),
        "EDGE_HARNESS_CACHE": str(home / "cache"),
        "EDGE_HARNESS_LEASES": str(home / "leases"),
    }
    started = time.monotonic()
    with (
        (home / "err").open("wb") as errors,
        subprocess.Popen(
            words, cwd=folder, env=environment, stdout=errors, stderr=subprocess.STDOUT
        ) as process,
        peaks_of_descendants(process.pid) as peaks,
    ):
        try:
            code: int | None = process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
    said = (home / "err").read_text("utf-8", "replace")
    ended = Ended(
        file=file.name,
        command=command,
        seconds=time.monotonic() - started,
        code=code,
        peak_bytes=max(peaks.values(), default=0),
        traceback="Traceback" in said,
    )
    print(
        f"{ended.file} {ended.command}: exit {ended.code}, {ended.seconds:.1f} s, "
        f"{ended.peak_bytes / 1e6:.0f} MB",
        file=sys.stderr,
        flush=True,
    )
    return ended
