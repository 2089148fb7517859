"""The 45 global features of Ma: statistics of divisively normalised pyramid bands and how alike bands are.

Ma et al. 2017, section 3.2 (after DIVINE, Moorthy & Bovik 2011): each coefficient is divided by the strength that a
Gaussian scale mixture gives its neighbourhood of eight neighbours, the parent and the other orientations.
"""

import math

import numpy as np

from ranksr.metrics.kernels import LINE_FLOATS, kernel, scratch, shape_buckets, shape_index, shape_table
from ranksr.metrics.ma.likeness import WORK_FLOATS, across_orientations, across_scales
from ranksr.metrics.ma.moments import NEIGHBOURHOOD, PARENT, moments_of_neighbourhoods, place
from ranksr.metrics.ma.pyramid import NUM_BANDS, build_pyramid, coarse_shape, double, double_taps, enlarge

GUARD_PX = 16
LEAST_PX = 45
"""The smallest side that leaves an 11 px window after 16 px guard bands and a 3x3 neighbourhood."""
SINGULAR = 1e-12
"""Fraction of a neighbour's power that the others leave unexplained, below which it is rounding noise."""
WHITENED = np.array(
    [
        [*(place(orientation, band) for orientation in range(NUM_BANDS)), PARENT, 0, 1, 2, 3, 5, 6, 7, 8]
        for band in range(NUM_BANDS)
    ]
)
"""(6, 15) the order in which each band's neighbourhood is whitened: first the six orientations at the pixel, which all
bands have in common, then the parent and the eight neighbours."""
TILE_PX = 256


