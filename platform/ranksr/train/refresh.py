"""Refresh: a Ranker that goes on learning, from what the generator that it steers makes now.

Frozen, a Ranker is pleased by images that its metric does not like: nothing in its rank dataset looks like them. Here
the generator's images of locations of the rank dataset are scored as the stored methods were, and the Ranker learns
their order too (docs/training.md).
"""

import concurrent.futures
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ranksr import images
from ranksr.config import RankerConfig, Refresh
from ranksr.data.feed import Pair, PairFeed, crop_alike, pair_batch
from ranksr.data.labels import Labels, label_values
from ranksr.data.perturbations import perturb
from ranksr.metrics import made_of
from ranksr.metrics.engine import Judge
from ranksr.models.critics import Ranker
from ranksr.train.ranker import RankerLearner
from ranksr.train.world import World

LEAST_DEVIATION = 1e-3
"""Of scores that are brought to a deviation of 1: a Ranker that gives all images one score keeps it."""


class Made(NamedTuple):
    """The generator's image of a location of the rank dataset, perturbed or not, uint8 HWC RGB, and its label metric,
    lower is better."""

    location: int
    image: np.ndarray
    value: float


class Refresher:
    """Keeps one Ranker up with one generator.

    All is decided by (seed, step): the locations, the pairs, the crops. Images that are begun at one refresh enter the
    pool at the next, while which threads have scored them. Every worker makes a share of the images, and all take the
    same steps of the Ranker on the same batches.
    """

    def __init__(
        self, config: RankerConfig, refresh: Refresh, ranker: nn.Module, labels: Labels, judge: Judge, world: World,
        seed: int,
    ) -> None:  # fmt: skip
        self.config, self.refresh, self.labels, self.judge = config, refresh, labels, judge
        self._world, self._seed = world, seed
        alone = World(device=world.device, compute=world.compute)
        self.learner = RankerLearner(config, labels, [], alone)
        self.learner.ranker.load_state_dict(ranker.state_dict())
        self._stored = PairFeed(labels, seed, config.crop_px)
        self._useful = np.flatnonzero((~np.isnan(labels.values)).any(axis=1))
        self._pool: list[Made] = []
        self._begun: list[tuple[int, np.ndarray]] = []
        self._scores: concurrent.futures.Future[list[float]] | None = None
        self._threads = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="refresh")
        self.seen: dict[str, torch.Tensor] = {}
        """Mean label metric of the images of the last refresh, and the share of their pairs that the Ranker had wrong
        before it learned them."""

    @property
    def ranker(self) -> nn.Module:
        return self.learner.ranker

    def __call__(self, generator: nn.Module, step: int) -> None:
        """Where `step` is one of a refresh, learn from the images that the last one began, and begin the next."""
        if step % self.refresh.every_steps:
            return
        self._collect()
        if self._pool:
            self._learn(step)
        self._begin(generator, step)

    @torch.no_grad()
    def _begin(self, generator: nn.Module, step: int) -> None:
        rng = np.random.default_rng([self._seed, 4, step])
        drawn = rng.choice(self._useful, self.refresh.patches, replace=len(self._useful) < self.refresh.patches)
        own = [(turn, self._make(generator, int(drawn[turn]), step, turn)) for turn in self._share(len(drawn))]
        made = dict(self._world.gather(own))  # all of them on every worker: a checkpoint is the first worker's state
        self._begun = [(int(location), image) for turn, location in enumerate(drawn) for image in made[turn]]
        self._score()

    def _share(self, count: int) -> range:
        """This worker's share of `count` images."""
        return range(self._world.worker_rank, count, self._world.num_workers)

    def _make(self, generator: nn.Module, location: int, step: int, turn: int) -> list[np.ndarray]:
        """The generator's image of a location, and its perturbed copies."""
        hr = images.crop_to_multiple(self.labels.hr(location))
        image = self._upscale(generator, images.downscale(hr))
        rng = np.random.default_rng([self._seed, 7, step, turn])
        return [image, *perturb(image, hr, self.refresh.perturbed, rng)]

    def _upscale(self, generator: nn.Module, lr: np.ndarray) -> np.ndarray:
        return images.to_image(generator.forward(images.to_tensor(lr)[None].to(self._world.device))[0])

    def _score(self) -> None:
        pictures = [self._begun[turn][1] for turn in self._share(len(self._begun))]
        self._scores = self._threads.submit(label_metric, pictures, self.config.metric, self.judge)

    def _collect(self) -> None:
        """Put the scored images into the pool, in the order in which they were drawn."""
        if self._scores is None:
            return
        own = zip(self._share(len(self._begun)), self._scores.result(), strict=True)
        values = dict(self._world.gather(list(own)))
        made = [
            Made(location, image, values[turn])
            for turn, (location, image) in enumerate(self._begun)
            if not np.isnan(values[turn])
        ]
        self._pool = [*self._pool, *made][-self.refresh.pool :]
        self._scores = None
        unchanged = [values[turn] for turn in range(0, len(self._begun), 1 + self.refresh.perturbed)]
        if not np.isnan(unchanged).all():
            self.seen["refresh_metric"] = torch.tensor(np.nanmean(unchanged))

    def _learn(self, step: int) -> None:
        """Steps of the Ranker; half of each batch are pairs with images of the pool, as far as they differ enough."""
        ranker = self.learner.ranker.train().requires_grad_(True)
        training, turns = self.config.train, self.refresh.ranker_steps
        for turn in range(turns):
            rng = np.random.default_rng([self._seed, 5, step, turn])
            drawn = rng.integers(len(self._pool), size=training.batch_size // 2)
            pairs = [pair for at in drawn if (pair := self._pair(self._pool[at], rng))]
            done = training.steps + step // self.refresh.every_steps * turns + turn
            first = done * training.batch_size
            pairs += [self._stored.pair(sample) for sample in range(first, first + training.batch_size - len(pairs))]
            terms = self.learner.update(pair_batch(pairs), 0)  # at its first learning rate: the target moves
            if turn == 0:
                self.seen["refresh_pair_error"] = terms["pair_error"]
        self._level(ranker.requires_grad_(False).eval(), pairs)
        self._world.share(ranker)

    @torch.no_grad()
    def _level(self, ranker: nn.Module, pairs: Sequence[Pair]) -> None:
        """Put the mean score of these images at 0, and their deviation at 1 if so asked: pairs leave the level open,
        and far from 0 the sigmoid of the rank-content loss has no gradient."""
        assert isinstance(ranker, Ranker)
        batch = self._world.move(pair_batch(pairs))
        scores = ranker.forward(torch.cat([batch["first"], batch["second"]]))
        ranker.shift_scores(-scores.mean())
        if self.refresh.standardise:
            ranker.scale_scores(1 / scores.std().clamp(min=LEAST_DEVIATION))

    def _pair(self, made: Made, rng: np.random.Generator) -> Pair | None:
        """An image of the pool and another of its location, stored or, where copies are perturbed, of the pool too;
        None where all are as good as it."""
        values = self.labels.values[made.location]
        stored = np.flatnonzero(abs(values - made.value) > self.config.min_gap)  # False for NaN
        near = [each for each in self._pool if self._differ(made, each)] if self.refresh.perturbed else []
        if not len(stored) + len(near):
            return None
        drawn = int(rng.integers(len(stored) + len(near)))
        if drawn < len(stored):
            other, value = self.labels.patch(made.location, int(stored[drawn])), float(values[stored[drawn]])
        else:
            _, other, value = near[drawn - len(stored)]
        patches = [made.image, images.crop_to_multiple(other)]
        first, second = patches if self.config.crop_px is None else crop_alike(patches, self.config.crop_px, rng)
        return Pair(first, second, made.value, value)

    def _differ(self, one: Made, other: Made) -> bool:
        return one.location == other.location and abs(one.value - other.value) > self.config.min_gap

    def state(self) -> dict[str, Any]:
        """The Ranker, the pool, and the images that are being scored."""
        return {
            "learner": self.learner.state(),
            "pool": [_packed(each) for each in self._pool],
            "begun": [_packed(Made(location, image, 0.0)) for location, image in self._begun],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.learner.restore(state["learner"])
        self._pool = [_unpacked(each) for each in state["pool"]]
        self._begun = [(made.location, made.image) for made in map(_unpacked, state["begun"])]
        if self._begun:
            self._score()


def label_metric(pictures: Sequence[np.ndarray], metric: str, judge: Judge) -> list[float]:
    """Label metric of uint8 HWC RGB images, lower is better; NaN where one has no score."""
    names = made_of(metric)
    scores = judge.score(pictures, names)
    raw = {name: np.array([each[name].value for each in scores], float) for name in names}
    return label_values(metric, raw).tolist()


def _packed(made: Made) -> dict[str, Any]:
    return {"location": made.location, "image": torch.from_numpy(made.image), "value": made.value}


def _unpacked(packed: dict[str, Any]) -> Made:
    return Made(packed["location"], packed["image"].numpy(), packed["value"])
