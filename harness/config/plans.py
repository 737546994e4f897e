"""Read a plan.toml into a Plan, and combine its models and recipes with devices, all as data.

The digest of a plan is the sha256 of its meaning as canonical JSON: models (name, path, data,
recipes expanded, devices as written, shapes), threads, seed, dose, accept, gate, and the space,
objectives and constraints of a search, with defaults filled in. Paths are relative to the plan, and
contents and times of files are not included. So a copied folder has the same digest, and a glob
that finds another file changes it. The digest does not include the patience, the limits of the host
and the trust, so a run can be resumed with more of each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from annotated_types import Ge, Le

from harness import metrics, plugins
from harness.config import bounds, farm, limits, models, paths, recipes, searches, toml_reading
from harness.config.templates import init
from harness.errors import ConfigError
from harness.printable import file_name
from harness.tflite import kinds
from harness.types import (
    DEFAULT_CONDITIONS,
    DEFAULT_HOST,
    FINITE,
    FORBID_UNKNOWN,
    PATIENCE_SECONDS,
    Accept,
    Cache,
    Conditions,
    DataSource,
    Device,
    Dose,
    GateRules,
    HostLimits,
    ModelSource,
    Plan,
    PlannedModel,
    Recipe,
    Search,
    Thermal,
)

__all__ = ["Combination", "combinations", "from_mapping", "init", "load", "quick"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One model, recipe, device and number of threads of a plan; a cell without its variant."""

    model: ModelSource
    recipe: Recipe
    device: Device
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _DataTable:
    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    training: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    metric: str = "top1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModelTable:
    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    path: str
    name: str | None = None
    data: _DataTable | None = None
    recipes: tuple[str, ...] | None = None
    devices: tuple[str, ...] | None = None
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    signature: str | None = None
    allow_flex: bool = False
    trust: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostTable:
    __pydantic_config__: ClassVar[Mapping[str, Any]] = FINITE
    seconds: Annotated[float, Ge(1), Le(86_400)] = DEFAULT_HOST.seconds
    memory_mb: Annotated[int, Ge(256), Le(1_000_000)] = DEFAULT_HOST.memory_mb
    training_seconds: Annotated[float, Ge(1), Le(2_592_000)] = DEFAULT_HOST.training_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostOptions:
    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    host: _HostTable


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecipeTable:
    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    steps: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunTable:
    __pydantic_config__: ClassVar[Mapping[str, Any]] = FINITE
    recipes: tuple[str, ...] = ()
    devices: tuple[str, ...] = (farm.THIS_MACHINE,)
    threads: tuple[Annotated[int, Ge(1), Le(1024)], ...] = (1,)
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    patience_seconds: Annotated[float, Ge(0), Le(86_400)] = PATIENCE_SECONDS
    pin: bool = True
    thermal: Thermal = "cool"
    cache: Cache | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanTable:
    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    model: tuple[_ModelTable, ...]
    data: _DataTable = _DataTable()
    recipe: Mapping[str, _RecipeTable] = field(default_factory=dict)
    run: _RunTable = _RunTable()
    dose: Dose = field(default_factory=Dose)
    accept: Accept = field(default_factory=Accept)
    gate: GateRules = field(default_factory=GateRules)
    search: searches.Table | None = None
    host: _HostTable = _HostTable()


def load(path: Path) -> Plan:
    """Read a plan; raises ConfigError with the file, the key, and the known keys or values."""
    name = file_name(path)
    if path.suffix in models.SUFFIXES or kinds.saved_model(path) is not None:
        raise ConfigError(
            f"{name} is a model, not a plan; `edge-harness bench {shlex.quote(name)}` measures it"
        )
    mapping = toml_reading.read(path)
    paths.check_name(path.resolve(), name)
    plan = from_mapping(mapping, path.resolve().parent, name)
    return dataclasses.replace(plan, path=path.resolve())


