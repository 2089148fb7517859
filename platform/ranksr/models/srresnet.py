"""SRResNet without batch normalisation, and MSRResNet, which learns what is added to the bilinear image."""

import torch
from torch import nn
from torch.nn import functional as F

from ranksr import SCALE
from ranksr.models.initialise import RESIDUAL_SCALE, he_normal_


class ResidualBlock(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        he_normal_(self, scale=RESIDUAL_SCALE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class SRResNet(nn.Module):
    """The generator of SRGAN and RankSRGAN (paper 4.2): residual blocks under one long skip, two pixel shuffles.

    NCHW RGB in [0, 1], any size; the output is 4 times as large and not clipped.
    """

    def __init__(self, features: int, blocks: int) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*[ResidualBlock(features) for _ in range(blocks)])
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up1 = nn.Conv2d(features, 4 * features, 3, padding=1)
        self.conv_up2 = nn.Conv2d(features, 4 * features, 3, padding=1)
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)
        he_normal_(self.conv_first, self.conv_up1, self.conv_up2, self.conv_hr)
        he_normal_(self.conv_body, self.conv_last, scale=RESIDUAL_SCALE)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        shallow = self.conv_first(lr)
        x = shallow + self.conv_body(self.body(shallow))
        x = F.relu(F.pixel_shuffle(self.conv_up1(x), 2), inplace=True)
        x = F.relu(F.pixel_shuffle(self.conv_up2(x), 2), inplace=True)
        return self.conv_last(F.relu(self.conv_hr(x), inplace=True))


class MSRResNet(nn.Module):
    """BasicSR's variant: its output is added to the bilinear image, which it equals before training.

    It also differs in its activation, LeakyReLU(0.1), and in having no long skip. NCHW RGB in [0, 1], any size;
    the output is 4 times as large and not clipped.
    """

    def __init__(self, features: int, blocks: int) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*[ResidualBlock(features) for _ in range(blocks)])
        self.conv_up1 = nn.Conv2d(features, 4 * features, 3, padding=1)
        self.conv_up2 = nn.Conv2d(features, 4 * features, 3, padding=1)
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)
        he_normal_(self.conv_first)
        # All that follows is one branch beside the bilinear image.
        he_normal_(self.conv_up1, self.conv_up2, self.conv_hr, self.conv_last, scale=RESIDUAL_SCALE)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = self.body(_leaky(self.conv_first(lr)))
        x = _leaky(F.pixel_shuffle(self.conv_up1(x), 2))
        x = _leaky(F.pixel_shuffle(self.conv_up2(x), 2))
        residual = self.conv_last(_leaky(self.conv_hr(x)))
        return residual + F.interpolate(lr, scale_factor=SCALE, mode="bilinear", align_corners=False)


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.1, inplace=True)
