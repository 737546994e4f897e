"""Where tests find the files that the repository does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import shared_data


@pytest.fixture(name="places")
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no files at all, and no CI that would promise them."""
    monkeypatch.setattr(shared_data, "REAL", tmp_path / "real")
    monkeypatch.setattr(shared_data, "MADE", tmp_path / "made")
    monkeypatch.delenv("EDGE_HARNESS_TEST_DATA", raising=False)
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


def files(folder: Path, stamp: str = "") -> None:
    (folder / "kws").mkdir(parents=True)
    (folder / "kws" / "x").touch()
    (folder / "stamp").write_text(stamp)


def test_without_any_a_test_is_skipped_with_the_way_to_them(places: Path) -> None:
    assert shared_data.shared_folder() is None
    with pytest.raises(pytest.skip.Exception, match="run `make test-data`"):
        shared_data.shared_file("kws/x")
    with pytest.raises(pytest.skip.Exception, match="figures of the real kws/x.*mlcommons/tiny"):
        shared_data.real_file("kws/x")


def test_with_ci_they_may_not_be_missing(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make test-data"):
        shared_data.shared_file("kws/x")


def test_the_real_come_before_stand_ins_and_a_named_folder_before_both(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(places / "made", shared_data.stamp())
    made = shared_data.shared_file("kws/x")
    assert made == places / "made" / "kws" / "x"
    assert shared_data.is_made(made)
    with pytest.raises(pytest.skip.Exception, match="figures of the real"):
        shared_data.real_file("kws/x")
    files(places / "real")
    assert shared_data.shared_file("kws/x") == places / "real" / "kws" / "x"
    files(places / "own")
    monkeypatch.setenv("EDGE_HARNESS_TEST_DATA", str(places / "own"))
    assert shared_data.real_file("kws/x") == places / "own" / "kws" / "x"
    assert not shared_data.is_made(places / "own" / "kws" / "x")
    with pytest.raises(pytest.skip.Exception, match="kws/y is not in"):
        shared_data.shared_file("kws/y")


def test_stand_ins_of_an_older_script_are_made_again(places: Path) -> None:
    files(places / "made", "another")
    assert shared_data.shared_folder() is None
