"""int8@edgetpu through a stand-in for the compiler: the build, its refusals, its retries, its account."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from one_build import built
from shared_data import shared_file
from standins import compiler, graphs

from harness.config import recipes
from harness.demo import DATA
from harness.errors import RecipeError
from harness.optimize import build, reference
from harness.optimize.targets import edgetpu
from harness.tflite import flatbuffer
from harness.tflite.compiled import EDGETPU
from harness.types import DataSource, ModelSource, Variant


@pytest.fixture(name="data")
def _data() -> Path:
    return shared_file("")


def test_the_step_compiles_and_keeps_the_compilers_account(data: Path, tmp_path: Path) -> None:
    program = compiler.install(tmp_path / "bin", "offchip")
    model = data / "kws" / "kws_ref_model.tflite"
    made = built(tmp_path, model, f'edgetpu(compiler="{program}", min_runtime_version=13)')
    assert (made.target, made.operators) == ("edgetpu", {EDGETPU: 1, "SOFTMAX": 1})
    assert made.compiled is not None
    assert (made.compiled.mapped_ops, made.compiled.total_ops) == (12, 13)
    assert made.compiled.compiler == "Edge TPU Compiler 16.0.384591198-standin"
    assert made.compiled.contradiction is None
    assert made.compiled.off_chip_bytes == 1279263
    assert any("1,279,263 bytes of weights do not fit" in note for note in made.notes)
    assert any("left on the CPU: SOFTMAX: Operation is otherwise" in note for note in made.notes)
    (call,) = (tmp_path / "bin" / "commands").read_text().splitlines()
    assert call.startswith("-s -t 180 -o ")
    assert " -m 13 " in call
    assert made.uncompiled is not None
    assert made.uncompiled.path == model
    assert reference.host_file(made) == model
    # The open batch of the published file was closed on the way.
    assert all(-1 not in tensor.shape for tensor in made.inputs)
    built(tmp_path, model, f'edgetpu(compiler="{program}", min_runtime_version=13)')
    assert len((tmp_path / "bin" / "commands").read_text().splitlines()) == 1


def test_another_compiler_makes_another_file(data: Path, tmp_path: Path) -> None:
    model = data / "kws" / "kws_ref_model.tflite"
    program = compiler.install(tmp_path / "bin", "ok")
    assert built(tmp_path, model, f'edgetpu(compiler="{program}")').compiled is not None
    compiler.install(tmp_path / "bin", "internal")
    with pytest.raises(RecipeError, match="in 2 attempts: Internal compiler error"):
        built(tmp_path, model, f'edgetpu(compiler="{program}", tries=2)')


def test_a_target_adds_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = compiler.install(tmp_path / "bin", "ok")
    program.rename(tmp_path / "bin" / "edgetpu_compiler")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    recipe = recipes.parse("int8@edgetpu")
    assert build.with_target_step(recipe, "edgetpu").chain == "int8 > edgetpu"
    for written in ("as_is@edgetpu", "int8 > edgetpu(tries=1)"):
        assert build.with_target_step(recipes.parse(written), "edgetpu") == recipes.parse(written)
    assert build.with_target_step(recipe, "xnnpack") == recipe
    digits = DataSource(calibration=str(DATA / "digits_calibration.npz"))
    source = ModelSource(name="m", path=DATA / "digits.tflite", data=digits)
    assert build.resolve_target(recipes.parse("int8 > edgetpu"), source) == "edgetpu"
    request = build.BuildRequest(model=source, recipe=recipe, target="edgetpu")
    ((_, made),) = build.build_all([request], cache=tmp_path / "cache", workers=1)
    assert isinstance(made, Variant)
    assert made.operators[EDGETPU] == 1
    assert made.recipe == "int8@edgetpu"
    assert made.compiled is not None
    assert made.compiled.contradiction is None


def test_a_missing_compiler_is_reported_with_how_to_install_it(data: Path, tmp_path: Path) -> None:
    model = data / "kws" / "kws_ref_model.tflite"
    with pytest.raises(RecipeError, match=r"there is no /no/such/compiler here.*coral.ai/docs"):
        built(tmp_path, model, 'edgetpu(compiler="/no/such/compiler")')
    text = tmp_path / "text"
    text.write_text("not a program")
    text.chmod(0o755)
    with pytest.raises(RecipeError, match="cannot be started"):
        edgetpu.compile_model(model, tmp_path, edgetpu.EdgeTpuSettings(compiler=str(text)))


@pytest.mark.parametrize(
    ("mode", "message", "calls"),
    [
        ("float", "refuses model.tflite: Model not quantized", 1),
        ("dynamic", "only supports static-sized tensors", 1),
        ("large", "large activation tensors", 1),
        ("invalid", "Invalid model", 1),
        ("internal", "in 3 attempts: Internal compiler error", 3),
        ("abort", "in 3 attempts: Compilation failed: the compiler was killed by SIGABRT", 3),
        ("nothing", "mapped no operator to the Edge TPU", 1),
    ],
)
def test_failures_end_with_the_compilers_message(
    data: Path, tmp_path: Path, mode: str, message: str, calls: int
) -> None:
    program = compiler.install(tmp_path / "bin", mode)
    given = tmp_path / "model.tflite"
    given.write_bytes((data / "kws" / "kws_ref_model.tflite").read_bytes())
    (tmp_path / "work").mkdir()
    with pytest.raises(RecipeError) as caught:
        edgetpu.compile_model(
            given, tmp_path / "work", edgetpu.EdgeTpuSettings(compiler=str(program))
        )
    assert message in str(caught.value)
    assert len((tmp_path / "bin" / "commands").read_text().splitlines()) == calls


@pytest.mark.parametrize("mode", ["flaky", "half"])
def test_a_compiler_that_crashes_once_is_run_again(data: Path, tmp_path: Path, mode: str) -> None:
    program = compiler.install(tmp_path / "bin", mode)
    model = data / "kws" / "kws_ref_model.tflite"
    made, account = edgetpu.compile_model(
        model, tmp_path, edgetpu.EdgeTpuSettings(compiler=str(program))
    )
    assert flatbuffer.read(made).operators[EDGETPU] == 1
    assert account.mapped_ops == 12


@pytest.mark.parametrize(
    ("mode", "source", "version"),
    [
        ("ok", "stdout and log", "16.0.384591198-standin"),
        ("lone", "stdout and log", "16.0.384591198-standin"),
        ("older", "stdout and log", "16.0.384591198-standin"),
        ("nolog", "stdout", "16.0.384591198-standin"),
        ("unknown", "both files", "16.0.384591198-standin"),
    ],
)
def test_every_form_of_the_compilers_output_is_read(
    data: Path, tmp_path: Path, mode: str, source: str, version: str
) -> None:
    program = compiler.install(tmp_path / "bin", mode)
    model = data / "kws" / "kws_ref_model.tflite"
    _, account = edgetpu.compile_model(
        model, tmp_path, edgetpu.EdgeTpuSettings(compiler=str(program))
    )
    assert (account.mapped_ops, account.total_ops, list(account.left)) == (12, 13, ["SOFTMAX"])
    assert (account.source, account.contradiction) == (source, None)
    assert account.compiler == f"Edge TPU Compiler {version}"


def test_a_log_of_another_model_is_a_contradiction(data: Path, tmp_path: Path) -> None:
    program = compiler.install(tmp_path / "bin", "contradict")
    model = data / "kws" / "kws_ref_model.tflite"
    _, account = edgetpu.compile_model(
        model, tmp_path, edgetpu.EdgeTpuSettings(compiler=str(program))
    )
    assert account.contradiction == "2 ADD left on the CPU by the log, 0 in the file"


def test_a_compiler_that_hangs_is_killed_with_its_children(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edgetpu, "_GRACE_SECONDS", 1.0)
    program = compiler.install(tmp_path / "bin", "hang")
    settings = edgetpu.EdgeTpuSettings(compiler=str(program), timeout_seconds=2, tries=1)
    began = time.monotonic()
    with pytest.raises(RecipeError, match="still running after 3 s and was killed"):
        edgetpu.compile_model(data / "kws" / "kws_ref_model.tflite", tmp_path, settings)
    assert time.monotonic() - began < 30


def test_a_file_that_the_compiler_would_refuse_is_refused_before(
    data: Path, tmp_path: Path
) -> None:
    kws, coral = data / "kws", data / "coral"
    with pytest.raises(RecipeError, match="takes full int8 models.*CONV_2D .float32.*int8 first"):
        edgetpu.fit(kws / "kws_ref_model_float32.tflite")
    with pytest.raises(RecipeError, match="is compiled for the Edge TPU already"):
        edgetpu.fit(coral / "mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    none = graphs.chain(tmp_path / "none.tflite", ["CUMSUM", "ABS"])
    with pytest.raises(RecipeError, match="none of the operators .* runs on an Edge TPU: ABS, CUM"):
        edgetpu.fit(none)
    batch = graphs.chain(tmp_path / "batch.tflite", ["ADD"], shape=(4, 2, 2, 8))
    with pytest.raises(RecipeError, match="only the inner three may be over 1"):
        edgetpu.fit(batch)
    opened = graphs.chain(tmp_path / "open.tflite", ["ADD"], shape=(1, -1, 2, 8))
    with pytest.raises(RecipeError, match="-1 is open"):
        edgetpu.fit(opened)
    assert edgetpu.fit(coral / "mobilenet_v1_0.25_128_quant.tflite") == []
    (note,) = edgetpu.fit(coral / "movenet_single_pose_lightning_ptq.tflite")
    assert "GATHER_ND" in note


@pytest.mark.parametrize(
    ("recipe", "fits"),
    [("dynamic", False), ("int16x8", False), ("float16", False), ('int8(io="float")', True)],
)
def test_only_full_int8_is_given_to_the_compiler(tmp_path: Path, recipe: str, fits: bool) -> None:
    source = ModelSource(
        name="digits",
        path=DATA / "digits.tflite",
        data=DataSource(calibration=str(DATA / "digits_calibration.npz")),
    )
    request = build.BuildRequest(model=source, recipe=recipes.parse(recipe), target="xnnpack")
    ((_, made),) = build.build_all([request], cache=tmp_path, workers=1, check=False)
    assert isinstance(made, Variant)
    if fits:
        assert edgetpu.fit(made.path) == ["not among the Edge TPU's operators: DEQUANTIZE"]
        return
    with pytest.raises(RecipeError, match="takes full int8 models"):
        edgetpu.fit(made.path)
