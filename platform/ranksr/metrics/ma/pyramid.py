"""The steerable pyramid under Ma's global features: two scales of six real oriented bands and a high-pass rest.

Simoncelli & Freeman 1995 in the Fourier domain, with the sampled (1/256 octave, pi/1024) and linearly interpolated
transfer functions of matlabPyrTools, which decide the result from the sixth digit on.
"""

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from ranksr.metrics.kernels import kernel

NUM_BANDS = 6
CACHED_PIXELS = 2**19
"""Masks of larger images are not kept: they would fill a worker's memory."""


class Masks(NamedTuple):
    """Real transfer functions on the half plane of `rfft2`: high-pass, and six bands of each scale."""

    high: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray


def coarse_shape(height: int, width: int) -> tuple[int, int]:
    """Size of the second scale."""
    return (height + 1) // 2, (width + 1) // 2


def build_pyramid(gray: np.ndarray, high: np.ndarray, fine: np.ndarray, coarse: np.ndarray, work: np.ndarray) -> None:
    """Write the bands of uint8 HW into `high` (H, W), `fine` (6, H, W) and `coarse` (6, H/2, W/2, rounded up).

    `work` is complex128 of at least 2 * H * (W // 2 + 1).
    """
    height, width = gray.shape
    masks = _cached_masks(height, width) if gray.size <= CACHED_PIXELS else _turned_masks(height, width)
    spectrum = np.ascontiguousarray(np.fft.rfft2(gray).T)
    _inverse(spectrum, masks.high, high, work)
    # Bands are odd in space: the transfer functions are (-i)^5 times real, odd ones.
    spectrum *= -1j
    for mask, band in zip(masks.fine, fine, strict=True):
        _inverse(spectrum, mask, band, work)
    rows, columns = coarse_shape(height, width)
    low = np.concatenate([spectrum[:, : rows - rows // 2], spectrum[:, height - rows // 2 :]], axis=1)
    low = low[: columns // 2 + 1]
    for mask, band in zip(masks.coarse, coarse, strict=True):
        _inverse(low, mask, band, work)


def _inverse(spectrum: np.ndarray, mask: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
    """Write the inverse real transform of `spectrum * mask` into `out` without asking for fresh memory.

    Both have a row for each column of the half plane, so that OpenCV, which is twice as fast as numpy, can transform
    rows only. It takes the square of the time for sizes with large primes: there numpy does it.
    """
    columns, height = spectrum.shape
    width = out.shape[1]
    first, second = work[: spectrum.size], work[spectrum.size : 2 * spectrum.size]
    np.multiply(spectrum, mask, out=first.reshape(columns, height))
    if all(cv2.getOptimalDFTSize(side) == side for side in (height, width)):
        pairs, done = (part.view(np.float64).reshape(columns, height, 2) for part in (first, second))
        cv2.dft(pairs, done, cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_ROWS)
        np.copyto(first.reshape(height, columns), second.reshape(columns, height).T)
        # A row of OpenCV's is that of numpy without the imaginary parts of the constant and of Nyquist.
        packed = first.view(np.float64).reshape(height, 2 * columns)
        packed[:, 1] = packed[:, 0]
        flags = cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_ROWS | cv2.DFT_REAL_OUTPUT
        cv2.dft(packed[:, 1 : width + 1], out, flags)
    else:
        np.fft.ifft(first.reshape(columns, height), axis=1, out=second.reshape(columns, height))
        np.copyto(first.reshape(height, columns), second.reshape(columns, height).T)
        np.fft.irfft(first.reshape(height, columns), n=width, axis=1, out=out)


@functools.lru_cache(maxsize=4)
def _cached_masks(height: int, width: int) -> Masks:
    return _turned_masks(height, width)


def _turned_masks(height: int, width: int) -> Masks:
    """Columns first."""
    return Masks(*(np.ascontiguousarray(np.swapaxes(mask, -1, -2)) for mask in make_masks(height, width)))


def make_masks(height: int, width: int) -> Masks:
    """Transfer functions for images of one size."""
    x, y = (_frequencies(side) for side in (width, height))
    angle = np.arctan2(y[:, None], x)
    radius = np.hypot(y[:, None], x)
    radius[height // 2, width // 2] = radius[height // 2, width // 2 - 1]
    octave = np.log2(radius)
    low = _low_pass(octave)
    fine = _half_plane(_odd(low * _high_pass(octave + 1) * _angular(angle)))
    rows, columns = coarse_shape(height, width)
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    window = np.s_[top : top + rows, left : left + columns]
    octave, angle = octave[window], angle[window]
    low = low[window] * _low_pass(octave + 1)
    coarse = _half_plane(_odd(low * _high_pass(octave + 2) * _angular(angle)))
    return Masks(_half_plane(_high_pass(np.log2(radius))), fine, coarse)


def _frequencies(side: int) -> np.ndarray:
    """Centred frequencies, 1 at Nyquist."""
    return (np.arange(side) - side // 2) / (side / 2)


def _half_plane(centred: np.ndarray) -> np.ndarray:
    """Reorder from centred to rfft2's layout."""
    shifted = np.fft.ifftshift(centred, axes=(-2, -1))
    return np.ascontiguousarray(shifted[..., : centred.shape[-1] // 2 + 1])


def _odd(centred: np.ndarray) -> np.ndarray:
    """The odd part of (bands, rows, columns): all that survives in the real part of the inverse transform."""
    mirrored = np.fft.ifftshift(centred, axes=(-2, -1))
    mirrored = np.roll(mirrored[..., ::-1, ::-1], (1, 1), axis=(-2, -1))
    return (centred - np.fft.fftshift(mirrored, axes=(-2, -1))) / 2


@functools.cache
def _radial() -> tuple[np.ndarray, np.ndarray]:
    """Samples of the raised cosine over the octave -1..0, the ends repeated: octave and amplitude."""
    phase = np.pi * np.arange(-257, 2) / 512
    power = np.cos(phase) ** 2
    power[0], power[-1] = power[1], power[-2]
    return -0.5 + 2 / np.pi * (phase + np.pi / 4), np.sqrt(power)


def _high_pass(octave: np.ndarray) -> np.ndarray:
    return np.interp(octave, *_radial())


def _low_pass(octave: np.ndarray) -> np.ndarray:
    position, high = _radial()
    return np.interp(octave, position, np.sqrt(1 - high**2))


def _angular(angle: np.ndarray) -> np.ndarray:
    """cos^5 around each of six directions, with unit power in sum: (6, rows, columns)."""
    phase = np.pi * np.arange(-2049, 1026) / 1024
    order = NUM_BANDS - 1
    scale = math.sqrt(2 ** (2 * order) * math.factorial(order) ** 2 / (NUM_BANDS * math.factorial(2 * order)))
    samples = scale * np.cos(phase) ** order
    return np.stack([np.interp(angle, phase + np.pi * band / NUM_BANDS, samples) for band in range(NUM_BANDS)])


def enlarge(source: np.ndarray, rows: int) -> np.ndarray:
    """MATLAB's bicubic imresize of (n, columns) to more rows, symmetric border: for sizes that are not doubled."""
    size = source.shape[0]
    centre = (np.arange(rows) + 0.5) * size / rows - 0.5
    out = np.zeros((rows, source.shape[1]))
    for tap in range(-1, 3):
        position = np.floor(centre).astype(int) + tap
        distance = np.abs(centre - position)
        inner = 1.5 * distance**3 - 2.5 * distance**2 + 1
        outer = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        mirrored = np.where(position < 0, -1 - position, np.minimum(position, 2 * size - 1 - position))
        out += np.where(distance <= 1, inner, outer)[:, None] * source[mirrored]
    return out


@functools.cache
def double_taps() -> np.ndarray:
    """MATLAB's bicubic weights at distances 1.75, 0.75, 0.25 and 1.25."""
    near, far = np.array([0.75, 0.25]), np.array([1.75, 1.25])
    inner = 1.5 * near**3 - 2.5 * near**2 + 1
    outer = -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2
    return np.array([outer[0], inner[0], inner[1], outer[1]])


@kernel
def double(source, taps, out):
    """MATLAB's imresize(source, 2), symmetric border, cut to the size of `out`."""
    height, width = source.shape
    line = np.empty(width + 4)
    for y in range(out.shape[0]):
        middle, step = y // 2, 1 if y % 2 else -1
        line[:] = 0.0
        for k in range(4):
            # Outwards from the far side: an even row leans to the row above, an odd one to the row below.
            row = middle + step * (2 - k)
            row = -1 - row if row < 0 else (2 * height - 1 - row if row >= height else row)
            origin, weight = source[row], taps[k]
            for x in range(width):
                line[x + 2] += weight * origin[x]
        line[1], line[0] = line[2], line[3]
        line[width + 2], line[width + 3] = line[width + 1], line[width]
        for x in range(out.shape[1] // 2):
            inner = taps[1] * line[x + 1] + taps[2] * line[x + 2]
            out[y, 2 * x] = taps[0] * line[x] + inner + taps[3] * line[x + 3]
            inner = taps[1] * line[x + 3] + taps[2] * line[x + 2]
            out[y, 2 * x + 1] = taps[0] * line[x + 4] + inner + taps[3] * line[x + 1]
        if out.shape[1] % 2:
            x = width - 1
            inner = taps[1] * line[x + 1] + taps[2] * line[x + 2]
            out[y, 2 * x] = taps[0] * line[x] + inner + taps[3] * line[x + 3]
