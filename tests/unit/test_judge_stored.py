"""A stored gate is judged, shown and exported from its record alone, whatever lies on the host."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stored_gates
import synthetic_runs as synthetic
from test_selftest_analysis import found as selftest
from typer.testing import CliRunner

from harness import api
from harness.analysis.gate import document, selftests, stored
from harness.cli import app
from harness.records.store import Store, checksums

PROFILE = 'title = "t"\narch = "a"\nxnnpack = true\ntargets = ["xnnpack"]\nverified = "emulated"\n'
READERS = (
    ("judge", "latest"),
    ("judge", "latest", "--json"),
    ("judge", "latest", "--margin", "0.2", "--json"),
    ("show", "latest"),
    ("show", "latest", "--format", "json"),
    ("show", "latest", "--format", "markdown"),
    ("report", "latest", "-o", "OUT"),
    *(
        ("export", "latest", "--format", form)
        for form in ("bmf", "github", "junit", "pyperf", "gbench", "csv", "summary")
    ),
    ("pick", "latest", "--minimize", "latency_p50_ms", "--json"),
    ("compare", "latest", "latest"),
)


def outputs(results: Path, out: Path) -> list[bytes]:
    """Return what every reader prints or writes, with its exit code."""
    made = []
    for words in READERS:
        out.unlink(missing_ok=True)
        given = [str(out) if word == "OUT" else word for word in words]
        done = CliRunner().invoke(app, [*given, "--results", str(results)])
        text = done.output.replace(str(out), "OUT")
        made.append(f"{words} {done.exit_code} {text}".encode())
        if out.exists():
            made.append(out.read_bytes())
    return made


@pytest.mark.parametrize("kind", ["empty", "hostile"])
def test_what_a_stored_run_says_does_not_depend_on_the_home(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, out = tmp_path / "results", tmp_path / "out.html"
    stored_gates.store(results, noise=replace(stored_gates.NOISY, half_width=0.01))
    homes = {name: tmp_path / name for name in ("first", "empty", "hostile")}
    for name, home in homes.items():
        (home / "edge-harness" / "profiles").mkdir(parents=True)
        (home / "farm.toml").write_text("not = [a farm" if name == "hostile" else "")
    own = homes["hostile"] / "edge-harness"
    (own / "profiles" / "raspberry_pi_5.toml").write_text(PROFILE)
    (own / "profiles" / "broken.toml").write_text("[")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(homes["hostile"]))
    noisy = selftest(0.2)
    for digest in ("0" * 64, *(c.variant.digest for c in _cells(results))):
        selftests.keep(replace(noisy, identity=synthetic.facts().identity, digest=digest))

    def read(name: str) -> list[bytes]:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(homes[name]))
        monkeypatch.setenv("HOME", str(homes[name]))
        monkeypatch.chdir(homes[name])
        return outputs(results, out)

    first = read("first")
    assert any(b"REGRESSION" in text for text in first)
    assert read(kind) == first


def _cells(results: Path) -> list[Any]:
    return list(Store(results).open("latest").record.cells)


def test_the_selftest_is_stored_with_the_gate_and_judged_again_from_there(tmp_path: Path) -> None:
    noise = replace(stored_gates.NOISY, half_width=0.04)
    plain = stored_gates.store(tmp_path, ratio=1.06, noise=noise)
    (contest,) = plain["contests"]
    assert contest["selftest"]["run"] == noise.run
    assert contest["selftest"]["false_alarms"] == 0.003
    assert contest["selftest"]["threshold"] == 0.03
    assert plain["rows"][0]["verdict"] == "INCONCLUSIVE"
    assert "its selftest of 2026-01-01 reached +-4.0%" in plain["rows"][0]["reason"]
    assert api.judge("latest", results=tmp_path).plain() == plain


def test_a_difference_far_outside_the_noise_of_the_device_keeps_its_verdict(tmp_path: Path) -> None:
    plain = stored_gates.store(tmp_path, noise=stored_gates.NOISY)
    row = plain["rows"][0]
    assert (row["verdict"], row["confirmed"], plain["exit_code"]) == ("REGRESSION", True, 1)
    assert "noisy_device" in row["labels"]
    assert row["device_half_width"] == 0.06


def test_a_selftest_that_does_not_fit_decides_nothing_and_is_named(tmp_path: Path) -> None:
    unfit = replace(stored_gates.NOISY, unfit="it is 45 days old, 30 days are the most")
    plain = stored_gates.store(tmp_path, ratio=1.0, noise=unfit)
    assert plain["rows"][0]["verdict"] == "EQUIVALENT"
    assert plain["rows"][0]["device_half_width"] is None
    (line,) = document.unused_selftests(plain)
    assert line.endswith(
        "selftest of 2026-01-01 does not count: it is 45 days old, 30 days are the most"
    )
    assert line in document.reasons(api.judge("latest", results=tmp_path).plain())


@pytest.mark.parametrize(("fresh", "code"), [(3, 2), (10, 1)])
def test_a_gate_that_was_killed_while_it_confirmed_says_why(
    fresh: int, code: int, tmp_path: Path
) -> None:
    stored_gates.store(tmp_path, fresh=fresh, with_verdict=False)
    found = api.judge("latest", results=tmp_path)
    assert found.exit_code == code
    why = "only 3 of 10 fresh pairs were measured: the gate was killed or failed before its verdict"
    assert (why in found.judged[0].reason) is (fresh < 10)


def test_a_gate_from_before_selftests_were_stored_is_judged_by_its_half_width(
    tmp_path: Path,
) -> None:
    plain = stored_gates.store(
        tmp_path, ratio=1.06, noise=replace(stored_gates.NOISY, created=None)
    )
    run = Store(tmp_path).open("latest")
    old = {**plain, "contests": [dict(one) for one in plain["contests"]]}
    for one in old["contests"]:
        del one["selftest"]
    text = checksums.summed(old, f"{run.record.key}/{document.FILE}")
    (run.path / document.FILE).write_text(text, encoding="utf-8")
    again = api.judge("latest", results=tmp_path).plain()
    assert [row["verdict"] for row in again["rows"]] == [row["verdict"] for row in plain["rows"]]
    assert again["rows"][0]["device_half_width"] == 0.06
    assert again["contests"][0]["selftest"]["run"] is None


@pytest.mark.parametrize("typed", [True, False])
def test_what_the_gate_refused_as_suspect_only_the_gate_can_measure(
    tmp_path: Path, *, typed: bool
) -> None:
    stored_gates.store(tmp_path)
    run = Store(tmp_path).open("latest")
    call = {"plan": "plan.toml", "baseline": "a", "candidate": "b"}
    run = replace(run, record=replace(run.record, call=call if typed else {}))
    key = {"model": "kws", "recipe": "b", "device": "pi", "threads": 1}
    reason = "b: a mean of outputs differs"
    failed = [{**key, "kind": "suspect", "reason": f"{reason}; --include-suspect includes it"}]
    plain = {**document.read(run), "failed": failed}
    ((_, _, text),) = stored.result(run, plain).failed
    command = (
        f"gate plan.toml --baseline a --candidate b --results {tmp_path} --resume {run.id} "
        "--include-suspect` measures it"
        if typed
        else "measure again with gate --include-suspect"
    )
    assert text.startswith(f"{reason}; the gate did not measure it for that: ")
    assert text.endswith(command)


def test_the_verification_of_a_profile_is_that_of_the_run(tmp_path: Path) -> None:
    synthetic.whole_run(tmp_path)
    assert api.show("latest", results=tmp_path).lines[-1].endswith("profile raspberry_pi_5")
    record = Store(tmp_path).open("latest").record
    known = {name: replace(one, verified="emulated") for name, one in record.devices.items()}
    shutil.rmtree(tmp_path / record.id)
    synthetic.whole_run(tmp_path, devices=known)
    assert "(verified: emulated)" in api.show("latest", results=tmp_path).lines[-1]
    assert json.loads((next(tmp_path.glob("2*")) / "run.json").read_text())["devices"]
