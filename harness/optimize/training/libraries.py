"""Import the training libraries on first use; a missing one raises an error with the install command."""

from __future__ import annotations

import os
from typing import Any

from harness.errors import HarnessError
from harness.optimize import keras_files

Keras = Any
"""An object of TensorFlow or Keras, which have no types."""

_INSTALL = "pip install 'edge-harness[train]'"


def tensorflow() -> Keras:
    """Import TensorFlow; raises HarnessError if it is not installed."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise HarnessError(f"training needs TensorFlow ({error}); {_INSTALL}") from error
    return tf


def keras() -> Keras:
    """Import tf_keras, which trains; raises HarnessError if it is not installed."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    try:
        import tf_keras
    except ImportError as error:
        raise HarnessError(f"training needs tf-keras ({error}); {_INSTALL}") from error
    _accept_any_name(tf_keras.layers.Layer)
    return tf_keras


def _accept_any_name(layer: Keras) -> None:
    """Let layers have names that TensorFlow refuses for operators: with spaces, umlauts, colons.

    Keras 3 allows such names, and the names of the last layers are those of the outputs.
    """
    if getattr(layer, "_accepts_any_name", False):
        return
    original = layer._name_scope  # noqa: SLF001 - tf_keras has no public way

    def scope(self: Keras) -> str:
        return keras_files.scope(original(self))

    layer._name_scope = scope  # noqa: SLF001 - as above
    layer._accepts_any_name = True  # noqa: SLF001 - as above


def model_optimization() -> Keras:
    """Import tensorflow-model-optimization; raises HarnessError if it is not installed."""
    keras()
    try:
        import tensorflow_model_optimization as tfmot
    except ImportError as error:
        raise HarnessError(
            f"this step needs tensorflow-model-optimization ({error}); {_INSTALL}"
        ) from error
    return tfmot
