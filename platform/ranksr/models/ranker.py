"""The Ranker: one branch of the Siamese network that learns to order images by a metric."""

import torch
from torch import nn

from ranksr.config import UserError
from ranksr.models.initialise import he_normal_
from ranksr.models.strided_stack import STACK_STRIDE, head, strided_stack


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
