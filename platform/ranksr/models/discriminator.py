"""The VGG-style discriminator of SRGAN, ESRGAN and RankSRGAN, for one patch size."""

import torch
from torch import nn

from ranksr.config import UserError
from ranksr.models.initialise import he_normal_
from ranksr.models.strided_stack import STACK_STRIDE, head, strided_stack


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
