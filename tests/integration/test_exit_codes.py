"""How every command ends when its output or its time ends; docs/exit_codes.md has the table."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_campaign import prepare
from shared_data import shared_file
from zygote import CLOSED, PIPE, Zygote, zygote

from harness.cli import COMMANDS, ending, shared
from harness.events import RunOpened
from harness.present.report.exports import verdicts
from harness.records.store import Store

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "harness"]
NAMES = [name for names in COMMANDS.values() for name in names]
CODES = (
    *(ending.DONE, ending.NO, ending.INCONCLUSIVE, ending.INVALID_INPUT, ending.AWAY),
    *(ending.INTERNAL_ERROR, ending.HUNG_UP, ending.INTERRUPTED),
    *(ending.CLOSED_PIPE, ending.TERMINATED),
)
RUN = ("run", "plan.toml")
GATE = ("gate", "plan.toml", "--baseline", "as_is", "--candidate", "float16")
SELFTEST = ("selftest", "board", "--model", "digits.tflite")
SEARCH = ("search", "plan.toml")
FULL = "/dev/full"


@pytest.fixture(name="edge", scope="module")
def _edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


# --- every command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_command_ends_with_the_code_of_its_output(
    edge: Zygote, tmp_path: Path, name: str
) -> None:
    ways = {
        "a pipe that nobody reads": ((name, "--help"), {"stdout": PIPE}, 141),
        "both pipes": ((name, "--help"), {"stdout": PIPE, "stderr": PIPE}, 141),
        "messages to a pipe": ((name, "--no-such-option"), {"stderr": PIPE}, 141),
        "a full disk": ((name, "--help"), {"stdout": FULL}, 3),
        "a closed stdout": ((name, "--help"), {"stdout": CLOSED}, 3),
        "everything closed": ((name, "--help"), {"stdout": CLOSED, "stderr": CLOSED}, 3),
        "messages to a full disk": ((name, "--no-such-option"), {"stderr": FULL}, 3),
        "a closed stderr": ((name, "--help"), {"stderr": CLOSED}, 0),
        "an unknown option": ((name, "--no-such-option"), {}, 3),
        "too many arguments": ((name, *"abcdefghi"), {}, 3),
    }
    found = {
        way: (done.code, re.sub(r"[^\n]*(Usage|Try|Error)[^\n]*\n|\s", "", done.err))
        for way, (words, streams, _) in ways.items()
        for done in [edge.edge(tmp_path, *words, **streams)]
    }
    assert {way: code for way, (code, _) in found.items()} == {
        way: code for way, (_, _, code) in ways.items()
    }
    assert found["a pipe that nobody reads"][1] == ""
    assert "stdoutcannotbewritten" in found["a full disk"][1]
    assert list(tmp_path.iterdir()) == []


SITE = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ.get("AT_IMPORT"):
            sys.meta_path.remove(self)
            what = os.environ["RAISED"]
            if what.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, what))
            elif what == "exit(1)":
                __import__("ctypes").CDLL(None).exit(1)  # as a native library may
            else:
                raise getattr(__import__("builtins"), what)("at " + name)

for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, signal.SIG_DFL if one != signal.SIGINT else signal.default_int_handler)
sys.meta_path.insert(0, Finder())
"""
AT_IMPORT = [
    *((name, "harness.cli.shared", "SIGTERM", 143) for name in NAMES),
    *(
        ("judge", module, what, code)
        for module in ("harness.cli.program", "harness.cli.gate", "numpy")
        for what, code in (
            *(("SIGHUP", 129), ("SIGINT", 130), ("SIGTERM", 143)),
            *(("ImportError", 70), ("SyntaxError", 70), ("MemoryError", 3)),
        )
    ),
    ("judge", "typer", "exit(1)", 70),
    ("gate", "typer", "exit(1)", 70),
    ("judge", "harness.cli.ending", "ImportError", 70),
    ("judge", "harness.cli.ending", "MemoryError", 70),
]


def test_every_command_ends_as_it_must_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)

    def ended(case: tuple[str, str, str, int]) -> str | None:
        name, module, what, code = case
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        done = subprocess.run(
            [*CLI, name, "x"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "PYTHONPATH": path, "AT_IMPORT": module, "RAISED": what},
        )
        is_ok = done.returncode == code and ("edge-harness: " in done.stderr or what == "exit(1)")
        return None if is_ok and "Traceback" not in done.stderr else f"{case}: {done}"

    with ThreadPoolExecutor(2) as pool:
        assert [fault for fault in pool.map(ended, AT_IMPORT) if fault] == []


