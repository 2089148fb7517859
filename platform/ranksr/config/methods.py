"""Sections of `methods`: networks, loss weights, training."""

from typing import Annotated, Literal, Self

import pydantic

from ranksr.config.section import Decay, Fraction, MethodName, NonNegative, PositiveInt, Section, Seed


class Perceptual(Section):
    network: Literal["vgg19", "squeezenet"] = "vgg19"
    """vgg19: conv5_4 before ReLU (paper 3.3); squeezenet: SqueezeNet 1.0, for CPUs and tests."""
    weights: str
    """`published` (torchvision's file, downloaded once), a file or s3 URI in torchvision's format, or `random`."""
    criterion: Literal["mse", "l1"]
    """mse: Eq. 7, mean of squared differences; l1: the authors' code."""


class Discriminator(Section):
    features: PositiveInt = 64
    """Channels of the first convolution; later ones have up to 8 times as many."""
    hidden: PositiveInt = 100
    """Width of the layer before the logit (authors' code: 512*9*9-100-1 at 296 px)."""


class SRResNet(Section):
    arch: Literal["srresnet"]
    """Ledig et al. 2017, without batch normalisation."""
    features: PositiveInt = 64
    """Channels."""
    blocks: PositiveInt = 16
    """Residual blocks."""
    skip: Literal["none", "bilinear"] = "none"
    """bilinear: the network learns what is added to the bilinear image (MSRResNet); none: the paper's."""


class RRDBNet(Section):
    arch: Literal["rrdbnet"]
    """Wang et al. 2018 (ESRGAN)."""
    features: PositiveInt = 64
    """Channels."""
    blocks: PositiveInt = 23
    """Residual-in-residual dense blocks."""
    growth: PositiveInt = 32
    """Channels that each dense layer adds."""


class FSRCNN(Section):
    arch: Literal["fsrcnn"]
    """Dong et al. 2016, on luma; its x4 configuration."""
    features: PositiveInt = 56
    """Channels of the first and last layers (d)."""
    shrink: PositiveInt = 12
    """Channels of the mapping (s)."""
    blocks: PositiveInt = 4
    """Mapping layers (m)."""


Generator = Annotated[SRResNet | RRDBNet | FSRCNN, pydantic.Field(discriminator="arch")]


class Weights(Section):
    """Weights of the loss terms. They decide the method; a network whose weight is 0 is not built."""

    pixel: NonNegative = 0.0
    """Weight of the pixel loss."""
    perceptual: NonNegative = 0.0
    """Weight of the perceptual loss (Eq. 7)."""
    adversarial: NonNegative = 0.0
    """Weight of the adversarial loss (Eq. 8); paper 0.005."""
    rank_content: NonNegative | dict[MethodName, NonNegative] = 0.0
    """Weight of the rank-content loss (Eq. 9), of the only Ranker or by Ranker; paper 0.03."""


class Refresh(Section):
    """The Ranker keeps up: it learns where the metric puts what the generator makes now."""

    every_steps: PositiveInt
    """Steps of the generator from one refresh to the next, while which new images are scored."""
    patches: PositiveInt
    """Locations of the rank dataset, over all workers, of which the generator makes images each time."""
    ranker_steps: PositiveInt
    """Optimiser steps of the Ranker each time, at the first rate of its training; half of each batch are pairs of the
    pool and the rank dataset, half are pairs of the rank dataset."""
    pool: PositiveInt
    """Number of the generator's scored images that are kept, the newest, perturbed ones included."""
    perturbed: Annotated[int, pydantic.Field(ge=0)] = 0
    """Copies of each of these images, a little nearer to the photograph, with grain, sharper or softer in turn, which
    are scored and kept beside it: from pairs of them the Ranker learns which change of what the generator makes now
    its metric likes. 0: none."""
    standardise: bool = False
    """Bring the scores to a mean of 0 and a deviation of 1 after each refresh, where the sigmoid of the loss has a
    gradient for every image; false: to a mean of 0 alone."""


