"""Perceptual features: VGG19 up to conv5_4 and SqueezeNet 1.0 up to its last Fire module, both before the last ReLU.

The layers carry torchvision's names, so its weight files load; torchvision itself is not needed. VGG19's features are
used as they are, since the paper's loss weights count on their scale. SqueezeNet's are brought to a fixed scale: files
of it differ a hundredfold, and with values in the hundreds the other loss terms would vanish beside this one.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ranksr import weights
from ranksr.config import Perceptual
from ranksr.models.initialise import he_normal_

VGG19_CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)
"""Convolutions of VGG19 up to conv5_4 (torchvision's features.34); 0 is a pooling layer."""
PUBLISHED_URLS = {
    "vgg19": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    "squeezenet": "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
}
"""torchvision's IMAGENET1K_V1 files; the name ends in the first digits of the file's SHA-256."""
RANDOM_SEED = 0
"""Seed of `weights: random` and of the noise below: every worker and every run has the same features."""


class Features(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] to a feature map, 1/16 of the size, times `scale`."""

    scale: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("scale", torch.tensor(1.0), persistent=False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.scale * self.features((image - self.mean) / self.std)


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 ones side by side to many."""

    def __init__(self, inputs: int, squeezed: int, expanded: int, activate: bool = True) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.activate = activate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x), inplace=True)
        x = torch.cat((self.expand1x1(x), self.expand3x3(x)), dim=1)
        return F.relu(x, inplace=True) if self.activate else x


def vgg19() -> nn.Sequential:
    """Layers 0..34 of torchvision's vgg19().features."""
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG19_CHANNELS:
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1])


def squeezenet() -> nn.Sequential:
    """Layers 0..12 of torchvision's squeezenet1_0().features."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    return nn.Sequential(
        *(nn.Conv2d(3, 96, 7, stride=2), nn.ReLU(inplace=True), pool()),
        *(Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), pool()),
        *(Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), pool()),
        Fire(512, 64, 256, activate=False),
    )


def build_features(config: Perceptual) -> nn.Module:
    """The feature network with the weights that the config names: frozen, in eval mode; gradients reach the image.

    Raises UserError when they cannot be had or are of another network.
    """
    match config.network:
        case "vgg19":
            network = Features(vgg19())
        case "squeezenet":
            network = Features(squeezenet())
    if config.weights == "random":
        he_normal_(network, rng=torch.Generator().manual_seed(RANDOM_SEED))
    else:
        path = config.weights
        if path == "published":
            path = weights.download(PUBLISHED_URLS[config.network])
        found = weights.read_state_dict(path)
        # Of the whole classifier only these layers are used.
        weights.load_into(network, {key: found[key] for key in network.state_dict() if key in found}, path)
    network.requires_grad_(False).eval()
    if config.network == "squeezenet":
        _scale_to_unit(network)
    return network


def _scale_to_unit(network: Features) -> None:
    """Make the features of fixed noise have a root mean square of 1; those of photographs then have about 0.6."""
    noise = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(RANDOM_SEED))
    network.scale = 1 / network(noise).square().mean().sqrt()
