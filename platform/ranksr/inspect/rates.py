"""A short measurement of what a run does, on this machine: steps, images, scores, photographs."""

import dataclasses
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ranksr import SCALE, checkpoints, images, metrics, storage
from ranksr.config import Config, RankerConfig
from ranksr.data import sources
from ranksr.data.feed import Batch
from ranksr.data.labels import Labels, MappedPatches
from ranksr.data.upscale import upscale
from ranksr.metrics.engine import Judge
from ranksr.metrics.ma import features
from ranksr.models import build_generator, build_ranker
from ranksr.stages import patches
from ranksr.stages.rank_dataset import worth_scoring
from ranksr.train.loop import Learner
from ranksr.train.ranker import RankerLearner
from ranksr.train.sr import SRLearner
from ranksr.train.steering import Steer, Steering
from ranksr.train.world import World

SIDE_PX = 384
"""Largest side of the image on which networks and metrics are timed: their time grows with the pixels."""
SMALL_PX = 96
QUICK_SECONDS = 1.5
"""On a CPU a step that would take longer is timed on two crops of SMALL_PX, and counted by its pixels."""
ROUNDS, ENOUGH_SECONDS = 20, 0.5
FITTED_ROWS, FITTED_TREES = 400, 5
TIMED_METRICS = ("niqe", "ma", "psnr", "ssim")


@dataclasses.dataclass(frozen=True)
class Photographs:
    """Means over some photographs of one source."""

    pixels: float
    read_seconds: float
    """To decode a photograph and to make its LR image."""
    sub_images: float
    """Pixels of its HR sub-images."""
    locations: Mapping[str, float]
    """Rank dataset to the locations of a photograph that are detailed enough."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A method or a Ranker."""

    pixel_seconds: float
    """To make a pixel of an SR image, or to score it, without gradients."""
    step_seconds: float = 0.0
    """Of an optimiser step on one worker's share of the batch."""
    checkpoint_bytes: int = 0
    weights_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Rates:
    """Times and sizes of single pieces of work. Images count by HR pixels."""

    where: str
    """Host, and what the networks were on."""
    ready: float
    """This machine's clock when the process began to measure, in seconds since 1970."""
    photographs: Mapping[str, Photographs]
    """By source."""
    networks: Mapping[str, Network]
    png_seconds: float
    """To encode a pixel as PNG."""
    png_bytes: float
    """Of that pixel."""
    metric_seconds: Mapping[str, float]
    """Metric to its time a pixel; without those that nobody has timed."""
    fit_seconds: float
    """To grow a tree of Ma's forests for FITTED_ROWS rows; 0 where none is fitted."""


def measure(config: Config, sampled: Mapping[str, Sequence[str]], used: Sequence[str], scores: Sequence[str]) -> Rates:
    """Time each kind of work of a config, once it is warm, for some tenths of a second.

    `sampled`: source to paths of some of its photographs, that of training first; `used`: networks that make images;
    `scores`: metrics. Weights are random and nothing is downloaded: that changes no time.
    """
    ready, compute = time.time(), config.compute
    torch.set_num_threads(compute.threads_per_worker)
    gpu = torch.cuda.is_available() and compute.gpus_per_worker > 0
    # torch.compile would take a minute for each training.
    world = World(device="cuda" if gpu else "cpu", compute=compute.model_copy(update={"compile": False}))
    world.tune()
    upscaler = "cuda" if torch.cuda.is_available() and compute.gpus_per_upscaler else "cpu"
    photographs, image = dict[str, Photographs](), np.zeros((0, 0, 3), np.uint8)
    for source, paths in sampled.items():
        photographs[source], seen = _photographs(config, source, paths)
        image = image if image.size else np.ascontiguousarray(seen[:SIDE_PX, :SIDE_PX])
    lr, pixels = images.downscale(image), image.shape[0] * image.shape[1]

    def each_pixel(work: Callable[[], object]) -> float:
        return _seconds(work) / pixels

    def by_network(name: str) -> float:
        made = config.generator_of(name)
        weights = config.external.get(name, "")
        network = build_generator(made) if made else checkpoints.load_generator(storage.absolute(weights))
        network.eval().to(upscaler)
        return each_pixel(lambda: upscale(network, lr, upscaler))

    networks = {name: Network(by_network(name)) for name in used}
    for name in config.methods:
        networks[name] = _trained(config, name, world, by_network(name))
    for name, ranker in config.rankers.items():
        scoring, tensor = build_ranker(ranker).eval().to(world.device), images.to_tensor(image)[None].to(world.device)
        with torch.no_grad():
            pixel = each_pixel(lambda: scoring.forward(tensor).item())  # noqa: B023  # called at once
        networks[name] = _trained(config, name, world, pixel)
    judge, gray = Judge(config.scoring.profile, "published", None), metrics.to_gray(image, config.scoring.profile)
    metric_seconds = {
        name: each_pixel(
            (lambda: features.ma_features(gray)) if name == "ma" else lambda: judge.score([image], [name], [image])  # noqa: B023
        )
        for name in scores
        if name in TIMED_METRICS
    }
    return Rates(
        where=f"{platform.node()} ({torch.cuda.get_device_name() if gpu or upscaler == 'cuda' else 'CPU'})",
        ready=ready,
        photographs=photographs,
        networks=networks,
        png_seconds=each_pixel(lambda: images.encode_png(image)),
        png_bytes=len(images.encode_png(image)) / pixels,
        metric_seconds=metric_seconds,
        fit_seconds=_grow_a_tree() if config.scoring.ma_model == "fit" else 0.0,
    )


