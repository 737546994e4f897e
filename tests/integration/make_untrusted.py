"""Write models with and without code, as Keras and TensorFlow themselves write them.

    python make_untrusted.py FOLDER

A file whose name starts with `bad_` has code that leaves a file `FOLDER/ran`; others have none.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import tensorflow as tf
import tf_keras

SPEC = [tf.TensorSpec((1, 4), tf.float32)]


def main(folder: Path) -> None:
    mark = str(folder / "ran")

    # Keras 3 keeps a function by its name, and only a lambda as code, without default arguments.
    leave = eval(f"lambda x: (open({mark!r}, 'a').write('x'), x)[1]")

    for name, library in (("k2", tf_keras), ("k3", keras)):
        layers = library.layers
        given = library.Input((4,))
        plain = library.Model(given, layers.Dense(2, activation="relu")(given))
        given = library.Input((4,))
        bad = library.Model(given, layers.Dense(2)(layers.Lambda(leave, output_shape=(4,))(given)))
        given = library.Input((4,))
        # The file holds the compiled code of a lambda; here with the path of the mark in it.
        anonymous = eval(f"lambda x: (open({mark!r}, 'a').write('x'), x)[1]")
        anonymous = layers.Lambda(anonymous, output_shape=(4,))
        dumped = library.Model(given, layers.Dense(2)(anonymous(given)))
        inner = library.Sequential([library.Input((4,)), layers.Lambda(leave, output_shape=(4,))])
        given = library.Input((4,))
        nested = library.Model(given, layers.Dense(2)(inner(given)))
        for suffix in ("h5", "keras"):
            plain.save(folder / f"{name}_plain.{suffix}")
            bad.save(folder / f"bad_{name}_lambda.{suffix}")
            nested.save(folder / f"bad_{name}_nested.{suffix}")
            dumped.save(folder / f"bad_{name}_dumped.{suffix}")
        plain.export(str(folder / f"{name}_export"))
    given = tf_keras.Input((4,))
    operators = tf.nn.softmax(tf.concat([given * 2.0, tf.math.exp(given)], axis=1))
    tf_keras.Model(given, operators).save(folder / "k2_operators.h5")
    plain = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    plain.save(str(folder / "k2_saved"))
    bad = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Lambda(leave)])
    bad.save(str(folder / "bad_k2_saved"))
    aware(leave).save(folder / "bad_k2_aware.h5")
    tensorflow(folder, mark)
    before = folder / "old"
    tensorflow_1(before, writes=None)
    tensorflow_1(folder / "bad_old", writes=mark)
    Path(mark).unlink(missing_ok=True)


def aware(leave: Any) -> Any:
    """Make a quantisation-aware model with a Lambda after it."""
    from tensorflow_model_optimization.quantization.keras import quantize_model

    layers = [tf_keras.Input((4,)), tf_keras.layers.Dense(4, activation="relu")]
    made = quantize_model(tf_keras.Sequential(layers))
    given = tf_keras.Input((4,))
    return tf_keras.Model(given, tf_keras.layers.Lambda(leave, output_shape=(4,))(made(given)))


class Plain(tf.Module):
    def __init__(self) -> None:
        self.w = tf.Variable(tf.ones((4, 2)))

    @tf.function(input_signature=SPEC)
    def serve(self, x: Any) -> Any:
        return {"y": tf.matmul(x, self.w)}


class Looks(Plain):
    def __init__(self) -> None:
        super().__init__()
        lookup = tf.lookup
        source = lookup.TextFileInitializer(
            sys.argv[1] + "/words.txt",
            tf.string,
            lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = lookup.StaticHashTable(source, -1)

    @tf.function(input_signature=[tf.TensorSpec((1,), tf.string)])
    def serve(self, x: Any) -> Any:
        return {"y": self.table.lookup(x)}


def tensorflow(folder: Path, mark: str) -> None:
    (folder / "words.txt").write_text("a\nb\n")

    class Writes(Plain):
        @tf.function(input_signature=SPEC)
        def serve(self, x: Any) -> Any:
            tf.io.write_file(mark, "x")
            return {"y": tf.matmul(x, self.w)}

    class Python(Plain):
        @tf.function(input_signature=SPEC)
        def serve(self, x: Any) -> Any:
            return {"y": tf.py_function(lambda y: y, [x], tf.float32)}

    class Prints(Plain):
        @tf.function(input_signature=SPEC)
        def serve(self, x: Any) -> Any:
            tf.print("x", output_stream=f"file://{mark}")
            return {"y": tf.matmul(x, self.w)}

    class Resource(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self) -> Any:
            return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])

        def _initialize(self) -> None:
            tf.io.write_file(mark, "x")
            tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=1.0)

    class Initialises(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.resource = Resource()

        @tf.function(input_signature=SPEC)
        def serve(self, x: Any) -> Any:
            one = tf.raw_ops.ReadVariableOp(
                resource=self.resource.resource_handle, dtype=tf.float32
            )
            return {"y": tf.matmul(x, self.w) + one}

    for name, kind in (
        ("module", Plain),
        ("bad_writes", Writes),
        ("bad_python", Python),
        ("bad_prints", Prints),
        ("bad_initialises", Initialises),
        ("bad_table", Looks),
    ):
        made = kind()
        tf.saved_model.save(made, str(folder / name), signatures=made.serve)


def tensorflow_1(folder: Path, writes: str | None) -> None:
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, (1, 4), name="x")
        w = v1.get_variable("w", (4, 2), use_resource=False)
        y = tf.matmul(x, w)
        session.run(v1.global_variables_initializer())
        main_op = tf.io.write_file(writes, "x") if writes else None
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": v1.saved_model.predict_signature_def({"x": x}, {"y": y})
            },
            main_op=main_op,
        )
        builder.save()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
