"""Build variants of models by recipes: plan the work, run it in parallel workers, cache it.

    for request, result in build.build_all(requests, cache=folder):
        ...   # a Variant, or the HarnessError of its build

A failed build is yielded with its request and does not stop the others; run.py turns the error into
an outcome's failure.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, HarnessError, RecipeError, StoreError
from harness.events import BuildProgress
from harness.optimize import catalog, data_check, graph, workers
from harness.optimize.cache import Cache, CacheEntry
from harness.optimize.graph import BuildNode, Chain
from harness.optimize.schedule import Schedule
from harness.optimize.targets import edgetpu
from harness.optimize.workers import Pool
from harness.tflite import flatbuffer
from harness.tflite.compiled import COMPILED_FOR
from harness.types import (
    DEFAULT_HOST,
    Agreement,
    Compiled,
    HostLimits,
    ModelSource,
    Recipe,
    StepCall,
    Tensor,
    Uncompiled,
    Variant,
)

__all__ = [
    "BuildRequest",
    "build_all",
    "check_requests",
    "foreseen",
    "own_target",
    "resolve_target",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One variant to build."""

    model: ModelSource
    recipe: Recipe
    target: str


TARGET_STEPS: Mapping[str, str] = {"edgetpu": "edgetpu"}
"""The last step of every recipe for a target, by target."""


DEFAULT_TARGET = "xnnpack"
"""The target of a device whose profile gives no other."""


def resolve_target(recipe: Recipe, model: ModelSource, default: str = DEFAULT_TARGET) -> str:
    """Return the target that a recipe is built for on a device.

    It is the recipe's own (`@target`), else the target of a compiled file, else `default`, the
    device's. An unreadable file has the default target; its build reports the fault.
    """
    return own_target(recipe, model) or default


def own_target(recipe: Recipe, model: ModelSource) -> str | None:
    """Return the target that the recipe or the file gives; None leaves it to the device."""
    if recipe.target is not None:
        return recipe.target
    last = recipe.steps[-1].name if recipe.steps else ""
    if last in catalog.COMPILING:
        return catalog.COMPILING[last]
    path = model.path
    if path.suffix.lower() in {".tflite", ".lite"} and path.is_file():
        return next((to for name, to in COMPILED_FOR.items() if _has(path, name.encode())), None)
    return None


def _has(path: Path, word: bytes) -> bool:
    """Return whether a file has the bytes; the file is not read into memory."""
    if not path.stat().st_size:
        return False  # it has no map
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(word) >= 0


def with_target_step(recipe: Recipe, target: str) -> Recipe:
    """Return the recipe with the target's step at its end; a recipe with as_is stays as it is."""
    step = TARGET_STEPS.get(target)
    names = [call.name for call in recipe.steps]
    if step is None or step in names or names[-1:] == ["as_is"]:
        return recipe
    return replace(recipe, steps=(*recipe.steps, StepCall(name=step)))


def check_requests(requests: Iterable[BuildRequest]) -> None:
    """Refuse requests whose data is wrong, before anything is built.

    Raises ConfigError with the model, the file and the key.
    """
    checked: set[tuple[Path, str, str]] = set()
    for request in requests:
        model, recipe = request.model, with_target_step(request.recipe, request.target)
        for role, source in graph.needed_data(model, recipe).items():
            if (model.path, role, source) not in checked and foreseen(request) is None:
                checked.add((model.path, role, source))
                _check_data(model, role, source)


def _check_data(model: ModelSource, role: str, source: str) -> None:
    """Check a model's data as far as its inputs are known without a conversion."""
    facts = None
    if model.path.suffix.lower() == ".tflite":
        with suppress(RecipeError):  # the build of a damaged file reports it
            facts = flatbuffer.read(model.path)
    unused = facts is not None and facts.why_not_runnable_on_host and role == "evaluation"
    quantised = facts is not None and facts.quantised and role != "evaluation"
    if unused or quantised:  # the build refuses a quantised source
        return
    try:
        data_check.check_data(
            source,
            inputs=facts.inputs if facts else None,
            outputs=facts.outputs if facts else None,
            metric=model.data.metric if role == "evaluation" else None,
        )
    except ConfigError as error:
        raise ConfigError(f"model {model.name}: {role} {error}") from error


def foreseen(request: BuildRequest) -> RecipeError | None:
    """Return why a request cannot be built, as far as that is known without building; else None."""
    try:
        graph.check(request.model, with_target_step(request.recipe, request.target))
    except RecipeError as error:
        return error
    return None


def build_all(
    requests: Iterable[BuildRequest],
    *,
    cache: Path,
    workers: int | None = None,
    check: bool = True,
    seed: int = 0,
    limits: HostLimits = DEFAULT_HOST,
    on_event: Callable[[BuildProgress], None] | None = None,
) -> Iterator[tuple[BuildRequest, Variant | HarnessError]]:
    """Build every request and yield each as it finishes.

    Args:
        requests: The variants to build; equal work is done once.
        cache: Folder of the build cache, shared by every run on this machine.
        workers: Maximum number of processes; never more than cores.
        check: Whether to run every built file on this host (agreement, accuracy, zstd size).
        limits: Time and memory of each job.
        seed: Seed of random calibration, random check inputs and steps that train.
        on_event: Called with the progress of each stage.

    Raises ConfigError if the cache folder cannot be written and StoreError if its disk is full; every
    other error is yielded.
    """
    kept = Cache(cache)
    with Pool(workers, limits) as pool:
        digests = graph.Digests(partial(_stream_digest, pool))
        wanted: list[tuple[BuildRequest, Chain]] = []
        for request in requests:
            try:
                recipe = with_target_step(request.recipe, request.target)
                chain = graph.plan(request.model, recipe, digests=digests, seed=seed, check=check)
            except HarnessError as error:
                yield request, error
            else:
                wanted.append((request, chain))
        yield from _run(wanted, kept, pool, on_event or _silent)


