"""Decompose a dense layer or a convolution into a product of smaller ones.

    ranks = choose(model, DecomposeSpec(keep=0.5))
    smaller = decompose(model, ranks)

A dense layer or a 1x1 convolution becomes two of them by a truncated singular value decomposition.
Any other convolution becomes 1x1, k x k and 1x1 by a Tucker decomposition of its two channel modes
(Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
Applications", 2016); tensorly computes the factors.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness import assets
from harness.errors import HarnessError, RecipeError
from harness.optimize.training.libraries import Keras
from harness.optimize.training.rebuild import Array, Piece, functional, rebuild

Ranks = tuple[int, ...]
"""One rank for a dense layer or 1x1 convolution; input and output ranks for other convolutions."""
_HALVINGS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class DecomposeSpec:
    """The size of the result: exactly one of `keep`, `energy` and `rank` is given."""

    keep: float | None = None
    """Maximum share of the model's parameters in the result, 0..1."""
    energy: float | None = None
    """Share of each layer's squared weights that its factors keep, 0..1."""
    rank: int | None = None
    layers: Sequence[str] = ()
    """Names of the layers to decompose; empty for all that get smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecomposableLayer:
    """A layer that can be decomposed, with its kernel and the kernel's spectra."""

    layer: Keras
    kernel: Array
    spectra: tuple[Array, ...] = field(default=())
    """Squared singular values of each mode, in descending order."""

    @property
    def name(self) -> str:
        """Its name in the model."""
        return str(self.layer.name)

    @property
    def matrix(self) -> bool:
        """Whether its kernel is one matrix: a dense layer or a 1x1 convolution."""
        return _sizes(self.kernel)[0] == 1

    @property
    def full(self) -> Ranks:
        """The full ranks, which represent the kernel exactly."""
        window, inputs, outputs = _sizes(self.kernel)
        if self.matrix:
            return (min(inputs, outputs),)
        return (min(inputs, window * outputs), min(outputs, window * inputs))

    def size(self, ranks: Ranks) -> int:
        """Return the number of weights of its factors, without the bias."""
        window, inputs, outputs = _sizes(self.kernel)
        if self.matrix:
            return ranks[0] * (inputs + outputs)
        before = 0 if ranks[0] == inputs else inputs * ranks[0]
        after = 0 if ranks[1] == outputs else outputs * ranks[1]
        return before + window * ranks[0] * ranks[1] + after

    def saves(self, ranks: Ranks) -> bool:
        """Return whether its factors have fewer weights than it has."""
        return bool(self.size(ranks) < self.kernel.size)

    def holding(self, energy: float) -> Ranks:
        """Return the smallest ranks whose leading singular values have this share of the energy."""
        return tuple(_leading(spectrum, energy) for spectrum in self.spectra)


def candidates(model: Keras) -> list[DecomposableLayer]:
    """Find the dense layers and plain convolutions of a model, in its order.

    Raises RecipeError for a subclassed model and for one with a model as a layer.
    """
    return [
        DecomposableLayer(layer=layer, kernel=kernel, spectra=_spectra(kernel))
        for layer in functional(model).layers
        if _decomposable(layer)
        for kernel in [layer.kernel.numpy().astype(np.float64)]
    ]


def choose(model: Keras, spec: DecomposeSpec) -> dict[str, Ranks]:
    """Choose the ranks of the layers that get smaller, by layer name.

    Raises RecipeError: not exactly one measure, one out of range, an unknown layer, a layer that
    cannot be decomposed, a rank above full rank, a share that cannot be reached, no saving.
    """
    _check(spec)
    found = _named(candidates(model), spec.layers)
    if spec.rank is not None:
        ranks = _explicit(found, spec.rank, named=bool(spec.layers))
    elif spec.energy is not None:
        ranks = {layer.name: layer.holding(spec.energy) for layer in found}
    else:
        assert spec.keep is not None
        ranks = _within(model.count_params(), found, spec.keep)
    gaining = {layer.name: ranks[layer.name] for layer in found if _gains(layer, ranks)}
    if not gaining:
        sizes = "; ".join(_size_note(layer, ranks) for layer in found)
        raise RecipeError(
            "decomposing saves no parameters: "
            + (
                sizes + "; lower keep, energy or rank"
                if sizes
                else "no dense layer, no convolution"
            )
        )
    return gaining


