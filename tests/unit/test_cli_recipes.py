"""`recipes`: what a person can ask of the known steps."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from harness.cli import app
from harness.optimize import catalog


def test_every_step_is_listed() -> None:
    done = CliRunner().invoke(app, ["recipes", "--json"])
    assert [step["name"] for step in json.loads(done.stdout)["recipes"]] == [*catalog.known_steps()]


def test_one_step_tells_every_parameter() -> None:
    done = CliRunner().invoke(app, ["recipes", "prune"])
    step = catalog.known_steps()["prune"]
    assert all(item.name in done.stdout and item.help in done.stdout for item in step.parameters)
    assert "needs training data" in done.stdout
    assert "as_is" in CliRunner().invoke(app, ["recipes", "as_is"]).stdout


def test_an_unknown_step_is_refused_with_the_nearest() -> None:
    done = CliRunner().invoke(app, ["recipes", "prun"])
    assert done.exit_code != 0
    assert 'did you mean "prune"' in str(done.exception)
