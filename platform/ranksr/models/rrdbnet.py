"""RRDBNet, ESRGAN's generator: dense blocks inside residual blocks inside a long skip."""

import torch
from torch import nn
from torch.nn import functional as F

from ranksr.models.initialise import RESIDUAL_SCALE, he_normal_

BRANCH_WEIGHT = 0.2
"""Residual scaling of ESRGAN, on every dense block and once more on every three of them."""


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and all earlier outputs."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(features + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(features + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(features + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, padding=1)
        he_normal_(self, scale=RESIDUAL_SCALE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, _leaky(conv(seen))), dim=1)
        return x + BRANCH_WEIGHT * self.conv5(seen)


class ResidualInResidual(nn.Module):
    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + BRANCH_WEIGHT * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """NCHW RGB in [0, 1], any size; the output is 4 times as large and not clipped."""

    def __init__(self, features: int, blocks: int, growth: int) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*[ResidualInResidual(features, growth) for _ in range(blocks)])
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up2 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)
        he_normal_(self.conv_first, self.conv_up1, self.conv_up2, self.conv_hr)
        he_normal_(self.conv_body, self.conv_last, scale=RESIDUAL_SCALE)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        shallow = self.conv_first(lr)
        x = shallow + self.conv_body(self.body(shallow))
        x = _leaky(self.conv_up1(F.interpolate(x, scale_factor=2, mode="nearest")))
        x = _leaky(self.conv_up2(F.interpolate(x, scale_factor=2, mode="nearest")))
        return self.conv_last(_leaky(self.conv_hr(x)))


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)
