"""RankerLearner: trains the Siamese Ranker to order the methods of a location as the label metric does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ranksr import checkpoints, images, losses, metrics
from ranksr.config import RankerConfig
from ranksr.data.feed import Batch
from ranksr.data.labels import Labels
from ranksr.models import build_ranker
from ranksr.train.loop import (
    check_finite,
    gradient_norm,
    learning_rate,
    make_adam,
    restore_adam,
    set_learning_rate,
)
from ranksr.train.world import World, unwrap


class RankerLearner:
    """`config.target` decides what is learned: the order (rank), the score (regression) or the method's level.

    `labels`: the validation split; `locations`: those of its locations that this worker validates on.
    """

    def __init__(self, config: RankerConfig, labels: Labels, locations: Sequence[int], world: World) -> None:
        self.config, self.labels, self.locations, self.world = config, labels, locations, world
        self.ranker = world.wrap(build_ranker(config))
        self.optimizer = make_adam(self.ranker, config.train, world.compute.fused_adam)

    def update(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        batch = self.world.move(batch)
        # One forward for both branches of the Siamese network: they share weights and batch statistics.
        with self.world.autocast(self.config.train.bf16):
            scores = self.ranker(torch.cat([batch["first"], batch["second"]])).float()
        if self.config.clamp is not None:
            scores = scores.clamp(-self.config.clamp, self.config.clamp)
        first, second = scores.chunk(2)
        if self.config.target == "regression":
            values = torch.cat([batch["metric_first"], batch["metric_second"]])
            terms = {"regression": losses.regression(scores, values)}
        else:
            terms = {
                "margin_ranking": losses.margin_ranking(
                    first, second, batch["metric_first"], batch["metric_second"], self.config.margin
                )
            }
        check_finite(terms, step, self.world)
        set_learning_rate(self.optimizer, learning_rate(self.config.train, step))
        self.optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        self.optimizer.step()
        wrong = (first - second) * (batch["metric_first"] - batch["metric_second"]) <= 0
        return {**{name: term.detach() for name, term in terms.items()}, "pair_error": wrong.float().mean()}

    def observe(self) -> dict[str, torch.Tensor]:
        return {"gradient_norm_ranker": gradient_norm(self.ranker)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """srocc: mean over locations of Spearman's rank correlation of label order and score order (paper 4.1);
        pair_accuracy: over the pairs that carry information; score_distance: E|SR1 - SR2| (Table 5)."""
        ranker = unwrap(self.ranker).eval()
        self.world.share_buffers(ranker)
        sums = {"srocc": [0.0, 0], "pair_accuracy": [0.0, 0], "score_distance": [0.0, 0]}

        def add(name: str, value: float) -> None:
            if not np.isnan(value):
                sums[name][0] += value
                sums[name][1] += 1

        for location in self.locations:
            patches = [self.labels.patch(location, method) for method in range(len(self.labels.methods))]
            stacked = torch.stack([images.to_tensor(patch) for patch in patches]).to(self.world.device)
            scores = ranker.forward(stacked).cpu().numpy()
            values = self.labels.values[location]
            scored = ~np.isnan(values)
            add("srocc", metrics.spearman(values[scored], scores[scored]))
            for first, second in self.labels.pairs(location):
                add("pair_accuracy", float((scores[first] - scores[second]) * (values[first] - values[second]) > 0))
                add("score_distance", float(abs(scores[first] - scores[second])))
        ranker.train()
        return self.world.total({name: (total, count) for name, (total, count) in sums.items()})

    def picture(self) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {"ranker": unwrap(self.ranker).state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        unwrap(self.ranker).load_state_dict(state["ranker"])
        restore_adam(self.optimizer, state["optimizer"])

    def save_weights(self, path: str, about: dict[str, Any]) -> None:
        checkpoints.save_ranker(path, self.config, unwrap(self.ranker).state_dict(), about)
