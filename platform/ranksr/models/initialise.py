"""Initial weights of convolutions and linear layers: He's normal, scaled down for residual branches."""

import torch
from torch import nn

RESIDUAL_SCALE = 0.1
"""Scale of layers in residual branches (ESRGAN 3.3; the authors' code)."""


def he_normal_(*modules: nn.Module, scale: float = 1.0, rng: torch.Generator | None = None) -> None:
    """Draw the weights of every convolution and linear layer in `modules`, times `scale`; biases become 0.

    Without `rng` the global generator is used, which a run seeds once.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, generator=rng)
                layer.weight.data.mul_(scale)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
