"""The vendor's tool on an accelerator: its times count only if its log shows what ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from test_benchmark_log import CREATED, NOTHING, PART, TIMES, WHOLE

from harness.analysis.layers import tool
from harness.analysis.layers.operators import Subject
from harness.errors import FellBack, HarnessError, Unproven
from harness.events import Emit, Event, LaunchStarted, MeasuringStarted, ignore
from harness.measure.bench import Bench
from harness.measure.sessions import Session
from harness.protocols import Reply
from harness.testing import FakeDialect, FakeTransport
from harness.types import Device

PROFILE = (
    "============ Run Order ============\n\t[node type]\t[avg ms]\t[times called]\t[Name]\n"
    "\tCONV_2D\t0.020\t1\t[conv]:0\n"
)


def measured(log: str, target: str, folder: Path, emit: Emit = ignore) -> int:
    class Tool(FakeTransport):
        def run(
            self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None
        ) -> Reply:
            return Reply(
                argv=tuple(argv), exit_code=0, stdout=log.encode(), stderr=b"", seconds=0.1
            )

    model = folder / "m.tflite"
    model.write_bytes(b"TFL3")
    subject = Subject(
        run="r",
        model="m",
        recipe="r",
        target=target,
        device="d",
        threads=1,
        path=model,
        digest="0" * 64,
    )
    device = Device(name="d", profile="fake", address="fake:")
    session = Session(device, transport=Tool, dialect=FakeDialect.opener())
    with Bench(session=session, emit=emit) as bench:
        (found,) = tool.measure([subject], bench, "benchmark_model", launches=1)
    return len(found.operators)


@pytest.mark.parametrize("lines", [WHOLE, PART])
def test_times_of_a_gpu_that_ran_the_graph_count(lines: str, tmp_path: Path) -> None:
    assert measured(CREATED + lines + TIMES + PROFILE, "gpu", tmp_path) == 1


@pytest.mark.parametrize(("lines", "error"), [(NOTHING, FellBack), ("", Unproven)])
def test_cpu_times_are_no_times_of_a_gpu(
    lines: str, error: type[HarnessError], tmp_path: Path
) -> None:
    with pytest.raises(error):
        measured(CREATED + lines + TIMES + PROFILE, "gpu", tmp_path)
    assert measured(lines + TIMES + PROFILE, "xnnpack", tmp_path) == 1


def test_the_launch_of_the_tool_is_an_event(tmp_path: Path) -> None:
    events: list[Event] = []

    measured(TIMES + PROFILE, "xnnpack", tmp_path, events.append)

    measuring, started = events
    assert isinstance(measuring, MeasuringStarted)
    assert measuring.launches == 1
    assert isinstance(started, LaunchStarted)
    assert (started.cell.device, started.cell.recipe) == ("d", "r #0 benchmark_model")
