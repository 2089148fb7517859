"""Loss terms against numbers worked out by hand, and the directions that are easy to get wrong."""

import math

import pytest
import torch
from torch import nn

from ranksr import losses


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, requires_grad=True)


def test_pixel_losses_are_mean_absolute_and_mean_squared_differences():
    sr, hr = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.5]])
    assert losses.pixel(sr, hr, "l1").item() == pytest.approx(0.75)
    assert losses.pixel(sr, hr, "mse").item() == pytest.approx((1 + 0.25) / 2)


def test_pixel_loss_refuses_images_of_different_shapes_instead_of_broadcasting():
    with pytest.raises(AssertionError, match="against"):
        losses.pixel(torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8), "l1")


def test_perceptual_loss_compares_feature_maps_and_its_gradient_reaches_only_sr():
    features = nn.Conv2d(3, 1, 1, bias=False).requires_grad_(False)
    nn.init.constant_(features.weight, 2.0)
    sr, hr = torch.zeros(1, 3, 2, 2, requires_grad=True), torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    loss = losses.perceptual(features, sr, hr, "mse")
    assert loss.item() == pytest.approx((2 * 3 * 0.5) ** 2)
    loss.backward()
    assert sr.grad.abs().min() > 0
    assert hr.grad is None
    assert features.weight.grad is None


def test_vanilla_adversarial_losses_are_the_logarithms_of_equations_5_and_8():
    real, fake = numbers(2.0), numbers(-1.0)
    d_real, d_fake = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    assert losses.adversarial_generator(fake, None, "vanilla").item() == pytest.approx(-math.log(d_fake))
    expected = -math.log(d_real) - math.log(1 - d_fake)
    assert losses.adversarial_discriminator(real, fake, "vanilla").item() == pytest.approx(expected)


def test_relativistic_losses_compare_each_logit_with_the_mean_of_the_other_side():
    real, fake = numbers(2.0, 0.0), numbers(-1.0, 1.0)  # means 1 and 0

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    taken_for_real = (softplus(-2.0) + softplus(-0.0)) / 2  # real - mean(fake) = 2, 0
    taken_for_fake = (softplus(-2.0) + softplus(0.0)) / 2  # fake - mean(real) = -2, 0
    expected = (taken_for_real + taken_for_fake) / 2
    assert losses.adversarial_discriminator(real, fake, "relativistic").item() == pytest.approx(expected)
    expected = ((softplus(2.0) + softplus(0.0)) / 2 + (softplus(2.0) + softplus(0.0)) / 2) / 2
    assert losses.adversarial_generator(fake, real, "relativistic").item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["vanilla", "relativistic"])
def test_generator_wants_higher_logits_for_fakes_and_does_not_train_on_the_real_ones(kind):
    fake, real = numbers(-1.0, 0.5), numbers(1.0, 2.0)
    losses.adversarial_generator(fake, real, kind).backward()
    assert (fake.grad < 0).all()
    assert real.grad is None


@pytest.mark.parametrize("kind", ["vanilla", "relativistic"])
def test_discriminator_wants_higher_logits_for_real_and_lower_for_fake_images(kind):
    fake, real = numbers(-1.0, 0.5), numbers(1.0, 2.0)
    losses.adversarial_discriminator(real, fake, kind).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()


def test_rank_content_is_the_sigmoid_of_the_score_averaged_or_summed():
    scores = numbers(0.0, math.log(3.0))
    assert losses.rank_content(scores, "mean", num_workers=4).item() == pytest.approx((0.5 + 0.75) / 2)
    assert losses.rank_content(scores, "sum", num_workers=1).item() == pytest.approx(0.5 + 0.75)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_rank_content_gradient_does_not_depend_on_the_number_of_workers(reduction):
    values = [0.3, -1.0, 2.0, 0.0]
    whole = numbers(*values)
    losses.rank_content(whole, reduction, num_workers=1).backward()
    shares = [numbers(*values[:2]), numbers(*values[2:])]
    for share in shares:
        losses.rank_content(share, reduction, num_workers=2).backward()
    averaged = torch.cat([share.grad for share in shares]) / 2  # as DDP does
    torch.testing.assert_close(averaged, whole.grad)


