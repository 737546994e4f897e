"""Operator times on a device behind SSH: from the tool, which is sent there, and from cut graphs."""

import hashlib
import sys
from pathlib import Path

import pytest

from harness.analysis.layers import Subject, estimate, tool
from harness.demo import DATA
from harness.devices import opening
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.errors import Crashed, Unsupported
from harness.measure.bench import Bench
from harness.measure.sessions import Session
from harness.types import Device

STANDIN = Path(__file__).with_name("standin_benchmark_model.py")
DIGITS = DATA / "digits.tflite"


def subject(target: str = "xnnpack", path: Path = DIGITS) -> Subject:
    return Subject(
        run="r",
        model="digits",
        recipe="as_is",
        target=target,
        device="loopback",
        threads=1,
        path=path,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def test_the_tool_and_the_graphs_run_on_the_device(ssh_device: Device, tmp_path: Path) -> None:
    other = tmp_path / "other.tflite"
    other.write_bytes(b"\0\0\0\0XXXX")
    session = Session(opening.with_options(ssh_device, python=sys.executable))
    try:
        assert tool.find(session) is None, "no such tool in the PATH of this machine"
        words = tool.find(session, STANDIN)
        assert words is not None
        assert words[0].startswith(AgentOptions.of(ssh_device).workdir)
        with Bench(session=session) as bench:
            (found,) = tool.measure([subject()], bench, words, launches=3)
            with pytest.raises(Crashed, match="Failed to load the model"):
                tool.measure([subject(path=other)], bench, words, launches=1)
            with pytest.raises(Unsupported, match="not edgetpu"):
                tool.measure([subject("edgetpu")], bench, words)
        (cut,) = estimate.measure([subject()], session, tmp_path, launches=1, at_most=2)
    finally:
        session.close()

    assert [one.type for one in found.operators] == ["CONV_2D", "SOFTMAX"]
    assert found.operators[0].half_width_ns == 0
    assert found.whole_ns == pytest.approx(found.sum_ns)
    assert [(one.first, one.last) for one in cut.operators] == [(0, 3), (4, 8)]
    assert cut.whole_ns > 0
