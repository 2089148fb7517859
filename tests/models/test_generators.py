"""Generators: sizes, structure, how they start, and FSRCNN's published weights on Set14."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ranksr import config, images, weights
from ranksr.metrics.fidelity import psnr
from ranksr.models import build_generator

SMALL = {
    "srresnet": config.SRResNet(arch="srresnet", features=8, blocks=2),
    "msrresnet": config.SRResNet(arch="srresnet", features=8, blocks=2, skip="bilinear"),
    "rrdbnet": config.RRDBNet(arch="rrdbnet", features=8, blocks=1, growth=4),
    "fsrcnn": config.FSRCNN(arch="fsrcnn", features=8, shrink=4, blocks=1),
}


@pytest.fixture(params=SMALL.values(), ids=SMALL.keys())
def generator(request):
    torch.manual_seed(0)
    return build_generator(request.param)


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (24, 24)])
def test_every_generator_makes_an_image_four_times_as_large_of_any_size(generator, size):
    assert generator(torch.rand(2, 3, *size)).shape == (2, 3, 4 * size[0], 4 * size[1])


def test_every_weight_of_a_generator_gets_a_gradient(generator):
    generator(torch.rand(2, 3, 12, 12)).square().mean().backward()
    assert [name for name, weight in generator.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize(
    ("generator_config", "expected"),
    [
        # 3x3 convolutions by hand: ends, 2 of 64 to 64 a block, conv_body, 2 of 64 to 256, conv_hr
        (config.SRResNet(arch="srresnet"), 1_792 + 16 * 2 * 36_928 + 36_928 + 2 * 147_712 + 36_928 + 1_731),
        (config.SRResNet(arch="srresnet", skip="bilinear"), 1_517_571),  # MSRResNet as BasicSR counts it
        (config.RRDBNet(arch="rrdbnet"), 16_697_987),  # ESRGAN's 16.7 M
    ],
)
def test_full_size_generators_have_the_published_number_of_weights(generator_config, expected):
    with torch.device("meta"):  # shapes alone
        generator = build_generator(generator_config)
    assert sum(weight.numel() for weight in generator.parameters()) == expected


def test_a_bilinear_skip_starts_at_about_the_bilinear_image():
    torch.manual_seed(0)
    lr = torch.rand(1, 3, 24, 24)
    sr = build_generator(SMALL["msrresnet"])(lr)
    bilinear = F.interpolate(lr, scale_factor=4, mode="bilinear")
    assert (sr - bilinear).abs().mean() < 0.02


def test_fsrcnn_leaves_colour_to_bicubic_interpolation():
    torch.manual_seed(0)
    generator = build_generator(SMALL["fsrcnn"])
    lr = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    sr = generator(images.to_tensor(lr)[None])[0].detach().numpy().transpose(1, 2, 0)
    bicubic = images.resize_bicubic(lr / 255.0, 48, 36)
    inside = slice(8, -8)  # torch weighs the border otherwise than MATLAB
    chroma = [
        image[inside, inside] @ np.array([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]).T
        for image in (sr, bicubic)
    ]
    np.testing.assert_allclose(*chroma, atol=1e-3)


def test_published_fsrcnn_reaches_its_psnr_on_set14(shared):
    source = str(shared("weights/fsrcnn_x4.pth"))
    generator = build_generator(config.FSRCNN(arch="fsrcnn")).eval()
    weights.import_published(generator, weights.read_state_dict(source), source)
    scores = []
    for path in sorted(shared("data/test/Set14/LR_bicubic_x4").iterdir()):
        lr, hr = (images.decode((path.parents[1] / name / path.name).read_bytes()) for name in (path.parent.name, "HR"))
        with torch.no_grad():
            sr = images.to_image(generator(images.to_tensor(lr)[None])[0])
        scores.append(psnr(sr, images.crop_to_multiple(hr)))
    assert len(scores) == 14
    assert np.mean(scores) == pytest.approx(27.55, abs=0.05)
