"""NIQE: distance of an image's local statistics from those of pristine photographs (Mittal et al. 2013).

Exact to the published MATLAB code but for a noise floor: in flat regions `pixel - local mean` is rounding noise, and
the asymmetric Gaussian averages over negative or positive values only, so that the noise would decide the score.
"""

import functools
import io
import math
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from ranksr import storage
from ranksr.errors import UserError
from ranksr.metrics.kernels import kernel, nearest_ascending, scratch
from ranksr.metrics.matfile import read_matfile
from ranksr.metrics.profiles import SHAVE_PX
from ranksr.metrics.scores import FITTED, Score, unscorable, why_no_statistics

PUBLISHED = pathlib.Path(__file__).with_name("niqe_pristine.npz")
"""The authors' pristine model, niqe_modelparameters.mat: its numbers, as the wheel of iqa-torch 1.2.1 (Apache-2.0)
carries them in iqa/niqe/niqe_pris_params.npz."""
BLOCK_PX = 96
NUM_FEATURES = 36
SHARP_FRACTION = 0.75
"""Blocks sharper than this fraction of an image's sharpest block are pristine (paper, section III-C)."""
REMEDY = "give niqe_modelparameters.mat, a fitted .npz, `published` or `fit`"


class NiqeModel(NamedTuple):
    """The pristine Gaussian: `mean` (36,), `covariance` (36, 36), and where it is from."""

    mean: np.ndarray
    covariance: np.ndarray
    provenance: str