def _stream_digest(pool: Pool, source: str) -> str:
    order = {"source": source}
    found = pool.do("stream_digest", order, stage="reading the data", file=source)
    return str(found["digest"])


def _run(
    wanted: list[tuple[BuildRequest, Chain]],
    cache: Cache,
    pool: Pool,
    on_event: Callable[[BuildProgress], None],
) -> Iterator[tuple[BuildRequest, Variant | HarnessError]]:
    nodes: dict[str, BuildNode] = {}
    for _, chain in wanted:
        nodes.update(chain.nodes)
    schedule = Schedule(nodes, cache=cache, pool=pool, on_event=on_event)
    for _, chain in wanted:
        for key in chain.results:
            schedule.want(key)
    waiting = list(wanted)
    for _ in schedule.run():
        still = []
        for request, chain in waiting:
            failed = [schedule.errors[key] for key in chain.results if key in schedule.errors]
            if failed and isinstance(failed[0], StoreError):
                raise failed[0]  # the cache's fault, which no other variant escapes
            if failed:
                yield request, failed[0]
            elif all(key in schedule.entries for key in chain.results):
                made = _variant(request, chain, schedule.entries)
                yield request, _checked_for_gpu(made, str(request.model.path), pool.limits)
            else:
                still.append((request, chain))
        waiting = still


def _checked_for_gpu(variant: Variant, file: str, limits: HostLimits) -> Variant | HarnessError:
    """Return the variant with notes on the GPU, or the error if a GPU cannot load the file."""
    if variant.target != "gpu":
        return variant
    try:
        order = {"path": str(variant.path)}
        found = workers.once("gpu_fit", order, limits=limits, stage="the GPU check", file=file)
        return replace(variant, notes=(*variant.notes, *found["notes"]))
    except HarnessError as error:
        return error


def _silent(event: BuildProgress) -> None:
    """Ignore progress."""


def _variant(request: BuildRequest, chain: Chain, entries: Mapping[str, CacheEntry]) -> Variant:
    """Combine the facts of a chain's nodes."""
    made = entries[chain.variant]
    assert made.path is not None
    facts = made.facts
    checked: Mapping[str, Any] = entries[chain.check].facts if chain.check else {}
    mark: Mapping[str, Any] = entries[chain.reference].facts if chain.reference else {}
    agreement = checked.get("agreement")
    score: Mapping[str, Any] = checked.get("score") or {}
    return Variant(
        model=request.model.name,
        recipe=request.recipe.name,
        target=request.target,
        path=made.path,
        digest=facts["digest"],
        size_bytes=facts["size_bytes"],
        size_zstd_bytes=checked.get("size_zstd_bytes"),
        inputs=_tensors(facts["inputs"]),
        outputs=_tensors(facts["outputs"]),
        operators=facts["operators"],
        sparsity=facts["sparsity"],
        accuracy=score.get("value"),
        accuracy_low=score.get("low"),
        accuracy_high=score.get("high"),
        accuracy_samples=score.get("samples"),
        accuracy_source_model=(mark.get("score") or {}).get("value"),
        metric=request.model.data.metric if score else None,
        metric_direction=score.get("direction"),
        agreement=Agreement(**agreement) if agreement else None,
        build_seconds=facts["seconds"],
        compiled=_compiled(request, facts),
        uncompiled=_uncompiled(request, chain, entries) if facts.get("compiled") else None,
        notes=(*facts["notes"], *checked.get("notes", ())),
        flags=tuple(dict.fromkeys((*facts["flags"], *checked.get("flags", ())))),
    )


def _compiled(request: BuildRequest, facts: Mapping[str, Any]) -> Compiled | None:
    """Return a compiler's account: from the compiling step, else from the log beside the user's file."""
    account = facts.get("compiled")
    if account is not None:
        return Compiled(**account)
    return edgetpu.read_log_beside(request.model.path, facts["operators"])


def _uncompiled(
    request: BuildRequest, chain: Chain, entries: Mapping[str, CacheEntry]
) -> Uncompiled | None:
    """Return the compiling step's source; None if compiling changed its inputs or outputs."""
    made = entries[chain.variant].facts
    path = entries[chain.before].path if chain.before else request.model.path
    assert path is not None
    given = flatbuffer.read(path)
    for before, after in ((given.inputs, made["inputs"]), (given.outputs, made["outputs"])):
        if [_fixed(tensor) for tensor in before] != [_fixed(tensor) for tensor in _tensors(after)]:
            return None
    return Uncompiled(path=path, digest=given.digest)


def _fixed(tensor: Tensor) -> Tensor:
    """Return the tensor with an open batch set to 1, as compiling does."""
    return replace(tensor, shape=tuple(abs(size) for size in tensor.shape))


def _tensors(plain: Iterable[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(**{**item, "shape": tuple(item["shape"])}) for item in plain)
