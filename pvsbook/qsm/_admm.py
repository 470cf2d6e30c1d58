"""The inner loops of TV: they are bound by memory, so each step is one pass over it."""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True, fastmath=True)
def scale_and_add(spectrum, scale, offset):  # type: ignore[no-untyped-def]
    """Multiply by a real volume and add another spectrum, in place and in one pass."""
    s, t, o = spectrum.ravel(), scale.ravel(), offset.ravel()
    for i in range(s.size):
        s[i] = complex(s[i].real * t[i] + o[i].real, s[i].imag * t[i] + o[i].imag)


@numba.njit(cache=True, fastmath=True)
def scale(spectrum, a, b):  # type: ignore[no-untyped-def]
    """Multiply by two real volumes, in place and in one pass."""
    s, t, u = spectrum.ravel(), a.ravel(), b.ravel()
    for i in range(s.size):
        c = t[i] * u[i]
        s[i] = complex(s[i].real * c, s[i].imag * c)


@numba.njit(cache=True, fastmath=True, error_model="numpy")  # else a check stops vectorising
def shrink(chi, old, dual, strength, inverse_size, adjoint):  # type: ignore[no-untyped-def]
    """Take one step of the gradient's splitting, in one pass over memory.

    With g the forward differences of `chi` (the volume is periodic) and t = g + dual: z is t
    shrunk by `strength`, the new dual is t - z, and `adjoint` becomes the adjoint differences of
    z - dual = 2 z - t.  Returns the relative change from `old` to `chi`.
    """
    nx, ny, nz = chi.shape
    ax, ay, az = inverse_size[0], inverse_size[1], inverse_size[2]
    # What the planes and rows before hand on is kept apart, so that `adjoint` is written once.
    px = np.zeros((ny, nz), np.float32)
    py = np.empty(nz, np.float32)
    pz = np.empty(nz + 1, np.float32)
    right = np.empty(nz, np.float32)
    one = np.float32(1)
    moved = 0.0
    total = 0.0
    for i in range(nx):
        ahead = i + 1 if i + 1 < nx else 0
        py[:] = 0
        for j in range(ny):
            up = j + 1 if j + 1 < ny else 0
            row, row_ahead, row_up, row_old = chi[i, j], chi[ahead, j], chi[i, up], old[i, j]
            ux, uy, uz = dual[0, i, j], dual[1, i, j], dual[2, i, j]
            limit, out, before = strength[i, j], adjoint[i, j], px[j]
            right[: nz - 1] = row[1:]
            right[nz - 1] = row[0]
            row_moved = np.float32(0)
            row_total = np.float32(0)
            for k in range(nz):
                c = row[k]
                tx = (row_ahead[k] - c) * ax + ux[k]
                ty = (row_up[k] - c) * ay + uy[k]
                tz = (right[k] - c) * az + uz[k]
                length = np.sqrt(tx * tx + ty * ty + tz * tz) + np.float32(1e-20)
                keep = max(one - limit[k] / length, np.float32(0))
                ux[k] = (one - keep) * tx
                uy[k] = (one - keep) * ty
                uz[k] = (one - keep) * tz
                both = keep + keep - one
                sx = both * tx * ax
                sy = both * ty * ay
                sz = both * tz * az
                out[k] = before[k] + py[k] - (sx + sy + sz)
                before[k] = sx
                py[k] = sy
                pz[k + 1] = sz
                d = c - row_old[k]
                row_moved += d * d
                row_total += c * c
            moved += row_moved
            total += row_total
            pz[0] = pz[nz]
            for k in range(nz):
                out[k] += pz[k]
        adjoint[i, 0] += py
    adjoint[0] += px
    return math.sqrt(moved / max(total, 1e-30))