def from_mapping(mapping: Mapping[str, Any], base: Path, name: str) -> Plan:
    """Make the plan from a parsed plan.toml.

    Args:
        mapping: the tables.
        base: the absolute folder that paths are relative to.
        name: the plan's name in errors.
    """
    tables, single = _model_tables(mapping)
    table = toml_reading.check(tables, _PlanTable, name, single="model" if single else "")
    if not table.model:
        raise ConfigError(f"{name}: model: at least one model is needed")
    limits.check(dataclasses.asdict(table), name)
    named = _named(table.recipe, name)
    planned = _Planner(base=base, name=name, single=single, table=table, named=named).models()
    builds = sum(len(model.recipes) * len(model.devices) for model in planned)
    bounds.check_count(f"{name}: cells", builds * len(table.run.threads), bounds.MAX_CELLS)
    _unique(f"{name}: run.threads", table.run.threads, str)
    limits.gate(table.gate, f"{name}: gate")
    search = None
    if table.search is not None:
        search = searches.read(table.search, named, planned, table.run.threads, name)
    drops = {"accept.max_accuracy_drop": table.accept.max_accuracy_drop}
    if table.search is not None:
        key = "search.constraints.max_accuracy_drop"
        drops[key] = table.search.constraints.max_accuracy_drop
    limits.accuracy_drops(drops, planned, name)
    return Plan(
        path=None,
        digest=_digest(planned, table, base, search),
        models=planned,
        threads=table.run.threads,
        cache=table.run.cache,
        seed=table.run.seed,
        patience_seconds=table.run.patience_seconds,
        conditions=Conditions(pin=table.run.pin, thermal=table.run.thermal),
        dose=table.dose,
        accept=table.accept,
        gate=table.gate,
        search=search,
        host=HostLimits(**dataclasses.asdict(table.host)),
        text=mapping,
    )


def quick(
    files: Sequence[Path],
    devices: Sequence[str],
    *,
    recipes: Sequence[str] = ("as_is",),
    threads: Sequence[int] = (1,),
    dose: Mapping[str, Any] | None = None,
    data: Mapping[str, str | None] | None = None,
    model: Mapping[str, Any] | None = None,
    host: Mapping[str, float | None] | None = None,
    trust: bool = False,
) -> Plan:
    """Make a plan from models and devices of a command line, without a file.

    Paths are relative to the working directory. `dose`, `data`, `host` and `model` have the keys of
    [dose], [data], [host] and of every [[model]]; a key with the value None is ignored. `trust` is
    every model's.
    """
    about = {key: value for key, value in (model or {}).items() if value is not None}
    mapping = {
        "model": [{"path": str(path), "trust": trust, **about} for path in files],
        "run": {"recipes": list(recipes), "devices": list(devices), "threads": list(threads)},
        "dose": {key: value for key, value in (dose or {}).items() if value is not None},
        "data": {key: value for key, value in (data or {}).items() if value is not None},
        "host": {key: value for key, value in (host or {}).items() if value is not None},
    }
    return from_mapping(mapping, Path.cwd(), "command line")


def host_limits(given: Mapping[str, float | None] | None) -> HostLimits:
    """Return the limits of a command line, with the keys of [host]; None is the default.

    Raises ConfigError for a value outside its bounds.
    """
    named = {key: value for key, value in (given or {}).items() if value is not None}
    table = toml_reading.check({"host": named}, _HostOptions, "command line").host
    return HostLimits(**dataclasses.asdict(table))


