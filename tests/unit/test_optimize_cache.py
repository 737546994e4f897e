"""The build cache: whole entries or none, verified when read, shared by runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError, StoreError
from harness.optimize.cache import Cache, key


def test_a_cache_entry_is_kept_and_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    space = cache.workspace()
    (space / "model.tflite").write_bytes(b"weights")

    cache.keep("one", space / "model.tflite", {"size": 7})
    found = Cache(tmp_path / "cache").get("one")

    assert found is not None
    assert found.path is not None
    assert found.path.read_bytes() == b"weights"
    assert found.facts == {"size": 7}
    assert cache.get("two") is None


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    space = cache.workspace()
    (space / "model.tflite").write_bytes(b"weights")
    entry = cache.keep("one", space / "model.tflite", {})
    assert entry.path is not None
    entry.path.write_bytes(b"damaged")

    assert cache.get("one") is None


def test_the_second_of_two_equal_entries_changes_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for _ in range(2):
        space = cache.workspace()
        (space / "model.tflite").write_bytes(b"weights")
        cache.keep("one", space / "model.tflite", {})
        cache.discard(space)

    assert cache.get("one") is not None
    assert not list((tmp_path / "tmp").iterdir())


def test_a_cache_that_cannot_be_made_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigError, match="EDGE_HARNESS_CACHE"):
        Cache(tmp_path / "file" / "cache")


def test_a_missing_file_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        Cache(tmp_path).keep("one", tmp_path / "nothing", {})


def test_a_workspace_that_cannot_be_made_names_the_cache(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (tmp_path / "tmp").rmdir()
    with pytest.raises(StoreError, match=f"cache {tmp_path}: .*EDGE_HARNESS_CACHE"):
        cache.workspace()


def test_keys_follow_every_part() -> None:
    assert key(a=1, b={"c": [1]}) == key(b={"c": [1]}, a=1)
    assert key(a=1) != key(a=2)
