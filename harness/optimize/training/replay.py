"""Replay a Keras 3 graph layer by layer with layers of tf_keras.

    replayed = replay(keras3_model)      # replayed.model is a tf_keras.Model with the weights

Neither library reads the other's files, so each layer's config and weights are copied. Models used
as layers are inlined: their layers become layers of the one graph, as pruning and
quantisation-aware training require.

The replay walks `model._nodes_by_depth`, because Keras has no public API for the calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import RecipeError
from harness.optimize import library_errors
from harness.optimize.training import layer_conversion, libraries
from harness.optimize.training.libraries import Keras

REFUSALS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, IndexError)
"""Exceptions that tf_keras raises for a layer that it does not have or defines differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedCall:
    """One output of one call of a layer, in both graphs."""

    layer: str
    theirs: Keras
    ours: Keras
    fed: Sequence[tuple[Keras, Keras]]
    """The inputs of the call: the source's tensors and ours."""


@dataclass(slots=True)
class ReplayedModel:
    """The tf_keras model, and its tensors paired with the source's."""

    model: Keras = None
    calls: list[ReplayedCall] = field(default_factory=list)
    """Calls in order; a model used as a layer is one call."""


def replay(source: Keras) -> ReplayedModel:
    """Make the tf_keras model of a Functional or Sequential Keras 3 model.

    Raises RecipeError with the layer that tf_keras does not have or defines differently.
    """
    return _Replay().run(source)


class _Replay:
    def __init__(self) -> None:
        self._keras = libraries.keras()
        self._made: dict[int, layer_conversion.ConvertedLayer] = {}
        self._names: set[str] = set()
        self._replayed = ReplayedModel()

    def run(self, source: Keras) -> ReplayedModel:
        tensors: dict[int, Keras] = {}
        inputs = []
        for tensor in source.inputs:
            ours = self._input(tensor)
            tensors[id(tensor)] = ours
            inputs.append(ours)
        self._graph(source, tensors)
        outputs = [tensors[id(tensor)] for tensor in source.outputs]
        given = outputs[0] if len(outputs) == 1 else outputs
        # A Sequential model of Keras 3 has no `output` of its own.
        structure = getattr(source, "output", None)
        if isinstance(structure, Mapping) and len(outputs) > 1:
            given = _packed(structure, outputs)  # its keys are the names of the outputs
        self._replayed.model = self._keras.Model(inputs, given, name=source.name)
        for made in self._made.values():
            made.carry_weights()
        return self._replayed

    def _input(self, tensor: Keras) -> Keras:
        name = self._name(tensor.name)
        shape = tuple(tensor.shape)
        return self._keras.Input(
            shape=shape[1:], batch_size=shape[0], dtype=tensor.dtype, name=name
        )

    def _graph(self, source: Keras, tensors: dict[int, Keras], prefix: str = "") -> None:
        """Replay every call of a graph; `tensors` has its inputs and receives its outputs."""
        graph = functional(source)
        for node in _calls(graph):
            if any(id(tensor) not in tensors for tensor in node.input_tensors):
                continue
            fed = [(tensor, tensors[id(tensor)]) for tensor in node.input_tensors]
            args, kwargs = node.arguments.fill_in(tensors)
            outputs = self._call(node.operation, args, kwargs, prefix)
            for theirs, ours in zip(node.outputs, _flat(outputs), strict=True):
                tensors[id(theirs)] = ours
                if not prefix:
                    name = node.operation.name
                    self._replayed.calls.append(
                        ReplayedCall(layer=name, theirs=theirs, ours=ours, fed=fed)
                    )

    def _call(
        self, operation: Keras, args: Sequence[Any], kwargs: Mapping[str, Any], prefix: str
    ) -> Keras:
        if _is_model(operation):
            return self._inline(operation, args, prefix)
        plain = {key: value for key, value in kwargs.items() if value is not None}
        plain.pop("training", None)
        try:
            made = self._made.get(id(operation))
            if made is None:
                name = self._name(prefix + operation.name)
                made = self._made[id(operation)] = layer_conversion.make(operation, name)
            return made.call(*args, **plain)
        except REFUSALS as error:
            raise RecipeError(
                f'the layer "{operation.name}" ({type(operation).__name__}) has no equivalent in '
                f"tf-keras ({library_errors.brief(error)}): steps that train cannot take this model; "
                "replace the layer, or use recipes that do not train"
            ) from error

    def _inline(self, model: Keras, args: Sequence[Any], prefix: str) -> Keras:
        if getattr(functional(model), "_nodes_by_depth", None) is None:
            raise RecipeError(subclassed(model.name))
        given = _flat(args[0] if len(args) == 1 else list(args))
        inner = dict(zip((id(t) for t in model.inputs), given, strict=True))
        self._graph(model, inner, f"{prefix}{model.name}_")
        outputs = [inner[id(tensor)] for tensor in model.outputs]
        return outputs[0] if len(outputs) == 1 else outputs

    def _name(self, wanted: str) -> str:
        """Return a layer's name, with a number if another layer already has it."""
        plain = wanted.replace("/", "_")
        name, count = plain, 1
        while name in self._names:
            name, count = f"{plain}_{count}", count + 1
        self._names.add(name)
        return name


def subclassed(name: str) -> str:
    """Return a message on why a subclassed model is refused, with the fix."""
    return (
        f'the model "{name}" is subclassed: it has no graph of layers to train on; write it with '
        "the functional API, or use recipes that do not train (int8, float16, dynamic, ...)"
    )


def functional(model: Keras) -> Keras:
    """Return the graph of a model; a Sequential model has it in an inner functional one."""
    return getattr(model, "_functional", None) or model


def _calls(graph: Keras) -> Iterator[Keras]:
    for depth in sorted(graph._nodes_by_depth, reverse=True):  # noqa: SLF001 - see the module
        for node in graph._nodes_by_depth[depth]:  # noqa: SLF001
            if node.operation is not None and not node.is_input:
                yield node


def _is_model(operation: Keras) -> bool:
    import keras

    return isinstance(operation, keras.Model)


def _packed(structure: Any, flat: list[Any]) -> Any:  # noqa: ANN401 - tensors in any structure
    import tensorflow as tf

    return tf.nest.pack_sequence_as(structure, flat)


def _flat(outputs: Any) -> list[Any]:  # noqa: ANN401 - tensors in any structure
    import tensorflow as tf

    return list(tf.nest.flatten(outputs))
