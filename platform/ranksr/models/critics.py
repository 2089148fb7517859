"""The networks that judge an image: discriminator and Ranker, a head each on the same ten strided convolutions."""

import torch
from torch import nn

from ranksr.errors import UserError
from ranksr.models.initialise import he_normal_

STACK_STRIDE = 32
"""The stack halves the image five times, rounding down; so it takes images from 32x32 px on."""


class Discriminator(nn.Module):
    """(N, 3, patch, patch) RGB in [0, 1] to (N,) logits; high: taken for a photograph.

    The size of its first linear layer follows from the patch: 9x9 positions at 296 px. Raises UserError for patches
    under 32 px, and for images of another size.
    """

    def __init__(self, features: int, hidden: int, hr_patch_px: int) -> None:
        super().__init__()
        if hr_patch_px < STACK_STRIDE:
            raise UserError(f"hr_patch_px={hr_patch_px}: the discriminator takes {STACK_STRIDE} px and more; raise it")
        self.hr_patch_px = hr_patch_px
        self.features = strided_stack(features)
        self.head = head(8 * features * (hr_patch_px // STACK_STRIDE) ** 2, hidden)
        he_normal_(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        if height != self.hr_patch_px or width != self.hr_patch_px:
            raise UserError(
                f"the discriminator was built for {self.hr_patch_px}x{self.hr_patch_px} px and got {width}x{height}; "
                "make hr_patch_px of the method that trains it the size of its patches"
            )
        return self.head(self.features(image).flatten(1)).squeeze(1)


class Ranker(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] to (N,) ranking scores; lower is better (paper 3.2).

    Any height and width from 32 px on; UserError under that.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.features = strided_stack(features)
        self.head = head(8 * features, hidden)
        he_normal_(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        if min(height, width) < STACK_STRIDE:
            raise UserError(
                f"the Ranker takes images from {STACK_STRIDE} px on and got {width}x{height}; use larger patches"
            )
        return self.head(self.features(image).mean(dim=(2, 3))).squeeze(1)

    @torch.no_grad()
    def shift_scores(self, by: torch.Tensor) -> None:
        """Add a number to every score."""
        self._last.bias.add_(by)

    @torch.no_grad()
    def scale_scores(self, by: torch.Tensor) -> None:
        """Multiply every score by a number."""
        self._last.weight.mul_(by)
        self._last.bias.mul_(by)

    @property
    def _last(self) -> nn.Linear:
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        return last


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
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.2, inplace=True), nn.Linear(hidden, 1))


def _layer(inputs: int, outputs: int, kernel: int, stride: int, normalise: bool) -> list[nn.Module]:
    # A bias before batch normalisation would be subtracted again.
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=not normalise)
    return [conv, *([nn.BatchNorm2d(outputs)] if normalise else []), nn.LeakyReLU(0.2, inplace=True)]
