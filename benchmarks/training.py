"""Training: SRGAN beside RankSRGAN, plain float32 eager beside our fast setting. Prints steps/s, memory and ratios.

    python benchmarks/training.py [--json] [--steps N] [--fast channels_last,fused_adam,bf16,compile]

On a CUDA GPU at the paper's setting: batch 8 of 296 px, 16 blocks, VGG19. On a CPU the same networks with batch 2 of
96 px and one thread, timed by CPU time. Photographs are those in scikit-image's wheel, cut into sub-images of 480 px;
weights are random, which costs the same.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ranksr import images
from ranksr.config import Compute, Config, load_config
from ranksr.data.feed import CropFeed, SubImages
from ranksr.data.local_copy import with_raw_pixels
from ranksr.data.prefetch import prefetch
from ranksr.data.sources import read_photo
from ranksr.inspect.rates import sr_learner
from ranksr.train.journal import Pace
from ranksr.train.sr import SRLearner
from ranksr.train.world import World

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTOGRAPHS = ("astronaut", "coffee", "motorcycle_left")
SUB_IMAGE_PX, LOADER_THREADS, PAPER_OVERHEAD = 480, 4, 1.18
SETTINGS = {"cuda": {"batch": 8, "patch": 296, "steps": 50}, "cpu": {"batch": 2, "patch": 96, "steps": 8}}
FAST = {"cuda": "channels_last,fused_adam,bf16,compile", "cpu": "channels_last,fused_adam"}
WARM_UP = {"cuda": 10, "cpu": 2}
FEED_ROUNDS, FEED_STEPS = 5, 20


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--steps", type=int, default=SETTINGS[device]["steps"], help="measured steps of each training")
    parser.add_argument("--fast", default=FAST[device], help="the keys of the fast setting")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "KEYS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(device, args.one[0], as_set(args.one[1]), args.steps)))
        return
    keys = {"eager": "", "fast": args.fast}
    variants = {f"{method}_{name}": (method, keys[name]) for method in ("srgan", "ranksrgan") for name in keys}
    runs = {name: in_own_process(*variant, args.steps) for name, variant in variants.items()}
    times = step_times(device, variants, args.steps)
    for name, run in runs.items():
        run["steps_per_second"] = 1 / statistics.median(times[name])
    result = {"device": device_name(device), **SETTINGS[device], "fast_keys": args.fast, **ratios(times)}
    result |= {"data_wait_fraction": runs["ranksrgan_fast"]["data_wait_fraction"], **feed_cost(), "runs": runs}
    print(json.dumps(result) if args.json else as_text(result))


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU") + ", 1 thread"


def in_own_process(method: str, keys: str, steps: int) -> dict[str, float]:
    """`measure` in a fresh process, whose peak of memory is that of this training alone."""
    command = [sys.executable, __file__, "--one", method, keys, "--steps", str(steps)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(device: str, method: str, keys: set[str], steps: int) -> dict[str, float]:
    """Peak of memory and data wait of one training, fed as in a run."""
    learner, feed = make_learner(device, method, keys)
    batch_size, warm_up = SETTINGS[device]["batch"], WARM_UP[device]

    def make(step: int) -> dict[str, torch.Tensor]:
        return learner.world.pin(feed_batch(feed, batch_size, step))

    pace = Pace(0, learner.method.train, learner.world)
    for step, batch in enumerate(pace.timed(prefetch(make, range(warm_up + steps), LOADER_THREADS))):
        if step == warm_up:
            pace.read(step)
        learner.update(batch, step)
    found = pace.read(warm_up + steps)
    return {"peak_memory_gib": found["memory_gib"], "data_wait_fraction": found["data_wait_fraction"]}


def step_times(device: str, variants: dict[str, tuple[str, str]], steps: int) -> dict[str, list[float]]:
    """Seconds of every step; the trainings take turns, so that what else the machine does meets all of them."""
    trainings = {name: make_learner(device, method, as_set(keys)) for name, (method, keys) in variants.items()}
    batch_size = SETTINGS[device]["batch"]
    times: dict[str, list[float]] = {name: [] for name in variants}
    for step in range(WARM_UP[device] + steps):
        for name, (learner, feed) in trainings.items():
            batch = feed_batch(feed, batch_size, step)
            began = now(device)
            learner.update(batch, step)
            times[name].append(now(device) - began)
    return {name: found[WARM_UP[device] :] for name, found in times.items()}


def as_set(keys: str) -> set[str]:
    return set(filter(None, keys.split(",")))


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time()


def bench_config(device: str, bf16: bool) -> Config:
    """The paper's networks and losses, with random features and no start."""
    changes = [f"{{start: null, hr_patch_px: {SETTINGS[device]['patch']}, train: {{bf16: {str(bf16).lower()}}}}}"]
    methods = [f"methods.{name}={change}" for name in ("srgan", "ranksrgan") for change in changes]
    return load_config(ROOT / "configs" / "paper.yaml", ["perceptual.weights=random", *methods])


