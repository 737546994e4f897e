"""Import the training libraries on first use; a missing one raises an error with the install command."""

from __future__ import annotations

import os
from typing import Any

from harness import assets
from harness.errors import HarnessError
from harness.optimize import keras_files

Keras = Any
"""An object of TensorFlow or Keras, which have no types."""

_INSTALL = assets.install_command("train")


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
    keras_files.accept_any_name(tf_keras)
    return tf_keras


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
