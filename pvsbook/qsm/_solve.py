"""Conjugate gradients on volumes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]


def conjugate_gradients(
    normal: Callable[[Volume], Volume], right: Volume, tolerance: float, max_iterations: int
) -> Volume:
    """Solve ``normal(x) = right`` for a symmetric, positive semi-definite operator, from zero.

    Stops when the residual has fallen to `tolerance` of its start: for an ill-posed operator
    stopping early is itself a regularisation.
    """
    solution = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    square = start = _dot(residual, residual)
    for _ in range(max_iterations):
        if square <= tolerance**2 * start:
            break
        image = normal(direction)
        step = np.float32(square / _dot(direction, image))
        solution += step * direction
        residual -= step * image
        previous, square = square, _dot(residual, residual)
        direction *= np.float32(square / previous)
        direction += residual
    return solution


def _dot(a: Volume, b: Volume) -> float:
    return float(np.dot(a.ravel(), b.ravel()))