def test_the_page_has_every_code() -> None:
    page = (ROOT / "docs" / "exit_codes.md").read_text()
    table = page[page.index("| Code |") : page.index("\n\n", page.index("| Code |"))]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == list(CODES)


# --- a result that cannot be printed ------------------------------------------------------------------


@pytest.mark.parametrize("words", [RUN, GATE, SEARCH])
def test_a_result_that_is_not_printed_is_stored(
    edge: Zygote, tmp_path: Path, words: tuple[str, ...]
) -> None:
    prepare(tmp_path)
    done = edge.edge(tmp_path, *words, "--json", stdout=PIPE)
    assert done.code == 141
    (command,) = re.findall(r"is stored[:;] `edge-harness ([^`]+)` prints", done.err)
    again = edge.edge(tmp_path, *shlex.split(command))
    assert again.code == 0, again.err
    assert "float16" in again.out


@pytest.mark.parametrize("words", [RUN, GATE, SELFTEST, SEARCH])
@pytest.mark.parametrize("stdout", [CLOSED, FULL])
def test_nothing_is_measured_for_an_output_that_takes_nothing(
    edge: Zygote, tmp_path: Path, words: tuple[str, ...], stdout: str
) -> None:
    prepare(tmp_path)
    done = edge.edge(tmp_path, *words, stdout=stdout)
    assert done.code == 3
    assert "stdout cannot be written" in done.err
    assert not (tmp_path / "results").exists()


def test_who_reads_the_messages_no_longer_ends_the_run(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path)
    assert edge.edge(tmp_path, *RUN, stderr=PIPE).code == 141
    done = edge.edge(tmp_path, *RUN, stderr=FULL)
    assert (done.code, "float16" in done.out) == (0, True)


@pytest.mark.parametrize("words", [("show", "latest"), ("judge", "latest"), ("runs", "--json")])
def test_a_stored_result_in_a_closed_pipe(
    edge: Zygote, tmp_path: Path, words: tuple[str, ...]
) -> None:
    prepare(tmp_path)
    assert edge.edge(tmp_path, *GATE).code == 0
    for streams in ({"stdout": PIPE}, {"stdout": PIPE, "stderr": PIPE}):
        assert edge.edge(tmp_path, *words, **streams).code == 141


# --- a gate that is stopped ---------------------------------------------------------------------------

STOPS = [
    *((launch, "SIGTERM", 143) for launch in (1, 6, 12)),
    *((4, "SIGHUP", 129), (4, "SIGINT", 130), (4, "SIGTERM+SIGTERM+SIGTERM", 143)),
]
"""The number of the launch, the signals during it, the exit code."""


@pytest.mark.parametrize(("launch", "names", "code"), STOPS)
def test_a_gate_that_is_stopped_leaves_what_it_has_and_goes_on(
    edge: Zygote, tmp_path: Path, launch: int, names: str, code: int
) -> None:
    prepare(tmp_path)
    done = edge.edge(tmp_path, *GATE, "--json", AT_LAUNCH=f"{launch}:{names}")
    assert done.code == code, done.err
    document = done.json
    assert (document["exit_code"], document["verdict"]) == (code, "INCONCLUSIVE")
    command = shlex.join(["edge-harness", *GATE, "--resume", document["run"]])
    assert f"`{command}` finishes it" in document["incomplete"]
    assert f"`{command}` continues" in done.err
    latency = next(row for row in document["rows"] if row["metric"] == "latency")
    assert latency["verdict"] == "INCONCLUSIVE"
    assert "the gate ended early" in latency["reason"]
    stored = verdicts.of(Store(tmp_path / "results").open(document["run"]))
    assert stored is not None
    assert {**stored, "exit_code": code} == document
    judged = edge.edge(tmp_path, "judge", "latest", "--json")
    assert judged.code == judged.json["exit_code"] == 2
    assert judged.json["incomplete"] == document["incomplete"]
    resumed = edge.edge(tmp_path, *shlex.split(command)[1:], "--json")
    assert (resumed.code, resumed.json["verdict"]) == (0, "EQUIVALENT")
    assert resumed.json["incomplete"] is None


