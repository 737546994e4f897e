"""Filter pruning and decomposition compute the promised results: facts from two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

EXACT = 1e-6
"""Largest relative difference of two graphs that differ in the order of float32 sums only."""


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    # Not imported: TensorFlow and another runtime cannot share a process.
    if not all(map(find_spec, ("tf_keras", "tensorly"))):
        pytest.skip("needs tf_keras and tensorly")
    found: dict[str, Any] = {}
    for name in ("structured_pruning.py", "structured_factors.py"):
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(name))],
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found |= json.loads(done.stdout)
    return found


def refusal(fact: Any) -> str:
    assert set(fact) == {"refused"}
    return str(fact["refused"])


# --- rebuild ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["rebuilt_with_operators", "rebuilt_sequential", "rebuilt_with_dict_ends"]
)
def test_a_graph_made_again_is_the_same(facts: dict[str, Any], case: str) -> None:
    assert facts[case]["difference"] <= EXACT


def test_a_nested_model_is_refused_by_name(facts: dict[str, Any]) -> None:
    assert 'the layer "backbone" is itself a model' in refusal(facts["nested_model"])


def test_a_subclassed_model_is_refused(facts: dict[str, Any]) -> None:
    assert "not a graph of layers" in refusal(facts["subclassed_model"])


# --- pruning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["residual", "residual_by_l2"])
def test_removing_channels_of_zeros_changes_no_output(facts: dict[str, Any], case: str) -> None:
    fact = facts[case]

    assert fact["difference"] <= EXACT
    assert fact["widths"] == {"a": 4, "b": 4, "c": 2, "d": 3, "f": 5, "scores": 3}
    assert fact["untouched"]
    # a 3*9*4+4, its norm 4*4; depthwise 9*4+4, its norm 16; b 4*4, its norm 16;
    # c 9*4*2+2, PReLU 2; d 9*4*3+3; f 9*5*5+5 (3x3 of c and d side by side); scores 5*3+3
    assert fact["parameters"][1] == 112 + 16 + 40 + 16 + 16 + 16 + 74 + 2 + 111 + 230 + 18


def test_shared_separable_transposed_and_gated_layers_too(facts: dict[str, Any]) -> None:
    fact = facts["wide"]

    assert fact["difference"] <= EXACT
    assert fact["widths"] == {
        "s": 4,
        "t": 3,
        "p": 4,
        "q": 2,
        "r": 4,
        "mask": 1,
        "scores": 5,
    }
    assert fact["outputs"] == ["mask", "scores"]


def test_a_shared_layer_joins_the_channels_of_its_calls(facts: dict[str, Any]) -> None:
    fact = facts["called_on_its_own_output"]

    assert fact["difference"] <= EXACT
    assert fact["widths"] == {"before": 4, "shared": 4, "scores": 2}
    assert facts["called_on_the_input_too"] == {"shared": 8, "hidden": 4, "scores": 2}


def test_the_smaller_model_is_the_masked_one_on_random_graphs(facts: dict[str, Any]) -> None:
    assert facts["random_graphs"]["worst"] <= 1e-5
    assert facts["random_graphs"]["narrower"] == 40


def test_batch_norm_scales_decide_with_that_criterion(facts: dict[str, Any]) -> None:
    assert facts["batch_norm_scale"]["bn_scale"] <= EXACT
    assert facts["batch_norm_scale"]["l1"] > 0.1


def test_costs_are_those_counted_by_hand(facts: dict[str, Any]) -> None:
    fact = facts["counted_by_hand"]

    # conv 1*9*4+4, depthwise 9*4, point 4*6+6, scores 6*3+3; 64, 16, 16 and 1 positions
    assert fact["whole"] == [40 + 36 + 30 + 21, 64 * 36 + 16 * 36 + 16 * 24 + 18]
    assert fact["half"] == [20 + 18 + 9 + 12, 64 * 18 + 16 * 18 + 16 * 6 + 9]
    assert fact["built"] == 59
    # grouped 2*9*8+8 on 64 positions, again 8*8+8 on 64 twice, up 4*6*8+6 on 64, mask 6+1 on 256
    assert facts["counted_where_kept_whole"]["whole"] == [
        152 + 72 + 198 + 7,
        64 * 144 + 128 * 64 + 64 * 192 + 256 * 6,
    ]


def test_a_share_of_parameters_or_macs_is_met(facts: dict[str, Any]) -> None:
    assert len(facts["shares"]) == 4
    for left in facts["shares"].values():
        assert 0.35 <= left <= 0.5


def test_channels_are_rounded_and_never_too_few(facts: dict[str, Any]) -> None:
    fact = facts["multiples"]

    assert fact["eight"] == {"forty": 16, "wide": 8, "eight": 8, "scores": 2}
    assert fact["least"] == {"forty": 16, "wide": 12, "eight": 8, "scores": 2}


def test_a_layer_that_cannot_be_followed_is_kept_and_named(facts: dict[str, Any]) -> None:
    fact = facts["unseen"]

    assert fact["widths"] == {
        "first": 4,
        "second": 4,
        "third": 4,
        "fourth": 8,
        "fifth": 8,
        "scores": 2,
    }
    assert [note.split(" (")[0] for note in fact["frozen"]] == [
        'kept whole: fourth, because of "norm"',
        'kept whole: fifth, because of "broken"',
    ]
    assert facts["channels_first"]["widths"] == {"first": 8, "hidden": 4, "scores": 2}


def test_elementwise_operators_of_tensorflow_are_followed(
    facts: dict[str, Any],
) -> None:
    fact = facts["operators"]

    assert fact["difference"] <= EXACT
    assert fact["widths"] == {"conv": 4, "next": 4, "beside": 4, "scores": 2}
    assert facts["opaque_operators"] == {"scaled": 8, "summed": 8, "free": 4, "scores": 2}


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("nothing_to_prune", "no hidden convolution or dense layer"),
        ("softmax_inside", '"soft": its activation makes every channel depend'),
        ("grouped_convolution", '"grouped" (Conv2D): a grouped convolution'),
        ("nothing_removed", "removes nothing: the layers have 4, 6 channels"),
        (
            "share_out_of_reach",
            "cannot be reached: with 1 channels per layer there are still 21.3%",
        ),
    ],
)
def test_a_model_that_cannot_be_pruned_is_refused(
    facts: dict[str, Any], case: str, why: str
) -> None:
    assert why in refusal(facts[case])


def test_a_ratio_out_of_range_is_refused(facts: dict[str, Any]) -> None:
    assert len(facts["keep_out_of_range"]) == 4
    for message in facts["keep_out_of_range"].values():
        assert "keep more than 0, less than 1" in message


def test_an_open_size_has_no_macs(facts: dict[str, Any]) -> None:
    assert facts["open_size"]["widths"] == {"conv": 4, "scores": 2}
    assert "leaves a size of its input open" in facts["open_size"]["refused"]


# --- decomposition ---------------------------------------------------------------------------


def test_factors_of_the_true_rank_lose_nothing(facts: dict[str, Any]) -> None:
    fact = facts["true_ranks"]

    assert fact["difference"] <= 1e-4
    assert fact["below"] > 0.01
    assert fact["outputs"] == ["scores_2"]
    assert fact["strides"] == [2, 2]
    assert fact["names"] == [
        *("conv_5_6_in", "conv_5_6_core", "conv_5_6", "point_4_in", "point_4"),
        *("dense_7_in", "dense_7", "scores_2_in", "scores_2"),
    ]


def test_full_rank_reproduces_the_outputs(facts: dict[str, Any]) -> None:
    assert facts["full_ranks"]["residual"] <= 1e-4
    assert facts["full_ranks"]["wide"] <= 1e-4


def test_energy_finds_the_true_rank(facts: dict[str, Any]) -> None:
    assert facts["true_ranks_by_energy"] == {
        "conv_5_6": [5, 6],
        "point_4": [4],
        "dense_7": [7],
        "scores_2": [2],
    }


def test_weights_of_factors_are_those_counted_by_hand(facts: dict[str, Any]) -> None:
    fact = facts["counted_factors"]

    assert fact["conv"] == 12 * 5 + 9 * 5 * 6 + 6 * 16
    assert fact["conv, full input"] == 9 * 12 * 6 + 6 * 16
    assert fact["dense"] == 7 * (256 + 20)
    assert fact["built"] == fact["conv"] - 9 * 12 * 16


def test_a_share_of_the_parameters_is_met(facts: dict[str, Any]) -> None:
    for keep, left in facts["half_the_parameters"].items():
        assert float(keep) - 0.15 <= left <= float(keep)


def test_a_shared_layer_stays_one(facts: dict[str, Any]) -> None:
    assert facts["decomposed_shared_layer"]["difference"] <= 1e-4
    assert facts["decomposed_shared_layer"]["calls"] == 3


def test_a_rank_above_full_rank_is_refused(facts: dict[str, Any]) -> None:
    assert facts["rank_above_full"] == {
        "everywhere": 'rank 145 is above the full rank of "dense_7", which is 20',
        "named": 'rank 17 is above the full rank of "point_4", which is 16',
        "decompose": 'rank 17 is above the full rank of "conv_5_6", which is 16',
    }


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("none", "give one of keep"),
        ("two", "given: keep, rank"),
        ("keep", "keep = 1 is out of range"),
        ("energy", "energy = 0 is out of range"),
        ("rank", "rank = 0 is out of range"),
        ("layer", 'did you mean "dense_7"?'),
        ("out of reach", "at rank 1 there are still"),
        ("no gain", "scores_2 of 60 weights would have 69 at rank 3"),
    ],
)
def test_a_setting_that_cannot_be_met_is_refused(
    facts: dict[str, Any], setting: str, why: str
) -> None:
    assert why in facts["bad_settings"][setting]


def test_a_layer_that_cannot_be_decomposed_stays(facts: dict[str, Any]) -> None:
    assert "no dense layer, no convolution" in refusal(facts["nothing_to_decompose"])
    assert facts["channels_first"]["decomposable"] == ["hidden", "scores"]
