"""The ten convolutions that the discriminator and the Ranker share, and the layers after them."""

from torch import nn

STACK_STRIDE = 32
"""The stack halves the image five times, rounding down; so it takes images from 32x32 px on."""


def strided_stack(features: int) -> nn.Sequential:
    """3x3 stride 1 then 4x4 stride 2, five times, with 1, 2, 4, 8, 8 times `features` channels.

    Batch normalisation everywhere but on the first, LeakyReLU(0.2). (N, 3, H, W) to (N, 8 features, H//32, W//32).
    """
    layers: list[nn.Module] = []
    channels = 3
    for multiple in (1, 2, 4, 8, 8):
        width = multiple * features
        layers += _layer(channels, width, kernel=3, stride=1, normalise=bool(layers))
        layers += _layer(width, width, kernel=4, stride=2, normalise=True)
        channels = width
    return nn.Sequential(*layers)


def head(inputs: int, hidden: int) -> nn.Sequential:
    """Two linear layers to one number."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))


def _layer(inputs: int, outputs: int, kernel: int, stride: int, normalise: bool) -> list[nn.Module]:
    # A bias before batch normalisation would be subtracted again.
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=not normalise)
    return [conv, *([nn.BatchNorm2d(outputs)] if normalise else []), nn.LeakyReLU(0.2)]
