import numpy as np
import pytest
import skimage.data
import skimage.metrics

from ranksr.errors import UserError
from ranksr.images import luma
from ranksr.metrics.fidelity import psnr, ssim


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    hr = skimage.data.astronaut()[100:228, 100:260]
    noise = np.random.default_rng(0).normal(0, 12, hr.shape)
    return np.clip(hr + noise, 0, 255).astype(np.uint8), hr


def test_psnr_is_that_of_the_rounded_luma_without_its_border(pair):
    sr, hr = (luma(image)[4:-4, 4:-4] for image in pair)
    assert psnr(*pair) == pytest.approx(skimage.metrics.peak_signal_noise_ratio(hr, sr), abs=1e-12)


def test_psnr_of_a_difference_of_one_grey_level_is_known():
    hr = np.full((32, 32), 100, np.uint8)
    assert psnr(hr + 1, hr) == pytest.approx(20 * np.log10(255))
    assert psnr(hr, hr) == np.inf


def test_ssim_equals_scikit_image_with_the_settings_of_wang_2004(pair):
    sr, hr = (luma(image)[4:-4, 4:-4] for image in pair)
    expected = skimage.metrics.structural_similarity(
        hr, sr, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    # scikit-image pads and then crops 5 px: the same valid region.
    assert ssim(*pair) == pytest.approx(expected, abs=1e-9)
    assert ssim(pair[0], pair[0]) == pytest.approx(1)


def test_images_of_unequal_or_too_small_size_are_refused(pair):
    with pytest.raises(UserError, match="same size"):
        psnr(pair[0][1:], pair[1])
    with pytest.raises(UserError, match="too small"):
        ssim(pair[0][:18], pair[1][:18])