def decompose(model: Keras, ranks: Mapping[str, Ranks]) -> Keras:
    """Return a new model with these layers decomposed; the given one is unchanged.

    Raises RecipeError for a rank above full rank and a layer that cannot be decomposed.
    """
    found = {layer.name: layer for layer in _named(candidates(model), list(ranks))}
    for name, wanted in ranks.items():
        for rank, full in zip(wanted, found[name].full, strict=True):
            _refuse_above(rank, full, name)
    return rebuild(model, {name: _pieces(found[name], wanted) for name, wanted in ranks.items()})


def _check(spec: DecomposeSpec) -> None:
    given = [name for name in ("keep", "energy", "rank") if getattr(spec, name) is not None]
    if len(given) != 1:
        raise RecipeError(
            "give one of keep (share of the parameters), energy (share of each layer's squared "
            "weights) and rank; "
            f"given: {', '.join(given) or 'none'}"
        )
    if spec.keep is not None and not 0 < spec.keep < 1:
        raise RecipeError(f"keep = {spec.keep:g} is out of range: more than 0, less than 1")
    if spec.energy is not None and not 0 < spec.energy < 1:
        raise RecipeError(f"energy = {spec.energy:g} is out of range: more than 0, less than 1")
    if spec.rank is not None and spec.rank < 1:
        raise RecipeError(f"rank = {spec.rank} is out of range: 1 is the smallest rank")


def _decomposable(layer: Keras) -> bool:
    kind = type(layer)
    if not kind.__module__.startswith("tf_keras."):
        return False
    if kind.__name__ == "Conv2D":
        return bool(layer.groups == 1 and layer.data_format == "channels_last")
    return kind.__name__ == "Dense"


def _named(found: list[DecomposableLayer], names: Sequence[str]) -> list[DecomposableLayer]:
    known = {layer.name: layer for layer in found}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise RecipeError(
                f'no layer "{name}" that can be decomposed'
                + (f'; did you mean "{near[0]}"?' if near else "")
                + f" (there are: {', '.join(known) or 'none'})"
            )
    return [known[name] for name in names] if names else found


def _explicit(found: list[DecomposableLayer], rank: int, *, named: bool) -> dict[str, Ranks]:
    """Return the same rank for every layer; a mode with a smaller full rank keeps that."""
    largest = max(found, key=lambda layer: max(layer.full), default=None)
    if largest is not None:
        _refuse_above(rank, max(largest.full), largest.name)
    for layer in found if named else ():
        _refuse_above(rank, max(layer.full), layer.name)
    return {layer.name: tuple(min(rank, full) for full in layer.full) for layer in found}


def _refuse_above(rank: int, full: int, name: str) -> None:
    if rank > full:
        raise RecipeError(f'rank {rank} is above the full rank of "{name}", which is {full}')


def _within(whole: int, found: list[DecomposableLayer], keep: float) -> dict[str, Ranks]:
    """Search for the share of energy that reduces the model to `keep` of its parameters."""

    def size(energy: float) -> int:
        ranks = {layer.name: layer.holding(energy) for layer in found}
        saved = sum(
            layer.kernel.size - layer.size(ranks[layer.name])
            for layer in found
            if _gains(layer, ranks)
        )
        return whole - saved

    if size(0.0) > keep * whole:
        raise RecipeError(
            f"keep = {keep:g} cannot be reached: at rank 1 there are still {size(0.0) / whole:.1%} "
            "of the parameters (the rest is in layers that are not decomposed); raise keep"
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= keep * whole else (low, middle)
    return {layer.name: layer.holding(low) for layer in found}


def _gains(layer: DecomposableLayer, ranks: Mapping[str, Ranks]) -> bool:
    return layer.saves(ranks[layer.name])


def _size_note(layer: DecomposableLayer, ranks: Mapping[str, Ranks]) -> str:
    wanted = ranks[layer.name]
    return (
        f"{layer.name} of {layer.kernel.size:,} weights would have {layer.size(wanted):,} "
        f"at rank {' and '.join(map(str, wanted))}"
    )


def _sizes(kernel: Array) -> tuple[int, int, int]:
    """Return the window's positions, the input channels and the output channels."""
    *window, inputs, outputs = (int(size) for size in kernel.shape)
    return math.prod(window), inputs, outputs


def _spectra(kernel: Array) -> tuple[Array, ...]:
    """Return the squared singular values of the unfolding along each mode that is decomposed.

    They are the eigenvalues of the unfolding times its transpose, a matrix of the mode's size.
    """
    window, inputs, outputs = _sizes(kernel)
    by_output = kernel.reshape(-1, outputs)
    if window == 1:
        smaller = by_output if inputs >= outputs else by_output.T
        return (_eigenvalues(smaller.T @ smaller),)
    by_input = np.moveaxis(kernel, -2, 0).reshape(inputs, -1)
    return (_eigenvalues(by_input @ by_input.T), _eigenvalues(by_output.T @ by_output))


def _eigenvalues(gram: Array) -> Array:
    return np.asarray(np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None))