def niqe_score(gray: np.ndarray, model: NiqeModel) -> Score:
    """NIQE of uint8 HW, lower is better; NaN and a reason where it does not exist."""
    height, width = gray.shape
    if (height // BLOCK_PX) * (width // BLOCK_PX) < 2:
        return unscorable(f"{width}x{height} px hold fewer than two {BLOCK_PX}x{BLOCK_PX} blocks")
    if reason := why_no_statistics(gray):
        return unscorable(reason)
    features, _ = niqe_features(gray)
    complete = features[~np.isnan(features).any(axis=1)]
    if len(complete) < 2:
        return unscorable("fewer than two blocks with texture")
    # As nanmean and nancov do: the mean takes every value there is, the covariance only complete rows.
    mean = np.nanmean(features, axis=0)
    centred = complete - complete.mean(axis=0)
    covariance = (model.covariance + centred.T @ centred / (len(complete) - 1)) / 2
    square = mahalanobis_square(covariance, model.mean - mean)
    if math.isnan(square):
        difference = model.mean - mean
        square = max(float(difference @ np.linalg.pinv(covariance, rcond=8e-15) @ difference), 0.0)
    value = math.sqrt(square)
    return Score(value) if math.isfinite(value) else unscorable("the statistics are not finite")


def niqe_features(gray: np.ndarray, stride_px: int = BLOCK_PX) -> tuple[np.ndarray, np.ndarray]:
    """Features (blocks, 36) and sharpness (blocks,) in grey levels of uint8 HW; NaN marks blocks without texture."""
    rows, columns = (side // BLOCK_PX * BLOCK_PX for side in gray.shape)
    taps, half_taps = _taps()
    whole_blocks = np.ascontiguousarray(gray[:rows, :columns])
    return _features(whole_blocks, stride_px, taps, half_taps, *_shape_table(), scratch(3 * rows * columns))


def load_niqe_model(source: str) -> NiqeModel:
    """The model of a published .mat (`mu_prisparam`, `cov_prisparam`) or fitted .npz file, or `published`,
    which comes with ranksr.

    `source` may be s3://... Raises UserError for other files.
    """
    if source == "published":
        return _parse(PUBLISHED.read_bytes(), str(PUBLISHED))
    try:
        return _parse(storage.read_bytes(str(source)), str(source))
    except OSError as error:
        raise UserError(f"NIQE model {source} cannot be read ({error}): {REMEDY}") from error


def _parse(data: bytes, name: str) -> NiqeModel:
    try:
        if data.startswith(b"PK"):
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                fields = {key: stored[key] for key in ("mean", "covariance", "provenance")}
        else:
            stored = read_matfile(data, ("mu_prisparam", "cov_prisparam"))
            provenance = f"file {pathlib.PurePath(name).name}"
            fields = {"mean": stored["mu_prisparam"], "covariance": stored["cov_prisparam"], "provenance": provenance}
    except Exception as error:  # a damaged file can fail anywhere in the readers of zip and zlib
        raise UserError(f"NIQE model {name} cannot be read ({type(error).__name__}: {error}): {REMEDY}") from error
    return _validated(fields, f"NIQE model {name}", REMEDY)


def _validated(fields: dict[str, Any], what: str, remedy: str) -> NiqeModel:
    mean, covariance = (np.asarray(fields[key]) for key in ("mean", "covariance"))
    if mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        raise UserError(f"{what} holds {mean.dtype} and {covariance.dtype}, not floating point: {remedy}")
    if mean.size != NUM_FEATURES or covariance.shape != (NUM_FEATURES, NUM_FEATURES):
        raise UserError(f"{what} has shapes {mean.shape} and {covariance.shape}, not (36,) and (36, 36): {remedy}")
    mean, covariance = mean.astype(np.float64).reshape(-1), np.ascontiguousarray(covariance, np.float64)
    symmetric = np.allclose(covariance, covariance.T, rtol=1e-6)
    if not (
        np.isfinite(mean).all() and np.isfinite(covariance).all() and symmetric and (covariance.diagonal() >= 0).all()
    ):
        raise UserError(f"{what} is no Gaussian (not finite, or no covariance): {remedy}")
    return NiqeModel(mean, covariance, str(fields["provenance"]))


def save_niqe_model(model: NiqeModel, path: str) -> None:
    """Write the .npz that `load_niqe_model` reads, whole or not at all, to a local path or s3://..."""
    out = io.BytesIO()
    np.savez(out, mean=model.mean, covariance=model.covariance, provenance=np.array(model.provenance))
    storage.write_bytes(str(path), out.getbuffer())


def smallest_niqe_px(profile: str) -> int:
    """Side of the smallest square image that has a NIQE: two blocks each way, and what the profile shaves off."""
    return 2 * BLOCK_PX + (2 * SHAVE_PX if profile == "pirm" else 0)


def fit_niqe_model(images: Iterable[np.ndarray]) -> NiqeModel:
    """The pristine Gaussian of `images` (uint8 HW photographs): blocks sharper than 0.75 of their image's sharpest.

    The paper's grid does not overlap. With few photographs it gives fewer blocks than a 36-dimensional Gaussian
    needs; then blocks overlap (as the MATLAB code's `blockrowoverlap` allows). Raises UserError if that is not enough.
    """
    planes = list(images)
    for stride_px in (BLOCK_PX, BLOCK_PX // 2, BLOCK_PX // 4):
        rows = [block for plane in planes for block in _pristine_blocks(plane, stride_px)]
        if len(rows) >= 4 * NUM_FEATURES:
            break
    if len(rows) <= NUM_FEATURES:
        raise UserError(
            f"{len(rows)} sharp {BLOCK_PX}x{BLOCK_PX} blocks in {len(planes)} images are too few to fit NIQE "
            f"(at least {NUM_FEATURES + 1}): give more or larger photographs, or model: published"
        )
    features = np.stack(rows)
    return NiqeModel(features.mean(axis=0), np.cov(features, rowvar=False), f"{FITTED} ({len(rows)} blocks)")


def _pristine_blocks(gray: np.ndarray, stride_px: int) -> np.ndarray:
    if min(gray.shape) < BLOCK_PX:
        return np.empty((0, NUM_FEATURES))
    features, sharpness = niqe_features(gray, stride_px)
    return features[(sharpness > SHARP_FRACTION * sharpness.max()) & ~np.isnan(features).any(axis=1)]


@functools.cache
def _taps() -> tuple[np.ndarray, np.ndarray]:
    """Half of a 7-tap Gaussian of sigma 7/6, centre first; half of MATLAB's antialiased bicubic for scale 0.5."""
    gaussian = np.exp(-(np.arange(4) ** 2) / (2 * (7 / 6) ** 2))
    distance = np.array([0.25, 0.75, 1.25, 1.75])
    bicubic = np.where(
        distance <= 1,
        1.5 * distance**3 - 2.5 * distance**2 + 1,
        -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2,
    )
    return gaussian / (2 * gaussian.sum() - gaussian[0]), bicubic / (2 * bicubic.sum())


@functools.cache
def _shape_table() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Table over alpha = 0.2, 0.201 .. 10: alpha, the moment ratio, sqrt(G(1/a) / G(3/a)) and G(2/a) / G(1/a)."""
    alpha = 0.2 + 0.001 * np.arange(9801)
    first, second, third = (scipy.special.gammaln(k / alpha) for k in (1, 2, 3))
    return alpha, np.exp(2 * second - first - third), np.exp((first - third) / 2), np.exp(second - first)


@kernel
def _features(gray, stride, taps, half_taps, alpha, ratio, spread, centre, buffer):
    """Both scales of every block. `gray` is uint8 with sides that are multiples of 96; buffer holds 3 planes."""
    height, width = gray.shape
    buffer = buffer.reshape((3, height, width))
    plane, normal, sigma = buffer[0], buffer[1], buffer[2]
    rows, columns = (height - BLOCK_PX) // stride + 1, (width - BLOCK_PX) // stride + 1
    features = np.empty((rows * columns, NUM_FEATURES))
    sharpness = np.zeros(rows * columns)
    for y in range(height):
        for x in range(width):
            plane[y, x] = gray[y, x]
    for scale in range(2):
        block, step = BLOCK_PX >> scale, stride >> scale
        ring = np.empty((block + 2, block + 2))
        _normalise(plane, taps, normal, sigma)
        for index in range(rows * columns):
            y, x = index // columns * step, index % columns * step
            _wrap(normal, y, x, block, ring)
            _block_features(ring, alpha, ratio, spread, centre, features[index, 18 * scale : 18 * scale + 18])
            if scale == 0:
                sharpness[index] = _block_mean(sigma, y, x, block)
        if scale == 0:
            half = (height // 2, width // 2)
            size = half[0] * half[1]
            smaller = buffer[2].reshape(-1)[:size].reshape(half)
            _half(plane, half_taps, smaller)
            plane, normal = smaller, buffer[1].reshape(-1)[:size].reshape(half)
            sigma = buffer[0].reshape(-1)[:size].reshape(half)
    return features, sharpness


@kernel
def _block_mean(plane, top, left, size):
    total = 0.0
    for y in range(top, top + size):
        line = plane[y]
        for x in range(left, left + size):
            total += line[x]
    return total / (size * size)


@kernel
def _wrap(plane, top, left, size, ring):
    """Copy a block into the middle of `ring` and continue it periodically by one pixel."""
    for y in range(size + 2):
        source = plane[top + (y - 1) % size]
        for x in range(size):
            ring[y, x + 1] = source[left + x]
        ring[y, 0], ring[y, size + 1] = ring[y, size], ring[y, 1]


@kernel
def _normalise(plane, taps, normal, sigma):
    """(plane - mean) / (sigma + 1) with a separable 7x7 Gaussian, replicated border and the noise floor."""
    height, width = plane.shape
    first, second = np.empty(width + 6), np.empty(width + 6)
    w0, w1, w2, w3 = taps[0], taps[1], taps[2], taps[3]
    for y in range(height):
        a, b, c = plane[max(y - 3, 0)], plane[max(y - 2, 0)], plane[max(y - 1, 0)]
        d = plane[y]
        e, f, g = plane[min(y + 1, height - 1)], plane[min(y + 2, height - 1)], plane[min(y + 3, height - 1)]
        inner, inner_square = first[3 : 3 + width], second[3 : 3 + width]
        for x in range(width):
            inner[x] = w0 * d[x] + w1 * (c[x] + e[x]) + w2 * (b[x] + f[x]) + w3 * (a[x] + g[x])
        for x in range(width):  # of its own, to keep overlap checks few; no gain measured
            outer = w2 * (b[x] * b[x] + f[x] * f[x]) + w3 * (a[x] * a[x] + g[x] * g[x])
            inner_square[x] = w0 * d[x] * d[x] + w1 * (c[x] * c[x] + e[x] * e[x]) + outer
        for x in range(3):
            first[x], second[x] = inner[0], inner_square[0]
            first[width + 3 + x], second[width + 3 + x] = inner[width - 1], inner_square[width - 1]
        for x in range(width):
            mean = w0 * first[x + 3] + w1 * (first[x + 2] + first[x + 4])
            mean += w2 * (first[x + 1] + first[x + 5]) + w3 * (first[x] + first[x + 6])
            square = w0 * second[x + 3] + w1 * (second[x + 2] + second[x + 4])
            square += w2 * (second[x + 1] + second[x + 5]) + w3 * (second[x] + second[x + 6])
            deviation = math.sqrt(abs(square - mean * mean))
            difference = d[x] - mean
            sigma[y, x] = deviation
            normal[y, x] = 0.0 if abs(difference) < 1e-9 else difference / (deviation + 1.0)


@kernel
def _half(plane, taps, out):
    """MATLAB's imresize(plane, 0.5): 8 bicubic taps, symmetric border. Even sides."""
    height, width = plane.shape
    line = np.empty(width + 6)
    for y in range(height // 2):
        line[:] = 0.0
        for k in range(4):
            above, below = 2 * y - k, 2 * y + 1 + k
            above, below = (above if above >= 0 else -1 - above), (below if below < height else 2 * height - 1 - below)
            upper, lower, weight = plane[above], plane[below], taps[k]
            for x in range(width):
                line[x + 3] += weight * (upper[x] + lower[x])
        for k in range(3):
            line[2 - k], line[width + 3 + k] = line[3 + k], line[width + 2 - k]
        for x in range(width // 2):
            near = taps[0] * (line[2 * x + 3] + line[2 * x + 4]) + taps[1] * (line[2 * x + 2] + line[2 * x + 5])
            far = taps[2] * (line[2 * x + 1] + line[2 * x + 6]) + taps[3] * (line[2 * x] + line[2 * x + 7])
            out[y, x] = near + far
    return out


@kernel
def _block_features(ring, alpha, ratio, spread, centre, out):
    """18 features: shape and spread of the block, then of its products with four neighbours (circular)."""
    index, left, right = _fit(ring, -1, -1, ratio)
    out[0], out[1] = alpha[index], (left + right) / 2 * spread[index]
    for k in range(4):
        # Left, upper and both upper diagonal neighbours: MATLAB's circshift by [0 1], [1 0], [1 1], [1 -1].
        index, left, right = _fit(ring, (1, 0, 0, 0)[k], (0, 1, 0, 2)[k], ratio)
        left, right = left * spread[index], right * spread[index]
        out[2 + 4 * k], out[3 + 4 * k] = alpha[index], (right - left) * centre[index]
        out[4 + 4 * k], out[5 + 4 * k] = left, right


@kernel
def _fit(ring, top, left, ratio):
    """Asymmetric generalised Gaussian of the block, or (top >= 0) of its product with the ring's view at (top, left).

    Index of the shape, root mean square of the negative and of the positive values.
    """
    size = ring.shape[0] - 2
    num_left = num_right = sum_left = sum_right = sum_abs = 0.0
    line = np.ones(size)
    for y in range(size):
        here = ring[y + 1]
        if top >= 0:
            there = ring[y + top]
            for x in range(size):
                line[x] = there[x + left]
        for x in range(size):
            value = here[x + 1] * line[x]
            square = value * value
            num_left += 1.0 if value < 0 else 0.0
            num_right += 1.0 if value > 0 else 0.0
            sum_left += square if value < 0 else 0.0
            sum_right += square if value > 0 else 0.0
            sum_abs += abs(value)
    left, right = math.sqrt(sum_left / num_left), math.sqrt(sum_right / num_right)
    skew = left / right
    moment = (sum_abs / (size * size)) ** 2 / ((sum_left + sum_right) / (size * size))
    norm = moment * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    return nearest_ascending(ratio, norm), left, right


@kernel
def mahalanobis_square(covariance, difference):
    """difference' covariance^-1 difference by Cholesky; NaN when the covariance is (nearly) singular."""
    size = difference.size
    lower, solved = np.zeros((size, size)), np.empty(size)
    total = 0.0
    for i in range(size):
        for j in range(i + 1):
            value = covariance[i, j]
            for k in range(j):
                value -= lower[i, k] * lower[j, k]
            if i > j:
                lower[i, j] = value / lower[j, j]
            elif value <= 1e-11 * covariance[i, i]:
                return np.nan
            else:
                lower[i, i] = math.sqrt(value)
        value = difference[i]
        for k in range(i):
            value -= lower[i, k] * solved[k]
        solved[i] = value / lower[i, i]
        total += solved[i] * solved[i]
    return total
