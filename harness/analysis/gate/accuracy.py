"""Accuracy of A beside B: both files over the same evaluation inputs, on the host.

Input by input, so that what both sides get right or wrong alike says nothing (McNemar). An error in
place of a share (mse, mae) is one exact number a side.
"""

from __future__ import annotations

from harness.analysis.gate.contest import Contest
from harness.analysis.gate.findings import Accuracy, Exact
from harness.errors import ConfigError
from harness.optimize import check, reference
from harness.optimize import data as datasets
from harness.tflite import numeric
from harness.types import DataSource, Variant

_SHARES = ("top1", "top5")
MOST_INPUTS = 10_000


def row(contest: Contest, data: DataSource) -> Accuracy | Exact | None:
    """Return the row of a contest; None without evaluation data, or for files that cannot run here.

    Raises ConfigError for data that does not fit, RecipeError where a file fails on the host.
    """
    a, b = contest.a.variant, contest.b.variant
    if not data.evaluation or not (reference.runs_here(a) and reference.runs_here(b)):
        return None
    if data.metric not in _SHARES:
        if a.accuracy is None or b.accuracy is None:
            return None
        return Exact(key=contest.key, metric="accuracy", a=a.accuracy, b=b.accuracy)
    right_a = right(a, data)
    right_b = right_a if a.digest == b.digest else right(b, data)
    counts = [0, 0, 0, 0]
    for x, y in zip(right_a, right_b, strict=True):
        counts[2 * (not x) + (not y)] += 1
    both, only_a, only_b, neither = counts
    return Accuracy(key=contest.key, both=both, only_a=only_a, only_b=only_b, neither=neither)


def right(variant: Variant, data: DataSource) -> list[bool]:
    """Say of every evaluation input (at most 10,000) whether the file gets it right, on the host."""
    source = data.evaluation or ""
    arrays, labels = datasets.load(source, variant.inputs, limit=MOST_INPUTS)
    if labels is None:
        raise ConfigError(f'data {source}: the key "y" is missing; evaluation needs labels')
    given = reference.as_file_takes(variant, arrays)
    outputs = reference.host_outputs(variant.path, given)
    tensor = variant.outputs[0]
    scores = numeric.dequantise(outputs[tensor.name], tensor)
    judge = check.METRICS[data.metric]
    return [
        bool(judge(one.reshape(-1), label, source))
        for one, label in zip(scores, labels, strict=True)
    ]
