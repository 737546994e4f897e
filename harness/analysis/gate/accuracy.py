"""Compare the accuracy of A and B: both files run over the same evaluation inputs, on the host.

A metric that judges each sample is compared input by input: inputs that both sides get right or both
get wrong do not count (McNemar). Any other metric, such as an error, gives one exact number per side,
and the metric's direction defines which is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness import metrics
from harness.analysis.gate.contest import Contest
from harness.analysis.gate.findings import Accuracy, Exact
from harness.errors import ConfigError
from harness.optimize import check, reference
from harness.protocols import JudgesSamples
from harness.tflite import numeric
from harness.tflite.numeric import Array
from harness.types import DEFAULT_HOST, DataSource, HostLimits, Variant

MAX_INPUTS = 10_000


def row(
    contest: Contest, data: DataSource, limits: HostLimits = DEFAULT_HOST
) -> Accuracy | Exact | None:
    """Return the row of a contest; None without evaluation data or if the host cannot run a file.

    Raises ConfigError for data that does not fit, RecipeError if a file fails on the host.
    """
    a, b = contest.a.variant, contest.b.variant
    if not data.evaluation or not (reference.runs_on_host(a) and reference.runs_on_host(b)):
        return None
    if isinstance(metrics.load(data.metric)(), JudgesSamples):
        return _sample_by_sample(contest, data, limits)
    value_a = value(a, data, limits)
    return Exact(
        key=contest.key,
        metric="accuracy",
        a=value_a,
        b=value_a if a.digest == b.digest else value(b, data, limits),
        better=metrics.direction(data.metric),
    )


def right(variant: Variant, data: DataSource, limits: HostLimits = DEFAULT_HOST) -> list[bool]:
    """Return whether the file gets each evaluation input right, on the host, at most 10,000 inputs.

    Raises ConfigError for a metric that does not judge single samples.
    """
    metric = metrics.load(data.metric)()
    if not isinstance(metric, JudgesSamples):
        raise ConfigError(f"{data.metric} does not judge single inputs as right or wrong")
    found = _host_outputs(variant, data, limits)
    try:
        return [bool(one) for one in metric.right(found.outputs, found.labels)]
    except ConfigError as error:
        raise ConfigError(f"data {data.evaluation}: {error}") from None


def value(variant: Variant, data: DataSource, limits: HostLimits = DEFAULT_HOST) -> float:
    """Return the metric of a file over the evaluation inputs (at most 10,000), on the host."""
    metric = metrics.load(data.metric)()
    found = _host_outputs(variant, data, limits)
    try:
        metric.update(found.outputs, found.labels)
    except ConfigError as error:
        raise ConfigError(f"data {data.evaluation}: {error}") from None
    return metric.result().value


def _sample_by_sample(contest: Contest, data: DataSource, limits: HostLimits) -> Accuracy:
    a, b = contest.a.variant, contest.b.variant
    right_a = right(a, data, limits)
    right_b = right_a if a.digest == b.digest else right(b, data, limits)
    counts = [0, 0, 0, 0]
    for x, y in zip(right_a, right_b, strict=True):
        counts[2 * (not x) + (not y)] += 1
    both, only_a, only_b, neither = counts
    return Accuracy(key=contest.key, both=both, only_a=only_a, only_b=only_b, neither=neither)


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostOutputs:
    """A file's outputs for the evaluation inputs and their labels, in the form of a metric."""

    outputs: Mapping[str, Array]
    labels: Mapping[str, Array]


def _host_outputs(variant: Variant, data: DataSource, limits: HostLimits) -> _HostOutputs:
    source = data.evaluation or ""
    taken = reference.load_samples(source, variant, MAX_INPUTS, limits=limits)
    if not taken.labels:
        raise ConfigError(f'data {source}: the key "y" is missing; evaluation needs labels')
    given = reference.as_file_takes(variant, taken.inputs)
    how = reference.HostRun(limits=limits, build_seconds=variant.build_seconds or 0, own_data=True)
    found = reference.host_outputs(variant.path, given, how=how)
    return _HostOutputs(
        outputs={
            name: numeric.dequantise(found[tensor.name], tensor)
            for name, tensor in zip(check.names(variant.outputs), variant.outputs, strict=True)
        },
        labels=taken.labels,
    )
