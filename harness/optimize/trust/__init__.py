"""Find code in a model's file before a library loads it; nothing is loaded or run here.

    trust.check(Path("model.h5"), "h5")        # returns, or raises RecipeError with what was found

A model is refused for code that its library would run, for a Python object that its library would
import by a path in the file, and for operators that read or write files or use the network.
docs/security.md lists what is covered. The caller decides whether the user trusts the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from harness.errors import Untrusted
from harness.optimize.trust import archives, operators, saved_models

_WAY_OUT = (
    "if you trust whoever made the file, add --trust-model, or trust = true to its [[model]] in "
    "the plan"
)


_GIVEN: ContextVar[bool] = ContextVar("trust", default=False)


@contextmanager
def given(*, trusted: bool) -> Iterator[None]:
    """Say for a block whether the user trusts its models; Keras's own safe mode follows it."""
    token = _GIVEN.set(trusted)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def is_given() -> bool:
    """Return whether the user trusts the model at hand."""
    return _GIVEN.get()


def check(path: Path, form: str, *, trains: bool = False) -> None:
    """Scan a model of the form `keras`, `h5`, `saved_model` or `tflite`.

    `trains` says that Keras will make the layers of a SavedModel again from its configs. Raises Untrusted with the file, the place in it and the way out; RecipeError if the file cannot
    be read.
    """
    findings = _FINDINGS.get(form)
    if form == "saved_model":
        findings = partial(saved_models.folder, revived=trains)
    found = next(findings(path), None) if findings is not None else None
    if found is not None:
        raise Untrusted(f"{path}: {found}; {_WAY_OUT}")


def _tflite(path: Path) -> Iterator[str]:
    """Yield the Flex operators of a .tflite file that read or write files or run Python."""
    from harness.tflite import flatbuffer

    for name in flatbuffer.read(path).flex:
        reason = operators.refusal(name.removeprefix(flatbuffer.FLEX))
        if reason:
            yield f"its operator {name} {reason}"


_FINDINGS: dict[str, Callable[[Path], Iterator[str]]] = {
    "keras": archives.keras,
    "h5": archives.h5,
    "tflite": _tflite,
}
