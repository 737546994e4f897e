"""Read the agent's answers, checked field by field, into the project's types.

The device is not trusted: a missing field, or one of another type, raises AgentError. Unknown
fields are ignored.
"""

from __future__ import annotations

import base64
import math
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np

from harness.devices.clocks import LaunchStamps
from harness.errors import AgentError
from harness.types import (
    Adapter,
    Covariates,
    Delegation,
    DeviceFacts,
    Launch,
    LaunchOrder,
    Runtime,
    Samples,
    TimedPart,
    Warmup,
)

MAX_SAMPLES = 1_000_000
"""Per series; the agent has the same limit (agents/python_tflite/timing.py)."""

MAX_OUTPUT_BYTES = 1 << 30
_ITEM_BYTES = 8
_MAX_SERIES = 16
_MAX_RANK = 32
_MAX_ITEMS = 10_000
_MAX_INTEGER = 1 << 63
_DIGEST_CHARACTERS = 64
_MAX_TEXT_CHARACTERS = 20_000
_MAX_REASON_CHARACTERS = 4_000
_MAX_NAME_CHARACTERS = 300
_MAX_CORES = 1 << 16
_MAX_OUTPUTS = 1_000
_MAX_LEFT = 8
_SERIES = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DURATIONS = ("latency", "service", "set_input", "pilot")
"""Series of durations: every value is positive."""
_DTYPES = frozenset(
    (
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    )
)

_Kind = TypeVar("_Kind")

Fetch = Callable[[str, int], bytes]
"""Return the content of the output file of this digest and size, checked."""


