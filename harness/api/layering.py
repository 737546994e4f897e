"""Time per operator of the files of stored runs."""

from __future__ import annotations

from harness.analysis.layers import procedure
from harness.analysis.layers.procedure import LayersFound
from harness.analysis.layers.subjects import RowFilter
from harness.api import arguments
from harness.api.arguments import AnyPath, Several
from harness.api.running import read_farm
from harness.config import farm as farms
from harness.events import Emit, ignore
from harness.tflite.truncate import MAX_PREFIXES

__all__ = ["LayersFound", "layers"]


def layers(
    selectors: Several[str],
    *,
    only: RowFilter | None = None,
    benchmark_model: AnyPath | None = None,
    launches: int | None = None,
    at_most: int = MAX_PREFIXES,
    farm: farms.Farm | AnyPath | None = None,
    results: AnyPath | None = None,
    wait: bool | None = None,
    on_event: Emit = ignore,
) -> LayersFound:
    """Measure the operator times of one or two stored runs' files on their devices.

    See :func:`harness.analysis.layers.procedure.layers`.
    """
    return procedure.layers(
        arguments.texts(selectors),
        only=only,
        benchmark_model=arguments.optional_path(benchmark_model),
        launches=launches,
        at_most=at_most,
        farm=None if farm is None else read_farm(farm),
        results=arguments.optional_path(results),
        wait=wait,
        on_event=on_event,
    )
