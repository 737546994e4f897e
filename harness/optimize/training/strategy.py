"""Choose a `tf.distribute` strategy for the machine's processors, GPUs or TPU.

One GPU or none needs no strategy; several GPUs train mirrored; a TPU is used if the environment
names one (`TPU_NAME`). The choice is part of the training's note.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.optimize.training import libraries
from harness.optimize.training.libraries import Keras
from harness.printable import counted

TPU_VARIABLE = "TPU_NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The devices of a training."""

    strategy: Keras
    """A tf.distribute.Strategy; models are made inside its scope."""
    description: str
    """Text for notes: `processors`, `2 GPUs, mirrored`, ..."""


def connect_tpu() -> Keras:
    """Return the strategy of the TPU that the environment names; None if it names none.

    Raises HarnessError if the named TPU cannot be reached.
    """
    name = os.environ.get(TPU_VARIABLE)
    if not name:
        return None
    tf = libraries.tensorflow()
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise HarnessError(
            f"the TPU {name!r} of {TPU_VARIABLE} cannot be used ({type(error).__name__}: {error}); "
            f"unset {TPU_VARIABLE} to train without it"
        ) from error


def strategy(tpu: Callable[[], Keras] = connect_tpu) -> Place:
    """Choose a TPU if there is one, else several GPUs, else TensorFlow's default.

    Args:
        tpu: Returns the TPU's strategy or None; tests pass a stand-in.
    """
    tf = libraries.tensorflow()
    found = tpu()
    if found is not None:
        return Place(
            strategy=found, description=f"TPU, {counted(found.num_replicas_in_sync, 'core')}"
        )
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    if len(gpus) > 1:
        return Place(
            strategy=tf.distribute.MirroredStrategy(gpus), description=f"{len(gpus)} GPUs, mirrored"
        )
    description = "1 GPU" if gpus else "processors"
    return Place(strategy=tf.distribute.get_strategy(), description=description)
