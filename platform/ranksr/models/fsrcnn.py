"""FSRCNN (Dong et al. 2016): a small network on luma, with bicubic colour around it."""

import torch
from torch import nn
from torch.nn import functional as F

from ranksr import SCALE
from ranksr.models.initialise import he_normal_

LUMA_WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)
LUMA_OFFSET = 16 / 255
"""Y of MATLAB's rgb2ycbcr for RGB in [0, 1], divided by 255: 16/255..235/255, not rounded."""


class FSRCNN(nn.Module):
    """NCHW RGB in [0, 1], any size; the output is 4 times as large and not clipped.

    The network makes Y; Cb and Cr are bicubic. The way back to RGB adds 255/219 of Y to each channel, so only the
    difference between the network's Y and the bicubic Y has to be added to the bicubic RGB image.
    """

    luma_weights: torch.Tensor

    def __init__(self, features: int, shrink: int, blocks: int) -> None:
        super().__init__()
        mapping = [nn.Conv2d(features, shrink, 1), nn.PReLU(shrink)]
        for _ in range(blocks):
            mapping += [nn.Conv2d(shrink, shrink, 3, padding=1), nn.PReLU(shrink)]
        mapping += [nn.Conv2d(shrink, features, 1), nn.PReLU(features)]
        self.extract = nn.Sequential(nn.Conv2d(1, features, 5, padding=2), nn.PReLU(features))
        self.mapping = nn.Sequential(*mapping)
        self.upsample = nn.ConvTranspose2d(features, 1, 9, stride=SCALE, padding=4, output_padding=SCALE - 1)
        weights = torch.tensor(LUMA_WEIGHTS).view(1, 3, 1, 1)
        self.register_buffer("luma_weights", weights, persistent=False)
        he_normal_(self.extract, self.mapping)
        # Normal with 0.001, as in the paper: He's fan would be that of 9x9 taps, of which an output pixel sees few.
        nn.init.normal_(self.upsample.weight, std=0.001)
        assert self.upsample.bias is not None
        nn.init.zeros_(self.upsample.bias)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        y = self.upsample(self.mapping(self.extract(self._luma(lr))))
        # With antialias=True torch's bicubic has MATLAB's a = -0.5; without it -0.75.
        bicubic = F.interpolate(lr, scale_factor=SCALE, mode="bicubic", antialias=True)
        return bicubic + (255 / 219) * (y - self._luma(bicubic))

    def _luma(self, rgb: torch.Tensor) -> torch.Tensor:
        return (rgb * self.luma_weights).sum(dim=1, keepdim=True) + LUMA_OFFSET
