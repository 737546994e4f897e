"""The documented first path: init, add, doctor and a run find the same farm file, wherever they are typed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from edge_command import edge


@pytest.mark.parametrize("order", ["init first", "add first"])
def test_init_and_add_agree_about_the_farm(tmp_path: Path, order: str) -> None:
    project, home = tmp_path / "project", tmp_path
    project.mkdir()
    own = home / "config" / "edge-harness" / "farm.toml"
    if order == "init first":
        edge(home, "init", cwd=project)
    added = edge(home, "add", "local:", "--name", "board", code=None, cwd=project)
    if order == "add first":
        edge(home, "init", cwd=project)
    written = project / "farm.toml" if order == "init first" else own
    assert f"wrote [device.board] to {written}" in added
    assert set(tomllib.loads(written.read_text())["device"]) == {"board"}

    plan = project / "plan.toml"
    plan.write_text(plan.read_text().replace('"this-machine"', '"board"'))
    (project / "model.tflite").touch()
    for cwd in (project, tmp_path):
        found = edge(home, "run", plan, "--dry-run", code=None, cwd=cwd)
        assert f"devices of {written}" in found
        assert "board" in found.partition("devices of")[0]
        assert "unknown device" not in found
    shown = edge(home, "devices", cwd=project)
    assert f"devices of {written}" in shown
    assert "board" in shown
    assert f"board of {written}" in edge(
        home, "setup", "board", "--dry-run", code=None, cwd=project
    )


def test_a_device_of_a_file_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    entry = '[device.{}]\nprofile = "linux_x86_64"\naddress = "local:"\n'
    (tmp_path / "project" / "farm.toml").write_text(entry.format("desk"))
    own = tmp_path / "config" / "edge-harness" / "farm.toml"
    own.parent.mkdir(parents=True)
    own.write_text(entry.format("bench-pi"))
    for words in (("doctor",), ("devices",), ("setup",), ("selftest",)):
        said = edge(tmp_path, *words, "bench-pi", code=3, cwd=tmp_path / "project")
        assert f"{own} has it" in said
        assert f"--farm {own}" in said
