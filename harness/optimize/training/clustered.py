"""Weight clustering: the weights of each layer share a few values, which are trained instead.

Han, Mao and Dally, "Deep Compression" (2016), as implemented by tensorflow-model-optimization.
Depthwise kernels, biases and normalisations are not clustered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.optimize.training import carry, fit, libraries
from harness.optimize.training.libraries import Keras

Array = np.ndarray[Any, Any]


def cluster(
    model: Keras, task: fit.Task, *, clusters: int, preserve_sparsity: bool
) -> tuple[str, ...]:
    """Cluster the model in place while it is trained; return notes.

    Args:
        model: The plain model.
        task: From `fit.task`.
        clusters: Maximum values per layer; with preserved sparsity, zero is one of them.
        preserve_sparsity: Whether zero weights stay zero.

    Raises RecipeError if no layer can be clustered, and as `fit`.
    """
    tfmot = libraries.model_optimization()
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import (
        cluster as experimental,
    )

    layers = clusterable(model, clusters)
    if not layers:
        raise RecipeError(
            f"cluster: no layer of this model has more than {clusters} weights that can be "
            "clustered (Conv, Dense, SeparableConv and Embedding can); use another recipe"
        )
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS

    def wrap(layer: Keras) -> Keras:
        if layer.name not in layers:
            return layer
        return experimental.cluster_weights(
            layer, clusters, start, preserve_sparsity=preserve_sparsity
        )

    copy = carry.again(model)  # the wrapper reuses the layer's own variables
    wrapped = libraries.keras().models.clone_model(copy, clone_function=wrap)
    result = fit.fit(wrapped, task, what=f"clustered ({clusters} values)")
    plain = tfmot.clustering.keras.strip_clustering(wrapped)
    for layer in plain.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    counts = unique_values(model, layers)
    largest = max(counts.values())
    if largest > clusters:
        worst = max(counts, key=lambda name: counts[name])
        raise RecipeError(f'cluster: the layer "{worst}" kept {largest} values, not {clusters}')
    return (*result.notes, f"at most {largest} values per layer in {len(layers)} layers")


def clusterable(model: Keras, clusters: int) -> list[str]:
    """Return the names of the layers of a plain model with more weights than clusters."""
    return [
        layer.name
        for layer in model.layers
        if any(array.size > clusters for array in _weights(layer))
    ]


def is_clustered(model: Keras, clusters: int) -> bool:
    """Return whether no layer has more values than clusters."""
    layers = clusterable(model, clusters)
    return bool(layers) and max(unique_values(model, layers).values()) <= clusters


def unique_values(model: Keras, layers: Sequence[str]) -> dict[str, int]:
    """Return the largest number of distinct values in a clustered weight, per named layer."""
    return {
        name: max(np.unique(array).size for array in _weights(model.get_layer(name)))
        for name in layers
    }


def _weights(layer: Keras) -> list[Array]:
    libraries.model_optimization()
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_registry

    registry = clustering_registry.ClusteringRegistry
    if not layer.weights or not registry.supports(layer):
        return []
    pairs = registry.make_clusterable(layer).get_clusterable_weights()
    return [weight.numpy() for _, weight in pairs]