def _leading(spectrum: Array, energy: float) -> int:
    held = np.cumsum(spectrum)
    if held[-1] == 0:
        return 1
    return int(min(len(spectrum), 1 + np.searchsorted(held, energy * held[-1])))


# --- the layers that replace one layer -------------------------------------------------------


def _pieces(layer: DecomposableLayer, ranks: Ranks) -> list[Piece]:
    if type(layer.layer).__name__ == "Dense":
        return _dense_pair(layer, ranks[0])
    return _pointwise_pair(layer, ranks[0]) if layer.matrix else _three(layer, ranks)


def _dense_pair(layer: DecomposableLayer, rank: int) -> list[Piece]:
    config = layer.layer.get_config()
    first, second = _halves(layer.kernel, rank)
    bare = {**_bare(config), "units": rank}
    return [
        Piece(name=f"{layer.name}_in", kind="Dense", config=bare, weights={"kernel": first}),
        _last(layer, config, second),
    ]


def _pointwise_pair(layer: DecomposableLayer, rank: int) -> list[Piece]:
    """Return two 1x1 convolutions; the first has the strides, so that the second computes less."""
    config = layer.layer.get_config()
    first, second = _halves(layer.kernel[0, 0], rank)
    bare = {**_bare(config), "filters": rank}
    return [
        Piece(
            name=f"{layer.name}_in",
            kind="Conv2D",
            config=bare,
            weights={"kernel": first[None, None]},
        ),
        _last(layer, {**config, **_POINT}, second[None, None]),
    ]


def _three(layer: DecomposableLayer, ranks: Ranks) -> list[Piece]:
    """Return 1x1, k x k and 1x1 convolutions; a mode of full size is merged into the core."""
    config = layer.layer.get_config()
    inputs, outputs = layer.kernel.shape[-2:]
    core, before, after = _tucker(layer.kernel, ranks)
    pieces: list[Piece] = []
    if ranks[0] == inputs:
        core = np.einsum("hwab,ia->hwib", core, before)
    else:
        bare = {**_bare(config), **_POINT, "filters": ranks[0]}
        pieces.append(_convolution(f"{layer.name}_in", bare, before[None, None]))
    if ranks[1] == outputs:
        core = np.einsum("hwab,ob->hwao", core, after)
        return [*pieces, _last(layer, config, core)]
    bare = {**_bare(config), "filters": ranks[1]}
    pieces.append(_convolution(f"{layer.name}_core", bare, core))
    return [*pieces, _last(layer, {**config, **_POINT}, after.T[None, None])]


_POINT = {"kernel_size": (1, 1), "strides": (1, 1), "padding": "valid", "dilation_rate": (1, 1)}


def _bare(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a factor's config: linear, without bias and without the layer's constraints."""
    unset = ("kernel_constraint", "bias_constraint", "bias_regularizer", "activity_regularizer")
    return {**config, "use_bias": False, "activation": "linear", **dict.fromkeys(unset)}


def _convolution(name: str, config: Mapping[str, Any], kernel: Array) -> Piece:
    return Piece(name=name, kind="Conv2D", config=config, weights={"kernel": kernel})


def _last(layer: DecomposableLayer, config: Mapping[str, Any], kernel: Array) -> Piece:
    """Return the piece with the layer's name, bias and activation."""
    weights = {"kernel": kernel}
    if layer.layer.use_bias:
        weights["bias"] = layer.layer.bias.numpy()
    kind = type(layer.layer).__name__
    return Piece(
        name=layer.name,
        kind=kind,
        config={**config, "kernel_constraint": None},
        weights=weights,
    )


def _halves(matrix: Array, rank: int) -> tuple[Array, Array]:
    """Return the best two factors of a rank, each with the roots of the singular values."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]


def _tucker(kernel: Array, ranks: Ranks) -> tuple[Array, Array, Array]:
    """Return the core (h, w, r_in, r_out) and the factors (in, r_in) and (out, r_out)."""
    try:
        from tensorly.decomposition import partial_tucker
    except ImportError as error:
        raise HarnessError(
            f"decompose needs tensorly ({error}); {assets.install_command('train')}"
        ) from error
    (core, (before, after)), _ = partial_tucker(kernel, rank=list(ranks), modes=[2, 3])
    return np.asarray(core), np.asarray(before), np.asarray(after)
