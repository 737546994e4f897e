"""Errors of commands without a plan name what was typed, in our words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.option_names import naming_options, option_names, read_shape
from harness.config import plans
from harness.errors import ConfigError

MODELS = [Path("a.tflite"), Path("b.keras")]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (
            'model[1].path: there is no file or folder "b"',
            'b.keras: there is no file or folder "b"',
        ),
        ("model[0].shape.*[1]: must be a number", "--shape: must be a number"),
        ("model[0].signature: must be text", "--signature: must be text"),
        ("data.calibration: there is no file", "--calibration: there is no file"),
        ("data.evaluation: is a pipe", "--evaluation: is a pipe"),
        ('data.metric: unknown metric "f1"', '--metric: unknown metric "f1"'),
        ('run.recipes[0]: recipe "x("', '--recipe: recipe "x("'),
        (
            "run.devices[1]: means the same as number 1 of that list",
            "--on: the same value is given twice",
        ),
        ("run.threads: must be at least 1", "--threads: must be at least 1"),
        (
            "dose.period_ms: a stream needs one, such as period_ms = 33.3",
            "--period-ms: a stream needs one, such as --period-ms 33.3",
        ),
        ("gate.margin: must be at most 1, not 3.0", "--margin: must be at most 1, not 3.0"),
        ("gate.min_effect: must be a number", "--min-effect: must be a number"),
        (
            "gate: min_effect (0.5) must be under margin (0.05)",
            "--min-effect (0.5) must be under --margin (0.05)",
        ),
        ("host.seconds: must be at least 1", "--host-seconds: must be at least 1"),
        ("host.memory_mb: must be at least 256", "--host-memory-mb: must be at least 256"),
        ("dose.max_seconds: x", "dose.max_seconds: x"),
        ("dose.launches: must be at least 1", "--launches: must be at least 1"),
        (
            'dose.period_ms: only scenario = "stream" has one',
            "--period-ms: only --scenario stream has one",
        ),
        (
            "dose.period_ms (9.0) must not be longer than dose.max_seconds (1)",
            "--period-ms (9.0) must not be longer than dose.max_seconds (1)",
        ),
        (
            'model: two models have the name "a" (one is x); give each its own name',
            'model: two models have the name "a" (one is x); give each file once, or rename one',
        ),
    ],
)
def test_a_key_becomes_the_option(message: str, named: str) -> None:
    assert option_names(message, MODELS) == named
    with pytest.raises(ConfigError) as caught, naming_options(MODELS):
        raise ConfigError(f"command line: {message}")
    assert str(caught.value) == named


def test_errors_of_other_files_stay() -> None:
    with pytest.raises(ConfigError) as caught, naming_options(MODELS):
        raise ConfigError("farm.toml: data.x: no")
    assert str(caught.value) == "farm.toml: data.x: no"


@pytest.mark.parametrize(
    ("given_data", "option"),
    [
        ({"paths": ["none.tflite"]}, "none.tflite: "),
        ({"data": {"calibration": "none.npz"}}, "--calibration: "),
        ({"data": {"evaluation": "none.npz"}}, "--evaluation: "),
        ({"data": {"training": "none.npz"}}, "--training: "),
        ({"data": {"metric": "f1"}}, "--metric: "),
        ({"recipes": ["int8("]}, "--recipe: "),
        ({"threads": [5000]}, "--threads: "),
        ({"threads": [1, 1]}, "--threads: "),
        ({"devices": ["a", "a"]}, "--on: "),
        ({"dose": {"launches": 10**9}}, "--launches: "),
        ({"dose": {"launches": 10**30}}, "--launches: "),
        ({"dose": {"period_ms": 5.0}}, "--period-ms: "),
        ({"dose": {"scenario": "x"}}, "--scenario: "),
        ({"model": {"shape": [0.5]}}, "--shape: "),
        ({"host": {"seconds": 0}}, "--host-seconds: "),
        ({"host": {"memory_mb": 1}}, "--host-memory-mb: "),
        ({"model": {"signature": 3}}, "--signature: "),
    ],
)
def test_no_key_of_a_plan_is_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_data: dict[str, object], option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.tflite").touch()
    options = {"paths": ["a.tflite"], "devices": ["this-machine"], **given_data}
    models = [Path(str(path)) for path in options.pop("paths")]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as caught, naming_options(models):
        plans.quick(models, **options)  # type: ignore[arg-type]
    shown = str(caught.value)
    assert shown.startswith(option)
    assert not any(word in shown for word in ("[data]", "model[", "dose.", "run.", "host.", "None"))


@pytest.mark.parametrize(
    ("written", "shape"),
    [
        ([], None),
        (["1,224,224,3"], [1, 224, 224, 3]),
        (["image=1,4", "a=b=2"], {"image": [1, 4], "a=b": [2]}),
    ],
)
def test_shapes(written: list[str], shape: object) -> None:
    assert read_shape(written) == shape


@pytest.mark.parametrize(
    "written",
    [["x"], [""], ["1,,2"], ["0"], ["-1"], ["1.5"], ["a="], ["a=1", "2"], ["1", "2"], ["9" * 99]],
)
def test_what_is_no_shape(written: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^--shape: "):
        read_shape(written)


@given(st.lists(st.text(max_size=20), max_size=3))
def test_any_shape_is_read_or_refused(written: list[str]) -> None:
    try:
        read_shape(written)
    except ConfigError as error:
        assert str(error).startswith("--shape: ")
