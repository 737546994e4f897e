"""The truth about what ran where: lies that end without a number, honest runs that keep theirs.

The runs are real: the command, the agent, a delegate library of the tests that takes what it is told to
(tests/standins), real compiled files. `shown` counts a lie whose row has a number that is not marked
INVALID; a lie in part (half of the operators) keeps its number in a row `partial` that is INVALID, out of
pick and gate. A lie about what a time covers cannot be made by a library, so those launches are made up.

Lies about outputs (not written, constant, copied, late, single ones late) come from a delegate that takes
every operator, for files built here and for files given compiled, which have no reference on the host;
`outputs_valid` counts those whose row is VALID, and those of a row VALID without its flag.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import COMMAND, DATA, HERE, ROOT, NotAsked, need, run
from benchmarks.figure import Figure
from harness.devices.delegation import GraphNode, Timing, graph_walk, judge
from harness.tflite import flatbuffer
from harness.types import Cell, Delegation, Launch, Variant

SEED = 20261122
LIES, HONEST = 300, 300
REFUSED = 1
WALK_MS = 50.0
WALK_OPERATORS = 500
_OPTIONS = 8
OUTPUT_LIES: Mapping[str, dict[str, str]] = {
    "nothing": {"lie": "nothing"},
    "constant": {"lie": "constant"},
    "copied": {"lie": "copied"},
    "nan": {"lie": "nan"},
    "stale": {"lie": "late", "late": "1"},
    **{f"late-{by}": {"lie": "late", "late": str(by)} for by in (2, 3, 5, 8, 13, 40)},
    "glitch": {"lie": "glitch"},
}
COMPILED = (
    "mobilenet_v1_0.25_128_quant_edgetpu.tflite",
    "keras_lstm_mnist_ptq_edgetpu.tflite",
)
UNREFERENCED = "outputs_unreferenced"
_DOSE = (
    "[dose]\nlaunches = 1\nmemory_launches = 0\nmin_inferences = 10\nmin_seconds = 0.005\n"
    "warmup_seconds = 0.005\n"
)


def figures() -> Iterator[Figure]:
    sys.path.insert(0, str(ROOT / "tests"))
    yield _walk()
    yield _agreement()
    if shutil.which("gcc") is None:
        raise NotAsked("gcc builds the delegate library of the tests, and is not here")
    yield from _runs()


def _walk() -> Figure:
    """A graph of 500 operators of which every other one is taken, alone: the most partitions there can be."""
    nodes = [GraphNode(op="ADD", inputs=(i,), outputs=(i + 1,)) for i in range(WALK_OPERATORS)]
    nodes += [
        GraphNode(op="DELEGATE", inputs=(i,), outputs=(i + 1,)) for i in range(0, WALK_OPERATORS, 2)
    ]
    times = []
    for _ in range(50):
        began = time.perf_counter()
        found = graph_walk(nodes)
        times.append((time.perf_counter() - began) * 1e3)
    assert (found.delegated_ops, found.total_ops) == (WALK_OPERATORS // 2, WALK_OPERATORS)
    middle = statistics.median(times)
    return Figure(
        name="delegation.walk",
        value=middle,
        unit="ms",
        bound=f"< {WALK_MS:.0f} ms",
        holds=middle < WALK_MS,
        against=f"the slowest of 50: {max(times):.2f} ms",
        detail=f"{WALK_OPERATORS} operators, {WALK_OPERATORS // 2} partitions; the median of 50",
    )


def _agreement() -> Figure:
    from standins import graphs

    models = sorted(
        path
        for path in need(DATA, "../shared/data").rglob("*.tflite")
        if "error" not in path.name and flatbuffer.read(path).why_not_runnable_on_host is None
    )
    models += sorted((ROOT / "harness" / "demo" / "data").glob("*.tflite"))
    with tempfile.TemporaryDirectory(prefix="bench-delegation-") as folder:
        space = Path(folder)
        made = run(
            [
                *(COMMAND, "optimize", ROOT / "harness/demo/data/digits.tflite", "--out", space),
                *("--recipe", "float16", "--recipe", "dynamic", "--recipe", "int8"),
                *("--recipe", "int16x8", "--recipe", "weight_only", "--json"),
                *("--calibration", ROOT / "harness/demo/data/digits_calibration.npz"),
            ],
            ends=(0, 1),
        )
        assert made.stdout
        models += sorted(space.rglob("*.tflite"))
        chance = random.Random(SEED)
        words = ["ADD", "MUL", "TANH", "ABS", "COS", "ROUND", "SQRT", "SIN"]
        models += [
            graphs.chain(
                space / f"chain-{i}.tflite", chance.choices(words, k=chance.randint(2, 40))
            )
            for i in range(40)
        ]
        done = run([sys.executable, HERE / "accelerated.py", *models], PYTHONPATH=str(ROOT))
    agree, whole, lines = 0, 0, done.stdout.splitlines()
    for line in lines:
        taken, total, fully, _ = line.split(maxsplit=3)
        agree += (taken == total) == (fully == "1")
        whole += fully == "1"
    left = len(models) - len(lines)
    return Figure(
        name="delegation.walk_agrees",
        value=agree,
        unit="",
        bound=f"= {len(lines)} models",
        holds=agree == len(lines) and left <= 1,
        against=f"is_fully_accelerated on the CPU: {whole} whole, {len(lines) - whole} in part",
        detail=f"{left} more that CompiledModel does not load",
    )


def _runs() -> Iterator[Figure]:
    from standins import fixtures

    with tempfile.TemporaryDirectory(prefix="bench-delegation-") as folder:
        bench = _Bench(Path(folder), fixtures.build_delegate(Path(folder)))
        lies = bench.lies()
        made_up = list(_enqueued())
        shown = sum(map(_shown, lies)) + sum(made_up)
        kinds = Counter(_kind(row) for row in lies)
        yield Figure(
            name="delegation.lies_shown",
            value=shown,
            unit="",
            bound=f"= 0 of {LIES} or more",
            holds=shown == 0 and len(lies) + len(made_up) >= LIES,
            against=f"{len(lies)} runs that lie and {len(made_up)} launches made up",
            detail=", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())),
        )
        yield _outputs_figure(bench.output_lies())
        honest = bench.honest()
        refused = [row for row in honest if not _shown(row)]
        suspect = sum(row["verdict"] == "SUSPECT" for row in honest)
        yield Figure(
            name="delegation.honest_refused",
            value=len(refused),
            unit="",
            bound=f"<= {REFUSED} of {HONEST} or more",
            holds=len(refused) <= REFUSED and len(honest) >= HONEST,
            against=f"{len(honest)} honest runs, {suspect} of them flagged suspect",
            detail="; ".join(
                str(row["reason"] or row["verdict_reason"])
                for row in (*refused, *(row for row in honest if row["verdict"] == "SUSPECT"))[:3]
            ),
        )


def _outputs_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    valid = [row for row in rows if row["verdict"] == "VALID" and _shown(row)]
    unflagged = [row for row in valid if UNREFERENCED not in row["flags"]]
    kinds = Counter(
        f"{'given' if '@given-' in row['recipe'] else 'built'}:{row['verdict']}:{row['status']}"
        for row in rows
    )
    named = "; ".join(f"{row['model']} {row['recipe']}" for row in valid[:5])
    return Figure(
        name="delegation.outputs_valid",
        value=len(valid),
        unit="",
        bound="= 0 without the flag",
        holds=not unflagged and len(rows) > 0,
        against=f"{len(rows)} runs whose outputs lie, {len(unflagged)} VALID without the flag",
        detail=", ".join([*(f"{kind} {count}" for kind, count in sorted(kinds.items())), named]),
    )


def _shown(row: Mapping[str, Any]) -> bool:
    """Tell whether a row shows a number as its target's."""
    return row["latency_p50_ms"] is not None and row["verdict"] != "INVALID"


