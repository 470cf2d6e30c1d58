"""Conjugate gradients on volumes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]


def conjugate_gradients(
    normal: Callable[[Volume], Volume], right: Volume, tolerance: float, max_iterations: int
) -> tuple[Volume, int, float]:
    """Solve ``normal(x) = right`` for a symmetric, positive semi-definite operator, from zero.

    Stops when the residual has fallen to `tolerance` of its start: for an ill-posed operator
    stopping early is itself a regularisation.  Returns the solution, the iterations taken and the
    share of the residual that is left.
    """
    solution = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    square = start = _dot(residual, residual)
    n = 0
    while n < max_iterations and square > tolerance**2 * start:
        n += 1
        image = normal(direction)
        step = np.float32(square / _dot(direction, image))
        solution += step * direction
        residual -= step * image
        previous, square = square, _dot(residual, residual)
        direction *= np.float32(square / previous)
        direction += residual
    return solution, n, (square / start) ** 0.5 if start else 0.0


def _dot(a: Volume, b: Volume) -> float:
    return float(np.dot(a.ravel(), b.ravel()))
