"""The probability that a row is the best, from the launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

DRAWS = 20_000
MIN_FOR_SPREAD = 2


def probability_lowest(
    launches: Sequence[Sequence[float]], index: int, seed: int = 0
) -> float | None:
    """Return the probability that the row at `index` has the lowest true value.

    Let m and s be the mean and standard deviation of the n logs of a row's launches. With flat
    priors on the mean and on ln of the spread, the true log is m + s / sqrt(n) * T, with T of
    Student's t with n - 1 degrees of freedom (Box & Tiao, Bayesian Inference in Statistical
    Analysis, 2.2). The probability is the share of 20,000 seeded draws, independent between rows, in
    which the row is the lowest; rows that tie share a draw. A row with one launch uses the spread
    pooled over the others. The result is None if every row has only one launch.

    Rows of one device are interleaved, so they share its slow drift; independent draws make the
    probability less certain than it could be, not more.

    Raises ValueError for a row without launches, or a value that is not above 0.
    """
    import numpy as np

    logs = [_logs(values) for values in launches]
    squares = [float(((one - one.mean()) ** 2).sum()) for one in logs]
    pooled_df = sum(len(one) - 1 for one in logs)
    if pooled_df == 0:
        return None
    rng, all_squares = np.random.default_rng(seed), sum(squares)
    # Row by row: the draws of a thousand rows take 160 MB.
    lowest, own, ties = np.full(DRAWS, np.inf), np.empty(DRAWS), np.zeros(DRAWS)
    for row, one in enumerate(logs):
        has_spread = len(one) >= MIN_FOR_SPREAD
        df = len(one) - 1 if has_spread else pooled_df
        spread = math.sqrt((squares[row] if has_spread else all_squares) / df)
        drawn = one.mean() + spread / math.sqrt(len(one)) * rng.standard_t(df, DRAWS)
        ties = np.where(drawn < lowest, 1.0, ties + (drawn == lowest))
        lowest = np.minimum(drawn, lowest)
        if row == index:
            own = drawn
    return float(((own == lowest) / ties).mean())


def _logs(values: Sequence[float]) -> Any:  # noqa: ANN401 - numpy is imported late
    import numpy as np

    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"launches are one or more finite values above 0, not {list(values)}")
    return np.log(np.asarray(values, dtype=float))
