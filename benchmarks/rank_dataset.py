"""The rank dataset job beside the same functions in a bare loop of two processes, and what each of them costs.

    python benchmarks/rank_dataset.py [--json] [--rounds N] [--hr DIR --external NAME=DIR ...]

Without --hr: 80 crops of photographs in scikit-image's wheel, and three folders of images made of them. Both run on
all of two cores, in turns; `efficiency` is the bare loop's time by the job's, whole, but for the start of Ray itself,
the median of the rounds; `cpu efficiency` is the same of CPU seconds, for machines that others use too. The costs are
those of one core, for a photograph of 2040x1356 px and the paper's grid (296 px, stride 200).
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import pickle
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import psutil
import ray
from scoring import machine, model_of_published_size

from ranksr import SCALE, images, metrics, storage
from ranksr.config import RankDataset, RRDBNet, SRResNet
from ranksr.data import parts, sources, upscale
from ranksr.metrics.engine import Judge
from ranksr.stages import rank_dataset

CORES = 2
PER_PART = 4
RULES = RankDataset(methods=(), patch_px=200, stride_px=40, min_sigma=2)
NUM_PHOTOGRAPHS = 80
CROP = (320, 480)
HEIGHT, WIDTH = 1356, 2040
PATCH_PX, STRIDE_PX = 296, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3, help="of both, in turns")
    parser.add_argument("--hr", metavar="DIR", help="photographs")
    parser.add_argument("--external", metavar="NAME=DIR", nargs="*", default=[], help="images of a method, by name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        judge = make_judge(folder)
        hr, external = args.hr, dict(each.split("=", 1) for each in args.external)
        if hr is None:
            hr, external = make_corpus(folder)
        result = {"machine": machine(), **efficiency(folder, hr, external, judge, args.rounds), "costs": costs(judge)}
    print(json.dumps(result) if args.json else as_text(result))


def make_judge(folder: pathlib.Path) -> Judge:
    """NIQE fitted on the wheel's photographs; Ma by forests of the published size with random content."""
    grays = [metrics.to_gray(sources.read_photo(photo.path)) for photo in wheel()]
    metrics.save_niqe_model(metrics.fit_niqe_model(grays), str(folder / "niqe.npz"))
    metrics.save_ma_model(model_of_published_size(), str(folder / "ma.forest"))
    return Judge("pirm", str(folder / "niqe.npz"), str(folder / "ma.forest"))


def wheel() -> list[sources.Photo]:
    return sources.list_photos("skimage:astronaut,coffee,motorcycle_left,motorcycle_right,rocket")


def make_corpus(folder: pathlib.Path) -> tuple[str, dict[str, str]]:
    """80 crops of the size of BSDS500's photographs, and three folders of worse ones."""
    photographs = [sources.read_photo(photo.path) for photo in wheel()]
    rng = np.random.default_rng(0)
    for name in ("hr", "soft", "noisy", "sharp"):
        (folder / name).mkdir()
    for number in range(NUM_PHOTOGRAPHS):
        whole = photographs[number % len(photographs)]
        y, x = (int(rng.integers(side - size + 1)) for side, size in zip(whole.shape, CROP, strict=False))
        hr = np.ascontiguousarray(whole[y : y + CROP[0], x : x + CROP[1]])
        soft = images.upscale_bicubic(images.downscale(hr))
        noisy = np.clip(soft + rng.normal(0, 6, soft.shape), 0, 255).astype(np.uint8)
        sharp = cv2.addWeighted(soft, 2.5, cv2.GaussianBlur(soft, (0, 0), 2), -1.5, 0)
        for name, image in (("hr", hr), ("soft", soft), ("noisy", noisy), ("sharp", sharp)):
            (folder / name / f"{number:03d}.png").write_bytes(images.encode_png(image))
    return str(folder / "hr"), {name: str(folder / name) for name in ("soft", "noisy", "sharp")}


SCHEMA = rank_dataset.schema(("niqe", "ma"))


@dataclasses.dataclass(frozen=True)
class Job:
    """What both runs do, in the words of the product."""

    photos: list[sources.Photo]
    methods: dict[str, str]
    given: dict[str, dict[str, str]]
    judge: Judge

    def locate(self) -> rank_dataset.Locate:
        names = tuple(self.methods)
        return rank_dataset.Locate(names, ("niqe", "ma"), RULES, self.judge, {})

    def described(self) -> list[parts.PartPhoto]:
        return parts.describe(self.photos, self.given)


def efficiency(folder: pathlib.Path, hr: str, external: dict[str, str], judge: Judge, rounds: int) -> dict[str, Any]:
    """Patches a second of both and their ratio, medians of rounds. Their files are the same."""
    photos = sources.list_photos(hr)
    given = {
        name: sources.match_images(name, path, photos, most_missing=len(photos)) for name, path in external.items()
    }
    job = Job(photos, {**dict.fromkeys(given, "given"), "hr": "hr"}, given, judge)
    took: dict[str, list[Took]] = {"ray": [], "bare": []}
    for number in range(rounds):
        both = [("ray", by_ray), ("bare", by_bare_loop)]
        for name, run in reversed(both) if number % 2 else both:
            shutil.rmtree(folder / name, ignore_errors=True)
            took[name].append(run(job, str(folder / name)))
            print(f"round {number}, {name}: {took[name][-1]}", file=sys.stderr, flush=True)
        made, wanted = ({path.name: path.read_bytes() for path in (folder / name).iterdir()} for name in took)
        assert made == wanted
    patches = storage.read_table(str(folder / "bare"), ["image_id"]).num_rows * len(job.methods)
    ratios = [bare.seconds / ours.seconds for ours, bare in zip(*took.values(), strict=True)]
    return {
        "images": len(photos),
        "patches": patches,
        "ray_patches_per_second": patches / np.median([each.seconds for each in took["ray"]]),
        "bare_patches_per_second": patches / np.median([each.seconds for each in took["bare"]]),
        "efficiency": float(np.median(ratios)),
        "least_efficiency": min(ratios),
        "most_efficiency": max(ratios),
        "cpu_efficiency": float(np.median([bare.cpu / ours.cpu for ours, bare in zip(*took.values(), strict=True)])),
    }


