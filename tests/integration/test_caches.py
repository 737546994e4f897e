"""A damaged cache costs the time to make it again: never a number, an error or a file that is sent."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
SAME = (
    *("status", "reason", "variant", "size_bytes", "size_zstd_bytes", "accuracy"),
    *("accuracy_source", "evidence", "delegated_ops", "total_ops"),
)
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


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_unreadable(path: Path) -> None:
    """Also for root: a link to itself."""
    path.unlink()
    path.symlink_to(path)


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = (empty, cut, flip, replace_by_folder, replace_by_pipe, make_unreadable, remove)


def files(cache: Path, kind: str) -> list[Path]:
    folder = cache / kind
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and "tmp" not in path.relative_to(folder).parts
    ]


@pytest.fixture(name="home", scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for file in DATA.glob("digits*.*"):
        shutil.copy(file, home)
    (home / "plan.toml").write_text(PLAN)
    return home


def row_of(home: Path, cache: Path) -> dict[str, Any]:
    """Run the plan; return what of its row must not depend on the cache."""
    (row,) = edge(home, "run", "plan.toml", "--json", EDGE_HARNESS_CACHE=str(cache))["rows"]
    return {name: row[name] for name in SAME}


@pytest.fixture(name="first", scope="module")
def _first(home: Path) -> dict[str, Any]:
    return row_of(home, home / "cache")


def test_every_folder_of_the_cache_is_in_this_test(home: Path, first: dict[str, Any]) -> None:
    assert first["status"] == "ok"
    assert sorted(item.name for item in (home / "cache").iterdir()) == list(KINDS)
    assert all(files(home / "cache", kind) for kind in KINDS)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(
    home: Path, first: dict[str, Any], damage: Callable[[Path], None]
) -> None:
    cache = home / "cache"
    known = {path: path.read_bytes() for kind in KINDS for path in files(cache, kind)}
    assert len(known) >= len(KINDS)
    for path in known:
        damage(path)
    assert row_of(home, cache) == first
    for path, before in known.items():
        if path.name != "entry.json":  # it has the seconds of the build
            assert path.read_bytes() == before, path


def test_a_changed_fact_of_a_cached_build_is_not_believed(
    home: Path, first: dict[str, Any]
) -> None:
    changed = 0
    for path in (home / "cache").glob("build/*/entry.json"):
        plain = json.loads(path.read_text())
        if plain["facts"].get("score"):
            plain["facts"]["score"]["value"] = 0.123
            path.write_text(json.dumps(plain))
            changed += 1
    assert changed
    assert row_of(home, home / "cache") == first


def test_files_in_place_of_the_folders_of_the_cache_are_replaced(
    home: Path, first: dict[str, Any]
) -> None:
    cache = home / "files"
    cache.mkdir()
    for kind in set(KINDS) - {"device"}:
        (cache / kind).write_text("x")
    assert row_of(home, cache) == first


@pytest.mark.parametrize("pattern", ["build/*", "build/*/entry.json", "outputs/*", "inputs/*"])
def test_an_entry_in_the_place_of_another_is_not_used(
    home: Path, first: dict[str, Any], pattern: str
) -> None:
    cache = home / f"cache {pattern.replace('/', ' ').replace('*', '')}"
    assert row_of(home, cache) == first
    places = sorted(path for path in cache.glob(pattern) if path.name not in {"tmp", ".tmp"})
    for path in places:
        path.rename(path.with_name(f"{path.name}.moved"))
    for path, target in zip(places, [*places[1:], places[0]], strict=True):
        path.with_name(f"{path.name}.moved").rename(target)
    assert row_of(home, cache) == first
