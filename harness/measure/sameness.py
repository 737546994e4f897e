"""Whether a device is still as it was: one rule for a resumed run, a reconnection and each launch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.errors import DeviceChanged
from harness.types import DeviceFacts, Launch

_TEXTS = {
    "identity": "another machine answers (identity {1}; the run has {0})",
    "machine": "its processor is {1}, not {0}",
    "system": "its system is {1}, not {0}",
    "kernel": "its kernel is {1}, not {0}",
    "cores": "its number of cores is {1}, not {0}",
    "usable_cores": "its number of usable processors is {1}, not {0}",
    "runtime": "its runtime is {1}, not {0}",
}
"""What is compared, and how a difference is written. A value that either side lacks is not."""

FACTS = tuple(name for name in _TEXTS if name != "runtime")
"""The compared facts of a device, except its processors and its runtime."""

_OF_LAUNCH = ("kernel", "usable_cores")
"""The facts that the answer to each launch has too."""

_SHORT = 12


def of_facts(before: DeviceFacts, now: DeviceFacts) -> list[str]:
    """Return a clause for each way in which a device is not as it was; empty if it is."""
    found = _differences((name, getattr(before, name), getattr(now, name)) for name in FACTS)
    if before.processors and now.processors and set(before.processors) != set(now.processors):
        found.append(f"it may use processors {numbers(now)}, not {numbers(before)}")
    if before.runtimes and now.runtimes:
        found += _differences([("runtime", runtime(before), runtime(now))])
    return found


def of_launch(facts: DeviceFacts, known_runtime: str | None, launch: Launch) -> list[str]:
    """Return a clause for each way in which a launch's device is not as it was.

    `known_runtime` is the runtime of earlier launches with the same order for it.
    """
    compared = [(name, getattr(facts, name), getattr(launch, name)) for name in _OF_LAUNCH]
    return _differences([*compared, ("runtime", known_runtime, launch.runtime)])


def changed(device: str, differences: Sequence[str]) -> DeviceChanged:
    """Return the error of a device that is not as it was."""
    return DeviceChanged(
        f"{device} changed during the run: {'; '.join(differences)}; launches before and after are "
        "not one row (a run can measure it as rows of another device with --retry-failed "
        "--other-device); put the device back and continue with --resume"
    )


def numbers(facts: DeviceFacts) -> str:
    """Return the processors, sorted, as text."""
    return ",".join(map(str, sorted(facts.processors)))


def runtime(facts: DeviceFacts) -> str:
    """Return the runtime that a launch uses: the first."""
    return f"{facts.runtimes[0].name} {facts.runtimes[0].version}" if facts.runtimes else "none"


def _differences(compared: Iterable[tuple[str, object, object]]) -> list[str]:
    return [
        _TEXTS[name].format(_short(old), _short(new))
        for name, old, new in compared
        if old is not None and new is not None and old != new
    ]


def _short(value: object) -> str:
    return str(value)[:_SHORT] if isinstance(value, str) and len(value) > 2 * _SHORT else str(value)
