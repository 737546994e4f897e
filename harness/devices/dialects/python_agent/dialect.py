"""Speak with the Linux agent: JSON lines on the stdin and stdout of one process on the device.

The agent is packed, copied once under its digest and started over one channel; files travel by the
transport to `incoming/` and become blobs when the agent has checked them. docs/agent-protocol.md
has the verbs. When the stream breaks, the dialect forgets it and the next `deploy` or `hello`
starts the agent anew (over a transport that is connected again).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness.devices import abilities
from harness.devices.clocks import STEPPED, DeviceClock, LaunchStamps
from harness.devices.dialects.python_agent import answers, bootstrap, packing, transfer
from harness.devices.dialects.python_agent.answers import Fields
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.dialects.python_agent.renewal import TOKEN, Renewal, holder
from harness.devices.framing import JsonLines
from harness.errors import (
    AgentError,
    AgentSilent,
    Crashed,
    FellBack,
    HarnessError,
    LeaseError,
    ModelRejected,
    OutOfMemory,
    RuntimeMissing,
    TransferFailed,
    Unsupported,
)
from harness.protocols import Capabilities, Channel, FullTransport, Holder, Transport
from harness.types import Device, DeviceFacts, Exchange, Launch, LaunchOrder, Push

VERSION = 1
INLINE_BYTES = 500_000
"""Inputs larger than this (all of one request together) travel as blobs."""

MAX_INFER_SAMPLES = 64

_ERRORS: dict[str, type[HarnessError]] = {
    error.kind: error
    for error in (
        AgentSilent,
        Crashed,
        FellBack,
        LeaseError,
        ModelRejected,
        OutOfMemory,
        RuntimeMissing,
        TransferFailed,
        Unsupported,
    )
}
_TIMED = ("timed", "cpu")
_ANSWER_SECONDS = 30.0
_HELLO_SECONDS = 150.0
_LAUNCH_GRACE_SECONDS = 20.0
_LONGEST_HOLDER = 200
_SLOWEST_DISK_BYTES_A_SECOND = 1e6


class JsonLinesDialect:
    """The dialect of one device; not for two threads at once."""

    can = Capabilities(
        launches=frozenset({"timed", "memory", "bare", "accuracy", "cpu"}), infers=True, places=True
    )

    def __init__(self, transport: FullTransport, device: Device) -> None:
        """Nothing is sent yet."""
        self._transport = transport
        self._device = device
        self._options = AgentOptions.of(device)
        self._channel: Channel | None = None
        self._lines: JsonLines | None = None
        self._clock = DeviceClock(self.exchange)
        self._next_id = 0
        self._epoch = 0
        self._renewal: Renewal | None = None

    def deploy(self, files: Mapping[str, Path]) -> tuple[Push, ...]:
        """Bring the agent and these files (by sha256) to the device; what is there stays.

        Returns what was sent and what it took. Raises RuntimeMissing where no usable Python is,
        TransferFailed where a file does not arrive whole, and what the transport raises.
        """
        self._start()
        if not files:
            return ()
        answer = self._ask("have", _ANSWER_SECONDS, digests=sorted(files))
        there, unpacks = set(answer.texts("have")), answer.texts("unpacks")
        missing = sorted(set(files) - there)
        if missing:
            self.hold()
        return tuple(self._push(digest, files[digest], unpacks) for digest in missing)

    def path_of(self, digest: str) -> str:
        """Return where a deployed file lies on the device; see protocols.KeepsFiles."""
        return f"{self._options.workdir}/blobs/{digest}"

    def hello(self) -> DeviceFacts:
        """Ask the device what it is; its clock is compared with ours on the way."""
        self._start()
        answer = self._ask("hello", _HELLO_SECONDS)
        # By the way back alone: on the way there the agent starts, seconds of it on a slow board, and
        # the midpoint of both ways (RFC 5905) would be off by half of that.
        offset = (answer.integer("answered_ns") - time.time_ns()) / 1e9
        return answers.device_facts(answer, offset)

    def launch(self, order: LaunchOrder) -> Launch:
        """Make one launch and return it whole.

        A timed one has its window: the device's clock is read before and after it. Raises ModelRejected, RuntimeMissing, OutOfMemory, Crashed, AgentSilent (the launch passed
        its deadline), Unsupported, LeaseError, AgentError, TransferFailed or Unreachable.
        """
        self.hold()
        seconds = order.timeout_seconds + _LAUNCH_GRACE_SECONDS
        timed = order.kind in _TIMED
        if timed:
            self._read_clock()
        sent_ns = time.monotonic_ns()
        answer = self._ask("launch", seconds, order=_wire(order))
        received_ns = time.monotonic_ns()
        if timed:
            # Before the samples are fetched: less time means less drift. An error here does not
            # invalidate what was measured.
            with suppress(HarnessError):
                self._clock.after_launch()
        launch = answers.launch(order, answer, self._fetch)
        return self._with_window(launch, answers.stamps(answer, sent_ns, received_ns))

    def exchange(self) -> Exchange:
        """Ask once for the device's clock; see protocols.Clocked."""
        self._start()
        sent_ns = time.monotonic_ns()
        answer = self._ask("clock", _ANSWER_SECONDS)
        received_ns = time.monotonic_ns()
        return Exchange(
            sent_ns=sent_ns,
            arrived_ns=answer.integer("arrived_ns"),
            answered_ns=answer.integer("answered_ns"),
            received_ns=received_ns,
        )

    def infer(
        self, order: LaunchOrder, inputs: Mapping[str, np.ndarray[Any, Any]]
    ) -> Mapping[str, np.ndarray[Any, Any]]:
        """Run the file on at most 64 inputs, one sample at a time; see protocols.Dialect.infer.

        Inputs are matched by tensor name, else by the names of the file's only signature, else by
        order. An output's own batch dimension of 1 is replaced by n. Raises as `launch` does.
        """
        self.hold()
        count = _samples(self._device.name, inputs)
        entries = [self._entry(name, array, inputs) for name, array in inputs.items()]
        seconds = order.timeout_seconds + _LAUNCH_GRACE_SECONDS
        answer = self._ask("infer", seconds, order=_wire(order), n=count, inputs=entries)
        return answers.outputs(answer, self._fetch)

    def holder(self) -> Holder | None:
        """Ask who has the device; see protocols.Leasing."""
        self._start()
        answer = self._lease("look")
        name = answer.text_or_none("holder")
        if name is None:
            return None
        return Holder(
            name=name[:_LONGEST_HOLDER],
            seconds=answer.number("seconds"),
            is_this=answer.flag("yours"),
        )

    def hold(self) -> None:
        """Take the device, and renew the lease from a thread; see protocols.Leasing."""
        self._start()
        if self._epoch:
            return
        self._epoch = self._lease("take", holder=holder()).integer("epoch")
        lines = self._lines
        assert lines is not None
        renewal = {**self._request("lease", "lease"), "action": "renew", "token": TOKEN}
        self._renewal = Renewal(lambda: lines.send(renewal))

    def release(self) -> None:
        """Let go of the device; see protocols.Leasing."""
        if self._epoch and self._lines is not None:
            with suppress(HarnessError):
                self._lease("drop")
        self._let_go()

    def close(self) -> None:
        """End the agent; never raises."""
        if self._lines is not None:
            with suppress(HarnessError):
                self._ask("bye", _ANSWER_SECONDS)
        self._forget()

    # --- the clock -------------------------------------------------------------------------------

    def _read_clock(self) -> None:
        try:
            self._clock.before_launch()
        except AgentError:
            if self._lines is None:
                raise
            # An agent without the verb, or whose answer makes no sense.
            self._clock.stop_asking()

    def _with_window(self, launch: Launch, stamps: LaunchStamps | None) -> Launch:
        """Add the launch's window on both clocks, and a flag if the device's clock stepped."""
        if stamps is None:
            return launch
        window = self._clock.window(stamps)
        if window is None:
            return replace(launch, flags=(*launch.flags, STEPPED))
        window = replace(window, answered_utc=datetime.now(tz=UTC).isoformat("T", "milliseconds"))
        flags = (*launch.flags, STEPPED) if window.stepped else launch.flags
        return replace(launch, window=window, flags=flags)

    # --- files -----------------------------------------------------------------------------------

    def _push(self, digest: str, source: Path, unpacks: Collection[str]) -> Push:
        began = time.monotonic()
        # A name of its own: two controllers may send the same file at the same time.
        part = f"{digest}.{secrets.token_hex(4)}.part"
        with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
            sent = transfer.encode(source, self._device, unpacks, Path(folder))
            self._put(sent.path, f"{self._options.workdir}/incoming/{part}")
        size = sent.file_bytes
        packing = {} if sent.codec is None else {"codec": sent.codec, "bytes": size}
        seconds = _ANSWER_SECONDS + size / _SLOWEST_DISK_BYTES_A_SECOND
        answer = self._ask("commit", seconds, digest=digest, part=part, **packing)
        return Push(
            digest=digest,
            file_bytes=size,
            travelled_bytes=answer.integer("arrived"),
            codec=sent.codec,
            seconds=time.monotonic() - began,
        )

    def _put(self, source: Path, part: str) -> None:
        try:
            self._transport.put(source, part)
        except TransferFailed:
            # Most often the disk is full, and the rest of a file keeps it so. After a broken
            # connection it lies there until the agent cleans up, a day later.
            with suppress(HarnessError):
                self._transport.run(["rm", "-f", part], _ANSWER_SECONDS)
            raise

    def _fetch(self, digest: str, size: int) -> bytes:
        """Bring an output file of this digest and size, and have it removed there."""
        if not answers.is_digest(digest) or size > answers.MAX_OUTPUT_BYTES:
            raise AgentError(
                f"{self._device.name}: the agent offered {digest[:80]!r}, {size} bytes"
            )
        with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
            target = Path(folder) / "out"
            self._transport.get(f"{self._options.workdir}/out/{digest}", target, size)
            data = target.read_bytes()
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            message = (
                f"{self._device.name}: out/{digest} arrived as {len(data)} bytes with another "
                "digest; check the connection and the device's disk"
            )
            raise TransferFailed(message)
        self._ask("clean", _ANSWER_SECONDS, out=[digest])
        return data

    def _entry(
        self, name: str, value: np.ndarray[Any, Any], every: Mapping[str, np.ndarray[Any, Any]]
    ) -> dict[str, Any]:
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        entry = {"name": name, "dtype": value.dtype.name, "shape": list(value.shape)}
        data = little.tobytes()
        if sum(one.nbytes for one in every.values()) <= INLINE_BYTES:
            return {**entry, "data": base64.b64encode(data).decode()}
        digest = hashlib.sha256(data).hexdigest()
        with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
            source = Path(folder) / digest
            source.write_bytes(data)
            self.deploy({digest: source})
        return {**entry, "blob": digest}

    # --- the conversation ------------------------------------------------------------------------

    def _start(self) -> None:
        if self._lines is not None:
            return
        archive, digest = packing.agent_zip()
        path = bootstrap.bring(self._transport, self._device, archive, digest)
        self._channel = self._transport.talk([self._options.python, path])
        self._lines = JsonLines(self._channel, self._device.name)
        self._clock = DeviceClock(self.exchange)

    def _lease(self, action: str, **fields: str) -> Fields:
        return self._ask("lease", _ANSWER_SECONDS, action=action, token=TOKEN, **fields)

    def _request(self, identity: int | str, verb: str) -> dict[str, Any]:
        return {"v": VERSION, "id": identity, "verb": verb, "epoch": self._epoch}

    def _ask(self, verb: str, seconds: float, **fields: Any) -> Fields:  # noqa: ANN401 - JSON
        """Send one request and return its answer; raises what an error answer stands for."""
        lines = self._lines
        assert lines is not None
        self._next_id += 1
        identity = self._next_id
        deadline = time.monotonic() + seconds
        request = {**self._request(identity, verb), **fields}
        whole = False
        try:
            lines.send(request)
            answer = lines.read(deadline)
            # Answers to another request are stale, and progress is for who watches.
            while answer.get("event") == "progress" or answer.get("id") not in (identity, None):
                answer = lines.read(deadline)
            whole = True
        finally:
            # Whatever interrupted the exchange, the next answer could no longer be told apart.
            if not whole:
                self._forget()
        return self._judge(verb, answer)

    def _judge(self, verb: str, answer: Mapping[str, Any]) -> Fields:
        fields = Fields(f"{self._device.name}: {verb}", answer)
        event = fields.text("event")
        if event == "result" and fields.value.get("id") is not None:
            return fields
        if event != "error":
            raise AgentError(f"{fields.where}: the agent answered an unknown event {event[:80]!r}")
        reason = f"{self._device.name}: {fields.reason('reason')}"
        if fields.text("kind") == LeaseError.kind:
            self._let_go()
        raise _ERRORS.get(fields.text("kind"), AgentError)(reason)

    def _let_go(self) -> None:
        renewal, self._renewal, self._epoch = self._renewal, None, 0
        if renewal is not None:
            renewal.close()

    def _forget(self) -> None:
        self._let_go()
        channel, self._channel, self._lines = self._channel, None, None
        if channel is not None:
            channel.close()


