"""A damaged cache costs the time to make it again: never a number, an error or a file that is sent."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from edge_command import edge

from harness.demo import DATA

PLAN = """
[model]
name = "digits"
path = "digits.tflite"
[data]
evaluation = "digits_evaluation.npz"
[run]
recipes = ["as_is"]
devices = ["this-machine"]
[dose]
launches = 1
memory_launches = 0
warmup_seconds = 0.02
min_seconds = 0.02
"""
KINDS = ("agents", "build", "device", "inputs", "outputs")
"""The folders of the cache. `device` is the work folder of this machine as a device."""


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("x")


def make_unreadable(path: Path) -> None:
    """Also for root: a link to itself."""
    path.unlink()
    path.symlink_to(path)


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = (empty, cut, flip, replace_by_folder, make_unreadable, remove)


def files(cache: Path, kind: str) -> list[Path]:
    folder = cache / kind
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and "tmp" not in path.parts
    ]


@pytest.fixture(name="home", scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for file in DATA.glob("digits*.*"):
        shutil.copy(file, home)
    (home / "plan.toml").write_text(PLAN)
    return home


def test_every_folder_of_the_cache_is_in_this_test(home: Path) -> None:
    cache = home / "listed"
    edge(home, "run", "plan.toml", "--json", EDGE_HARNESS_CACHE=str(cache))
    assert tuple(sorted(item.name for item in cache.iterdir())) == KINDS
    assert all(files(cache, kind) for kind in KINDS)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(home: Path, damage: Callable[[Path], None]) -> None:
    cache = home / "cache"
    first = edge(home, "run", "plan.toml", "--json", EDGE_HARNESS_CACHE=str(cache))["rows"][0]
    known = {path: path.read_bytes() for kind in KINDS for path in files(cache, kind)}
    for path in known:
        damage(path)
    again = edge(home, "run", "plan.toml", "--json", EDGE_HARNESS_CACHE=str(cache))["rows"][0]
    changing = {"run", "delegate"}
    same = [
        *("status", "reason", "size_bytes", "size_zstd_bytes", "accuracy", "accuracy_source"),
        *("variant", "evidence", "delegated_ops", "total_ops"),
    ]
    assert changing.isdisjoint(same)
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    for path, before in known.items():
        if path.name != "entry.json":  # it has the seconds of the build
            assert path.read_bytes() == before, path


def test_a_changed_fact_of_a_cached_build_is_not_believed(home: Path) -> None:
    cache = home / "facts"
    first = edge(home, "run", "plan.toml", "--json", EDGE_HARNESS_CACHE=str(cache))["rows"][0]
    changed = 0
    for path in cache.glob("build/*/entry.json"):
        plain = json.loads(path.read_text())
        if "score" in plain["facts"] and plain["facts"]["score"]:
            plain["facts"]["score"]["value"] = 0.123
            path.write_text(json.dumps(plain))
            changed += 1
    assert changed
    again = edge(home, "run", "plan.toml", "--json", EDGE_HARNESS_CACHE=str(cache))["rows"][0]
    assert again["accuracy"] == first["accuracy"]


@pytest.mark.parametrize("kind", ["agents", "build", "inputs", "outputs"])
def test_a_file_in_place_of_a_folder_of_the_cache_is_replaced(home: Path, kind: str) -> None:
    cache = home / f"file-{kind}"
    cache.mkdir()
    (cache / kind).write_text("x")
    row = edge(home, "run", "plan.toml", "--json", EDGE_HARNESS_CACHE=str(cache))["rows"][0]
    assert row["status"] == "ok"
