"""A plan, a farm or a profile from a stranger is refused in one line, before it costs anything."""

import itertools
import os
import re
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import bounds, farm, globs, models, plans, profiles, recipes, toml_reading
from harness.errors import ConfigError
from harness.measure import prepare

BASE = '[model]\npath = "a.tflite"\n[run]\nrecipes = ["as_is"]\n'
MAX_CPU_SECONDS = 2.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.tflite").touch()
    return tmp_path


def chain(count: int, steps: str, end: str = "as_is") -> str:
    """Write recipes that each name the next one."""
    tables = [
        f'[recipe.r{i}]\nsteps = "{steps.replace("NEXT", f"r{i + 1}")}"\n' for i in range(count)
    ]
    return BASE + "".join(tables) + f'[recipe.r{count}]\nsteps = "{end}"\n'


COSTLY = {
    "doubling recipes": (chain(25, "NEXT > NEXT"), "expands to more than 64 steps"),
    "tripling recipes": (chain(20, "NEXT > as_is > NEXT"), "expands to more than 64 steps"),
    "a long chain of recipes": (chain(900, "NEXT"), "more than 32 deep"),
    "a long cycle": (chain(900, "NEXT", end="r0"), "more than 32 deep"),
    "many recipes": (chain(1500, "as_is"), "recipe: 1,501 items; at most 1,000 are allowed"),
    "a recipe of many steps": (BASE.replace("as_is", "int8>" * 90 + "a"), "at most 64 steps"),
    "a long recipe": (BASE.replace("as_is", "a>" * 90_000 + "a"), "longer than 10,000 characters"),
    "nested values in a recipe": (BASE.replace('"as_is"', f"'a(x={'[' * 3000})'"), "a value for"),
    "digits in a recipe": (BASE.replace('"as_is"', f"'a(x={'9' * 6000})'"), "a value for"),
    "nested headers": (f"[{'.'.join('a' * 3000)}]\nx = 1\n", "line 1: tables or arrays are nested"),
    "headers in a pyramid": (
        "\n".join(f"[{'.'.join('a' * depth)}]" for depth in range(1, 600)),
        "line 33: tables or arrays are nested more than 32 deep",
    ),
    "nested tables": (f"x = {'{a = ' * 3000}1{'}' * 3000}", "nested more than 32 deep"),
    "nested arrays": (f"x = {'[' * 3000}{']' * 3000}", "nested more than 32 deep"),
    "nested lines": ("x = " + "[\n" * 3000, "line 33: tables or arrays are nested"),
    "both nested": (
        BASE + f"[x]\n{'.'.join('b' * 20)} = " + "{" + ".".join("c" * 20) + " = 1}",
        "nested more than 32 deep",
    ),
    "a dotted key": (f"{'.'.join('a' * 200_000)} = 1", "nested more than 32 deep"),
    "a dotted key in quotes": (".".join(['"a"'] * 99_000) + " = 1", "nested more than 32 deep"),
    "6,000 digits": (BASE + f"seed = {'9' * 6000}", "line 5: a number of more than 1,000 digits"),
    "900 digits": (BASE + f"seed = {'9' * 900}", "run.seed: the number has more than 64 bits"),
    "hexadecimal": (BASE + f"seed = 0x{'f' * 90_000}", "run.seed: the number has more than 64"),
    "10^9 launches": (
        BASE + "[dose]\nlaunches = 1_000_000_000",
        "dose.launches: must be at most 10000, not 1000000000",
    ),
    "10^9 memory launches": (BASE + "[dose]\nmemory_launches = 1_000_000_000", "at most 1000, not"),
    "10^15 inferences": (
        BASE + "[dose]\nmin_inferences = 1_000_000_000_000_000",
        "at most 10000000, not",
    ),
    "years": (BASE + "[dose]\nmax_seconds = 1e9", "dose.max_seconds: must be at most 86400, not"),
    "10^9 trials": (
        BASE + '[search]\nspace = ["int8"]\ntrials = 1_000_000_000',
        "search.trials: must be at most 100000",
    ),
    "10^9 pairs": (BASE + "[gate]\nmax_pairs = 1_000_000_000", "gate.max_pairs: must be at least"),
    "a list of recipes": (
        BASE.replace('"as_is"', ", ".join(f'"r{i}"' for i in range(40_000))),
        "run.recipes: 40,000 items; at most 10,000 are allowed",
    ),
    "a list of devices": (
        BASE + "devices = [" + ", ".join(f"'d{i}'" for i in range(9_000)) + "]",
        "run.devices: 9,000 items; at most 1,000 are allowed",
    ),
    "lists that multiply": (
        BASE
        + f"threads = {list(range(1, 1025))}\n"
        + "devices = ["
        + ", ".join(f'"d{i}"' for i in range(900))
        + "]",
        "cells: 921,600 items; at most 10,000 are allowed",
    ),
    "many models": ('[[model]]\npath = "a.tflite"\n' * 9_000, "model: 9,000 items; at most 1,000"),
    "many keys": ("\n".join(f"a{i} = 1" for i in range(30_000)), "30,000 items; at most 10,000"),
    "a long key": (BASE + "a" * 300_000 + " = 1", 'run: unknown key "aaa'),
    "a long text": (BASE + f'thermal = "{"a" * 300_000}"', "run.thermal: must be"),
    "alternatives": (
        BASE + "[search]\nspace = ['a(x=" + "[|" * 4000 + ")']",
        "a value for",
    ),
    "quotes": ('"""\\' * 90_000, "not valid TOML"),
    "apostrophes": ("'" * 400_000, "not valid TOML"),
    "a huge shape": (
        BASE.replace("[run]", "shape = [1, 100000, 100000]\n[run]"),
        "model.shape: more than 100,000,000 elements",
    ),
    "an empty shape": (
        BASE.replace("[run]", "shape = { x = [0, 3] }\n[run]"),
        "model.shape.x: must have sizes of at least 1",
    ),
    "any:N": (BASE + f"devices = ['any:{'9' * 900} of tag:a']", "is not a selector"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_plan_is_refused_in_one_line(folder: Path, name: str) -> None:
    text, message = COSTLY[name]
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    started = time.process_time()
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        prepare.decide(plans.load(path), farm.Farm(devices={"this-machine": farm.this_machine()}))
    assert time.process_time() - started < MAX_CPU_SECONDS
    shown = str(caught.value)
    assert str(path) in shown or name == "any:N"
    assert "\n" not in shown
    assert len(shown) < 2_000


@pytest.mark.parametrize(
    "text",
    [
        f"[{'.'.join('a' * 3000)}]\nx = 1\n",
        f"x = {'9' * 6000}",
        f"[device.pi]\nx = {'[' * 3000}",
        "\n".join(f"[device.d{i}]" for i in range(30_000)),
    ],
)
def test_a_costly_farm_and_profile_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text, encoding="utf-8")
    for read in (farm.load, profiles.load):
        started = time.process_time()
        with pytest.raises(ConfigError, match=re.escape(f"{path}: ")):
            read(path)
        assert time.process_time() - started < MAX_CPU_SECONDS


def test_a_plan_may_have_hundreds_of_models(folder: Path) -> None:
    for i in range(300):
        (folder / f"m{i}.tflite").touch()
    tables = "".join(f'[[model]]\nname = "n{i}"\npath = "m{i}.tflite"\n' for i in range(300))
    path = folder / "plan.toml"
    path.write_text(tables + '[run]\nrecipes = ["as_is", "float16"]\n', encoding="utf-8")
    assert len(plans.load(path).models) == 300


@given(st.text(alphabet="[]{}'\"\\#=.,a1 \n", max_size=60))
def test_any_text_is_toml_or_refused_in_one_line(text: str) -> None:
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        expected = None
    try:
        found = toml_reading.parse(text, "file")
    except ConfigError as error:
        assert "\n" not in str(error)
        assert expected is None
    else:
        assert found == expected


@given(st.text(alphabet="ab>@(=[],.|\"' 19", max_size=80))
def test_any_recipe_is_read_or_refused(text: str) -> None:
    try:
        recipe = recipes.parse(text, {"a": "b > b"})
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert recipes.parse(recipe.chain).steps == recipe.steps


def test_a_real_cycle_is_shown(folder: Path) -> None:
    with pytest.raises(ConfigError, match="in a cycle: a > b > a"):
        recipes.parse("a", {"a": "b", "b": "a"})


# --- names ---------------------------------------------------------------------------------------

BAD_NAMES = [
    *(".", "..", "", "   ", " a", "a ", "a/b", "../a", "/", "a\\b", "a\0b", "a\nb", "a\tb"),
    *("\u202eabc", "a\x1bb", "n" * 200, "-rf", "NUL", "con"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_of_a_model_can_be_part_of_a_file_name(folder: Path, name: str) -> None:
    mapping = {"model": {"name": name, "path": "a.tflite"}, "run": {"recipes": ["as_is"]}}
    with pytest.raises(ConfigError, match=r"plan\.toml: model\.name: .* is not a name of a model"):
        plans.from_mapping(mapping, folder, "plan.toml")


@pytest.mark.parametrize("name", ["a", "kws-v2", "mobile net (v2)", "Modèle-größe-模型", "v1.0"])
def test_usual_names_of_models(folder: Path, name: str) -> None:
    mapping = {"model": {"name": name, "path": "a.tflite"}, "run": {"recipes": ["as_is"]}}
    assert plans.from_mapping(mapping, folder, "plan.toml").models[0].source.name == name


@pytest.mark.parametrize("name", [*BAD_NAMES, "a b", "é"])
def test_a_name_of_a_device_and_of_a_recipe(folder: Path, name: str) -> None:
    if name not in {"NUL", "con"}:
        table = {"device": {name: {"profile": "raspberry_pi_5", "address": "local:"}}}
        with pytest.raises(ConfigError, match="is not a name of a device"):
            farm.from_mapping(table, folder / "farm.toml")
        mapping = {
            "model": {"path": "a.tflite"},
            "run": {"recipes": ["as_is"]},
            "recipe": {name: {"steps": "as_is"}},
        }
        with pytest.raises(ConfigError, match="a name is letters"):
            plans.from_mapping(mapping, folder, "plan.toml")


@pytest.mark.parametrize("file", ["..tflite", "a\\b.tflite", " a.tflite", "-x.tflite", "n" * 240])
def test_a_model_without_a_name_gets_a_usable_one(tmp_path: Path, file: str) -> None:
    path = tmp_path / (file if file.endswith(".tflite") else f"{file}.tflite")
    path.touch()
    plan = plans.quick([path], ["this-machine"])
    models.check_name(plan.models[0].source.name, "name")


@given(st.text(max_size=300))
def test_a_made_name_is_always_allowed(text: str) -> None:
    (name,) = models.name_all([Path(f"/models/{text.replace(chr(0), '')}.tflite")], Path("/models"))
    models.check_name(name, "name")


# --- paths ---------------------------------------------------------------------------------------


def find(folder: Path, pattern: str) -> list[Path]:
    return models.find(folder, pattern, "plan.toml: model.path")


@pytest.mark.parametrize("pattern", ["/proc/**/*.tflite", "/proc/*/fd/*", "/sys/**", "/dev/*"])
def test_a_glob_does_not_enter_the_folders_of_the_system(tmp_path: Path, pattern: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError, match="goes through /(proc|sys|dev)"):
        find(tmp_path, pattern)
    assert time.process_time() - started < MAX_CPU_SECONDS


def test_a_link_into_the_system_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    (tmp_path / "a.tflite").touch()
    assert find(tmp_path, "**/*.tflite") == [tmp_path / "a.tflite"]
    with pytest.raises(ConfigError, match="goes through /proc"):
        find(tmp_path, "link/**/*.tflite")


def test_a_glob_looks_at_a_bounded_number_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "a.tflite").touch()
    assert len(find(tmp_path, "**/**/*.tflite")) == 20
    monkeypatch.setattr(globs, "MAX_ENTRIES", 30)
    with pytest.raises(ConfigError, match="goes through more than 30 files"):
        find(tmp_path, "**/*.tflite")


def test_stars_inside_a_name_and_folders_that_loop(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "deep" / "model.tflite").touch()
    (tmp_path / ".hidden.tflite").touch()
    assert find(tmp_path, "d**p/*.tflite") == [tmp_path / "deep" / "model.tflite"]
    assert find(tmp_path, "**/*.tflite") == [
        tmp_path / ".hidden.tflite",
        tmp_path / "deep" / "model.tflite",
    ]
    assert find(tmp_path / "deep", "../.*.tflite") == [tmp_path / "deep" / ".." / ".hidden.tflite"]


def test_a_glob_over_a_slow_disk_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time counts only once many files were seen; the clock stands in for a slow disk."""
    (tmp_path / "many").mkdir()
    for number in range(40):
        (tmp_path / "many" / f"{number}.tflite").touch()
    clock = itertools.count()
    monkeypatch.setattr(globs, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    found, _ = globs.find(tmp_path, "**/*.tflite", "where", lambda _: True)
    assert len(found) == 40
    monkeypatch.setattr(globs, "FEW_ENTRIES", 10)
    looked: list[Path] = []
    with pytest.raises(ConfigError, match="goes through more than 10 files"):
        globs.find(tmp_path, "**/*.tflite", "where", lambda path: not looked.append(path))
    assert len(looked) < 40


@given(
    st.lists(st.sampled_from(["a", "b", "a.tflite", "b.keras"]), min_size=1, max_size=3),
    st.sampled_from(["*", "**", "a*", "**/*.tflite", "*/*", "a/**", "[ab]", "?/*", "**/a/*"]),
)
def test_a_glob_finds_what_pathlib_finds(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], pattern: str
) -> None:
    root = tmp_path_factory.mktemp("glob")
    folder = root.joinpath(*parts[:-1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{parts[-1]}.tflite").touch()
    found = {path for path in globs.find(root, pattern, "where", lambda _: True)[0] if path != root}
    expected = {path for path in root.glob(pattern) if path != root}
    assert {path for path in found if path.is_dir()} == {p for p in expected if p.is_dir()}
    assert expected <= found


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("n" * 5000, "File name too long"),
        ("~nobody-here/a.tflite", "home directory"),
        ("a\0b.tflite", 'a\\x00b.tflite" cannot be read: embedded null byte'),
        ("pipe.tflite", "is a pipe, not a file"),
        ("/dev/zero", "is not a model"),
        ("loop.tflite", "Too many levels of symbolic links"),
    ],
)
def test_a_path_that_no_model_can_have(folder: Path, path: str, message: str) -> None:
    os.mkfifo(folder / "pipe.tflite")
    (folder / "loop.tflite").symlink_to(folder / "loop.tflite")
    mapping = {"model": {"path": path}, "run": {"recipes": ["as_is"]}}
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        plans.from_mapping(mapping, folder, "plan.toml")
    assert str(caught.value).startswith("plan.toml: model.path: ")


@pytest.mark.parametrize("key", ["training", "calibration", "evaluation"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("n" * 5000, "File name too long"),
        ("pipe.npz", "is a pipe, not a file"),
        ("/dev/zero", "is a device, not a file"),
    ],
)
def test_data_that_is_not_a_file(folder: Path, key: str, path: str, message: str) -> None:
    os.mkfifo(folder / "pipe.npz")
    mapping = {"model": {"path": "a.tflite"}, "run": {"recipes": ["as_is"]}, "data": {key: path}}
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        plans.from_mapping(mapping, folder, "plan.toml")
    assert str(caught.value).startswith(f"plan.toml: data.{key}: ")


def test_names_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.tflite")
    odd.touch()
    with pytest.raises(ConfigError, match=re.escape('caf\\xe9.tflite" is not UTF-8')):
        plans.quick([odd], ["this-machine"])
    with pytest.raises(ConfigError, match=re.escape('caf\\xe9.tflite" is not UTF-8')):
        find(tmp_path, "*.tflite")
    (tmp_path / "a.tflite").touch()
    for table in (
        {"data": {"evaluation": os.fsdecode(b"\xe9.npz")}},
        {"run": {"recipes": ["as_is"], "devices": [os.fsdecode(b"\xe9")]}},
        {"recipe": {os.fsdecode(b"\xe9"): {"steps": "as_is"}}},
    ):
        mapping = {"model": {"path": "a.tflite"}, "run": {"recipes": ["as_is"]}, **table}
        with pytest.raises(ConfigError) as caught:
            plans.from_mapping(mapping, tmp_path, "plan.toml")
        assert "JSON" not in str(caught.value)
        str(caught.value).encode()
    folder = tmp_path / os.fsdecode(b"d\xe9")
    folder.mkdir()
    (folder / "plan.toml").write_text(BASE, encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape('d\\xe9/plan.toml" is not UTF-8')):
        plans.load(folder / "plan.toml")


# --- a farm --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        'identity = ""',
        'identity = "  "',
        'known_hosts = ""',
        'ssh_config = ""',
        'workdir = ""',
        'python = ""',
        'tags = [""]',
        'meter = ""',
        'transport_options = { identity = "" }',
    ],
)
def test_an_empty_text_in_a_farm_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "farm.toml"
    path.write_text(
        f'[device.pi]\nprofile = "raspberry_pi_5"\naddress = "ssh://pi@10.0.0.7"\n{line}\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"device\.pi\..*must not be empty"):
        farm.load(path)


def test_the_bounds_are_above_every_shipped_file() -> None:
    for path in Path(__file__).parents[2].joinpath("device_profiles").glob("*.toml"):
        bounds.check_text(path.read_text(encoding="utf-8"), path.name)
