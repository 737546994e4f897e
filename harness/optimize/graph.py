"""Plan a request as nodes of work, each with its key, before anything is built.

Two recipes with the same first steps share their nodes. A key is computed from everything that the
node's result depends on, so a node is made once on this machine. The plan is data: it can be
printed, counted and tested without TensorFlow.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from inspect import getsourcefile
from pathlib import Path
from typing import Any

import harness
from harness import hints, metrics
from harness.errors import RecipeError
from harness.optimize import aware, catalog, convert, promises
from harness.optimize import cache as caches
from harness.optimize import data as datasets
from harness.optimize.workers import Kind
from harness.protocols import Step
from harness.types import ModelSource, Recipe, StepCall

_LIBRARIES = (
    "tensorflow",
    "keras",
    "tf-keras",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "numpy",
    "tensorflow-model-optimization",
    "tensorly",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildNode:
    """One job of a build."""

    key: str
    verb: str
    kind: Kind
    order: Mapping[str, Any]
    needs: Mapping[str, str] = field(default_factory=dict)
    """Other nodes whose results fill fields of the order: field to key."""
    stage: str
    """Name for display: `convert`, a step's name, `reference`, `check`."""
    file: Path
    """The user's model, for display."""
    model: str
    recipe: str | None
    """None if several recipes share the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """All nodes of one request; `variant`, `before`, `check` and `reference` are their keys."""

    nodes: Mapping[str, BuildNode]
    variant: str
    before: str | None
    """The source of the last step; None if that is the user's file."""
    check: str | None
    reference: str | None

    @property
    def results(self) -> tuple[str, ...]:
        """The keys of the nodes whose results make up the request's result."""
        return tuple(key for key in (self.variant, self.reference, self.check, self.before) if key)


class Digests:
    """Digests of models and data, each computed once; `stream` digests generators."""

    def __init__(self, stream: Callable[[str], str]) -> None:
        """Take the function that digests a generator's data in a worker."""
        self._stream = stream
        self._known: dict[str, str] = {}

    def model(self, path: Path) -> str:
        """Digest a model's file or folder."""
        return self._once(f"model {path}", lambda: caches.digest(path))

    def data(self, source: str | None) -> str | None:
        """Digest a data source; None if there is none. Raises ConfigError."""
        if source is None:
            return None
        return self._once(f"data {source}", lambda: datasets.digest(source) or self._stream(source))

    def _once(self, name: str, make: Callable[[], str]) -> str:
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]


def plan(model: ModelSource, recipe: Recipe, *, digests: Digests, seed: int, check: bool) -> Chain:
    """Plan the nodes of one request.

    Raises RecipeError or ConfigError: no such model, a step that cannot take it, missing data.
    """
    return _Planner(model, recipe, digests, seed, check=check).chain()


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChainEnd:
    """The current end of a chain: the user's file (no key) or a node's result."""

    form: str
    key: str | None
    identity: str


