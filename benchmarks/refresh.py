"""Cost of a Ranker that keeps up: steps of SRGAN, RankSRGAN and RankSRGAN with `refresh`, in turn on one core.

    python benchmarks/refresh.py [--patch PX] [--batch N] [--steps N] [--json]

Networks, losses and refresh are those of configs/two_cores.yaml with random features; crops of 296 px as in the paper,
and a rank dataset of bicubic and HR patches of scikit-image's photographs. Times are CPU seconds of this process: the
scoring thread is in them.
"""

import argparse
import json
import pathlib
import statistics
import time

import numpy as np
import pyarrow as pa
import torch

from ranksr import images
from ranksr.config import Config, load_config
from ranksr.data.feed import Batch
from ranksr.data.labels import Labels, MappedPatches
from ranksr.data.sources import read_photo
from ranksr.metrics.engine import Judge
from ranksr.models import build_ranker
from ranksr.train.refresh import Refresher
from ranksr.train.sr import SRLearner
from ranksr.train.steering import Steer, Steering
from ranksr.train.world import World

ROOT = pathlib.Path(__file__).resolve().parent.parent
RANK_PATCH_PX, NUM_LOCATIONS = 200, 8
WARM_UP_STEPS = 10
"""Two refreshes, so that the Ranker learns from the first measured step on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, default=296, help="HR side of the training crop")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each, a multiple of 5")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(
        ROOT / "configs" / "two_cores.yaml",
        ["perceptual.weights=random", "data.sub_image_px=480", f"methods.ranksrgan.hr_patch_px={args.patch}"],
    )
    judge = Judge("pirm", "published", None)
    judge.load()
    learners = {
        "srgan": make_learner(config, judge, "srgan", args.patch, refreshed=False),
        "ranksrgan": make_learner(config, judge, "ranksrgan", args.patch, refreshed=False),
        "refresh": make_learner(config, judge, "ranksrgan", args.patch, refreshed=True),
    }
    batch, seconds = make_batch(args.patch, args.batch), {name: list[float]() for name in learners}
    for step in range(WARM_UP_STEPS + args.steps):
        for name, learner in learners.items():
            begin = time.process_time()
            learner.update(batch, step)
            if step >= WARM_UP_STEPS:
                seconds[name].append(time.process_time() - begin)
    mean = {name: statistics.fmean(each) for name, each in seconds.items()}  # a refresh is in one step of five
    result = {
        "patch": args.patch,
        "batch": args.batch,
        "seconds": mean,
        "ranker_overhead": mean["ranksrgan"] / mean["srgan"],
        "refresh_overhead": mean["refresh"] / mean["srgan"],
    }
    print(json.dumps(result) if args.json else as_text(result, mean))


def make_learner(config: Config, judge: Judge, name: str, patch: int, refreshed: bool) -> SRLearner:
    torch.manual_seed(0)
    method, world, steering = config.methods[name].model_copy(update={"hr_patch_px": patch}), World(), None
    if method.uses_ranker:
        ranker, loss, refresher = build_ranker(config.ranker), config.rank_content_loss, None
        if refreshed:
            assert loss.refresh is not None
            refresher = Refresher(config.ranker, loss.refresh, ranker, make_labels(judge), judge, world, seed=0)
            ranker = refresher.ranker
        steering = Steering({"ranker": Steer(ranker, 0.03, "niqe", refresher)}, loss, world, seed=0)
    return SRLearner(method, config.perceptual, config.discriminator, judge, world, None, steering, [])


def make_labels(judge: Judge) -> Labels:
    """Locations of two photographs by bicubic and HR, with their NIQE."""
    rows, values = [], []
    for name in ("astronaut", "coffee"):
        photo = images.crop_to_multiple(read_photo(f"skimage:{name}"))
        both = images.upscale_bicubic(images.downscale(photo)), photo
        for x in range(0, 200, 200 * 2 // NUM_LOCATIONS):
            patches = [np.ascontiguousarray(each[100 : 100 + RANK_PATCH_PX, x : x + RANK_PATCH_PX]) for each in both]
            rows.append([images.encode_png(patch) for patch in patches])
            values.append([score["niqe"].value for score in judge.score(patches, ["niqe"])])
    places = pa.table({"image_id": [str(number) for number in range(len(rows))]})
    return Labels(("bicubic", "hr"), MappedPatches(pa.chunked_array([rows])), (0, 1), np.array(values), 0.1, places, 1)


def make_batch(patch: int, size: int) -> Batch:
    photo = read_photo("skimage:astronaut")
    crops = [np.ascontiguousarray(photo[40 * n : 40 * n + patch, 60 * n : 60 * n + patch]) for n in range(size)]
    return {
        "hr": torch.stack([images.to_tensor(crop) for crop in crops]),
        "lr": torch.stack([images.to_tensor(images.downscale(crop)) for crop in crops]),
    }


def as_text(result: dict[str, float], seconds: dict[str, float]) -> str:
    lines = [f"batch {result['batch']} of {result['patch']} px, CPU seconds a step of one core"]
    lines += [f"{name:10s} {value:.3f}" for name, value in seconds.items()]
    lines.append(f"over SRGAN: Ranker {result['ranker_overhead']:.2f}x, refreshed {result['refresh_overhead']:.2f}x")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
