"""A checkout without Git LFS has pointers in place of models and data: said, with what fetches them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import lfs
from harness.errors import ConfigError, RecipeError
from harness.optimize import data
from harness.optimize.trust import archives, saved_models
from harness.tflite import flatbuffer

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"


def test_every_reader_of_models_and_data_names_the_pointer(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    names = ("m.tflite", "m.h5", "d.npz", "d.npy", "saved/saved_model.pb")
    paths = {name: tmp_path / name for name in names}
    for path in paths.values():
        path.write_text(POINTER)
    says = pytest.raises((RecipeError, ConfigError), match=r"pointer of Git LFS.*`git lfs pull`")
    with says:
        flatbuffer.read(paths["m.tflite"])
    with says:
        list(archives.h5(paths["m.h5"]))
    with says:
        list(saved_models.folder(tmp_path / "saved", revived=False))
    for name in ("d.npz", "d.npy"):
        with says, data.reading(paths[name]):
            raise ValueError("the magic string is not correct")


def test_another_broken_file_keeps_its_own_advice(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"version 2")
    assert lfs.advice(tmp_path / "m", "save it again") == "save it again"
    assert lfs.advice(tmp_path / "absent", "save it again") == "save it again"
