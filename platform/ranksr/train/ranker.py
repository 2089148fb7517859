"""RankerLearner: trains the Siamese Ranker to order the methods of a location as the label metric does."""

from collections.abc import Sequence
from typing import Any

import torch

from ranksr import checkpoints, losses
from ranksr.config import RankerConfig
from ranksr.data.feed import Batch
from ranksr.data.labels import Labels
from ranksr.models import build_ranker
from ranksr.train.held_out import score_locations, summarise
from ranksr.train.loop import (
    RANKER_VALIDATION,
    check_finite,
    gradient_norm,
    learning_rate,
    make_adam,
    restore_adam,
    set_learning_rate,
)
from ranksr.train.pictures import Pictures
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
        torch.stack(list(terms.values())).sum().backward()
        self.optimizer.step()
        wrong = (first - second) * (batch["metric_first"] - batch["metric_second"]) <= 0
        return {**{name: term.detach() for name, term in terms.items()}, "pair_error": wrong.float().mean()}

    def observe(self) -> dict[str, torch.Tensor]:
        return {"gradient_norm_ranker": gradient_norm(self.ranker)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """srocc, pair_accuracy and score_distance of `held_out.summarise`, over the locations of all workers."""
        ranker = unwrap(self.ranker).eval()
        self.world.share_buffers(ranker)
        rows = score_locations(ranker, self.labels, self.locations, self.world)
        ranker.train()
        found = summarise(self.world.gather(rows), self.labels.min_gap)
        return {name: found[name] for name in RANKER_VALIDATION}

    def pictures(self) -> Pictures:
        return {}

    def state(self) -> dict[str, Any]:
        return {"ranker": unwrap(self.ranker).state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        unwrap(self.ranker).load_state_dict(state["ranker"])
        restore_adam(self.optimizer, state["optimizer"])

    def save_weights(self, path: str, about: dict[str, Any]) -> None:
        checkpoints.save_ranker(path, self.config, unwrap(self.ranker).state_dict(), about)
