"""Models that are each unlike the plain case in one way, made by TensorFlow in one process.

python tests/integration/odd_models.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
import tf_keras

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
LONG = "a very long name " * 20


def net(k: Any, *names: str, shape: tuple[int | None, ...] = (8, 8, 3)) -> Any:
    """A small image model; `names` are those of its model, convolution, activation and output."""
    model, conv, act, last = names or ("net", "conv", "act", "scores")
    i = k.layers.Input(shape, name="image")
    x = k.layers.Conv2D(4, 3, name=conv)(i)
    x = k.layers.BatchNormalization()(x)
    x = k.layers.Activation("relu", name=act)(x)
    x = k.layers.GlobalAveragePooling2D()(x)
    x = k.layers.Dense(5, name=last)(x)
    return k.Model(i, k.layers.Activation("softmax", dtype="float32")(x), name=model)


def recurrent(k: Any, kind: str, **options: Any) -> Any:
    i = k.layers.Input(batch_shape=(1, 6, 3), name="frames")
    return k.Model(i, k.layers.Dense(2)(getattr(k.layers, kind)(4, **options)(i)))


def half() -> None:
    for policy, name in (
        ("mixed_float16", "mixed"),
        ("float16", "half"),
        ("mixed_bfloat16", "brain"),
        ("float64", "double"),
    ):
        keras.mixed_precision.set_global_policy(policy)
        made = net(keras)
        made.save(OUT / f"{name}.keras")
        if name == "mixed":
            made.export(OUT / "mixed_saved", verbose=False)
            recurrent(keras, "LSTM").save(OUT / "mixed_lstm.keras")
    keras.mixed_precision.set_global_policy("float32")
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    net(tf_keras).save(OUT / "mixed2.h5")
    tf_keras.mixed_precision.set_global_policy("float32")


def stateful() -> None:
    recurrent(keras, "LSTM", stateful=True).save(OUT / "stateful.keras")
    made = recurrent(tf_keras, "GRU", stateful=True)
    made.save(OUT / "stateful2.h5")
    tf.saved_model.save(made, str(OUT / "stateful_saved"))

    class Counter(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(1.0, trainable=False, name="count")

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            self.count.assign_add(1.0)
            return {"y": x * self.count}

    counter = Counter()
    tf.saved_model.save(counter, str(OUT / "counter"), signatures=counter.__call__)


def own_code() -> None:
    for k, name in ((keras, "custom.keras"), (tf_keras, "custom.h5")):

        class Gate(k.layers.Layer):  # type: ignore[misc, name-defined]
            def call(self, x: Any) -> Any:
                return tf.sigmoid(x) * x

        i = k.layers.Input((6,), name="x")
        made = k.Model(i, k.layers.Dense(3)(Gate(name="gate")(i)))
        made.save(OUT / name)
        made.export(
            OUT / f"{name}_saved".replace(".", "_"), **({"verbose": False} if k is keras else {})
        )

        class Trained(k.Model):  # type: ignore[misc, name-defined]
            def train_step(self, data: Any) -> Any:
                return super().train_step(data)

        own = net(k)
        Trained(own.inputs, own.outputs, name="trained").save(OUT / f"own_step{Path(name).suffix}")

    def swirl(x: Any) -> Any:
        return x * x

    i = keras.layers.Input((6,), name="x")
    keras.Model(i, keras.layers.Dense(3, activation=swirl)(i)).save(OUT / "own_function.keras")

    class Written(keras.Model):
        def __init__(self, **rest: Any) -> None:
            super().__init__(**rest)
            self.dense = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    written = Written()
    written(np.zeros((1, 6), np.float32))
    written.save(OUT / "subclassed.keras")
    written.export(OUT / "subclassed_saved", verbose=False)


def names() -> None:
    net(keras, "Größe 2: groß?", "conv ü", 'a:b "c"', "scores 🙂").save(OUT / "names.keras")
    net(keras, LONG, LONG + "conv", LONG + "act", LONG + "scores").save(OUT / "long.keras")
    net(tf_keras, "Größe 2", "conv/1", "act.2", "scores/3").save(OUT / "names2.h5")
    x = keras.Input((6,), name="größe 1")
    y = keras.Input((6,), name="ä")
    hidden = keras.layers.Dense(4, name="versteckte schicht")(keras.layers.Add()([x, y]))
    outputs = {
        "wörter": keras.layers.Dense(2, name="first one")(hidden),
        "box": keras.layers.Dense(3, name="second")(hidden),
    }
    keras.Model([x, y], outputs).save(OUT / "outputs.keras")
    keras.Model([x, y], list(outputs.values())).save(OUT / "listed.keras")
    two = tf_keras.layers.Input((6,), name="x")
    hidden = tf_keras.layers.Dense(4)(two)
    tf_keras.Model(
        two,
        {
            "b": tf_keras.layers.Dense(2, name="x1")(hidden),
            "a": tf_keras.layers.Dense(3, name="x2")(hidden),
        },
    ).save(OUT / "outputs2.h5")
    inner = net(keras, "the inner one", "c 1", "a 1", "s 1")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    shared = keras.layers.Concatenate()([inner(left), inner(right)])
    keras.Model({"right": right, "left": left}, shared, name="two towers").save(
        OUT / "nested.keras"
    )


def functions() -> None:
    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.ones((3, 2), np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return x @ self.w

    tf.saved_model.save(Module(), str(OUT / "unsigned"))

    class Several(Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def twice(self, x: Any) -> Any:
            return 2.0 * x

    tf.saved_model.save(Several(), str(OUT / "unsigned_two"))

    class Rankless(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": x * 2.0}

    ranks = Rankless()
    tf.saved_model.save(ranks, str(OUT / "rankless"), signatures=ranks.__call__)
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (None, 3), name="x")
        w = tf.compat.v1.get_variable("w", (3, 2), use_resource=False)
        y = tf.matmul(x, w, name="y")
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, str(OUT / "tf1"), {"x": x}, {"y": y})
        (OUT / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())


def kinds() -> None:
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    mask = keras.Input((7,), dtype="bool", name="mask")
    embedded = keras.layers.Embedding(50, 4)(tokens)
    seen = keras.layers.Multiply()([embedded, keras.ops.cast(mask, "float32")[..., None]])
    keras.Model([tokens, mask], keras.layers.Dense(2)(seen)).save(OUT / "tokens.keras")
    floats = keras.Input((7,), name="tokens")
    keras.Model(floats, keras.layers.Dense(2)(keras.layers.Embedding(30, 4)(floats))).save(
        OUT / "float_tokens.keras"
    )
    image = keras.Input((4, 4, 3), dtype="uint8", name="image")
    scaled = keras.layers.Rescaling(1 / 255)(image)
    scaled = keras.layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 1.0, 2.0])(scaled)
    keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(scaled))).save(
        OUT / "bytes.keras"
    )
    number = keras.Input((3,), dtype="int64", name="number")
    real = keras.ops.cast(number, "float32")
    keras.Model(number, keras.ops.exp(real)).save(OUT / "overflow.keras")
    words = keras.Input((1,), dtype="string", name="words")
    vector = keras.layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)(words)
    keras.Model(words, keras.layers.Embedding(5, 2)(vector)).save(OUT / "text.keras")
    number = keras.Input((3,), dtype="int64", name="number")
    found = keras.layers.IntegerLookup(vocabulary=[3, 5, 9])(number)
    keras.Model(number, keras.layers.Embedding(5, 2)(found)).save(OUT / "lookup.keras")


for make in (half, stateful, own_code, names, functions, kinds):
    make()