class Fields:
    """A JSON object with a typed getter per kind of field."""

    def __init__(self, where: str, value: object) -> None:
        """`where` names the object in messages."""
        if not isinstance(value, dict):
            raise AgentError(f"{where}: the agent answered {type(value).__name__}, not an object")
        self.where = where
        self.value: Mapping[str, Any] = value

    def object(self, key: str) -> Fields:
        """Return a field that is an object."""
        return Fields(f"{self.where}.{key}", self.value.get(key))

    def objects(self, key: str) -> list[Fields]:
        """Return a field that is a list of objects."""
        return [Fields(f"{self.where}.{key}", one) for one in self._list(key)]

    def text(self, key: str) -> str:
        """Return a field that is a string of at most 20,000 characters."""
        text = self._of(key, str)
        if len(text) > _MAX_TEXT_CHARACTERS:
            raise self._invalid(key, f"a text of at most {_MAX_TEXT_CHARACTERS} characters")
        return text

    def text_or_none(self, key: str) -> str | None:
        """Return a string, or None if the field is absent or null."""
        return None if self.value.get(key) is None else self.text(key)

    def name(self, key: str) -> str:
        """Return a name: a string, truncated to 300 characters."""
        return self.text(key)[:_MAX_NAME_CHARACTERS]

    def name_or_none(self, key: str) -> str | None:
        """Return a name, or None if the field is absent or null."""
        return None if self.value.get(key) is None else self.name(key)

    def names(self, key: str) -> tuple[str, ...]:
        """Return a field that is a list of names."""
        return tuple(text[:_MAX_NAME_CHARACTERS] for text in self.texts(key))

    def reason(self, key: str) -> str:
        """Return a reason: a string, without its middle if it is over 4,000 characters."""
        text = self.text(key)
        half = _MAX_REASON_CHARACTERS // 2
        return text if len(text) <= _MAX_REASON_CHARACTERS else f"{text[:half]} ... {text[-half:]}"

    def base64(self, key: str) -> bytes:
        """Return the bytes of a base64 field."""
        try:
            return base64.b64decode(self._of(key, str), validate=True)
        except ValueError as error:
            raise AgentError(f"{self.where}: {key} is not base64: {error}") from error

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a field that is a list of strings."""
        texts = self._list(key)
        if not all(isinstance(text, str) for text in texts):
            raise self._invalid(key, "strings")
        return tuple(texts)

    def integer(self, key: str, minimum: int = 0) -> int:
        """Return an integer of at least `minimum` that fits 64 bits."""
        number = self._of(key, int)
        if isinstance(number, bool) or not minimum <= number < _MAX_INTEGER:
            raise self._invalid(key, f"an integer of {minimum} or more")
        return number

    def integer_or_none(self, key: str) -> int | None:
        """Return an integer of 0 or more, or None if the field is absent or null."""
        return None if self.value.get(key) is None else self.integer(key)

    def number(self, key: str) -> float:
        """Return a finite number."""
        number = self.value.get(key)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise self._invalid(key, "a number")
        try:
            real = float(number)
        except OverflowError:
            real = math.inf
        if not math.isfinite(real):
            raise self._invalid(key, "a finite number")
        return real

    def number_or_none(self, key: str) -> float | None:
        """Return a number, or None if the field is absent or null."""
        return None if self.value.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        """Return a boolean."""
        return self._of(key, bool)

    def _of(self, key: str, kind: type[_Kind]) -> _Kind:
        value = self.value.get(key)
        if not isinstance(value, kind):
            raise self._invalid(key, kind.__name__)
        return value

    def _list(self, key: str) -> list[Any]:
        items = self._of(key, list)
        if len(items) > _MAX_ITEMS:
            raise self._invalid(key, f"a list of at most {_MAX_ITEMS} items")
        return items

    def _invalid(self, key: str, wanted: str) -> AgentError:
        shown = repr(self.value.get(key))[:80]
        return AgentError(f"{self.where}: the agent answered {key}={shown}, which is not {wanted}")


def device_facts(answer: Fields, clock_offset_seconds: float) -> DeviceFacts:
    """Read the answer to `hello`."""
    facts = answer.object("facts")
    extra = facts.object("extra")
    return DeviceFacts(
        identity=facts.name("identity"),
        hostname=facts.name("hostname"),
        system=facts.name("system"),
        kernel=facts.name("kernel"),
        machine=facts.name("machine"),
        chip=facts.name_or_none("chip"),
        board=facts.name_or_none("board"),
        cores=min(facts.integer("cores", 1), _MAX_CORES),
        memory_total_bytes=facts.integer_or_none("memory_total_bytes"),
        libc=facts.name_or_none("libc"),
        python=facts.name("python"),
        runtimes=tuple(
            Runtime(
                name=one.name("name"), version=one.name("version"), numpy=one.name_or_none("numpy")
            )
            for one in facts.objects("runtimes")
        ),
        agent_digest=answer.name("agent"),
        boot_id=facts.name_or_none("boot_id"),
        clock_offset_seconds=clock_offset_seconds,
        governor=facts.name_or_none("governor"),
        temperature_c=facts.number_or_none("temperature_c"),
        load_1m=facts.number_or_none("load_1m"),
        free_bytes=facts.integer_or_none("free_bytes"),
        accelerators=facts.names("accelerators"),
        sensors=facts.names("sensors"),
        python_bits=_integer_if_valid(extra, "python_bits"),
        usable_cores=_integer_if_valid(extra, "usable_cores"),
        processors=_processors(extra),
        throttled=_integer_if_valid(extra, "throttled"),
        unpacks=_texts_if_valid(extra, "unpacks"),
        usb=_texts_if_valid(extra, "usb"),
        runtime_problems=_texts_if_valid(extra, "runtime_problems"),
    )


def _integer_if_valid(extra: Fields, key: str) -> int | None:
    """Read an extra fact; an invalid one is ignored."""
    value = extra.value.get(key)
    return value if type(value) is int and 0 <= value < _MAX_INTEGER else None


def _texts_if_valid(extra: Fields, key: str) -> tuple[str, ...]:
    value = extra.value.get(key)
    if not isinstance(value, list):
        return ()
    return tuple(one[:_MAX_REASON_CHARACTERS] for one in value[:_MAX_ITEMS] if isinstance(one, str))


def _processors(extra: Fields) -> tuple[int, ...]:
    """Read the numbers of the processors; all or none, since their order is significant."""
    value = extra.value.get("processors")
    if not isinstance(value, list) or len(value) > _MAX_CORES:
        return ()
    known = all(type(one) is int and 0 <= one < _MAX_CORES for one in value)
    return tuple(value) if known else ()


def launch(order: LaunchOrder, answer: Fields, fetch: Fetch) -> Launch:
    """Read the answer to `launch`; raises AgentError, and what `fetch` raises."""
    found = answer.object("launch")
    samples = _samples(found, fetch)
    if order.kind == "timed" and not any(len(s.value) for s in samples if s.series == "latency"):
        raise AgentError(f"{found.where}: a timed launch has no latency")
    warmup = found.object("warmup") if found.value.get("warmup") is not None else None
    return Launch(
        id=order.launch_id,
        cell_id=order.cell_id,
        kind=order.kind,
        block=order.block,
        position=order.position,
        seed=order.seed,
        runtime=found.name("runtime"),
        kernel=found.name_or_none("kernel"),
        usable_cores=found.integer_or_none("usable_cores"),
        delegation=_delegation(found),
        wall_ns=found.integer("wall_ns"),
        load_ns=found.integer_or_none("load_ns"),
        first_ns=found.integer_or_none("first_ns"),
        warmup=None
        if warmup is None
        else Warmup(
            inferences=warmup.integer("inferences"),
            seconds=warmup.number("seconds"),
            steady=warmup.flag("steady"),
        ),
        inner_loop=order.inner_loop,
        inferences=found.integer("inferences"),
        drift=found.number_or_none("drift"),
        cpu_share=found.number_or_none("cpu_share"),
        involuntary_switches=found.integer_or_none("involuntary_switches"),
        missed_deadlines=found.integer_or_none("missed"),
        before=_covariates(found.object("before")),
        after=_covariates(found.object("after")),
        left_running=_left_running(found),
        flags=found.names("flags"),
        samples=samples,
    )


def _left_running(found: Fields) -> tuple[str, ...]:
    if found.value.get("left_running") is None:
        return ()
    names = found.names("left_running")
    left = len(names) - _MAX_LEFT
    return names if left <= 0 else (*names[:_MAX_LEFT], f"{left} more")


def stamps(answer: Fields, sent_ns: int, received_ns: int) -> LaunchStamps | None:
    """Read the times of a launch's timed part; None if nothing was timed or the agent omits them.

    `sent_ns` and `received_ns` are on the host's clock (`time.monotonic_ns`).
    """
    found = answer.object("launch")
    if found.value.get("window") is None:
        return None
    window = found.object("window")
    return LaunchStamps(
        sent_ns=sent_ns,
        received_ns=received_ns,
        start_ns=window.integer("start_ns"),
        end_ns=window.integer("end_ns"),
        process_start_ns=window.integer_or_none("process_start_ns"),
        process_end_ns=window.integer_or_none("process_end_ns"),
    )


def outputs(answer: Fields, fetch: Fetch) -> dict[str, np.ndarray[Any, Any]]:
    """Read the answer to `infer`: every output by tensor name."""
    entries = answer.objects("outputs")
    if len(entries) > _MAX_OUTPUTS:
        raise AgentError(
            f"{answer.where}: the agent answered {len(entries)} outputs, more than {_MAX_OUTPUTS}"
        )
    found: dict[str, np.ndarray[Any, Any]] = {}
    left = MAX_OUTPUT_BYTES
    for one in entries:
        name = one.text("name")
        found[name] = _array(one, fetch, left)
        left -= found[name].nbytes
    return found


def _delegation(found: Fields) -> Delegation:
    if found.value.get("delegation") is None:
        return Delegation(delegate="none", evidence="no model was loaded")
    fields = found.object("delegation")
    return Delegation(
        delegate=fields.text("delegate"),
        delegated_ops=fields.integer_or_none("delegated_ops"),
        total_ops=fields.integer_or_none("total_ops"),
        partitions=fields.integer_or_none("partitions"),
        left=fields.texts("left"),
        evidence=fields.text("evidence"),
        fully=None if fields.value.get("fully") is None else fields.flag("fully"),
        clock=_clock(fields),
        library=fields.text_or_none("library"),
        settings=fields.name_or_none("settings"),
        handed_ns=fields.integer_or_none("handed_ns"),
        whole_ns=fields.integer_or_none("whole_ns"),
        adapter=None if fields.value.get("adapter") is None else _adapter(fields.object("adapter")),
    )


def _clock(fields: Fields) -> TimedPart:
    part = fields.text_or_none("clock") or "invoke"
    if part not in get_args(TimedPart):
        raise AgentError(f"{fields.where}: the agent answered an unknown clock {part[:80]!r}")
    return cast("TimedPart", part)


def _adapter(fields: Fields) -> Adapter:
    return Adapter(
        name=fields.text("name"),
        type=fields.text_or_none("type") or "",
        driver=fields.text_or_none("driver") or "",
    )


def _covariates(found: Fields) -> Covariates:
    return Covariates(
        temperature_c=found.number_or_none("temperature_c"),
        frequency_mhz=found.number_or_none("frequency_mhz"),
        governor=found.text_or_none("governor"),
        throttled=found.integer_or_none("throttled"),
        max_mhz=found.number_or_none("max_mhz"),
        cooling=found.integer_or_none("cooling"),
        load_1m=found.number_or_none("load_1m"),
        power_mw=found.number_or_none("power_mw"),
        seconds_at_mhz=_numbers_by_name(found, "seconds_at_mhz"),
    )


def _numbers_by_name(found: Fields, key: str) -> dict[str, float] | None:
    if found.value.get(key) is None:
        return None
    named = found.object(key)
    if len(named.value) > _MAX_ITEMS:
        raise AgentError(f"{named.where}: the agent answered more than {_MAX_ITEMS} numbers")
    return {str(name): named.number(name) for name in named.value}


def _samples(found: Fields, fetch: Fetch) -> tuple[Samples, ...]:
    columns = found.objects("columns")
    sizes = [column.integer("n") for column in columns]
    if len(sizes) > _MAX_SERIES or max(sizes, default=0) > MAX_SAMPLES:
        raise AgentError(f"{found.where}: more than {_MAX_SERIES} series or {MAX_SAMPLES} samples")
    if found.value.get("blob") is None:
        parts = [(column.base64("at"), column.base64("value")) for column in columns]
    else:
        data = fetch(found.text("blob"), 2 * _ITEM_BYTES * sum(sizes))
        parts = list(_split(data, sizes))
    return tuple(_series(column, *part) for column, part in zip(columns, parts, strict=True))


def _split(data: bytes, sizes: Iterable[int]) -> Iterable[tuple[bytes, bytes]]:
    """Split a file of columns: per series first at_ns, then the values."""
    place = 0
    for size in sizes:
        middle, end = place + _ITEM_BYTES * size, place + 2 * _ITEM_BYTES * size
        yield data[place:middle], data[middle:end]
        place = end


def _series(column: Fields, at: bytes, value: bytes) -> Samples:
    size = column.integer("n")
    if len(at) != _ITEM_BYTES * size or len(value) != _ITEM_BYTES * size:
        raise AgentError(f"{column.where}: the columns have another length than n={size}")
    values = _numbers("d", value)
    if not all(map(math.isfinite, values)):
        raise AgentError(f"{column.where}: a value is not a finite number")
    name = column.text("series")
    if _SERIES.fullmatch(name) is None:
        raise AgentError(f"{column.where}: {name[:80]!r} is not a name of a series")
    if name in _DURATIONS and min(values, default=1.0) <= 0.0:
        raise AgentError(f"{column.where}: {name} has a value of {min(values)} ns")
    return Samples(
        series=name,
        at_ns=_numbers("q", at),
        value=values,
        count=array("q", [column.integer("count", 1)]) * size,
    )


def _numbers(code: Literal["q", "d"], data: bytes) -> array[Any]:
    numbers: array[Any] = array(code, data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _array(entry: Fields, fetch: Fetch, max_bytes: int) -> np.ndarray[Any, Any]:
    name = entry.text("dtype")
    shape: list[int] = entry.value.get("shape", [])
    if name not in _DTYPES:
        raise AgentError(f"{entry.where}: an array has the unknown type {name[:80]!r}")
    if not _is_shape(shape):
        raise AgentError(f"{entry.where}: an array has the invalid shape {str(shape)[:80]}")
    dtype = np.dtype(name)
    size = math.prod(shape) * dtype.itemsize
    if size > max_bytes:
        raise AgentError(f"{entry.where}: an output has {size} bytes, more than {max_bytes}")
    if entry.value.get("blob") is None:
        data = entry.base64("data")
    else:
        data = fetch(entry.text("blob"), size)
    if len(data) != size:
        raise AgentError(
            f"{entry.where}: an array of {name} and shape {shape} has {len(data)} bytes, not {size}"
        )
    try:
        little = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)
    except ValueError as error:
        # The product of 0 and a huge size: no bytes, but no valid array either.
        raise AgentError(f"{entry.where}: an array has the shape {shape}: {error}") from error
    return np.array(little, dtype)


def _is_shape(value: object) -> bool:
    # `type is`, because True is an int to Python and not to numpy.
    return (
        isinstance(value, list)
        and len(value) <= _MAX_RANK
        and all(type(size) is int and 0 <= size <= MAX_OUTPUT_BYTES for size in value)
    )


def is_digest(text: str) -> bool:
    """Return whether a text is a sha256 in hexadecimal, and so safe in a path."""
    return len(text) == _DIGEST_CHARACTERS and not set(text) - set("0123456789abcdef")
