"""A phone that answers anything: the dialect gives nouns or our errors, and never anything else."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "standins"))
from runner_bundles import make_bundle

from harness import assets
from harness.devices.dialects.benchmark_model import scripts
from harness.devices.dialects.benchmark_model.dialect import BenchmarkModelDialect
from harness.devices.dialects.benchmark_model.options import RunnerOptions
from harness.errors import ConfigError, HarnessError, TransferFailed, Unsupported
from harness.farm import bundles
from harness.measure.sessions import Session
from harness.protocols import Channel, Reply
from harness.testing import TalkTransport
from harness.types import Device, DeviceFacts, Dose, LaunchOrder

MODEL = Path(assets.EMBEDDED_MODEL)
PHONE = Device(
    name="phone",
    profile="p",
    address="local:",
    dialect="benchmark_model",
    dialect_options={"workdir": "/w"},
)
ORDER = LaunchOrder(
    cell_id="c",
    kind="timed",
    block=0,
    position=0,
    variant_digest="d" * 64,
    target="xnnpack",
    threads=1,
    dose=Dose(),
)


class AnyTransport:
    """A transport whose commands answer the given bytes, one after the other."""

    def __init__(self, answers: Sequence[bytes], code: int = 0) -> None:
        self.answers = list(answers)
        self.code = code

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Reply(argv=tuple(argv), exit_code=self.code, stdout=answer, stderr=answer, seconds=0)

    def put(self, source: Path, destination: str) -> None:
        pass

    def get(self, source: str, destination: Path, max_bytes: int = 0) -> None:
        raise TransferFailed(source)

    def talk(self, argv: Sequence[str]) -> Channel:
        raise AssertionError

    def close(self) -> None:
        pass


PIECES = st.sampled_from(
    [
        scripts.END,
        b"committed\n",
        b"linked published restored changed\n",
        b"code 0\n",
        b"code 999\n",
        b"late yes\n",
        b"edge-harness-file out 5\nabcde",
        b"edge-harness-file result 999999999\n",
        b"edge-harness-file bundle 2\n{}",
        b"cpu 0 1 1\nallowed 0-99999999\n",
        b"failed mkdir\n",
    ]
)
ANSWERS = st.lists(
    st.lists(PIECES | st.binary(max_size=30), max_size=5).map(b"".join), min_size=1, max_size=4
)


@settings(deadline=None)
@given(ANSWERS, st.sampled_from([0, 1, 137]))
def test_a_phone_that_answers_anything_gives_facts_or_our_errors(
    answers: list[bytes], code: int
) -> None:
    dialect = BenchmarkModelDialect(AnyTransport(answers, code), PHONE)
    for action in (
        lambda: dialect.deploy({"d" * 64: MODEL}),
        dialect.hello,
        lambda: dialect.launch(ORDER),
        dialect.close,
    ):
        with suppress(HarnessError):
            action()


@settings(max_examples=30, deadline=None)
@given(ANSWERS)
def test_a_phone_that_answers_anything_gets_a_bundle_or_our_errors(answers: list[bytes]) -> None:
    transport = AnyTransport([*answers, scripts.END])
    dialect = BenchmarkModelDialect(transport, PHONE)
    session = Session.adopt(PHONE, transport, dialect, DeviceFacts(identity="i"))
    with tempfile.TemporaryDirectory() as folder, suppress(HarnessError):
        made = make_bundle(Path(folder) / "b")
        bundles.install(session, str(made), dry_run=False, on_progress=lambda _: None)


def test_a_transport_without_files_or_commands_is_refused() -> None:
    with pytest.raises(Unsupported, match="benchmark_model needs"):
        BenchmarkModelDialect(TalkTransport(PHONE), PHONE)


@pytest.mark.parametrize(
    "wrong", [{"workdir": "relative"}, {"sampler_seconds": 0.001}, {"screen": "off"}]
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RunnerOptions.of(Device(name="d", profile="p", address="local:", dialect_options=wrong))