def _asked(row: Mapping[str, Any]) -> bool:
    """Tell whether an accelerator was asked: a device that is somebody else's answers nothing."""
    return row["target"] != "xnnpack" and row["status"] not in ("busy", "unreachable", "silent")


def _kind(row: Mapping[str, Any]) -> str:
    return f"{str(row['target']).partition('-')[0]}:{row['status']}"


class _Bench:
    """A farm on this machine with a target for every way of the library, and models for them."""

    def __init__(self, folder: Path, library: Path) -> None:
        from standins import compiler, graphs

        self.folder, self.library = folder, library
        self.chance = random.Random(SEED)
        self.plain: dict[str, Path] = {}
        self.compiled: dict[str, Path] = {}
        for number in range(14):
            words = ["ADD"] * self.chance.randint(4, 40)
            width = self.chance.choice((8, 64, 1024))
            name = f"adds-{number}"
            self.plain[name] = graphs.chain(folder / f"{name}.tflite", words, (1, width))
            made = folder / f"{name}_edgetpu.tflite"
            rows = compiler.compile_file(self.plain[name], made)
            made.with_suffix(".log").write_text(compiler.log_text(rows))
            self.compiled[name] = made
        self._compiler = compiler

    def lies(self) -> list[dict[str, Any]]:
        """Run every lie; return the rows."""
        ways: dict[str, dict[str, str] | None] = {}
        for number in range(_OPTIONS):
            ways[f"missing-{number}"] = None
            ways[f"none-{number}"] = {"take": "none", **self._work()}
            ways[f"half-{number}"] = {"take": "half", **self._work()}
        some = dict(list(self.plain.items())[:6])
        models = [
            (name, path, ["as_is", *(f"as_is@{way}" for way in ways)], ["bench-0"])
            for name, path in some.items()
        ]
        every = [f"bench-{number}" for number in range(_OPTIONS)]
        models += [(f"{name}-gpu", path, ["as_is@gpu"], every) for name, path in some.items()]
        for name, path in some.items():
            # Called compiled, with a log that says so, and no operator of it is.
            empty = Path(shutil.copy(path, self.folder / f"{name}-empty_edgetpu.tflite"))
            empty.with_suffix(".log").write_text(
                self._compiler.log_text(Counter({("ADD", self._compiler.MAPPED): 7}))
            )
            models.append((f"{name}-empty", empty, ["as_is@edgetpu"], every))
            other = Path(
                shutil.copy(self.compiled[name], self.folder / f"{name}-lie_edgetpu.tflite")
            )
            other.with_suffix(".log").write_text(self._lying_log())
            models.append((f"{name}-log", other, ["as_is"], every))
        rows = self._run("lies", ways, models)
        return [row for row in rows if _asked(row)]

    def output_lies(self) -> list[dict[str, Any]]:
        """Run every lie about outputs, for files built here and for files given compiled."""
        ways: dict[str, dict[str, str] | None] = {}
        for name, how in OUTPUT_LIES.items():
            ways[f"built-{name}"] = {"take": "add", **how}
            ways[f"given-{name}"] = {"take": "edgetpu", **how}
        models = []
        for name, path in list(self.plain.items())[:6]:
            built = [f"as_is@built-{lie}" for lie in OUTPUT_LIES]
            given = [f"as_is@given-{lie}" for lie in OUTPUT_LIES]
            models.append((name, path, built, ["bench-0"]))
            models.append((f"{name}-tpu", self.compiled[name], given, ["bench-1"]))
        for name in COMPILED:
            pair = need(DATA / "coral" / name, "a compiled file")
            given = [f"as_is@given-{lie}" for lie in OUTPUT_LIES]
            models.append((f"{Path(name).stem[:9]}-tpu", pair, given, ["bench-2"]))
        rows = self._run("outputs", ways, models)
        return [row for row in rows if _asked(row)]

    def honest(self) -> list[dict[str, Any]]:
        """Run what is true: whole, in part where that is allowed, compiled with and without a log."""
        ways: dict[str, dict[str, str] | None] = {}
        for number in range(_OPTIONS):
            ways[f"npu-{number}"] = {"take": "add", **self._work()}
            ways[f"part-{number}"] = {"take": "half", **self._work()}
        every = [f"bench-{number}" for number in range(_OPTIONS)]
        models = []
        for place, (name, path) in enumerate(self.plain.items()):
            allowed = [way for way in ways if way.startswith("npu") or place < 6]
            models.append(
                (name, path, ["as_is", *(f"as_is@{one}" for one in allowed)], ["bench-0"])
            )
            models.append((f"{name}-tpu", self.compiled[name], ["as_is"], every))
            if place < 6:
                alone = shutil.copy(
                    self.compiled[name], self.folder / f"{name}-alone_edgetpu.tflite"
                )
                models.append((f"{name}-alone", Path(alone), ["as_is"], every))
        pair = DATA / "coral" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
        models.append(("mobilenet", need(pair, "a compiled file"), ["as_is"], every))
        lstm = DATA / "coral" / COMPILED[1]
        models.append(("lstm", need(lstm, "a compiled file"), ["as_is"], every))
        rows = self._run("honest", ways, models, "[accept]\nmin_delegated = 0.3\n")
        return [row for row in rows if _asked(row)]

    def _work(self) -> dict[str, str]:
        return {"work_us": str(self.chance.choice((0, 0, 5, 50, 500)))}

    def _lying_log(self) -> str:
        """A log of another model: operators left that the file has not, or none mapped at all."""
        mapped, left = self.chance.randint(0, 30), self.chance.randint(1, 9)
        rows = Counter({("CONV_2D", "Operation not supported"): left})
        if mapped:
            rows["ADD", self._compiler.MAPPED] = mapped
        return str(self._compiler.log_text(rows))

    def _run(
        self,
        name: str,
        ways: Mapping[str, dict[str, str] | None],
        models: Sequence[tuple[str, Path, list[str], list[str]]],
        extra: str = "",
    ) -> list[dict[str, Any]]:
        folder = self.folder / name
        profiles = folder / "config" / "edge-harness" / "profiles"
        profiles.mkdir(parents=True)
        entries = {"edgetpu": {"take": "edgetpu"}, **ways}
        accelerators = "".join(
            f'[[accelerators]]\nname = "stand-in"\ntarget = "{target}"\nexternal_delegate = '
            f'"{"libmissing.so" if how is None else self.library}"\n'
            f"options = {{ {', '.join(f'{key} = {json.dumps(word)}' for key, word in (how or {}).items())} }}\n"
            for target, how in entries.items()
        )
        targets = json.dumps(["xnnpack", "gpu", *entries])
        (profiles / "bench.toml").write_text(
            f'title = "stand-ins"\narch = "any"\ntargets = {targets}\n{accelerators}'
        )
        farm, plan = folder / "farm.toml", folder / "plan.toml"
        farm.write_text(
            "".join(
                f'[device.bench-{number}]\nprofile = "bench"\naddress = "local:"\n'
                f'python = "{sys.executable}"\nworkdir = "{self.folder / "work"}"\ndelegate_options = '
                f'{{ edgetpu = {{ device = "usb:{number}", work_us = "{self._work()["work_us"]}" }} }}\n'
                for number in range(_OPTIONS)
            )
        )
        plan.write_text(
            "".join(
                f'[[model]]\nname = "{model}"\npath = "{path}"\nrecipes = {json.dumps(recipes)}\n'
                f"devices = {json.dumps(devices)}\n"
                for model, path, recipes, devices in models
            )
            + f"[run]\nseed = {SEED}\n{_DOSE}{extra}"
        )
        done = run(
            [COMMAND, "run", plan, "--json", "--results", folder / "results", "--wait"],
            ends=(0, 1),
            timeout=3000,
            XDG_CONFIG_HOME=str(folder / "config"),
            # No GPU, whatever this machine has.
            VK_ICD_FILENAMES=os.devnull,
            VK_DRIVER_FILES=os.devnull,
        )
        rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
        return rows


