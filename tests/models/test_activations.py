"""Activations work in place: less memory, the same bits."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ranksr.models.critics import Discriminator, Ranker
from ranksr.models.features import Features, squeezenet, vgg19
from ranksr.models.rrdbnet import RRDBNet
from ranksr.models.srresnet import MSRResNet, SRResNet

NETWORKS = {
    "srresnet": lambda: SRResNet(4, 1),
    "msrresnet": lambda: MSRResNet(4, 1),
    "rrdbnet": lambda: RRDBNet(4, 1, 4),
    "discriminator": lambda: Discriminator(2, 4, 64),
    "ranker": lambda: Ranker(2, 4),
    "vgg19": lambda: Features(vgg19()),
    "squeezenet": lambda: Features(squeezenet()),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_outputs_and_gradients_have_the_bits_of_activations_out_of_place(
    build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, relu, leaky_relu, calls = run(build), F.relu, F.leaky_relu, []
    monkeypatch.setattr(F, "relu", lambda x, inplace: calls.append(inplace) or relu(x))
    monkeypatch.setattr(F, "leaky_relu", lambda x, slope, inplace: calls.append(inplace) or leaky_relu(x, slope))
    expected = run(build)
    assert calls
    assert all(calls)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def run(build: Callable[[], nn.Module]) -> list[torch.Tensor]:
    """Output and gradients of a network."""
    torch.manual_seed(0)
    network, image = build(), torch.rand(2, 3, 64, 64, requires_grad=True)
    output = network(image)
    output.square().sum().backward()
    return [output, *(weight.grad for weight in (*network.parameters(), image))]
