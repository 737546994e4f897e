"""int8 > aot: Qualcomm's real compiler (one of its libraries is a stand-in, lab/qualcomm.py), and what refuses."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from lab import qualcomm
from one_build import built
from shared_data import is_made, shared_file

from harness.config import recipes
from harness.demo import DATA
from harness.errors import ConfigError, RecipeError
from harness.optimize import catalog
from harness.optimize.targets import aot
from harness.tflite import flatbuffer
from harness.tflite.compiled import DISPATCH


@pytest.fixture(name="data")
def _data() -> Path:
    return shared_file("")


def step(libraries: Path, soc: str = "SM8750", more: str = "") -> str:
    return f'aot(vendor="qualcomm", soc="{soc}", libraries="{libraries}"{more})'


def test_a_model_is_compiled_whole(data: Path, tmp_path: Path, qualcomm_libraries: Path) -> None:
    model = data / "kws" / "kws_ref_model.tflite"
    made = built(tmp_path, model, step(qualcomm_libraries))
    assert (made.target, dict(made.operators)) == ("npu", {DISPATCH: 1})
    assert made.compiled is not None
    assert made.compiled.compiler.endswith(" aot, qualcomm SM8750")
    assert (made.compiled.mapped_ops, made.compiled.total_ops, made.compiled.subgraphs) == (
        13,
        13,
        1,
    )
    assert (made.compiled.contradiction, dict(made.compiled.left)) == (None, {})
    assert made.agreement is None
    assert any("compiled for an NPU: not run on the host" in note for note in made.notes)
    # The same file given as a model is known for what it is, and not compiled twice.
    compiled = tmp_path / "compiled.tflite"
    compiled.write_bytes(made.path.read_bytes())
    assert built(tmp_path, compiled, "as_is").target == "npu"
    with pytest.raises(RecipeError, match="is compiled already: measure it with as_is"):
        built(tmp_path, compiled, step(qualcomm_libraries))


def test_operators_on_the_cpu_are_named_and_counted(
    data: Path, tmp_path: Path, qualcomm_libraries: Path
) -> None:
    model = data / "coral" / "movenet_single_pose_lightning_ptq.tflite"
    made = built(tmp_path, model, step(qualcomm_libraries))
    compiled = made.compiled
    assert compiled is not None
    assert compiled.mapped_ops is not None
    assert compiled.total_ops == sum(flatbuffer.read(model).operators.values())
    assert compiled.total_ops == 157 or is_made(model)
    left = {name: n for name, n in made.operators.items() if name != DISPATCH}
    assert 0 < sum(left.values()) == compiled.total_ops - compiled.mapped_ops < 20
    assert set(compiled.left) == set(left)
    assert made.operators[DISPATCH] == compiled.subgraphs
    assert compiled.contradiction is None
    assert f"left on the CPU: {', '.join(sorted(left))}" in made.notes


def test_a_float_model_goes_through_int8_first(tmp_path: Path, qualcomm_libraries: Path) -> None:
    made = built(tmp_path, DATA / "digits.tflite", "int8 > " + step(qualcomm_libraries, "SM8350"))
    assert made.compiled is not None
    assert made.compiled.mapped_ops == made.compiled.total_ops
    assert "random_calibration" in made.flags
    # What the compiler was given is a file of the cache, which the host runs.
    assert made.uncompiled is not None
    assert flatbuffer.read(made.uncompiled.path).digest == made.uncompiled.digest
    assert DISPATCH not in flatbuffer.read(made.uncompiled.path).operators
    again = built(tmp_path, DATA / "digits.tflite", "int8 > " + step(qualcomm_libraries, "SM8350"))
    assert again.uncompiled == made.uncompiled


def test_a_refusal_has_the_compilers_message(
    data: Path, tmp_path: Path, qualcomm_libraries: Path
) -> None:
    model = data / "coral" / "keras_lstm_mnist_ptq.tflite"
    with pytest.raises(RecipeError, match=r"refuses .*: Variable tensors not yet supported"):
        built(tmp_path, model, step(qualcomm_libraries))


@pytest.mark.parametrize(
    ("vendor", "soc", "message"),
    [
        ("qualcomm", "SM8750", r"libQnnHtp\.so missing; pip install ai-edge-litert-sdk-qualcomm"),
        ("mediatek", "MT6991", "its library is missing; pip install ai-edge-litert-sdk-mediatek"),
        ("google_tensor", "Tensor_G5", r"missing; pip install ai-edge-litert-sdk-google-tensor"),
        ("intel_openvino", "LNL", r"libopenvino\.so\S+ missing; pip install ai-edge-litert-sdk-i"),
        ("samsung", "E9965", "ai-edge-litert's plug-in for samsung does not load: "),
    ],
)
def test_a_missing_compiler_is_reported_with_how_to_install_it(
    tmp_path: Path, vendor: str, soc: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        built(tmp_path, DATA / "digits.tflite", f'aot(vendor="{vendor}", soc="{soc}")')


def test_chips_and_vendors_are_checked(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no chip SM1 in ai-edge-litert; it has .*SM8750"):
        built(tmp_path, DATA / "digits.tflite", 'aot(soc="SM1")')
    with pytest.raises(RecipeError, match=r"no chip \(the key soc\)"):
        built(tmp_path, DATA / "digits.tflite", "aot")
    with pytest.raises(ConfigError, match='allowed: "qualcomm"'):
        built(tmp_path, DATA / "digits.tflite", 'aot(vendor="acme", soc="X")')
    with pytest.raises(RecipeError, match="no such file"):
        built(tmp_path, DATA / "digits.tflite", step(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="int8 cannot follow aot"):
        catalog.check(recipes.parse("aot > int8"))


def libraries_that(folder: Path, real: Path, body: str) -> Path:
    """Qualcomm's libraries, the first of them replaced by one that does this when it is loaded."""
    folder.mkdir()
    for path in real.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "libQnnHtp.so").unlink()
    source = "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
    source += f"__attribute__((constructor)) static void begin(void) {{ {body} }}"
    qualcomm.library(folder, "libQnnHtp.so", source)
    return folder


def test_a_compiler_that_crashes_ends_its_own_build(
    tmp_path: Path, qualcomm_libraries: Path
) -> None:
    broken = libraries_that(tmp_path / "broken", qualcomm_libraries, "abort();")
    with pytest.raises(RecipeError, match=r"wrote no file for digits\.tflite and gives no reason"):
        built(tmp_path, DATA / "digits.tflite", step(broken))
    assert built(tmp_path, DATA / "digits.tflite", step(qualcomm_libraries)).compiled is not None


def test_a_compiler_that_hangs_is_killed_with_its_children(
    tmp_path: Path, qualcomm_libraries: Path
) -> None:
    pid_file = tmp_path / "pid"
    body = (
        "char line[32]; int n = 0, pid = getpid(); while (pid) { line[31 - ++n] = '0' + pid % 10; pid /= 10; }"
        f'FILE *file = fopen("{pid_file}", "w"); fwrite(line + 31 - n, 1, n, file); fclose(file); sleep(600);'
    )
    broken = libraries_that(tmp_path / "broken", qualcomm_libraries, body)
    with pytest.raises(
        RecipeError, match="had not finished digits.tflite after 3 s and was killed"
    ):
        built(tmp_path, DATA / "digits.tflite", step(broken, more=", timeout_seconds=3"))
    pid = int(pid_file.read_text())
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert pid != os.getpid()


def test_every_vendor_of_the_runtime_has_chips() -> None:
    assert all(aot.chips(vendor) for vendor in aot.PACKAGES)
