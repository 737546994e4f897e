"""Blobs on a device: at most 1 GB, the least recently used go first."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from agent_lab import RawAgent, digest_of

pytest_plugins = ("agent_fixtures",)
pytestmark = pytest.mark.usefixtures("own_cache")

MEGABYTE = 10**6


def blob(raw: RawAgent, letter: str, megabytes: int, hours: float) -> str:
    """A sparse blob of this size, last used so many seconds ago."""
    path = raw.workdir / "blobs" / (letter * 64)
    with path.open("wb") as file:
        file.truncate(megabytes * MEGABYTE)
    used = time.time() - 3600 * hours
    os.utime(path, (used, used))
    return path.name


def test_the_least_recently_used_go_first_and_none_that_is_asked_about(
    raw: RawAgent, tmp_path: Path
) -> None:
    oldest, older, newer = (
        blob(raw, "a", 400, 9.0),
        blob(raw, "b", 400, 5.0),
        blob(raw, "c", 300, 1.0),
    )
    # A request for a blob counts as its use; otherwise it would be evicted first.
    assert raw.ask("have", digests=[oldest])["have"] == [oldest]
    source = tmp_path / "model"
    source.write_bytes(b"model")
    assert raw.give(source)["event"] == "result"
    left = {path.name for path in (raw.workdir / "blobs").iterdir()}
    assert left == {oldest, newer, digest_of(source)}
    assert older not in left


def test_under_the_cap_all_stay(raw: RawAgent, tmp_path: Path) -> None:
    kept = {blob(raw, "a", 500, 9.0), blob(raw, "b", 499, 5.0)}
    source = tmp_path / "model"
    source.write_bytes(b"model")
    assert raw.give(source)["event"] == "result"
    assert {path.name for path in (raw.workdir / "blobs").iterdir()} == {*kept, digest_of(source)}


def test_what_a_push_left_behind_a_day_ago_goes_with_the_next(
    raw: RawAgent, tmp_path: Path
) -> None:
    incoming = raw.workdir / "incoming"
    old, young = incoming / "old.part", incoming / "young.part"
    for path, hours in ((old, 25.0), (young, 23.0)):
        path.write_bytes(b"half a file")
        then = time.time() - hours * 3600
        os.utime(path, (then, then))
    source = tmp_path / "new"
    source.write_bytes(b"new")
    assert raw.give(source)["event"] == "result"
    assert list(incoming.iterdir()) == [young]
