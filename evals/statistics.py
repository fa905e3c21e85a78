"""Ratios over documents, with their standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error, in the same unit."""

    value: float
    stderr: float

    def __truediv__(self, divisor: float) -> "Estimate":
        return Estimate(self.value / divisor, self.stderr / divisor)

    def as_dict(self) -> dict[str, float]:
        """Return the form that results.json holds."""
        return {"value": self.value, "stderr": self.stderr}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Return r = sum(y) / sum(x) over documents, with the delta method's standard error.

    Documents, not bytes or questions, are the independent draws: what belongs to one document stays together.

        stderr = sqrt(n / (n - 1) * sum((y_i - r x_i)^2)) / sum(x)

    Source: the ratio estimator, Cochran, "Sampling Techniques" (3rd ed., 1977), section 2.11. With y = nats and
    x = bytes it is the error of bits per byte, for which lm-eval has none. With y = correct answers and x =
    questions it is the clustered error of Miller, "Adding Error Bars to Evals" (arXiv:2411.00640), section 2.2,
    with the small-sample factor n / (n - 1), and equals lm-eval's `mean_stderr` where each document has one question.
    Sums are exact (`math.fsum`): the order of documents changes no bit.

    Raises:
        ValueError: Fewer than two documents, or denominators that sum to zero.
    """
    n, total = len(numerators), math.fsum(denominators)
    if n < 2 or not total:
        raise ValueError(f"A ratio needs two documents and a denominator, not {n} and {total}.")
    value = math.fsum(numerators) / total
    squares = math.fsum((y - value * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    return Estimate(value, math.sqrt(n / (n - 1) * squares) / total)
