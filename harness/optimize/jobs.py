"""The jobs of a build worker. Orders and results are JSON; files are passed by path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any

from harness.errors import RecipeError
from harness.optimize import (
    aware,
    catalog,
    check,
    convert,
    folding,
    promises,
    quantise,
    runtime,
    trust,
)
from harness.optimize import data as datasets
from harness.optimize import inspect as inspection
from harness.optimize.beats import BEATS
from harness.optimize.targets import gpu
from harness.protocols import Artifact, StepData
from harness.tflite import flatbuffer, indices, payload, rewrite, structure, truncate

Order = Mapping[str, Any]
Job = Callable[[Order], dict[str, Any]]
_NAMED_WEIGHTS = 3
_SMALL = "small"
"""Entry of the float file's outputs: they are those of random integers of 0 and 1."""
_NAME_LENGTH = 60


def warm(order: Order) -> dict[str, Any]:
    """Import the quantiser before the first real job needs it."""
    del order
    quantise.prepare()
    return {}


def stream_digest(order: Order) -> dict[str, Any]:
    """Digest a generator's data."""
    return {"digest": datasets.stream_digest(order["source"])}


def check_data(order: Order) -> dict[str, Any]:
    """Check all data of a model against the inputs and outputs of a file."""
    from harness.optimize import data_check

    facts = flatbuffer.read(Path(order["path"]))
    for role, source in order["data"].items():
        if role == "evaluation" and facts.why_not_runnable_on_host:
            continue
        data_check.check_data(
            source,
            inputs=facts.inputs,
            outputs=facts.outputs,
            metric=order["metric"] if role == "evaluation" else None,
            whole=True,
        )
    return {"file": None}


def float_file(order: Order) -> dict[str, Any]:
    """Make the float .tflite of a model: converted by TensorFlow, or framed from a .tflite."""
    _scan(order, trains=False)
    source, out = Path(order["source"]), Path(order["workdir"]) / "model.tflite"
    if order["form"] == catalog.FINISHED:
        facts = flatbuffer.read(source)
        _refuse_quantised(facts)
        out.write_bytes(
            rewrite.frame(
                source.read_bytes(),
                where=source.name,
                signature=order["signature"],
                shape=order["shape"],
            )
        )
        return {**_made(out), "notes": [], "flags": []}
    notes = convert.convert(_conversion(order), out)
    left = folding.unfolded(out)
    return {
        **_made(out),
        "notes": [*order.get("notes", []), *notes, *([folding.note(left)] if left else [])],
        "flags": [*order.get("flags", []), *([folding.FLAG] if left else [])],
    }


def trained_ranges(order: Order) -> dict[str, Any]:
    """Make the int8 .tflite of a quantisation-aware model with the ranges that it has."""
    _scan(order, trains=False)
    out = Path(order["workdir"]) / "model.tflite"
    notes = convert.convert_aware(_conversion(order), out, io=order["io"])
    return {**_made(out), "notes": list(notes), "flags": []}


def step(order: Order) -> dict[str, Any]:
    """Run one step of a recipe."""
    _scan(order, trains=True)
    chosen = catalog.known_steps()[order["step"]]
    data = StepData()
    if order["data"]:
        data = _step_data(order)
    before = order["before"]
    source = Artifact(
        path=Path(before["path"]),
        form=before["form"],
        notes=tuple(before["notes"]),
        flags=tuple(before["flags"]),
    )
    if source.form == catalog.FINISHED:
        flatbuffer.read(source.path)  # refuse a damaged file under the user's name for it
    made = chosen.build(source, order["parameters"], data, Path(order["workdir"]))
    flags = [*made.flags, *(["random_calibration"] if data.random_calibration else [])]
    return {
        **_made(made.path),
        "notes": list(made.notes),
        "flags": list(dict.fromkeys(flags)),
        "compiled": asdict(made.compiled) if made.compiled is not None else None,
    }


def reference(order: Order) -> dict[str, Any]:
    """Run the float file over the real inputs; every variant is compared with its outputs."""
    path = Path(order["path"])
    facts = flatbuffer.read(path)
    check.operators(facts, allow_flex=order["allow_flex"], as_is=False)
    if facts.why_not_runnable_on_host:
        return {"file": None, "score": None}
    answers = check.run_samples(path, facts, _material(order))
    out = Path(order["workdir"]) / "outputs.npz"
    marks = {str(i): array for i, array in enumerate(answers.outputs())}
    _save(out, marks | ({_SMALL: True} if answers.small else {}))
    return {**_made(out), "score": _score(answers)}