def _enqueued() -> Iterator[bool]:
    """Launches of a GPU whose time is that of handing the work over; whether each is shown."""
    chance = random.Random(SEED)
    for number in range(60):
        whole_ns = chance.uniform(1e4, 1e9)
        told = Delegation(
            delegate="gpu",
            delegated_ops=31,
            total_ops=31,
            partitions=1,
            evidence="is_fully_accelerated, by the GPU alone",
            fully=True,
            clock="run",
            whole_ns=round(whole_ns),
        )
        cell = _cell(number)
        timing = Timing(
            own=whole_ns / chance.uniform(20, 2000), cpu=whole_ns * chance.uniform(0.1, 30)
        )
        launch = Launch(
            id=str(number),
            cell_id=cell.id,
            kind="timed",
            block=0,
            position=0,
            seed=0,
            runtime="ai_edge_litert 2",
            delegation=told,
            wall_ns=10**9,
        )
        verdicts = [judge(cell, [launch], timing), judge(cell, [launch, _true(launch)], timing)]
        yield any(found is None or found.shown for found in verdicts)


def _true(launch: Launch) -> Launch:
    return replace(launch, delegation=replace(launch.delegation, clock="run+read"))


def _cell(number: int) -> Cell:
    variant = Variant(
        model="m",
        recipe="float16@gpu",
        target="gpu",
        path=Path("m.tflite"),
        digest=f"{number:064x}",
        size_bytes=1,
        operators={"CONV_2D": 31},
    )
    return Cell(
        model="m", recipe="float16@gpu", target="gpu", device="d", threads=1, variant=variant
    )
