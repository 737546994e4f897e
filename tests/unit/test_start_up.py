"""What a short command imports; how long it takes is in benchmarks/start_up.py."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from synthetic_runs import whole_run

from harness import api, cli
from harness.cli import light
from harness.cli.shared import Format
from harness.records import table
from harness.records.store import Store

HEAVY = (
    *("numpy", "pandas", "duckdb", "pydantic", "rich", "jinja2", "tensorflow", "ai_edge_litert"),
    *("fabric", "paramiko", "altair", "adbutils", "distributed", "optuna"),
)
LAZY = ("harness.api", "harness.records.store", "harness.present.screen")
SCRIPT = f"""
import sys
sys.argv[0] = "edge-harness"
from harness.cli import main
try:
    main()
finally:
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    print("LOADED", loaded, file=sys.stderr)
"""


def python(code: str, *words: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | ({"XDG_CONFIG_HOME": str(home)} if home else {}),
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module", name="results")
def _results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    table.rows(Store(root).open(whole_run(root)))  # writes the cache of the quantiles
    return root


@pytest.mark.parametrize(
    "words",
    [
        ("runs",),
        ("runs", "--json"),
        ("show", "latest"),
        ("show", "latest", "--format", "markdown"),
        ("show", "latest", "--format", "csv"),
        ("show", "latest", "--json"),
    ],
)
def test_a_stored_run_is_shown_without_the_heavy_libraries(
    words: tuple[str, ...], results: Path, tmp_path: Path
) -> None:
    done = python(SCRIPT, *words, "--results", str(results), home=tmp_path)
    assert "kws" in done.stdout
    assert done.stderr == "LOADED []\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--help",), "recipes"),
        (("--version",), "edge-harness"),
        (("profiles",), "raspberry_pi_5"),
        (("profiles", "raspberry_pi_5"), "raspberry_pi_5"),
        (("profiles", "--json"), "raspberry_pi_5"),
        (("recipes",), "prune_filters"),
        (("recipes", "mixed"), "max_drop"),
        (("recipes", "--json"), "pcqat"),
    ],
)
def test_what_is_known_is_listed_without_the_heavy_libraries(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = python(SCRIPT, *words, home=tmp_path)
    assert said in done.stdout
    assert done.stderr == "LOADED []\n"


def test_importing_every_command_imports_nothing_heavy() -> None:
    code = f"import sys\nfrom harness.cli import app\nprint([n for n in {HEAVY!r} if n in sys.modules])"
    assert python(code).stdout == "[]\n"


@pytest.mark.parametrize("package", ["harness", *LAZY])
def test_importing_a_package_imports_none_of_its_modules(package: str) -> None:
    code = (
        f"import sys, {package}\n"
        f"inside = [name for name in sys.modules if name.startswith('{package}.')]\n"
        "print(sorted(set(inside) - {'harness.lazy'}))"
    )
    assert python(code).stdout == "[]\n"


def imported_for_checkers(package: str) -> dict[str, str]:
    """Find the names under `if TYPE_CHECKING:`, each with its module."""
    module = importlib.import_module(package)
    assert module.__file__
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node)
    )
    return {
        name.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }


@pytest.mark.parametrize("package", LAZY)
def test_what_checkers_see_is_what_is_there(package: str) -> None:
    module: Any = importlib.import_module(package)
    homes = imported_for_checkers(package)
    assert sorted(homes) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name, home in homes.items():
        found, there = getattr(module, name), getattr(importlib.import_module(home), name)
        assert inspect.unwrap(found) is inspect.unwrap(there), name
    assert not set(module.__all__) & {one.name for one in pkgutil.iter_modules(module.__path__)}


def test_a_name_that_is_not_there_is_refused_by_name() -> None:
    missing = "nonesuch"
    with pytest.raises(AttributeError, match=r"module 'harness\.api' has no attribute 'nonesuch'"):
        getattr(api, missing)


def test_every_command_is_found_by_its_module() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert list(commands) == [name for names in cli.COMMANDS.values() for name in names]
    for module, names in cli.COMMANDS.items():
        for name in names:
            home = importlib.import_module(f"harness.cli.{module}")
            assert commands[name].callback.__name__ == name
            assert hasattr(home, name)


def parameters() -> list[Any]:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    return [parameter for command in commands.values() for parameter in command.params]


@pytest.mark.parametrize(
    "value", ["", "-", "latest", "table", "gate", "soak", "/", "/nowhere", "a\0b"]
)
def test_a_value_is_converted_as_typer_does(value: str) -> None:
    light_ones = 0
    for parameter in parameters():
        annotation = parameter.type_descriptor.annotation
        found = light.converted(annotation, value)
        if found is NotImplemented or parameter.multiple or parameter.nargs != 1:
            continue
        light_ones += 1
        runtime = parameter.get_runtime_param()
        assert found == runtime.coerce(value, param=parameter, ctx=None), parameter.name
        assert type(found) is type(runtime.coerce(value, param=parameter, ctx=None))
    assert light_ones > 10


def test_what_is_not_plain_is_left_to_typer() -> None:
    assert light.converted(int, "1") is NotImplemented
    assert light.converted(Format, "nonesuch") is NotImplemented
    assert light.converted(Path, "a\0b") is NotImplemented


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show",), "Missing argument 'run'"),
        (("show", "latest", "--format", "xml"), "'xml' is not one of"),
        (("shwo",), "No such command 'shwo'"),
        (("runs", "--nonesuch"), "No such option"),
    ],
)
def test_what_is_wrong_is_said_as_ever(words: tuple[str, ...], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 3
    assert said in done.stderr


def test_a_run_is_shown_as_its_rows_are(results: Path) -> None:
    shown = api.show("latest", results=results)
    assert [row.plain() for row in shown.rows] == [
        row.plain() for row in api.rows("latest", results=results)
    ]
    run = api.open_run("latest", results=results)
    assert shown.lines == [*api.minutes(run), *api.places(run)]