def make_learner(device: str, method: str, keys: set[str]) -> tuple[SRLearner, CropFeed]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = bench_config(device, "bf16" in keys)
    world = World(device=device, compute=Compute(**dict.fromkeys(keys - {"bf16"}, True)))
    world.tune()
    patch_px = config.methods[method].hr_patch_px
    return sr_learner(config, method, world, patch_px), CropFeed(sub_images(), patch_px, seed=0)


def sub_images(raw: bool = True) -> SubImages:
    """Sub-images of photographs as the stage `patches` cuts them, mirrored where a photograph is too small; with `raw`
    pixels as a training's own copy holds them."""
    rows = []
    for name in PHOTOGRAPHS:
        photo = read_photo(f"skimage:{name}")
        tall = np.concatenate([photo, photo[::-1]])[:SUB_IMAGE_PX, :SUB_IMAGE_PX]
        row = {"image_id": name, "y": 0, "x": 0, "hr": images.encode_png(tall)}
        rows.append(row | {"lr": images.encode_png(images.downscale(tall))})
    table = pa.Table.from_pylist(rows)
    return SubImages(with_raw_pixels(table) if raw else table)


def feed_cost() -> dict[str, Any]:
    """The feed alone at the paper's setting, of raw pixels and of PNGs in turn: batches a second, the most a training
    could take, and their CPU time; medians of rounds."""
    batch, feeds = SETTINGS["cuda"]["batch"], {}
    for kind in ("raw", "png"):
        feeds[kind] = CropFeed(sub_images(raw=kind == "raw"), SETTINGS["cuda"]["patch"], seed=0)
    wall, cpu = ({kind: list[float]() for kind in feeds} for _ in range(2))
    for _ in range(FEED_ROUNDS):
        for kind, feed in feeds.items():
            make = functools.partial(feed_batch, feed, batch)
            began, used = time.perf_counter(), time.process_time()
            for _ in prefetch(make, range(FEED_STEPS), LOADER_THREADS):
                pass
            wall[kind].append(time.perf_counter() - began)
            cpu[kind].append(time.process_time() - used)
    rates = {kind: FEED_STEPS / statistics.median(each) for kind, each in wall.items()}
    costs = {kind: 1000 * statistics.median(each) / FEED_STEPS for kind, each in cpu.items()}
    return {"feed_steps_per_second": rates, "feed_cpu_ms_per_step": costs, "cores": os.cpu_count() or 1}


def feed_batch(feed: CropFeed, size: int, step: int) -> dict[str, torch.Tensor]:
    return feed.batch(range(step * size, (step + 1) * size))


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians of the ratios of steps that were made one after the other."""

    def over(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    return {
        "ranker_overhead": over("ranksrgan_eager", "srgan_eager"),
        "ranker_overhead_fast": over("ranksrgan_fast", "srgan_fast"),
        "fast_over_eager": over("ranksrgan_eager", "ranksrgan_fast"),
    }


def as_text(result: dict[str, Any]) -> str:
    lines = [f"{result['device']}; batch {result['batch']} of {result['patch']} px; fast: {result['fast_keys']}"]
    lines += [f"{'':18s} {'steps/s':>8s} {'memory GiB':>11s} {'data wait':>10s}"]
    for name, run in result["runs"].items():
        rate, memory = f"{run['steps_per_second']:8.3f}", f"{run['peak_memory_gib']:11.2f}"
        lines.append(f"{name:18s} {rate} {memory} {run['data_wait_fraction']:10.1%}")
    lines.append(f"Ranker's overhead  {result['ranker_overhead']:.2f}x, fast {result['ranker_overhead_fast']:.2f}x")
    lines[-1] += f" (paper: {PAPER_OVERHEAD}x)"
    lines.append(f"fast over eager    {result['fast_over_eager']:.2f}x")
    for kind, rate in result["feed_steps_per_second"].items():
        lines.append(
            f"feed alone, {kind}    {rate:.1f} steps/s of batch 8, 296 px with {LOADER_THREADS} threads on "
            f"{result['cores']} cores; {result['feed_cpu_ms_per_step'][kind]:.1f} ms of one core a step"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