def test_a_gate_that_was_stopped_is_incomplete_wherever_it_is_shown(
    edge: Zygote, tmp_path: Path
) -> None:
    prepare(tmp_path)
    assert edge.edge(tmp_path, *GATE, AT_LAUNCH="6:SIGTERM").code == 143
    junit = edge.edge(tmp_path, "export", "latest", "--format", "junit").out
    assert '<error type="incomplete"' in junit
    summary = edge.edge(tmp_path, "export", "latest", "--format", "summary").out
    assert summary.startswith("### edge-harness gate: INCONCLUSIVE, incomplete\n")
    assert "incomplete: the gate ended" in edge.edge(tmp_path, "show", "latest").out


def test_a_gate_that_was_killed_is_judged_as_incomplete(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path)
    assert edge.edge(tmp_path, *GATE, "--json", AT_LAUNCH="9:SIGKILL").code == -9
    judged = edge.edge(tmp_path, "judge", "latest", "--json")
    assert judged.code == judged.json["exit_code"] == 2
    assert "the gate was killed" in judged.json["incomplete"]
    (latency,) = (row for row in judged.json["rows"] if row["metric"] == "latency")
    assert (latency["verdict"], latency["pairs"]) == ("INCONCLUSIVE", 2)
    assert edge.edge(tmp_path, "show", "latest", "--json").json["gate"] == judged.json
    junit = edge.edge(tmp_path, "export", "latest", "--format", "junit").out
    assert 'as_is -&gt; float16 [1 thread] latency"' in junit
    assert '<error type="incomplete"' in junit
    summary = edge.edge(tmp_path, "export", "latest", "--format", "summary").out
    assert summary.startswith("### edge-harness gate: INCONCLUSIVE, incomplete\n")
    command = shlex.join(["edge-harness", *GATE, "--resume", judged.json["run"]])
    assert f"`{command}` finishes it" in summary


def test_a_run_that_is_stopped_is_no_green_job(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path)
    done = edge.edge(tmp_path, *RUN, "--junit", "run.xml", AT_LAUNCH="3:SIGTERM")
    assert done.code == 143
    junit = (tmp_path / "run.xml").read_text()
    assert 'errors="1"' in junit
    assert '<error type="incomplete"' in junit
    assert edge.edge(tmp_path, "export", "latest", "--format", "junit").out == junit


STARTS = ("harness.cli.program", "harness.cli.gate", "harness.present.ci", "harness.api.gating")


@pytest.mark.parametrize("module", STARTS)
def test_a_gate_that_is_stopped_before_it_measures_leaves_its_documents(
    edge: Zygote, tmp_path: Path, module: str
) -> None:
    prepare(tmp_path)
    whole = edge.edge(tmp_path, *GATE, "--json").json
    (tmp_path / "farm.toml").unlink()
    (tmp_path / "sitecustomize.py").write_text(SITE)
    done = subprocess.run(
        [*CLI, *GATE, "--json", "--junit", "gate.xml", "--summary", "gate.md"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "AT_IMPORT": module,
            "RAISED": "SIGTERM",
        },
    )
    assert done.returncode == 143, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == set(whole)
    assert "before it started (stopped by SIGTERM)" in document["incomplete"]
    assert "<error" in (tmp_path / "gate.xml").read_text()
    assert "stopped before anything was measured" in (tmp_path / "gate.md").read_text()


IMPORTED = """
import os, signal
from pathlib import Path

os.kill(os.getpid(), signal.SIGTERM)
for number in range(100_000):
    pass
Path("imported").touch()
"""


