from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_runs import cell, latencies, launch, record

from harness import assets, decoding
from harness.config import farm, plans, toml_reading
from harness.errors import HarnessError
from harness.records.store import RunRecord
from harness.records.store.codec import OutcomeLine, dump, load
from harness.records.table.quantiles import LaunchQuantiles, Pooled, Quantiles
from harness.types import Agreement, Compiled, Device, Failure, Launch, Profile, Uncompiled

OF = cell()
COMPILED = cell("edgetpu", target="edgetpu")
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**70, 1.5, 1e308, float("inf"), float("nan"), 10**400),
    *("", "1", "true", "xnnpack", "text", "\ud800", "é", [], {}, [1], ["a"], {"a": 1}, {"b": "c"}),
)


def stored() -> list[tuple[type, Any]]:
    line = OutcomeLine(
        cell=OF.id,
        launches=("a", "b"),
        agreement=Agreement(samples=3, top1=None, relative_error=0.5),
        changed=OF,
    )
    failed = OutcomeLine(cell=OF.id, failure=Failure(kind="silent", reason="no answer"))
    known = Quantiles(
        launches={"a": LaunchQuantiles(samples=2, p25=1.0, p50=2.0, p90=3.0, p99=4.0)},
        pooled={"c": Pooled(samples=2, p90=None, p99=None)},
        minutes={"a": (1.0, 2.0)},
    )
    unbuilt = cell("broken", variant=Failure(kind="not_built", reason="no data"))
    return [
        (RunRecord, dump(record([OF, unbuilt]))),
        (Launch, dump(launch(OF, latencies(OF, 0)))),
        (OutcomeLine, dump(line)),
        (OutcomeLine, dump(failed)),
        (Quantiles, dump(known)),
        (Compiled, dump(Compiled(compiler="edgetpu 16", left={"ADD": "why"}))),
        (Uncompiled, dump(Uncompiled(path=Path("/x"), digest="0"))),
    ]


def written() -> list[tuple[type, Any]]:
    tables = [
        {"name": path.stem, **toml_reading.read(path)}
        for path in sorted(assets.profiles().glob("*.toml"))
    ]
    device = {"name": "pi", "profile": "p", "address": "local:", "tags": ["a"], "meter": "ina219"}
    return [*((Profile, table) for table in tables), (Device, device)]


STORED, WRITTEN = stored(), written()


def outcome(made: Callable[[], Any]) -> str:
    try:
        return repr(made())
    except HarnessError as error:
        return f"refused: {error}"


def doubt(noun: type, plain: object) -> None:
    raise decoding.Doubt


def with_and_without(made: Callable[[], Any]) -> tuple[str, str]:
    with mock.patch.object(decoding, "decode", doubt):
        slow = outcome(made)
    return outcome(made), slow


def changed(data: st.DataObject, plain: Any) -> Any:
    """Change, take away or add one value somewhere inside."""
    plain = copy.deepcopy(plain)
    at = plain
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return plain
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(at[key], (dict, list)) and at[key]
        if deeper and data.draw(st.integers(0, 4)):
            at = at[key]
            continue
        what = data.draw(st.sampled_from(["change", "remove", "add"]))
        if what == "remove":
            del at[key]
        elif what == "add" and isinstance(at, dict):
            at["odd"] = data.draw(st.sampled_from(ODD))
        else:
            at[key] = data.draw(st.sampled_from(ODD))
        return plain


@pytest.mark.parametrize(("noun", "plain"), [*STORED, *WRITTEN])
def test_what_is_ordinary_leaves_no_doubt(noun: type, plain: Any) -> None:
    assert isinstance(decoding.decode(noun, plain), noun)


@pytest.mark.parametrize(("noun", "plain"), STORED)
def test_a_record_is_read_as_pydantic_reads_it(noun: type, plain: Any) -> None:
    fast, slow = with_and_without(lambda: load(noun, plain))
    assert fast == slow
    assert not fast.startswith("refused")


@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_record_is_noticed_as_pydantic_notices_it(data: st.DataObject) -> None:
    noun, plain = data.draw(st.sampled_from(STORED))
    broken = changed(data, plain)
    fast, slow = with_and_without(lambda: load(noun, broken))
    assert fast == slow


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_wrong_file_is_refused_as_pydantic_refuses_it(data: st.DataObject) -> None:
    noun, plain = data.draw(st.sampled_from(WRITTEN))
    broken = changed(data, plain)
    try:
        fast, slow = with_and_without(lambda: toml_reading.check(broken, noun, "a.toml"))
    except (UnicodeEncodeError, OverflowError):  # no TOML has these
        return
    assert fast == slow


def test_plans_and_farms_are_read_alike(tmp_path: Path) -> None:
    plans.init(tmp_path)
    for made in (
        lambda: plans.load(tmp_path / "plan.toml"),
        lambda: farm.load(tmp_path / "farm.toml"),
    ):
        fast, slow = with_and_without(made)
        assert fast == slow
