"""SRLearner: trains a generator. The weights of the loss terms decide the method."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ranksr import checkpoints, images, losses, metrics
from ranksr.config import Discriminator, Method, Perceptual
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
from ranksr.train.pictures import Pictures, views
from ranksr.train.steering import Steering
from ranksr.train.world import World, unwrap


class SRLearner:
    """SRResNet, SRGAN, ESRGAN or RankSRGAN, as `method.weights` says. A network whose weight is 0 is not built.

    `start`: generator weights to begin with, or None. `steering`: the Rankers, needed for a rank-content weight.
    `validation`: this worker's (LR, HR) pairs, uint8 HWC RGB. `pictured`: those of them that are shown, place to name.
    """

    def __init__(
        self,
        method: Method,
        perceptual: Perceptual,
        discriminator: Discriminator,
        judge: Judge,
        world: World,
        start: dict[str, torch.Tensor] | None,
        steering: Steering | None,
        validation: Sequence[tuple[np.ndarray, np.ndarray]],
        pictured: Mapping[int, str] | None = None,
    ) -> None:
        self.method, self.world, self.judge, self.validation = method, world, judge, validation
        self.perceptual, self.steering = perceptual, steering
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
        self.discriminator, self.discriminator_optimizer = None, None
        if method.uses_discriminator:
            self.discriminator = world.wrap(build_discriminator(discriminator, method.hr_patch_px))
            self.discriminator_optimizer = make_adam(self.discriminator, method.train, fused)
        self._gradients: dict[str, torch.Tensor] = {}
        self.pictured = pictured or {}
        self._seen: dict[int, np.ndarray] = {}

    @property
    def exported(self) -> nn.Module:
        """The generator that is validated and handed on: the moving average where there is one."""
        return unwrap(self.generator) if self.average is None else self.average

    def update(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """One step of the generator, then one of the discriminator on the same images, by one pass of it on them."""
        batch = self.world.move(batch)
        if self.steering is not None:
            self.steering.refresh(unwrap(self.generator), step)
        with self.world.autocast(self.method.train.bf16):
            sr = self.generator(batch["lr"]).float()
            terms, logits = self._generator_terms(sr, batch["hr"], step)
            against = self._discriminator_terms(logits)
        check_finite(terms | against, step, self.world)
        rate = learning_rate(self.method.train, step)
        _step(self.optimizer, self.generator, sum(terms.values()), rate, keep_graph=bool(against))
        if self.average is not None:
            update_average(self.average, unwrap(self.generator), self.method.train.ema_decay)
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            _step(self.discriminator_optimizer, self.discriminator, against["discriminator"], rate)
        seen = {f"d_{name}": value.detach().float().sigmoid().mean() for name, value in logits.items()}
        return {name: term.detach() for name, term in (terms | against).items()} | seen

    def _generator_terms(
        self, sr: torch.Tensor, hr: torch.Tensor, step: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Weighted terms, and the discriminator's logits of the photographs (`real`) and the SR images (`fake`)."""
        weights, terms, logits = self.method.weights, dict[str, torch.Tensor](), dict[str, torch.Tensor]()
        if weights.pixel:
            terms["pixel"] = weights.pixel * losses.pixel(self._tapped(sr, "pixel"), hr, self.method.pixel_criterion)
        if self.features is not None:
            terms["perceptual"] = weights.perceptual * losses.perceptual(
                self.features, self._tapped(sr, "perceptual"), hr, self.perceptual.criterion
            )
        if self.discriminator is not None:
            # Real and fake apart, as in the paper's code: batch norm sees each with its own statistics. The running
            # ones follow both in turn; nothing reads them.
            logits = {"real": self.discriminator(hr), "fake": self.discriminator(self._tapped(sr, "adversarial"))}
            terms["adversarial"] = weights.adversarial * losses.adversarial_generator(
                logits["fake"], logits["real"], self.method.adversarial
            )
        if self.steering is not None:
            terms |= self.steering.terms(self._tapped(sr, "rank_content"), step)
        return terms, logits

    def _discriminator_terms(self, logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not logits:
            return {}
        return {
            "discriminator": losses.adversarial_discriminator(logits["real"], logits["fake"], self.method.adversarial)
        }

    def _tapped(self, sr: torch.Tensor, term: str) -> torch.Tensor:
        """The SR images as one term sees them: its gradient there is noted for `observe`."""
        seen = sr.view_as(sr)
        seen.register_hook(lambda gradient: self._gradients.update({term: gradient.detach()}))
        return seen

    def observe(self) -> dict[str, torch.Tensor]:
        """Gradient norms of the last update, those of each loss term at the SR images, and what `steering` saw."""
        seen = {"gradient_norm_generator": gradient_norm(self.generator)}
        seen |= {f"gradient_norm_sr_{term}": gradient.float().norm() for term, gradient in self._gradients.items()}
        if self.discriminator is not None:
            seen["gradient_norm_discriminator"] = gradient_norm(self.discriminator)
        return seen | (self.steering.observe() if self.steering else {})

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean NIQE, PSNR and, with a Ma model, PI over the validation sub-images; those without a score are left out
        of the mean. With Rankers, their scores beside the metrics that they stand for."""
        names = validated_by(training_of_ranker=False, with_pi=self.judge.ma_model is not None)
        names = tuple(dict.fromkeys((*names, *(self.steering.metrics if self.steering else ()))))
        pictures = [self._upscale(lr) for lr, _ in self.validation]
        self._seen = {place: pictures[place] for place in self.pictured}
        scores = self.judge.score(pictures, names, [hr for _, hr in self.validation]) if pictures else []
        seen = self.steering.score(pictures) if self.steering else [{} for _ in pictures]
        rows = self.world.gather(
            [
                {name: score.value for name, score in found.items()} | ranked
                for found, ranked in zip(scores, seen, strict=True)
            ]
        )
        values = {name: metrics.mean_score(row[name] for row in rows)[0] for name in (rows[0] if rows else names)}
        return values | (self.steering.follow(values) if self.steering and rows else {})

    def _upscale(self, lr: np.ndarray) -> np.ndarray:
        """The SR image, uint8 HWC RGB; in float32 and not compiled, since sizes vary."""
        generator = self.exported.eval()
        sr = images.to_image(generator.forward(images.to_tensor(lr)[None].to(self.world.device))[0])
        if self.average is None:
            generator.train()
        return sr

    def pictures(self) -> Pictures:
        """The `pictured` images of all workers as the last validation saw them, by name."""
        own = [
            (self.pictured[place], views(lr, sr, hr))
            for place, sr in self._seen.items()
            for lr, hr in [self.validation[place]]
        ]
        return dict(sorted(self.world.gather(own), key=lambda each: each[0]))

    def state(self) -> dict[str, Any]:
        state = {"generator": unwrap(self.generator).state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            state["discriminator"] = unwrap(self.discriminator).state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        return state | ({"steering": self.steering.state()} if self.steering else {})

    def restore(self, state: dict[str, Any]) -> None:
        unwrap(self.generator).load_state_dict(state["generator"])
        restore_adam(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            unwrap(self.discriminator).load_state_dict(state["discriminator"])
            restore_adam(self.discriminator_optimizer, state["discriminator_optimizer"])
        if self.steering is not None:
            self.steering.restore(state["steering"])

    def save_weights(self, path: str, about: dict[str, Any]) -> None:
        checkpoints.save_generator(path, self.method.generator, self.exported.state_dict(), about)


def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * network, weight by weight. Generators have no other state."""
    lerp = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    lerp(list(average.parameters()), list(network.parameters()), None)


def _step(
    optimizer: torch.optim.Optimizer, network: nn.Module, loss: Any, rate: float, keep_graph: bool = False
) -> None:
    """One step of `network` alone, whatever else the loss depends on. `keep_graph`: another backward pass follows."""
    set_learning_rate(optimizer, rate)
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=list(network.parameters()), retain_graph=keep_graph)
    optimizer.step()
