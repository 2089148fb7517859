"""Seconds until a Ranker's first batch: its rank dataset copied to this node before it, and meanwhile, in turn.

    python benchmarks/first_batch.py [--gb SIZE] [--rounds N] [--json]

Patches of 200 px of scikit-image's photographs as the images of four methods, 240 locations a part, on a local disk.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
from memory import write_part
from training import PHOTOGRAPHS

from ranksr import images, storage
from ranksr.config import load_config
from ranksr.data import local_copy, sources
from ranksr.data.feed import PairFeed
from ranksr.data.growing_copy import GrowingCopy
from ranksr.data.labels import derive_labels

ROOT = pathlib.Path(__file__).resolve().parent.parent
METHODS = ("srresnet", "srgan", "esrgan", "hr")
PATCH_PX, LOCATIONS, PAIRS = 200, 240, 16
BATCHES = 20
"""Drawn after the first, and once all is copied."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1, help="size of the rank dataset")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        size = write(f"{folder}/rank_dataset", args.gb * 1e9)
        rounds = [
            {how: measure(f"{folder}/rank_dataset", how) for how in ("before", "meanwhile")} for _ in range(args.rounds)
        ]
    found = {
        how: {name: statistics.median(each[how][name] for each in rounds) for name in rounds[0][how]}
        for how in rounds[0]
    }
    print(json.dumps({"gb": size / 1e9, **found}) if args.json else as_text(size, found))


def write(folder: str, least_bytes: float) -> int:
    """Parts of random crops until they have so many bytes; how many they have."""
    rng, size, number = np.random.default_rng(0), 0, 0
    photographs = [sources.read_photo(f"skimage:{name}") for name in PHOTOGRAPHS]

    def crop() -> bytes:
        image = photographs[rng.integers(len(photographs))]
        y, x = (rng.integers(side - PATCH_PX + 1) for side in image.shape[:2])
        return images.encode_png(np.ascontiguousarray(image[y : y + PATCH_PX, x : x + PATCH_PX]))

    while size < least_bytes:
        write_part(folder, number, METHODS, [[crop() for _ in METHODS] for _ in range(LOCATIONS)], rng)
        number += 1
        size = sum(size for _, size in storage.list_files(folder))
    return size


def measure(folder: str, how: str) -> dict[str, float]:
    """Seconds until the first batch and the whole copy, of a batch after the first, and of one from the copy."""
    config = load_config(ROOT / "configs" / "demo.yaml", ["ranker.metric=niqe", f"ranker.methods={list(METHODS)}"])
    local_copy.GROWS_FROM_BYTES = 0 if how == "meanwhile" else 2**62
    began = time.perf_counter()
    with contextlib.closing(local_copy.LocalCopy("benchmark", how)) as copy:
        table, patches = copy.read_labelled(folder, "train")
        feed, steps = PairFeed(derive_labels(table, config.ranker, patches), seed=0), iter(range(1 + 2 * BATCHES))

        def batch() -> float:
            began, step = time.perf_counter(), next(steps)
            feed.batch(range(PAIRS * step, PAIRS * (step + 1)))
            return time.perf_counter() - began

        batch()
        first = time.perf_counter() - began
        after = statistics.median(batch() for _ in range(BATCHES))
        whole = first
        if isinstance(patches, GrowingCopy):
            patches.wait()
            whole = time.perf_counter() - began
        copied = statistics.median(batch() for _ in range(BATCHES))
        copy.remove()
    return {"first_batch": first, "copied": whole, "batch_after_it": after, "batch_of_the_copy": copied}


def as_text(size: int, found: dict[str, dict[str, float]]) -> str:
    lines = [f"{size / 1e9:.2f} GB, copied"]
    for how, each in found.items():
        ready = f"first batch of {PAIRS} pairs after {each['first_batch']:5.1f} s, copied after {each['copied']:5.1f} s"
        batches = [1e3 * each[name] for name in ("batch_after_it", "batch_of_the_copy")]
        lines.append(f"{how:9}  {ready}; next batches {batches[0]:.0f} ms, from the copy {batches[1]:.1f} ms")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
