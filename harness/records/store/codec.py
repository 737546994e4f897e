"""Convert dataclasses to JSON and back, for everything that is written into a run's folder.

The fields are those of the dataclasses of :mod:`harness.types`, so a new field is stored without a
change here. NaN and infinities are refused when writing and when reading: JSON has none, and they
must never be read as a measurement.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import harness
from harness import decoding
from harness.errors import StoreError
from harness.records.store.layout import SCHEMA
from harness.records.store.text import decode, encode
from harness.types import Agreement, Cell, Device, DeviceFacts, Failure, Launch, Plan, SelfCheck

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "SCHEMA",
    "DeviceRecord",
    "OutcomeLine",
    "RunRecord",
    "decode",
    "dump",
    "encode",
    "load",
    "new_id",
]

_LIBRARIES = (
    *("ai-edge-litert", "ai-edge-quantizer", "tensorflow", "tf-keras", "numpy", "duckdb"),
    *("fabric", "paramiko"),
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """A device of a run: its farm entry, and its facts or why it could not be reached."""

    device: Device
    facts: DeviceFacts | None = None
    failure: Failure | None = None
    verified: str | None = None
    """How its profile was verified when the run began; None in runs from before it was stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The facts of a run that are known before its first launch: `run.json`, written once."""

    id: str
    created: str
    """UTC, ISO 8601 with microseconds."""
    plan: Mapping[str, Any]
    """The plan as it was read."""
    plan_digest: str
    cells: tuple[Cell, ...]
    devices: Mapping[str, DeviceRecord] = field(default_factory=dict)
    """The devices, by name."""
    host: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the machine that ran the harness."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the harness and of the libraries that build and measure variants."""
    kind: str = "run"
    sources: Mapping[str, str] = field(default_factory=dict)
    """The sha256 of each model of the plan, by name, when the run began."""
    call: Mapping[str, str] = field(default_factory=dict)
    """What the command that continues it needs: `plan`, its path; of a gate also its options."""
    schema: int = SCHEMA
    key: str = ""
    """A random text that the checksums of the run's files include, so that files of two runs are
    told apart; empty in a record from before there were checksums."""

    @classmethod
    def new(
        cls,
        *,
        plan: Plan,
        cells: Sequence[Cell],
        devices: Mapping[str, DeviceRecord],
        kind: str = "run",
        sources: Mapping[str, str] | None = None,
        call: Mapping[str, str] | None = None,
    ) -> RunRecord:
        """Make the record of a run that starts now, on this host."""
        moment = datetime.now(tz=UTC)
        return cls(
            id=new_id(list(dict.fromkeys(cell.model for cell in cells)), moment),
            created=moment.isoformat(timespec="microseconds"),
            plan=plan.text,
            plan_digest=plan.digest,
            cells=tuple(cells),
            devices=devices,
            host=_host_facts(),
            versions=_versions(),
            kind=kind,
            sources=sources or {},
            call=call or {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeLine:
    """A line of `outcomes.jsonl`; it refers to launches by id."""

    cell: str
    """The cell's id."""
    launches: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    """The cell's other launches that were stored by then: those of a failed cell."""
    failure: Failure | None = None
    agreement: Agreement | None = None
    selfcheck: SelfCheck | None = None
    changed: Cell | None = None
    """The cell as it was measured, if it differs from the one in `run.json`."""


def new_id(models: Sequence[str], moment: datetime) -> str:
    """Make a run's id: UTC time to the second, the first model, six random hex digits."""
    import secrets

    first = re.sub(r"[^a-z0-9_.]+", "-", (models[0] if models else "run").lower()).strip("-.")
    more = f"-and-{len(models) - 1}" if len(models) > 1 else ""
    stamp = moment.astimezone(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{first[:40] or 'model'}{more}-{secrets.token_hex(3)}"


def _host_facts() -> dict[str, Any]:
    import platform

    return {
        "hostname": platform.node(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    """Return the installed versions of the libraries that make or measure a variant."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"edge-harness": harness.__version__}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def dump(value: object) -> Any:  # noqa: ANN401 - JSON
    """Convert a dataclass to JSON types; a launch without its samples (they are Parquet).

    Raises StoreError for a value that JSON does not support, such as NaN and infinities.
    """
    noun: type = type(value)
    if isinstance(value, Launch):
        value = _Wire.pack(replace(value, samples=()))
        noun = Launch
    try:
        # Not mode="json": it would write NaN as null and hide the fault.
        plain = _adapter(noun).dump_python(value)
        return json.loads(json.dumps(plain, allow_nan=False, default=_path))
    except (TypeError, ValueError) as error:
        raise StoreError(f"a {noun.__name__} cannot be stored: {error}") from error


def load(noun: type[T], plain: object) -> T:
    """Convert JSON types to a dataclass; raises StoreError naming the field that does not fit."""
    with contextlib.suppress(decoding.Doubt):
        return decoding.decode(noun, plain)
    from pydantic import ValidationError

    hashable: Any = noun  # mypy: a type[T] is not Hashable
    if noun is RunRecord:
        plain = _with_tables(plain)
    try:
        value = _adapter(hashable).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"not a stored {noun.__name__}: {where}: {first['msg']}; the record was changed by "
            "hand or written by another version of edge-harness"
        ) from error
    return value if isinstance(value, noun) else noun(**_Wire.unpack(value))


_OLD_TABLES = {
    "identity": "transport_options",
    "known_hosts": "transport_options",
    "ssh_config": "transport_options",
    "python": "dialect_options",
    "workdir": "dialect_options",
}
"""Keys of a device in old records, and the tables of options that have them now."""


_OLD_EXTRAS = {
    "python_bits": "number",
    "usable_cores": "number",
    "processors": "numbers",
    "throttled": "number",
    "unpacks": "texts",
    "usb": "texts",
    "runtime_problems": "texts",
}
"""Keys of a device's facts that old records have under `extra`, and the type of their values."""


def _with_tables(plain: object) -> object:
    """Return a run's record with the current fields for every device and its facts."""
    if not isinstance(plain, Mapping) or not isinstance(plain.get("devices"), Mapping):
        return plain
    return {**plain, "devices": {name: _entry(one) for name, one in plain["devices"].items()}}


def _entry(entry: object) -> object:
    if not isinstance(entry, Mapping):
        return entry
    made = dict(entry)
    device, facts = made.get("device"), made.get("facts")
    if isinstance(device, Mapping) and any(key in device for key in _OLD_TABLES):
        kept = {key: value for key, value in device.items() if key not in _OLD_TABLES}
        tables: dict[str, dict[str, Any]] = {"transport_options": {}, "dialect_options": {}}
        for key, table in _OLD_TABLES.items():
            if device.get(key) is not None:
                tables[table][key] = device[key]
        made["device"] = {**tables, **kept}
    if isinstance(facts, Mapping) and isinstance(facts.get("extra"), Mapping):
        extra = {key: value for key, value in facts["extra"].items() if _fits(key, value)}
        made["facts"] = {**extra, **{key: one for key, one in facts.items() if key != "extra"}}
    return made


def _fits(key: str, value: object) -> bool:
    """Whether a value under `extra` in an old record, which is unchecked, fits a current field."""
    kind = _OLD_EXTRAS.get(key)
    if kind in {"number", None}:
        return kind is not None and type(value) is int
    return isinstance(value, list) and all(
        type(one) is (int if kind == "numbers" else str) for one in value
    )


def _path(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be converted to JSON")


class _Wire:
    """A launch without its samples: pydantic has no schema for `array`."""

    @staticmethod
    @functools.cache
    def type() -> type:
        """Make the dataclass from the fields of Launch."""
        hints = get_type_hints(Launch)
        specs: list[tuple[str, Any, Any]] = []
        for item in fields(Launch):
            if item.name != "samples":
                default = field() if item.default is MISSING else field(default=item.default)
                specs.append((item.name, hints[item.name], default))
        return make_dataclass("LaunchLine", specs, frozen=True, kw_only=True)

    @staticmethod
    def pack(launch: Launch) -> object:
        """Copy the launch's fields."""
        made: object = _Wire.type()(**_Wire.unpack(launch))
        return made

    @staticmethod
    def unpack(value: object) -> dict[str, Any]:
        """Return the fields of a launch or of its line."""
        return {item.name: getattr(value, item.name) for item in fields(_Wire.type())}


@functools.cache
def _adapter(noun: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(_Wire.type() if noun is Launch else noun)