def check_variant(order: Order) -> dict[str, Any]:
    """Check a built file and measure its size, score and agreement on the host."""
    path = Path(order["path"])
    facts = flatbuffer.read(path)
    notes = check.operators(facts, allow_flex=order["allow_flex"], as_is=order["as_is"])
    check.closed(facts)
    flags: list[str] = []
    if order["promises"]:
        promised = [promises.from_plain(item) for item in order["promises"]]
        kept = promises.check(structure.read(path), promised)
        notes += kept.notes
        flags = kept.flags
    packs = payload.is_installed("zstd")
    result: dict[str, Any] = {
        "file": None,
        "size_zstd_bytes": len(payload.get("zstd").pack(path.read_bytes())) if packs else None,
        "score": None,
        "agreement": None,
        "flags": flags,
    }
    if not packs:
        notes.append("its size under zstd is unknown: the package zstandard is not installed")
    if facts.why_not_runnable_on_host:
        return {**result, "notes": [*notes, facts.why_not_runnable_on_host]}
    material, mark = _material(order), None
    if order["reference"] is not None:
        mark, small = _reference(Path(order["reference"]))
        material = replace(material, small=small)
    answers = check.run_samples(path, facts, material)
    if mark is not None:
        result["agreement"] = check.plain(check.compare(answers, mark, facts.outputs))
    return {**result, "score": _score(answers), "notes": [*notes, *answers.notes]}


def outputs(order: Order) -> dict[str, Any]:
    """Run arrays, by tensor name and in the file's own dtypes, through a file."""
    import numpy as np

    path = Path(order["path"])
    facts = flatbuffer.read(path)
    if order["own_data"]:
        BEATS.start()
    with np.load(order["inputs"], allow_pickle=False) as stored:
        inputs = {tensor.name: stored[tensor.name] for tensor in facts.inputs}
    _save(Path(order["out"]), runtime.run(path, facts, inputs, order["threads"]))
    return {}


def samples(order: Order) -> dict[str, Any]:
    """Write the first samples of the user's data as `x.NAME` (n, ...), and their labels as `y.NAME`."""
    import numpy as np

    facts = flatbuffer.read(Path(order["path"]))
    found = datasets.samples(order["source"], facts.inputs, seed=order["seed"])
    taken = list(islice(found, order["limit"]))
    arrays = datasets.stack(taken, facts.inputs)
    names = set.intersection(*(set(sample.labels) for sample in taken)) if taken else set()
    _save(
        Path(order["out"]),
        {f"x.{name}": array for name, array in arrays.items()}
        | {f"y.{name}": np.stack([sample.labels[name] for sample in taken]) for name in names},
    )
    return {}


def inspect(order: Order) -> dict[str, Any]:
    """Inspect a .tflite file without running it."""
    return asdict(inspection.contents(Path(order["path"]))) | {"path": order["path"]}


def pack(order: Order) -> dict[str, Any]:
    """Return a file's size in each codec and as a delta."""
    old = Path(order["old"]) if order["old"] else None
    return payload.payload_report(Path(order["path"]), old).plain()


def prefixes(order: Order) -> dict[str, Any]:
    """Cut a file after each of its operators, and write the prefixes to `workdir`."""
    folder, made = Path(order["workdir"]), []
    for prefix in truncate.Graph(Path(order["path"])).prefixes(order["at_most"]):
        digest = hashlib.sha256(prefix.data).hexdigest()
        (folder / f"{digest}.tflite").write_bytes(prefix.data)
        made.append({**asdict(replace(prefix, data=b"")), "data": "", "digest": digest})
    return {"prefixes": made}


def gpu_fit(order: Order) -> dict[str, Any]:
    """Check from the file alone whether a GPU can run it."""
    return {"notes": gpu.fit(Path(order["path"]))}


def delegation(order: Order) -> dict[str, Any]:
    """Return the runtime's nodes for a file, including those of this host's delegate."""
    path = Path(order["path"])
    runner = runtime.Runner(path, flatbuffer.read(path))
    return {"nodes": [_node(node) for node in runner.operators()]}


def _run_trusted(job: Job) -> Job:
    """Wrap a job that loads models: its order says whether the user trusts them."""

    @wraps(job)
    def run(order: Order) -> dict[str, Any]:
        with trust.given(trusted=order["trust"]):
            return job(order)

    return run


