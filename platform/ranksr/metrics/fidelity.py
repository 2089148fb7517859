"""PSNR and SSIM of an SR image against its HR image, on luma, as super-resolution papers report them."""

import numpy as np

from ranksr.errors import UserError
from ranksr.images import luma, shave
from ranksr.metrics.profiles import SHAVE_PX

SSIM_SIZE_PX, SSIM_SIGMA_PX = 11, 1.5


def psnr(sr: np.ndarray, hr: np.ndarray, shave_px: int = SHAVE_PX) -> float:
    """Peak signal-to-noise ratio in dB on MATLAB's rounded Y. uint8 HWC RGB; infinite for identical images."""
    a, b = _planes(sr, hr, shave_px, 1)
    error = np.mean((a - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(sr: np.ndarray, hr: np.ndarray, shave_px: int = SHAVE_PX) -> float:
    """Structural similarity on MATLAB's rounded Y, mean over the valid region. uint8 HWC RGB.

    Wang et al. 2004, ssim_index.m: 11x11 Gaussian window of sigma 1.5, K = 0.01 and 0.03, L = 255.
    """
    from skimage.metrics import structural_similarity  # only here: most processes score without it

    a, b = _planes(sr, hr, shave_px, SSIM_SIZE_PX)
    window = {"gaussian_weights": True, "sigma": SSIM_SIGMA_PX, "use_sample_covariance": False}
    return float(structural_similarity(a, b, data_range=255, **window))


def _planes(sr: np.ndarray, hr: np.ndarray, shave_px: int, least_px: int) -> list[np.ndarray]:
    if sr.shape != hr.shape:
        raise UserError(f"the image is {sr.shape}, its reference {hr.shape}: both must have the same size")
    if min(sr.shape[:2]) < 2 * shave_px + least_px:
        raise UserError(f"image of {sr.shape[1]}x{sr.shape[0]} px is too small with {shave_px} px shaved")
    return [shave(luma(image) if image.ndim == 3 else image, shave_px).astype(np.float64) for image in (sr, hr)]
