"""SRLearner: trains a generator. The weights of the loss terms decide the method."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ranksr import SCALE, checkpoints, images, losses, metrics
from ranksr.config import Discriminator, Method, Perceptual, RankContentLoss
from ranksr.data.feed import Batch
from ranksr.metrics.engine import Judge
from ranksr.models import build_discriminator, build_features, build_generator
from ranksr.train.loop import (
    check_finite,
    gradient_norm,
    learning_rate,
    make_adam,
    restore_adam,
    set_learning_rate,
    validated_by,
)
from ranksr.train.world import World, unwrap

PICTURE_PX = 192
"""HR side of what TensorBoard shows of a validation image, from its middle."""
MOST_PICTURES = 4
"""Validation images that TensorBoard shows, of those of the first worker."""


class SRLearner:
    """SRResNet, SRGAN, ESRGAN or RankSRGAN, as `method.weights` says. A network whose weight is 0 is not built.

    `start`: generator weights to begin with, or None. `ranker`: a frozen Ranker, needed for a rank-content weight.
    `validation`: this worker's (LR, HR) pairs, uint8 HWC RGB.
    """

    def __init__(
        self,
        method: Method,
        perceptual: Perceptual,
        discriminator: Discriminator,
        rank_content_loss: RankContentLoss,
        judge: Judge,
        world: World,
        start: dict[str, torch.Tensor] | None,
        ranker: nn.Module | None,
        validation: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        self.method, self.world, self.judge, self.validation = method, world, judge, validation
        self.perceptual, self.rank_content_loss = perceptual, rank_content_loss
        generator = build_generator(method.generator)
        if start is not None:
            generator.load_state_dict(start)
        fused = world.compute.fused_adam
        self.average = copy.deepcopy(generator).requires_grad_(False).eval() if method.train.ema_decay else None
        if self.average is not None:
            self.average.to(world.device)
        self.generator = world.wrap(generator)
        self.optimizer = make_adam(self.generator, method.train, fused)
        self.features = world.place(build_features(perceptual)) if method.uses_features else None
        self.discriminator, self.discriminator_optimizer, self.ranker = None, None, None
        if method.uses_discriminator:
            self.discriminator = world.wrap(build_discriminator(discriminator, method.hr_patch_px))
            self.discriminator_optimizer = make_adam(self.discriminator, method.train, fused)
        if method.uses_ranker:
            assert ranker is not None
            # The authors' code leaves the frozen Ranker in train mode: batch norm by the statistics of the fakes.
            self.ranker = world.place(ranker).train(rank_content_loss.ranker_bn == "batch").requires_grad_(False)
        self._ranking_scores: torch.Tensor | None = None

    @property
    def exported(self) -> nn.Module:
        """The generator that is validated and handed on: the moving average where there is one."""
        return unwrap(self.generator) if self.average is None else self.average

    def update(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """One step of the generator, then one of the discriminator on the same images."""
        batch = self.world.move(batch)
        hr = batch["hr"]
        with self.world.autocast(self.method.train.bf16):
            sr = self.generator(batch["lr"]).float()
            terms = self._generator_terms(sr, hr)
        check_finite(terms, step, self.world)
        _step(self.optimizer, sum(terms.values()), learning_rate(self.method.train, step))
        if self.average is not None:
            update_average(self.average, unwrap(self.generator), self.method.train.ema_decay)
        logged = {name: term.detach() for name, term in terms.items()}
        if self.discriminator is not None:
            logged |= self._update_discriminator(sr.detach(), hr, step)
        return logged

    def _generator_terms(self, sr: torch.Tensor, hr: torch.Tensor) -> dict[str, torch.Tensor]:
        weights, terms = self.method.weights, dict[str, torch.Tensor]()
        if weights.pixel:
            terms["pixel"] = weights.pixel * losses.pixel(sr, hr, self.method.pixel_criterion)
        if self.features is not None:
            terms["perceptual"] = weights.perceptual * losses.perceptual(
                self.features, sr, hr, self.perceptual.criterion
            )
        if self.discriminator is not None:
            critic = unwrap(self.discriminator).requires_grad_(False)
            relativistic = self.method.adversarial == "relativistic"
            real = critic(hr).detach() if relativistic else None
            terms["adversarial"] = weights.adversarial * losses.adversarial_generator(
                critic(sr), real, self.method.adversarial
            )
        if self.ranker is not None:
            scores = self.ranker(sr)
            terms["rank_content"] = weights.rank_content * losses.rank_content(
                scores, self.rank_content_loss.reduction, self.world.num_workers
            )
            self._ranking_scores = scores.detach()
        return terms

    def _update_discriminator(self, sr: torch.Tensor, hr: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        assert self.discriminator is not None
        assert self.discriminator_optimizer is not None
        unwrap(self.discriminator).requires_grad_(True)
        # Real and fake apart, as in the paper's code: batch norm sees each with its own statistics.
        with self.world.autocast(self.method.train.bf16):
            real, fake = self.discriminator(hr), self.discriminator(sr)
            loss = losses.adversarial_discriminator(real, fake, self.method.adversarial)
        check_finite({"discriminator": loss}, step, self.world)
        _step(self.discriminator_optimizer, loss, learning_rate(self.method.train, step))
        return {
            "discriminator": loss.detach(),
            "d_real": real.detach().float().sigmoid().mean(),
            "d_fake": fake.detach().float().sigmoid().mean(),
        }

    def observe(self) -> dict[str, torch.Tensor]:
        """Gradient norms of the last update, and the Ranker's mean score of its images."""
        seen = {"gradient_norm_generator": gradient_norm(self.generator)}
        if self.discriminator is not None:
            seen["gradient_norm_discriminator"] = gradient_norm(self.discriminator)
        if self._ranking_scores is not None:
            seen["ranking_score"] = self._ranking_scores.float().mean()
        return seen

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean NIQE, PSNR and, with a Ma model, PI over the validation sub-images; those without a score are left out
        of the mean."""
        names = validated_by(training_of_ranker=False, with_pi=self.judge.ma_model is not None)
        pictures = [self._upscale(lr) for lr, _ in self.validation]
        scores = self.judge.score(pictures, names, [hr for _, hr in self.validation]) if pictures else []
        rows = self.world.gather([{name: score.value for name, score in each.items()} for each in scores])
        return {name: metrics.mean_score(row[name] for row in rows)[0] for name in names}

    def _upscale(self, lr: np.ndarray) -> np.ndarray:
        """The SR image, uint8 HWC RGB; in float32 and not compiled, since sizes vary."""
        generator = self.exported.eval()
        sr = images.to_image(generator.forward(images.to_tensor(lr)[None].to(self.world.device))[0])
        if self.average is None:
            generator.train()
        return sr

    @torch.no_grad()
    def picture(self) -> np.ndarray | None:
        """LR (enlarged without interpolation), bicubic, SR and HR side by side, in a row for each of some validation
        images."""
        if not self.validation:
            return None
        strips = [self._strip(lr, hr) for lr, hr in self.validation[:MOST_PICTURES]]
        width = max(strip.shape[1] for strip in strips)
        return np.concatenate([np.pad(strip, [(0, 0), (0, width - strip.shape[1]), (0, 0)]) for strip in strips])

    def _strip(self, lr: np.ndarray, hr: np.ndarray) -> np.ndarray:
        y, x = (max(0, (side - PICTURE_PX // SCALE) // 2) for side in lr.shape[:2])
        large = lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        strip = [
            image[y * SCALE : y * SCALE + PICTURE_PX, x * SCALE : x * SCALE + PICTURE_PX]
            for image in (large, images.upscale_bicubic(lr), self._upscale(lr), hr)
        ]
        return np.concatenate(strip, axis=1)

    def state(self) -> dict[str, Any]:
        state = {"generator": unwrap(self.generator).state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            state["discriminator"] = unwrap(self.discriminator).state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        unwrap(self.generator).load_state_dict(state["generator"])
        restore_adam(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            unwrap(self.discriminator).load_state_dict(state["discriminator"])
            restore_adam(self.discriminator_optimizer, state["discriminator_optimizer"])

    def save_weights(self, path: str, about: dict[str, Any]) -> None:
        checkpoints.save_generator(path, self.method.generator, self.exported.state_dict(), about)


def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * network, weight by weight. Generators have no other state."""
    lerp = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    lerp(list(average.parameters()), list(network.parameters()), None)


def _step(optimizer: torch.optim.Optimizer, loss: Any, rate: float) -> None:
    set_learning_rate(optimizer, rate)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
