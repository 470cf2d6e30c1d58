"""The vesselness kernel: Hessians, their eigenvalues and the response, a tile at a time.

A Hessian is fifteen one-dimensional passes: 3 along x, 6 along y, 6 along z.  They are fused a
tile of rows at a time, so that no derivative ever reaches main memory; the innermost loop runs
along the contiguous axis and becomes vector instructions.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

__all__ = ["filter_slab", "hessian_at"]

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
def _three_orders(src, p, m, q, n, w, k, size, dst, o0, o1, o2):
    """Add the taps k and k + 1 of all three orders to the rows at o0, o1, o2."""
    a0, a1, a2 = w[0, k], w[1, k], w[2, k]
    b0, b1, b2 = w[0, k + 1], w[1, k + 1], w[2, k + 1]
    for z in range(size):
        s = src[p + z] + src[m + z]
        d = src[p + z] - src[m + z]
        t = src[q + z] + src[n + z]
        e = src[q + z] - src[n + z]
        dst[o0 + z] += a0 * s + b0 * t
        dst[o1 + z] += a1 * d + b1 * e
        dst[o2 + z] += a2 * s + b2 * t


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def _even_order(src, p, m, q, n, a, b, size, dst, out):
    for z in range(size):
        dst[out + z] += a * (src[p + z] + src[m + z]) + b * (src[q + z] + src[n + z])


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def _odd_order(src, p, m, q, n, a, b, size, dst, out):
    for z in range(size):
        dst[out + z] += a * (src[p + z] - src[m + z]) + b * (src[q + z] - src[n + z])


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def _scaled(src, p, a, size, dst, out):
    for z in range(size):
        dst[out + z] = a * src[p + z]


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
def _eigenvalues(xx, xy, xz, yy, yz, zz):
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
def _respond(h, n, sign, kind, weights, index, response, best):
    """Turn a row of Hessians into responses, and keep the larger."""
    wa, wb, c = weights[0], weights[1], weights[2]
    ws = np.float32(0.5) / (c * c)
    zero, one = np.float32(0), np.float32(1)
    for z in range(n):
        e1, e2, e3 = _eigenvalues(
            *(sign * h[0, z], sign * h[1, z], sign * h[2, z]),
            *(sign * h[3, z], sign * h[4, z], sign * h[5, z]),
        )
        tube = e2 > abs(e3)  # then e1 and e2 are the two of largest magnitude, and positive
        e1 = max(e1, np.float32(1e-30))
        f2 = max(e2, np.float32(1e-30))
        if kind == 0:
            sheet = f2 * f2 / (e1 * e1)
            blob = e3 * e3 / (e1 * f2)
            norm = e1 * e1 + e2 * e2 + e3 * e3
            v = (one - _exp_neg(wa * sheet)) * _exp_neg(wb * blob) * (one - _exp_neg(ws * norm))
        elif kind == 1:
            width = np.float32(2.0) if e3 > 0 else np.float32(0.125)  # 1 / (2 alpha^2)
            v = f2 * _exp_neg(width * e3 * e3 / (f2 * f2))
        else:
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
    kept = min(ny, _ROWS_PER_TILE + 2 * pad)
    buffer = np.empty(3 * kept * nz, np.float32)  # x-derivatives of order 0, 1, 2, row by row
    wide = nz + 2 * pad
    rows = np.zeros(6 * wide, np.float32)  # xx, xy, xz, yy, yz, zz before the pass along z
    hessian = np.empty((6, nz), np.float32)
    lines = hessian.ravel()
    wx, wy, wz = taps[0], taps[1], taps[2]
    zero, u = np.float32(0), np.uint64
    plane = kept * nz
    for x in range(start, stop):
        for tile in range(0, ny, _ROWS_PER_TILE):
            tile_end = min(ny, tile + _ROWS_PER_TILE)
            lo, hi = nz, 0
            for y in range(tile, tile_end):
                if last[x, y] > first[x, y]:
                    lo, hi = min(lo, first[x, y]), max(hi, last[x, y])
            if hi <= lo:
                continue
            lo, hi = max(0, lo - pad), min(nz, hi + pad)
            if nz <= 2 * pad:
                lo, hi = 0, nz
            y0, y1 = max(0, tile - pad), min(ny, tile_end + pad)
            if ny <= _ROWS_PER_TILE + 2 * pad:
                y0, y1 = 0, ny
            size = u(hi - lo)
            for y in range(y0, y1):
                o0 = (y - y0) * nz + lo
                o1, o2 = u(o0 + plane), u(o0 + 2 * plane)
                here = u((x * ny + y) * nz + lo)
                _scaled(flat, here, wx[0, 0], size, buffer, u(o0))
                _scaled(flat, here, zero, size, buffer, o1)
                _scaled(flat, here, wx[2, 0], size, buffer, o2)
                for k in range(1, pad + 1, 2):
                    _three_orders(
                        flat,
                        u((_reflect(x + k, nx) * ny + y) * nz + lo),
                        u((_reflect(x - k, nx) * ny + y) * nz + lo),
                        u((_reflect(x + k + 1, nx) * ny + y) * nz + lo),
                        u((_reflect(x - k - 1, nx) * ny + y) * nz + lo),
                        *(wx, k, size, buffer, u(o0), o1, o2),
                    )
            for y in range(tile, tile_end):
                z0, z1 = first[x, y], last[x, y]
                if z1 <= z0:
                    continue
                lo, hi = max(0, z0 - pad), min(nz, z1 + pad)
                if nz <= 2 * pad:
                    lo, hi = 0, nz
                size = u(hi - lo)
                to = pad + lo
                xx, xy, xz = u(to), u(to + wide), u(to + 2 * wide)
                yy, yz, zz = u(to + 3 * wide), u(to + 4 * wide), u(to + 5 * wide)
                c0 = (y - y0) * nz + lo
                c1, c2 = c0 + plane, c0 + 2 * plane
                _scaled(buffer, u(c0), wy[0, 0], size, rows, zz)
                _scaled(buffer, u(c0), zero, size, rows, yz)
                _scaled(buffer, u(c0), wy[2, 0], size, rows, yy)
                _scaled(buffer, u(c1), wy[0, 0], size, rows, xz)
                _scaled(buffer, u(c1), zero, size, rows, xy)
                _scaled(buffer, u(c2), wy[0, 0], size, rows, xx)
                for k in range(1, pad + 1, 2):
                    p = (_reflect(y + k, ny) - y0) * nz + lo
                    m = (_reflect(y - k, ny) - y0) * nz + lo
                    q = (_reflect(y + k + 1, ny) - y0) * nz + lo
                    n = (_reflect(y - k - 1, ny) - y0) * nz + lo
                    _three_orders(*(buffer, u(p), u(m), u(q), u(n), wy, k, size, rows, zz, yz, yy))
                    p, m, q, n = p + plane, m + plane, q + plane, n + plane
                    _even_order(
                        *(buffer, u(p), u(m), u(q), u(n), wy[0, k], wy[0, k + 1], size, rows, xz)
                    )
                    _odd_order(
                        *(buffer, u(p), u(m), u(q), u(n), wy[1, k], wy[1, k + 1], size, rows, xy)
                    )
                    p, m, q, n = p + plane, m + plane, q + plane, n + plane
                    _even_order(
                        *(buffer, u(p), u(m), u(q), u(n), wy[0, k], wy[0, k + 1], size, rows, xx)
                    )
                if z0 < pad or z1 > nz - pad:
                    for r in range(6):
                        row = r * wide + pad
                        for k in range(1, pad + 1):
                            rows[row - k] = rows[row + _reflect(-k, nz)]
                            rows[row + nz - 1 + k] = rows[row + _reflect(nz - 1 + k, nz)]
                size = u(z1 - z0)
                for r in range(6):
                    order = 2 if r == 5 else (1 if r in (2, 4) else 0)
                    at, out = r * wide + pad + z0, u(r * nz)
                    centre = zero if order == 1 else wz[order, 0]
                    _scaled(rows, u(at), centre, size, lines, out)
                    for k in range(1, pad + 1, 2):
                        p, m, q, n = u(at + k), u(at - k), u(at + k + 1), u(at - k - 1)
                        a, b = wz[order, k], wz[order, k + 1]
                        if order == 1:
                            _odd_order(rows, p, m, q, n, a, b, size, lines, out)
                        else:
                            _even_order(rows, p, m, q, n, a, b, size, lines, out)
                _respond(
                    *(hessian, z1 - z0, sign, kind, weights, index),
                    *(response[x, y, z0:z1], best[x, y, z0:z1]),
                )


@njit(nogil=True, error_model="numpy", cache=True)
def hessian_at(image, points, taps):
    """Scale-normalised Hessians (n, 3, 3) at a few voxels, in double precision."""
    radius = taps.shape[2] - 1
    out = np.zeros((len(points), 3, 3))
    for n in range(len(points)):
        x, y, z = points[n]
        for i in range(-radius, radius + 1):
            gx = taps[0, :, abs(i)]
            sx = gx[1] if i > 0 else -gx[1]
            for j in range(-radius, radius + 1):
                gy = taps[1, :, abs(j)]
                sy = gy[1] if j > 0 else -gy[1]
                row = image[_reflect(x + i, image.shape[0]), _reflect(y + j, image.shape[1])]
                f0, f1, f2 = 0.0, 0.0, 0.0
                for k in range(-radius, radius + 1):
                    value = row[_reflect(z + k, image.shape[2])]
                    f0 += taps[2, 0, abs(k)] * value
                    f1 += (taps[2, 1, k] if k > 0 else -taps[2, 1, -k]) * value
                    f2 += taps[2, 2, abs(k)] * value
                out[n, 0, 0] += gx[2] * gy[0] * f0
                out[n, 1, 1] += gx[0] * gy[2] * f0
                out[n, 2, 2] += gx[0] * gy[0] * f2
                out[n, 0, 1] += sx * sy * f0
                out[n, 0, 2] += sx * gy[0] * f1
                out[n, 1, 2] += gx[0] * sy * f1
        out[n, 1, 0], out[n, 2, 0], out[n, 2, 1] = out[n, 0, 1], out[n, 0, 2], out[n, 1, 2]
    return out