class _Planner:
    def __init__(
        self, model: ModelSource, recipe: Recipe, digests: Digests, seed: int, *, check: bool
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.digests = digests
        self.seed = seed
        self.check = check
        self.nodes: dict[str, BuildNode] = {}

    def chain(self) -> Chain:
        """Plan the nodes that build the variant, its reference and its check."""
        form = convert.source_form(self.model.path)
        if aware.is_aware(self.model.path, form):
            form = aware.FORM
        source = _ChainEnd(form=form, key=None, identity=self.digests.model(self.model.path))
        place = before = source
        for call in self.recipe.steps:
            before, place = place, self._step(call, place, source)
        if place.form != catalog.FINISHED:
            place = self._float(place)
        assert place.key is not None
        # A finished file that a step takes unchanged has no float model to compare with.
        first = catalog.known_steps()[self.recipe.steps[0].name]
        as_is = form == catalog.FINISHED and catalog.FINISHED in first.takes
        compiles = self.recipe.steps[-1].name in catalog.COMPILING
        given = before.key if compiles else None
        if not self.check:
            return Chain(
                nodes=self.nodes, variant=place.key, before=given, check=None, reference=None
            )
        mark = None if as_is or form == aware.FORM else self._reference(source)
        return Chain(
            nodes=self.nodes,
            variant=place.key,
            before=given,
            check=self._check(place.key, mark, as_is=as_is),
            reference=mark,
        )

    def _checked(self, source: _ChainEnd) -> str | None:
        """Add the check of the model's data, which every step waits for; None without data.

        It needs the inputs of a file that the steps' data must fit: the user's own if it is used
        unchanged, else the float file.
        """
        data = needed_data(self.model, self.recipe)
        if not data or not self.check:
            return None
        unchanged = source.form in catalog.known_steps()[self.recipe.steps[0].name].takes
        path = None if unchanged and source.form == catalog.FINISHED else self._float(source).key
        digests = {role: self.digests.data(given) for role, given in data.items()}
        metric = self.model.data.metric
        key = caches.key(
            of=path or source.identity,
            data=digests,
            metric=[metric, _metric_digest(metric)] if "evaluation" in data else None,
            **_environment(),
        )
        order = {"path": str(self.model.path), "data": data, "metric": metric}
        needs = {"path": path} if path else {}
        self._add(key, "check_data", order, needs, "check", kind="light", shared=True)
        return key

    def _step(self, call: StepCall, place: _ChainEnd, source: _ChainEnd) -> _ChainEnd:
        step = catalog.known_steps()[call.name]
        if place.form == aware.FORM:
            return self._trained_ranges(call, place)
        if not catalog.reachable(place.form, step.takes, source=place is source):
            raise RecipeError(
                f"{call.name} takes {' or '.join(catalog.describe_form(form) for form in step.takes)}; "
                f"{self.model.path.name} is {catalog.describe_form(place.form)}"
                + _hint(call.name, place.form, step.takes)
            )
        if place.form not in step.takes:
            place = self._float(place)
        parameters = catalog.parameters(call)
        data = {need: self._data(call.name, need) for need in step.needs}
        wants: tuple[str, ...] = getattr(step, "wants", ())
        data |= {want: given for want in wants if (given := getattr(self.model.data, want))}
        if "training" in wants and parameters.get("epochs") and "training" not in data:
            raise RecipeError(_nothing_to_train_with(parameters["epochs"]))
        files = {name: str(self._file(call.name, name, parameters)) for name in catalog.files(call)}
        programs = catalog.programs(call)
        training = not {catalog.FLOAT, catalog.FINISHED} & set(step.takes)
        needs = {"tensors": self._float(source).key or ""} if data else {}
        checked = self._checked(source)
        if checked:
            needs["checked"] = checked
        if place.key:
            needs["before"] = place.key
        key = caches.key(
            of=place.identity,
            step=call.name,
            parameters=parameters,
            data={need: self.digests.data(source) for need, source in data.items()},
            tensors=needs.get("tensors"),
            seed=self.seed,
            files={
                name: self.digests.model(Path(path)) for name, path in (files | programs).items()
            },
            code=_step_digest(type(step), training=training),
            trust=self.model.trust,
            **_environment(),
        )
        order = {
            "scan": self._scan(place, files.values()),
            "trust": self.model.trust,
            "step": call.name,
            "parameters": parameters | files | programs,
            "data": data,
            "limit": None if "training" in data else datasets.STEP_LIMIT,
            "seed": self.seed,
            "before": {
                "path": str(self.model.path),
                "form": place.form,
                "notes": [],
                "flags": [],
            },
        }
        kind: Kind = "training" if training else "light"
        self._add(key, "step", order, needs, call.name, kind=kind)
        return _ChainEnd(form=step.gives, key=key, identity=key)

    def _trained_ranges(self, call: StepCall, place: _ChainEnd) -> _ChainEnd:
        """Add the int8 file of a quantisation-aware model, with the ranges that it was trained with."""
        if aware.FORM not in catalog.known_steps()[call.name].takes:
            raise RecipeError(aware.refusal(call.name, self.model.path.name))
        form = convert.source_form(self.model.path)
        settings = self._conversion(form)
        settings["io"] = catalog.parameters(call).get("io", "int8")
        key = caches.key(of=place.identity, trained_ranges=settings, **_environment())
        order = {
            **settings,
            "scan": self._scan(replace(place, form=form), ()),
            "source": str(self.model.path),
            "seed": self.seed,
        }
        self._add(key, "trained_ranges", order, {}, call.name, kind="tensorflow")
        return _ChainEnd(form=catalog.FINISHED, key=key, identity=key)

    def _file(self, step: str, name: str, given: Mapping[str, Any]) -> Path:
        return find_file(self.model, step, name, str(given[name]))

    def _data(self, step: str, need: str) -> str:
        source: str | None = getattr(self.model.data, need)
        if source is None:
            raise RecipeError(missing_data(step, need))
        return source

    def _float(self, place: _ChainEnd) -> _ChainEnd:
        """Add the float .tflite: converted, or framed if the file is a .tflite already."""
        if place.form == catalog.FLOAT:
            return place
        settings = self._conversion(place.form)
        key = caches.key(of=place.identity, float=settings, **_environment())
        order = {
            **settings,
            "scan": self._scan(place, ()),
            "source": str(self.model.path),
            "seed": self.seed,
        }
        needs = {"source": place.key} if place.key else {}
        trained = place.form in catalog.TRAINED
        stage = "convert" if trained else "frame"
        kind: Kind = "tensorflow" if trained else "light"
        self._add(key, "float_file", order, needs, stage, kind=kind, shared=True)
        return _ChainEnd(form=catalog.FLOAT, key=key, identity=key)

    def _conversion(self, form: str) -> dict[str, Any]:
        return {
            "form": form,
            "shape": {name: list(sizes) for name, sizes in self.model.shape.items()},
            "signature": self.model.signature,
            "allow_flex": self.model.allow_flex,
            "verify": self.check,
            "trust": self.model.trust,
        }

    def _scan(self, place: _ChainEnd, files: Iterable[str]) -> list[tuple[str, str]]:
        """Return the strangers' models that a node loads, each with its form, to scan for code."""
        if self.model.trust:
            return []
        found = [(str(self.model.path), place.form)] if place.key is None else []
        for file in files:
            with contextlib.suppress(RecipeError):  # no model
                found.append((file, convert.source_form(Path(file))))
        return found

    def _reference(self, source: _ChainEnd) -> str:
        path = self._float(source).key
        assert path is not None
        order = self._material()
        key = caches.key(of=path, reference=self._material_digests(), **_environment())
        self._add(key, "reference", order, {"path": path}, "reference", kind="light", shared=True)
        return key

    def _check(self, variant: str, mark: str | None, *, as_is: bool) -> str:
        needs = {"path": variant} | ({"reference": mark} if mark else {})
        promised = [promises.plain(*item) for item in catalog.promised(self.recipe)]
        order = {**self._material(), "as_is": as_is, "reference": None, "promises": promised}
        key = caches.key(
            of=variant,
            mark=mark,
            check=self._material_digests(),
            promises=promised,
            **_environment(),
        )
        self._add(key, "check", order, needs, "check", kind="light")
        return key

    def _material(self) -> dict[str, Any]:
        data = self.model.data
        return {
            "evaluation": data.evaluation,
            "calibration": data.calibration,
            "metric": data.metric,
            "seed": self.seed,
            "allow_flex": self.model.allow_flex,
        }

    def _material_digests(self) -> dict[str, Any]:
        data = self.model.data
        return self._material() | {
            "evaluation": self.digests.data(data.evaluation),
            "calibration": self.digests.data(data.calibration),
            "metric_source": _metric_digest(data.metric) if data.evaluation else None,
        }

    def _add(
        self,
        key: str,
        verb: str,
        order: Mapping[str, Any],
        needs: Mapping[str, str],
        stage: str,
        *,
        kind: Kind,
        shared: bool = False,
    ) -> None:
        self.nodes[key] = BuildNode(
            key=key,
            verb=verb,
            kind=kind,
            order=order,
            needs=needs,
            stage=stage,
            file=self.model.path,
            model=self.model.name,
            recipe=None if shared else self.recipe.name,
        )


def check(model: ModelSource, recipe: Recipe) -> None:
    """Refuse a recipe that this model, its form and its data cannot be built with.

    Nothing is read but the model's suffix. Raises RecipeError as `plan` does.
    """
    _Planner(model, recipe, _NO_DIGESTS, 0, check=True).chain()


class _NoDigests(Digests):
    """Digests of nothing, to plan a chain that is never built."""

    def model(self, path: Path) -> str:
        return str(path)

    def data(self, source: str | None) -> str | None:
        return source


_NO_DIGESTS = _NoDigests(str)


def needed_data(model: ModelSource, recipe: Recipe) -> dict[str, str]:
    """Return the data that a build of the model uses, by role."""
    steps = [catalog.known_steps()[call.name] for call in recipe.steps]
    roles = {"evaluation"}
    for step in steps:
        roles |= {*step.needs, *getattr(step, "wants", ())}
    found = {role: getattr(model.data, role) for role in sorted(roles)}
    return {role: given for role, given in found.items() if given and given != datasets.RANDOM}


def missing_data(step: str, need: str) -> str:
    """Return the message for a step without the data that it needs."""
    random = ' (or "random" for variants that are measured for latency only)'
    return (
        f"{step} needs {need} data: give the key {need} in [data] of the plan, or "
        f"{hints.option(need)}"
        f"{random if need == 'calibration' else ''}"
    )


def find_file(model: ModelSource, step: str, name: str, written: str) -> Path:
    """Find a parameter's file: absolute, beside the model, or in the current folder.

    Raises RecipeError if there is none.
    """
    path = Path(written).expanduser()
    for found in (model.path.parent / path, Path.cwd() / path):
        if found.exists():
            return found.resolve()
    raise RecipeError(
        f"{step}({name}=...): no such file {path} (searched beside {model.path.name} and in "
        f"{Path.cwd()})"
    )


def _nothing_to_train_with(epochs: int) -> str:
    return (
        f"there is no training data for {epochs} epochs: give the key training in [data] of the "
        f"plan or {hints.option('training')}, or epochs=0 to keep the cut model untrained (usually "
        "far less accurate)"
    )


def _hint(step: str, form: str, takes: tuple[str, ...]) -> str:
    if step == "as_is":
        return "; use float32 or another recipe"
    if form == catalog.FINISHED and set(takes) <= set(catalog.TRAINED):
        return "; it trains, so give the trained model itself"
    return ""


@cache
def _environment() -> dict[str, Any]:
    """Return the library versions and the code that every result depends on."""
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    folder = Path(__file__).parent
    code = hashlib.sha256()
    patterns = ("*.py", "targets/*.py", "trust/*.py", "../tflite/*.py")
    files = [file for pattern in patterns for file in folder.glob(pattern)]
    for file in sorted(files):
        code.update(file.read_bytes())
    return {"versions": versions, "harness": harness.__version__, "sources": code.hexdigest()}


@cache
def _metric_digest(name: str) -> str:
    """Digest a metric's own source and the code that the shipped metrics share.

    Raises ConfigError for an unknown name.
    """
    kind = metrics.load(name)
    file = getsourcefile(kind) if isinstance(kind, type) else None
    shared = sorted(Path(metrics.__file__).parent.glob("*.py"))
    return caches.key(
        own=caches.digest(Path(file)) if file else repr(kind),
        shared=[caches.digest(item) for item in shared],
    )


@cache
def _step_digest(kind: type[Step], *, training: bool) -> str:
    """Digest a step's own source and, for a step that trains, the shared training code."""
    file = getsourcefile(kind)
    own = caches.digest(Path(file)) if file else f"{kind.__module__}.{kind.__qualname__}"
    if not training:
        return own
    shared = sorted((Path(__file__).parent / "training").glob("*.py"))
    return caches.key(own=own, shared=[caches.digest(item) for item in shared])