def test_rank_content_wants_lower_scores():
    scores = numbers(-2.0, 0.0, 2.0)
    losses.rank_content(scores, "mean", num_workers=1).backward()
    assert (scores.grad > 0).all()


def test_margin_ranking_equals_the_loss_of_torch():
    rng = torch.Generator().manual_seed(0)
    first, second, metric_first, metric_second = torch.randn(4, 64, generator=rng)
    target = torch.where(metric_first > metric_second, 1.0, -1.0)
    expected = nn.MarginRankingLoss(margin=0.5)(first, second, target)
    torch.testing.assert_close(losses.margin_ranking(first, second, metric_first, metric_second, 0.5), expected)


def test_worse_metric_must_get_the_higher_score():
    """The sign trap: Eq. 4 as printed would reward the opposite."""
    good, bad = torch.tensor([3.0]), torch.tensor([6.0])  # NIQE
    right = losses.margin_ranking(torch.tensor([0.0]), torch.tensor([1.0]), good, bad, 0.5)
    wrong = losses.margin_ranking(torch.tensor([1.0]), torch.tensor([0.0]), good, bad, 0.5)
    assert right.item() == 0
    assert wrong.item() == pytest.approx(1.5)


def test_loss_is_zero_when_the_better_image_leads_by_the_margin():
    metric_first, metric_second = torch.tensor([2.0, 2.0]), torch.tensor([5.0, 5.0])
    loss = losses.margin_ranking(torch.zeros(2), torch.tensor([0.5, 0.25]), metric_first, metric_second, 0.5)
    assert loss.item() == pytest.approx((0 + 0.25) / 2)


def test_ties_and_missing_metrics_carry_no_information():
    nan = float("nan")
    first, second = numbers(0.0, 5.0, 5.0, 0.0), numbers(1.0, 0.0, 0.0, 0.0)
    metric_first, metric_second = torch.tensor([4.0, 3.0, nan, 1.0]), torch.tensor([3.0, 3.0, 2.0, nan])
    loss = losses.margin_ranking(first, second, metric_first, metric_second, 0.5)
    assert loss.item() == pytest.approx(1.5)  # the first pair alone
    loss.backward()
    assert first.grad.tolist() == [-1.0, 0.0, 0.0, 0.0]


def test_margin_ranking_without_an_informative_pair_is_zero_and_can_be_backpropagated():
    first, second = numbers(1.0, 2.0), numbers(0.0, 0.0)
    loss = losses.margin_ranking(first, second, torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0]), 0.5)
    loss.backward()
    assert loss.item() == 0
    assert first.grad.tolist() == [0.0, 0.0]


def test_regression_is_the_mean_squared_error_of_the_known_values():
    scores = numbers(1.0, 2.0, 9.0)
    loss = losses.regression(scores, torch.tensor([3.0, 1.0, float("nan")]))
    assert loss.item() == pytest.approx((4 + 1) / 2)
    loss.backward()
    assert scores.grad.tolist() == [-2.0, 1.0, 0.0]


def test_losses_of_half_precision_networks_are_float32():
    half = torch.tensor([1.0, -1.0], dtype=torch.bfloat16)
    metrics = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = [
        losses.pixel(half, half, "mse"),
        losses.adversarial_generator(half, half, "relativistic"),
        losses.adversarial_discriminator(half, half, "vanilla"),
        losses.rank_content(half, "sum", 2),
        losses.margin_ranking(half, half, metrics, metrics.flip(0), 0.5),
        losses.regression(half, metrics),
    ]
    assert {loss.dtype for loss in found} == {torch.float32}
