"""Whether a stored run may be continued, and the command that continues it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from harness import assets
from harness.errors import StoreError
from harness.records.store.codec import RunRecord
from harness.records.store.layout import RECORD

_AN = {"run": "a run", "gate": "a gate", "selftest": "a selftest"}


def command(
    run_id: str, kind: str, call: Mapping[str, str], options: Mapping[str, str] | None = None
) -> str | None:
    """Return the command that continues a run, as it is typed; None if there is none.

    `call` is that of the record. `options` are further options of the command, by name, as
    `--results`.
    """
    verb: list[str] = []
    if kind == "run" and "plan" in call:
        verb = ["run", call["plan"]]
    elif kind == "gate" and {"plan", "baseline", "candidate"} <= set(call):
        given = [n for n in ("baseline", "candidate", "thermal") if n in call]
        verb = ["gate", call["plan"], *[part for n in given for part in (f"--{n}", call[n])]]
    if not verb:
        return None
    more = [part for name, value in (options or {}).items() for part in (name, value)]
    return shlex.join(["edge-harness", *verb, *more, "--resume", run_id])


def results_option(results: Path) -> dict[str, str]:
    """Return the option that names a folder of runs, for `options`; empty for the default folder."""
    return {} if results == assets.results_folder() else {"--results": str(results)}


def check(record: RunRecord, plan_digest: str, kind: str) -> None:
    """Raise StoreError, with the way out, if a command of this kind and plan cannot continue the run."""
    if record.kind != kind:
        other = command(record.id, record.kind, record.call)
        way = f"`{other}` continues it" if other else "start it again"
        raise StoreError(
            f"run {record.id} is {_AN.get(record.kind, record.kind)}, which "
            f"`edge-harness {kind} --resume` cannot continue; {way}"
        )
    if record.plan_digest != plan_digest:
        raise StoreError(
            f"run {record.id} was made from another plan (digest {record.plan_digest[:12]}, "
            f"this one has {plan_digest[:12]}); start a new run, or use the plan of the run, "
            f"which is in its {RECORD}"
        )


def check_sources(record_sources: Mapping[str, str], now: Mapping[str, str], run_id: str) -> None:
    """Raise StoreError if a model's file changed since the run began.

    Models of which either digest is unknown are not compared.
    """
    for name, digest in now.items():
        before = record_sources.get(name, digest)
        if before != digest:
            raise StoreError(
                f"run {run_id}: model {name} changed since the run began (sha256 {before[:12]}, now "
                f"{digest[:12]}); start a new run, or put the model back as it was"
            )


def path_text(path: Path | None) -> str | None:
    """Return a path as it is typed: relative to the current folder if it is in it."""
    if path is None:
        return None
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
