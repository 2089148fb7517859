"""Scoring: ours beside pyiqa, one thread, real 296x296 patches. Prints ms per patch, ratios, accuracy and memory.

Ours and pyiqa take turns; times and ratios are medians of the rounds, so that what else the machine does meets both.

    python benchmarks/scoring.py [--json] [--rounds N] [--niqe-model FILE] [--reference FILE.npz] [--ray]

pyiqa's Ma is timed without its forests (their file is 78 MB to download), ours with forests of the published size:
the ratio is a lower bound. The accuracy against MATLAB needs the published NIQE model and, for the Ma features, a
file with `gray`, `niqe` and `ma_f1` .. `ma_f3` computed by the original code; without them those lines are left out.
"""

import argparse
import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl

from ranksr.errors import UserError
from ranksr.images import decode
from ranksr.metrics.engine import load_models, score_batch
from ranksr.metrics.external import import_pyiqa
from ranksr.metrics.ma.features import NUM_FEATURES, ma_features
from ranksr.metrics.ma.forest import Forest
from ranksr.metrics.ma.model import MaModel, ma_scores, save_ma_model
from ranksr.metrics.niqe import NiqeModel, fit_niqe_model, load_niqe_model, niqe_score, save_niqe_model
from ranksr.metrics.profiles import to_gray

PATCH_PX, NUM_PATCHES = 296, 32
NIQE_CALLS = 4
"""Calls of pyiqa's NIQE in one measurement: one alone is short."""
NUM_TREES, TREE_DEPTH = 2000, 9
CALIBRATION = {
    "I03": 15.7536293917814,
    "I04": 3.65492152353770,
    "I06": 3.23547743716998,
    "I08": 3.18403333858339,
    "I19": 8.63519663862637,
}
"""Official NIQE (MATLAB, rgb2gray, nothing shaved) of the images that pyiqa's wheel installs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=7, help="measured turns of ours and pyiqa")
    parser.add_argument("--niqe-model", metavar="FILE", help="the published niqe_modelparameters.mat, for the accuracy")
    parser.add_argument(
        "--reference", metavar="FILE", help="features and scores of the original code, for the accuracy"
    )
    parser.add_argument("--ray", action="store_true", help="also score 2,000 patches with Ray Data on all cores")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print(worker_memory(*args.memory))
        return
    threadpoolctl.threadpool_limits(1)
    patches = real_patches()
    niqe_model = load_niqe_model(args.niqe_model) if args.niqe_model else fit_niqe_model(map(to_gray, patches))
    result = {
        "machine": machine(),
        "patch": f"{PATCH_PX}x{PATCH_PX}, profile pirm",
        **speed(patches, niqe_model, args.rounds),
    }
    result |= accuracy(niqe_model if args.niqe_model else None, args.reference)
    result |= footprint(niqe_model)
    if args.ray:
        result |= ray_job(patches, niqe_model)
    print(json.dumps(result) if args.json else as_text(result))


def real_patches() -> list[np.ndarray]:
    """Patches of photographs in scikit-image's wheel: uint8 HWC RGB."""
    import skimage.data

    found = []
    for photo in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.cat()):
        for y in np.linspace(0, photo.shape[0] - PATCH_PX, 4).astype(int):
            for x in np.linspace(0, photo.shape[1] - PATCH_PX, 3).astype(int):
                found.append(np.ascontiguousarray(photo[y : y + PATCH_PX, x : x + PATCH_PX]))
    return found[:NUM_PATCHES]


def model_of_published_size(seed: int = 0) -> MaModel:
    """Three forests of 2000 complete trees of 1023 nodes with random content: 67 MB, for timing only."""
    rng = np.random.default_rng(seed)
    nodes = 2 ** (TREE_DEPTH + 1) - 1
    here = np.arange(nodes)
    child = np.tile(np.where(here < 2**TREE_DEPTH - 1, 2 * here + 1, 0).astype(np.uint16), NUM_TREES)
    forests = []
    for columns in NUM_FEATURES:
        feature = rng.integers(0, columns, nodes * NUM_TREES, np.uint8)
        value = rng.uniform(0, 3, nodes * NUM_TREES)
        forests.append(Forest(value, child, feature, np.arange(NUM_TREES + 1) * nodes))
    return MaModel(tuple(forests), np.array([0, 1, 1, 1]) / 3, "random")


