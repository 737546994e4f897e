"""What newcomers typed, and the one line that says what to do instead."""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from synthetic_runs import cell, launch, record

from harness import api
from harness.api import checking
from harness.api.arguments import AnyPath, Several
from harness.cli import COMMANDS
from harness.cli.suggestions import ALIASES, suggested
from harness.config import farm, recipes
from harness.errors import ConfigError
from harness.events import MeasuringStarted
from harness.present import screen
from harness.records.store import Store
from harness.records.table import display, rows
from harness.types import Outcome

NAMES = [name for names in COMMANDS.values() for name in names]
Typed = Callable[[str], tuple[int, str]]


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGE_HARNESS_RESULTS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str]:
        from harness.cli import main

        monkeypatch.setattr(sys, "argv", ["edge-harness", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), " ".join((shown.out + shown.err).split())

    return run


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("list", ["runs", "devices"]),
        ("benhc", ["bench"]),
        ("reprot", ["report"]),
        ("quantize", ["optimize"]),
        ("frobnicate", []),
        ("zzz", []),
    ],
)
def test_only_close_or_known_names_of_commands_are_suggested(name: str, found: list[str]) -> None:
    assert suggested(name, NAMES) == found


def test_every_alias_is_of_a_command() -> None:
    assert {one for names in ALIASES.values() for one in names} <= set(NAMES)
    assert not set(ALIASES) & set(NAMES)


def test_an_unknown_command_is_refused_with_what_is_meant(typed: Typed) -> None:
    code, said = typed("list")
    assert code == 3
    assert "No such command 'list'. Did you mean 'runs' or 'devices'?" in said
    assert "Did you mean" not in typed("frobnicate")[1]


def test_help_names_debug(typed: Typed) -> None:
    assert "--debug Show the traceback of an error." in typed("--help")[1]


