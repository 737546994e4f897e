"""Files that appear whole or not at all, and caches that are checked when they are read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import durable


def test_a_replaced_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with durable.replacing(path) as part:
            part.write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    with durable.replacing(path) as part:
        part.write_text("new")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "new"


def test_a_process_is_killed_at_the_named_point(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom harness import durable\n"
        "with durable.replacing(pathlib.Path(sys.argv[1])) as part: part.write_text('new')"
    )
    target, log = tmp_path / "file", tmp_path / "points"
    names = ["write file", "replace file", "replaced file", "wrote file"]
    for number in range(5):
        log.unlink(missing_ok=True)
        target.write_text("old")
        done = subprocess.run(
            [sys.executable, "-c", program, target],
            env={**os.environ, durable.FAULT_POINTS: f"{number}:{log}"},
            check=False,
        )
        assert done.returncode == (-9 if number else 0)
        assert log.read_text().splitlines() == (names[:number] or names)
        assert target.read_text() == ("old" if number in {1, 2} else "new")


WAYS = ["file", "empty file", "folder", "full folder", "closed folder", "link", "loop", "nothing"]


@pytest.mark.parametrize("way", WAYS)
def test_a_cache_file_replaces_whatever_is_in_its_place(tmp_path: Path, way: str) -> None:
    path = tmp_path / "cache" / "one"
    path.parent.mkdir()
    if way.endswith("file"):
        path.write_bytes(b"" if way == "empty file" else b"x")
    elif way.endswith("folder"):
        path.mkdir()
        if way != "folder":
            (path / "inside").mkdir()
            (path / "inside" / "file").write_text("x")
            (path / "inside").chmod(0o000 if way == "closed folder" else 0o700)
    elif way == "link":
        path.symlink_to(tmp_path / "outside")
        (tmp_path / "outside").write_text("outside")
    elif way == "loop":
        path.symlink_to(path)
    assert durable.read_sealed(path) is None
    durable.keep_sealed(path, b"content")
    assert durable.read_sealed(path) == b"content"
    assert list(path.parent.iterdir()) == [path]
    if way == "link":
        assert (tmp_path / "outside").read_text() == "outside"


def test_a_file_in_place_of_the_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("x")
    durable.keep(tmp_path / "cache" / "one", b"content")
    assert durable.read(tmp_path / "cache" / "one") == b"content"


def test_unfinished_files_of_killed_writers_are_removed_a_day_later(tmp_path: Path) -> None:
    old, new = tmp_path / ".one.0.part", tmp_path / ".one.1.part"
    for left in (old, new):
        left.write_text("x")
    os.utime(old, (0, 0))
    durable.keep(tmp_path / "one", b"")
    assert sorted(item.name for item in tmp_path.iterdir()) == [".one.1.part", "one"]


@given(data=st.binary(max_size=200), at=st.integers(0), bit=st.integers(0, 7), cut=st.booleans())
def test_no_changed_bit_and_no_cut_is_read(
    data: bytes, at: int, bit: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "sealed"
    durable.keep_sealed(path, data)
    whole = bytearray(path.read_bytes())
    if cut:
        del whole[at % len(whole) :]
    else:
        whole[at % len(whole)] ^= 1 << bit
    path.write_bytes(whole)
    assert durable.read_sealed(path) is None
