"""Images: decoding, MATLAB's bicubic against MATLAB's own output, luma, grids."""

import io
import pathlib
from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from ranksr import images, metrics
from ranksr.metrics import load_models, score_batch

Shared = Callable[[str], pathlib.Path]


def test_downscaling_set14_gives_matlabs_lr_images(shared: Shared) -> None:
    differences = []
    for path in sorted(shared("data/test/Set14/HR").iterdir()):
        hr = images.crop_to_multiple(images.decode(path.read_bytes()))
        lr = images.decode((shared("data/test/Set14/LR_bicubic_x4") / path.name).read_bytes())
        differences.append(np.abs(images.downscale(hr).astype(int) - lr).ravel())
    differences = np.concatenate(differences)
    assert differences.max() <= 1
    assert (differences == 0).mean() > 0.99


def test_bicubic_upscaling_of_set14_has_the_known_psnr(shared: Shared) -> None:
    values = []
    for path in sorted(shared("data/test/Set14/LR_bicubic_x4").iterdir()):
        hr = images.crop_to_multiple(images.decode((shared("data/test/Set14/HR") / path.name).read_bytes()))
        values.append(metrics.psnr(images.upscale_bicubic(images.decode(path.read_bytes())), hr))
    assert np.mean(values) == pytest.approx(26.09, abs=0.005)  # ../shared/paper/NOTES.md, last line


def test_bicubic_upscaling_of_set14_has_the_known_niqe(shared: Shared) -> None:
    models = load_models(str(shared("weights/niqe_modelparameters.mat")))
    lr_images = [images.decode(path.read_bytes()) for path in sorted(shared("data/test/Set14/LR_bicubic_x4").iterdir())]
    scores = score_batch([images.upscale_bicubic(lr) for lr in lr_images], ["niqe"], models)
    assert np.mean([each["niqe"].value for each in scores]) == pytest.approx(7.72, abs=0.03)


def test_resizing_keeps_a_constant_image_constant() -> None:
    flat = np.full((40, 24, 3), 137, np.uint8)
    assert (images.downscale(flat) == 137).all()
    assert (images.upscale_bicubic(flat) == 137).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0.0, 1.0]), (64, 32))
    assert np.ptp(images.resize_bicubic(stripes, 16, 16)) < 0.2


def test_resizing_a_wide_image_goes_the_same_way_in_both_dimensions(photograph: np.ndarray) -> None:
    wide = photograph[:200].astype(np.float64)  # floating: nothing is rounded in between
    turned = images.downscale(wide.transpose(1, 0, 2)).transpose(1, 0, 2)
    assert np.allclose(turned, images.downscale(wide), rtol=0, atol=1e-9)


def test_luma_of_black_and_white_is_16_and_235() -> None:
    assert images.luma(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)).tolist() == [[16, 235]]


def test_png_round_trip_keeps_every_pixel(photograph: np.ndarray) -> None:
    assert np.array_equal(images.decode(images.encode_png(photograph)), photograph)


def test_tensor_round_trip_keeps_every_pixel(photograph: np.ndarray) -> None:
    tensor = images.to_tensor(photograph)
    assert (tensor.dtype, tensor.shape[0], float(tensor.max()) <= 1) == (torch.float32, 3, True)
    assert np.array_equal(images.to_image(tensor), photograph)


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bit"])
def test_other_kinds_of_png_become_rgb(photograph: np.ndarray, kind: str) -> None:
    bgr = photograph[:64, :64, ::-1]
    match kind:
        case "grey":
            stored, expected = bgr[..., 1], np.repeat(bgr[..., 1:2], 3, axis=2)
        case "alpha":
            stored, expected = np.dstack([bgr, bgr[..., 0]]), bgr[..., ::-1]
        case _:
            stored, expected = bgr.astype(np.uint16) * 257, bgr[..., ::-1]
    assert np.array_equal(images.decode_photograph(cv2.imencode(".png", stored)[1].tobytes()), expected)


