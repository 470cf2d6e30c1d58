"""The vesselness kernel: Hessians, their eigenvalues and the response, a tile at a time.

A Hessian is fifteen one-dimensional passes: 3 along x, 6 along y, 6 along z.  They are made a tile
of rows at a time, so that no derivative ever reaches main memory; the innermost loop runs along
the contiguous axis and becomes vector instructions.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

_ROWS_PER_TILE = 48  # rows of one x-plane worked on together: their buffers stay in cache


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def _reflect(i, n):
    """Index of voxel `i` in a row of `n` mirrored at its ends (d c b a | a b c d | d c b a)."""
    while i < 0 or i >= n:
        i = -1 - i if i < 0 else 2 * n - 1 - i
    return i


# Rows are reached by flat unsigned offsets: slices would count references, and signed indices
# would be checked for wrapping, inside the loops that matter.


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def _derive(source, rows, shift, taps, order, size, out, start):
    """Write the derivative of one order of a row: a weighted sum of its neighbouring rows.

    The neighbours -pad..pad start at `rows` + `shift` in `source`.  Weights of order 1 are
    antisymmetric, those of order 0 and 2 symmetric, so two neighbours share one product; two
    pairs at a time halve the traffic to `out` (the radius is even).
    """
    pad = len(rows) // 2
    weights = taps[order]
    mirror = np.float32(-1) if order == 1 else np.float32(1)
    centre, start, size = np.uint64(rows[pad] + shift), np.uint64(start), np.uint64(size)
    for z in range(size):
        out[start + z] = weights[0] * source[centre + z]
    for k in range(1, pad + 1, 2):
        a, b = weights[k], weights[k + 1]
        p, m = np.uint64(rows[pad + k] + shift), np.uint64(rows[pad - k] + shift)
        q, n = np.uint64(rows[pad + k + 1] + shift), np.uint64(rows[pad - k - 1] + shift)
        for z in range(size):
            near = source[p + z] + mirror * source[m + z]
            far = source[q + z] + mirror * source[n + z]
            out[start + z] += a * near + b * far


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def _exp_neg(x):
    """exp(-x) for x >= 0 in float32, relative error 2e-6, without a library call."""
    t = min(x * np.float32(1.4426950408889634), np.float32(126.0))
    whole = np.int32(t)
    f = np.float32(whole) - t  # in (-1, 0]
    p = np.float32(0.00133335581)
    p = p * f + np.float32(0.00961812911)
    p = p * f + np.float32(0.0555041087)
    p = p * f + np.float32(0.240226507)
    p = p * f + np.float32(0.693147181)
    p = p * f + np.float32(1.0)
    return p * np.int32((np.int32(127) - whole) << np.int32(23)).view(np.float32)


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def eigenvalues(xx, xy, xz, yy, yz, zz):
    """Eigenvalues of a symmetric 3x3 matrix, largest first, in closed form.

    With A = q + p B, the eigenvalues of B are 2 cos(acos(det(B) / 2) / 3 + 2 pi k / 3).  For
    t = |det(B) / 2| the largest is 2 cos(acos(t) / 3), smooth in t: a polynomial replaces the
    trigonometric functions.
    """
    third = np.float32(1 / 3)
    q = (xx + yy + zz) * third
    a, b, c = xx - q, yy - q, zz - q
    off = xy * xy + xz * xz + yz * yz
    p2 = (a * a + b * b + c * c + off + off) * np.float32(1 / 6)
    p = np.sqrt(p2) + np.float32(1e-30)
    inverse = np.float32(1) / p
    a, b, c = a * inverse, b * inverse, c * inverse
    d, e, f = xy * inverse, xz * inverse, yz * inverse
    det = a * (b * c - f * f) - d * (d * c - e * f) + e * (d * f - b * e)
    half = np.float32(0.5) * det
    t = min(abs(half), np.float32(1))
    u = np.float32(COS3[5])
    u = u * t + np.float32(COS3[4])
    u = u * t + np.float32(COS3[3])
    u = u * t + np.float32(COS3[2])
    u = u * t + np.float32(COS3[1])
    u = u * t + np.float32(COS3[0])
    v = np.sqrt(max(np.float32(3) * (np.float32(1) - u * u), np.float32(0)))
    big, mid, small = u + u, v - u, -u - v
    if half < 0:
        big, mid, small = -small, -mid, -big
    return q + p * big, q + p * mid, q + p * small


def _cos_third() -> tuple[float, ...]:
    """Polynomial for cos(acos(t) / 3) on [0, 1]: exact at 1, where tubes and sheets lie."""
    t = 0.5 - 0.5 * np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    target = (np.cos(np.arccos(t) / 3) - 1) / (t - 1)
    return tuple(
        np.convolve(np.polynomial.polynomial.polyfit(t, target, 4), [-1, 1]) + np.eye(6)[0]
    )


COS3 = _cos_third()


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def _respond(hessian, n, sign, kind, weights, index, response, best):
    """Turn a row of Hessians into responses, and keep the larger.

    A tube bends strongly across itself, along two axes, and hardly along itself: of the two
    eigenvalues of largest magnitude both must have the wanted sign.  With e1 >= e2 >= e3 that is
    e2 > |e3|; elsewhere the formulas of the papers do not hold and the response is zero.
    """
    sheet_weight, blob_weight, c = weights[0], weights[1], weights[2]
    norm_weight = np.float32(0.5) / (c * c)
    zero, one, tiny = np.float32(0), np.float32(1), np.float32(1e-30)
    for z in range(n):
        e1, e2, e3 = eigenvalues(
            *(sign * hessian[0, z], sign * hessian[1, z], sign * hessian[2, z]),
            *(sign * hessian[3, z], sign * hessian[4, z], sign * hessian[5, z]),
        )
        tube = e2 > abs(e3)
        e1, f2 = max(e1, tiny), max(e2, tiny)
        if kind == 0:  # Frangi
            sheet = f2 * f2 / (e1 * e1)
            blob = e3 * e3 / (e1 * f2)
            norm = e1 * e1 + e2 * e2 + e3 * e3
            v = (
                (one - _exp_neg(sheet_weight * sheet))
                * _exp_neg(blob_weight * blob)
                * (one - _exp_neg(norm_weight * norm))
            )
        elif kind == 1:  # Sato, with alpha 0.5 along a tube that widens and 2 where it ends
            width = np.float32(2.0) if e3 > 0 else np.float32(0.125)  # 1 / (2 alpha^2)
            v = f2 * _exp_neg(width * e3 * e3 / (f2 * f2))
        else:  # Jerman
            rho = max(e1, c)
            ratio = np.float32(3) / (f2 + rho)
            v = f2 * f2 * (rho - f2) * ratio * ratio * ratio
            v = one if f2 >= np.float32(0.5) * rho else v
        v = v if tube else zero
        old = response[z]
        response[z] = max(v, old)
        best[z] = index if v > old else best[z]


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def filter_slab(image, first, last, taps, sign, kind, weights, index, response, best, start, stop):
    """Update `response` and `best` with one scale for the planes start..stop of the first axis."""
    nx, ny, nz = image.shape
    pad = taps.shape[2] - 1
    flat = image.ravel()
    n_rows = min(ny, _ROWS_PER_TILE + 2 * pad)
    plane = n_rows * nz
    along_x = np.empty(3 * plane, np.float32)  # x-derivatives of order 0, 1, 2, row by row
    wide = nz + 2 * pad
    along_y = np.zeros(6 * wide, np.float32)  # of one row: xx, xy, xz, yy, yz, zz but for z
    hessian = np.empty((6, nz), np.float32)
    lines = hessian.ravel()
    neighbours = np.empty(2 * pad + 1, np.int64)
    for x in range(start, stop):
        for tile in range(0, ny, _ROWS_PER_TILE):
            tile_end = min(ny, tile + _ROWS_PER_TILE)
            lo, hi = nz, 0
            for y in range(tile, tile_end):
                if last[x, y] > first[x, y]:
                    lo, hi = min(lo, first[x, y]), max(hi, last[x, y])
            if hi <= lo:
                continue
            # mirrored ends need their inner neighbours, so short rows are taken whole
            lo, hi = (max(0, lo - pad), min(nz, hi + pad)) if nz > 2 * pad else (0, nz)
            y0, y1 = (max(0, tile - pad), min(ny, tile_end + pad)) if ny > n_rows else (0, ny)
            for y in range(y0, y1):
                for k in range(-pad, pad + 1):
                    neighbours[pad + k] = (_reflect(x + k, nx) * ny + y) * nz + lo
                for order in range(3):
                    out = order * plane + (y - y0) * nz + lo
                    _derive(flat, neighbours, 0, taps[0], order, hi - lo, along_x, out)
            for y in range(tile, tile_end):
                z0, z1 = first[x, y], last[x, y]
                if z1 <= z0:
                    continue
                lo, hi = (max(0, z0 - pad), min(nz, z1 + pad)) if nz > 2 * pad else (0, nz)
                for k in range(-pad, pad + 1):
                    neighbours[pad + k] = (_reflect(y + k, ny) - y0) * nz + lo
                for r in range(6):  # (x, y) orders of xx, xy, xz, yy, yz, zz: 20 11 10 02 01 00
                    of_x = 2 if r == 0 else (1 if r < 3 else 0)
                    of_y = 2 if r == 3 else (1 if r in (1, 4) else 0)
                    out = r * wide + pad + lo
                    _derive(
                        along_x, neighbours, of_x * plane, taps[1], of_y, hi - lo, along_y, out
                    )
                    row = r * wide + pad
                    if z0 < pad or z1 > nz - pad:
                        for k in range(1, pad + 1):
                            along_y[row - k] = along_y[row + _reflect(-k, nz)]
                            along_y[row + nz - 1 + k] = along_y[row + _reflect(nz - 1 + k, nz)]
                for k in range(-pad, pad + 1):
                    neighbours[pad + k] = pad + z0 + k
                for r in range(6):
                    of_z = 2 if r == 5 else (1 if r in (2, 4) else 0)
                    _derive(along_y, neighbours, r * wide, taps[2], of_z, z1 - z0, lines, r * nz)
                _respond(
                    *(hessian, z1 - z0, sign, kind, weights, index),
                    *(response[x, y, z0:z1], best[x, y, z0:z1]),
                )
