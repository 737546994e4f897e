"""A line without files or commands, and a dialect that gives summaries only: one file, one entry point each.

At the other end of the line is a real process with a protocol of its own, as firmware has one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_site import install

from harness import api
from harness.config import farm as farms
from harness.demo import DATA
from harness.devices import opening
from harness.errors import Unsupported
from harness.protocols import Commands, Files

LINE = '''
"""line: a program at the other end of a line. address = "line:/path/of/the/program" """

from harness.devices.transports.local import LocalTransport


class LineTransport:
    def __init__(self, device):
        self.program = device.address.removeprefix("line:")
        self.inner = LocalTransport()

    def talk(self, argv):
        return self.inner.talk([self.program])  # whatever is asked for: there is only this one

    def close(self):
        self.inner.close()
'''

BOARD = '''
"""board: firmware that times a model and prints the mean. dialect = "board" """

import base64
import time

from harness.devices.framing import JsonLines
from harness.protocols import Capabilities, Dialect
from harness.types import Delegation, DeviceFacts, Launch, Runtime, Samples


class BoardDialect(Dialect):
    can = Capabilities(samples=False)

    def __init__(self, transport, device):
        self.transport, self.name, self.lines, self.loaded = transport, device.name, None, set()

    def ask(self, **request):
        if self.lines is None:
            self.lines = JsonLines(self.transport.talk([]), self.name)
        self.lines.send(request)
        return self.lines.read(time.monotonic() + 10)

    def deploy(self, files):
        for digest in set(files) - self.loaded:
            self.ask(verb="load", digest=digest, data=base64.b64encode(files[digest].read_bytes()).decode())
            self.loaded.add(digest)
        return ()

    def hello(self):
        said = self.ask(verb="hello")
        return DeviceFacts(identity=said["serial"], runtimes=(Runtime(name="micro", version="1"),))

    def launch(self, order):
        count = order.dose.min_inferences
        mean_ns = self.ask(verb="time", digest=order.variant_digest, count=count)["mean_ns"]
        return Launch.of(
            order,
            runtime="micro 1",
            delegation=Delegation(delegate="none"),
            wall_ns=int(mean_ns * count),
            inferences=count,
            summary="mean",
            samples=(Samples.of("latency", [mean_ns], count),),
        )
'''

FIRMWARE = """#!{python}
import base64, hashlib, json, random, sys
models = {{}}
for line in sys.stdin:
    order = json.loads(line)
    if order["verb"] == "hello":
        said = {{"serial": "B-0001"}}
    elif order["verb"] == "load":
        models[order["digest"]] = data = base64.b64decode(order["data"])
        said = {{"whole": hashlib.sha256(data).hexdigest() == order["digest"]}}
    else:
        said = {{"mean_ns": 1e6 * random.gauss(1, 0.001) if order["digest"] in models else None}}
    print(json.dumps(said), flush=True)
"""


@pytest.fixture(name="farm")
def _farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[farms.Farm]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    firmware = tmp_path / "firmware"
    firmware.write_text(FIRMWARE.format(python=sys.executable))
    firmware.chmod(0o755)
    path = tmp_path / "farm.toml"
    path.write_text(
        f'[device.board]\nprofile = "linux_x86_64"\naddress = "line:{firmware}"\ndialect = "board"\n'
        f'[device.deaf]\nprofile = "linux_x86_64"\naddress = "line:{firmware}"\n'
    )
    line = {"harness.transports": {"line": "my_line:LineTransport"}}
    board = {"harness.dialects": {"board": "my_board:BoardDialect"}}
    with (
        install(tmp_path / "line", "my_line", LINE, line),
        install(tmp_path / "board", "my_board", BOARD, board),
    ):
        yield farms.load(path)


def plan_of(folder: Path) -> Path:
    path = folder / "plan.toml"
    path.write_text(
        f'[model]\nname = "digits"\npath = {json.dumps(str(DATA / "digits.tflite"))}\n'
        '[run]\nrecipes = ["as_is"]\ndevices = ["board"]\n[dose]\nlaunches = 3\nmin_seconds = 0.01\n'
        '[gate]\nmetrics = ["latency"]\nmax_pairs = 8\n'
    )
    return path


def test_a_line_has_neither_files_nor_commands(farm: farms.Farm) -> None:
    transport = opening.open_transport(farm.devices["board"])
    assert not isinstance(transport, Files | Commands)
    transport.close()


def test_the_real_run_gives_a_row(farm: farms.Farm, tmp_path: Path) -> None:
    with api.run(plan_of(tmp_path), farm=farm, results=tmp_path / "runs") as going:
        for _ in going:
            pass
    (row,) = going.rows()
    assert (row["status"], row["reason"], row["launches"]) == ("ok", None, 3)
    assert row["latency_p50_ms"] == pytest.approx(1.0, rel=0.01)
    nulls = ("latency_p90_ms", "peak_rss_mb", "model_memory_mb", "energy_mj", "load_ms")
    assert [row[key] for key in nulls] == [None] * len(nulls)


def test_the_real_gate_gives_a_verdict(farm: farms.Farm, tmp_path: Path) -> None:
    result = api.gate(
        plan_of(tmp_path),
        baseline="as_is",
        candidate="as_is",
        farm=farm,
        measure_identical=True,
        results=tmp_path / "runs",
    )
    assert (result.failed, result.away) == ((), {})
    (latency,) = (row for row in result.judged if row.metric == "latency")
    assert str(latency.verdict) == "EQUIVALENT"


def test_the_python_agent_says_what_it_misses_there(farm: farms.Farm, tmp_path: Path) -> None:
    device = farm.devices["deaf"]
    assert opening.dialect_name(device) == opening.DEFAULT_DIALECT
    transport = opening.open_transport(device)
    with pytest.raises(
        Unsupported, match=r'deaf: .*"line:" addresses runs no commands.*agent needs'
    ):
        opening.open_dialect(transport, device)
    (row,) = (one for one in api.devices(["board", "deaf"], farm=farm) if one["name"] == "deaf")
    assert row["status"] == "unsupported"