def saved(image: np.ndarray, file_format: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(image).convert(mode).save(out, file_format, **options)
    return out.getvalue()


@pytest.mark.parametrize(("mode", "tolerance"), [("CMYK", 2), ("P", 40), ("RGBA", 0), ("LA", 80), ("L", 80)])
def test_every_colour_mode_becomes_rgb(photograph: np.ndarray, mode: str, tolerance: float) -> None:
    data = saved(photograph, "TIFF" if mode == "CMYK" else "PNG", mode)
    found = images.decode_photograph(data)
    assert found.shape == photograph.shape
    assert np.abs(found.astype(float) - photograph).mean() <= tolerance


def test_a_cmyk_jpeg_has_the_colours_of_the_photograph(photograph: np.ndarray) -> None:
    found = images.decode_photograph(saved(photograph, "JPEG", "CMYK", quality=95))
    assert np.abs(found.astype(float) - photograph).mean() < 4


def test_the_upper_8_of_16_grey_bits_are_kept(photograph: np.ndarray) -> None:
    gray = photograph[:, :, 0]
    data = cv2.imencode(".tif", gray.astype(np.uint16) * 256 + 255)[1].tobytes()
    assert np.array_equal(images.decode_photograph(data), np.repeat(gray[:, :, None], 3, axis=2))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied(photograph: np.ndarray, file_format: str) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    found = images.decode_photograph(saved(photograph[:256], file_format, exif=exif))
    assert np.abs(found.astype(float) - np.rot90(photograph[:256], -1)).mean() < 6


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_of_several_images_the_first_is_taken(photograph: np.ndarray, file_format: str) -> None:
    more = {"save_all": True, "append_images": [PIL.Image.fromarray(255 - photograph)]}
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    assert np.array_equal(images.decode_photograph(saved(photograph, file_format, **more, **lossless)), photograph)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_truncated_file_is_refused(photograph: np.ndarray, file_format: str, share: float) -> None:
    data = saved(photograph, file_format)
    with pytest.raises(ValueError, match="cannot be decoded|no image"):
        images.decode_photograph(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "is empty"), (b"not an image", "no image"), (b"\x89PNG\r\n\x1a\n", "truncated")]
)
def test_what_is_no_image_is_said_to_be_none(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        images.decode_photograph(data)


def test_floating_pixels_are_refused_by_name(photograph: np.ndarray) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        images.decode_photograph(cv2.imencode(".tif", photograph[:, :, 0].astype(np.float32))[1].tobytes())


def test_a_very_wide_photograph_is_read_and_a_gigantic_one_refused() -> None:
    assert images.decode_photograph(saved(np.zeros((40, 30000, 3), np.uint8), "PNG")).shape == (40, 30000, 3)
    with pytest.raises(ValueError, match="exceeds limit"):
        images.decode_photograph(saved(np.zeros((7000, 30000), np.uint8), "PNG", "1"))


def test_an_image_under_four_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="1x1 px"):
        images.crop_to_multiple(np.zeros((1, 1, 3), np.uint8))


def test_patch_starts_reach_the_border_when_asked() -> None:
    assert images.starts(100, 40, 30) == [0, 30, 60]
    assert images.starts(105, 40, 30) == [0, 30, 60, 65]
    assert images.starts(105, 40, 30, reach_border=False) == [0, 30, 60]
    assert images.starts(39, 40, 30) == []


def test_local_sigma_is_that_of_white_noise() -> None:
    noise = np.random.default_rng(0).normal(128, 20, (192, 192)).clip(0, 255).round().astype(np.uint8)
    assert images.mean_local_sigma(noise) == pytest.approx(20 * 0.95, rel=0.05)  # the window's own mean takes 5 %
    assert images.mean_local_sigma(np.full((192, 192), 9, np.uint8)) == 0


def test_the_border_pixel_is_repeated_outwards_and_not_mirrored() -> None:
    """One row, by hand: at half size 8 taps of the antialiased kernel (a = -0.5) lie around 0.5, five of them inside."""
    row = np.array([[10.0, 50.0, 30.0, 90.0, 70.0, 20.0, 60.0, 40.0]]).repeat(8, axis=0)
    at = np.arange(-3, 5)
    distance = np.abs(at - 0.5) / 2
    near, far = 1.5 * distance**3 - 2.5 * distance**2 + 1, -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, np.where(distance <= 2, far, 0))
    taps /= taps.sum()
    clamped, mirrored = row[0, np.clip(at, 0, 7)] @ taps, row[0, np.where(at < 0, -1 - at, at)] @ taps
    found = images.resize_bicubic(row, 4, 4)[1, 0]
    assert found == pytest.approx(clamped, abs=1e-9)
    assert abs(found - mirrored) > 0.5
