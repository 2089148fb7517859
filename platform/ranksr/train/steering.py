"""Steering: the Rankers that a generator is trained to please, and whether their metrics are pleased too."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ranksr import images, losses, metrics
from ranksr.config import RankContentLoss
from ranksr.train.refresh import Refresher
from ranksr.train.world import World

log = logging.getLogger(__name__)

PHASES = 4
"""Offsets of 0 to 3 px: what a pixel shuffle of x4 makes repeats after them."""
FEWEST_VALIDATIONS = 5
"""Validations after which a Ranker is said to part from its metric."""


@dataclasses.dataclass(frozen=True)
class Steer:
    """One Ranker that steers, frozen or kept up by `refresher`."""

    ranker: nn.Module
    weight: float
    metric: str
    """The metric whose order it has learned, by name."""
    refresher: Refresher | None = None


class Steering:
    """The Rankers of a method, by name; terms and values are named `rank_content` where there is one, else
    `rank_content_NAME` for each."""

    def __init__(self, steers: Mapping[str, Steer], loss: RankContentLoss, world: World, seed: int) -> None:
        self.steers, self.loss, self._world, self._seed = dict(steers), loss, world, seed
        for steer in self.steers.values():
            if steer.refresher is None:
                world.place(steer.ranker)
                for layer in steer.ranker.modules():
                    if isinstance(layer, nn.BatchNorm2d):
                        layer.momentum = 0.0  # validations use its running statistics, also with ranker_bn=batch

            self._freeze(steer.ranker)
        self._scores: dict[str, torch.Tensor] = {}
        self._history: list[dict[str, float]] = []

    def _freeze(self, ranker: nn.Module) -> None:
        # The authors' code leaves the frozen Ranker in train mode: batch norm by the statistics of the fakes.
        ranker.train(self.loss.ranker_bn == "batch").requires_grad_(False)

    def _named(self, value: str, ranker: str) -> str:
        return value if len(self.steers) == 1 else f"{value}_{ranker}"

    def refresh(self, generator: nn.Module, step: int) -> None:
        """Let the Rankers that keep up learn from the generator's present images, where `step` is one of a refresh."""
        for steer in self.steers.values():
            if steer.refresher is not None:
                steer.refresher(generator, step)
                self._freeze(steer.ranker)

    def terms(self, sr: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        """The weighted rank-content losses of a batch (N, 3, H, W), seen from the step's offset on."""
        y, x = self._shift(step)
        found = {}
        for name, steer in self.steers.items():
            scores = steer.ranker(sr[..., y:, x:])
            self._scores[name] = scores.detach()
            found[self._named("rank_content", name)] = steer.weight * losses.rank_content(
                scores, self.loss.reduction, self._world.num_workers
            )
        return found

    def _shift(self, step: int) -> list[int]:
        most = self.loss.shift_px
        return np.random.default_rng([self._seed, 6, step]).integers(most + 1, size=2).tolist() if most else [0, 0]

    def observe(self) -> dict[str, torch.Tensor]:
        """Mean ranking scores of the last batch, and what the last refresh saw."""
        seen = {self._named("ranking_score", name): scores.float().mean() for name, scores in self._scores.items()}
        for name, steer in self.steers.items():
            if steer.refresher is not None:
                seen |= {self._named(value, name): found for value, found in steer.refresher.seen.items()}
        return seen

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the Rankers stand for."""
        return tuple(dict.fromkeys(steer.metric for steer in self.steers.values()))

    @torch.no_grad()
    def score(self, pictures: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """Of each uint8 HWC RGB image, every Ranker's score, and how far its scores part when the image begins 0 to 3
        px further along the diagonal."""
        rows: list[dict[str, float]] = [{} for _ in pictures]
        for name, steer in self.steers.items():
            ranker = steer.ranker.eval()
            for row, picture in zip(rows, pictures, strict=True):
                image = images.to_tensor(picture)[None].to(self._world.device)
                phases = [ranker.forward(image[..., offset:, offset:]).item() for offset in range(PHASES)]
                row[self._named("ranking_score", name)] = phases[0]
                row[self._named("ranking_phase", name)] = max(phases) - min(phases)
            self._freeze(ranker)
        return rows

    def follow(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add the means of a validation; Spearman's correlation of score and metric over all of them by Ranker.

        Warns where they part: the generator then pleases the Ranker and not the metric.
        """
        self._history.append(dict(values))
        found = {}
        for name, steer in self.steers.items():
            scores, judged = (
                np.array([row[key] for row in self._history]) * sign
                for key, sign in ((self._named("ranking_score", name), 1), (steer.metric, _sign(steer.metric)))
            )
            correlation = metrics.spearman(scores, judged)
            found[self._named("ranking_correlation", name)] = correlation
            if len(self._history) >= FEWEST_VALIDATIONS and correlation < 0 and self._world.is_first:
                log.warning(
                    "the Ranker %s and %s part: rank correlation %.2f over %d validations. The generator pleases the "
                    "Ranker alone; lower weights.rank_content, or set rank_content_loss.shift_px and .refresh",
                    *(name, steer.metric, correlation, len(self._history)),
                )
        return found

    def state(self) -> dict[str, Any]:
        refreshers = {name: steer.refresher.state() for name, steer in self.steers.items() if steer.refresher}
        return {"history": self._history, "refreshers": refreshers}

    def restore(self, state: dict[str, Any]) -> None:
        self._history = state["history"]
        for name, kept in state["refreshers"].items():
            refresher = self.steers[name].refresher
            assert refresher is not None
            refresher.restore(kept)
        for steer in self.steers.values():
            self._freeze(steer.ranker)


def _sign(metric: str) -> int:
    return 1 if metrics.metric_info(metric).lower_is_better else -1
