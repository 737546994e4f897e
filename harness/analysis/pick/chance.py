"""How probable it is that a row is the best, from the launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

DRAWS = 20_000
MIN_FOR_SPREAD = 2


def probability_least(
    launches: Sequence[Sequence[float]], place: int, seed: int = 0
) -> float | None:
    """Return the probability that row `place` has the least true value, from the rows' launches.

    With m, s the mean and standard deviation of the n logs of a row's launches and flat priors on
    the mean and on ln of the spread, the true log is m + s / sqrt(n) * T, T of Student's t with
    n - 1 degrees of freedom (Box & Tiao, Bayesian Inference in Statistical Analysis, 2.2). The
    share of 20,000 seeded draws, independent between rows, in which the row is the least; rows
    that tie share a draw. A row of one launch borrows the spread pooled over the others. None
    where every row has one launch only.

    Rows of one device are interleaved, so they share its slow drift, and drawing them as
    independent makes the answer less sure than it could be, not more.

    Raises ValueError for a row without launches, or a value that is not above 0.
    """
    import numpy as np

    logs = [_logs(values) for values in launches]
    squares = [float(((one - one.mean()) ** 2).sum()) for one in logs]
    pooled_df = sum(len(one) - 1 for one in logs)
    if pooled_df == 0:
        return None
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(logs), DRAWS))
    for index, one in enumerate(logs):
        alone = len(one) >= MIN_FOR_SPREAD
        df = len(one) - 1 if alone else pooled_df
        spread = math.sqrt((squares[index] if alone else sum(squares)) / df)
        drawn[index] = one.mean() + spread / math.sqrt(len(one)) * rng.standard_t(df, DRAWS)
    least = drawn == drawn.min(axis=0)
    return float((least[place] / least.sum(axis=0)).mean())


def _logs(values: Sequence[float]) -> Any:  # noqa: ANN401 - numpy is imported late
    import numpy as np

    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"launches are one or more finite values above 0, not {list(values)}")
    return np.log(np.asarray(values, dtype=float))