def test_a_signal_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    """Native modules abort, or drop what is raised in them."""
    (tmp_path / "slow_native.py").write_text(IMPORTED)
    (tmp_path / "program.py").write_text(
        "import time\n"
        "from harness.cli import ending\n"
        "def program():\n"
        "    ending.deliver()\n"
        "    import slow_native\n"
        "    time.sleep(30)\n"
        "ending.run(program, owns_process=True)\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "program.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert (done.returncode, done.stderr) == (143, "edge-harness: stopped by SIGTERM\n")
    assert time.monotonic() - started < ending.GRACE_SECONDS
    assert (tmp_path / "imported").exists()


def test_a_verdict_is_printed_before_a_report_that_nobody_reads(
    edge: Zygote, tmp_path: Path
) -> None:
    prepare(tmp_path)
    os.mkfifo(tmp_path / "gate.xml")
    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as pool:
        words = (*GATE, "--json", "--junit", "gate.xml")
        going = pool.submit(edge.edge, tmp_path, *words, stdout=str(out))
        deadline = time.monotonic() + 60
        while not (out.exists() and out.read_text().endswith("}\n")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not going.done()
        assert "<testsuites" in (tmp_path / "gate.xml").read_text()
        assert going.result().code == 0
    assert json.loads(out.read_text())["verdict"] == "EQUIVALENT"


@pytest.mark.parametrize("words", [RUN, GATE, SELFTEST, SEARCH])
def test_a_device_that_does_not_answer_does_not_keep_the_command(
    edge: Zygote, tmp_path: Path, words: tuple[str, ...]
) -> None:
    prepare(tmp_path)
    started = time.monotonic()
    done = edge.edge(tmp_path, *words, AT_LAUNCH="4:SIGTERM", AND_HANG="yes")
    assert done.code == 143
    assert time.monotonic() - started < ending.GRACE_SECONDS + 3  # of which it measured a while
    assert "had not ended" not in done.err
    assert re.search(r"are kept[:;] `edge-harness .*` (continues|prints them)", done.err)


@pytest.mark.parametrize("words", [RUN, ("bench", "digits.tflite", "--on", "board"), SELFTEST])
def test_a_command_that_is_stopped_says_how_to_go_on(
    edge: Zygote, tmp_path: Path, words: tuple[str, ...]
) -> None:
    prepare(tmp_path)
    done = edge.edge(tmp_path, *words, AT_LAUNCH="3:SIGTERM")
    assert done.code == 143
    assert done.out == ""
    (command,) = re.findall(r"launches are kept: `edge-harness ([^`]+)`", done.err)
    again = edge.edge(tmp_path, *shlex.split(command))
    assert again.code == 0, again.err


def test_a_gate_that_ends_too_late_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(ending, "advise", said.append)
    shared.progress(quiet=True)(
        RunOpened(run="x", kept="`edge-harness gate p --resume x` continues")
    )
    assert said == ["`edge-harness gate p --resume x` continues"]


def test_a_real_gate_is_stopped_in_time_and_leaves_no_process(tmp_path: Path) -> None:
    prepare(tmp_path, farm="", plan=PLAN)
    environment = {**os.environ, "EDGE_HARNESS_RESULTS": str(tmp_path / "results")}
    going = subprocess.Popen(
        [*CLI, *GATE, "--json"],
        cwd=tmp_path,
        env=environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not _launches(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        stopped = time.monotonic()
        going.send_signal(signal.SIGTERM)
        out, errors = going.communicate(timeout=60)
    finally:
        going.kill()
        going.wait()
    assert going.returncode == 143, errors
    assert time.monotonic() - stopped < 7
    assert json.loads(out)["incomplete"]
    deadline = time.monotonic() + 10
    while (left := _processes(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


@pytest.mark.tensorflow
def test_a_build_that_is_stopped_ends_in_time_and_leaves_no_process(tmp_path: Path) -> None:
    source = shared_file("kws/saved_model")
    (tmp_path / "plan.toml").write_text(BUILT.format(source=source))
    going = subprocess.Popen(
        [*CLI, *RUN],
        cwd=tmp_path,
        env={
            **os.environ,
            "EDGE_HARNESS_RESULTS": str(tmp_path / "results"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (workers := _children(going.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        workers |= _children(going.pid)
        stopped = time.monotonic()
        going.send_signal(signal.SIGTERM)
        out, errors = going.communicate(timeout=60)
    finally:
        going.kill()
        going.wait()
    assert (going.returncode, out) == (143, ""), errors
    assert time.monotonic() - stopped < 7
    assert "finished builds are kept, and the same command continues from them" in errors
    deadline = time.monotonic() + 10
    while (left := _alive(workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    assert not left


BUILT = """
[model]
name = "kws"
path = "{source}"
[data]
calibration = "random"
[run]
recipes = ["int8"]
devices = ["this-machine"]
"""
PLAN = """
[model]
name = "digits"
path = "digits.tflite"
[run]
recipes = ["as_is", "float16"]
devices = ["this-machine"]
[gate]
metrics = ["latency"]
"""


def _launches(home: Path) -> list[str]:
    return [
        line
        for file in (home / "results").glob("*/launches.jsonl")
        for line in file.read_text().splitlines()
    ]


def _children(pid: int) -> set[int]:
    """Return the processes below one, by their numbers."""
    found: set[int] = set()
    for file in Path("/proc").glob(f"{pid}/task/*/children"):
        for child in map(int, file.read_text().split()):
            found |= {child} | _children(child)
    return found


def _alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def _processes(home: Path) -> list[str]:
    """Return the processes whose arguments name the folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(home) in words:
            found.append(words)
    return found
