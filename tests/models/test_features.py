"""Perceptual features: a real SqueezeNet recomputed by hand, VGG19's layout, weights from every source."""

import hashlib

import pytest
import skimage.data
import torch
from torch.nn import functional as F

from ranksr import config, images
from ranksr.errors import UserError
from ranksr.models import build_features
from ranksr.models.features import PUBLISHED_URLS, Features, squeezenet, vgg19


def perceptual(network: str, weights: str) -> config.Perceptual:
    return config.Perceptual(network=network, weights=weights, criterion="mse")


def squeezenet_by_hand(state: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """SqueezeNet 1.0 up to the last Fire module, before its ReLU, from the paper's table 1; its pools round up."""

    def conv(x, name, **options):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def fire(x, index, activate=True):
        x = F.relu(conv(x, f"features.{index}.squeeze"))
        wide = [conv(x, f"features.{index}.expand1x1"), conv(x, f"features.{index}.expand3x3", padding=1)]
        return F.relu(torch.cat(wide, 1)) if activate else torch.cat(wide, 1)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (image - mean[:, None, None]) / std[:, None, None]
    x = F.relu(conv(x, "features.0", stride=2))
    for fires in ((3, 4, 5), (7, 8, 9, 10)):
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for index in fires:
            x = fire(x, index)
    return fire(F.max_pool2d(x, 3, 2, ceil_mode=True), 12, activate=False)


def unit_scale(state: dict[str, torch.Tensor]) -> torch.Tensor:
    noise = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    return 1 / squeezenet_by_hand(state, noise).square().mean().sqrt()


def test_squeezenet_features_equal_a_recomputation_by_hand(shared):
    path = str(shared("weights/squeezenet1_0_imagenet.pth"))
    state = torch.load(path, weights_only=True)
    image = images.to_tensor(skimage.data.chelsea()[40:169, 100:211])[None]
    expected = squeezenet_by_hand(state, image) * unit_scale(state)
    torch.testing.assert_close(build_features(perceptual("squeezenet", path))(image), expected)


def test_squeezenet_features_of_a_cat_lead_to_the_classes_of_cats(shared):
    path = str(shared("weights/squeezenet1_0_imagenet.pth"))
    state = torch.load(path, weights_only=True)
    photograph = images.resize_bicubic(skimage.data.chelsea()[:, 75:375], 224, 224)
    network = build_features(perceptual("squeezenet", path))
    features = F.relu(network(images.to_tensor(photograph)[None]) / network.scale)
    logits = F.relu(F.conv2d(features, state["classifier.1.weight"], state["classifier.1.bias"])).mean((2, 3))
    assert int(logits.argmax()) in (281, 282, 285)  # tabby, tiger cat, Egyptian cat


def test_squeezenet_features_do_not_depend_on_the_scale_of_a_weights_file(tmp_path):
    state = Features(squeezenet()).state_dict()
    louder = {key: value * 57 if key.startswith("features.12.expand") else value for key, value in state.items()}
    image, found = torch.rand(1, 3, 48, 48), []
    for name, weights in (("quiet.pth", state), ("loud.pth", louder)):
        torch.save(weights, tmp_path / name)
        found.append(build_features(perceptual("squeezenet", str(tmp_path / name)))(image))
    torch.testing.assert_close(*found)


def test_vgg19_ends_at_conv5_4_before_its_relu():
    layers = vgg19()
    assert len(layers) == 35
    assert isinstance(layers[34], torch.nn.Conv2d)
    assert [index for index, layer in enumerate(layers) if isinstance(layer, torch.nn.MaxPool2d)] == [4, 9, 18, 27]
    assert sum(weight.numel() for weight in layers.parameters()) == 20_024_384  # torchvision's vgg19().features


@pytest.mark.parametrize("network", ["vgg19", "squeezenet"])
def test_features_are_frozen_and_in_eval_mode_while_gradients_reach_the_image(network):
    features = build_features(perceptual(network, "random"))
    assert not features.training
    assert not any(weight.requires_grad for weight in features.parameters())
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    features(image).square().sum().backward()
    assert image.grad.abs().sum() > 0


def test_random_features_are_the_same_whatever_the_seed_of_the_run():
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(build_features(perceptual("squeezenet", "random")).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_file_of_a_whole_classifier_loads_and_its_other_layers_are_left_out(tmp_path):
    network = Features(squeezenet())
    state = network.state_dict() | {
        "classifier.1.weight": torch.zeros(2, 512, 1, 1),
        "features.13.bias": torch.zeros(1),
    }
    torch.save(state, tmp_path / "squeezenet.pth")
    loaded = build_features(perceptual("squeezenet", str(tmp_path / "squeezenet.pth")))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items())


def test_weights_of_another_network_are_refused_with_the_first_missing_keys(tmp_path):
    torch.save(squeezenet().state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth does not fit Features: features.0.weight: not in the file"):
        build_features(perceptual("vgg19", str(tmp_path / "other.pth")))


def test_published_weights_are_downloaded_once(tmp_path, monkeypatch):
    network = Features(squeezenet())
    served = tmp_path / "served.pth"
    torch.save(network.state_dict(), served)
    name = f"squeezenet1_0-{hashlib.sha256(served.read_bytes()).hexdigest()[:8]}.pth"
    served.rename(tmp_path / name)
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PUBLISHED_URLS, "squeezenet", (tmp_path / name).as_uri())
    for _ in range(2):
        loaded = build_features(perceptual("squeezenet", "published")).state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())
        (tmp_path / name).unlink(missing_ok=True)


def test_vgg19_features_are_those_of_the_normalised_image_unscaled():
    network = build_features(perceptual("vgg19", "random"))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = torch.rand(1, 3, 32, 32)
    expected = network.features((image - mean[:, None, None]) / std[:, None, None])
    assert expected.shape == (1, 512, 2, 2)
    torch.testing.assert_close(network(image), expected)
