"""Means and second moments of the neighbourhoods by which Ma's bands are normalised.

A neighbourhood is 3x3 coefficients of a band, the parent and the five other orientations. The product of two of its
members is that of two planes, one of them moved; so each pair of planes and each distance is summed once, over the
rows and columns that all neighbourhoods have in common, and every moment adds its own border to that sum.
"""

import numpy as np

from ranksr.metrics.kernels import kernel
from ranksr.metrics.ma.pyramid import NUM_BANDS

NEIGHBOURHOOD, CENTRE, PARENT = 15, 4, 9
"""3x3 coefficients, the parent, five other orientations; the places of the coefficient itself and of the parent."""


def place(orientation: int, band: int) -> int:
    """Where the coefficient of an orientation at the same pixel is in a band's neighbourhood."""
    return CENTRE if orientation == band else PARENT + 1 + orientation - (orientation > band)


_place = kernel(place)


@kernel
def moments_of_neighbourhoods(bands, parents):
    """Mean (6,) and second moments (6, 15, 15) over all whole neighbourhoods of each band."""
    _, height, width = bands.shape
    means, moments = np.empty(NUM_BANDS), np.zeros((NUM_BANDS, NEIGHBOURHOOD, NEIGHBOURHOOD))
    sides, elder_sides, sums = _sides(bands), _sides(parents), np.empty((3, 5))
    for band in range(NUM_BANDS):
        plane, found = bands[band], moments[band]
        means[band] = _sum(plane)
        _multiply_itself(plane, sums)
        for down in range(3):
            for right in range(-2 if down else 0, 3):
                ends = _ends(sides[band], sides[band], down, right)
                for first in range(9 - 3 * down):
                    if 0 <= first % 3 + right < 3:
                        total, moved = sums[down, right + 2], (first // 3 - 1, first % 3 - 1)
                        total = _window(plane, plane, total, ends, (down, right), moved)
                        found[first, first + 3 * down + right] = total
        for step in range(1, 4 if band < NUM_BANDS // 2 else 3):  # each pair of orientations once
            other = (band + step) % NUM_BANDS
            here, there = _place(band, other), _place(other, band)
            _multiply_another(bands[other], plane, sums)
            for k in range(9):
                total, apart = sums[k // 3, k % 3], (k // 3 - 1, k % 3 - 1)
                ends = _ends(sides[other], sides[band], apart[0], apart[1])
                found[k, there] = _window(bands[other], plane, total, ends, apart, (0, 0))
                # Seen from the other band, this one is the neighbour, on the opposite side.
                opposite = (-apart[0], -apart[1])
                moments[other, 8 - k, here] = _window(bands[other], plane, total, ends, apart, opposite)
        if band < parents.shape[0]:
            elder = parents[band]
            _multiply_another(elder, plane, sums)
            for k in range(9):
                apart = (k // 3 - 1, k % 3 - 1)
                ends = _ends(elder_sides[band], sides[band], apart[0], apart[1])
                found[k, PARENT] = _window(elder, plane, sums[k // 3, k % 3], ends, apart, (0, 0))
            found[PARENT, PARENT] = _dot(elder, elder)
            for other in range(NUM_BANDS):
                if other != band:
                    found[PARENT, _place(other, band)] = _dot(elder, bands[other])
    _fill(moments)
    count = (width - 2) * (height - 2)
    return means / count, moments / count


@kernel
def _fill(moments):
    """The moments of two other orientations, which all bands share, and the lower triangles."""
    for band in range(NUM_BANDS):
        found = moments[band]
        for first in range(NUM_BANDS):
            for second in range(first, NUM_BANDS):
                if first != band and second != band:
                    shared = moments[first, CENTRE, _place(second, first)]
                    found[_place(first, band), _place(second, band)] = shared
        for a in range(NEIGHBOURHOOD):
            for b in range(a):
                found[a, b] = found[b, a]


@kernel
def _sum(plane):
    """Sum of a plane without its border."""
    total = 0.0
    for y in range(1, plane.shape[0] - 1):
        line = plane[y, 1:]
        for x in range(line.size - 1):
            total += line[x]
    return total


@kernel
def _dot(first, second):
    """Sum of products of two planes without their border."""
    total = 0.0
    for y in range(1, first.shape[0] - 1):
        one, two = first[y, 1:], second[y, 1:]
        for x in range(one.size - 1):
            total += one[x] * two[x]
    return total


# The next two go from the third pixel of the third row to the third last of the third last row as if it were one long
# row, which keeps the loop in full vectors. _window takes away what was multiplied at the ends of the rows between.


@kernel
def _multiply_itself(plane, sums):
    """Products with the plane `down` rows and `right` columns from here, in sums[down, right + 2]."""
    height, width = plane.shape
    flat = plane.reshape(-1)
    here, one, two = flat[2 * width + 2 :], flat[3 * width :], flat[4 * width :]
    a = b = c = d = e = f = g = h = i = j = k = m = n = 0.0
    for p in range((height - 4) * width - 4):
        value = here[p]
        a += value * value
        b += value * here[p + 1]
        c += value * here[p + 2]
        d += value * one[p]
        e += value * one[p + 1]
        f += value * one[p + 2]
        g += value * one[p + 3]
        h += value * one[p + 4]
        i += value * two[p]
        j += value * two[p + 1]
        k += value * two[p + 2]
        m += value * two[p + 3]
        n += value * two[p + 4]
    sums[0, 2], sums[0, 3], sums[0, 4] = a, b, c
    sums[1, 0], sums[1, 1], sums[1, 2], sums[1, 3], sums[1, 4] = d, e, f, g, h
    sums[2, 0], sums[2, 1], sums[2, 2], sums[2, 3], sums[2, 4] = i, j, k, m, n


@kernel
def _multiply_another(other, plane, sums):
    """Products of the other with the nine neighbours in the plane, in sums[:, :3]."""
    height, width = plane.shape
    flat, there = plane.reshape(-1), other.reshape(-1)[2 * width + 2 :]
    above, here, below = flat[width + 1 :], flat[2 * width + 1 :], flat[3 * width + 1 :]
    a = b = c = d = e = f = g = h = i = 0.0
    for p in range((height - 4) * width - 4):
        value = there[p]
        a += value * above[p]
        b += value * above[p + 1]
        c += value * above[p + 2]
        d += value * here[p]
        e += value * here[p + 1]
        f += value * here[p + 2]
        g += value * below[p]
        h += value * below[p + 1]
        i += value * below[p + 2]
    sums[0, 0], sums[0, 1], sums[0, 2] = a, b, c
    sums[1, 0], sums[1, 1], sums[1, 2] = d, e, f
    sums[2, 0], sums[2, 1], sums[2, 2] = g, h, i


@kernel
def _sides(planes):
    """(n, 8, H): by row, the last four numbers of the row before and its own first four, each a line down the plane."""
    count, height, width = planes.shape
    out = np.zeros((count, 8, height))
    for plane in range(count):
        for y in range(height):
            for k in range(4):
                out[plane, 4 + k, y] = planes[plane, y, k]
                if y:
                    out[plane, k, y] = planes[plane, y - 1, width - 4 + k]
    return out


@kernel
def _ends(first, second, down, right):
    """What the long row multiplied at the last two and the first two columns, where a row ends and the next begins."""
    ends = np.empty(4)
    for k in range(4):
        one, two, total = first[2 + k, 3:], second[2 + k + right, 3 + down :], 0.0
        for y in range(first.shape[1] - 5):
            total += one[y] * two[y]
        ends[k] = total
    return ends


@kernel
def _window(first, second, total, ends, apart, moved):
    """Sum of first[q] * second[q + apart] over the interior of the planes, moved by -1, 0 or 1 rows and columns.

    `total` is that of the long row, `ends` what `_ends` says of it.
    """
    height, width = first.shape
    step, (y, x) = apart[0] * width + apart[1], moved
    one, two = first.reshape(-1), second.reshape(-1)
    total -= ends[0] + ends[1] + ends[2] + ends[3]
    # Rows 2 to H - 3 lack the columns 0, 1, W - 2 and W - 1; of which two belong to the window.
    for k in range(2):
        column = k if x < 0 else (width - 2 + k if x > 0 else 1 + k * (width - 3))
        if column < 2:
            q = 2 * width + column
            total += ends[2 + column] + one[q] * two[q + step]
        else:
            q = (height - 3) * width + column
            total += ends[column - (width - 2)] + one[q] * two[q + step]
    for k in range(2):  # and the two rows that the window has beside them
        row = k if y < 0 else (height - 2 + k if y > 0 else 1 + k * (height - 3))
        q = row * width + 1 + x
        a, b = one[q:], two[q + step :]
        for p in range(width - 2):
            total += a[p] * b[p]
    return total