@dataclasses.dataclass(frozen=True)
class Took:
    seconds: float
    cpu: float
    """CPU seconds of this process and all that it started."""


def timed(work: Callable[[], None]) -> Took:
    """Processes come and go: their times are read twice a second."""
    seen: dict[tuple[int, float], float] = {}
    done = threading.Event()

    def look() -> None:
        own = psutil.Process()
        while not done.wait(0.5):
            for process in [own, *own.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    seen[process.pid, process.create_time()] = times.user + times.system

    watch = threading.Thread(target=look)
    watch.start()
    time.sleep(1)
    before = sum(seen.values())
    began = time.monotonic()
    work()
    seconds = time.monotonic() - began
    time.sleep(1)
    done.set()
    watch.join()
    return Took(seconds, sum(seen.values()) - before)


def by_ray(job: Job, folder: str) -> Took:
    def work() -> None:
        loaded = upscale.Upscalers(None, 0).of(job.methods, RULES.patch_px)
        parts.run_job(parts.Job("ray", folder, SCHEMA, job.locate(), PER_PART, loaded), job.described())

    os.environ.update(RAY_worker_niceness="0")  # as the bare loop; Ray's 15 counts where others use the machine too
    ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.get(ray.remote(lambda: None).remote())
    try:
        return timed(work)
    finally:
        ray.shutdown()


def by_bare_loop(job: Job, folder: str) -> Took:
    def work() -> None:
        todo = parts.plan(job.described(), PER_PART).values()
        with multiprocessing.get_context("spawn").Pool(CORES, _start, (job, folder)) as pool:
            for _ in pool.imap_unordered(_work, todo):
                pass

    return timed(work)


WORKER: dict[str, Any] = {}
"""What a process of the bare loop keeps between parts."""


def _start(job: Job, folder: str) -> None:
    WORKER["upscale"] = upscale.Upscaler(job.methods, RULES.patch_px, 0)
    WORKER["locate"], WORKER["folder"] = job.locate(), folder


def _work(part: parts.Part) -> None:
    parts.write_part(WORKER["folder"], SCHEMA, part, WORKER["locate"](WORKER["upscale"](part)))


def milliseconds(work: Callable[[], Any], calls: int, per_call: int = 1) -> float:
    """CPU time, of all threads, of one of `per_call` things: the least of several calls."""
    work()
    took = []
    for _ in range(calls):
        began = time.process_time()
        work()
        took.append(1000 * (time.process_time() - began) / per_call)
    return min(took)


def costs(judge: Judge) -> dict[str, float]:
    """Core-milliseconds and bytes, of a photograph of 2040x1356 px or of a patch of 296x296 px."""
    import torch

    from ranksr.models import build_generator

    torch.set_num_threads(1)
    hr = cv2.resize(sources.read_photo("skimage:coffee"), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 4, hr.shape)  # an enlarged photograph alone would be too easy to pack
    hr = np.clip(hr + grain, 0, 255).astype(np.uint8)
    png = images.encode_png(hr)
    rows, columns = (images.starts(side, PATCH_PX, STRIDE_PX, reach_border=False) for side in (HEIGHT, WIDTH))
    patches = [np.ascontiguousarray(hr[y : y + PATCH_PX, x : x + PATCH_PX]) for y in rows for x in columns]
    models = metrics.load_models(judge.niqe_model, judge.ma_model)
    tile = np.ascontiguousarray(images.downscale(hr)[:96, :128])
    share = HEIGHT * WIDTH / SCALE**2 / (96 * 128)

    def network(config: SRResNet | RRDBNet) -> float:
        generator = build_generator(config).eval()
        return milliseconds(lambda: upscale.upscale(generator, tile), 1) * share

    return {
        "patches_per_image": len(patches),
        "image_decode": milliseconds(lambda: images.decode_photograph(png), 2),
        "image_lr": milliseconds(lambda: images.downscale(hr), 2),
        "image_srresnet": network(SRResNet(arch="srresnet")),
        "image_rrdbnet": network(RRDBNet(arch="rrdbnet")),
        "image_passed_on": milliseconds(lambda: pickle.loads(pickle.dumps(hr, protocol=5)), 5),
        "patch_sigma": milliseconds(lambda: [images.mean_local_sigma(p[:, :, 0]) for p in patches], 2, len(patches)),
        "patch_niqe": milliseconds(lambda: metrics.score_batch(patches, ["niqe"], models), 3, len(patches)),
        "patch_ma": milliseconds(lambda: metrics.score_batch(patches, ["ma"], models), 1, len(patches)),
        "patch_encode": milliseconds(lambda: [images.encode_png(each) for each in patches], 2, len(patches)),
        "patch_bytes": float(np.mean([len(images.encode_png(each)) for each in patches])),
    }


def as_text(result: dict[str, Any]) -> str:
    lines = [f"{result['machine']}, {CORES} cores", ""]
    for name, value in result.items():
        if name not in ("machine", "costs"):
            lines.append(f"{name.replace('_', ' '):28s} {value:10.3g}")
    lines += ["", "one core, a photograph of 2040x1356 px, patches of 296x296 px: milliseconds (bytes)"]
    lines += [f"{name.replace('_', ' '):28s} {value:10.4g}" for name, value in result["costs"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