class RankContentLoss(Section):
    reduction: Literal["mean", "sum"]
    """mean: Eq. 9 and 12 for a batch; sum: the authors' code, where 0.03 at batch 8 acts like 0.24."""
    ranker_bn: Literal["running", "batch"]
    """running: the frozen Ranker in eval mode; batch: the authors' code, statistics of the fake batch, by which a
    generator finds a small Ranker harder to fool (docs/results.md)."""
    shift_px: Annotated[int, pydantic.Field(ge=0)] = 0
    """Largest offset, drawn at every step, from which on the Ranker sees the SR images. At 0, the paper's, its strides
    and the generator's pixel shuffle are in phase, and the generator can learn a grid that pleases it."""
    refresh: Refresh | None = None
    """Training of the Ranker on the generator's present images; null: it stays frozen, as in the paper."""


class Training(Section):
    steps: PositiveInt
    """Optimiser steps."""
    batch_size: PositiveInt
    """Over all workers."""
    learning_rate: Annotated[float, pydantic.Field(gt=0)]
    """Rate of Adam at the start."""
    beta1: Decay = 0.9
    """Adam's decay of the first moment."""
    beta2: Decay
    """Adam's decay of the second moment."""
    weight_decay: NonNegative = 0.0
    """Adam's L2 penalty."""
    seed: Seed | None = None
    """Seed of initial weights and drawn samples; null: the run's `seed`, which also splits the photographs."""
    milestones: tuple[PositiveInt, ...] = ()
    """Steps after which the learning rate is multiplied by `gamma`."""
    gamma: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    """Factor on the learning rate at each milestone."""
    ema_decay: Decay = 0.0
    """Decay of the generator's exponential moving average, which is then validated and exported. 0: off."""
    bf16: bool = False
    """bfloat16 autocast of the networks; weights, losses and metrics stay float32. Here and not in `compute`, with
    the other keys of speed, because three digits instead of seven change what is learned."""
    validate_every_steps: PositiveInt
    """The last step is always validated."""
    checkpoint: Literal["last", "best"] = "last"
    """Weights handed to the next stages; best: by `best_metric` on the validation images."""
    best_metric: str | None = None
    """A validation metric, e.g. niqe, psnr, srocc; its direction is known."""

    @pydantic.model_validator(mode="after")
    def _milestones_ascend(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones={list(self.milestones)} do not ascend: give each step once, in order")
        return self

    @pydantic.model_validator(mode="after")
    def _best_has_a_metric(self) -> Self:
        if self.checkpoint == "best" and self.best_metric is None:
            raise ValueError("checkpoint=best needs best_metric: name a validation metric, e.g. best_metric=niqe")
        return self


class Blend(Section):
    """A network whose weights lie between those of two others (network interpolation, Wang et al. 2018)."""

    methods: tuple[str, str]
    """Two methods of one architecture."""
    weight: Fraction = 0.5
    """Share of the second."""


class Method(Section):
    """One way to train a generator: srresnet, srgan, esrgan, ranksrgan ... are values of this type."""

    generator: Generator
    """Architecture and size of the network."""
    start: str | None = None
    """Source of the initial weights: another method of this config, a weights file, or null (He init)."""
    weights: Weights
    """Weights of the loss terms."""
    pixel_criterion: Literal["l1", "mse"] = "l1"
    """Criterion of the pixel loss: mean absolute or mean squared difference."""
    adversarial: Literal["vanilla", "relativistic"] = "vanilla"
    """vanilla: Eq. 5 and 8 (BCE with logits); relativistic: ESRGAN's average discriminator."""
    hr_patch_px: PositiveInt
    """Side of the training crop; paper 4.2: 296 (LR 74)."""
    train: Training
    """Optimiser, steps, validation."""

    @property
    def uses_features(self) -> bool:
        """Whether the perceptual network is built."""
        return self.weights.perceptual > 0

    @property
    def uses_discriminator(self) -> bool:
        return self.weights.adversarial > 0

    @property
    def uses_ranker(self) -> bool:
        """Whether a trained Ranker is an input of the training."""
        weight = self.weights.rank_content
        return any(value > 0 for value in (weight.values() if isinstance(weight, dict) else [weight]))

    @property
    def sections(self) -> list[str]:
        """Sections of the config that decide the training's result, beside the method's own."""
        used = {
            "perceptual": self.uses_features,
            "discriminator": self.uses_discriminator,
            "rank_content_loss": self.uses_ranker,
        }
        return [key for key, is_used in used.items() if is_used]

    @property
    def idle_keys(self) -> list[str]:
        """The method's own keys without effect: forms of a loss term whose weight is 0."""
        used = {"pixel_criterion": self.weights.pixel > 0, "adversarial": self.uses_discriminator}
        return [key for key, is_used in used.items() if not is_used]
