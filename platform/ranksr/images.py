"""Images: files to uint8 HWC RGB and back, to float32 NCHW and back, MATLAB's bicubic and luma, patch grids.

Outside networks an image is a uint8 HWC RGB array; inside networks it is a float32 NCHW RGB tensor in [0, 1].
Only this file converts.
"""

import functools
import struct
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ranksr import SCALE
from ranksr.decoding import decode_photograph as decode_photograph

if TYPE_CHECKING:
    import torch  # scoring workers read images without it: 130 MB and a second less for each


RAW = b"ranksr raw pixel"
"""First bytes of `encode_raw`. As many as come before width and height in a PNG."""


def decode(png: bytes | memoryview) -> np.ndarray:
    """uint8 HWC RGB of what `encode_png` or `encode_raw` made.

    Faster than `decode_photograph`, and as lenient as OpenCV is.
    """
    if bytes(png[: len(RAW)]) == RAW:
        width, height = struct.unpack_from(">II", png, len(RAW))
        return np.frombuffer(png, np.uint8, offset=len(RAW) + 8).reshape(height, width, 3).copy()
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError("the PNG cannot be decoded")
    return image


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 HWC RGB as PNG, the same bytes for the same pixels.

    Run lengths instead of a search for repetitions, which photographs lack: 1.7 times as fast for 3 % more bytes.
    """
    settings = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    assert done
    return data.tobytes()


def encode_raw(image: np.ndarray) -> bytes:
    """uint8 HWC RGB without compression, which spares `decode` the 5 ms of a PNG of 480 px.

    Width and height stand where PNG has them.
    """
    return RAW + struct.pack(">II", image.shape[1], image.shape[0]) + image.tobytes()


def crop_to_multiple(image: np.ndarray, multiple: int = SCALE) -> np.ndarray:
    """Cut the right and lower rest off, so that both sides are multiples. HWC or HW."""
    height, width = image.shape[0] // multiple * multiple, image.shape[1] // multiple * multiple
    if not height or not width:
        raise ValueError(f"the image is {image.shape[1]}x{image.shape[0]} px, under {multiple} px on a side")
    return image[:height, :width]


def shave(image: np.ndarray, border_px: int) -> np.ndarray:
    """Cut `border_px` off every side. HWC or HW."""
    return image[border_px : image.shape[0] - border_px, border_px : image.shape[1] - border_px]


def luma(image: np.ndarray) -> np.ndarray:
    """Y of MATLAB's rgb2ycbcr for uint8: 16..235, rounded. uint8 HWC RGB (or HW, taken for R = G = B) to uint8 HW."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return np.round(_weigh(image, weights) + 16).astype(np.uint8)


def matlab_gray(image: np.ndarray) -> np.ndarray:
    """MATLAB's rgb2gray for uint8, rounded. uint8 HWC RGB (or HW, unchanged) to uint8 HW."""
    if image.ndim == 2:
        return image
    return np.round(_weigh(image, np.array([0.298936021293775, 0.587043074451121, 0.114020904255103]))).astype(np.uint8)