class Work(NamedTuple):
    run: Callable[[], Any]
    patches: int
    """Number of patches that one call scores."""


def milliseconds(work: Work) -> float:
    """CPU time per patch of one call."""
    began = time.thread_time()
    work.run()
    return (time.thread_time() - began) * 1000 / work.patches


def speed(patches: list[np.ndarray], niqe_model: NiqeModel, rounds: int) -> dict[str, Any]:
    """ms per patch of both, and the ratios."""
    grays = [to_gray(patch) for patch in patches]
    ma_model = model_of_published_size()
    ours = {
        "niqe": Work(lambda: [niqe_score(gray, niqe_model) for gray in grays], len(grays)),
        "ma": Work(lambda: ma_scores(grays, ma_model), len(grays)),
    }
    theirs = pyiqa_work(grays[0], niqe_model)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in (*ours, "pi")}
    for turn in range(rounds + 1):
        seen = {name: (milliseconds(ours[name]), milliseconds(theirs[name]) if theirs else math.nan) for name in ours}
        seen["pi"] = (seen["niqe"][0] + seen["ma"][0], seen["niqe"][1] + seen["ma"][1])
        for name, pair in seen.items():
            times[name] += [pair] if turn else []  # the first round warms up
    middle = {name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in times.items()}
    result: dict[str, Any] = {"rounds": rounds, "ours_ms": {name: pair[0] for name, pair in middle.items()}}
    if not theirs:
        return {**result, "pyiqa_ms": {}, "ratio": {}, "ratio_range": {}}
    ratios = {name: [their / our for our, their in found] for name, found in times.items()}
    result["pyiqa_ms"] = {name: pair[1] for name, pair in middle.items()}
    result["ratio"] = {name: statistics.median(found) for name, found in ratios.items()}
    return {**result, "ratio_range": {name: (min(found), max(found)) for name, found in ratios.items()}}


def pyiqa_work(gray: np.ndarray, model: NiqeModel) -> dict[str, Work]:
    """pyiqa's NIQE and its Ma features; empty when it is not installed."""
    try:
        import_pyiqa()
    except UserError as error:
        print(error, file=sys.stderr)
        return {}
    import torch
    from pyiqa.archs import niqe_arch, nrqm_arch

    torch.set_num_threads(1)
    image = torch.from_numpy(gray.astype(np.float64))[None, None]
    mean, covariance = torch.from_numpy(model.mean)[None], torch.from_numpy(model.covariance)[None]

    @torch.inference_mode()
    def niqe() -> None:
        for _ in range(NIQE_CALLS):
            niqe_arch.niqe(image, mean, covariance)

    @torch.inference_mode()
    def features() -> None:
        pyramid = nrqm_arch.get_gauss_pyramid(image / 255)
        for plane in pyramid:
            nrqm_arch.block_dct(plane)
            torch.linalg.svd(nrqm_arch.im2col(plane, 5, "distinct"), full_matrices=False)
        nrqm_arch.global_gsm(image)

    return {"niqe": Work(niqe, NIQE_CALLS), "ma": Work(features, 1)}


def accuracy(model: NiqeModel | None, reference: str | None) -> dict[str, Any]:
    """Largest differences from MATLAB."""
    found: dict[str, Any] = {}
    spec = importlib.util.find_spec("pyiqa")
    folder = pathlib.Path(spec.origin).parents[1] / "ResultsCalibra" / "dist_dir" if spec and spec.origin else None
    if model and folder and folder.exists():
        scores = {
            name: niqe_score(to_gray(decode((folder / f"{name}.bmp").read_bytes()), "gray"), model).value
            for name in CALIBRATION
        }
        found["niqe_calibration_error"] = max(abs(scores[name] - CALIBRATION[name]) for name in CALIBRATION)
    if reference:
        stored = np.load(reference)
        features = [ma_features(gray) for gray in stored["gray"]]
        errors = [
            np.abs(np.array([one[kind] for one in features]) / stored[f"ma_f{kind + 1}"] - 1).max() for kind in range(3)
        ]
        found["ma_feature_relative_error"] = float(max(errors))
        if model:
            scores = np.array([niqe_score(gray, model).value for gray in stored["gray"]])
            found["niqe_relative_error"] = float(np.abs(scores / stored["niqe"] - 1).max())
    return found