def open_json_lines(transport: Transport, device: Device) -> JsonLinesDialect:
    """Make the dialect; nothing is sent before `deploy` or `hello`.

    Raises Unsupported where the transport copies no files or runs no commands.
    """
    return JsonLinesDialect(abilities.everything(transport, device, "the Python agent"), device)


def _wire(order: LaunchOrder) -> dict[str, Any]:
    return {
        "kind": "timed" if order.kind == "cpu" else order.kind,
        "block": order.block,
        "position": order.position,
        "digest": order.variant_digest,
        "target": order.target,
        "threads": order.threads,
        "dose": asdict(order.dose),
        "inner_loop": order.inner_loop,
        "seed": order.seed,
        "runtime": order.runtime,
        "delegate": order.delegate,
        "delegate_options": dict(order.delegate_options),
        "processors": list(order.processors),
        "timeout_seconds": order.timeout_seconds,
    }


def _samples(device: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> int:
    counts = {value.shape[0] if value.ndim else 0 for value in inputs.values()}
    if len(counts) != 1 or not 0 < min(counts) <= MAX_INFER_SAMPLES:
        shapes = {name: value.shape for name, value in inputs.items()}
        message = (
            f"{device}: infer takes 1 to {MAX_INFER_SAMPLES} samples, as many of every input; "
            f"given were {shapes}"
        )
        raise AgentError(message)
    return min(counts)
