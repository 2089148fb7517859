import itertools

import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.io
import scipy.special
import skimage.data

from ranksr.images import resize_bicubic
from ranksr.metrics.kernels import nearest_ascending, shape_buckets, shape_index, shape_table
from ranksr.metrics.ma.dct import dct_features
from ranksr.metrics.ma.features import _half, _singular_values, ma_features
from ranksr.metrics.ma.gsm import _normalise, gsm_features
from ranksr.metrics.ma.likeness import WORK_FLOATS, across_orientations, across_scales
from ranksr.metrics.ma.moments import moments_of_neighbourhoods
from ranksr.metrics.ma.pyramid import build_pyramid, coarse_shape, double, double_taps, enlarge, make_masks


@pytest.mark.parametrize(("kind", "key"), [("dct", "ma_f1"), ("gsm", "ma_f2"), ("svd", "ma_f3")])
def test_features_equal_those_of_the_matlab_code_to_1e_8(shared, kind, key):
    reference = np.load(shared("metrics/reference.npz"))
    features = [getattr(ma_features(gray), kind) for gray in reference["gray"]]
    np.testing.assert_allclose(features, reference[key], rtol=1e-8)


def _naive_dct_features(plane: np.ndarray) -> list[float]:
    """The definition, block by block."""
    rows, columns = (-(-side // 3) for side in plane.shape)
    padded = np.zeros((3 * rows + 4, 3 * columns + 4))
    padded[2 : 2 + plane.shape[0], 2 : 2 + plane.shape[1]] = plane
    shapes = np.arange(30, 10001) / 1000
    log = scipy.special.gammaln
    ratios = np.exp(log(1 / shapes) + log(3 / shapes) - 2 * log(2 / shapes))
    sectors = np.array([[9, 0, 0, 0, 0, 0, 0], [2, 1, 0, 0, 0, 0, 0], [2, 2, 1, 1, 0, 0, 0], [2, 2, 1, 1, 1, 0, 0]])
    sectors = np.vstack([sectors, [[2, 2, 2, 1, 1, 1, 1], [2, 2, 2, 2, 1, 1, 1], [2, 2, 2, 2, 1, 1, 1]]])
    found = []
    for y, x in itertools.product(range(rows), range(columns)):
        block = scipy.fft.dctn(padded[3 * y : 3 * y + 7, 3 * x : 3 * x + 7], norm="ortho")
        values = block.ravel()[1:]
        ratio = values.var(ddof=1) / (np.abs(values - values.mean()).mean() ** 2 + 1e-7)
        oriented = [np.abs(block[sectors == sector]) for sector in range(3)]
        found.append(
            (
                shapes[np.abs(ratios - ratio).argmin()],
                np.abs(values).std(ddof=1) / (np.abs(values).mean() + 1e-7),
                np.var([part.std(ddof=1) / (part.mean() + 1e-8) for part in oriented], ddof=1),
            )
        )
    shape, variation, orientation = np.sort(found, axis=0).T
    few, last = int(np.ceil(0.1 * len(found))), int(0.9 * len(found)) - 1
    return [
        shape[:few].mean(),
        shape.mean(),
        variation[last:].mean(),
        variation.mean(),
        orientation[last:].mean(),
        orientation.mean(),
    ]


@pytest.mark.parametrize(("height", "width"), [(45, 48), (46, 50), (47, 49), (45, 199)])
def test_dct_features_are_those_of_the_definition_for_any_remainder_of_the_size(height, width):
    plane = skimage.data.camera()[200 : 200 + height, 200 : 200 + width] / 255
    np.testing.assert_allclose(dct_features(plane), _naive_dct_features(plane), rtol=1e-9)


@pytest.mark.parametrize("shape", [(64, 64), (65, 66), (51, 48)])
def test_pyramid_bands_are_the_real_parts_of_one_sided_filters(shape):
    gray = skimage.data.camera()[100 : 100 + shape[0], 150 : 150 + shape[1]]
    rows, columns = coarse_shape(*shape)
    high, fine, coarse = np.empty(shape), np.empty((6, *shape)), np.empty((6, rows, columns))
    build_pyramid(gray, high, fine, coarse, np.empty(2 * shape[0] * (shape[1] // 2 + 1), complex))
    masks = make_masks(*shape)
    spectrum = np.fft.rfft2(gray)
    np.testing.assert_allclose(high, np.fft.irfft2(spectrum * masks.high, s=shape), atol=1e-9)
    for band, mask in zip(fine, masks.fine, strict=True):
        np.testing.assert_allclose(band, np.fft.irfft2(-1j * spectrum * mask, s=shape), atol=1e-9)
    assert np.abs(coarse.mean(axis=(1, 2))).max() < 1e-9


def test_pyramid_power_is_that_of_the_image():
    # The squared transfer functions sum to one, but for the corners' odd part and what is left at low frequencies.
    masks = make_masks(64, 64)
    power = (masks.fine**2).sum(axis=0) + masks.high**2
    ring = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)) * 2
    np.testing.assert_allclose(power[(ring > 0.55) & (ring < 0.95)], 1, atol=1e-3)


@pytest.mark.parametrize("shape", [(64, 64), (63, 64), (63, 61)])
def test_doubling_is_matlabs_imresize_by_two_cut_to_size(shape):
    source = np.random.default_rng(0).normal(size=coarse_shape(*shape))
    out = np.empty(shape)
    double(source, double_taps(), out)
    mirrored = np.pad(source, 8, mode="symmetric")
    whole = resize_bicubic(mirrored, 2 * mirrored.shape[0], 2 * mirrored.shape[1])[16:-16, 16:-16]
    np.testing.assert_allclose(out, whole[: shape[0], : shape[1]], atol=1e-12)


def test_enlarging_is_doubling_where_the_size_doubles_and_close_to_it_where_it_almost_does():
    source = skimage.data.camera()[200:230, 200:233].astype(float)
    doubled = np.empty((60, 66))
    double(source, double_taps(), doubled)
    np.testing.assert_allclose(enlarge(enlarge(source, 60).T, 66).T, doubled, atol=1e-10)
    inner = resize_bicubic(source, 59, 66)[4:-4]
    np.testing.assert_allclose(enlarge(enlarge(source, 59).T, 66).T[4:-4, 4:-4], inner[:, 4:-4], atol=1e-10)


@pytest.mark.parametrize("num_parents", [0, 5])
def test_neighbourhood_moments_are_those_of_the_definition(num_parents):
    rng = np.random.default_rng(0)
    bands, parents = rng.normal(size=(6, 21, 19)), rng.normal(size=(num_parents, 21, 19))
    means, moments = moments_of_neighbourhoods(bands, parents)
    for band in range(6):
        columns = [bands[band, y : y + 19, x : x + 17] for y in range(3) for x in range(3)]
        columns.append(parents[band, 1:-1, 1:-1] if band < num_parents else np.zeros((19, 17)))
        columns += [bands[other, 1:-1, 1:-1] for other in range(6) if other != band]
        matrix = np.stack([column.ravel() for column in columns])
        np.testing.assert_allclose(moments[band], matrix @ matrix.T / matrix.shape[1], atol=1e-12)
        assert means[band] == pytest.approx(bands[band, 1:-1, 1:-1].mean(), abs=1e-13)


@pytest.mark.parametrize("num_parents", [0, 5])
def test_a_coefficient_is_divided_by_the_length_of_its_whitened_neighbourhood(num_parents):
    rng, guard, (height, width) = np.random.default_rng(0), 2, (21, 270)  # wider than what is divided at once
    bands, parents = rng.normal(size=(6, height, width)), rng.normal(size=(num_parents, height, width))
    bands[1:] += 0.7 * bands[:-1]
    normal, _ = _normalise(bands, parents, guard, np.empty(bands.size), np.empty(height * width))
    inside = np.s_[guard : height - 2 - guard, guard : width - 2 - guard]
    for band in range(6):
        columns = [bands[band, y : y + height - 2, x : x + width - 2] for y in range(3) for x in range(3)]
        columns += [parents[band, 1:-1, 1:-1]] if band < num_parents else []
        size = len(columns)
        columns += [bands[other, 1:-1, 1:-1] for other in range(6) if other != band]
        matrix = np.stack([column.ravel() for column in columns])
        covariance = matrix @ matrix.T / matrix.shape[1]
        power = (matrix * np.linalg.solve(covariance, matrix)).sum(axis=0).reshape(columns[4].shape) / size
        expected = (columns[4] - columns[4].mean()) / np.sqrt(power)
        np.testing.assert_allclose(normal[band], expected[inside] - expected[inside].mean(), atol=1e-12)


@pytest.mark.parametrize("shape", [(27, 309), (42, 40), (26, 26)])
def test_likeness_is_the_contrast_structure_term_of_ssim(shape):
    bands = np.random.default_rng(0).normal(size=(4, *shape)) * 9
    bands[1:] += bands[:-1]
    window = cv2.getGaussianKernel(11, 1.5)

    def mean(plane):
        return cv2.sepFilter2D(plane, -1, window, window)[5:-5, 5:-5]

    def likeness(a, b):
        covariance = mean(a * b) - mean(a) * mean(b)
        variances = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
        return ((2 * covariance + 7.65**2) / (variances + 7.65**2)).mean()

    work = np.full(WORK_FLOATS, np.nan)
    expected = [likeness(bands[0], band) for band in bands[1:]]
    np.testing.assert_allclose(across_scales(bands, work), expected, rtol=1e-12)
    expected = [likeness(a, b) for a, b in itertools.combinations(bands, 2)]
    np.testing.assert_allclose(across_orientations(bands, work), expected, rtol=1e-12)


def test_singular_values_survive_an_ill_conditioned_image():
    smooth = cv2.GaussianBlur(skimage.data.camera()[:93, :87] / 255.0, (0, 0), 12)
    rows, columns = 19, 18
    padded = np.zeros((95, 90))
    padded[:93, :87] = smooth
    blocks = padded.reshape(rows, 5, columns, 5).transpose(1, 3, 0, 2).reshape(25, -1)
    expected = np.linalg.svd(blocks, compute_uv=False)
    assert expected[-1] < 1e-4 * expected[0]
    np.testing.assert_allclose(_singular_values(smooth), expected, rtol=1e-8, atol=1e-14 * expected[0])


@pytest.mark.parametrize("shape", [(9, 8), (8, 9), (7, 7)])
def test_halving_filters_with_zeros_outside_and_keeps_every_second_pixel(shape):
    plane = np.random.default_rng(0).random(shape)
    offsets = np.arange(-1, 2)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 0.5)
    expected = cv2.filter2D(plane, -1, window / window.sum(), borderType=cv2.BORDER_CONSTANT)[1::2, 1::2]
    np.testing.assert_allclose(_half(plane), expected, atol=1e-14)


def test_the_bucketed_search_finds_what_a_full_search_finds():
    table, buckets = shape_table()[1], shape_buckets()
    ratios = np.concatenate([np.geomspace(0.1, 1e6, 3000), -table[::7], (-table[:-1:11] - table[1::11]) / 2])
    for ratio in ratios:
        assert shape_index(ratio, table, buckets) == nearest_ascending(table, -ratio)
    assert np.abs(-table - 2.5).argmin() == shape_index(2.5, table, buckets)
    assert shape_index(np.nan, table, buckets) == 0


@pytest.mark.parametrize(
    ("gray", "reason"),
    [
        (np.zeros((100, 100), np.uint8), "constant"),
        (skimage.data.camera()[:44, :300], "under 45"),
        (np.tile(np.arange(100, dtype=np.uint8), (100, 1)), "one-dimensional"),
        (np.add.outer(np.arange(100), np.arange(100)).astype(np.uint8), "one-dimensional"),
        (np.subtract.outer(np.arange(200), np.arange(100)).astype(np.uint8), "one-dimensional"),
    ],
)
def test_features_that_would_be_noise_are_refused_with_a_reason(gray, reason):
    assert reason in ma_features(gray)


def test_a_singular_neighbourhood_has_no_global_features():
    assert gsm_features(np.tile(np.arange(100, dtype=np.uint8), (100, 1))) is None


def test_the_smallest_and_odd_sizes_have_finite_features():
    for height, width in ((84, 84), (97, 85), (101, 130), (64, 190)):
        features = ma_features(skimage.data.camera()[150 : 150 + height, 150 : 150 + width])
        assert np.isfinite(np.concatenate(features)).all()
