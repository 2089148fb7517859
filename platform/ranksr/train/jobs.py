"""The two kinds of training that a worker can be given: a generator or the Ranker, as frozen values without Ray."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from ranksr import checkpoints, storage
from ranksr.config import Config, Training
from ranksr.config.schema import shown
from ranksr.data.feed import Batch, CropFeed, PairFeed, SubImages
from ranksr.data.labels import derive_labels
from ranksr.data.local_copy import LocalCopy
from ranksr.errors import UserError
from ranksr.metrics import Judge
from ranksr.runs import RANKER_SCORES, WEIGHTS
from ranksr.train import held_out, hparams
from ranksr.train.journal import Place
from ranksr.train.loop import Learner, validated_by
from ranksr.train.pictures import MOST_IMAGES
from ranksr.train.ranker import RankerLearner
from ranksr.train.refresh import Refresher
from ranksr.train.sr import SRLearner
from ranksr.train.steering import Steer, Steering
from ranksr.train.world import World

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SRJob:
    """Trains the generator `method` of a config. Paths are absolute or s3."""

    config: Config
    method: str
    patches: str
    start: str | None
    rankers: Mapping[str, str]
    """Ranker to its weights, of those that steer the method."""
    judge: Judge
    rank_datasets: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Ranker to the folder of its rank dataset, of those that are refreshed."""

    @property
    def training(self) -> Training:
        return self.config.methods[self.method].train

    @property
    def settings(self) -> dict[str, Any]:
        """Dotted keys without the method's own name, so that methods can be compared."""
        chosen = self.config.select(f"methods.{self.method}", "seed")
        return {key.removeprefix(f"methods.{self.method}."): value for key, value in chosen.items()}

    def build(self, world: World, copy: LocalCopy) -> tuple[Learner, Callable[[range], Batch]]:
        """The learner and the feed of one worker."""
        config, method = self.config, self.config.methods[self.method]
        self.judge.load()  # what is wrong with a model is said now, on every worker
        held_out = SubImages(copy.read(self.patches, "val"))
        every = evenly(len(held_out), config.validation.num_patches)
        chosen = every[world.worker_rank :: world.num_workers]
        shown = {every[place] for place in evenly(len(every), MOST_IMAGES)}
        learner = SRLearner(
            method,
            config.perceptual,
            config.discriminator,
            self.judge,
            world,
            start=checkpoints.start_weights(self.start, method.generator) if self.start else None,
            steering=self._steering(world, copy) if self.rankers else None,
            validation=[held_out.pair(index) for index in chosen],
            pictured={place: held_out.name(index) for place, index in enumerate(chosen) if index in shown},
        )
        crops = SubImages(copy.read(self.patches, "train"), method.hr_patch_px)
        self._tell_left_out(crops, world)
        return learner, CropFeed(crops, method.hr_patch_px, seed_of(self)).batch

    def _steering(self, world: World, copy: LocalCopy) -> Steering:
        loss, steers = self.config.rank_content_loss, {}
        for name, weight in self.config.steered_by(self.method).items():
            config, ranker, refresher = self.config.rankers[name], checkpoints.load_ranker(self.rankers[name]), None
            if loss.refresh is not None:
                table, patches = copy.read_labelled(self.rank_datasets[name], "train")
                labels = derive_labels(table, config, patches)
                refresher = Refresher(config, loss.refresh, ranker, labels, self.judge, world, seed_of(self))
                ranker = refresher.ranker
            steers[name] = Steer(ranker, weight, config.metric, refresher)
        return Steering(steers, loss, world, seed_of(self))

    def _tell_left_out(self, crops: SubImages, world: World) -> None:
        """Log the photographs that are too small to crop from. Raises UserError where no other is left."""
        names, key = crops.left_out, f"methods.{self.method}.hr_patch_px"
        size = self.config.methods[self.method].hr_patch_px
        some = f"{', '.join(names[:3])}{', ...' * (len(names) > 3)}"
        if not len(crops):
            raise UserError(
                f"none of the {crops.num_photographs} training photographs has {key}={size} px on both sides ({some}): "
                "lower it, or give larger photographs"
            )
        if names and world.is_first:
            log.warning(
                "%s: %d of %d training photographs are left out, smaller than %s=%d px: %s",
                *(self.method, len(names), crops.num_photographs, key, size, some),
            )

    def conclude(self, learner: Learner, place: Place, world: World) -> dict[str, Any]:
        """Further results of a finished training: none."""
        return {}


