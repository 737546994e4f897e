"""Define a check of `doctor`: its needs, its result and its fixes. Run checks in order of need.

    @check(needs=("system",), fixes=(SWAPOFF,))
    def swap(dut: DeviceUnderTest) -> CheckResult:
        \"\"\"No swap is in use.\"\"\"
        ...
        return warn("123 MB in use", dut.as_root(SWAPOFF, "swapoff -a"))

A need is the name of another check, which must have passed, or a condition of the device
(`profile:gpu`). If a need is not met, the check is skipped and names the check that it waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import HarnessError, LeaseError

if TYPE_CHECKING:
    from harness.farm.device_under_test import DeviceUnderTest

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixKind:
    """A way to fix something. tests/unit/test_farm_fixes.py names the test that executes it."""

    id: str
    does: str
    """Its action, in the imperative."""
    by_hand: str = ""
    """Why no test can execute it; empty if a test executes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """The fix of a fault that a check found on one device: a command, a setting or advice."""

    kind: FixKind
    command: str | None = None
    """Works on this host exactly as it is written."""
    root_command: str | None = None
    """For root on the device, if the account of the farm entry cannot become root."""
    setting: Mapping[str, str] = field(default_factory=dict)
    """Keys of the device's entry in the farm file, with their new values."""
    text: str
    """The whole fix for a person, the command included."""

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "id": self.kind.id,
            "command": self.command,
            "root_command": self.root_command,
            "setting": dict(self.setting),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one check on one device."""

    name: str = ""
    status: Status
    found: str
    fix: Fix | None = None
    """Set if the status is `warn` or `fail`."""
    needs: tuple[str, ...] = ()
    waits_for: str | None = None
    """The failed check that caused this one to be skipped."""

    @property
    def fix_text(self) -> str | None:
        """Return the text of the fix: the key `mend` of `doctor --json`."""
        return self.fix.text if self.fix else None

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for JSON and the screen."""
        return {
            "name": self.name,
            "status": self.status,
            "detail": self.found,
            "mend": self.fix_text,
            "needs": list(self.needs),
            "fix": self.fix.plain() if self.fix else None,
        }


def ok(found: str) -> CheckResult:
    """Make the result of a check that passed."""
    return CheckResult(status="ok", found=found)


def skip(found: str) -> CheckResult:
    """Make the result of a check that does not apply to this device."""
    return CheckResult(status="skip", found=found)


def warn(found: str, fix: Fix) -> CheckResult:
    """Make the result of a check whose fault makes measurements worse."""
    return CheckResult(status="warn", found=found, fix=fix)


def fail(found: str, fix: Fix) -> CheckResult:
    """Make the result of a check whose fault prevents or spoils measurements."""
    return CheckResult(status="fail", found=found, fix=fix)


UNFORESEEN = FixKind(
    id="read-the-log",
    does="Read the device's kernel log",
    by_hand="doctor does not know this failure",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check."""

    name: str
    finds: str
    """The condition that it verifies, in one sentence."""
    examine: Callable[[DeviceUnderTest], CheckResult]
    needs: tuple[str, ...] = ()
    """Checks that must have passed, and conditions (`profile:TARGET`, `library`, `model`,
    `python_agent`, `phone`, `linux`)."""
    unless_failed: tuple[str, ...] = ()
    """Checks that must not have failed. They may have been skipped."""
    fixes: tuple[FixKind, ...] = ()
    """Every kind of fix that its result can have."""

    def __call__(self, dut: DeviceUnderTest) -> CheckResult:
        """Examine the device; a HarnessError becomes a failed check."""
        if result := self.inapplicable(dut):
            return result
        try:
            result = self.examine(dut)
        except LeaseError as error:
            result = skip(str(error))
        except HarnessError as error:
            log = dut.remote_command("dmesg | tail")
            result = fail(str(error), Fix(kind=UNFORESEEN, text=f"{log} may show the cause"))
        return self._named(result)

    def inapplicable(self, dut: DeviceUnderTest) -> CheckResult | None:
        """Return the result if the device does not meet a condition; None if it meets all."""
        missing = next(filter(None, (_missing(need, dut) for need in self.needs)), None)
        return self._named(skip(missing)) if missing else None

    def waiting(self, other: str, why: str) -> CheckResult:
        """Make the result of this check if `other` failed."""
        result = CheckResult(status="skip", found=f"waits for {other}: {why}", waits_for=other)
        return self._named(result)

    def _named(self, result: CheckResult) -> CheckResult:
        kind = result.fix.kind if result.fix else None
        assert kind is None or kind in (*self.fixes, UNFORESEEN), f"{self.name}: {kind}"
        return replace(result, name=self.name, needs=self.needs)


def check(
    *,
    needs: Sequence[str] = (),
    unless_failed: Sequence[str] = (),
    fixes: Iterable[FixKind] = (),
) -> Callable[[Callable[[DeviceUnderTest], CheckResult]], Check]:
    """Make a check of a function; the name and the first docstring line become `name` and `finds`."""

    def make(function: Callable[[DeviceUnderTest], CheckResult]) -> Check:
        """Make the check of this function."""
        return Check(
            name=function.__name__,
            finds=(function.__doc__ or "").partition("\n")[0],
            examine=function,
            needs=tuple(needs),
            unless_failed=tuple(unless_failed),
            fixes=tuple(fixes),
        )

    return make


def ordered(checks: Sequence[Check]) -> tuple[Check, ...]:
    """Sort checks so that each follows its needs; otherwise keep the given order.

    Raises ValueError if checks need each other in a circle.
    """
    names = {one.name for one in checks}
    left, done, found = list(checks), set[str](), list[Check]()
    while left:
        for one in left:
            if {*one.needs, *one.unless_failed} & names <= done:
                break
        else:
            raise ValueError(f"checks need each other: {', '.join(one.name for one in left)}")
        left.remove(one)
        done.add(one.name)
        found.append(one)
    return tuple(found)


def run(checks: Sequence[Check], dut: DeviceUnderTest) -> list[CheckResult]:
    """Run every check in order of need; raises no HarnessError."""
    results: dict[str, CheckResult] = {}
    for one in ordered(checks):
        results[one.name] = one.inapplicable(dut) or _obstacle(one, results) or one(dut)
    return list(results.values())


def _obstacle(one: Check, results: Mapping[str, CheckResult]) -> CheckResult | None:
    """Return the result if another check prevents this one; None if it can run."""
    for need in (*one.needs, *one.unless_failed):
        other = results.get(need)
        if other is None or other.status in {"ok", "warn"}:
            continue
        cause = results[other.waits_for] if other.waits_for else other
        if cause.status == "fail":
            return one.waiting(cause.name, "it failed")
        if need in one.needs:
            return one.waiting(cause.name, cause.found)
    return None


def _missing(need: str, dut: DeviceUnderTest) -> str | None:
    """Return why the device does not meet a condition; None if it does, or `need` names a check."""
    topic, _, target = need.partition(":")
    profile = dut.profile
    if topic == "profile" and (profile is None or target not in profile.targets):
        return f"the profile has no target {target}"
    if need == "library" and not (
        profile and any(one.external_delegate for one in profile.accelerators)
    ):
        return "the profile names no delegate library"
    if need == "phone" and not dut.is_phone:
        return "not a phone behind adb"
    if need == "linux" and dut.is_phone and not dut.has_python_agent:
        return "the device is a phone"
    if need == "python_agent" and not dut.has_python_agent:
        return "the device's dialect is not the Python agent"
    if need == "model" and dut.model is None:
        return "no model was given for a trial launch"
    return None