def sr_learner(config: Config, name: str, world: World, hr_patch_px: int) -> SRLearner:
    """The learner of a method without data, steered by untrained Rankers that do not keep up."""
    method = config.methods[name].model_copy(update={"hr_patch_px": hr_patch_px})
    judge = Judge(config.scoring.profile, "published", None)
    rankers = {each: (config.rankers[each], weight) for each, weight in config.steered_by(name).items()}
    steers = {each: Steer(build_ranker(ranker), weight, ranker.metric) for each, (ranker, weight) in rankers.items()}
    steering = Steering(steers, config.rank_content_loss, world, 0) if steers else None
    perceptual = config.perceptual.model_copy(update={"weights": "random"})
    return SRLearner(method, perceptual, config.discriminator, judge, world, None, steering, [])


def _no_labels(ranker: RankerConfig) -> Labels:
    patches = MappedPatches(pa.chunked_array([], pa.list_(pa.binary())))
    return Labels(ranker.methods, patches, (), np.zeros((0, 0)), 0, pa.table({}), 0)


def _photographs(config: Config, source: str, paths: Sequence[str]) -> tuple[Photographs, np.ndarray]:
    """What the photographs of a source are like, and the last of them."""
    read_seconds, pixels, sub_images, locations = 0.0, 0, 0, dict.fromkeys(config.rank_datasets, 0)
    for path in paths:
        begun = time.perf_counter()
        hr = images.crop_to_multiple(sources.read_photo(path))
        images.downscale(hr)
        read_seconds += time.perf_counter() - begun
        pixels += hr.shape[0] * hr.shape[1]
        height, width, corners = patches.sub_images(hr.shape, config.data.sub_image_px, config.data.sub_image_stride_px)
        sub_images += len(corners) * height * width
        for name, rules in config.rank_datasets.items():
            if (rules.hr or config.data.hr) == source:
                locations[name] += len(worth_scoring(images.luma(hr), rules)[0])  # but for `gap`, by scores
    count = len(paths)
    means = {name: total / count for name, total in locations.items()}
    return Photographs(pixels / count, read_seconds / count, sub_images / count, means), hr


def _trained(config: Config, name: str, world: World, pixel_seconds: float) -> Network:
    """A training: its steps on a worker's share of the batch, and the sizes of its files."""
    of_ranker = name in config.rankers
    if of_ranker:
        ranker = config.rankers[name]
        training, px = ranker.train, ranker.crop_px or config.rank_datasets[config.learns_from(name)].patch_px
    else:
        training, px = config.methods[name].train, config.methods[name].hr_patch_px
    share, small = -(-training.batch_size // config.compute.num_workers), min(px, SMALL_PX)

    def learner_of(side: int) -> Any:
        if of_ranker:
            return RankerLearner(ranker, _no_labels(ranker), [], world)
        return sr_learner(config, name, world, side)

    def seconds(learner: Learner, count: int, side: int) -> float:
        batch = _batch(of_ranker, count, side)
        return _seconds(lambda: learner.update(batch, 0))

    whole = learner_of(px)
    optimizers = [whole.optimizer, getattr(whole, "discriminator_optimizer", None)]
    trained = [group["params"] for each in optimizers if each is not None for group in each.param_groups]
    checkpoint_bytes = _bytes(whole.state()) + 2 * _bytes(trained)  # with Adam's moments, which come with a step
    few = min(2, share)  # one alone has no batch statistics
    step = seconds(learner_of(small), few, small) * share / few * (px / small) ** 2 if world.device == "cpu" else 0.0
    if step < QUICK_SECONDS:
        step = seconds(whole, share, px)
    network = whole.ranker if of_ranker else whole.exported
    return Network(pixel_seconds, step, checkpoint_bytes, _bytes(network.state_dict()))


def _batch(of_ranker: bool, count: int, side: int) -> Batch:
    def image(px: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, px, px), dtype=torch.uint8)

    if not of_ranker:
        return {"lr": image(side // SCALE), "hr": image(side)}
    values = torch.arange(count, dtype=torch.float32)
    return {"first": image(side), "second": image(side), "metric_first": values, "metric_second": values + 1}


def _grow_a_tree() -> float:
    import sklearn.ensemble  # a second of import, for those alone that fit a model

    rng = np.random.default_rng(0)
    seconds = 0.0
    for columns in features.NUM_FEATURES:
        forest = sklearn.ensemble.RandomForestRegressor(FITTED_TREES, max_features=1 / 3, min_samples_leaf=5, n_jobs=1)
        rows, opinions = rng.random((FITTED_ROWS, columns)), rng.random(FITTED_ROWS)
        seconds += _seconds(lambda: forest.fit(rows, opinions)) / FITTED_TREES  # noqa: B023
    return seconds


def _bytes(state: Any) -> int:
    """Bytes of the tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    below = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(_bytes, below))


def _seconds(work: Callable[[], object]) -> float:
    """The mean of some times after one that warms up: on a busy machine waiting counts."""
    work()
    begun, rounds, seconds = time.perf_counter(), 0, 0.0
    while rounds < ROUNDS and seconds < ENOUGH_SECONDS:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        rounds, seconds = rounds + 1, time.perf_counter() - begun
    return seconds / rounds
