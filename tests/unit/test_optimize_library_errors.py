"""A library's error is one readable line: both ends, no traceback, no advice for programmers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.optimize import keras_files, library_errors

KERAS_3 = (
    "Could not locate class 'Gate'. Make sure custom classes and functions are decorated with "
    "`@keras.saving.register_keras_serializable()`. If they are already decorated, make sure they "
    "are all imported so that the decorator is run before trying to load them. Full object config: "
    "{'module': None, 'class_name': 'Gate', 'config': {'name': 'gate'}, 'registered_name': 'Gate'}"
)
KERAS_2 = (
    "Unknown layer: 'Gate'. Please ensure you are using a `keras.utils.custom_object_scope` and that "
    "this object is included in the scope. See https://www.tensorflow.org/guide/keras/save for details."
)
CALL = """in user code:

    File "/somewhere/harness/optimize/convert.py", line 221, in call  *
        return list(tf.nest.flatten(model(packed, training=False)))
    File "/somewhere/site-packages/keras/src/utils/traceback_utils.py", line 122, in error_handler
        raise e.with_traceback(filtered_tb) from None

    ValueError: Exception encountered when calling Gate.call().

    \x1b[1mscale must be positive, not -1.0\x1b[0m

    Arguments received by Gate.call():
      • x=tf.Tensor(shape=(1, 6), dtype=float32)
"""
CONVERTER = """<unknown>:0: error: loc(callsite(callsite(fused["Einsum:", "a/b@__inference_1"] at \
fused["PartitionedCall:", "c@d"]) at fused["PartitionedCall:", "e"])): failed to legalize operation 'tf.Einsum'
/somewhere/harness/optimize/convert.py:244:1: note: called from
<unknown>:0: note: see current operation: %5 = "tf.Einsum"(%1, %2) : (tensor<1xf32>) -> tensor<1xf32>
"""
ILLEGAL = """/somewhere/polymorphic_function.py:696:1: error: 'tf.VariableV2' op is illegal in a pipeline
    self._concrete_variable_creation_fn = tracing_compilation.trace_function(
^
/somewhere/func_graph.py:310:1: note: called from
  traced_func_graph = func_graph_module.func_graph_from_py_func(
^
/somewhere/harness/optimize/convert.py:222:1: note: called from
        outputs = signature(**dict(zip(names, arrays, strict=True)))
^
<unknown>:0: error: tfl-prepare-tf pass failed.
"""


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (KERAS_3, "Could not locate class 'Gate'."),
        (KERAS_2, "Unknown layer: 'Gate'."),
        (CALL, "scale must be positive, not -1.0"),
        (ILLEGAL, "'tf.VariableV2' op is illegal in a pipeline tfl-prepare-tf pass failed."),
        (CONVERTER, "failed to legalize operation 'tf.Einsum'"),
    ],
)
def test_the_cause_stays_and_the_rest_goes(text: str, kept: str) -> None:
    found = library_errors.brief(text)

    assert kept in found
    for gone in (
        "/somewhere",
        "harness",
        "File ",
        "\x1b",
        "decorat",
        "custom_object",
        "http",
        "<unk",
    ):
        assert gone not in found
    assert "\n" not in found


def test_a_long_text_is_cut_in_the_middle() -> None:
    found = library_errors.brief("the layer is wrong " + "detail " * 500 + "because of its stride")

    assert found.startswith("the layer is wrong")
    assert found.endswith("because of its stride")
    assert " [...] " in found
    assert len(found) <= library_errors.LIMIT


@given(st.text(max_size=3_000), st.integers(20, 700))
def test_any_text_becomes_one_line_of_at_most_its_limit(text: str, limit: int) -> None:
    found = library_errors.brief(text, limit)

    assert found
    assert len(found) <= limit
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (KERAS_3, ("class", "Gate")),
        (KERAS_2, ("layer", "Gate")),
        (
            "Unknown activation function: 'swirl'. Please ensure ...",
            ("activation function", "swirl"),
        ),
        ("Could not locate function 'swirl'. Make sure ...", ("function", "swirl")),
        ("Unknown layer: Custom>Gate. Please ...", None),
        ("Shapes (1, 2) and (3, 4) are incompatible", None),
    ],
)
def test_code_that_is_not_in_the_file_is_named(text: str, named: tuple[str, str] | None) -> None:
    assert keras_files.unknown(text) == named


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "größe",
        "a:b",
        'say "x"',
        "emoji 🙂",
        "_x",
        "-x",
        "/x",
        "x\\y",
        "名前",
        "x" * 500,
        "ä",
    ],
)
def test_any_name_becomes_one_that_tensorflow_takes(name: str) -> None:
    import re

    found = keras_files.scope(name)

    assert re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*", found)