VERBS: dict[str, Job] = {
    "warm": warm,
    "stream_digest": stream_digest,
    "check_data": check_data,
    "float_file": _run_trusted(float_file),
    "trained_ranges": _run_trusted(trained_ranges),
    "step": _run_trusted(step),
    "reference": reference,
    "check": check_variant,
    "outputs": outputs,
    "samples": samples,
    "inspect": inspect,
    "pack": pack,
    "prefixes": prefixes,
    "gpu_fit": gpu_fit,
    "delegation": delegation,
}


def _conversion(order: Order) -> convert.Order:
    return convert.Order(
        source=Path(order["source"]),
        form=order["form"],
        shape=order["shape"],
        signature=order["signature"],
        allow_flex=order["allow_flex"],
        verify=order["verify"],
        seed=order["seed"],
    )


def _scan(order: Order, *, trains: bool) -> None:
    """Refuse a stranger's model with code in it, before it is loaded. Raises Untrusted."""
    for path, form in order["scan"]:
        trust.check(Path(path), form, trains=trains)


def _refuse_quantised(facts: flatbuffer.FileFacts) -> None:
    """Refuse a quantised file: every step would leave it unchanged in effect."""
    if aware.FAKE_QUANT in facts.operators:
        raise RecipeError(
            f"{facts.path.name} is quantisation-aware (it has {aware.FAKE_QUANT} operators) and its "
            "trained ranges would be lost; give the .h5, .keras or SavedModel that it was made of "
            'with "int8", or measure it unchanged with "as_is"'
        )
    if not facts.quantised:
        return
    named = [weight.name for weight in facts.weights if weight.quantised] or list(facts.quantised)
    shown = [name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..." for name in named]
    more = f" and {len(named) - _NAMED_WEIGHTS} more" if len(named) > _NAMED_WEIGHTS else ""
    raise RecipeError(
        f"{facts.path.name} is quantised already; not float: "
        f"{', '.join(shown[:_NAMED_WEIGHTS])}{more}; "
        'measure it unchanged with "as_is", or give the float model'
    )


def _step_data(order: Order) -> StepData:
    """Load the step's data in the form that the model's float file takes."""
    path = Path(order["tensors"])
    tensors = flatbuffer.read(path).inputs
    ranges = indices.read(path) if datasets.RANDOM in order["data"].values() else {}
    loaded: dict[str, Any] = {}
    for need, source in order["data"].items():
        arrays, labels = datasets.load(
            source, tensors, limit=order["limit"], seed=order["seed"], ranges=ranges
        )
        loaded[need] = arrays if need == "calibration" or labels is None else arrays | {"y": labels}
        loaded[f"{need}_labels"] = labels
    return StepData(
        calibration=loaded.get("calibration"),
        calibration_labels=loaded.get("calibration_labels"),
        training=loaded.get("training"),
        random_calibration=order["data"].get("calibration") == datasets.RANDOM,
        seed=order["seed"],
    )


def _reference(path: Path) -> tuple[list[Any], bool]:
    """Read the float file's outputs, and whether its random integers were small."""
    import numpy as np

    with np.load(path) as stored:
        names = [name for name in stored.files if name != _SMALL]
        return [stored[str(i)] for i in range(len(names))], _SMALL in stored.files


def _material(order: Order) -> check.Material:
    return check.Material(
        evaluation=order["evaluation"],
        calibration=order["calibration"],
        metric=order["metric"],
        seed=order["seed"],
    )


def _score(answers: check.HostOutputs) -> dict[str, Any] | None:
    if answers.score is None:
        return None
    return {**asdict(answers.score), "direction": answers.direction}


def _made(path: Path) -> dict[str, Any]:
    """Return the facts of a result at `path`; for a .tflite, all that a Variant needs."""
    if path.suffix != ".tflite":
        return {"file": path.name}
    facts = flatbuffer.read(path)
    return {
        "file": path.name,
        "digest": facts.digest,
        "size_bytes": facts.size_bytes,
        "inputs": [asdict(tensor) for tensor in facts.inputs],
        "outputs": [asdict(tensor) for tensor in facts.outputs],
        "operators": dict(facts.operators),
        "sparsity": facts.sparsity,
    }


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "op": str(node["op_name"]),
        "inputs": [int(i) for i in node["inputs"] if i >= 0],
        "outputs": [int(i) for i in node["outputs"] if i >= 0],
    }