def combinations(plan: Plan, devices: Sequence[Device]) -> list[Combination]:
    """Combine models, recipes, devices and threads, in that order.

    `devices` are the devices of the whole plan (harness.config.farm.select). A model with its own
    selectors uses only the devices that they match. Raises ConfigError if a model has no device.
    """
    found: list[Combination] = []
    for planned in plan.models:
        own = farm.matching(devices, planned.devices)
        if not own:
            raise ConfigError(
                f"model {planned.source.name}: none of its devices ({', '.join(planned.devices)}) "
                f"is among those chosen ({', '.join(device.name for device in devices) or 'none'})"
            )
        found.extend(
            Combination(model=planned.source, recipe=recipe, device=device, threads=threads)
            for recipe in planned.recipes
            for device in own
            for threads in plan.threads
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planner:
    """Makes the planned models of a checked table."""

    base: Path
    name: str
    single: bool
    table: _PlanTable
    named: Mapping[str, str]

    def models(self) -> tuple[PlannedModel, ...]:
        """Find, name and describe every model; raises ConfigError."""
        found = [
            models.find(self.base, entry.path, self._at(index, "path"))
            for index, entry in enumerate(self.table.model)
        ]
        bounds.check_count(f"{self.name}: model", sum(map(len, found)), bounds.MAX_MODELS)
        names = self._all_names(found)
        planned = [
            self._planned(index, path, name)
            for index, group in enumerate(found)
            for path, name in zip(group, names[index], strict=True)
        ]
        counts = Counter(model.source.name for model in planned)
        for model in planned:
            if counts[model.source.name] > 1:
                raise ConfigError(
                    f'{self.name}: model: two models have the name "{model.source.name}" (one is '
                    f"{model.source.path}); give each its own name"
                )
        return tuple(planned)

    def _all_names(self, found: Sequence[Sequence[Path]]) -> list[list[str]]:
        """Name the models of every entry; names of unnamed models are unique over all entries."""
        unnamed = [
            path
            for entry, group in zip(self.table.model, found, strict=True)
            for path in group
            if entry.name is None
        ]
        free = dict(zip(unnamed, models.name_all(unnamed, self.base), strict=True))
        named: list[list[str]] = []
        for index, (entry, group) in enumerate(zip(self.table.model, found, strict=True)):
            if entry.name is None:
                named.append([free[path] for path in group])
                continue
            models.check_name(entry.name, self._at(index, "name"))
            whole = [f"{entry.name}-{name}" for name in models.name_all(group, self.base)]
            named.append([entry.name] if len(group) == 1 else whole)
        return named

    def _planned(self, index: int, path: Path, name: str) -> PlannedModel:
        entry, run = self.table.model[index], self.table.run
        own = entry.data is not None
        table = entry.data if entry.data is not None else self.table.data
        where = self._at(index, "data") if own else f"{self.name}: data"
        if table.metric not in metrics.names():
            unknown = plugins.unknown("metric", table.metric, metrics.names())
            raise ConfigError(f"{where}.metric: {unknown}")
        for tensor, sizes in entry.shape.items():
            _check_shape(sizes, f"{self._at(index, 'shape')}.{tensor}".removesuffix(".*"))
        source = ModelSource(
            name=name,
            path=path,
            data=models.data_source(self.base, **dataclasses.asdict(table), where=where),
            shape=dict(entry.shape),
            signature=entry.signature,
            allow_flex=entry.allow_flex,
            trust=entry.trust,
        )
        return PlannedModel(
            source=source,
            recipes=self._recipes(index, entry.recipes, run.recipes),
            devices=self._devices(index, entry.devices, run.devices),
        )

    def _recipes(
        self, index: int, own: tuple[str, ...] | None, common: tuple[str, ...]
    ) -> tuple[Recipe, ...]:
        where = f"{self.name}: run.recipes" if own is None else self._at(index, "recipes")
        texts = common if own is None else own
        bounds.check_count(where, len(texts), bounds.MAX_RECIPES)
        if not texts and self.table.search is None:
            raise ConfigError(f'{where}: at least one is needed, such as "float32" or "as_is"')
        found = [_parse(text, self.named, f"{where}[{place}]") for place, text in enumerate(texts)]
        _unique(where, found, lambda recipe: (recipe.chain, recipe.target))
        return tuple(found)

    def _devices(
        self, index: int, own: tuple[str, ...] | None, common: tuple[str, ...]
    ) -> tuple[str, ...]:
        where = f"{self.name}: run.devices" if own is None else self._at(index, "devices")
        found = common if own is None else own
        bounds.check_count(where, len(found), bounds.MAX_SELECTORS)
        if not found:
            raise ConfigError(f'{where}: at least one is needed, such as "{farm.THIS_MACHINE}"')
        _unique(where, found, str)
        return found

    def _at(self, index: int, key: str) -> str:
        """Return the place of a model's key in the file, for errors."""
        place = ("model",) if self.single else ("model", index)
        return f"{self.name}: {bounds.path_text((*place, key))}"


def _model_tables(mapping: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Convert [model] to [[model]], and a shape without input names to one by name."""
    tables = dict(mapping)
    single = isinstance(tables.get("model"), Mapping)
    entries = [tables["model"]] if single else tables.get("model")
    if isinstance(entries, list):
        tables["model"] = [
            {**entry, "shape": {"*": entry["shape"]}}
            if isinstance(entry, Mapping) and isinstance(entry.get("shape"), list)
            else entry
            for entry in entries
        ]
    return tables, single


def _named(tables: Mapping[str, _RecipeTable], name: str) -> dict[str, str]:
    """Check all recipes of the plan and return their chains by name."""
    bounds.check_count(f"{name}: recipe", len(tables), bounds.MAX_RECIPES)
    named = {key: table.steps for key, table in tables.items()}
    taken = plugins.names("harness.steps")
    for key in named:
        where = f"{name}: recipe.{key}"
        if not recipes.is_name(key):
            raise ConfigError(
                f'{where}: a name is letters, digits, "_", "-" and ".", at most {bounds.MAX_NAME}'
            )
        if key in taken:
            raise ConfigError(f"{where}: {key} is the name of a step; choose another name")
        _parse(key, named, f"{where}.steps")
    return named


def _parse(text: str, named: Mapping[str, str], where: str) -> Recipe:
    try:
        return recipes.parse(text, named)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_shape(sizes: Sequence[int], where: str) -> None:
    """Refuse a shape that no input has, or whose samples would not fit into memory."""
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"{where}: must have sizes of at least 1, not {list(sizes)[:10]}")
    if math.prod(sizes) > bounds.MAX_ELEMENTS:
        raise ConfigError(
            f"{where}: more than {bounds.MAX_ELEMENTS:,} elements: {list(sizes)[:10]}"
        )


def _unique(where: str, items: Iterable[T], key: Callable[[T], Hashable]) -> None:
    """Refuse two items with the same meaning; the error has both places."""
    seen: dict[Hashable, int] = {}
    for place, item in enumerate(items):
        first = seen.setdefault(key(item), place)
        if first != place:
            raise ConfigError(f"{where}[{place}]: means the same as number {first} of that list")


def _conditions_meaning(table: _RunTable) -> dict[str, Any]:
    """Return the conditions for the digest; without defaults, so that old digests are unchanged."""
    conditions = Conditions(pin=table.pin, thermal=table.thermal)
    return (
        {} if conditions == DEFAULT_CONDITIONS else {"conditions": dataclasses.asdict(conditions)}
    )


def _digest(
    planned: Sequence[PlannedModel], table: _PlanTable, base: Path, search: Search | None
) -> str:
    meaning = {
        "models": [_model_meaning(model, base) for model in planned],
        **_conditions_meaning(table.run),
        **({"cache": table.run.cache} if table.run.cache else {}),
        **({"search": searches.meaning(search)} if search else {}),
        "threads": table.run.threads,
        "seed": table.run.seed,
        "dose": dataclasses.asdict(table.dose),
        "accept": dataclasses.asdict(table.accept),
        "gate": dataclasses.asdict(table.gate),
    }
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _model_meaning(planned: PlannedModel, base: Path) -> dict[str, Any]:
    source = planned.source
    return {
        "name": source.name,
        "path": models.relative(source.path, base),
        "data": _data_meaning(source.data, base),
        "shape": source.shape,
        "signature": source.signature,
        "allow_flex": source.allow_flex,
        "recipes": [(recipe.name, recipe.chain, recipe.target) for recipe in planned.recipes],
        "devices": planned.devices,
    }


def _data_meaning(data: DataSource, base: Path) -> dict[str, str | None]:
    def written(value: str | None) -> str | None:
        return value if value in {None, "random"} else models.relative(str(value), base)

    return {
        "training": written(data.training),
        "calibration": written(data.calibration),
        "evaluation": written(data.evaluation),
        "metric": data.metric,
    }