@pytest.mark.parametrize("command", ["run", "gate", "search"])
def test_a_model_in_place_of_a_plan_says_bench(typed: Typed, tmp_path: Path, command: str) -> None:
    (tmp_path / "model.tflite").write_bytes(b"\x00\xffTFL3")
    more = " --baseline a --candidate b" if command == "gate" else ""
    code, said = typed(f"{command} model.tflite{more}")
    assert code == 3
    assert "model.tflite is a model, not a plan; `edge-harness bench model.tflite`" in said
    assert "is a model, not a plan" in typed(f"{command} absent.keras{more}")[1]


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_place_of_the_folder_of_variants(typed: Typed, tmp_path: Path, out: str) -> None:
    (tmp_path / "model.tflite").write_bytes(api.__file__.encode())
    (tmp_path / "file").touch()
    code, said = typed(f"optimize model.tflite --recipe as_is --out {out}")
    assert code == 3
    assert "is a file, and the variants go to a folder" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int8(io=float)", """in quotes: io="float" (int8 takes io = "int8" | "float"), found"""),
        ("int8(io=)", '(int8 takes io = "int8" | "float")'),
        ("mine(x=float)", 'in quotes: x="float", found'),
    ],
)
def test_a_value_without_quotes_names_what_the_step_takes(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        recipes.RecipeReader(text).recipe()
    assert said in str(raised.value)


def test_one_cell_is_counted_as_one() -> None:
    assert [display.counted(n, "cell") for n in (0, 1, 2)] == ["0 cells", "1 cell", "2 cells"]
    stream = io.StringIO()
    with screen.ScreenProgress(file=stream) as shown:
        shown(MeasuringStarted(cells=(cell(),), launches=1))
    assert stream.getvalue() == "measuring 1 cell, 1 launch\n"


def test_an_unknown_device_is_named_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        farm.select(farm.load(), ["bench-pi"])
    assert str(raised.value).startswith('unknown device "bench-pi" (known: ')
    assert str(raised.value).endswith("farm.toml)")
    assert "(no farm.toml found, looked for " in str(raised.value)
    with pytest.raises(ConfigError, match='^"any:9 of this-machine": only 1 match'):
        farm.select(farm.load(), ["any:9 of this-machine"])


def test_a_table_without_its_column_of_flags_names_the_rows_of_each(tmp_path: Path) -> None:
    cells = [cell("int8"), cell("a-recipe-with-a-long-name")]
    with Store(tmp_path).create(record(cells)) as writer:
        for number, one in enumerate(cells):
            made = [
                launch(one, [2e5 + block] * 40, block, flags=("hot_start",) * number)
                for block in range(3)
            ]
            for each in made:
                writer.launch(each)
            writer.outcome(Outcome(cell=one, launches=tuple(made)))
        writer.finish()
        found = rows(Store(tmp_path).open(writer.id))
    for width, is_named in ((80, True), (200, False)):
        stream = io.StringIO()
        screen.table(found, file=stream, width=width)
        whole = " ".join(stream.getvalue().split())
        assert ("flags" in whole.partition("──")[0]) != is_named
        assert ("hot_start (kws a-recipe-with-a-long-name on pi)" in whole) == is_named
        assert "a launch started before the device had cooled" in whole


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: api.run(3), "run: plan is 3, a int; it takes Plan or text or a path"),
        (lambda: api.run("p.toml", device=1), "unexpected keyword"),
        (lambda: api.show(None), "show: selector is None, a NoneType; it takes text"),
        (lambda: api.rows("latest", results=7), "rows: results is 7"),
        (lambda: api.compare([1, 2]), "compare: selectors is [1, 2], a list"),
        (lambda: api.compare(4), "compare: selectors is 4"),
        (lambda: api.bench("m.tflite", threads="4"), "bench: threads is '4', a str"),
        (lambda: api.bench(["m.tflite", None]), "bench: models is ['m.tflite', None]"),
        (lambda: api.pick("latest", minimize=3), "pick: minimize is 3"),
        (lambda: api.report("latest", output=3), "report: output is 3"),
        (lambda: api.export("latest", form=None), "export: form is None"),
        (lambda: api.doctor(5), "doctor: "),
        (lambda: api.inspect(5), "inspect: file is 5"),
    ],
)
def test_an_argument_of_the_wrong_type_is_one_clear_error(
    call: Callable[[], object], said: str
) -> None:
    with pytest.raises((ConfigError, TypeError)) as raised:
        call()
    assert said in str(raised.value)
    assert isinstance(raised.value, ConfigError) or "unexpected keyword" in said
    assert len(str(raised.value).splitlines()) == 1


FUNCTIONS = [name for name in api.__all__ if not isinstance(getattr(api, name), type)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_annotations_of_the_api_can_be_checked(name: str) -> None:
    """Every default fits its annotation, and something never fits a plain one."""
    function = inspect.unwrap(getattr(api, name))
    for parameter in inspect.signature(function).parameters.values():
        hint = checking._hint(function, parameter.name)
        if parameter.default is not parameter.empty:
            assert checking.fits(parameter.default, hint), parameter
        checking.fits(object(), hint)
        assert checking._described(hint)


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (np.int64(3), int, True),
        (np.float32(3), float, True),
        (3, float, True),
        (True, int, False),
        ("3", int, False),
        (3.0, int, False),
        (1, bool, False),
        (None, str | None, True),
        (["a"], Several[str], True),
        ("a", Several[str], True),
        ([1], Several[str], False),
        (b"a", Several[str], False),
        ((one for one in "ab"), Several[str], True),
        (Path("a"), AnyPath, True),
        (b"a", AnyPath, False),
        ({"a": 1}, Mapping[str, int], True),
        ([], Mapping[str, int], False),
        (len, Callable[[int], int], True),
        (3, Callable[[int], int], False),
        (3, Any, True),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
    ],
)
def test_what_fits_an_annotation(value: object, hint: Any, fits: bool) -> None:
    assert checking.fits(value, hint) == fits


def test_a_file_in_place_of_the_work_folder_is_named_with_its_removal(
    typed: Typed, tmp_path: Path
) -> None:
    from harness.assets import EMBEDDED_MODEL

    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "device").touch()
    _, said = typed(f"bench {EMBEDDED_MODEL} --launches 1")
    assert f"`rm {tmp_path}/cache/device`" in said