def _weigh(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    pixels = image.astype(np.float64)
    return pixels * weights.sum() if image.ndim == 2 else pixels @ weights


def resize_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """MATLAB's imresize(image, [height width], 'bicubic'): a = -0.5, antialiased when shrinking.

    HWC or HW; uint8 stays uint8 and is rounded after each dimension, as MATLAB does; floating becomes float64.
    The border pixel is repeated outwards: with that the published Set14 LR images come out exactly, while the
    mirrored edges of newer MATLAB releases miss their border rows by up to 12 grey levels.
    """
    if image.ndim == 3:  # one channel after another: a third of the memory, which for large photographs is gigabytes
        return np.stack([resize_bicubic(channel, height, width) for channel in np.moveaxis(image, 2, 0)], axis=2)
    result = image
    scales = (height / image.shape[0], width / image.shape[1])
    for axis in np.argsort(scales, kind="stable"):  # MATLAB begins with the dimension that shrinks most
        indices, weights = _bicubic_taps(image.shape[axis], (height, width)[axis])
        rows = np.moveaxis(result, axis, 0).astype(np.float64)
        total = np.zeros((indices.shape[0], rows.shape[1]))
        for tap in range(indices.shape[1]):
            total += weights[:, tap, None] * rows[indices[:, tap]]
        result = np.moveaxis(total, 0, axis)
        if image.dtype == np.uint8:
            result = _rounded(result)
    return np.ascontiguousarray(result)


def downscale(image: np.ndarray) -> np.ndarray:
    """The LR image of an HR image whose sides are multiples of 4."""
    return resize_bicubic(image, image.shape[0] // SCALE, image.shape[1] // SCALE)


def upscale_bicubic(image: np.ndarray) -> np.ndarray:
    """The `bicubic` method: the LR image, 4 times as large. HWC or HW, uint8 or uint16 as given.

    Computed in floating point and rounded once, as MATLAB does for im2double images: NIQE 7.72 on Set14. Rounding
    after each dimension, as MATLAB does for uint8 images, gives 7.61, the paper's figure; PSNR is 26.09 dB in both.
    """
    height, width = image.shape[0] * SCALE, image.shape[1] * SCALE
    if image.ndim == 3:  # one channel after another, as in `resize_bicubic`
        return np.stack([upscale_bicubic(channel) for channel in np.moveaxis(image, 2, 0)], axis=2)
    return _rounded(resize_bicubic(image.astype(np.float64), height, width), image.dtype)


def _rounded(pixels: np.ndarray, dtype: np.dtype | type = np.uint8) -> np.ndarray:
    return np.floor(np.clip(pixels, 0, np.iinfo(dtype).max) + 0.5).astype(dtype)  # MATLAB rounds halves up


@functools.lru_cache(maxsize=128)
def _bicubic_taps(size: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and weights, both (target, taps), of a 1-D resize."""
    scale = target / size
    stretch = min(scale, 1.0)  # a wider kernel when shrinking is the antialiasing
    centre = (np.arange(target) + 0.5) / scale - 0.5
    first = np.floor(centre - 2 / stretch).astype(int)
    positions = first[:, None] + np.arange(int(np.ceil(4 / stretch)) + 2)
    weights = _cubic(stretch * (centre[:, None] - positions))
    weights /= weights.sum(axis=1, keepdims=True)
    used = weights.any(axis=0)
    return np.clip(positions, 0, size - 1)[:, used], weights[:, used]


def _cubic(x: np.ndarray) -> np.ndarray:
    a = np.abs(x)
    near = 1.5 * a**3 - 2.5 * a**2 + 1
    far = -0.5 * a**3 + 2.5 * a**2 - 4 * a + 2
    return np.where(a <= 1, near, np.where(a <= 2, far, 0.0))


def to_tensor(image: np.ndarray) -> "torch.Tensor":
    """uint8 or uint16 HWC RGB to float32 CHW in [0, 1]."""
    import torch

    full = np.iinfo(image.dtype).max
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)).div_(full)


def to_image(tensor: "torch.Tensor", dtype: np.dtype | type = np.uint8) -> np.ndarray:
    """Float CHW RGB in [0, 1] (clipped) to uint8 or uint16 HWC RGB, rounded."""
    full = np.iinfo(dtype).max
    array = tensor.detach().float().clamp(0, 1).mul(full).round().cpu().numpy().astype(dtype)
    return np.ascontiguousarray(array.transpose(1, 2, 0))


def starts(side_px: int, patch_px: int, stride_px: int, reach_border: bool = True) -> list[int]:
    """Positions where patches begin along one side; empty when the side is shorter than a patch.

    `reach_border` adds a last patch that touches the border where the stride does not end there.
    """
    corners = list(range(0, side_px - patch_px + 1, stride_px))
    if reach_border and corners and corners[-1] != side_px - patch_px:
        corners.append(side_px - patch_px)
    return corners


def mean_local_sigma(gray: np.ndarray, block_px: int = 96) -> float:
    """Mean over whole 96x96 blocks of the local standard deviation, in grey levels (NIQE's 7x7 window, sigma 7/6).

    uint8 HW. The authors' filter for flat locations; the whole image counts as one block when it is smaller.
    """
    pixels = gray.astype(np.float64)
    blur = functools.partial(cv2.GaussianBlur, ksize=(7, 7), sigmaX=7 / 6, borderType=cv2.BORDER_REPLICATE)
    mean = blur(pixels)
    sigma = np.sqrt(np.abs(blur(pixels * pixels) - mean * mean))
    rows, columns = gray.shape[0] // block_px * block_px, gray.shape[1] // block_px * block_px
    return float(sigma[:rows, :columns].mean() if rows and columns else sigma.mean())
