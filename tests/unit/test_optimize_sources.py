"""What is given in place of a model is named for what it is, with the way out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from harness.errors import RecipeError
from harness.optimize import convert

TFLITE = b"\x1c\x00\x00\x00TFL3rest"
HDF5 = b"\x89HDF\r\n\x1a\nrest"


def refusal(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        convert.source_form(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.onnx", "an ONNX model"),
        ("m.pt", "a PyTorch model"),
        ("m.PTH", "a PyTorch model"),
        ("m.pb", "a graph alone"),
        ("saved_model.pb", "give its folder"),
        ("m.safetensors", "weights without a model"),
        ("m.ckpt", "a checkpoint"),
        ("m.index", "a checkpoint"),
        ("m.json", "without weights"),
        ("m.npz", "arrays without a model"),
        ("m.mlmodel", "Core ML"),
        ("m.zip", "unpack it"),
        ("m.xyz", "unknown kind of model"),
        ("m", "unknown kind of model"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"something")

    assert message in refusal(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["checkpoint", "model.ckpt-1.index"], "a checkpoint"),
        (["variables/variables.index"], "without its saved_model.pb"),
        (["config.json", "metadata.json", "model.weights.h5"], "unpacked content of a .keras file"),
        (["inner/saved_model.pb"], "the SavedModel is in the folder"),
        (["a.tflite", "b.txt"], "a.tflite"),
        (["notes.txt"], "without saved_model.pb"),
        ([], "without saved_model.pb"),
    ],
)
def test_a_folder_that_is_no_saved_model(tmp_path: Path, files: list[str], message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")

    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content", "right"),
    [
        ("m.h5", TFLITE, "m.tflite"),
        ("m.keras", HDF5, "m.h5"),
        ("m.tflite", HDF5, "m.h5"),
        ("m.h5", b"PK\x03\x04rest", "m.keras"),
    ],
)
def test_a_wrong_suffix_is_named_with_the_right_one(
    tmp_path: Path, name: str, content: bytes, right: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    assert refusal(path).endswith(f"rename it to {right}")
    assert convert.source_form(path.rename(tmp_path / right))


def test_the_kinds_that_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    (tmp_path / "b.H5").write_bytes(HDF5)
    (tmp_path / "c.lite").write_bytes(TFLITE)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "saved_model.pbtxt").write_text("")

    found = [convert.source_form(tmp_path / name) for name in ("a.keras", "b.H5", "c.lite", "d")]

    assert found == ["keras", "h5", "tflite", "saved_model"]