def footprint(niqe_model: NiqeModel) -> dict[str, Any]:
    """Private memory of a fresh process that scores, beside the mapped model that all share."""
    folder = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / f"ranksr-bench-{os.getpid()}"
    folder.mkdir()
    files = [str(folder / "niqe.npz"), str(folder / "ma.forest")]
    try:
        save_niqe_model(niqe_model, files[0])
        save_ma_model(model_of_published_size(), files[1])
        out = subprocess.run([sys.executable, __file__, "--memory", *files], check=True, capture_output=True, text=True)
        return {"worker_mb": float(out.stdout), "shared_model_mb": pathlib.Path(files[1]).stat().st_size / 1e6}
    finally:
        for file in files:
            pathlib.Path(file).unlink(missing_ok=True)
        folder.rmdir()


def worker_memory(niqe_file: str, ma_file: str) -> float:
    """MB that this process cannot share with others after scoring 64 patches: neither files nor the model."""
    rng = np.random.default_rng(0)
    batch = [rng.integers(0, 256, (PATCH_PX, PATCH_PX, 3), np.uint8) for _ in range(NUM_PATCHES)]
    for _ in range(2):
        score_batch(batch, ["pi"], load_models(niqe_file, ma_file))
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1e3


def ray_job(patches: list[np.ndarray], niqe_model: NiqeModel, count: int = 2000) -> dict[str, Any]:
    """Share of all cores' time that a Ray Data job spends in `score_batch`, with and without starting its actors."""
    import tempfile

    import ray
    import ray.data

    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/niqe.npz", f"{folder}/ma.forest"]
        save_niqe_model(niqe_model, files[0])
        save_ma_model(model_of_published_size(), files[1])

        class Scorer:
            def __init__(self) -> None:
                self.models = load_models(*files)

            def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
                began = time.monotonic()
                scores = score_batch([patches[index % len(patches)] for index in batch["id"]], ["pi"], self.models)
                ended = time.monotonic()
                values = np.array([found["pi"].value for found in scores])
                return {"pi": values, "began": np.full(len(scores), began), "ended": np.full(len(scores), ended)}

        cores = len(os.sched_getaffinity(0))
        # One CPU more than there are: the actors take all cores, and the tasks that feed them must run too.
        ray.init("local", num_cpus=cores + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        data = ray.data.range(count, override_num_blocks=count // 50)
        began = time.monotonic()
        table = data.map_batches(Scorer, batch_size=50, compute=ray.data.ActorPoolStrategy(size=cores)).to_pandas()
        seconds = time.monotonic() - began
        ray.shutdown()
    assert len(table) == count
    batches = table.groupby(["began", "ended"]).size().index.to_frame()
    spent, working = (batches["ended"] - batches["began"]).sum(), batches["ended"].max() - batches["began"].min()
    return {
        "ray_patches": count,
        "ray_seconds": seconds,
        "ray_share_of_all_cores": spent / (seconds * cores),
        "ray_share_once_actors_run": spent / (working * cores),
    }


def machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def as_text(result: dict[str, Any]) -> str:
    lines = [f"{result['machine']}, one thread, {result['patch']}", ""]
    lines += [f"metric   ours ms   pyiqa ms    ratio   (medians of {result['rounds']} rounds, least and most)"]
    for name, ours in result["ours_ms"].items():
        theirs = result["pyiqa_ms"].get(name)
        rest = "  not installed"
        if theirs:
            least, most = result["ratio_range"][name]
            rest = f"{theirs:11.1f} {result['ratio'][name]:7.0f}x   {least:.0f}x to {most:.0f}x"
        lines.append(f"{name:6s} {ours:9.2f}{rest}")
    lines.append("")
    known = ("machine", "patch", "rounds", "ours_ms", "pyiqa_ms", "ratio", "ratio_range")
    lines += [f"{name.replace('_', ' ')}: {value:.3g}" for name, value in result.items() if name not in known]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
