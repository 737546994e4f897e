"""Building without TensorFlow: real files, real workers, the real quantiser."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_data import is_made, shared_file

from harness.errors import ConfigError, HarnessError, RecipeError
from harness.events import BuildProgress
from harness.optimize import build, inspect, reference, workers
from harness.tflite import flatbuffer, structure
from harness.types import DataSource, ModelSource, Recipe, StepCall, Variant

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "harness" / "demo" / "data"
POST_TRAINING = ("float32", "float16", "dynamic", "int8", "int16x8")


def digits(**data: str | None) -> ModelSource:
    given = {
        "calibration": str(DEMO / "digits_calibration.npz"),
        "evaluation": str(DEMO / "digits_evaluation.npz"),
        **data,
    }
    return ModelSource(
        name="digits",
        path=DEMO / "digits.tflite",
        data=DataSource(**given),  # type: ignore[arg-type]
    )


def step(name: str, **parameters: Any) -> Recipe:
    return Recipe(name=name, steps=(StepCall(name=name, parameters=parameters),))


def built(
    model: ModelSource, *recipes: str | Recipe, cache: Path, **options: Any
) -> dict[str, Variant | HarnessError]:
    wanted = [item if isinstance(item, Recipe) else step(item) for item in recipes]
    requests = [
        build.BuildRequest(model=model, recipe=recipe, target=build.resolve_target(recipe, model))
        for recipe in wanted
    ]
    return {
        request.recipe.name: result
        for request, result in build.build_all(requests, cache=cache, **options)
    }


def variant(result: Variant | HarnessError) -> Variant:
    assert isinstance(result, Variant), result
    return result


def refusal(result: Variant | HarnessError) -> str:
    assert isinstance(result, HarnessError)
    return str(result)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def variants(cache: Path) -> dict[str, Variant]:
    results = built(digits(), *POST_TRAINING, "as_is", cache=cache)
    return {name: variant(result) for name, result in results.items()}


def test_every_post_training_recipe_keeps_the_model(variants: dict[str, Variant]) -> None:
    for name in POST_TRAINING:
        found = variants[name]
        assert found.accuracy is not None
        assert found.accuracy_samples == 540
        assert abs(found.accuracy - (found.accuracy_source_model or 0)) <= 0.01
        assert found.agreement is not None
        assert found.agreement.samples == 64
        assert (found.agreement.top1 or 0) >= 0.95
        assert found.digest == flatbuffer.read(found.path).digest
        assert found.size_zstd_bytes is not None
        assert found.metric == "top1"
        assert not found.flags


def test_each_recipe_has_its_dtypes(variants: dict[str, Variant]) -> None:
    size = {name: found.size_bytes for name, found in variants.items()}

    assert size["int8"] < size["dynamic"] * 1.2 < size["float16"] < size["float32"]
    assert variants["int8"].inputs[0].dtype == "int8"
    assert variants["int8"].outputs[0].dtype == "int8"
    assert variants["int16x8"].inputs[0].dtype == "int16"
    assert variants["dynamic"].inputs[0].dtype == "float32"
    assert variants["float32"].agreement == variants["float32"].agreement
    assert variants["float32"].agreement is not None
    assert variants["float32"].agreement.relative_error == 0


def test_as_is_changes_no_byte(variants: dict[str, Variant]) -> None:
    source = (DEMO / "digits.tflite").read_bytes()

    assert variants["as_is"].path.read_bytes() == source
    assert variants["as_is"].agreement is None


def test_int8_can_keep_float_ends(cache: Path) -> None:
    found = variant(built(digits(), step("int8", io="float"), cache=cache)["int8"])

    assert found.inputs[0].dtype == found.outputs[0].dtype == "float32"
    assert found.accuracy is not None
    assert found.accuracy > 0.97


def test_dynamic_can_leave_small_layers_in_float(cache: Path, variants: dict[str, Variant]) -> None:
    found = variant(built(digits(), step("dynamic", min_elements=1024), cache=cache)["dynamic"])
    layers = structure.read(found.path)

    assert {layer.dtype for layer in layers if layer.elements < 1024} == {"float32"}
    assert {layer.dtype for layer in layers if layer.elements >= 1024} == {"int8"}
    assert found.agreement is not None
    assert variants["dynamic"].agreement is not None
    assert found.agreement.relative_error < variants["dynamic"].agreement.relative_error
    assert any("weights in float32, not int8" in note for note in found.notes)


def test_float_ends_keep_their_names(cache: Path) -> None:
    found = variant(built(digits(), step("int8", io="float"), cache=cache)["int8"])
    plain = variant(built(digits(), "float32", cache=cache)["float32"])

    assert [tensor.name for tensor in found.outputs] == [tensor.name for tensor in plain.outputs]
    assert [tensor.name for tensor in found.inputs] == [tensor.name for tensor in plain.inputs]


def test_a_second_build_comes_from_the_cache(cache: Path, variants: dict[str, Variant]) -> None:
    events: list[BuildProgress] = []
    start = time.monotonic()
    again = built(digits(), *POST_TRAINING, "as_is", cache=cache, on_event=events.append)

    assert time.monotonic() - start < 1
    assert again == variants
    assert {event.status for event in events} == {"cached"}


def test_other_data_makes_another_variant(
    cache: Path, variants: dict[str, Variant], tmp_path: Path
) -> None:
    few = tmp_path / "few.npz"
    with np.load(DEMO / "digits_calibration.npz") as stored:
        np.savez(few, x=stored["x"][:3])

    other = variant(built(digits(calibration=str(few)), "int8", cache=cache)["int8"])

    assert other.digest != variants["int8"].digest


def test_a_damaged_cache_entry_is_built_again(tmp_path: Path) -> None:
    first = variant(built(digits(), "dynamic", cache=tmp_path, check=False)["dynamic"])
    first.path.write_bytes(b"damaged")

    again = variant(built(digits(), "dynamic", cache=tmp_path, check=False)["dynamic"])

    assert again.digest == first.digest
    assert again.path.stat().st_size == first.size_bytes


def test_progress_has_seconds_and_memory(tmp_path: Path) -> None:
    events: list[BuildProgress] = []
    built(digits(), "int8", cache=tmp_path, on_event=events.append)

    done = {event.stage: event for event in events if event.status == "done"}
    assert set(done) == {"frame", "int8", "reference", "check"}
    for event in done.values():
        assert event.seconds is not None
        assert 0 < (event.peak_rss_bytes or 0) < 300e6
    assert done["frame"].recipe is None
    assert done["int8"].recipe == "int8"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"calibration": None}, "needs calibration data"),
        ({"calibration": "missing.npz"}, "missing.npz"),
        ({"evaluation": "unlabelled"}, 'key "y" is missing'),
        ({"calibration": "flat"}, r"shape (9, 64)"),
        ({"calibration": "bytes"}, "uint8"),
        ({"calibration": "renamed"}, 'key "x" is missing'),
        ({"metric": "f1"}, 'unknown metric "f1" (known: mae, mse, top1'),
        ({"metric": "mse"}, "1 numbers a sample"),
    ],
)
def test_data_that_cannot_be_used_refuses_the_build(
    cache: Path, tmp_path: Path, data: dict[str, str | None], message: str
) -> None:
    x = np.zeros((9, 8, 8, 1), np.float32)
    files = {
        "unlabelled": {"x": x},
        "flat": {"x": x.reshape(9, 64)},
        "bytes": {"x": x.astype(np.uint8)},
        "renamed": {"images": x},
    }
    for name, arrays in files.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    given = {
        role: str(tmp_path / f"{name}.npz") if name in files else name
        for role, name in data.items()
    }

    assert message in refusal(built(digits(**given), "int8", cache=cache)["int8"])


@pytest.mark.parametrize("data", ["labels", "generator", "arrays"])
def test_wrong_data_is_found_before_a_step_and_what_was_built_is_kept(
    tmp_path: Path, data: str
) -> None:
    x = np.zeros((9, 8, 8, 1), np.float32)
    np.savez(tmp_path / "labels.npz", x=x, y=np.full(9, 90))
    np.savez(tmp_path / "arrays.npz", x=x, y=np.zeros((9, 10)))
    (tmp_path / "generator.py").write_text(
        "import numpy\ndef batches():\n"
        "    yield {'x': numpy.zeros((9, 8, 8, 1), 'float32'), 'y': numpy.full(9, 90)}\n"
    )
    sources = {"generator": f"{tmp_path / 'generator.py'}:batches"}
    wrong = sources.get(data, str(tmp_path / f"{data}.npz"))
    cache = tmp_path / "cache"
    events: list[BuildProgress] = []

    found = built(digits(evaluation=wrong), "int8", "float16", cache=cache, on_event=events.append)

    assert all("generator" in refusal(one) or '"y"' in refusal(one) for one in found.values())
    stages = {(event.stage, event.status) for event in events}
    assert {("frame", "done"), ("check", "failed")} <= stages
    assert not {stage for stage, _ in stages} & {"int8", "float16"}

    variant(built(digits(), "int8", cache=cache)["int8"])
    events.clear()
    refusal(built(digits(evaluation=wrong), "int8", cache=cache, on_event=events.append)["int8"])
    assert ("int8", "cached") in {(event.stage, event.status) for event in events}


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data that are each unlike the plain case in one way."""
    from ai_edge_litert.tools import flatbuffer_utils

    folder = tmp_path_factory.mktemp('it\'s "größer" 模型')
    source = DEMO / "digits.tflite"
    (folder / "größer.tflite").write_bytes(source.read_bytes())
    broken = flatbuffer_utils.read_model_with_mutable_tensors(str(source))
    largest = max(broken.buffers, key=lambda buffer: 0 if buffer.data is None else len(buffer.data))
    largest.data = np.full(len(largest.data) // 4, np.nan, np.float32).view(np.uint8)
    (folder / "nan.tflite").write_bytes(flatbuffer_utils.convert_object_to_bytearray(broken))
    plain = flatbuffer_utils.read_model_with_mutable_tensors(str(source))
    plain.signatureDefs = None
    for tensor in plain.subgraphs[0].tensors[1:]:
        tensor.name = b"same"
    (folder / "plain.tflite").write_bytes(flatbuffer_utils.convert_object_to_bytearray(plain))
    with np.load(DEMO / "digits_evaluation.npz") as stored:
        x, y = stored["x"][:40], stored["y"][:40]
    np.savez(folder / "arrays.npz", x=x, y=np.eye(10, dtype=np.float32)[y])
    (folder / "samples").mkdir()
    np.save(folder / "samples" / "all.npy", x)
    np.savez(folder / "labelled.npz", x=x, y=y)
    (folder / "feed.py").write_text(
        "import os, pathlib, signal, numpy as np\n"
        "def labelled():\n"
        "    stored = np.load(pathlib.Path(__file__).parent / 'labelled.npz')\n"
        "    yield stored['x'], stored['y']\n"
        "def boom():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "    yield\n"
    )
    return folder


@pytest.fixture(scope="module")
def odd(cache: Path, odd_folder: Path) -> dict[str, Variant | HarnessError]:
    """Build every odd case at once: one that fails keeps no other from being built."""
    feed = odd_folder / "feed.py"
    models = {
        "path": replace(digits(), path=odd_folder / "größer.tflite"),
        "nan": replace(digits(), path=odd_folder / "nan.tflite"),
        "plain": replace(digits(), path=odd_folder / "plain.tflite"),
        "shape": replace(digits(), shape={"*": (1, 9, 9, 1)}),
        "random": digits(calibration="random", evaluation=None),
        "streams": digits(calibration=str(odd_folder / "samples"), evaluation=f"{feed}:labelled"),
        "arrays": digits(evaluation=str(odd_folder / "arrays.npz"), metric="mse"),
        "killed": digits(evaluation=f"{feed}:boom"),
    }
    requests = [
        build.BuildRequest(model=replace(model, name=name), recipe=step("int8"), target="xnnpack")
        for name, model in models.items()
    ]
    return {
        request.model.name: result for request, result in build.build_all(requests, cache=cache)
    }


@pytest.mark.parametrize("name", ["path", "plain"])
def test_odd_files_are_built_from(odd: dict[str, Variant | HarnessError], name: str) -> None:
    """A path with spaces, quotes and letters; no signature and tensors of equal names."""
    assert (variant(odd[name]).accuracy or 0) > 0.97


def test_weights_of_nan_are_refused(odd: dict[str, Variant | HarnessError]) -> None:
    assert "not finite" in refusal(odd["nan"])


def test_a_shape_that_contradicts_the_model_is_refused(
    odd: dict[str, Variant | HarnessError],
) -> None:
    assert "does not fit the input" in refusal(odd["shape"])


def test_random_calibration_is_flagged(odd: dict[str, Variant | HarnessError]) -> None:
    found = variant(odd["random"])

    assert found.flags == ("random_calibration",)
    assert any("random inputs" in note for note in found.notes)
    assert found.accuracy is None


def test_data_from_a_generator_and_a_folder(
    odd: dict[str, Variant | HarnessError], odd_folder: Path, tmp_path: Path
) -> None:
    found = variant(odd["streams"])
    model = digits(evaluation=f"{odd_folder / 'feed.py'}:labelled")
    inputs = reference.check_inputs(model, found, tmp_path)

    assert found.accuracy_samples == 40
    assert inputs.real
    assert len(next(iter(reference.load_inputs(inputs.path).values()))) == 40


def test_regression_metrics_compare_arrays(odd: dict[str, Variant | HarnessError]) -> None:
    found = variant(odd["arrays"])

    assert (found.metric, found.metric_direction) == ("mse", "lower")
    assert 0 <= (found.accuracy or 0) < 0.05
    assert found.accuracy_low is not None
    assert found.accuracy_high is not None
    assert found.accuracy_low <= (found.accuracy or 0) <= found.accuracy_high


def test_a_worker_that_dies_fails_only_its_job(
    odd: dict[str, Variant | HarnessError],
) -> None:
    assert "most likely for memory" in refusal(odd["killed"])
    assert isinstance(odd["path"], Variant)


@pytest.mark.parametrize("content", [b"", b"not a model", "half"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes | str) -> None:
    data = (DEMO / "digits.tflite").read_bytes()
    path = tmp_path / 'my "größtes" model.tflite'
    path.write_bytes(data[: len(data) // 2] if content == "half" else bytes(content))  # type: ignore[arg-type]
    model = replace(digits(), path=path)

    results = built(model, "float32", "as_is", cache=tmp_path / "cache")

    for result in results.values():
        assert isinstance(result, RecipeError)
        assert "größtes" in str(result) or "not a .tflite" in str(result)


def test_other_paths_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "model.xyz").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, message in [
        ("none.tflite", "no such model"),
        ("model.onnx", "an ONNX model"),
        ("model.xyz", "unknown kind"),
        ("folder", "saved_model.pb"),
    ]:
        model = replace(digits(), path=tmp_path / name)
        assert message in refusal(built(model, "as_is", cache=tmp_path / "c")["as_is"])


def test_quantised_input_is_refused_by_its_weights(cache: Path) -> None:
    model = ModelSource(
        name="kws",
        path=shared_file("kws/kws_ref_model_float32.tflite"),
        data=DataSource(calibration="random"),
    )

    first = "conv2d_4" if is_made(model.path) else "conv2d"
    for result in built(model, *POST_TRAINING, cache=cache).values():
        reason = refusal(result)
        assert f"quantised already; not float: functional_1/{first}/Conv2D" in reason
    assert isinstance(built(model, "as_is", cache=cache)["as_is"], Variant)


def test_a_compiled_file_is_kept_unchanged(cache: Path) -> None:
    path = shared_file("coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    model = ModelSource(name="mnv1", path=path)

    found = variant(built(model, "as_is", cache=cache)["as_is"])

    assert found.target == "edgetpu"
    assert found.path.read_bytes() == path.read_bytes()
    assert any("Edge TPU" in note for note in found.notes)


def test_a_file_that_cannot_run_is_refused(cache: Path) -> None:
    model = ModelSource(name="bad", path=shared_file("coral/model_invoking_error.tflite"))

    assert "fake-op-double" in refusal(built(model, "as_is", cache=cache)["as_is"])


def test_workers_end_with_their_pool() -> None:
    with workers.Pool(8) as pool:
        assert pool.limit <= workers.available_cores()
        worker = pool.free("light")
        assert worker is not None
        pool.give(worker, "ticket", "warm", {})
        assert pool.wait().ticket == "ticket"
    assert worker.process.poll() is not None


def test_an_unwritable_cache_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="EDGE_HARNESS_CACHE"):
        built(digits(), "float32", cache=tmp_path / "file" / "cache")


def test_the_host_runs_the_inputs_of_a_device(variants: dict[str, Variant], tmp_path: Path) -> None:
    for name in ("int8", "float32"):
        found = variants[name]
        chosen = reference.check_inputs(digits(), found, tmp_path, n=16)
        inputs = reference.load_inputs(chosen.path)
        outputs = reference.host_outputs(found.path, inputs)

        same = reference.compare(outputs, outputs, found)
        wrong = reference.compare(
            {key: np.zeros_like(value) for key, value in outputs.items()}, outputs, found
        )

        assert chosen.real
        assert inputs[found.inputs[0].name].dtype == found.inputs[0].dtype
        assert inputs[found.inputs[0].name].shape == (16, 8, 8, 1)
        assert outputs[found.outputs[0].name].shape == (16, 10)
        assert (same.samples, same.top1, same.relative_error) == (16, 1.0, 0.0)
        assert wrong.relative_error > 0.5
        with pytest.raises(RecipeError, match="returned no output"):
            reference.compare({}, outputs, found)


def test_without_data_the_check_inputs_are_random(
    variants: dict[str, Variant], tmp_path: Path
) -> None:
    model = digits(calibration="random", evaluation=None)

    first = reference.check_inputs(model, variants["int8"], tmp_path / "a", n=8, seed=3)
    again = reference.check_inputs(model, variants["int8"], tmp_path / "b", n=8, seed=3)

    assert not first.real
    for name, array in reference.load_inputs(first.path).items():
        np.testing.assert_array_equal(array, reference.load_inputs(again.path)[name])


def test_inspect_reports_the_content_of_a_file(variants: dict[str, Variant]) -> None:
    found = inspect.inspect(variants["int8"].path)

    assert found.size_bytes == variants["int8"].size_bytes
    assert found.size_zstd_bytes == variants["int8"].size_zstd_bytes
    assert found.delegation is not None
    assert found.delegation.delegate == "xnnpack"
    assert found.delegation.total_ops == sum(found.operators.values())
    assert 0 < (found.delegation.delegated_ops or 0) <= (found.delegation.total_ops or 0)
    assert {"int8", "int32"} <= {group.dtype for group in found.weights}
    assert found.plain()["path"] == str(found.path)


def test_inspect_reports_why_a_file_cannot_be_opened_here() -> None:
    found = inspect.inspect(shared_file("coral/keras_lstm_mnist_ptq_edgetpu.tflite"))

    assert found.delegation is None
    assert "edgetpu-custom-op" in (found.reason or "")


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("tensorflow", "model.h5", "tensorflow"), ("ai_edge_quantizer", "digits.tflite", "light")],
)
def test_a_missing_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, extra: str
) -> None:
    """As on a machine without the package: it cannot be imported in any worker."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{package}.py").write_text(f"raise ImportError('no module {package}')\n")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    path = DEMO / name if (DEMO / name).exists() else tmp_path / name
    if not path.exists():
        with pytest.importorskip("h5py").File(path, "w") as file:
            file.attrs["model_config"] = "{}"

    result = built(replace(digits(), path=path), "dynamic", cache=tmp_path / "c")["dynamic"]

    assert f"edge-harness[{extra}]" in refusal(result)


def test_the_host_runs_the_same_inputs_once(tmp_path: Path) -> None:
    model = digits().path
    name = flatbuffer.read(model).inputs[0].name
    inputs = {name: np.random.default_rng(0).random((3, 8, 8, 1), np.float32)}
    keep = tmp_path / "kept"
    first = reference.host_outputs(model, inputs, keep=keep)
    (answer,) = keep.iterdir()
    written = answer.stat().st_mtime_ns
    again = reference.host_outputs(model, inputs, keep=keep)
    assert answer.stat().st_mtime_ns == written
    for output, values in first.items():
        np.testing.assert_array_equal(again[output], values)
    answer.write_bytes(b"damaged")
    for output, values in reference.host_outputs(model, inputs, keep=keep).items():
        np.testing.assert_array_equal(values, first[output])
    other = {name: inputs[name] + 1}
    reference.host_outputs(model, other, keep=keep)
    assert len(list(keep.iterdir())) == 2
