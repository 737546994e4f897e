"""The command in forked processes: start-up is paid once, so that hundreds of kills are quick.

Run as a program, it imports the harness, reads an order per line (JSON: argv, env, cwd, out, err) and
answers each with the wait status of a forked process that ran the command. The device is a fake one
with the address `fakeboard:`; its launches take no time and always give the same samples.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CLOSED, PIPE = "closed", "pipe"
"""Streams of a command: a closed one, and a pipe that nobody reads."""

HERE = Path(__file__).resolve().parent
BOARD = """
import os
import signal
import time
from hashlib import sha256
from pathlib import Path

from harness.protocols import Capabilities
from harness.testing import FakeDialect, FakeTransport
from harness.types import Covariates, Runtime


def open_board(device):
    return FakeTransport(device)


class Board(FakeDialect):
    # AT_RUNTIME is the runtime of the launches, whatever hello says; AT_LAUNCH is
    # "NUMBER:SIGNAL+SIGNAL": that launch signals the controller, and hangs if AND_HANG.
    # LOAD is the load average of the device, SLOWER the ratio of float16 to digits.tflite, PACE the
    # seconds that a timed launch takes.

    launched = 0

    def launch(self, order):
        Board.launched += 1
        number, _, name = os.environ.get("AT_LAUNCH", "").partition(":")
        if str(Board.launched) == number:
            for one in name.split("+"):
                os.kill(os.getpid(), getattr(signal, one))
            if "AND_HANG" in os.environ:
                time.sleep(60)
        return super().launch(order)

    def _latency(self, order):
        is_source = order.variant_digest == sha256(Path("digits.tflite").read_bytes()).hexdigest()
        ratio = 1.0 if is_source else float(os.environ.get("SLOWER", "1"))
        return super()._latency(order) * ratio


def open_dialect(transport, device):
    kinds = frozenset({"timed", "memory", "bare"})
    facts = {"identity": "one", **dict(tag.split("=") for tag in device.tags)}
    if "runtime" in facts:
        facts["runtimes"] = (Runtime(name="fake", version=facts.pop("runtime")),)
    for name in {"cores", "usable_cores"} & set(facts):
        facts[name] = int(facts[name])
    load = Covariates(load_1m=float(os.environ.get("LOAD", "0")))
    return Board(
        device,
        noise=0.004,
        runtime=lambda order: os.environ.get("AT_RUNTIME", "fake 0"),
        facts=facts,
        covariates=lambda _: (load, load),
        spend=lambda _: time.sleep(float(os.environ.get("PACE", "0"))),
        can=Capabilities(launches=kinds, infers=False, places=True),
    )
"""
"""A transport and a dialect, installed as somebody else's plug-in; tags `fact=value` are the facts of the board."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a forked command ended."""

    code: int
    """The exit code; negative: the signal."""
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Zygote:
    """The parent of the forked commands."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def edge(
        self,
        home: Path,
        *words: object,
        stdout: str | None = None,
        stderr: str | None = None,
        **env: str,
    ) -> Done:
        """Run the command; stdout and stderr are kept, or go to a path, CLOSED or PIPE."""
        out, err = self._folder / "out", self._folder / "err"
        for file in (out, err):
            file.write_bytes(b"")
        order = {
            "argv": ["edge-harness", *map(str, words)],
            "env": {"EDGE_HARNESS_RESULTS": str(home / "results"), **env},
            "cwd": str(home),
            "out": stdout or str(out),
            "err": stderr or str(err),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        done = Done(
            code=os.waitstatus_to_exitcode(status), out=out.read_text(), err=err.read_text()
        )
        assert "Traceback" not in done.err, done.err
        return done


@contextlib.contextmanager
def zygote(folder: Path) -> Iterator[Zygote]:
    """Start one; its configuration, cache and plug-in are in `folder`."""
    site = folder / "site"
    info = site / "fakeboard-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "fakeboard.py").write_text(BOARD)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakeboard\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[harness.transports]\nfakeboard = fakeboard:open_board\n"
        "[harness.dialects]\nfakeboard = fakeboard:open_dialect\n"
    )
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": str(folder / "config"),
        "EDGE_HARNESS_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(site), str(HERE.parents[1])]),
    }
    process = subprocess.Popen(
        [sys.executable, str(HERE / "zygote.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield Zygote(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=60)
        assert process.stdout is not None
        process.stdout.close()


def _main() -> None:
    import importlib

    for name in (
        *("harness.cli.measure", "harness.cli.gate", "harness.cli.search", "harness.cli.stored"),
        *("harness.cli.layers", "harness.cli.farm", "harness.cli.files", "harness.cli.picking"),
        *("harness.cli.ending", "harness.cli.program", "harness.cli.usage"),
        *("harness.api.running", "harness.api.gating", "harness.api.searching", "numpy"),
        *("harness.api.stored", "harness.present.screen", "harness.testing", "duckdb", "optuna"),
        *("fakeboard", "pydantic", "optuna.storages", "sqlalchemy", "alembic"),
    ):
        importlib.import_module(name)
    answers: IO[str] = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(order)
        _, status = os.waitpid(child, 0)
        answers.write(f"{status}\n")
        answers.flush()


def _run(order: dict[str, Any]) -> None:
    """Run the command in this forked process."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for one in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_DFL)
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        streams = {"stdout": (1, order["out"]), "stderr": (2, order["err"])}
        for number, target in streams.values():
            _connect(number, target)
        for name, (number, target) in streams.items():
            if target == CLOSED:
                os.close(number)
                setattr(sys, name, None)
                setattr(sys, f"__{name}__", None)
        sys.argv = order["argv"]
        from harness.cli import main

        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _connect(number: int, target: str) -> None:
    """Connect a stream to a file, or to a pipe without a reader."""
    if target == PIPE:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        path = os.devnull if target == CLOSED else target
        writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(writer, number)
    os.close(writer)


if __name__ == "__main__":
    _main()
