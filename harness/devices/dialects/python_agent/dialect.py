"""Communicate with the Linux agent: JSON lines on stdin and stdout of one process on the device.

The dialect packs the agent, copies it once under its digest and starts it over one channel. The
transport copies files to `incoming/`; they become blobs after the agent has checked them.
docs/agent-protocol.md lists the verbs. If the stream breaks, the dialect drops it, and the next
`deploy` or `hello` starts the agent again (over a reconnected transport).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import shlex
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
from harness.devices.framing import JsonLines
from harness.devices.renewal import TOKEN, Renewal, holder
from harness.errors import (
    AgentError,
    AgentSilent,
    Crashed,
    FellBack,
    HarnessError,
    LeaseError,
    LeaseFileError,
    ModelRejected,
    NoSpace,
    OutOfMemory,
    RuntimeMissing,
    TransferFailed,
    Unsupported,
)
from harness.protocols import Capabilities, Channel, FullTransport, Holder, Transport
from harness.types import Device, DeviceFacts, Exchange, Launch, LaunchOrder, Push

VERSION = 1
INLINE_BYTES = 500_000
"""If the inputs of a request are larger than this in total, they travel as blobs."""

MAX_INFER_SAMPLES = 64

_ERRORS: dict[str, type[HarnessError]] = {
    error.kind: error
    for error in (
        AgentSilent,
        Crashed,
        FellBack,
        LeaseError,
        LeaseFileError,
        ModelRejected,
        NoSpace,
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
_MAX_HOLDER_CHARACTERS = 200
_MIN_DISK_BYTES_PER_SECOND = 1e6


class JsonLinesDialect:
    """The dialect of one device; not thread-safe."""

    can = Capabilities(
        launches=frozenset({"timed", "memory", "bare", "accuracy", "cpu"}), infers=True, places=True
    )

    def __init__(self, transport: FullTransport, device: Device) -> None:
        """Send nothing yet."""
        self._transport = transport
        self._device = device
        self._options = AgentOptions.of(device)
        self._channel: Channel | None = None
        self._lines: JsonLines | None = None
        self._clock = DeviceClock(self.exchange)
        self._next_id = 0
        self._epoch = 0
        self._renewal: Renewal | None = None
        self._notes: list[str] = []

    def deploy(self, files: Mapping[str, Path]) -> tuple[Push, ...]:
        """Copy the agent and these files (by sha256) to the device, except those already there.

        Returns the size and time of each transfer. Raises RuntimeMissing if the device has no usable
        Python, NoSpace if a file does not fit on its disk, TransferFailed if one does not arrive
        whole, and what the transport raises.
        """
        self._start()
        if not files:
            return ()
        answer = self._ask("have", _ANSWER_SECONDS, digests=sorted(files))
        present, unpacks = set(answer.texts("have")), answer.texts("unpacks")
        missing = sorted(set(files) - present)
        if missing:
            self.hold()
        return tuple(self._push(digest, files[digest], unpacks) for digest in missing)

    def path_of(self, digest: str) -> str:
        """Return the path of a deployed file on the device; see protocols.KeepsFiles."""
        return f"{self._options.workdir}/blobs/{digest}"

    def hello(self) -> DeviceFacts:
        """Return the device's facts, with the offset of its wall clock to the host's."""
        self._start()
        answer = self._ask("hello", _HELLO_SECONDS)
        # Only the answer's travel counts. The request also waits for the agent to start, which takes
        # seconds on a slow board, so the midpoint of both directions (RFC 5905) would be off by half
        # of that.
        offset = (answer.integer("answered_ns") - time.time_ns()) / 1e9
        return answers.device_facts(answer, offset)

    def launch(self, order: LaunchOrder) -> Launch:
        """Make one launch and return it with all its samples.

        A timed launch has a window: the device's clock is read before and after it. Raises
        ModelRejected, RuntimeMissing, OutOfMemory, Crashed, AgentSilent (the launch passed its
        deadline), Unsupported, LeaseError, AgentError, TransferFailed or Unreachable.
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
            # Read before the samples are fetched: less time means less drift. An error here does not
            # invalidate the measurement.
            with suppress(HarnessError):
                self._clock.after_launch()
        launch = answers.launch(order, answer, self._fetch)
        return self._with_window(launch, answers.stamps(answer, sent_ns, received_ns))

    def exchange(self) -> Exchange:
        """Read the device's clock once; see protocols.Clocked."""
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
        """Run the file on at most 64 samples, one at a time; see protocols.Dialect.infer.

        Inputs are matched by tensor name, else by the names of the file's only signature, else by
        order. The number of samples replaces an output's batch dimension of 1. Raises as `launch`.
        """
        self.hold()
        count = _samples(self._device.name, inputs)
        entries = [self._entry(name, array, inputs) for name, array in inputs.items()]
        seconds = order.timeout_seconds + _LAUNCH_GRACE_SECONDS
        answer = self._ask("infer", seconds, order=_wire(order), n=count, inputs=entries)
        return answers.outputs(answer, self._fetch)

    def holder(self) -> Holder | None:
        """Return who holds the device's lease; see protocols.Leasing."""
        self._start()
        answer = self._lease("look")
        name = answer.text_or_none("holder")
        if name is None:
            return None
        return Holder(
            name=name[:_MAX_HOLDER_CHARACTERS],
            seconds=answer.number("seconds"),
            is_this=answer.flag("yours"),
        )

    def hold(self) -> None:
        """Take the lease and renew it from a thread; see protocols.Leasing."""
        self._start()
        if self._epoch:
            return
        self._epoch = self._lease("take", holder=holder()).integer("epoch")
        lines = self._lines
        assert lines is not None
        renewal = {**self._request("lease", "lease"), "action": "renew", "token": TOKEN}
        self._renewal = Renewal(lambda: lines.send(renewal))

    def release(self) -> None:
        """Release the lease; see protocols.Leasing."""
        if self._epoch and self._lines is not None:
            with suppress(HarnessError):
                self._lease("drop")
        self._end_renewal()

    def take_notes(self) -> list[str]:
        """Return what the agent reported about the lease file; see protocols.TakesNotes."""
        notes, self._notes = self._notes, []
        return notes

    def close(self) -> None:
        """End the agent; never raises."""
        if self._lines is not None:
            with suppress(HarnessError):
                self._ask("bye", _ANSWER_SECONDS)
        self._disconnect()

    # --- the clock -------------------------------------------------------------------------------

    def _read_clock(self) -> None:
        try:
            self._clock.before_launch()
        except AgentError:
            if self._lines is None:
                raise
            # The agent has no such verb, or its answer is invalid.
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
        # The name is unique: two controllers may send the same file at the same time.
        part = f"{digest}.{secrets.token_hex(4)}.part"
        with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
            sent = transfer.encode(source, self._device, unpacks, Path(folder))
            place = f"{self._options.workdir}/incoming/{part}"
            transfer.put(self._transport, self._device, sent.path, place)
        size = sent.file_bytes
        packing = {} if sent.codec is None else {"codec": sent.codec, "bytes": size}
        seconds = _ANSWER_SECONDS + size / _MIN_DISK_BYTES_PER_SECOND
        answer = self._ask("commit", seconds, digest=digest, part=part, **packing)
        return Push(
            digest=digest,
            file_bytes=size,
            travelled_bytes=answer.integer("arrived"),
            codec=sent.codec,
            seconds=time.monotonic() - began,
        )

    def _fetch(self, digest: str, size: int) -> bytes:
        """Copy the output file of this digest and size here, and remove it on the device."""
        if not answers.is_digest(digest) or size > answers.MAX_OUTPUT_BYTES:
            raise AgentError(
                f"{self._device.name}: the agent named an invalid output file: {digest[:80]!r}, "
                f"{size} bytes"
            )
        with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
            target = Path(folder) / "out"
            self._transport.get(f"{self._options.workdir}/out/{digest}", target, size)
            data = target.read_bytes()
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            message = (
                f"{self._device.name}: out/{digest} arrived as {len(data)} bytes (expected {size}) with "
                "another digest; check the connection and the device's disk"
            )
            raise TransferFailed(message)
        self._ask("clean", _ANSWER_SECONDS, out=[digest])
        return data

    def _entry(
        self, name: str, value: np.ndarray[Any, Any], inputs: Mapping[str, np.ndarray[Any, Any]]
    ) -> dict[str, Any]:
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        entry = {"name": name, "dtype": value.dtype.name, "shape": list(value.shape)}
        data = little.tobytes()
        if sum(one.nbytes for one in inputs.values()) <= INLINE_BYTES:
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
        path = bootstrap.install(self._transport, self._device, archive, digest)
        self._channel = self._transport.talk([self._options.python, path])
        self._lines = JsonLines(self._channel, self._device.name)
        self._clock = DeviceClock(self.exchange)

    def _lease(self, action: str, **fields: str) -> Fields:
        return self._ask("lease", _ANSWER_SECONDS, action=action, token=TOKEN, **fields)

    def _request(self, identity: int | str, verb: str) -> dict[str, Any]:
        return {"v": VERSION, "id": identity, "verb": verb, "epoch": self._epoch}

    def _ask(self, verb: str, seconds: float, **fields: Any) -> Fields:  # noqa: ANN401 - JSON
        """Send one request and return its answer; an error answer raises its exception."""
        lines = self._lines
        assert lines is not None
        self._next_id += 1
        identity = self._next_id
        request = {**self._request(identity, verb), **fields}
        is_complete = False
        try:
            lines.send(request)
            # A large request takes its time on a slow link.
            deadline = time.monotonic() + seconds
            answer = lines.read(deadline)
            # Answers to earlier requests are stale. Progress lines need no reaction.
            while answer.get("event") == "progress" or answer.get("id") not in (identity, None):
                answer = lines.read(deadline)
            is_complete = True
        finally:
            # After an interrupted exchange, the next answer might belong to this request.
            if not is_complete:
                self._disconnect()
        return self._result(verb, answer)

    def _result(self, verb: str, answer: Mapping[str, Any]) -> Fields:
        fields = Fields(f"{self._device.name}: {verb}", answer)
        event = fields.text("event")
        if event == "result" and fields.value.get("id") is not None:
            if note := fields.text_or_none("lease_note"):
                self._notes.append(note)
            return fields
        if event != "error":
            raise AgentError(f"{fields.where}: the agent answered an unknown event {event[:80]!r}")
        # The agent does not know the device's name in the farm.
        named = shlex.join(["edge-harness", "setup", self._device.selector])
        text = fields.reason("reason").replace("`edge-harness setup`", f"`{named}`")
        reason = f"{self._device.name}: {text}"
        if fields.text("kind") in (LeaseError.kind, LeaseFileError.kind):
            self._end_renewal()
        raise _ERRORS.get(fields.text("kind"), AgentError)(reason)

    def _end_renewal(self) -> None:
        renewal, self._renewal, self._epoch = self._renewal, None, 0
        if renewal is not None:
            renewal.close()

    def _disconnect(self) -> None:
        self._end_renewal()
        channel, self._channel, self._lines = self._channel, None, None
        if channel is not None:
            channel.close()


def open_json_lines(transport: Transport, device: Device) -> JsonLinesDialect:
    """Make the dialect; nothing is sent before `deploy` or `hello`.

    Raises Unsupported if the transport copies no files or runs no commands.
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
        "limits": dict(order.limits),
    }


def _samples(device: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> int:
    counts = {value.shape[0] if value.ndim else 0 for value in inputs.values()}
    if len(counts) != 1 or not 0 < min(counts) <= MAX_INFER_SAMPLES:
        shapes = {name: value.shape for name, value in inputs.items()}
        message = (
            f"{device}: infer takes 1 to {MAX_INFER_SAMPLES} samples, the same number for every "
            f"input; it got {shapes}"
        )
        raise AgentError(message)
    return min(counts)
