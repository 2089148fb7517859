"""The discriminator and the Ranker: sizes they take, what they refuse, and the stack they share."""

import pytest
import torch
from torch import nn

from ranksr import config
from ranksr.errors import UserError
from ranksr.models import build_discriminator, build_ranker

TINY = config.Discriminator(features=2, hidden=5)


def ranker(features: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return build_ranker(config.RankerConfig.model_construct(features=features, hidden=5))


def test_the_authors_discriminator_ends_in_9_by_9_positions_at_296_px():
    network = build_discriminator(config.Discriminator(), hr_patch_px=296)
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(512 * 9 * 9, 100), (100, 1)]


@pytest.mark.parametrize("size", [32, 33, 63, 100, 296])
def test_the_discriminator_takes_any_patch_from_32_px_on_and_gives_one_logit_an_image(size):
    network = build_discriminator(TINY, size)
    assert network(torch.rand(2, 3, size, size)).shape == (2,)


def test_a_discriminator_for_patches_under_32_px_is_refused():
    with pytest.raises(UserError, match="hr_patch_px=28"):
        build_discriminator(TINY, 28)


def test_the_discriminator_names_the_patch_it_was_built_for():
    with pytest.raises(UserError, match=r"built for 64x64 px and got 48x96.*hr_patch_px"):
        build_discriminator(TINY, 64)(torch.rand(1, 3, 96, 48))


@pytest.mark.parametrize("size", [(32, 32), (47, 33), (32, 300), (296, 296)])
def test_the_ranker_takes_images_of_any_shape_and_gives_one_score_an_image(size):
    assert ranker().eval()(torch.rand(3, 3, *size)).shape == (3,)


def test_the_ranker_refuses_images_under_32_px():
    with pytest.raises(UserError, match="got 31x64"):
        ranker()(torch.rand(1, 3, 64, 31))


def test_the_ranker_averages_over_all_positions_of_a_non_square_image():
    network = ranker().eval()
    image = torch.rand(1, 3, 64, 128)
    positions = network.features(image)
    assert positions.shape == (1, 16, 2, 4)
    expected = network.head(positions.flatten(2).mean(2))
    torch.testing.assert_close(network(image), expected[:, 0])


def test_the_shared_stack_is_ten_convolutions_with_normalisation_on_all_but_the_first():
    layers = list(ranker(features=64).features)
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    assert [(conv.kernel_size[0], conv.stride[0]) for conv in convolutions] == [(3, 1), (4, 2)] * 5
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in layers) == 9
    assert isinstance(layers[1], nn.LeakyReLU)
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}


def test_a_frozen_ranker_in_eval_mode_passes_gradients_to_the_image_and_keeps_its_statistics():
    network = ranker().requires_grad_(False).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    image = torch.rand(2, 3, 40, 40, requires_grad=True)
    network(image).sum().backward()
    assert image.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_networks_keep_the_scale_of_their_signal_through_ten_layers():
    torch.manual_seed(0)
    scores = ranker(features=16)(torch.rand(16, 3, 64, 64))
    assert 0.01 < scores.std() < 10
