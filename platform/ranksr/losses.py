"""Loss terms as pure functions of tensors: pixel, perceptual, adversarial, rank-content, and the Ranker's.

Every term is one float32 scalar whatever the precision of the networks, and averages over the batch unless it says
otherwise, so that DDP's average over workers of equal batches is the loss of the whole batch.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Criterion = Literal["l1", "mse"]
Adversarial = Literal["vanilla", "relativistic"]


def pixel(sr: torch.Tensor, hr: torch.Tensor, criterion: Criterion) -> torch.Tensor:
    """Mean absolute or squared difference of two tensors of one shape."""
    assert sr.shape == hr.shape, f"{tuple(sr.shape)} against {tuple(hr.shape)}"
    match criterion:
        case "l1":
            return F.l1_loss(sr.float(), hr.float())
        case "mse":
            return F.mse_loss(sr.float(), hr.float())


def perceptual(features: nn.Module, sr: torch.Tensor, hr: torch.Tensor, criterion: Criterion) -> torch.Tensor:
    """The same on the feature maps of two image batches (Eq. 7). No gradient reaches `hr`."""
    with torch.no_grad():
        target = features(hr)
    return pixel(features(sr), target, criterion)


def adversarial_generator(
    fake_logits: torch.Tensor, real_logits: torch.Tensor | None, kind: Adversarial
) -> torch.Tensor:
    """Adversarial loss of the generator. Logits (N,); `real_logits` only for relativistic.

    vanilla: -log D(G(x)), Eq. 5. relativistic: ESRGAN's average discriminator, halved as in its code. The averages
    are those of this worker's batch, so relativistic losses depend a little on the number of workers.
    """
    match kind:
        case "vanilla":
            return _cross_entropy(fake_logits, real=True)
        case "relativistic":
            assert real_logits is not None
            real = real_logits.detach()  # the photographs do not depend on the generator
            above, below = _relative(fake_logits, real)
            return (_cross_entropy(below, real=False) + _cross_entropy(above, real=True)) / 2


def adversarial_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor, kind: Adversarial) -> torch.Tensor:
    """Loss of the discriminator. Logits (N,).

    vanilla: real plus fake, Eq. 8. relativistic: the mean of both, as in ESRGAN's code.
    """
    match kind:
        case "vanilla":
            return _cross_entropy(real_logits, real=True) + _cross_entropy(fake_logits, real=False)
        case "relativistic":
            above, below = _relative(real_logits, fake_logits)
            return (_cross_entropy(above, real=True) + _cross_entropy(below, real=False)) / 2


def rank_content(scores: torch.Tensor, reduction: Literal["mean", "sum"], num_workers: int) -> torch.Tensor:
    """Sigmoid of the Ranker's scores (N,) of generated images (Eq. 9), averaged or summed over the whole batch.

    DDP averages gradients over the workers. A sum over all of them is therefore `num_workers` times this worker's.
    """
    values = torch.sigmoid(scores.float())
    match reduction:
        case "mean":
            return values.mean()
        case "sum":
            return values.sum() * num_workers


def margin_ranking(
    first: torch.Tensor, second: torch.Tensor, metric_first: torch.Tensor, metric_second: torch.Tensor, margin: float
) -> torch.Tensor:
    """Pairwise loss of the Ranker (Eq. 3): the image with the lower metric must have the lower score, by `margin`.

    All four are (N,); `metric_*` are lower-is-better. max(0, margin - y (first - second)) with y = +1 where
    metric_first > metric_second: the metric's own direction, unlike Eq. 4 as printed. Averaged over the pairs that
    carry information; ties and NaN do not. Without such a pair the loss is 0 and still has a gradient.
    """
    assert first.shape == second.shape == metric_first.shape == metric_second.shape
    # Masked by products: picking the pairs out would make the host wait for the GPU.
    order = torch.sign(metric_first.float() - metric_second.float()).nan_to_num(0.0)
    informative = order.abs()
    losses = F.relu(margin - order * (first.float() - second.float())) * informative
    return losses.sum() / informative.sum().clamp(min=1)


def regression(scores: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the Ranker's scores (N,) against lower-is-better metric values (Tables 5, 6).

    Images without a value (NaN) are left out; the loss is 0 and still has a gradient when all are.
    """
    assert scores.shape == values.shape
    known = ~values.isnan()
    errors = (scores.float() - torch.where(known, values.float(), 0.0)) * known
    return errors.square().sum() / known.sum().clamp(min=1)


def _cross_entropy(logits: torch.Tensor, real: bool) -> torch.Tensor:
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def _relative(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each logit against the mean of the other side."""
    first, second = first.float(), second.float()
    return first - second.mean(), second - first.mean()
