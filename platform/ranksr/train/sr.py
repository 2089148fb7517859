"""SRLearner: trains a generator. The weights of the loss terms decide the method."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ranksr import checkpoints, images, losses
from ranksr.config import Discriminator, Method, Perceptual, RankContent
from ranksr.data.feed import Batch
from ranksr.data.score import Judge
from ranksr.models import build_discriminator, build_features, build_generator
from ranksr.train.loop import check_finite, learning_rate, make_adam, set_learning_rate
from ranksr.train.world import World, unwrap


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
        rank_content: RankContent,
        judge: Judge,
        world: World,
        start: dict[str, torch.Tensor] | None,
        ranker: nn.Module | None,
        validation: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        self.method, self.world, self.judge, self.validation = method, world, judge, validation
        self.perceptual, self.rank_content = perceptual, rank_content
        weights = method.weights
        generator = build_generator(method.generator)
        if start is not None:
            generator.load_state_dict(start)
        self.generator = world.wrap(generator)
        self.optimizer = make_adam(self.generator, method.train)
        self.features = build_features(perceptual).to(world.device) if weights.perceptual else None
        self.discriminator, self.discriminator_optimizer, self.ranker = None, None, None
        if weights.adversarial:
            self.discriminator = world.wrap(build_discriminator(discriminator, method.hr_patch_px))
            self.discriminator_optimizer = make_adam(self.discriminator, method.train)
        if weights.rank_content:
            assert ranker is not None
            # The authors' code leaves the frozen Ranker in train mode: batch norm by the statistics of the fakes.
            self.ranker = ranker.to(world.device).train(rank_content.ranker_bn == "batch").requires_grad_(False)

    def update(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """One step of the generator, then one of the discriminator on the same images."""
        lr, hr = (batch[key].to(self.world.device, non_blocking=True) for key in ("lr", "hr"))
        sr = self.generator(lr)
        terms = self._generator_terms(sr, hr)
        check_finite(terms, step)
        _step(self.optimizer, sum(terms.values()), learning_rate(self.method.train, step))
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
            terms["rank_content"] = weights.rank_content * losses.rank_content(
                self.ranker(sr), self.rank_content.reduction, self.world.num_workers
            )
        return terms

    def _update_discriminator(self, sr: torch.Tensor, hr: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        assert self.discriminator is not None
        assert self.discriminator_optimizer is not None
        unwrap(self.discriminator).requires_grad_(True)
        # Real and fake apart, as in the paper's code: batch norm sees each with its own statistics.
        real, fake = self.discriminator(hr), self.discriminator(sr)
        loss = losses.adversarial_discriminator(real, fake, self.method.adversarial)
        check_finite({"discriminator": loss}, step)
        _step(self.discriminator_optimizer, loss, learning_rate(self.method.train, step))
        return {
            "discriminator": loss.detach(),
            "d_real": real.detach().sigmoid().mean(),
            "d_fake": fake.detach().sigmoid().mean(),
        }

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean NIQE and PSNR over the validation sub-images; those without a score are left out of the mean."""
        generator = unwrap(self.generator).eval()
        sums = {"niqe": (0.0, 0), "psnr": (0.0, 0)}
        for lr, hr in self.validation:
            sr = images.to_image(generator(images.to_tensor(lr)[None].to(self.world.device))[0])
            for name, score in self.judge.score([sr], tuple(sums), [hr])[0].items():
                if score.reason is None:
                    sums[name] = (sums[name][0] + score.value, sums[name][1] + 1)
        generator.train()
        return self.world.total(sums)

    def state(self) -> dict[str, Any]:
        state = {"generator": unwrap(self.generator).state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            state["discriminator"] = unwrap(self.discriminator).state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        unwrap(self.generator).load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            unwrap(self.discriminator).load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])

    def save_weights(self, path: str, about: dict[str, Any]) -> None:
        checkpoints.save_generator(path, self.method.generator, unwrap(self.generator).state_dict(), about)


def _step(optimizer: torch.optim.Optimizer, loss: Any, rate: float) -> None:
    set_learning_rate(optimizer, rate)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