def gsm_features(gray: np.ndarray) -> np.ndarray | None:
    """(45,) features of uint8 HW, at least 45 px a side; None where they are rounding noise.

    12 shapes of bands, 6 shapes of both scales' bands together, 12 likenesses of a band with the high-pass rest,
    15 likenesses of two fine bands.
    """
    height, width = gray.shape
    rows, columns = coarse_shape(height, width)
    planes, transforms = height * width, 4 * height * (width // 2 + 1)
    work_floats = max(transforms, -(-WORK_FLOATS // LINE_FLOATS) * LINE_FLOATS)
    buffer = scratch(work_floats + 19 * planes + 12 * rows * columns)
    work, buffer = buffer[:work_floats], buffer[work_floats:]
    bands = buffer[: 19 * planes].reshape(19, height, width)
    high, fine, raised, normal = bands[0], bands[1:7], bands[7:13], bands[13:].reshape(-1)
    coarse, coarse_normal = buffer[19 * planes :].reshape(2, NUM_BANDS, rows, columns)
    build_pyramid(gray, high, fine, coarse, work[:transforms].view(np.complex128))
    for band, out in zip(coarse, raised, strict=True):
        double(band, double_taps(), out)
    # The sixth fine band has no parent, an oversight of the published code; the coarse ones have none.
    fine_normal, fine_moments = _normalise(fine, raised[: NUM_BANDS - 1], GUARD_PX, normal, work)
    _, coarse_moments = _normalise(coarse, raised[:0], GUARD_PX // 2, coarse_normal.reshape(-1), work)
    if fine_moments is None or coarse_moments is None:
        return None
    shapes = [_shape(moment) for moment in (*fine_moments, *coarse_moments, *(fine_moments + coarse_moments))]
    if (height, width) != (2 * rows, 2 * columns):
        for band, out in zip(coarse, raised, strict=True):
            out[:] = enlarge(enlarge(band, height).T, width).T
    return np.concatenate([shapes, across_scales(bands[:13], work), across_orientations(fine_normal, work)])


def _shape(moments: np.ndarray) -> float:
    """Generalised Gaussian shape from count, sum of squares and sum of absolute values of a centred sample."""
    count, squares, absolutes = moments
    shapes, table = shape_table()
    ratio = squares / (count - 1) / ((absolutes / count) ** 2 + 1e-7)
    return float(shapes[shape_index(ratio, table, shape_buckets())])


def _normalise(
    bands: np.ndarray, parents: np.ndarray, guard_px: int, buffer: np.ndarray, work: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Bands divided by their neighbourhood's strength, centred, without a border; and (6, 3) moments of each.

    The moments are None where the neighbourhood is linearly dependent, as in one-dimensional patterns.
    """
    rows, columns = (side - 2 - 2 * guard_px for side in bands.shape[1:])
    normal = buffer[: NUM_BANDS * rows * columns].reshape(NUM_BANDS, rows, columns)
    means, covariance = moments_of_neighbourhoods(bands, parents)
    orphans = np.arange(len(parents), NUM_BANDS)
    covariance[orphans, PARENT, PARENT] = 1
    covariance = covariance[np.arange(NUM_BANDS)[:, None, None], WHITENED[:, :, None], WHITENED[:, None, :]]
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return normal, None
    power = np.diagonal(covariance, axis1=1, axis2=2)
    if (np.diagonal(lower, axis1=1, axis2=2) ** 2 < SINGULAR * power).any():
        return normal, None
    whitening = np.linalg.inv(lower)
    whitening[orphans, NUM_BANDS] = 0
    # Row by row, without the zeros above the diagonal. The first six rows are the same for all bands.
    weights = whitening[:, *np.tril_indices(NEIGHBOURHOOD)]
    common = NUM_BANDS * (NUM_BANDS + 1) // 2
    strength = work[: rows * columns].reshape(rows, columns)
    _add_orientations(bands, tuple(weights[0, :common].tolist()), guard_px, strength)
    moments = np.empty((NUM_BANDS, 3))
    for band in range(NUM_BANDS):
        size = PARENT + (band < len(parents))
        rest = tuple(weights[band, common:].tolist())
        _divide(bands, parents, band, rest, means[band], math.sqrt(size), guard_px, strength, normal[band])
        _centre(normal[band], moments[band])
    return normal, moments if np.isfinite(moments).all() else None


@kernel
def _add_orientations(bands, w, guard, out):
    """Squared length of the six whitened orientations at each pixel inside the guard band."""
    left = guard + 1
    for row in range(out.shape[0]):
        y = row + left
        first, second, third = bands[0, y, left:], bands[1, y, left:], bands[2, y, left:]
        fourth, fifth, sixth = bands[3, y, left:], bands[4, y, left:], bands[5, y, left:]
        line = out[row]
        for x in range(line.size):
            a, b, c, d, e, f = first[x], second[x], third[x], fourth[x], fifth[x], sixth[x]
            r = w[0] * a
            s = w[1] * a + w[2] * b
            t = w[3] * a + w[4] * b + w[5] * c
            u = w[6] * a + w[7] * b + w[8] * c + w[9] * d
            v = w[10] * a + w[11] * b + w[12] * c + w[13] * d + w[14] * e
            z = w[15] * a + w[16] * b + w[17] * c + w[18] * d + w[19] * e + w[20] * f
            line[x] = r * r + s * s + t * t + u * u + v * v + z * z


@kernel
def _divide(bands, parents, band, w, mean, scale, guard, strength, normal):
    """(coefficient - mean) / length of its whitened neighbourhood, times `scale`, inside the guard band.

    `strength` has the squared length of the first six, `w` the other rows of the whitening, of 7 to 15 weights. They
    are a tuple: numbers in an array would be loaded anew for each pixel, since they might lie in what is written.
    """
    left = guard + 1
    # The orientations lie at a constant pitch: LLVM compares at most eight places that are read with what is written.
    near, none = np.empty(NUM_BANDS * TILE_PX), np.zeros(TILE_PX)
    for row in range(normal.shape[0]):
        y = row + left
        for start in range(0, normal.shape[1], TILE_PX):
            x, count = start + left, min(TILE_PX, normal.shape[1] - start)
            for k in range(NUM_BANDS):
                _copy(bands[k, y, x : x + count], near[k * TILE_PX :])
            parent = parents[band, y, x:] if band < parents.shape[0] else none
            above, here, below = bands[band, y - 1, x - 1 :], bands[band, y, x - 1 :], bands[band, y + 1, x - 1 :]
            known, out = strength[row, start:], normal[row, start:]
            for x in range(count):
                a, b, c = near[x], near[x + TILE_PX], near[x + 2 * TILE_PX]
                d, e, f = near[x + 3 * TILE_PX], near[x + 4 * TILE_PX], near[x + 5 * TILE_PX]
                g, h, i, j, k = parent[x], above[x], above[x + 1], above[x + 2], here[x]
                m, n, o, p = here[x + 2], below[x], below[x + 1], below[x + 2]
                s = w[0] * a + w[1] * b + w[2] * c + w[3] * d + w[4] * e + w[5] * f + w[6] * g
                power = known[x] + s * s
                s = w[7] * a + w[8] * b + w[9] * c + w[10] * d + w[11] * e + w[12] * f + w[13] * g + w[14] * h
                power += s * s
                s = w[15] * a + w[16] * b + w[17] * c + w[18] * d + w[19] * e + w[20] * f + w[21] * g + w[22] * h
                s += w[23] * i
                power += s * s
                s = w[24] * a + w[25] * b + w[26] * c + w[27] * d + w[28] * e + w[29] * f + w[30] * g + w[31] * h
                s += w[32] * i + w[33] * j
                power += s * s
                s = w[34] * a + w[35] * b + w[36] * c + w[37] * d + w[38] * e + w[39] * f + w[40] * g + w[41] * h
                s += w[42] * i + w[43] * j + w[44] * k
                power += s * s
                s = w[45] * a + w[46] * b + w[47] * c + w[48] * d + w[49] * e + w[50] * f + w[51] * g + w[52] * h
                s += w[53] * i + w[54] * j + w[55] * k + w[56] * m
                power += s * s
                s = w[57] * a + w[58] * b + w[59] * c + w[60] * d + w[61] * e + w[62] * f + w[63] * g + w[64] * h
                s += w[65] * i + w[66] * j + w[67] * k + w[68] * m + w[69] * n
                power += s * s
                s = w[70] * a + w[71] * b + w[72] * c + w[73] * d + w[74] * e + w[75] * f + w[76] * g + w[77] * h
                s += w[78] * i + w[79] * j + w[80] * k + w[81] * m + w[82] * n + w[83] * o
                power += s * s
                s = w[84] * a + w[85] * b + w[86] * c + w[87] * d + w[88] * e + w[89] * f + w[90] * g + w[91] * h
                s += w[92] * i + w[93] * j + w[94] * k + w[95] * m + w[96] * n + w[97] * o + w[98] * p
                power += s * s
                out[x] = (here[x + 1] - mean) * scale / math.sqrt(power)


@kernel
def _copy(source, target):
    # Not a slice assignment, whose checks cost more than copying a row.
    for x in range(source.size):
        target[x] = source[x]


@kernel
def _centre(plane, moments):
    """Subtract the mean in place; write count, sum of squares, sum of absolute values."""
    mean = 0.0
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            mean += plane[y, x]
    mean /= plane.size
    squares = absolutes = 0.0
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            value = plane[y, x] - mean
            plane[y, x] = value
            squares += value * value
            absolutes += abs(value)
    moments[0], moments[1], moments[2] = plane.size, squares, absolutes