@dataclasses.dataclass(frozen=True)
class RankerJob:
    """Trains the Ranker `ranker` of a config on a rank dataset."""

    config: Config
    ranker: str
    rank_dataset: str

    @property
    def training(self) -> Training:
        return self.config.rankers[self.ranker].train

    @property
    def settings(self) -> dict[str, Any]:
        chosen, prefix = self.config.select(f"rankers.{self.ranker}", "seed"), shown(f"rankers.{self.ranker}.")
        return {key.removeprefix(prefix): value for key, value in chosen.items()}

    def build(self, world: World, copy: LocalCopy) -> tuple[Learner, Callable[[range], Batch]]:
        """The learner and the feed of one worker."""
        ranker = self.config.rankers[self.ranker]
        train, held_out = (
            derive_labels(table, ranker, patches)
            for table, patches in (copy.read_labelled(self.rank_dataset, split) for split in ("train", "val"))
        )
        chosen = evenly(len(held_out.values), self.config.validation.num_patches)[
            world.worker_rank :: world.num_workers
        ]
        feed = PairFeed(train, seed_of(self), ranker.crop_px)
        if not len(feed):
            key = shown(f"rankers.{self.ranker}.min_gap")
            raise UserError(
                f"{self.rank_dataset} has no training location whose methods differ on {ranker.metric} by more than "
                f"{key}={ranker.min_gap}: lower it, or min_sigma of the rank dataset, or use more photographs"
            )
        return RankerLearner(ranker, held_out, chosen, world), feed.batch

    def conclude(self, learner: Learner, place: Place, world: World) -> dict[str, Any]:
        """Write ranker_scores.parquet, the exported Ranker on every validation location; its summary."""
        assert isinstance(learner, RankerLearner)
        world.barrier()  # the first worker has written weights.pt
        ranker = checkpoints.load_ranker(storage.join(place.folder, WEIGHTS)).to(world.device)
        own = range(world.worker_rank, len(learner.labels.values), world.num_workers)
        rows = world.gather(held_out.score_locations(ranker, learner.labels, own, world))
        if not world.is_first:
            return {}
        rows.sort(key=lambda row: (row["image_id"], row["y"], row["x"]))
        table = pa.Table.from_pylist(rows, schema=held_out.SCHEMA)
        storage.write_table(storage.join(place.folder, RANKER_SCORES), table)
        return {"every_validation_location": held_out.summarise(rows, self.config.rankers[self.ranker].min_gap)}


def seed_of(job: SRJob | RankerJob) -> int:
    """Seed of the initial weights and of the samples."""
    return job.config.seed if job.training.seed is None else job.training.seed


def experiment(config: Config) -> hparams.Experiment:
    """Keys and metrics of all trainings of a config, known before the first of them starts."""
    judge = Judge(config.scoring.profile, "", config.scoring.ma_model)
    jobs: list[SRJob | RankerJob] = [SRJob(config, name, "", None, {}, judge) for name in config.methods]
    metrics = (*validated_by(False, config.scoring.ma_model is not None), *validated_by(True, False))
    settings = [job.settings for job in (*jobs, *(RankerJob(config, name, "") for name in config.rankers))]
    return hparams.experiment(settings, (f"val/{name}" for name in metrics))


def evenly(size: int, count: int) -> list[int]:
    """At most `count` indices below `size`, evenly spread."""
    return [round(index * size / count) for index in range(count)] if size > count else list(range(size))
